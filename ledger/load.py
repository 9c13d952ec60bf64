"""Lock and load: from rows to the `Books` that `decide` works on.

Two snapshots: the locks first, then what they protect, with the time read after the locks. Most
requests need the usual part (`books_load`); customers to whom time has done something, and requests
that reach further, are loaded in full.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from enum import IntEnum
from typing import Any, Final

from asyncpg import Record
from msgspec import Struct

from ledger.entities import Debt, Draw, Grant, HoldCharge
from ledger.load_purchases import load_purchases
from ledger.load_revenue import load_unrecognised
from ledger.load_usage import Facts, load_counter_charges, load_usage
from ledger.rated import CounterKey, Pricing
from ledger.requests import (
    Capture,
    Extend,
    Request,
    Reverse,
    VoidGrant,
    VoidHold,
)
from ledger.rows import Row, add_draws, read_charge, read_grant, read_hold, read_lot
from ledger.settle import STEPS_MAX
from ledger.state import Account, Answered, Books
from sql import queries
from sql.columns import array_text, columns
from sql.pool import Connection
from sql.together import as_row

LOTS_FIRST: Final = 1
"""Lots of an asset loaded at first, in burn order: most requests draw on one."""
LOTS_MORE: Final = 250
"""Loaded when the first are not enough, before everything is."""
DEBTS_FIRST: Final = 100
LOTS_MAX: Final = 20_000
"""The most open lots of a customer that one request can work on, if it needs all (about 0.3 s)."""
DEBTS_MAX: Final = STEPS_MAX + 1
DUE_MAX: Final = STEPS_MAX + 1


class TooMuch(Exception):
    """One request would work on more than LOTS_MAX open lots of a customer."""

    def __init__(self, customer_no: int) -> None:
        super().__init__(f"customer {customer_no} has more open lots than one request can use")
        self.customer_no = customer_no


class ScaleChanged(Exception):
    """An asset has another scale than this process knows: read the assets again."""


class Depth(IntEnum):
    """How much of a customer is loaded, beyond the usual part."""

    MORE = 1
    """More lots in burn order."""
    DUE = 2
    """And what time has done, with more of the open debts."""
    FULL = 3
    """And all open lots."""
    LATE = 4
    """And the lots whose credit ran out in the last 35 days."""


class Loaded(Struct, frozen=True):
    """What was read with the books, after the locks."""

    now: datetime
    closed_through: date | None
    dead_keys: frozenset[int]


async def lock(conn: Connection, customer_nos: list[int], *, wait: bool) -> dict[int, Books]:
    """Lock customers in ascending order. Without `wait`, those held by others are left out.

    With `wait`, a lock not had within `lock_timeout` raises DatabaseBusy (through `translate`).
    """
    statement = queries.customers_lock if wait else queries.customers_lock_free
    return _customers(await conn.fetch(statement, array_text(customer_nos)))


async def share(conn: Connection, customer_nos: list[int]) -> dict[int, Books]:
    """The customers' rows FOR SHARE: no write of theirs is under way until the transaction ends."""
    return _customers(await conn.fetch(queries.customers_share, array_text(customer_nos)))


async def look(conn: Connection, customer_nos: list[int]) -> dict[int, Books]:
    """The customers' rows without a lock, for reads in one snapshot."""
    return _customers(await conn.fetch(queries.customers_read, array_text(customer_nos)))


def _customers(rows: Iterable[Record]) -> dict[int, Books]:
    return {
        row[0]: Books(
            customer_no=row[0],
            customer_id=row[1],
            policy=row[2],
            limit=row[3],
            signup_due=row[4],
            closed_at=row[5],
            last_no=row[6],
            last_seq=row[7],
            last_hash=row[8],
            last_created_at=row[9],
            next_due_at=row[10],
            created_at=row[11],
            gated_from=row[12],
            has_own_overage=row[13],
            unbilled_from=row[14],
            billed_before=int(row[15]),
            plan_until=row[16],
        )
        for row in rows
    }


async def load(
    conn: Connection,
    customers: dict[int, Books],
    requests: Sequence[Request],
    scales: dict[str, int],
    *,
    depths: dict[int, Depth] | None = None,
    whole_if_due: bool = False,
    pricing: Pricing | None = None,
    facts: Facts | None = None,
    counters: dict[int, set[CounterKey]] | None = None,
) -> Loaded:
    """Fill locked books with what the requests need; `depths`: customers of which more is needed.

    Of a customer to whom time has done something, that is loaded too; with `whole_if_due` (a read,
    which shows all) everything open is. With `pricing` and `facts`: what the price of usage depends
    on, too; `counters`: of which the charges are needed. Raises TooMuch for more than LOTS_MAX
    open lots, ScaleChanged, CatalogChanged.
    """
    depths = depths or {}
    due = {no for no, depth in depths.items() if depth >= Depth.DUE}
    full = {no for no, depth in depths.items() if depth >= Depth.FULL}
    keys = [(r.customer_no, r.key) for r in requests if r.key is not None]
    holds = {
        (r.customer_no, r.hold_no) for r in requests if isinstance(r, Capture | VoidHold | Extend)
    }
    names = ["books_load"]
    values: list[Any] = [
        array_text(customers),
        array_text(no for no, _ in keys),
        [key for _, key in keys],
        array_text({r.api_key_no for r in requests if r.api_key_no is not None}),
        array_text(LOTS_MORE if no in depths else LOTS_FIRST for no in customers),
        DEBTS_FIRST,
    ]
    if holds:
        names.append("holds_load")
        values += columns(sorted(holds), "ii")
    row = await conn.fetchrow(as_row(*names), *values)
    assert row is not None
    if any(scales.get(asset) != scale for asset, scale in row["scales"]):
        raise ScaleChanged
    now: datetime = row["now"]
    for customer_no, books in customers.items():
        books.is_full = books.has_late = books.has_due = False
        if books.next_due_at is not None and books.next_due_at <= now:
            due.add(customer_no)
            if whole_if_due:
                full.add(customer_no)
    _fill(customers, row, scales, depths)
    if holds:
        _fill_holds(customers, row)
    if due:
        await _load_due(conn, {no: customers[no] for no in due}, now)
    if full:
        late = any(depth is Depth.LATE for depth in depths.values())
        await _load_all_lots(conn, {no: customers[no] for no in full}, now, late=late)
    undone = {(r.customer_no, r.charge_seq) for r in requests if isinstance(r, Reverse)}
    if pricing is not None and facts is not None:
        undone |= await load_usage(
            conn, customers, requests, now, version=pricing.version, facts=facts
        )
        if counters:
            undone |= await load_counter_charges(conn, customers, counters)
    await _load_named(conn, customers, requests, undone, now)
    return Loaded(now, row["closed_through"], frozenset(row["dead_keys"] or ()))


async def _load_named(
    conn: Connection,
    customers: dict[int, Books],
    requests: Sequence[Request],
    undone: set[tuple[int, int]],
    now: datetime,
) -> None:
    """Charges to undo, purchases, grants to void: what single requests are about."""
    if undone:
        await _load_charges(conn, customers, undone)
    if payers := await load_purchases(conn, customers, requests):
        await _load_lots(conn, customers, payers)
    if earning := await load_unrecognised(conn, customers, requests):
        await _load_lots(conn, customers, earning)
    if voids := [r for r in requests if isinstance(r, VoidGrant)]:
        await load_grants(conn, customers, {(r.customer_no, r.grant_no) for r in voids}, now)


def _fill(
    customers: dict[int, Books], row: Record, scales: dict[str, int], depths: dict[int, Depth]
) -> None:
    for customer_no, key, fingerprint, status, body in row["answered"] or ():
        customers[customer_no].answered[key] = Answered(fingerprint, status, body)
    for no, asset, *numbers in row["accounts"] or ():
        wallet, pending, upcoming, owed, billed, owe, bill = map(int, numbers)
        customers[no].accounts[asset] = Account(
            asset=asset,
            scale=scales[asset],
            wallet=wallet,
            pending=pending,
            upcoming=upcoming,
            owed=owed,
            billed=billed,
            uncovered_owe=owe,
            uncovered_bill=bill,
            pending_before=pending,
            uncovered_owe_before=owe,
            uncovered_bill_before=bill,
        )
    for lot_row in row["lots"] or ():
        books, lot = customers[lot_row[0]], read_lot(lot_row)
        books.keep_lot(lot)
        line = books.order[lot.asset]
        if len(line) == (LOTS_MORE if books.customer_no in depths else LOTS_FIRST):
            books.horizon[lot.asset] = line[-1][0]
    counts: dict[tuple[int, str], int] = {}
    for debt_row in row["debts"] or ():
        _keep_debt(customers[debt_row[0]], debt_row)
        place = debt_row[0], debt_row[2]
        counts[place] = counts.get(place, 0) + 1
        if counts[place] == DEBTS_FIRST:
            customers[debt_row[0]].debts_until = debt_row[1]


def _fill_holds(customers: dict[int, Books], row: Record) -> None:
    for hold_row in row["holds"] or ():
        hold = read_hold(hold_row)
        customers[hold_row[0]].holds[hold.hold_no] = hold
    for lot_row in row["pinned_lots"] or ():
        customers[lot_row[0]].keep_lot(read_lot(lot_row))
    for customer_no, hold_no, seq, amount, created_at in row["hold_charges"] or ():
        hold = customers[customer_no].holds[hold_no]
        if hold.charges is None:
            hold.charges = []
        hold.charges.append(HoldCharge(seq, amount, created_at))


async def _load_due(conn: Connection, customers: dict[int, Books], now: datetime) -> None:
    """What time has done to these customers by now, and when it does more."""
    row = await conn.fetchrow(queries.books_load_due, list(customers), now, DUE_MAX, DEBTS_MAX)
    assert row is not None
    for customer_no, later in row["later"]:
        books = customers[customer_no]
        books.has_due, books.later_due_at = True, later
        books.debts_until = None
    for part in ("pinned_lots", "ending_lots", "starting_lots"):
        for lot_row in row[part] or ():
            customers[lot_row[0]].keep_lot(read_lot(lot_row))
    for series_row in row["series"] or ():
        _keep_grant(customers[series_row[0]], series_row)
    for hold_row in row["holds"] or ():
        customers[hold_row[0]].holds.setdefault(hold_row[1], read_hold(hold_row))
    for part in ("holds", "pinned_lots", "ending_lots", "starting_lots"):
        for customer_no in _at_limit(row[part] or (), DUE_MAX):
            customers[customer_no].is_cut = True
    for debt_row in row["debts"] or ():
        _keep_debt(customers[debt_row[0]], debt_row)
    for customer_no, last in _at_limit(row["debts"] or (), DEBTS_MAX).items():
        customers[customer_no].debts_until = last[1]


def _at_limit(rows: Sequence[Row], limit: int) -> dict[int, Row]:
    """The customers (first column) with so many rows that there may be more, and that row."""
    counts: dict[int, int] = {}
    found: dict[int, Row] = {}
    for row in rows:
        count = counts[row[0]] = counts.get(row[0], 0) + 1
        if count == limit:
            found[row[0]] = row
    return found


async def _load_all_lots(
    conn: Connection, customers: dict[int, Books], now: datetime, *, late: bool
) -> None:
    """Every open lot; with `late` also those whose credit ran out lately. Raises TooMuch."""
    counts = dict.fromkeys(customers, 0)
    for row in await conn.fetch(queries.lots_load_open, list(customers), LOTS_MAX):
        customers[row[0]].keep_lot(read_lot(row))
        counts[row[0]] += 1
        if counts[row[0]] == LOTS_MAX:
            raise TooMuch(row[0])
    if late:
        expired = await conn.fetch(queries.lots_load_expired, list(customers), now, LOTS_MAX)
        if len(expired) == LOTS_MAX:
            raise TooMuch(expired[-1][0])
        for row in expired:
            customers[row[0]].keep_lot(read_lot(row))
    for books in customers.values():
        books.is_full, books.has_late = True, late
        books.horizon.clear()


async def _load_charges(
    conn: Connection, customers: dict[int, Books], wanted: set[tuple[int, int]]
) -> None:
    row = await conn.fetchrow(
        queries.charges_load, [no for no, _ in wanted], [seq for _, seq in wanted]
    )
    assert row is not None
    for charge_row in row["charges"] or ():
        charge = read_charge(charge_row)
        customers[charge_row[0]].charges[charge.seq] = charge
    draws: dict[int, list[Row]] = {}
    for draw in row["draws"] or ():
        draws.setdefault(draw[0], []).append(draw)
    for customer_no, rows in draws.items():
        add_draws(customers[customer_no].charges, rows)
    for debt_row in row["debts"] or ():
        books = customers[debt_row[0]]
        _keep_debt(books, debt_row)
        books.charges[debt_row[3]].debt_no = debt_row[1]
    payments: list[tuple[int, ...]] = sorted(row["payments"] or [])
    for customer_no, seq, _, _, lot_no, amount in payments:
        charge = customers[customer_no].charges[seq]
        charge.payments = [*(charge.payments or []), Draw(lot_no, amount)]
    await _load_lots(
        conn,
        customers,
        {
            (no, draw.lot_no)
            for no, seq in wanted
            if (charge := customers[no].charges.get(seq)) is not None
            for draw in (*charge.draws, *(charge.payments or ()))
        },
    )


async def _load_lots(
    conn: Connection, customers: dict[int, Books], wanted: set[tuple[int, int]]
) -> None:
    rows = await conn.fetch(queries.lots_load, [no for no, _ in wanted], [lot for _, lot in wanted])
    for row in rows:
        customers[row[0]].keep_lot(read_lot(row))


async def load_grants(
    conn: Connection, customers: dict[int, Books], wanted: set[tuple[int, int]], now: datetime
) -> None:
    """Grants with their texts and those of their lots that have not ended, and the latest."""
    numbers = [no for no, _ in wanted], [grant for _, grant in wanted]
    for row in await conn.fetch(queries.grants_load, *numbers):
        grant = _keep_grant(customers[row[0]], row)
        grant.reason, grant.metadata = row[22], row[23]
    for row in await conn.fetch(queries.grants_lots_load, *numbers, now):
        customers[row[0]].keep_lot(read_lot(row))


def _keep_debt(books: Books, row: Row) -> None:
    if row[1] not in books.debts:
        books.debts[row[1]] = Debt(
            debt_no=row[1],
            asset=row[2],
            charge_seq=row[3],
            amount=row[4],
            repaid=row[5],
            cancelled=row[6],
            returned=row[7],
            lot_no=row[8],
        )


def _keep_grant(books: Books, row: Row) -> Grant:
    grant = books.grants.get(row[1])
    if grant is None:
        grant = books.grants[row[1]] = read_grant(row)
    return grant
