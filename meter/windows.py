"""Windows of usage in a time zone. Pure: every window is a whole number of grains, or of minutes.

A day of a zone has 23, 24 or 25 hours; windows are cut at instants, never by adding 24 hours. The
first and the last window are cut to what was asked for, so they add up to the whole.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

from meter.tally import GRAIN, is_grain

Width = Literal["minute", "hour", "day", "month"]

WINDOWS_MAX: Final = 1_500
"""In one answer: a day of minutes, two months of hours, four years of days."""
MINUTES_MAX: Final = timedelta(days=1)
"""What minute windows may span: they are read from raw events."""
MINUTE: Final = timedelta(minutes=1)


class WindowError(ValueError):
    """These windows can't be made. The words say what to ask for instead."""


def edges(from_: datetime, to: datetime, width: Width, zone: ZoneInfo) -> list[datetime]:
    """Where the windows of [from_, to) begin, and the end: one more than there are windows.

    Times in UTC. Raises WindowError.
    """
    if to <= from_:
        raise WindowError("to must lie after from")
    if width == "minute":
        _check_minutes(from_, to)
        cuts = _steps(from_, to, MINUTE)
    else:
        _check_grains(from_, to)
        cuts = _hours(from_, to, zone) if width == "hour" else _dates(from_, to, width, zone)
    found = [from_]
    for cut in cuts:
        if from_ < cut < to:
            if len(found) >= WINDOWS_MAX:
                raise WindowError(f"there would be more than {WINDOWS_MAX} windows: ask for less")
            if width != "minute" and not is_grain(cut):
                raise WindowError(
                    f"in {zone.key} a window would begin at {cut.isoformat()}, which is no quarter "
                    "of an hour: choose another time_zone"
                )
            if cut > found[-1]:
                found.append(cut)
    return [*found, to]


def whole(from_: datetime, to: datetime) -> list[datetime]:
    """The edges of one window. Raises WindowError."""
    if to <= from_:
        raise WindowError("to must lie after from")
    _check_grains(from_, to)
    return [from_, to]


def _check_minutes(from_: datetime, to: datetime) -> None:
    if to - from_ > MINUTES_MAX:
        raise WindowError("minute windows may span one day")
    if any(at.second or at.microsecond for at in (from_, to)):
        raise WindowError("from and to must be whole minutes")


def _check_grains(from_: datetime, to: datetime) -> None:
    if not (is_grain(from_) and is_grain(to)):
        raise WindowError(
            "from and to must be whole quarters of an hour (UTC); only window=minute can be cut "
            "finer"
        )


def _steps(from_: datetime, to: datetime, step: timedelta) -> Iterator[datetime]:
    at = from_ + step
    while at < to:
        yield at
        at += step


def _hours(from_: datetime, to: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Each instant at which another hour begins on the zone's clock."""

    def hour(at: datetime) -> tuple[object, ...]:
        local = at.astimezone(zone)
        # An hour that comes twice is two hours.
        return local.date(), local.hour, local.utcoffset()

    known = hour(from_)
    for at in _steps(from_, to, GRAIN):
        if (now := hour(at)) != known:
            known = now
            yield at


def _dates(from_: datetime, to: datetime, width: Width, zone: ZoneInfo) -> Iterator[datetime]:
    """Each instant at which another day or month begins on the zone's calendar."""
    day = from_.astimezone(zone).date()
    while True:
        day = day + timedelta(days=1) if width == "day" else _next_month(day)
        at = start_of(day, zone)
        if at >= to:
            return
        yield at


def _next_month(day: date) -> date:
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


def start_of(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a date in a zone, also where its clocks skip midnight."""
    # A midnight that is skipped is read by the offset before: the instant of the skip.
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
