"""The events of charged usage: finding the ones that are stored, storing the new ones.

A charge by a call records one event for each of its lines, or one for all lines that name the same
event. It is read only by the meters of those lines, and it says just what they were charged.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Context, Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from ledger.load_usage import OUR_SOURCE, event_name
from ledger.rated import QUANTITY_SCALE, Identity, Line, StoredFact, Window
from meter import raw, usage
from meter.catalog import PER_EVENT, Catalog, Meter
from meter.charging import dimensions_text
from meter.events import Fact, definition_of, fact_of, look_up, meters_of, reader_for, record
from meter.rates import period
from meter.raw import Current
from meter.readings import Reading, data_of, read_all
from sql.errors import TransactionConflict
from sql.pool import Connection

_EXACT: Final = Context(prec=200)


class EventFacts:
    """The `Facts` of the books."""

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self.catalog = catalog

    async def find(
        self, conn: Connection, wanted: Mapping[tuple[int, Identity], datetime | None]
    ) -> Mapping[tuple[int, Identity], StoredFact]:
        """See `ledger.load_usage.Facts`."""
        places = [(no, *identity, at) for (no, identity), at in wanted.items() if at is not None]
        unknown = [(no, *identity) for (no, identity), at in wanted.items() if at is None]
        if unknown:
            found = await look_up(conn, unknown)
            places += [(*identity, fact.time) for identity, fact in found.items()]
        if not places:
            return {}
        catalog = self.catalog()
        return {
            (no, (source, event_id)): _stored(current, catalog)
            for (no, source, event_id), current in (await raw.current(conn, places)).items()
        }

    async def measure(
        self, conn: Connection, customer_no: int, meter_no: int, at: datetime, time_zone: str
    ) -> Mapping[Window, Mapping[str, int]]:
        """See `ledger.load_usage.Facts`."""
        meter, zone = self.catalog().by_no[meter_no], ZoneInfo(time_zone)
        measured: dict[Window, dict[str, int]] = {}
        for accumulate in ("day", "month"):
            start, end = period(accumulate, at, zone)
            asked = usage.Asked(
                customer_no=customer_no,
                customer_id="",
                meter=meter,
                edges=[start, end],
                width=None,
                zone=zone,
                group_by=list(meter.group_by),
                filters={},
            )
            answer = await usage.read(conn, asked)
            measured[meter_no, start, end] = (
                {dimensions_text(g.dimensions): _quantity(g.value) for g in answer.groups}
                if meter.group_by
                else {"{}": _quantity(answer.value)}
            )
        return measured

    async def record(
        self, conn: Connection, made: Sequence[tuple[int, int, int, Line]], now: datetime
    ) -> None:
        """See `ledger.load_usage.Facts`."""
        catalog = self.catalog()
        facts = [_fact(lines, catalog, now) for lines in _by_event(made).values()]
        for recorded in await record(conn, facts, catalog):
            if recorded.fate != "new":
                # It is stored by now, so the batch finds it when it is decided again.
                raise TransactionConflict("an event was recorded meanwhile")


Made = tuple[int, int, int, Line]


def _by_event(made: Sequence[Made]) -> dict[tuple[int, str, str], list[Made]]:
    """The lines of each event."""
    events: dict[tuple[int, str, str], list[Made]] = {}
    for one in made:
        no, seq, place, line = one
        if line.source is not None and line.event_id is not None:
            identity = no, line.source, line.event_id
        else:
            identity = no, OUR_SOURCE, event_name(no, seq, place)
        events.setdefault(identity, []).append(one)
    return events


def _fact(lines: list[Made], catalog: Catalog, now: datetime) -> Fact:
    no, seq, place, first = lines[0]
    data: dict[str, Any] = {}
    for _, _, _, line in lines:
        meter = catalog.by_no[line.meter_no]
        quantity = None if meter.aggregation == "count" else _number(line.quantity)
        dimensions = msgspec.json.decode(line.dimensions, type=dict[str, str])
        data |= data_of(definition_of(meter), quantity, dimensions)
    return fact_of(
        customer_no=no,
        source=first.source or OUR_SOURCE,
        id=first.event_id or event_name(no, seq, place),
        type=catalog.by_no[first.meter_no].event_type,
        time=first.event_at,
        received_at=now,
        data=data,
        meters=tuple(sorted(line.meter_no for _, _, _, line in lines)),
        has_time=False,
    )


def _stored(current: Current, catalog: Catalog) -> StoredFact:
    """What the meters that price single events read of an event now."""
    event = current.event
    readings: dict[int, tuple[int, str]] = {}
    if current.data is not None:
        meters = [m for m in meters_of(catalog, event) if m.aggregation in PER_EVENT]
        by_call = event.meters is not None
        found = read_all([reader_for(m) for m in meters], current.data, by_call=by_call)
        for meter, reading in zip(meters, found, strict=True):
            if isinstance(reading, Reading):
                readings[meter.meter_no] = _read(meter, reading)
    return StoredFact(event.time, current.corrections_count, readings)


def _read(meter: Meter, reading: Reading) -> tuple[int, str]:
    values = msgspec.json.decode(reading.dims, type=list[str | None])
    value = 1 if meter.aggregation == "count" else reading.value
    assert isinstance(value, int | Decimal)
    dimensions = dict(zip(meter.group_by, values, strict=True))
    return _scaled(value), dimensions_text(dimensions)


def _scaled(value: int | Decimal) -> int:
    """A reading, of which no decimal is finer, as a whole number of the smallest quantity."""
    if isinstance(value, int):
        return value * 10**QUANTITY_SCALE
    return int(_EXACT.scaleb(value, QUANTITY_SCALE))


def _number(quantity: int) -> int | Decimal:
    whole, rest = divmod(quantity, 10**QUANTITY_SCALE)
    return whole if rest == 0 else _EXACT.scaleb(Decimal(quantity), -QUANTITY_SCALE)


def _quantity(value: str | None) -> int:
    """What a window comes to as a quantity: nothing, or below 0, is 0."""
    return 0 if value is None else max(0, _scaled(Decimal(value)))
