"""Usage against a naive recomputation: any meter, zone and window, late events and corrections.

The naive way keeps every event in a list and looks at each of them for each question. Rollups,
their repairs, and windows of a zone must give the same; and so must counting everything again.
"""

from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any, Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter import catalog, corrections, rebuild, usage
from meter.catalog import Catalog, Meter
from meter.corrections import Asked, follow_nothing
from meter.events import fact_of, record
from meter.meters import Wanted, put
from meter.problems import ProblemError
from meter.windows import Width, edges
from tests.property.bench import Bench
from tests.property.sizes import tries
from tests.servers import Database

NOW = datetime(2030, 4, 8, tzinfo=UTC)
"""Behind it lie a change of the clocks in New York, in Europe, and on Lord Howe Island."""
ZONES = ("UTC", "America/New_York", "Europe/Budapest", "Asia/Kolkata", "Australia/Lord_Howe")
AGGREGATIONS = ("count", "sum", "min", "max", "avg", "unique", "latest")
MODELS = (None, "", "a", "b")
_names = count()


@dataclass(frozen=True)
class Send:
    """Some events: quarter hours and seconds before NOW, value, model."""

    events: tuple[tuple[int, int, int, str | None], ...]


@dataclass(frozen=True)
class Correct:
    """The event of a place is replaced, or cancelled (None)."""

    place: int
    data: tuple[int, str | None] | None


times = st.integers(0, 34 * 96)
values = st.integers(0, 5)
models = st.sampled_from(MODELS)
events = st.tuples(st.one_of(times, st.integers(0, 12)), st.integers(0, 899), values, models)
sends = st.lists(events, min_size=1, max_size=6).map(lambda found: Send(tuple(found)))
fixes = st.builds(Correct, st.integers(0, 30), st.none() | st.tuples(values, models))
acts = st.lists(st.one_of(sends, fixes), min_size=1, max_size=8)
widths: st.SearchStrategy[Width] = st.sampled_from(["minute", "hour", "day", "month"])


@dataclass
class Event:
    id: str
    time: datetime
    value: int
    model: str | None
    is_cancelled: bool = False

    def data(self) -> dict[str, Any]:
        return {"n": self.value, "model": self.model}


class Metering:
    """Meters of every aggregation over one type of event, on a bench's database."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.move_clock(NOW - timedelta(days=40))
        self.catalog: Catalog = bench.run(self._define())
        bench.move_clock(NOW)

    async def _define(self) -> Catalog:
        conn = self.bench.conn
        async with conn.transaction():
            for aggregation in AGGREGATIONS:
                await put(
                    conn,
                    Wanted(
                        key=aggregation,
                        event_type="call",
                        aggregation=aggregation,  # type: ignore[arg-type]
                        value_property=None if aggregation == "count" else "n",
                        group_by={"model": "model"},
                        filters={"property": "n", "lt": 5},
                        unit=None,
                        charge="events",
                    ),
                )
        return await catalog.read(conn)

    def play(self, customer_no: int, played: list[Any]) -> list[Event]:
        known: list[Event] = []
        for act in played:
            self.bench.run(self._act(customer_no, act, known))
        return known

    async def _act(self, customer_no: int, act: Send | Correct, known: list[Event]) -> None:
        conn = self.bench.conn
        async with conn.transaction():
            await catalog.hold(conn, known=self.catalog.version)
            if isinstance(act, Send):
                new = [
                    Event(
                        f"e{next(_names)}",
                        NOW - timedelta(minutes=15 * quarters, seconds=seconds),
                        value,
                        model,
                    )
                    for quarters, seconds, value, model in act.events
                ]
                facts = [
                    fact_of(
                        customer_no=customer_no,
                        source="s",
                        id=event.id,
                        type="call",
                        time=event.time,
                        received_at=NOW,
                        data=event.data(),
                    )
                    for event in new
                ]
                fates = await record(conn, [*facts, facts[0]], self.catalog)
                assert [one.fate for one in fates] == ["new"] * len(new) + ["duplicate"]
                known += new
                return
            if not known:
                return
            event = known[act.place % len(known)]
            if event.is_cancelled:
                return
            data = None if act.data is None else {"n": act.data[0], "model": act.data[1]}
            action: Literal["cancel", "replace"] = "cancel" if data is None else "replace"
            asked = Asked(
                customer_no=customer_no,
                correction_id=f"c{next(_names)}",
                source="s",
                id=event.id,
                action=action,
                data=data,
                time=None,
            )
            await corrections.correct(conn, asked, self.catalog, follow_nothing)
            event.is_cancelled = act.data is None
            if act.data is not None:
                event.value, event.model = act.data

    async def ask(
        self, customer_no: int, meter: Meter, cuts: list[datetime], width: Width, zone: str
    ) -> usage.UsageAnswer:
        conn = self.bench.conn
        async with conn.transaction():
            return await usage.read(
                conn,
                usage.Asked(
                    customer_no=customer_no,
                    customer_id="x",
                    meter=meter,
                    edges=cuts,
                    width=width,
                    zone=ZoneInfo(zone),
                    group_by=["model"],
                    filters={},
                ),
            )

    async def differences(self, customer_no: int) -> list[str]:
        found: list[str] = []
        async with self.bench.conn.transaction():
            for meter in self.catalog.by_no.values():
                first, last = NOW - timedelta(days=60), NOW + timedelta(days=30)
                piece = rebuild.Piece(customer_no, meter, first, last)
                found += await rebuild.compare(self.bench.conn, piece)
        return found


def aggregate(aggregation: str, found: list[Event]) -> str | None:
    """What an aggregation says of some events, the long way."""
    numbers = [event.value for event in found]
    if aggregation == "count":
        return str(len(found))
    if aggregation == "unique":
        return str(len(set(numbers)))
    if aggregation == "sum":
        return str(sum(numbers))
    if not found:
        return None
    if aggregation == "avg":
        exact = Decimal(sum(numbers)) / Decimal(len(numbers))
        return format(exact.quantize(Decimal("1e-18")).normalize(), "f")
    if aggregation == "latest":
        return str(max(found, key=lambda event: (event.time, event.id)).value)
    return str(min(numbers) if aggregation == "min" else max(numbers))


def window_of(at: datetime, width: Width, zone: str) -> Any:
    """A name of the window that a time lies in."""
    local = at.astimezone(ZoneInfo(zone))
    if width == "minute":
        return at.replace(second=0, microsecond=0)
    if width == "hour":
        return local.date(), local.hour, local.utcoffset()
    return local.date() if width == "day" else (local.year, local.month)


@pytest.fixture
def metering(database: Database) -> Generator[Metering]:
    bench = Bench(database)
    yield Metering(bench)
    bench.close()


def test_usage_is_what_a_naive_recomputation_gives(metering: Metering) -> None:
    @given(acts, st.sampled_from(ZONES), widths, times, st.integers(1, 35 * 96))
    @tries(60, 1_500)
    def holds(played: list[Any], zone: str, width: Width, back: int, length: int) -> None:
        [customer_no] = metering.bench.customers(1).values()
        known = metering.play(customer_no, played)
        last = NOW if back % 3 == 0 else NOW - timedelta(minutes=15 * back)
        length = min(length, 90) if width == "minute" else length
        first = last - timedelta(minutes=15 * length)
        cuts = edges(first, last, width, ZoneInfo(zone))
        counted = [
            event
            for event in known
            if first <= event.time < last and event.value < 5 and not event.is_cancelled
        ]
        for meter in metering.catalog.by_no.values():
            answer = metering.bench.run(metering.ask(customer_no, meter, cuts, width, zone))
            told = (meter.key, answer)
            assert answer.value == aggregate(meter.key, counted), told
            names = [window_of(window.from_, width, zone) for window in answer.windows]
            assert len(set(names)) == len(names), told
            assert {window_of(event.time, width, zone) for event in counted} <= set(names)
            for window, name in zip(answer.windows, names, strict=True):
                inside = [e for e in counted if window_of(e.time, width, zone) == name]
                assert window.value == aggregate(meter.key, inside), told
                groups = {one.dimensions["model"]: one.value for one in window.groups}
                assert groups == {
                    model: aggregate(meter.key, [e for e in inside if e.model == model])
                    for model in {event.model for event in inside}
                }, told
            if meter.key in ("count", "sum"):
                total = sum(int(window.value or 0) for window in answer.windows)
                assert str(total) == answer.value
                assert sum(int(one.value or 0) for one in answer.groups) == total
        assert metering.bench.run(metering.differences(customer_no)) == []

    holds()


def test_correction_under_a_used_name_is_a_conflict(metering: Metering) -> None:
    [customer_no] = metering.bench.customers(1).values()
    [event] = metering.play(customer_no, [Send(((0, 0, 1, "a"),))])

    async def twice() -> str:
        conn = metering.bench.conn
        async with conn.transaction():
            for data in ({"n": 2}, {"n": 3}):
                asked = Asked(
                    customer_no=customer_no,
                    correction_id="same",
                    source="s",
                    id=event.id,
                    action="replace",
                    data=data,
                    time=None,
                )
                try:
                    await corrections.correct(conn, asked, metering.catalog, follow_nothing)
                except ProblemError as error:
                    return error.code
        return "none"

    assert metering.bench.run(twice()) == "event_conflict"
