"""Purchases as they are shown, now."""

from datetime import datetime

import msgspec
from msgspec import UNSET

from ledger import reads
from ledger.load_purchases import PurchaseRef, load_named
from ledger.purchases import PurchaseAnswer, purchase_answer
from ledger.state import Settings
from sql import queries
from sql.pool import Connection


async def purchases(
    conn: Connection, owners: list[PurchaseRef], settings: Settings
) -> list[PurchaseAnswer]:
    """These purchases as time has left them by now, in order; those that are none are left out.

    Raises Unsettled.
    """
    found: dict[PurchaseRef, PurchaseAnswer] = {}
    for customer_no in sorted({owner.customer_no for owner in owners}):
        mine = [owner for owner in owners if owner.customer_no == customer_no]
        try:
            books, _ = await reads.settled(conn, customer_no, settings)
        except reads.UnknownCustomer:
            continue
        await load_named(
            conn, {customer_no: books}, [(customer_no, owner.purchase_no) for owner in mine]
        )
        for owner in mine:
            purchase = books.purchases.get(owner.purchase_no)
            if purchase is not None:
                shown = purchase_answer(books, settings, purchase)
                found[owner] = msgspec.structs.replace(shown, balance=UNSET)
    return [found[owner] for owner in owners if owner in found]


async def listed(
    conn: Connection,
    settings: Settings,
    *,
    customer_no: int | None,
    status: str | None,
    after: tuple[datetime, int, int] | None,
    limit: int,
) -> tuple[list[PurchaseAnswer], tuple[datetime, int, int] | None]:
    """Purchases, newest first, and where the next page goes on. Raises Unsettled."""
    place = (None, None, None) if after is None else after
    rows = await conn.fetch(queries.purchases_list, customer_no, status, *place, limit + 1)
    shown = [PurchaseRef(row[0], row[1]) for row in rows[:limit]]
    more = None
    if len(rows) > limit:
        last = rows[limit - 1]
        more = (last[2], last[0], last[1])
    return await purchases(conn, shown, settings), more
