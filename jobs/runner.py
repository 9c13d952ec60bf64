"""Runs jobs: takes the lease, records the run, keeps the lease alive, ends what takes too long.

A job is a plain async function that finds what is not done yet and does some of it in short
transactions. So a run that is missed, doubled, late or killed does no harm: the next one finds the
rest. Nothing here knows when jobs run: that is `jobs.schedule`.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeVar, cast

import msgspec
import structlog
from msgspec import Struct

from jobs import leases
from jobs.leases import LEASE, Lease, LeaseHeld, LeaseLost
from meter.problems import ProblemError
from meter.service import Service
from sql import queries
from sql.errors import DatabaseFault
from sql.pool import Connection, transaction

WAIT_SECONDS_MAX: Final = 20.0
"""How long a run that somebody asked for waits for the one under way."""
WAIT_STEP_SECONDS: Final = 0.1
STOP_SECONDS_MAX: Final = 5.0
"""How long a run may go on once the process stops; then it is cancelled between two steps."""
LATE_SECONDS_MIN: Final = 60.0
"""A job that is late by less than this is not worth a warning."""
ERROR_CHARS_MAX: Final = 500
APART: Final = 0.75
"""Of the time between two runs: sooner than that the clock of another process does not run it."""

Counts = Mapping[str, int]
"""What a run did: a word and a number each."""
T = TypeVar("T")

log = structlog.get_logger()


class Job(Struct, frozen=True, kw_only=True):
    """One line of the timetable."""

    name: str
    every: timedelta
    seconds_max: float
    """A run that takes longer is cancelled; the next one goes on."""
    work: Callable[["Run"], Awaitable[Counts]]
    about: str


class JobRun(Struct, frozen=True, kw_only=True):
    """One run as it is recorded. Times are real, also in a sandbox."""

    started_at: datetime
    finished_at: datetime | None
    counts: dict[str, int]
    error: str | None


class JobStatus(Struct, frozen=True, kw_only=True):
    """A job and how it is doing."""

    name: str
    about: str
    every_seconds: int
    running_on: str | None
    """The process that runs it now."""
    paused_at: datetime | None
    """Since when the clock does not run it; by hand it can be run."""
    last_run: JobRun | None
    next_due_at: datetime | None
    overdue_seconds: float
    """How long ago it should have succeeded again; 0 if it is on time."""


class Watch(Protocol):
    """Where the state of the jobs is reported."""

    def job_overdue(self, job: str, seconds: float) -> None: ...
    def holds_overdue(self, count: int) -> None: ...


class Run:
    """What a job is given: the service, a fenced way to write, and the wish to stop."""

    def __init__(self, service: Service, lease: Lease, stopping: asyncio.Event) -> None:
        self.service, self.lease, self.stopping = service, lease, stopping

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """A transaction that commits only as long as this run has its lease. Raises LeaseLost."""
        async with transaction(self.service.pool) as conn:
            await leases.hold(conn, self.lease)
            yield conn


class Runner:
    """Runs the jobs of a timetable in this process. Answers `GET /v1/jobs` and runs by hand."""

    def __init__(self, service: Service, jobs: Sequence[Job]) -> None:
        self.service = service
        self.jobs = {job.name: job for job in jobs}
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.stopping = asyncio.Event()
        self._running: set[asyncio.Task[JobRun]] = set()
        self._works: set[asyncio.Future[Counts]] = set()
        self._late: set[str] = set()

    async def tick(self, name: str) -> JobRun | None:
        """The clock says so: run the job, unless another process does or just did. Never raises."""
        job = self.jobs[name]
        try:
            return await self._in_task(job, apart=job.every * APART)
        except LeaseHeld:
            return None
        except (DatabaseFault, LeaseLost) as fault:
            log.warning("job_skipped", job=name, error=str(fault))
        except Exception:
            log.exception("job_failed", job=name)
        return None

    async def run_now(self, name: str) -> JobRun | None:
        """Run a job that somebody asked for, after the run under way, if any. None: no such job.

        A job that fails is a run with an `error`. Raises LeaseHeld, LeaseLost, DatabaseFault.
        """
        if (job := self.jobs.get(name)) is None:
            return None
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS_MAX
        while True:
            try:
                return await self._in_task(job, apart=None)
            except LeaseHeld:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(WAIT_STEP_SECONDS)

    async def run(self, name: str) -> JobRun | None:
        """As `run_now`, for a route: a job that is still busy is a 503."""
        try:
            return await self.run_now(name)
        except (LeaseHeld, LeaseLost) as held:
            raise ProblemError(503, "busy", f"{held}. Try again when that has ended.") from held

    def names(self) -> Sequence[str]:
        """Of every job, in the order of the timetable."""
        return list(self.jobs)

    async def timetable(self) -> Sequence[JobStatus]:
        """Every job and how it is doing."""
        jobs = list(self.jobs.values())
        seconds = [job.every.total_seconds() for job in jobs]
        async with transaction(self.service.pool) as conn:
            rows = await conn.fetch(queries.jobs_read, [job.name for job in jobs], seconds)
        return [
            JobStatus(
                name=job.name,
                about=job.about,
                every_seconds=int(job.every.total_seconds()),
                running_on=row["holder"],
                paused_at=row["paused_at"],
                last_run=None if row["started_at"] is None else _run_of(*tuple(row)[1:5]),
                next_due_at=row["started_at"] and row["started_at"] + job.every,
                overdue_seconds=round(row["overdue_seconds"], 3),
            )
            for job, row in zip(jobs, rows, strict=True)
        ]

    async def pause(self, name: str, *, resume: bool = False) -> JobStatus | None:
        """Let the clock run a job no more, or again: how it is doing then. None: no such job."""
        if name not in self.jobs:
            return None
        async with transaction(self.service.pool) as conn:
            await conn.execute(queries.job_resume if resume else queries.job_pause, name)
        return next(one for one in await self.timetable() if one.name == name)

    async def observe(self, watch: Watch) -> None:
        """Report how late the jobs and the holds are. Never raises."""
        try:
            statuses = await self.timetable()
            async with transaction(self.service.pool) as conn:
                holds: int = await conn.fetchval(queries.holds_overdue)
        except DatabaseFault as fault:
            log.warning("jobs_unobserved", error=str(fault))
            return
        for status in statuses:
            watch.job_overdue(status.name, status.overdue_seconds)
            self._warn(status)
        watch.holds_overdue(holds)

    def _warn(self, status: JobStatus) -> None:
        """Say once that a job is late by more than its time, and once that it has run again."""
        is_late = status.overdue_seconds > max(LATE_SECONDS_MIN, status.every_seconds)
        if is_late == (status.name in self._late):
            return
        if is_late:
            self._late.add(status.name)
            log.warning(
                "job_overdue",
                job=status.name,
                seconds=round(status.overdue_seconds),
                paused=status.paused_at is not None,
                error=None if status.last_run is None else status.last_run.error,
            )
        else:
            self._late.discard(status.name)
            log.info("job_on_time_again", job=status.name)

    async def stop(self) -> None:
        """Let running jobs end, cancel those that don't in time, free their leases."""
        self.stopping.set()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=STOP_SECONDS_MAX)
            for work in self._works:
                work.cancel()
            if late:
                await asyncio.wait(late, timeout=STOP_SECONDS_MAX)

    async def _in_task(self, job: Job, *, apart: timedelta | None) -> JobRun:
        """A run in a task of its own: it goes on if whoever asked for it goes away."""
        task = asyncio.create_task(self._lead(job, apart), name=f"job-{job.name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _lead(self, job: Job, apart: timedelta | None) -> JobRun:
        """Take the lease, run, record. Raises LeaseHeld, LeaseLost, DatabaseFault."""
        async with transaction(self.service.pool) as conn:
            lease = await leases.take(conn, job.name, self.holder, apart=apart)
            if lease is None:
                raise LeaseHeld(job.name, await leases.holder(conn, job.name))
            await conn.execute(
                queries.run_abandon, job.name, "did not end: its process was killed or too slow"
            )
            begun = await conn.fetchrow(queries.run_start, job.name)
        assert begun is not None, "an INSERT with RETURNING has a row"
        counts, error = await self._work(job, lease)
        async with transaction(self.service.pool) as conn:
            await leases.hold(conn, lease)
            text = msgspec.json.encode(counts).decode()
            finished_at = await conn.fetchval(queries.run_finish, begun["run_no"], text, error)
            await leases.release(conn, lease)
        return _run_of(begun["started_at"], finished_at, text, error)

    async def _work(self, job: Job, lease: Lease) -> tuple[Counts, str | None]:
        """Do the work with the lease kept alive: what it did, and what went wrong.

        Raises LeaseLost.
        """
        run = Run(self.service, lease, self.stopping)
        work = asyncio.ensure_future(job.work(run))
        self._works.add(work)
        keeper = asyncio.create_task(self._keep(lease, work))
        try:
            async with asyncio.timeout(job.seconds_max):
                return await work, None
        except TimeoutError:
            error = f"took longer than {job.seconds_max:g} s; the next run goes on"
        except asyncio.CancelledError:
            if not work.cancelled():  # this task, not the work
                raise
            if not self.stopping.is_set():
                raise LeaseLost(job.name) from None
            error = "was cut short: its process stopped; the next run goes on"
        except LeaseLost:
            raise
        except Exception as fault:
            if not isinstance(fault, DatabaseFault):
                log.exception("job_failed", job=job.name)
            error = f"{type(fault).__name__}: {fault}"[:ERROR_CHARS_MAX]
        finally:
            self._works.discard(work)
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
        log.warning("job_incomplete", job=job.name, error=error)
        return {}, error

    async def _keep(self, lease: Lease, work: asyncio.Future[Counts]) -> None:
        """Renew the lease in time; end the work if it is lost."""
        while True:
            await asyncio.sleep(LEASE.total_seconds() / 3)
            try:
                async with transaction(self.service.pool) as conn:
                    await leases.renew(conn, lease)
            except LeaseLost:
                work.cancel()
                return
            except DatabaseFault as fault:
                # The work itself meets the same; another renewal is due soon.
                log.warning("lease_not_renewed", job=lease.job, error=str(fault))


async def together(works: Iterable[Awaitable[T]]) -> list[T]:
    """What each of some works done at once came to. Raises what the first that failed raised.

    Only when none goes on: a run that ends gives up its lease, and the next one begins.
    """
    ends = await asyncio.gather(*works, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return cast("list[T]", ends)


def _run_of(
    started_at: datetime, finished_at: datetime | None, counts: str, error: str | None
) -> JobRun:
    return JobRun(
        started_at=started_at,
        finished_at=finished_at,
        counts=msgspec.json.decode(counts, type=dict[str, int]),
        error=error,
    )
