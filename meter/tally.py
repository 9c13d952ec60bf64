"""What events add to the rollups of the meters that read them. Pure.

Rollups are sums over grains of 15 minutes UTC. All numbers are exact, so that counting at once,
later, or again gives the same.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any, Final, Protocol

from msgspec import Struct

from meter.paths import decimal_text
from meter.readings import Reading, Unreadable

GRAIN: Final = timedelta(minutes=15)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
REASON_CHARS_MAX: Final = 300
PER_EVENT: Final = frozenset({"count", "sum"})
"""Aggregations that price each event; the others price a closed window once."""
_EXACT: Final = Context(prec=200)
"""Sums are exact: far more digits than any number of events can fill."""

Number = int | Decimal
Key = tuple[int, int, datetime, str]
"""Customer, meter, grain, dimensions."""


class Counted(Protocol):
    """An event, as far as counting goes."""

    @property
    def customer_no(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def time(self) -> datetime: ...
    @property
    def received_at(self) -> datetime: ...


class Meter(Protocol):
    """A meter, as far as counting goes."""

    @property
    def meter_no(self) -> int: ...
    @property
    def aggregation(self) -> str: ...
    @property
    def charge(self) -> str: ...


class Sums(Struct):
    """One rollup, or what is to be added to one."""

    events: int = 0
    total: Number | None = None
    least: Number | None = None
    greatest: Number | None = None
    latest: tuple[datetime, str, str] | None = None
    """(time, id, source) of the latest event."""
    latest_value: Number | None = None


class Tally(Struct):
    """What a set of events adds, by the keys of the rows."""

    rollups: dict[Key, Sums] = {}
    values: dict[tuple[int, int, datetime, str, str], int] = {}
    rejects: list[tuple[Any, ...]] = []
    unrated_events: list[tuple[Any, ...]] = []
    unrated_windows: set[tuple[int, int, datetime]] = set()

    def add(
        self,
        event: Counted,
        meters: Iterable[Meter],
        found: Iterable[Reading | Unreadable | None],
        *,
        rates: bool = False,
    ) -> None:
        """Count one event as its meters read it. `rates`: note what is still to be priced."""
        grain = grain_of(event.time)
        for meter, reading in zip(meters, found, strict=True):
            if reading is None:
                continue
            if isinstance(reading, Unreadable):
                self.rejects.append(_reject(event, meter, reading))
                continue
            key = (event.customer_no, meter.meter_no, grain, reading.dims)
            sums = self.rollups.get(key)
            if sums is None:
                sums = self.rollups[key] = Sums()
            sums.events += 1
            if isinstance(reading.value, str):
                self.values[(*key, reading.value)] = self.values.get((*key, reading.value), 0) + 1
            elif reading.value is not None:
                bring_in(sums, meter.aggregation, event, reading.value)
            if rates and meter.charge == "events":
                self.note_unrated(event, meter)

    def note_unrated(self, event: Counted, meter: Meter) -> None:
        """Note that an event, or its grain, is still to be priced."""
        number = (event.customer_no, meter.meter_no)
        if meter.aggregation in PER_EVENT:
            row = (*number, event.source, event.id, event.time, event.received_at)
            self.unrated_events.append(row)
        else:
            self.unrated_windows.add((*number, grain_of(event.time)))

    def meter_nos(self) -> set[int]:
        """The meters that counted or rejected something."""
        return {key[1] for key in self.rollups} | {row[1] for row in self.rejects}


def bring_in(sums: Sums, aggregation: str, event: Counted, value: Number) -> None:
    """Bring the value of one event into what its aggregation keeps."""
    if aggregation in ("sum", "avg"):
        sums.total = value if sums.total is None else plus(sums.total, value)
    elif aggregation == "min":
        sums.least = value if sums.least is None else min(sums.least, value)
    elif aggregation == "max":
        sums.greatest = value if sums.greatest is None else max(sums.greatest, value)
    else:
        at = (event.time, event.id, event.source)
        if sums.latest is None or at > sums.latest:
            sums.latest, sums.latest_value = at, value


def _reject(event: Counted, meter: Meter, why: Unreadable) -> tuple[Any, ...]:
    return (
        event.customer_no,
        meter.meter_no,
        event.time,
        event.source,
        event.id,
        str(why)[:REASON_CHARS_MAX],
        event.received_at,
    )


def grain_of(at: datetime) -> datetime:
    """The start of the quarter of an hour (UTC) that a time lies in."""
    return _grain((at - EPOCH) // GRAIN)


@lru_cache(maxsize=10_000)
def _grain(number: int) -> datetime:
    return EPOCH + number * GRAIN


def is_grain(at: datetime) -> bool:
    """Whether a time is where one grain ends and the next begins."""
    return (at - EPOCH) % GRAIN == timedelta(0)


def plus(one: Number, other: Number) -> Number:
    """The exact sum."""
    if type(one) is int and type(other) is int:
        return one + other
    return _EXACT.add(Decimal(one), Decimal(other))


def quotient(total: Number, events: int) -> Decimal:
    """An average, to 18 decimals."""
    exact = _EXACT.divide(Decimal(total), Decimal(events))
    return _EXACT.quantize(exact, Decimal("1e-18"))


def shown(value: Number | None) -> str | None:
    """A number as it is told and stored; None where there is none."""
    return None if value is None else decimal_text(value)
