"""Reads of what is written once: charges, journals, answered requests. Newest first, in pages.

The transaction and the pages are as in `ledger.reads`.
"""

from datetime import date, datetime
from typing import Any

from asyncpg import Record
from msgspec import UNSET, Raw, Struct, UnsetType, field

from ledger.amounts import format_amount
from ledger.answers import EMPTY, ChargeAnswer, Metadata, charge_answer, empty_object
from ledger.entities import Charge
from ledger.load_usage import read_line
from ledger.reads import SCAN_MAX, UnknownCustomer, find, page, settled
from ledger.rows import add_draws, read_charge
from ledger.settle import account_of
from ledger.state import Books, Settings
from sql import queries
from sql.pool import Connection


class TransferAnswer(Struct, frozen=True):
    """A positive amount that debits one account and credits another."""

    asset: str
    debit: str
    credit: str
    amount: str
    lot_id: str | None


class JournalAnswer(Struct, frozen=True, kw_only=True):
    """One business fact with its transfers, and its place in the customer's chain."""

    id: str
    customer_id: str
    seq: int
    kind: str
    effective_at: datetime
    created_at: datetime
    book_date: date
    late_for: str | None
    """The closed month, `YYYY-MM`, that the fact belongs to by its effective day."""
    origin: str
    key: str | UnsetType = UNSET
    hold_id: str | UnsetType = UNSET
    grant_id: str | UnsetType = UNSET
    lot_id: str | UnsetType = UNSET
    charge_id: str | UnsetType = UNSET
    late: bool
    reference: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    metadata: Metadata = field(default_factory=empty_object)
    transfers: list[TransferAnswer]
    prev_hash: str
    hash: str


class RequestAnswer(Struct, frozen=True):
    """A request that has its answer, by its key."""

    operation: str
    status: int
    body: Raw
    created_at: datetime


async def charge(
    conn: Connection, customer_no: int, seq: int, settings: Settings
) -> ChargeAnswer | None:
    """One charge with the balance of now. None if there is none. Raises Unsettled."""
    try:
        books, _ = await settled(conn, customer_no, settings)
    except UnknownCustomer:
        return None
    for found in await _read_charges(conn, customer_no, [seq]):
        account = account_of(books, settings, found.asset)
        return charge_answer(books, found, account.scale, account)
    return None


async def charges(
    conn: Connection,
    customer_no: int,
    settings: Settings,
    *,
    hold_no: int | None = None,
    from_: datetime | None = None,
    to: datetime | None = None,
    after: int | None = None,
    limit: int,
) -> tuple[list[ChargeAnswer], int | None]:
    """Charges created in [from_, to), of one hold or all. Raises UnknownCustomer."""
    books = await find(conn, customer_no)
    first, before = await journal_bounds(conn, customer_no, from_, to, after)
    if hold_no is None:
        numbers, position = await journal_numbers(
            conn, customer_no, first, before, limit, kind="charge"
        )
    else:
        rows = await conn.fetch(
            queries.journals_list_of_hold, customer_no, first, before, limit + 1, hold_no
        )
        numbers, position = page([row[0] for row in rows], limit)
    found = await _read_charges(conn, customer_no, numbers)
    return [charge_answer(books, one, settings.scales[one.asset]) for one in found], position


async def journal_bounds(
    conn: Connection,
    customer_no: int,
    from_: datetime | None,
    to: datetime | None,
    after: int | None,
) -> tuple[int, int]:
    """The numbers below and above the journals created in [from_, to), from a position on."""
    row = await conn.fetchrow(queries.journals_bounds, customer_no, from_, to)
    if row is None:
        raise UnknownCustomer(customer_no)
    before = row[1] + 1
    return row[0], before if after is None else min(after, before)


async def journal_numbers(
    conn: Connection, customer_no: int, first: int, before: int, limit: int, *, kind: str | None
) -> tuple[list[int], int | None]:
    """A page of journal numbers between two (both left out), and the position to go on from."""
    # Numbers have no gaps: a span of them is as many rows.
    low = max(first, before - 1 - SCAN_MAX)
    rows = await conn.fetch(queries.journals_list, customer_no, low, before, limit + 1, kind)
    numbers, position = page([row[0] for row in rows], limit)
    if position is None and low > first:
        position = low + 1
    return numbers, position


async def _read_charges(conn: Connection, customer_no: int, seqs: list[int]) -> list[Charge]:
    """Charges by number, newest first; other numbers are left out."""
    row = await conn.fetchrow(queries.charges_load, [customer_no] * len(seqs), seqs)
    assert row is not None, "a SELECT without FROM has one row"
    found = {line[1]: read_charge(line) for line in row["charges"] or ()}
    for line in await conn.fetch(queries.charge_lines_read, customer_no, seqs):
        charge = found[line["seq"]]
        charge.lines = [*(charge.lines or ()), read_line(line)]
    add_draws(found, row["draws"] or ())
    return [found[seq] for seq in sorted(found, reverse=True)]


async def journal(
    conn: Connection, customer_no: int, seq: int, settings: Settings
) -> JournalAnswer | None:
    """One journal. None if there is none."""
    try:
        books = await find(conn, customer_no)
    except UnknownCustomer:
        return None
    found = await _read_journals(conn, books, [seq], settings)
    return found[0] if found else None


async def journals(
    conn: Connection,
    customer_no: int,
    settings: Settings,
    *,
    kind: str | None = None,
    from_: datetime | None = None,
    to: datetime | None = None,
    after: int | None = None,
    limit: int,
) -> tuple[list[JournalAnswer], int | None]:
    """Journals created in [from_, to), of one kind or all. Raises UnknownCustomer."""
    books = await find(conn, customer_no)
    first, before = await journal_bounds(conn, customer_no, from_, to, after)
    numbers, position = await journal_numbers(conn, customer_no, first, before, limit, kind=kind)
    return await _read_journals(conn, books, numbers, settings), position


async def _read_journals(
    conn: Connection, books: Books, numbers: list[int], settings: Settings
) -> list[JournalAnswer]:
    rows = await conn.fetch(queries.journals_read, books.customer_no, numbers)
    return [_show_journal(books, row, settings) for row in rows]


def _show_journal(books: Books, row: Record, settings: Settings) -> JournalAnswer:
    def public(prefix: str, no: int | None) -> str | UnsetType:
        return UNSET if no is None else books.public(prefix, no)

    is_charge = row["kind"] == "charge"
    transfers: list[Any] = row["transfers"] or []
    return JournalAnswer(
        id=books.public("jrn", row["seq"]),
        customer_id=books.customer_id,
        seq=row["seq"],
        kind=row["kind"],
        effective_at=row["effective_at"],
        created_at=row["created_at"],
        book_date=row["book_date"],
        late_for=row["late_for"],
        origin=row["origin"],
        key=UNSET if row["request_key"] is None else row["request_key"],
        hold_id=public("hld", row["hold_no"]),
        grant_id=public("grt", row["grant_no"]),
        lot_id=public("lot", row["lot_no"]),
        charge_id=public("chg", row["seq"] if is_charge else row["charge_seq"]),
        late=row["is_late"],
        reference=UNSET if row["reference"] is None else row["reference"],
        reason=UNSET if row["reason"] is None else row["reason"],
        metadata=EMPTY if row["metadata"] is None else Raw(row["metadata"].encode()),
        transfers=[
            TransferAnswer(
                asset,
                debit,
                credit,
                format_amount(amount, settings.scales[asset]),
                None if lot_no is None else books.public("lot", lot_no),
            )
            for asset, debit, credit, amount, lot_no in transfers
        ],
        prev_hash=row["prev_hash"].hex(),
        hash=row["hash"].hex(),
    )


async def request(conn: Connection, customer_no: int, key: str) -> RequestAnswer | None:
    """The answer that a key has. None: not applied yet, or no longer remembered."""
    row = await conn.fetchrow(queries.request_read, customer_no, key)
    if row is None:
        return None
    return RequestAnswer(row[0], row[1], Raw(row[2]), row[3])
