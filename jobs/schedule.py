"""The whole timetable, and the clock that goes by it.

A tick only says "look": each job finds what is not done yet, and a lease decides who does it. So
ticks may be late, missed or doubled, and every process may have its own clock.
"""

import logging
from datetime import UTC, datetime, timedelta
from typing import Final

from apscheduler.schedulers.asyncio import (  # pyright: ignore[reportMissingTypeStubs]
    AsyncIOScheduler,
)

from jobs.forget import forget_refusals
from jobs.runner import Job, Runner, Watch
from jobs.sweep import sweep

TIMETABLE: Final = (
    Job(
        name="sweep",
        every=timedelta(seconds=5),
        seconds_max=60,
        work=sweep,
        about="posts what time has done: expired holds and lots, periods that start, debts repaid",
    ),
    Job(
        name="forget_refusals",
        every=timedelta(days=1),
        seconds_max=900,
        work=forget_refusals,
        about="deletes refusals older than 30 days, expired tokens and old runs of jobs",
    ),
)

OBSERVE_EVERY: Final = timedelta(seconds=5)


class Clock:
    """Ticks for every job of `runner`, the first at once."""

    def __init__(self, runner: Runner, watch: Watch) -> None:
        # It would warn of a tick that comes while the last run still goes on: that is no fault.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        now = datetime.now(UTC)
        for job in runner.jobs.values():
            self._add(runner.tick, job.name, every=job.every, first=now)
        self._add(runner.observe, watch, every=OBSERVE_EVERY, first=now)

    def start(self) -> None:
        """Begin to tick in the running loop."""
        self._scheduler.start()

    def stop(self) -> None:
        """No more ticks. Runs under way go on: see `Runner.stop`."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _add(self, call: object, argument: object, *, every: timedelta, first: datetime) -> None:
        self._scheduler.add_job(  # pyright: ignore[reportUnknownMemberType]
            call, "interval", (argument,), seconds=every.total_seconds(), next_run_time=first
        )
