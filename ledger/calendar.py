"""Calendar arithmetic for recurring grants. It always starts from the anchor, never from the last
computed date, so 31 January gives 28 February and then 31 March. All in UTC.
"""

import calendar as _calendar
from datetime import datetime, timedelta
from typing import Final, Literal

Interval = Literal["day", "week", "month", "year"]

_DAYS: Final = {"day": 1, "week": 7}
_MONTHS: Final = {"month": 1, "year": 12}


def add_intervals(anchor: datetime, interval: Interval, n: int) -> datetime:
    """`anchor` plus n intervals; a day that the month lacks becomes the month's last day.

    Raises OverflowError or ValueError past the years that datetime can hold.
    """
    if interval in _DAYS:
        return anchor + timedelta(days=_DAYS[interval] * n)
    months = anchor.year * 12 + (anchor.month - 1) + _MONTHS[interval] * n
    year, month = divmod(months, 12)
    last = _calendar.monthrange(year, month + 1)[1]
    return anchor.replace(year=year, month=month + 1, day=min(anchor.day, last))


def next_start(anchor: datetime, interval: Interval, count: int, after: datetime) -> datetime:
    """The first period start anchor + n × `count` intervals (any whole n) later than `after`."""
    if interval in _DAYS:
        n = (after - anchor).days // (_DAYS[interval] * count)
    else:
        months = (after.year - anchor.year) * 12 + after.month - anchor.month
        n = months // (_MONTHS[interval] * count)
    while add_intervals(anchor, interval, n * count) > after:
        n -= 1
    while (start := add_intervals(anchor, interval, n * count)) <= after:
        n += 1
    return start
