"""Usage three ways, by day: what was used, what Stripe was told, and what Stripe has. And why they
differ.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from asyncpg import Record
from msgspec import Struct

from meter.problems import ProblemError
from meter.report_pieces import EXACT, value_text
from sql import queries
from sql.pool import Connection

DAYS_MAX: Final = timedelta(days=31)
ROWS_MAX: Final = 1_000
"""Days × customers × names of one answer; what differs comes first."""
SMALLEST: Final = Decimal("1e-9")
"""Stripe's sums are binary fractions: a difference below this is none."""


class Reason(Struct, frozen=True):
    """A part of a difference.

    `in_flight`: is to be told, or not compared yet; `carried`: less than a report unit, told with
    another day or when the period ends; `late`: its invoice was final before it was known;
    `next_invoice`: so too, and an item on the next invoice bills it;
    `unreportable`: older than Stripe takes; `rejected`: Stripe does not count it; `duplicate`:
    Stripe has more than it was told; `unknown`: none of these.
    """

    name: str
    value: str


class Compared(Struct, frozen=True, kw_only=True):
    """One day (UTC) of one customer under one name, in units as Stripe counts them."""

    date: str
    customer_id: str
    event_name: str
    meter: str | None
    used: str
    told: str
    stripe: str
    """What Stripe had counted when it was last asked."""
    difference: str
    reasons: list[Reason]
    age_seconds: int | None
    """How long the oldest piece that is not settled has been known."""
    compared_at: datetime | None


class Reconciliation(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Every day of a range that differs, then those that agree, up to a limit.

    `score`: the share of days that agree or whose difference is explained.
    """

    from_: datetime
    to: datetime
    rows: int
    agreed: int
    explained: int
    unexplained: int
    score: str
    data: list[Compared]
    is_cut: bool
    """There are more rows than are shown: ask for less."""


def span(from_: datetime | None, to: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """The range that is asked for; left out: the last days. Raises ProblemError 422."""
    to = to or now
    from_ = from_ or to - DAYS_MAX
    if not from_ < to or to - from_ > DAYS_MAX:
        raise ProblemError(
            422,
            "invalid_query",
            f"from lies before to, at most {DAYS_MAX.days} days: ask for a shorter time.",
        )
    return from_, to


async def read(
    conn: Connection, from_: datetime, to: datetime, customer_no: int | None, now: datetime
) -> Reconciliation:
    """Compare the days of [from_, to)."""
    rows = await conn.fetch(queries.reconciliation_read, from_, to, customer_no, ROWS_MAX)
    data = [_compared(row, now) for row in rows]
    count = rows[0]["rows_count"] if rows else 0
    unexplained = sum(any(r.name in {"unknown", "duplicate"} for r in one.reasons) for one in data)
    explained = sum(bool(one.reasons) for one in data) - unexplained
    score = Decimal(1) if not count else Decimal(count - unexplained) / count
    return Reconciliation(
        from_=from_,
        to=to,
        rows=count,
        agreed=count - explained - unexplained,
        explained=explained,
        unexplained=unexplained,
        score=f"{score:.6f}",
        data=data,
        is_cut=count > len(rows),
    )


def _compared(row: Record, now: datetime) -> Compared:
    difference = EXACT.subtract(row["used"], row["counted"])
    if abs(difference) < SMALLEST:
        difference = Decimal(0)
    oldest: datetime | None = row["oldest_at"]
    return Compared(
        date=row["day"].date().isoformat(),
        customer_id=row["customer_id"],
        event_name=row["event_name"],
        meter=row["meter"],
        used=value_text(row["used"]),
        told=value_text(row["sure"] + row["sent"] + row["pending"]),
        stripe=value_text(row["counted"]),
        difference=value_text(difference),
        reasons=reasons_of(dict(row), difference) if difference else [],
        age_seconds=None
        if oldest is None or not difference
        else int((now - oldest).total_seconds()),
        compared_at=row["seen_at"],
    )


def reasons_of(row: Mapping[str, Any], difference: Decimal) -> list[Reason]:
    """What a difference consists of; the parts add up to it. Pure."""
    found: list[Reason] = []
    rest, pending = difference, row["pending"]
    if row["sent"] and (row["seen_at"] is None or row["seen_at"] < row["sent_at"]):
        pending += row["sent"]  # it is not compared yet
    for name, part in (
        ("late", row["missed"]),
        ("next_invoice", row["carried_over"]),
        ("unreportable", row["unreportable"]),
        ("in_flight", pending),
    ):
        if part:
            found.append(Reason(name, value_text(part)))
            rest = EXACT.subtract(rest, part)
    told_late = EXACT.add(row["missed_told"], row["carried_told"])
    if told_late and abs(EXACT.subtract(rest, told_late)) < SMALLEST:
        # Stripe was told, and not asked since what it has counted.
        parts = ("late", row["missed_told"]), ("next_invoice", row["carried_told"])
        return [*found, *(Reason(name, value_text(part)) for name, part in parts if part)]
    if abs(rest) < SMALLEST:
        return found
    if row["marks"]:
        return [*found, Reason("in_flight", value_text(rest))]
    if row["meter"] is None and abs(rest) < 1:
        return [*found, Reason("carried", value_text(rest))]
    if rest > 0 and row["rejected"] > 0:
        part = min(rest, row["rejected"])
        found.append(Reason("rejected", value_text(part)))
        rest = EXACT.subtract(rest, part)
    if abs(rest) >= SMALLEST:
        found.append(Reason("unknown" if rest > 0 else "duplicate", value_text(rest)))
    return found
