"""Reads of the books as they are now: what time has done is computed in memory, never posted.

The caller opens one REPEATABLE READ READ ONLY transaction for each call: a read is many statements
of one snapshot. Lists give their items newest first and the position to go on from (None: the end);
one call looks at no more than SCAN_MAX rows, so a page may be short, even empty, and go on.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from ledger.amounts import format_amount
from ledger.answers import GrantAnswer, HoldAnswer, grant_answer, hold_answer
from ledger.decide import decide
from ledger.entities import Debt, Grant, Lot
from ledger.load import DEBTS_MAX, DUE_MAX, Depth, TooMuch, load, load_grants, look
from ledger.overage import billed_in_period, policy_for
from ledger.requests import Policy, Settle, VoidHold
from ledger.rows import read_hold, read_lot
from ledger.settle import account_of
from ledger.state import Account, Books, NeedMore, Settings
from sql import queries
from sql.pool import Connection

ROUNDS_MAX: Final = 50
"""Rounds of STEPS_MAX steps that one read computes of what time has done (about 2 s of work)."""
LOTS_SHOWN: Final = 100
SCAN_MAX: Final = 10_000
"""Rows that a filtered list looks at in one call (about 10 ms)."""
NO_MAX: Final = 2**63 - 1


class UnknownCustomer(LookupError):
    """No customer has this number: an id was made up."""


class Unsettled(Exception):
    """Time has done more to this customer than one read computes; the sweeper is posting it.

    To be answered as 503 `busy`.
    """


class OverageUse(Struct, frozen=True):
    """What the policy of the moment allows beyond the wallet, and how much of it is taken."""

    policy: Policy
    limit: str | None
    used: str
    held: str


class LotOfBalance(Struct, frozen=True):
    """A lot whose credit is in the wallet."""

    id: str
    grant_id: str
    category: str
    remaining: str
    held: str
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    status: str


class BalanceAnswer(Struct, frozen=True, kw_only=True):
    """A balance. At a past moment `available`, `upcoming`, `overage` and `lots` are not kept: null.

    The lots are the first LOTS_SHOWN in burn order; if those are all, they add up to `posted`.
    """

    customer_id: str
    asset: str
    posted: str
    held: str
    available: str | None
    owed: str
    billed: str
    upcoming: str | None
    overage: OverageUse | None
    as_of: datetime
    lots: list[LotOfBalance] | None
    lots_has_more: bool


async def find(conn: Connection, customer_no: int) -> Books:
    """The customer's own row. Raises UnknownCustomer."""
    customers = await look(conn, [customer_no])
    if customer_no not in customers:
        raise UnknownCustomer(customer_no)
    return customers[customer_no]


async def settled(
    conn: Connection,
    customer_no: int,
    settings: Settings,
    *,
    holds: Sequence[int] = (),
    full: bool = False,
) -> tuple[Books, datetime]:
    """One customer's books after what time has done by now, and that now. Nothing is posted.

    `holds` are loaded too, open or not; `full` loads everything open even if nothing is due. If
    not all was loaded, nothing in memory differs from the rows. Raises UnknownCustomer, Unsettled.
    """
    books = await find(conn, customer_no)
    customers = {customer_no: books}
    try:
        loaded = await load(
            conn,
            customers,
            [VoidHold(customer_no=customer_no, hold_no=no) for no in holds],
            settings.scales,
            depths={customer_no: Depth.FULL} if full or books.signup_due else None,
            whole_if_due=True,
        )
    except TooMuch as error:
        raise Unsettled(str(error)) from error
    live = msgspec.structs.replace(settings, closed_through=loaded.closed_through)
    for _ in range(ROUNDS_MAX):
        if _advance(books, live, loaded.now):
            return books, loaded.now
        await _load_more(conn, books, loaded.now)
        await asyncio.sleep(0)  # a round is about 50 ms of work: let others have a turn
    raise Unsettled(f"customer {customer_no} has more than {ROUNDS_MAX} rounds of steps due")


def _advance(books: Books, settings: Settings, now: datetime) -> bool:
    """Do what one request would post first. False if more is due than that."""
    books.settled_at, books.is_unsettled = None, False
    request = Settle(customer_no=books.customer_no)
    try:
        decide({books.customer_no: books}, [request], settings, now)
    except NeedMore:
        return False
    due = books.next_due_at
    return not books.is_unsettled and (due is None or due > now)


async def _load_more(conn: Connection, books: Books, now: datetime) -> None:
    """The next due holds and open debts, which a full load had left out for its limits."""
    no = books.customer_no
    known = list(books.holds)
    rows = await conn.fetch(queries.holds_due_more, no, now, known, DUE_MAX)
    for row in rows:
        hold = read_hold(tuple(row))
        books.holds[hold.hold_no] = hold
    books.is_cut = len(rows) == DUE_MAX
    if books.debts_until is None:
        return
    for debt in [debt for debt in books.debts.values() if debt.open == 0]:
        del books.debts[debt.debt_no]  # paid in memory: only in the way of the next ones
    rows = await conn.fetch(queries.debts_open_more, no, books.debts_until, DEBTS_MAX)
    for row in rows:
        books.debts[row[1]] = Debt(*tuple(row)[1:])
    books.debts_until = rows[-1][1] if len(rows) == DEBTS_MAX else None


async def balance(
    conn: Connection, customer_no: int, asset: str, settings: Settings
) -> BalanceAnswer:
    """What a customer has now. An asset never used: zeros. Raises UnknownCustomer, Unsettled."""
    books, now = await settled(conn, customer_no, settings)
    account = account_of(books, settings, asset)
    lots = await spendable_lots(conn, books, asset, LOTS_SHOWN + 1)

    def plain(amount: int) -> str:
        return format_amount(amount, account.scale)

    return BalanceAnswer(
        customer_id=books.customer_id,
        asset=asset,
        posted=plain(account.wallet),
        held=plain(account.pending),
        available=plain(account.available),
        owed=plain(account.owed),
        billed=plain(account.billed),
        upcoming=plain(account.upcoming),
        overage=overage_use(books, account),
        as_of=now,
        lots=[
            LotOfBalance(
                id=books.public("lot", lot.lot_no),
                grant_id=books.public("grt", lot.grant_no),
                category=lot.category,
                remaining=plain(lot.remaining),
                held=plain(lot.pinned),
                priority=lot.priority,
                effective_at=lot.effective_at,
                expires_at=lot.expires_at,
                status=lot.status(now),
            )
            for lot in lots[:LOTS_SHOWN]
        ],
        lots_has_more=len(lots) > LOTS_SHOWN,
    )


def overage_use(books: Books, account: Account) -> OverageUse:
    """What counts against the limit of the policy of the moment; nothing does under `deny`."""
    policy = policy_for(books, account.asset)
    used, held = {
        "deny": (0, 0),
        "owe": (account.owed, account.uncovered_owe),
        "bill": (billed_in_period(books, account), account.uncovered_bill),
    }[policy]
    limit = None if policy == "deny" else books.limit
    return OverageUse(
        policy,
        None if limit is None else format_amount(limit, account.scale),
        format_amount(used, account.scale),
        format_amount(held, account.scale),
    )


async def spendable_lots(conn: Connection, books: Books, asset: str, count: int) -> list[Lot]:
    """The first `count` lots of settled books whose credit is in the wallet, in burn order."""
    if not books.is_full:
        rows = await conn.fetch(queries.lots_spendable, books.customer_no, asset, count)
        return [read_lot(tuple(row)) for row in rows]
    lots = (
        lot
        for lot in books.lots.values()
        if lot.asset == asset and lot.remaining > 0 and not lot.is_upcoming
    )
    return sorted(lots, key=lambda lot: lot.burn_key)[:count]


# Holds


async def hold(
    conn: Connection, customer_no: int, hold_no: int, settings: Settings
) -> HoldAnswer | None:
    """One hold with the balance of now. None if there is none. Raises Unsettled."""
    try:
        books, _ = await settled(conn, customer_no, settings, holds=[hold_no])
    except UnknownCustomer:
        return None
    found = books.holds.get(hold_no)
    if found is None:
        return None
    account = account_of(books, settings, found.asset)
    return hold_answer(books, found, account.scale, account=account)


async def holds(
    conn: Connection,
    customer_no: int,
    settings: Settings,
    *,
    status: str | None = None,
    after: int | None = None,
    limit: int,
) -> tuple[list[HoldAnswer], int | None]:
    """Holds of a status, or all. Raises UnknownCustomer, Unsettled."""
    numbers, position = await _hold_numbers(conn, customer_no, status, after or NO_MAX, limit)
    books, _ = await settled(conn, customer_no, settings, holds=numbers)
    found = [books.holds[no] for no in numbers]
    return [
        hold_answer(books, hold, settings.scales[hold.asset])
        for hold in found
        if status is None or hold.status == status  # a deadline may have passed in between
    ], position


async def _hold_numbers(
    conn: Connection, customer_no: int, status: str | None, before: int, limit: int
) -> tuple[list[int], int | None]:
    if status is None or status == "open":
        statement = queries.holds_list if status is None else queries.holds_list_open
        rows = await conn.fetch(statement, customer_no, before, limit + 1)
        return page([row[0] for row in rows], limit)
    rows = await conn.fetch(
        queries.holds_list_ended, customer_no, before, limit + 1, status, SCAN_MAX
    )
    numbers, position = page([row[0] for row in rows if row[0] is not None], limit)
    if position is None and rows[0][2] == SCAN_MAX:
        position = rows[0][1]
    return numbers, position


def page(numbers: list[int], limit: int) -> tuple[list[int], int | None]:
    """Of `limit` + 1 numbers asked for: the page, and where the next one goes on."""
    return numbers[:limit], numbers[limit - 1] if len(numbers) > limit else None


# Grants


async def grant(
    conn: Connection, customer_no: int, grant_no: int, settings: Settings
) -> GrantAnswer | None:
    """One grant with the balance of now. None if there is none. Raises Unsettled."""
    try:
        books, now = await settled(conn, customer_no, settings)
    except UnknownCustomer:
        return None
    for found in await _read_grants(conn, books, [grant_no], now):
        account = account_of(books, settings, found.asset)
        return _show_grant(books, found, settings, now, account)
    return None


async def grants(
    conn: Connection,
    customer_no: int,
    settings: Settings,
    *,
    after: int | None = None,
    limit: int,
) -> tuple[list[GrantAnswer], int | None]:
    """Grants. Raises UnknownCustomer, Unsettled."""
    books, now = await settled(conn, customer_no, settings)
    rows = await conn.fetch(queries.grants_list, customer_no, after or NO_MAX, limit + 1)
    numbers, position = page([row[0] for row in rows], limit)
    found = await _read_grants(conn, books, numbers, now)
    return [_show_grant(books, one, settings, now) for one in found], position


async def _read_grants(
    conn: Connection, books: Books, numbers: list[int], now: datetime
) -> list[Grant]:
    no = books.customer_no
    await load_grants(conn, {no: books}, {(no, number) for number in numbers}, now)
    found = [books.grants[number] for number in numbers if number in books.grants]
    return [one for one in found if not one.is_new]


def _show_grant(
    books: Books, found: Grant, settings: Settings, now: datetime, account: Account | None = None
) -> GrantAnswer:
    lots = [lot for lot in books.lots.values() if lot.grant_no == found.grant_no]
    return grant_answer(books, found, lots, settings.scales, now, account=account)
