"""The books at a past moment, and the statement between two: counted back from the counters of now.

Two axes. `created`: what the book knew then; an answer once given never changes. `effective`: what
was so in the world then, by all that is known today; late usage still changes it.
"""

from datetime import datetime, timedelta
from typing import Final, Literal

from asyncpg import Record
from msgspec import UNSET, Struct, UnsetType

from ledger.amounts import format_amount
from ledger.chart import CREDIT_ACCOUNTS
from ledger.customers import now as read_now
from ledger.load import share
from ledger.reads import BalanceAnswer, find, settled
from ledger.settle import account_of
from ledger.state import Books, Settings
from sql import queries
from sql.pool import Connection

Axis = Literal["effective", "created"]
HOLD_LIFETIME_MAX: Final = timedelta(days=7)
"""The most that `hold_lifetime_max` was ever allowed to be: no hold lives longer."""


class FutureMoment(Exception):
    """The past was asked for a moment after the service's time. To be answered as 422."""

    def __init__(self, at: datetime, now: datetime) -> None:
        super().__init__(f"{at.isoformat()} is after the service's time {now.isoformat()}")
        self.at, self.now = at, now


class StatementLine(Struct, frozen=True, kw_only=True):
    """One journal that moved the wallet. `amount` is signed, `balance` is what it left."""

    id: str
    kind: str
    effective_at: datetime
    created_at: datetime
    amount: str
    balance: str
    reference: str | UnsetType = UNSET
    charge_id: str | UnsetType = UNSET
    grant_id: str | UnsetType = UNSET
    hold_id: str | UnsetType = UNSET


class StatementAnswer(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """What moved a wallet in [from, to), by when the book learned of it.

    opening + the lines of all pages = closing. `opening` and `closing` are the same on every page.
    """

    customer_id: str
    asset: str
    from_: datetime | None
    to: datetime
    opening: str
    lines: list[StatementLine]
    closing: str


class StatementPosition(Struct, frozen=True, array_like=True):
    """Where a statement goes on. Later pages show what the first one saw; amounts are integers."""

    seq: int
    seq_last: int
    to: datetime
    opening: str
    running: str
    closing: str


class Moment(Struct, frozen=True):
    """The counters at a past moment, in the asset's smallest unit."""

    posted: int = 0
    owed: int = 0
    billed: int = 0


async def balance_at(
    conn: Connection,
    customer_no: int,
    asset: str,
    at: datetime,
    axis: Axis,
    settings: Settings,
) -> BalanceAnswer:
    """What a customer had at a past moment, that moment included. An asset never used: zeros.

    `effective` needs the transaction of `ledger.reads`. `created` needs a READ COMMITTED one that
    may write: from the customer's last `created_at` on, it takes the row FOR SHARE, so that nothing
    still under way can enter the past. Raises UnknownCustomer, FutureMoment, Unsettled.
    """
    if axis == "created":
        books, now = await _fix_past(conn, customer_no, at)
        row = await conn.fetchrow(queries.account_as_created, customer_no, asset, at)
        moment = Moment() if row is None else Moment(*map(int, row))
    else:
        books, now = await settled(conn, customer_no, settings)
        if at > now:
            raise FutureMoment(at, now)
        moment = await _effective(conn, books, asset, at, settings)
    held = await _held(conn, customer_no, asset, at, axis, now)
    frozen = await conn.fetchval(queries.frozen_at, customer_no, asset, at, axis == "effective")
    scale = settings.scales[asset]
    return BalanceAnswer(
        customer_id=books.customer_id,
        asset=asset,
        posted=format_amount(moment.posted, scale),
        held=format_amount(held + int(frozen), scale),
        available=None,
        owed=format_amount(moment.owed, scale),
        billed=format_amount(moment.billed, scale),
        upcoming=None,
        overage=None,
        as_of=at,
        lots=None,
        lots_has_more=False,
    )


async def _fix_past(conn: Connection, customer_no: int, at: datetime) -> tuple[Books, datetime]:
    """See to it that nothing can still be created at or before `at`. Raises FutureMoment."""
    books = await find(conn, customer_no)
    now = await read_now(conn)
    if at > now:
        raise FutureMoment(at, now)
    if books.last_created_at is None or at >= books.last_created_at:
        await share(conn, [customer_no])
    return books, now


async def _effective(
    conn: Connection, books: Books, asset: str, at: datetime, settings: Settings
) -> Moment:
    """The counters of settled books less all that is effective later: stored, and in memory."""
    account = account_of(books, settings, asset)
    row = await conn.fetchrow(queries.moved_after_effective, books.customer_no, asset, at)
    assert row is not None, "an aggregate has one row"
    moved = {"wallet": int(row[0]), "owed": int(row[1]), "billed": int(row[2])}
    for journal in books.journals:
        if journal.effective_at <= at:
            continue
        for transfer in journal.transfers:
            if transfer.asset != asset:
                continue
            for name, side in ((transfer.debit, "debit"), (transfer.credit, "credit")):
                if name in moved:
                    grows = CREDIT_ACCOUNTS[name] == side
                    moved[name] += transfer.amount if grows else -transfer.amount
    return Moment(
        account.wallet - moved["wallet"],
        account.owed - moved["owed"],
        account.billed - moved["billed"],
    )


async def _held(
    conn: Connection, customer_no: int, asset: str, at: datetime, axis: Axis, now: datetime
) -> int:
    """What holds had pinned at `at`.

    A hold that was open then was made within one lifetime before the last hold made by then: every
    write ends the holds that are due, so a hold the book still took for open at `at` had its
    deadline after the last write, however long ago that was.
    """
    last = await conn.fetchrow(queries.hold_last_at, customer_no, at)
    if last is None:
        return 0
    earliest = last["created_at"] - HOLD_LIFETIME_MAX
    before = await conn.fetchrow(queries.hold_last_at, customer_no, earliest)
    return int(
        await conn.fetchval(
            queries.held_at,
            customer_no,
            asset,
            at,
            0 if before is None else before["hold_no"],
            last["hold_no"],
            axis == "effective",
            now,
        )
    )


async def statement(
    conn: Connection,
    customer_no: int,
    asset: str,
    settings: Settings,
    *,
    from_: datetime | None = None,
    to: datetime | None = None,
    after: StatementPosition | None = None,
    limit: int,
) -> tuple[StatementAnswer, StatementPosition | None]:
    """A page of the statement of [from_, to), oldest line first, and where the next one goes on.

    Left out, `from_` is the beginning and `to` is now; a later `to` is now too. On the `created`
    axis, so nothing is settled first, and the transaction is as for `balance_at` on that axis.
    Raises UnknownCustomer; FutureMoment if `from_` lies ahead.
    """
    if after is None:
        books, start = await _first_position(conn, customer_no, asset, from_, to)
    else:
        books, start = await find(conn, customer_no), after
    rows = await conn.fetch(
        queries.statement_lines, customer_no, asset, start.seq, start.seq_last, limit + 1
    )
    scale = settings.scales[asset]
    running = int(start.running)
    lines: list[StatementLine] = []
    for row in rows[:limit]:
        running += int(row["amount"])
        lines.append(_line(books, row, running, scale))
    answer = StatementAnswer(
        customer_id=books.customer_id,
        asset=asset,
        from_=from_,
        to=start.to,
        opening=format_amount(int(start.opening), scale),
        lines=lines,
        closing=format_amount(int(start.closing), scale),
    )
    if len(rows) <= limit:
        return answer, None
    return answer, StatementPosition(
        rows[limit - 1]["seq"],
        start.seq_last,
        start.to,
        start.opening,
        str(running),
        start.closing,
    )


async def _first_position(
    conn: Connection,
    customer_no: int,
    asset: str,
    from_: datetime | None,
    to: datetime | None,
) -> tuple[Books, StatementPosition]:
    now = await read_now(conn)
    if from_ is not None and from_ > now:
        raise FutureMoment(from_, now)
    end = now if to is None else min(to, now)
    books, _ = await _fix_past(conn, customer_no, end)
    row = await conn.fetchrow(queries.statement_bounds, customer_no, asset, from_, end)
    assert row is not None, "a SELECT of bounds has one row"
    opening, closing = str(int(row["opening"])), str(int(row["closing"]))
    return books, StatementPosition(
        row["seq_before"], row["seq_last"], end, opening, opening, closing
    )


def _line(books: Books, row: Record, balance: int, scale: int) -> StatementLine:
    charge_seq = row["seq"] if row["kind"] == "charge" else row["charge_seq"]
    grant_no, hold_no, reference = row["grant_no"], row["hold_no"], row["reference"]
    return StatementLine(
        id=books.public("jrn", row["seq"]),
        kind=row["kind"],
        effective_at=row["effective_at"],
        created_at=row["created_at"],
        amount=format_amount(int(row["amount"]), scale),
        balance=format_amount(balance, scale),
        reference=UNSET if reference is None else reference,
        charge_id=UNSET if charge_seq is None else books.public("chg", charge_seq),
        grant_id=UNSET if grant_no is None else books.public("grt", grant_no),
        hold_id=UNSET if hold_no is None else books.public("hld", hold_no),
    )
