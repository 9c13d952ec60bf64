"""Billing periods. Each is counted from the anchor, never from the period before."""

from calendar import monthrange
from datetime import UTC, datetime
from typing import Final

DAY: Final = 86_400
HOUR: Final = 3_600
_SECONDS: Final = {"day": DAY, "week": 7 * DAY}


def add(anchor: int, interval: str, count: int) -> int:
    """`count` intervals after the anchor. A month without the anchor's day gives its last day."""
    if interval in _SECONDS:
        return anchor + count * _SECONDS[interval]
    start = datetime.fromtimestamp(anchor, UTC)
    months = start.month - 1 + count * (12 if interval == "year" else 1)
    year, month = start.year + months // 12, months % 12 + 1
    day = min(start.day, monthrange(year, month)[1])
    return int(start.replace(year=year, month=month, day=day).timestamp())


def period_at(anchor: int, interval: str, count: int, at: int) -> tuple[int, int]:
    """The period [start, end) around `at` of those that meet at the anchor."""
    if interval in _SECONDS:
        number = (at - anchor) // (_SECONDS[interval] * count)
    else:
        first, then = datetime.fromtimestamp(anchor, UTC), datetime.fromtimestamp(at, UTC)
        months = (then.year - first.year) * 12 + then.month - first.month
        number = months // (count * (12 if interval == "year" else 1))
    while add(anchor, interval, number * count) > at:
        number -= 1
    while add(anchor, interval, (number + 1) * count) <= at:
        number += 1
    return add(anchor, interval, number * count), add(anchor, interval, (number + 1) * count)


def iso(at: float) -> str:
    """A time as API v2 and the control plane write it."""
    moment = datetime.fromtimestamp(at, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(text: str) -> float:
    """A time that was written by `iso`, or in another ISO form with a zone. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time needs its zone")
    return moment.timestamp()


def next_day_of_month(at: int, day: int) -> int:
    """The next time it is this day of a month, at the same time of day; not now."""
    start = datetime.fromtimestamp(at, UTC)
    for months in range(3):
        first = datetime.fromtimestamp(
            add(int(start.replace(day=1).timestamp()), "month", months), UTC
        )
        last = monthrange(first.year, first.month)[1]
        found = int(first.replace(day=min(day, last)).timestamp())
        if found > at:
            return found
    raise AssertionError("a month ahead has every day")
