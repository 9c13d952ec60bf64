"""Jobs: led by a lease, recorded, stopped in time; and what each of them does."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from jobs import forget, runner, schedule
from jobs.leases import LeaseLost, take
from jobs.runner import Counts, Job, Run, Runner, together
from jobs.schedule import TIMETABLE, Clock
from ledger import customers
from meter import auth
from meter.observe import Metrics
from meter.service import Config, Service
from sql.pool import Pool, transaction
from tests.integration.player import Player
from tests.servers import Database, connected

DAY = timedelta(days=1)


@pytest.fixture
async def service(pool: Pool) -> AsyncGenerator[Service]:
    """The books of a sandbox, without HTTP."""
    async with transaction(pool) as conn:
        await customers.make_installation(conn, mode="sandbox", books_time_zone="UTC")
    started = await Service.start(pool, Config(is_sandbox=True))
    yield started
    await started.close()


def job(
    work: Callable[[Run], Awaitable[Counts]],
    *,
    every: timedelta = DAY,
    seconds_max: float = 60,
) -> Job:
    return Job(name="try", every=every, seconds_max=seconds_max, work=work, about="for a test")


async def nothing(_: Run) -> Counts:
    return {}


class Held:
    """A job that waits in the middle until it is let go."""

    def __init__(self) -> None:
        self.begun, self.let_go = asyncio.Event(), asyncio.Event()
        self.runs = 0

    async def __call__(self, run: Run) -> Counts:
        self.runs += 1
        self.begun.set()
        await self.let_go.wait()
        async with run.transaction() as conn:
            await conn.execute("UPDATE installation SET closed_through = '2020-01-31'")
        return {"written": 1}


async def runs_of(pool: Pool) -> list[asyncpg.Record]:
    async with transaction(pool) as conn:
        return await conn.fetch("SELECT * FROM job_runs ORDER BY run_no")


async def let_lease_end(pool: Pool) -> None:
    """What the passing of time does to the lease of a process that renews it no more."""
    async with transaction(pool) as conn:
        await conn.execute("UPDATE job_leases SET expires_at = clock_timestamp()")


async def written(pool: Pool) -> bool:
    async with transaction(pool) as conn:
        return await conn.fetchval("SELECT closed_through IS NOT NULL FROM installation")


# Leases


async def test_two_runners_one_runs_and_the_other_leaves_it(service: Service) -> None:
    held = Held()
    first, second = Runner(service, [job(held)]), Runner(service, [job(held)])
    leading = asyncio.create_task(first.tick("try"))
    await held.begun.wait()

    assert await second.tick("try") is None
    [status] = await second.timetable()
    assert status.running_on == first.holder
    assert status.last_run is not None
    assert status.last_run.finished_at is None

    held.let_go.set()
    done = await leading
    assert done is not None
    assert (done.counts, done.error, held.runs) == ({"written": 1}, None, 1)
    [status] = await second.timetable()
    assert (status.running_on, status.last_run) == (None, done)


async def test_tick_of_another_process_just_after_a_run_leaves_it(service: Service) -> None:
    first, second = Runner(service, [job(nothing)]), Runner(service, [job(nothing)])

    assert await first.tick("try") is not None
    assert await second.tick("try") is None
    assert await second.run_now("try") is not None, "somebody asked for it"
    assert len(await runs_of(service.pool)) == 2


async def test_run_dated_in_the_future_holds_up_nobody(service: Service) -> None:
    """The clock of the database went back."""
    async with transaction(service.pool) as conn:
        await conn.execute(
            "INSERT INTO job_runs (job, started_at, finished_at)"
            " VALUES ('try', clock_timestamp() + interval '5 min', clock_timestamp())"
        )
    assert await Runner(service, [job(nothing)]).tick("try") is not None


async def test_run_that_is_asked_for_waits_for_the_one_under_way(service: Service) -> None:
    held = Held()
    first, second = Runner(service, [job(held)]), Runner(service, [job(held)])
    leading = asyncio.create_task(first.tick("try"))
    await held.begun.wait()
    asked = asyncio.create_task(second.run_now("try"))
    held.let_go.set()

    assert (await leading, await asked) != (None, None)
    ends = [run["finished_at"] for run in await runs_of(service.pool)]
    starts = [run["started_at"] for run in await runs_of(service.pool)]
    assert ends[0] <= starts[1]


async def test_run_that_lost_its_lease_writes_nothing(service: Service) -> None:
    held = Held()
    first, second = Runner(service, [job(held)]), Runner(service, [job(nothing, every=DAY / 1e6)])
    leading = asyncio.create_task(first.run_now("try"))
    await held.begun.wait()
    await let_lease_end(service.pool)
    assert await second.run_now("try") is not None

    held.let_go.set()
    with pytest.raises(LeaseLost, match="the lease of try went to another run"):
        await leading

    assert not await written(service.pool)
    lost, kept = await runs_of(service.pool)
    assert lost["error"] == "did not end: its process was killed or too slow"
    assert (kept["error"], kept["finished_at"] is None) == (None, False)


PAUSED = """
import asyncio, sys
from jobs.runner import Job, Runner
from jobs.schedule import timedelta
from meter.service import Config, Service
from sql.pool import open_pool

async def main():
    pool = await open_pool(sys.argv[1], size=3)
    service = await Service.start(pool, Config())

    async def work(run):
        print("begun", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        async with run.transaction() as conn:
            await conn.execute("UPDATE installation SET closed_through = '2020-01-31'")
        return {}

    every = timedelta(days=1)
    job = Job(name="try", every=every, seconds_max=60, work=work, about="")
    try:
        await Runner(service, [job]).run_now("try")
    except Exception as error:
        print(type(error).__name__, flush=True)

asyncio.run(main())
"""


async def test_process_paused_past_its_lease_is_fenced_off(
    service: Service, database: Database
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PAUSED, database.dsn),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert await process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGSTOP)
    await let_lease_end(service.pool)
    assert await Runner(service, [job(nothing)]).run_now("try") is not None

    process.send_signal(signal.SIGCONT)
    process.stdin.write(b"go on\n")
    assert await process.stdout.readline() == b"LeaseLost\n"
    assert await process.wait() == 0
    assert not await written(service.pool)


async def test_killed_run_is_told_of_and_the_next_one_goes_on(service: Service) -> None:
    async with transaction(service.pool) as conn:
        assert await take(conn, "try", "a process that was killed") is not None
        await conn.execute(
            "INSERT INTO job_runs (job, started_at) VALUES ('try', clock_timestamp())"
        )
    only = Runner(service, [job(nothing)])
    assert await only.tick("try") is None
    await let_lease_end(service.pool)

    assert await only.run_now("try") is not None
    killed, done = await runs_of(service.pool)
    assert killed["error"] == "did not end: its process was killed or too slow"
    assert done["error"] is None


async def test_lease_is_renewed_while_a_run_goes_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LEASE", timedelta(milliseconds=30))
    held = Held()
    only = Runner(service, [job(held)])
    leading = asyncio.create_task(only.run_now("try"))
    await held.begun.wait()

    async def ends() -> Any:
        async with transaction(service.pool) as conn:
            return await conn.fetchval("SELECT expires_at FROM job_leases")

    first = await ends()
    async with asyncio.timeout(10):
        while await ends() == first:
            pass
    held.let_go.set()
    assert await leading is not None


# Runs


async def test_failed_run_is_recorded_and_the_next_may_succeed(service: Service) -> None:
    outcomes = [ValueError("no such day"), None]

    async def work(_: Run) -> Counts:
        if (error := outcomes.pop(0)) is not None:
            raise error
        return {"days": 3}

    only = Runner(service, [job(work)])
    failed = await only.run_now("try")
    assert failed is not None
    assert failed.error == "ValueError: no such day"

    done = await only.run_now("try")
    assert done is not None
    assert (done.counts, done.error) == ({"days": 3}, None)


async def test_run_that_fails_ends_once_all_that_it_began_has_ended(service: Service) -> None:
    """The next run would begin beside it, and the process would stop under it."""
    failed, ended = asyncio.Event(), asyncio.Event()
    seen: list[bool] = []

    async def fail() -> None:
        failed.set()
        raise ValueError("no such day")

    async def go_on() -> None:
        await failed.wait()
        async with transaction(service.pool) as conn:
            await conn.execute("UPDATE installation SET closed_through = '2020-01-31'")
        ended.set()

    async def work(_: Run) -> Counts:
        try:
            await together([fail(), go_on()])
        finally:
            seen.append(ended.is_set())
        return {}

    run = await Runner(service, [job(work)]).run_now("try")
    assert seen == [True]
    assert run is not None
    assert run.error == "ValueError: no such day"


async def test_run_that_takes_too_long_is_ended(service: Service) -> None:
    held = Held()
    ended = await Runner(service, [job(held, seconds_max=0.05)]).run_now("try")

    assert ended is not None
    assert ended.error == "took longer than 0.05 s; the next run goes on"
    assert not await written(service.pool)


async def test_stop_waits_for_a_run_that_ends(service: Service) -> None:
    held = Held()
    only = Runner(service, [job(held)])
    leading = asyncio.create_task(only.tick("try"))
    await held.begun.wait()
    stop = asyncio.create_task(only.stop())
    held.let_go.set()
    await stop

    done = await leading
    assert done is not None
    assert done.error is None


async def test_stop_cuts_short_a_run_that_does_not_end_and_frees_its_lease(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STOP_SECONDS_MAX", 0.05)
    held = Held()
    only = Runner(service, [job(held)])
    leading = asyncio.create_task(only.tick("try"))
    await held.begun.wait()
    await only.stop()

    done = await leading
    assert done is not None
    assert done.error == "was cut short: its process stopped; the next run goes on"
    assert await Runner(service, [job(nothing)]).run_now("try") is not None


async def test_run_of_an_unknown_name_is_none(service: Service) -> None:
    assert await Runner(service, TIMETABLE).run("no-such-job") is None


async def test_clock_ticks_again_and_again_and_stops(service: Service) -> None:
    thrice = asyncio.Event()
    count = 0

    async def work(_: Run) -> Counts:
        nonlocal count
        count += 1
        if count == 3:
            thrice.set()
        return {}

    only = Runner(service, [job(work, every=timedelta(milliseconds=20))])
    clock = Clock(only, Metrics())
    clock.start()
    async with asyncio.timeout(10):
        await thrice.wait()
    clock.stop()
    await only.stop()
    errors = [run["error"] for run in await runs_of(service.pool)]
    assert errors == [None] * len(errors)


class Looks:
    """Counts how often the jobs were observed."""

    def __init__(self) -> None:
        self.count, self.once = 0, asyncio.Event()

    def job_overdue(self, job: str, seconds: float) -> None:
        pass

    def holds_overdue(self, count: int) -> None:
        self.count += 1
        self.once.set()


async def test_clock_ticks_on_when_the_clock_of_the_host_is_set_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "OBSERVE_EVERY", DAY)
    monkeypatch.setattr(schedule, "LOOK_SECONDS", 0.01)
    shift, looks = 0.0, Looks()
    clock = Clock(Runner(service, []), looks, wall=lambda: time.time() + shift)
    clock.start()
    async with asyncio.timeout(10):
        await looks.once.wait()
        looks.once.clear()
        shift = -3_600.0
        await looks.once.wait()
    clock.stop()
    assert looks.count == 2


async def test_overdue_counts_from_the_last_success(service: Service) -> None:
    async with transaction(service.pool) as conn:
        await conn.execute(
            "INSERT INTO job_runs (job, started_at, finished_at, error)"
            " SELECT 'try', t, t, e FROM (VALUES"
            " (clock_timestamp() - interval '100 s', NULL),"
            " (clock_timestamp() - interval '1 s', 'failed')) AS v (t, e)"
        )
    [status] = await Runner(service, [job(nothing, every=timedelta(seconds=40))]).timetable()
    assert 60 <= status.overdue_seconds < 70


# What the jobs do


async def test_sweep_ends_what_time_has_ended_and_the_gauges_tell(
    service: Service, database: Database
) -> None:
    async with connected(database.dsn) as conn:
        player = await Player.enter(conn)
        await player.grant(10)
        assert await player.reserve(4, seconds=5) is not None
        await player.wait(6)
    metrics = Metrics()
    only = Runner(service, TIMETABLE)
    await only.observe(metrics)
    assert b"drawdown_holds_overdue 1.0" in metrics.exposition()[0]

    done = await only.run_now("sweep")

    assert done is not None
    assert done.counts == {"customers": 1}
    async with transaction(service.pool) as conn:
        assert await conn.fetchval("SELECT status FROM holds") == "expired"
    await only.observe(metrics)
    text = metrics.exposition()[0]
    assert b"drawdown_holds_overdue 0.0" in text
    assert b'drawdown_job_overdue_seconds{job="sweep"} 0.0' in text


async def test_forget_deletes_refusals_after_thirty_days_and_no_success(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forget, "ROWS_MAX", 2)
    async with connected(database.dsn) as conn:
        player = await Player.enter(conn)
        await player.grant(10)
        for _ in range(5):
            assert await player.reserve(11) is None
        await player.wait(30 * 86_400 - 60)
        assert await player.reserve(12) is None
    only = Runner(service, TIMETABLE)

    early = await only.run_now("forget_refusals")
    async with connected(database.dsn) as conn:
        await customers.advance_clock(conn, timedelta(minutes=2))
    done = await only.run_now("forget_refusals")

    assert early is not None
    assert done is not None
    assert (early.counts["refusals"], done.counts["refusals"]) == (0, 5)
    async with transaction(service.pool) as conn:
        kept = await conn.fetch("SELECT status FROM requests ORDER BY status")
    assert [row["status"] for row in kept] == [201, 402]


async def test_forget_deletes_tokens_long_after_their_end_and_no_key(
    service: Service, database: Database
) -> None:
    async with connected(database.dsn) as conn:
        player = await Player.enter(conn)
        parent, _ = await auth.create_key(conn, name="parent", scopes=["customers:read"])
        await auth.create_key(
            conn, name="ended", scopes=["admin"], expires_at=datetime.now(UTC) + DAY
        )
        await conn.execute(
            "INSERT INTO api_keys"
            " (hash, kind, name, scopes, customer_no, parent_no, created_at, expires_at)"
            " SELECT sha256(n::text::bytea), 'token', '', '{customers:read}', $1, $2, now(),"
            " now() + n * interval '1 day' FROM generate_series(1, 3) AS n",
            player.no,
            parent.key_no,
        )
        await player.wait(32.5 * 86_400)

    done = await Runner(service, TIMETABLE).run_now("forget_refusals")

    assert done is not None
    assert done.counts["tokens"] == 2
    async with transaction(service.pool) as conn:
        kinds = await conn.fetch("SELECT kind FROM api_keys ORDER BY key_no")
    assert [row["kind"] for row in kinds] == ["key", "key", "token"]


async def test_forget_deletes_old_runs(service: Service) -> None:
    async with transaction(service.pool) as conn:
        await conn.execute(
            "INSERT INTO job_runs (job, started_at) VALUES"
            " ('sweep', clock_timestamp() - interval '8 days'),"
            " ('sweep', clock_timestamp() - interval '6 days')"
        )
    done = await Runner(service, TIMETABLE).run_now("forget_refusals")
    assert done is not None
    assert done.counts["runs"] == 1


async def test_paused_job_is_run_by_hand_only_until_it_is_resumed(service: Service) -> None:
    first = Runner(service, [job(nothing)])
    assert await first.tick("try") is not None
    paused = await first.pause("try")
    assert paused is not None
    assert paused.paused_at is not None
    async with transaction(service.pool) as conn:
        await conn.execute("UPDATE job_runs SET started_at = started_at - interval '2 days'")
    assert await first.tick("try") is None
    assert await first.run_now("try") is not None
    assert await first.tick("try") is None
    again = await first.pause("try")
    assert again is not None
    assert again.paused_at == paused.paused_at
    resumed = await first.pause("try", resume=True)
    assert resumed is not None
    assert resumed.paused_at is None
    async with transaction(service.pool) as conn:
        await conn.execute("UPDATE job_runs SET started_at = started_at - interval '2 days'")
    assert await first.tick("try") is not None
    assert await first.pause("nope") is None


async def test_job_that_is_late_is_warned_of_once(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    late = Runner(service, [job(nothing, every=timedelta(seconds=1))])
    assert await late.tick("try") is not None
    async with transaction(service.pool) as conn:
        await conn.execute(
            "UPDATE job_runs SET started_at = started_at - interval '1 day',"
            " finished_at = finished_at - interval '1 day'"
        )
    watch = Metrics()
    for _ in range(3):
        await late.observe(watch)
    assert capsys.readouterr().out.count("job_overdue") == 1
    assert await late.run_now("try") is not None
    await late.observe(watch)
    assert capsys.readouterr().out.count("job_on_time_again") == 1
