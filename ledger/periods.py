"""Months that are closed: nothing new is booked in one, and what it came to never changes.

A month is closed in steps, each a short transaction: begun (from then on writers, who read
`closed_through` after their locks, book in the next month), waited for, recognised, proved,
summarised. Cut off between two steps it goes on where it was.
"""

import re
from datetime import date, datetime, timedelta
from typing import Final

from asyncpg import Record
from msgspec import Struct

from ledger.amounts import format_amount
from ledger.proofs import SECONDS_MAX
from sql import queries
from sql.pool import Connection

MONTH: Final = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


class PeriodTotal(Struct, frozen=True, kw_only=True):
    """What a closed month moved of one account, of all customers."""

    asset: str
    account: str
    debits: str
    credits: str


class Period(Struct, frozen=True, kw_only=True):
    """A month of the books. `closing`: it was begun, and is not summarised yet."""

    period: str
    status: str
    starts_on: date | None
    """null: it is the first one that was closed, and has all that was before."""
    ends_on: date
    began_at: datetime
    closed_at: datetime | None
    reason: str | None
    """Why it was closed though not everything was proved."""
    failures: int
    """What was not proved then."""
    customers: int | None
    journals: int | None
    transfers: int | None
    hash: str | None
    """SHA-256 over the month, its totals, every customer's chain, and the month before."""
    totals: list[PeriodTotal]


class PeriodRefused(Exception):
    """The month can't be closed: `code` names why, `detail` says what to do."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


def month_of(text: str) -> tuple[date, date] | None:
    """The first and the last day of a month `YYYY-MM`; None for anything else."""
    if MONTH.fullmatch(text) is None or not 1970 <= int(text[:4]) <= 2200:
        return None
    first = date(int(text[:4]), int(text[5:]), 1)
    return first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)


async def check(conn: Connection, period: str) -> Period | None:
    """The month if it is closed or being closed, None if it may be begun. Raises PeriodRefused.

    Locks the installation's row, so that one close begins at a time.
    """
    days = month_of(period)
    if days is None:
        raise PeriodRefused("period_not_found", "A month is named YYYY-MM, such as 2026-03.")
    now = await conn.fetchrow(queries.period_of_now)
    assert now is not None, "the composition makes the installation first"
    if (known := await conn.fetchrow(queries.period_read, period)) is not None:
        return _period(known, [])
    first, last = days
    if last >= now["today"]:
        raise PeriodRefused(
            "period_not_ended", f"{period} has not ended: the books are on {now['today']}."
        )
    if (waiting := await conn.fetchval(queries.period_open)) is not None:
        raise PeriodRefused(
            "period_out_of_order", f"{waiting} is being closed: close it to the end first."
        )
    through: date | None = now["closed_through"]
    if through is not None and through + timedelta(days=1) != first:
        following = through + timedelta(days=1)
        raise PeriodRefused(
            "period_out_of_order",
            f"The books are closed through {through}: close {following:%Y-%m} next.",
        )
    return None


async def begin(conn: Connection, period: str) -> None:
    """Close a month to new facts. The caller has checked it in this transaction."""
    days = month_of(period)
    assert days is not None, "checked"
    now = await conn.fetchrow(queries.period_of_now)
    assert now is not None, "checked"
    starts_on = None if now["closed_through"] is None else days[0]
    await conn.execute(queries.period_begin, period, starts_on, days[1])


async def barrier(conn: Connection) -> str:
    """After this every older transaction is one that has ended by `has_passed`."""
    return await conn.fetchval(queries.snapshot_end)


async def has_passed(conn: Connection, barrier: str) -> bool:
    """Whether every transaction that may have begun before the barrier has ended."""
    return await conn.fetchval(queries.snapshot_passed, barrier)


async def summarise(conn: Connection, period: str, *, reason: str | None, failures: int) -> bool:
    """Store what the month came to, and close it. False if something is not recognised yet.

    Nothing can be booked in the month any more, so its statements agree without one snapshot.
    """
    if await conn.fetchval(queries.period_lock, period) is None:
        return True
    await conn.execute(queries.proofs_settings, f"{SECONDS_MAX}s")
    days = month_of(period)
    assert days is not None, "begun"
    if not await conn.fetchval(queries.period_is_recognised, days[1], timeout=SECONDS_MAX):
        return False
    for statement, *args in (
        (queries.period_totals_make,),
        (queries.period_heads_make,),
        (queries.period_count, reason if failures else None, failures),
        (queries.period_hash,),
    ):
        await conn.execute(statement, period, *args, timeout=SECONDS_MAX)
    return True


async def read(conn: Connection, period: str) -> Period | None:
    """One month with its totals."""
    row = await conn.fetchrow(queries.period_read, period)
    return None if row is None else (await _with_totals(conn, [row]))[0]


async def read_all(
    conn: Connection, *, before: date | None, limit: int
) -> tuple[list[Period], date | None]:
    """Months, the latest first, and after which more come."""
    rows = await conn.fetch(queries.periods_read, before, limit + 1)
    found = await _with_totals(conn, rows[:limit])
    return found, found[-1].ends_on if len(rows) > limit else None


async def _with_totals(conn: Connection, rows: list[Record]) -> list[Period]:
    totals: dict[str, list[PeriodTotal]] = {}
    for row in await conn.fetch(queries.period_totals_read, [row["period"] for row in rows]):
        totals.setdefault(row["period"], []).append(
            PeriodTotal(
                asset=row["asset"],
                account=row["account"],
                debits=format_amount(int(row["debits"]), row["scale"]),
                credits=format_amount(int(row["credits"]), row["scale"]),
            )
        )
    return [_period(row, totals.get(row["period"], [])) for row in rows]


def _period(row: Record, totals: list[PeriodTotal]) -> Period:
    return Period(
        period=row["period"],
        status="closing" if row["closed_at"] is None else "closed",
        starts_on=row["starts_on"],
        ends_on=row["ends_on"],
        began_at=row["began_at"],
        closed_at=row["closed_at"],
        reason=row["reason"],
        failures=row["failures"],
        customers=row["customers"],
        journals=row["journals"],
        transfers=row["transfers"],
        hash=None if row["hash"] is None else row["hash"].hex(),
        totals=totals,
    )
