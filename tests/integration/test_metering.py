"""Metering on the database: what a charge records, what is to be priced, months, rebuilding."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from drawdown.cli import run
from jobs.runner import Runner
from jobs.schedule import TIMETABLE
from ledger import customers
from ledger.proofs import prove
from meter import raw, rebuild
from meter.catalog import CatalogChanged, hold
from meter.events import OUR_SOURCE, definition_of, look_up, record
from meter.readings import data_of
from meter.service import Config, Service
from sql.pool import Connection, Pool, transaction
from tests.metering import change_event, define, fact, take_in, use_something
from tests.servers import Database, connected

DAY = timedelta(days=1)


@pytest.fixture
async def service(pool: Pool) -> AsyncGenerator[Service]:
    async with transaction(pool) as conn:
        await customers.make_installation(conn, mode="sandbox", books_time_zone="UTC")
        await customers.make(conn, ["alice", "bob"], signup_due=False)
    started = await Service.start(pool, Config(is_sandbox=True))
    yield started
    await started.close()


@pytest.fixture
async def books(service: Service, database: Database) -> AsyncGenerator[Connection]:
    """A connection of its own, outside of any transaction."""
    async with connected(database.dsn) as conn:
        yield conn


# Events of charges


async def test_event_of_a_charge_is_read_by_its_meters_only(books: Connection) -> None:
    await define(books, "calls", charge="events")
    known = await define(books, "tokens", "sum", "use.n", group_by={"m": "m"}, charge="calls")
    meter = known.meters["tokens"]
    data = data_of(definition_of(meter), 7, {"m": "large"})
    one = await fact(books, 1, "c1", source=OUR_SOURCE, meters=(meter.meter_no,), data=data)
    assert await take_in(books, known, [one]) == ["new"]
    rows = await books.fetch("SELECT meter_no, dims, events, total FROM rollups")
    assert [tuple(row) for row in rows] == [(meter.meter_no, '["large"]', 1, 7)]
    assert await books.fetchval("SELECT count(*) FROM unrated_events") == 0
    assert await books.fetchval("SELECT count(*) FROM event_guards") == 0


async def test_event_from_outside_that_a_charge_recorded_is_a_duplicate(books: Connection) -> None:
    known = await define(books, "tokens", "sum", "n", group_by={"m": "m"}, charge="calls")
    meter = known.meters["tokens"]
    data = data_of(definition_of(meter), 7, {"m": "large"})
    charged = await fact(books, 1, "e1", meters=(meter.meter_no,), data=data)
    assert await take_in(books, known, [charged]) == ["new"]
    same = await fact(books, 1, "e1", data={"n": Decimal("7.0"), "m": "large", "more": True})
    other = await fact(books, 1, "e1", data={"n": 8, "m": "large"})
    assert await take_in(books, known, [same, other]) == ["duplicate", "conflict"]
    found = await look_up(books, [(1, "app", "e1"), (1, "app", "e2")])
    assert {key: stored.meters for key, stored in found.items()} == {
        (1, "app", "e1"): (meter.meter_no,)
    }


async def test_charge_of_an_event_that_came_before_is_a_duplicate(books: Connection) -> None:
    known = await define(books, "tokens", "sum", "n", charge="calls")
    meter = known.meters["tokens"]
    await take_in(books, known, [await fact(books, 1, "e1", data={"n": 7})])
    for quantity, fate in ((7, "duplicate"), (8, "conflict")):
        data = data_of(definition_of(meter), quantity, {})
        charged = await fact(books, 1, "e1", meters=(meter.meter_no,), data=data)
        assert await take_in(books, known, [charged]) == [fate]


async def test_catalog_that_changed_is_noticed_before_anything_is_written(
    books: Connection,
) -> None:
    known = await define(books, "calls")
    await define(books, "more")
    with pytest.raises(CatalogChanged):
        await take_in(books, known, [await fact(books, 1, "e1")])
    assert await books.fetchval("SELECT count(*) FROM event_guards") == 0


async def test_two_writers_of_the_same_events_queue_and_one_wins(
    books: Connection, database: Database
) -> None:
    known = await define(books, "calls")
    facts = [await fact(books, no, f"e{n}") for n in range(20) for no in (1, 2)]
    async with connected(database.dsn) as other:
        async with other.transaction():
            await hold(other, known=known.version)
            await record(other, facts[::-1], known)
            waiting = asyncio.create_task(take_in(books, known, facts))
            done, _ = await asyncio.wait([waiting], timeout=0.2)
            assert not done, "the identities are claimed: who comes later waits"
        assert await waiting == ["duplicate"] * 40


# What is to be priced


@pytest.mark.breaks_books  # what it takes for priced is not
async def test_what_is_to_be_priced_is_noted_for_meters_that_charge_events(
    books: Connection,
) -> None:
    await define(books, "free")
    await define(books, "calls", charge="events", filters={"property": "n", "gt": 0})
    await define(books, "tokens", "sum", "n", charge="events")
    known = await define(books, "largest", "max", "n", charge="events")
    facts = [await fact(books, 1, f"e{n}", data={"n": n}) for n in range(2)]
    await take_in(books, known, facts)
    names = {meter.meter_no: key for key, meter in known.meters.items()}
    events = await books.fetch("SELECT meter_no, id FROM unrated_events ORDER BY meter_no, id")
    windows = await books.fetch("SELECT meter_no, grain FROM unrated_windows")
    assert [(names[row[0]], row[1]) for row in events] == [
        ("calls", "e1"),
        ("tokens", "e0"),
        ("tokens", "e1"),
    ]
    assert {names[row[0]] for row in windows} == {"largest"}
    # What was priced is gone; a correction notes what it changes by window, or reads anew.
    await books.execute("DELETE FROM unrated_events")
    await books.execute("DELETE FROM unrated_windows")
    await change_event(books, known, 1, "e0", {"n": 5})
    events = await books.fetch("SELECT meter_no, id FROM unrated_events")
    windows = await books.fetch("SELECT meter_no FROM unrated_windows")
    assert [(names[row[0]], row[1]) for row in events] == [("calls", "e0")]
    assert [names[row[0]] for row in windows] == ["largest"]
    places = [(one.customer_no, one.source, one.id, one.time) for one in facts]
    current = await raw.current(books, places)
    assert {key[2]: one.data for key, one in current.items()} == {"e0": {"n": 5}, "e1": {"n": 1}}


# Months


async def test_months_are_made_ahead_and_dropped_after_their_time(
    service: Service, books: Connection
) -> None:
    runner = Runner(service, TIMETABLE)
    known = await define(books, "calls")
    await take_in(books, known, [await fact(books, 1, "e1")])
    first = await customers.now(books)
    made = await runner.run_now("event_partitions")
    assert made is not None
    assert made.error is None
    assert await books.fetchval("SELECT count(*) FROM event_months") == 4
    await customers.advance_clock(books, timedelta(days=400))
    kept = await runner.run_now("event_partitions")
    assert kept is not None
    assert kept.counts["months dropped"] <= 1
    await customers.advance_clock(books, timedelta(days=40))
    await runner.run_now("event_partitions")
    months = [row[0] for row in await books.fetch("SELECT month FROM event_months")]
    assert min(months) > date(first.year, first.month, 1)
    assert await books.fetchval("SELECT count(*) FROM events") == 0
    assert await books.fetchval("SELECT sum(events) FROM rollups") == 1, "what was counted stays"
    assert await prove(books) == []
    assert await rebuild.rebuild(service.pool, known.meters["calls"], customer_no=1) >= 1
    assert await books.fetchval("SELECT sum(events) FROM rollups") == 1


@pytest.mark.breaks_books  # what it takes for priced is not
async def test_month_with_something_to_be_priced_is_kept(
    service: Service, books: Connection
) -> None:
    known = await define(books, "calls", charge="events")
    await take_in(books, known, [await fact(books, 1, "e1")])
    await customers.advance_clock(books, timedelta(days=500))
    await Runner(service, TIMETABLE).run_now("event_partitions")
    assert await books.fetchval("SELECT count(*) FROM events") == 1
    await books.execute("DELETE FROM unrated_events")
    await Runner(service, TIMETABLE).run_now("event_partitions")
    assert await books.fetchval("SELECT count(*) FROM events") == 0


async def test_service_can_not_drop_a_month_that_is_young(books: Connection) -> None:
    known = await define(books, "calls")
    await take_in(books, known, [await fact(books, 1, "e1")])
    month = await books.fetchval("SELECT month FROM event_months")
    assert await books.fetchval("SELECT event_month_drop_v1($1)", month) is False
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await books.execute("DELETE FROM event_months")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await books.execute("DELETE FROM events")


async def test_identities_are_forgotten_after_their_time(
    service: Service, books: Connection
) -> None:
    known = await define(books, "calls")
    await take_in(books, known, [await fact(books, 1, "old")])
    await customers.advance_clock(books, timedelta(days=20))
    await take_in(books, known, [await fact(books, 1, "young")])
    await customers.advance_clock(books, timedelta(days=17))
    done = await Runner(service, TIMETABLE).run_now("forget_guards")
    assert done is not None
    assert done.counts == {"guards": 1}
    assert await books.fetchval("SELECT id FROM event_guards") == "young"


# Rebuilding


async def contents(conn: Connection) -> list[Any]:
    return [
        [tuple(row) for row in await conn.fetch(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4")]  # noqa: S608 (names from here)
        for table in ("rollups", "rollup_values", "meter_rejects")
    ]


async def test_rebuilding_gives_what_was_counted(service: Service, books: Connection) -> None:
    known = await use_something(books, [1, 2])
    before = await contents(books)
    await books.execute("UPDATE rollups SET events = events + 3, total = 0")
    await books.execute("DELETE FROM rollup_values")
    for meter in known.meters.values():
        await rebuild.rebuild(service.pool, meter)
        assert await rebuild.differences(service.pool, meter) == []
    after = await contents(books)
    assert [[row[:-1] for row in table] for table in after] == [
        [row[:-1] for row in table] for table in before
    ]


async def test_meter_defined_later_counts_the_past_once_it_is_rebuilt(
    service: Service, books: Connection
) -> None:
    known = await define(books, "calls")
    await take_in(books, known, [await fact(books, no, f"e{n}") for n in range(5) for no in (1, 2)])
    known = await define(books, "later")
    later = known.meters["later"]
    mine = "SELECT coalesce(sum(events), 0) FROM rollups WHERE meter_no = $1"
    # A correction of what it has not counted takes nothing out of it.
    await take_in(books, known, [await fact(books, 1, "new")])
    await change_event(books, known, 1, "e0", None)
    assert await books.fetchval(mine, later.meter_no) == 1
    await rebuild.rebuild(service.pool, later, customer_no=1)
    assert await books.fetchval(mine, later.meter_no) == 5, "e1 to e4, and new"
    await change_event(books, known, 1, "e1", None)
    assert await books.fetchval(mine, later.meter_no) == 4
    await rebuild.rebuild(service.pool, later)
    assert await books.fetchval(mine, later.meter_no) == 9
    assert await books.fetchval("SELECT count(*) FROM unrated_events") == 0


async def test_rebuilding_beside_intake_loses_and_doubles_nothing(
    service: Service, books: Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "PIECE_EVENTS_MAX", 10)
    known = await define(books, "tokens", "sum", "n")
    now = await customers.now(books)

    async def send(name: str) -> None:
        async with connected(database.dsn) as conn:
            for n in range(20):
                at = now - timedelta(minutes=16 * n)
                sent = [
                    await fact(conn, 1, f"{name}-{n}-{k}", time=at, data={"n": 1}) for k in range(3)
                ]
                assert await take_in(conn, known, sent) == ["new"] * 3

    sending = asyncio.gather(send("a"), send("b"))
    rounds = 0
    while not sending.done() or rounds == 0:
        await rebuild.rebuild(service.pool, known.meters["tokens"])
        rounds += 1
    await sending
    assert await books.fetchval("SELECT sum(total) FROM rollups") == 120
    assert await rebuild.differences(service.pool, known.meters["tokens"]) == []


# Commands


def command(url: str, *arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        return run(["usage", *arguments])


async def test_command_compares_and_rebuilds(
    books: Connection, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    await use_something(books, [1, 2])

    async def call(*arguments: str) -> tuple[int, str]:
        code = await asyncio.to_thread(command, database.dsn, *arguments)
        told = capsys.readouterr()
        return code, told.out + told.err

    code, text = await call("rebuild", "--check")
    assert (code, text) == (0, "5 meters compared: 0 differences\n")
    await books.execute("UPDATE rollups SET total = 99 WHERE customer_no = 1 AND total IS NOT NULL")
    code, text = await call("rebuild", "--check", "tokens")
    assert code == 1
    assert "tokens, customer no. 1" in text
    assert (await call("rebuild", "--check", "tokens", "--customer", "bob"))[0] == 0
    code, text = await call("rebuild", "tokens", "--customer", "alice")
    assert (code, text.startswith("tokens: counted again in ")) == (0, True)
    assert (await call("rebuild", "--check", "--json"))[0] == 0
    for wrong in (["nothing"], ["--customer", "nobody"]):
        code, text = await call("rebuild", *wrong)
        assert code == 1
        assert text.startswith("drawdown: there is no ")


async def test_command_exports_a_month_of_events(
    books: Connection, database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await use_something(books, [1, 2])
    now = (await customers.now(books)).astimezone(UTC)
    file = tmp_path / "events.jsonl"
    asked = "export-month", f"{now:%Y-%m}", str(file)
    assert await asyncio.to_thread(command, database.dsn, *asked) == 0
    assert "10 events of" in capsys.readouterr().out
    lines = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    of_alice = {line["id"]: line for line in lines if line["subject"] == "alice"}
    assert of_alice["e1"]["data"] == {"n": 2, "m": "a\ttab", "user": "u1"}
    assert of_alice["e3"]["correction"]["action"] == "cancel"
    assert of_alice["e4"]["correction"]["data"]["n"] == "0.5"
    assert of_alice["c1"]["meters"] == ["calls"]
    assert datetime.fromisoformat(of_alice["e1"]["time"]) <= now
    assert await asyncio.to_thread(command, database.dsn, *asked) == 1, "the file is there"
