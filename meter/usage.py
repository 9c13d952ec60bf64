"""Usage: what a meter counted for a customer, by window and by group.

Windows of an hour and more are sums of rollups; minutes are read from raw events. Both come as
`Cells`, so an answer looks the same whichever way it was found.
"""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from meter import raw
from meter.catalog import Meter
from meter.paths import decimal_text
from meter.readings import NO_DIMS, Reading, dims_text
from meter.tally import Sums, bring_in, grain_of, quotient
from meter.windows import Width
from sql import queries
from sql.pool import Connection

CELLS_MAX: Final = 20_000
"""Windows × groups of one answer: a few megabytes."""
RAW_EVENTS_MAX: Final = 100_000
"""Raw events that minute windows may read, about a second of work."""

_EMPTY: Final = {"count": "0", "sum": "0", "unique": "0"}
"""What aggregations say where nothing was counted; the others say null."""


class TooMuchUsage(ValueError):
    """More than one answer may hold, or one question may read. The words say what to do."""


class GroupUsage(Struct, frozen=True, kw_only=True):
    """What one group counted."""

    dimensions: dict[str, str | None]
    value: str | None
    events: int


class WindowUsage(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """What one window counted: as a whole, and by group if the question has `group_by`."""

    from_: datetime
    to: datetime
    value: str | None
    """A decimal; null where min, max, avg or latest have seen nothing."""
    events: int
    groups: list[GroupUsage]


class UsageAnswer(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Usage of one customer by one meter. The windows of count and sum add up to `value`."""

    meter: str
    customer_id: str
    aggregation: str
    unit: str | None
    from_: datetime
    to: datetime
    window: str | None
    time_zone: str
    value: str | None
    events: int
    groups: list[GroupUsage]
    windows: list[WindowUsage]


class Asked(Struct, frozen=True, kw_only=True):
    """A question for usage. `edges` are the starts of the windows, and the end."""

    customer_no: int
    customer_id: str
    meter: Meter
    edges: list[datetime]
    width: Width | None
    zone: ZoneInfo
    group_by: list[str]
    filters: dict[str, str]


Place = tuple[int | None, str | None]
"""A window (from 0; None: all of them) and a group (None: all of them)."""
Cells = dict[Place, tuple[int, str | None]]
"""Events and value of each place."""


async def read(conn: Connection, asked: Asked) -> UsageAnswer:
    """Answer a question. Raises TooMuchUsage."""
    cells = await (_by_minute(conn, asked) if asked.width == "minute" else _rolled_up(conn, asked))
    groups: dict[int | None, list[GroupUsage]] = {}
    if asked.group_by:
        for (place, dims), (events, value) in sorted(
            ((place, dims), cell) for (place, dims), cell in _grouped(cells)
        ):
            names = dict(zip(asked.group_by, msgspec.json.decode(dims), strict=True))
            found = GroupUsage(dimensions=names, value=value, events=events)
            groups.setdefault(None if place < 0 else place, []).append(found)
    nothing = (0, _EMPTY.get(asked.meter.aggregation))
    windows: list[WindowUsage] = []
    for place, (from_, to) in enumerate(zip(asked.edges, asked.edges[1:], strict=False)):
        events, value = cells.get((place, None), nothing)
        windows.append(
            WindowUsage(
                from_=from_, to=to, value=value, events=events, groups=groups.get(place, [])
            )
        )
    events, value = cells.get((None, None), nothing)
    return UsageAnswer(
        meter=asked.meter.key,
        customer_id=asked.customer_id,
        aggregation=asked.meter.aggregation,
        unit=asked.meter.unit,
        from_=asked.edges[0],
        to=asked.edges[-1],
        window=asked.width,
        time_zone=asked.zone.key,
        value=value,
        events=events,
        groups=groups.get(None, []),
        windows=windows if asked.width is not None else [],
    )


def _grouped(cells: Cells) -> list[tuple[tuple[int, str], tuple[int, str | None]]]:
    return [
        ((-1 if place is None else place, dims), cell)
        for (place, dims), cell in cells.items()
        if dims is not None
    ]


def _value(aggregation: str, sums: Sums, distinct: int | None) -> str | None:
    """What an aggregation makes of its numbers."""
    number: int | Decimal | None
    if aggregation == "count":
        number = sums.events
    elif aggregation == "unique":
        number = distinct
    elif aggregation == "avg":
        number = None if sums.total is None else quotient(sums.total, sums.events)
    else:
        by = {"sum": sums.total, "min": sums.least, "max": sums.greatest}
        number = by.get(aggregation, sums.latest_value)
    return None if number is None else decimal_text(number)


# From rollups


async def _rolled_up(conn: Connection, asked: Asked) -> Cells:
    meter, names = asked.meter, list(asked.meter.group_by)
    is_unique = meter.aggregation == "unique"
    rows = await conn.fetch(
        queries.usage_values if is_unique else queries.usage_rollups,
        asked.customer_no,
        meter.meter_no,
        asked.edges[0],
        asked.edges[-1],
        asked.edges[:-1],
        [names.index(name) for name in asked.group_by],
        [names.index(name) for name in asked.filters],
        list(asked.filters.values()),
        CELLS_MAX + 1,
    )
    if len(rows) > CELLS_MAX:
        raise _too_many_cells()
    cells: Cells = {}
    for row in rows:
        if row["events"] is None:  # of the whole, when there is nothing
            continue
        sums = Sums(
            row["events"], row["total"], row["least"], row["greatest"], None, row["latest_value"]
        )
        level: int = row["level"]
        place = None if level & 2 else row["place"] - 1
        dims = None if level & 1 else row["dims"]
        cells[place, dims] = sums.events, _value(meter.aggregation, sums, row["distinct_values"])
    return cells


def _too_many_cells() -> TooMuchUsage:
    return TooMuchUsage(
        f"there are more than {CELLS_MAX} windows and groups: ask for a shorter time, wider "
        "windows, or fewer dimensions"
    )


# From raw events


async def _by_minute(conn: Connection, asked: Asked) -> Cells:
    first, last, meter = asked.edges[0], asked.edges[-1], asked.meter
    place = asked.customer_no, meter.meter_no
    if await conn.fetchval(queries.rollups_without_events, *place, grain_of(first), last):
        raise TooMuchUsage(
            "the raw events of this time were dropped, so minutes can't be read: ask for "
            "window=hour"
        )
    count = await conn.fetchval(
        queries.events_count, asked.customer_no, meter.event_type, first, last, RAW_EVENTS_MAX + 1
    )
    if count > RAW_EVENTS_MAX:
        raise TooMuchUsage(
            f"there are more than {RAW_EVENTS_MAX} events between from and to: ask for less, or "
            "for window=hour"
        )
    through = (await raw.rebuilt_through(conn, asked.customer_no)).get(meter.meter_no)
    cells = _RawCells(asked)
    async for fact in raw.events(conn, asked.customer_no, meter.event_type, first, last):
        if raw.has_counted(meter, fact, through):
            for reading in raw.readings_by(meter, fact):
                if isinstance(reading, Reading):
                    cells.add(fact, reading)
    return cells.done()


class _RawCells:
    """Sums of readings, by window and group, both, and neither."""

    def __init__(self, asked: Asked) -> None:
        names = list(asked.meter.group_by)
        self.asked = asked
        self.kept = [names.index(name) for name in asked.group_by]
        self.wanted = [(names.index(name), value) for name, value in asked.filters.items()]
        self.sums: dict[Place, Sums] = {}
        self.values: dict[Place, set[str]] = {}

    def add(self, fact: raw.Fact, reading: Reading) -> None:
        dims = NO_DIMS
        if self.kept or self.wanted:
            given: Sequence[Any] = msgspec.json.decode(reading.dims)
            if any(given[at] != value for at, value in self.wanted):
                return
            dims = dims_text([given[at] for at in self.kept])
        window = bisect_right(self.asked.edges, fact.time) - 1
        for place in ((window, dims), (window, None), (None, dims), (None, None)):
            sums = self.sums.setdefault(place, Sums())
            sums.events += 1
            if isinstance(reading.value, str):
                self.values.setdefault(place, set()).add(reading.value)
            elif reading.value is not None:
                bring_in(sums, self.asked.meter.aggregation, fact, reading.value)
        if len(self.sums) > CELLS_MAX:
            raise _too_many_cells()

    def done(self) -> Cells:
        aggregation = self.asked.meter.aggregation
        return {
            place: (sums.events, _value(aggregation, sums, len(self.values.get(place, ()))))
            for place, sums in self.sums.items()
        }
