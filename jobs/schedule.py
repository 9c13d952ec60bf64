"""The whole timetable, and the clock that goes by it.

A tick only says "look": each job finds what is not done yet, and a lease decides who does it. So
ticks may be late, missed or doubled, and every process may have its own clock.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from apscheduler.job import Job as Entry  # pyright: ignore[reportMissingTypeStubs]
from apscheduler.schedulers.asyncio import (  # pyright: ignore[reportMissingTypeStubs]
    AsyncIOScheduler,
)

from jobs.auto_top_up import auto_top_up
from jobs.confirm_usage import confirm_usage
from jobs.event_months import event_partitions
from jobs.forget import forget_guards, forget_refusals
from jobs.move_plans import move_plans
from jobs.prove import prove_books
from jobs.rate_usage import rate_usage
from jobs.recognise import recognise
from jobs.report_usage import report_usage
from jobs.runner import Job, Runner, Watch
from jobs.stripe_inbox import stripe_inbox
from jobs.stripe_outbox import stripe_outbox
from jobs.stripe_sweep import stripe_sweep
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
        name="rate_usage",
        every=timedelta(seconds=15),
        seconds_max=300,
        work=rate_usage,
        about="charges events of meters with `charge: events`, and windows that have closed",
    ),
    Job(
        name="stripe_inbox",
        every=timedelta(seconds=2),
        seconds_max=600,
        work=stripe_inbox,
        about="applies what Stripe told: credits what was paid, takes back what was refunded",
    ),
    Job(
        name="stripe_outbox",
        every=timedelta(seconds=5),
        seconds_max=300,
        work=stripe_outbox,
        about="asks Stripe for what nobody waits for: refunds, items of late usage",
    ),
    Job(
        name="move_plans",
        every=timedelta(minutes=5),
        seconds_max=3_000,
        work=move_plans,
        about="takes subscribers along to a version of their plan with `apply_to: next_period`",
    ),
    Job(
        name="auto_top_up",
        every=timedelta(seconds=5),
        seconds_max=300,
        work=auto_top_up,
        about="buys a pack by the saved card where credit is at or below the customer's threshold",
    ),
    Job(
        name="report_usage",
        every=timedelta(seconds=60),
        seconds_max=3_000,
        work=report_usage,
        about="tells Stripe what subscriptions bill by use, hour by hour",
    ),
    Job(
        name="confirm_usage",
        every=timedelta(minutes=5),
        seconds_max=3_000,
        work=confirm_usage,
        about="compares what Stripe counted with what it was told; closes periods that are billed",
    ),
    Job(
        name="stripe_sweep",
        every=timedelta(minutes=10),
        seconds_max=600,
        work=stripe_sweep,
        about="reads Stripe's own lists for what no delivery told",
    ),
    Job(
        name="recognise",
        every=timedelta(days=1),
        seconds_max=7_200,
        work=recognise,
        about="posts revenue of paid credits that were used and breakage of those that ran out",
    ),
    Job(
        name="prove_books",
        every=timedelta(days=1),
        seconds_max=7_200,
        work=prove_books,
        about="proves every invariant of the books but the chain, as `drawdown verify` does",
    ),
    Job(
        name="forget_refusals",
        every=timedelta(days=1),
        seconds_max=900,
        work=forget_refusals,
        about="deletes refusals older than 30 days, expired tokens and old runs of jobs",
    ),
    Job(
        name="forget_guards",
        every=timedelta(days=1),
        seconds_max=1_800,
        work=forget_guards,
        about="deletes identities of events older than 36 days, of which no duplicate can come",
    ),
    Job(
        name="event_partitions",
        every=timedelta(hours=6),
        seconds_max=300,
        work=event_partitions,
        about="makes the months ahead of raw events, drops those past their retention",
    ),
)

OBSERVE_EVERY: Final = timedelta(seconds=5)
LOOK_SECONDS: Final = 5.0
JUMP_SECONDS_MIN: Final = 2.0
"""A smaller step of the host's clock makes a tick no later than that."""


class Clock:
    """Ticks for every job of `runner`, the first at once."""

    def __init__(
        self, runner: Runner, watch: Watch, *, wall: Callable[[], float] = time.time
    ) -> None:
        """`wall` is the host's clock, by which the scheduler goes."""
        # It would warn of a tick that comes while the last run still goes on: that is no fault.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._wall = wall
        self._look: asyncio.Task[None] | None = None
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._entries = [
            self._add(runner.tick, job.name, every=job.every) for job in runner.jobs.values()
        ]
        self._entries.append(self._add(runner.observe, watch, every=OBSERVE_EVERY))

    def start(self) -> None:
        """Begin to tick in the running loop."""
        self._scheduler.start()
        self._look = asyncio.create_task(self._look_for_jumps(), name="clock")

    def stop(self) -> None:
        """No more ticks. Runs under way go on: see `Runner.stop`."""
        if self._look is not None:
            self._look.cancel()
            self._scheduler.shutdown(wait=False)
            self._look = None

    def _add(self, call: object, argument: object, *, every: timedelta) -> Entry:
        return self._scheduler.add_job(  # pyright: ignore[reportUnknownMemberType]
            call,
            "interval",
            (argument,),
            seconds=every.total_seconds(),
            next_run_time=datetime.now(UTC),
        )

    async def _look_for_jumps(self) -> None:
        """Tick at once when the host's clock was set: set back, the next tick would be far off."""
        loop = asyncio.get_running_loop()
        offset = self._wall() - loop.time()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            found = self._wall() - loop.time()
            if abs(found - offset) > JUMP_SECONDS_MIN:
                for entry in self._entries:
                    entry.modify(  # pyright: ignore[reportUnknownMemberType]
                        next_run_time=datetime.now(UTC)
                    )
            offset = found
