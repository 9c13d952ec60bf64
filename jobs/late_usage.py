"""The last step of the job `confirm_usage`: what becomes of usage that missed its invoice.

By `DRAWDOWN_LATE_USAGE` it is written off, or made an invoice item that the subscription's next
invoice takes. The item is a call that is noted in the transaction which says of its pieces that it
bills them; the outbox makes it.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

import structlog
from asyncpg import Record

from jobs.runner import Run
from jobs.stripe_outbox import stripe_outbox
from ledger import customers
from meter import late_items, plans, stripe_calls
from meter.late_items import GATHER, PIECES_MAX, LateOwner, LatePiece
from meter.plans import Plan
from meter.report_pieces import EXACT
from meter.service import Service
from meter.stripe_calls import StripeCall
from sql import queries
from sql.pool import Connection

PERIODS_MAX: Final = 100
"""In one transaction."""
ROUNDS_MAX: Final = 50
READ_MAX: Final = 1_000
"""Pieces of a period at a time; the next item is made of the rest."""
FIRST: Final = (0, 0, datetime.fromisoformat("1970-01-01T00:00:00+00:00"))

log = structlog.get_logger()


async def settle_late(run: Run, counts: dict[str, int]) -> None:
    """Decide in bounded rounds what becomes of usage that missed its invoice, and send items."""
    if run.service.config.late_usage == "write_off":
        async with run.transaction() as conn:
            await conn.execute(queries.late_usage_write_off)
        return
    async with run.transaction() as conn:
        ended = await conn.fetch(queries.late_usage_ended)
    if ended:
        log.error("usage_has_no_next_invoice", pieces=len(ended), first=ended[0]["identifier"])
    after, noted = FIRST, 0
    for _ in range(ROUNDS_MAX):
        if run.stopping.is_set():
            return
        async with run.transaction() as conn:
            now = await customers.now(conn)
            rows = await conn.fetch(queries.late_usage_periods, now, GATHER, PERIODS_MAX, *after)
            for row in rows:
                noted += await _note(run.service, conn, row)
        if len(rows) < PERIODS_MAX:
            break
        after = rows[-1]["customer_no"], rows[-1]["item_no"], rows[-1]["period_start"]
    counts["late_items"] = noted
    if noted:
        await stripe_outbox(run)


async def _note(service: Service, conn: Connection, row: Record) -> int:
    """Note the items that the late pieces of one period come to; how many."""
    place = row["customer_no"], row["item_no"], row["period_start"]
    found = await conn.fetch(queries.late_usage_pieces, *place, READ_MAX)
    pieces = [LatePiece(**dict(one)) for one in found]
    plan = None if row["plan"] is None else await plans.version(conn, row["plan"], row["version"])
    item = None if plan is None else plan.billed_by(row["event_name"])
    if plan is None or item is None:
        await conn.execute(queries.late_usage_no_price, *place[:2], *_places(pieces))
        log.error("late_usage_has_no_price", pieces=len(pieces), first=pieces[0].identifier)
        return 0
    scale = service.settings().scales[plan.currency]
    billed: Decimal = await conn.fetchval(queries.late_usage_billed, *place)
    noted = 0
    for start in range(0, len(pieces), PIECES_MAX):
        some = pieces[start : start + PIECES_MAX]
        after = EXACT.add(billed, late_items.sum_of(some))
        amount = late_items.cost(item, after, scale) - late_items.cost(item, billed, scale)
        if amount == 0:
            continue  # it waits for more: what is billed stays as it was
        await _carry(service, conn, row, plan, some, amount)
        billed = after
        noted += 1
    return noted


async def _carry(
    service: Service,
    conn: Connection,
    row: Record,
    plan: Plan,
    pieces: Sequence[LatePiece],
    amount: int,
) -> None:
    """Note the call of one item, and that it bills its pieces."""
    owner = LateOwner(
        installation_id=service.installation_id,
        customer_id=row["customer_id"],
        event_name=row["event_name"],
        meter=row["meter"],
        subscription_id=row["subscription_id"],
        stripe_customer_id=row["stripe_customer_id"],
        currency=plan.currency,
    )
    call = StripeCall(
        name=late_items.call_name(pieces),
        kind="invoice_item",
        params=late_items.params(owner, pieces, amount),
        customer_no=row["customer_no"],
        is_queued=True,
    )
    await stripe_calls.note(conn, call)
    place = row["customer_no"], row["item_no"]
    await conn.execute(queries.late_usage_carry, *place, call.name, *_places(pieces))
    log.info("usage_on_next_invoice", call=call.name, pieces=len(pieces), amount=amount)


def _places(pieces: Sequence[LatePiece]) -> tuple[list[datetime], list[int], list[int]]:
    return [o.window_at for o in pieces], [o.seq for o in pieces], [o.part for o in pieces]
