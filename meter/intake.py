"""Intake: events that arrive while the database is busy share one transaction.

Single events wait in one line; a batch is a transaction of its own. Either way: hold the catalog,
read the time, record, commit, answer. A failure claims nothing, so sending again is always safe.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeAlias

import structlog
from msgspec import Struct

from ledger import customers
from ledger.burn_down import LATE_MAX
from meter import catalog as catalogs
from meter.catalog import Catalog, CatalogChanged
from meter.cloud_events import Sent
from meter.events import Fact, Plan, Recorded, plan_of, record
from meter.problems import ProblemError, fault, of_fault
from sql.errors import (
    DatabaseFault,
    DatabaseUnavailable,
    OutcomeUnknown,
    TransactionConflict,
)
from sql.pool import Pool, transaction

TOGETHER_MAX: Final = 500
"""Single events in one transaction: more makes everyone in it wait longer."""
BATCHES_MAX: Final = 2
"""Batches at the same time, each on a connection; others wait for their turn."""
IN_LOOP_MAX: Final = 50
"""Events that are read in the event loop, a millisecond of it; more are read beside it."""
RUNS_MAX: Final = 6
"""Of one transaction, after conflicts and changes of the catalog; each wrote nothing."""
AHEAD_MAX: Final = timedelta(hours=1)
"""How far an event may be dated ahead: clocks differ."""

log = structlog.get_logger()

Verdict: TypeAlias = Recorded | ProblemError


class Gauges(Protocol):
    """What intake reports about itself."""

    def retried(self, reason: str) -> None: ...
    def events(self, fate: str, count: int) -> None: ...


class Arrived(Struct, frozen=True):
    """An event and whose it is."""

    customer_no: int
    sent: Sent


class _Waiting(Struct, eq=False):
    event: Arrived
    answer: asyncio.Future[Verdict]
    since: float


class Intake:
    """Takes events in. One per process."""

    def __init__(
        self,
        pool: Pool,
        catalog: Callable[[], Catalog],
        refresh: Callable[[], Awaitable[None]],
        gauges: Gauges,
        *,
        queue_max: int,
        queue_seconds_max: float,
    ) -> None:
        """`catalog` is the process's copy, `refresh` reads it again."""
        self.pool, self.catalog, self.refresh, self.gauges = pool, catalog, refresh, gauges
        self.queue_max, self.queue_seconds_max = queue_max, queue_seconds_max
        self.waiting: deque[_Waiting] = deque()
        self.batches = asyncio.Semaphore(BATCHES_MAX)
        self.batches_waiting = 0
        self.lane: asyncio.Task[None] | None = None

    async def single(self, event: Arrived) -> Verdict:
        """Record one event, with those that arrive meanwhile. Refused if too many wait."""
        if len(self.waiting) >= self.queue_max:
            return fault("queue_full")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(event, loop.create_future(), loop.time())
        self.waiting.append(waiting)
        if self.lane is None or self.lane.done():
            self.lane = asyncio.create_task(self._drain())
        return await waiting.answer

    async def batch(self, events: Sequence[Arrived]) -> list[Verdict]:
        """Record many in one transaction. Raises DatabaseFault: then none was recorded."""
        if self.batches_waiting >= self.queue_max:
            raise fault("queue_full")
        self.batches_waiting += 1
        try:
            async with asyncio.timeout(self.queue_seconds_max):
                await self.batches.acquire()
        except TimeoutError:
            raise fault("queue_full") from None
        finally:
            self.batches_waiting -= 1
        try:
            return await self._judge(events)
        finally:
            self.batches.release()

    async def close(self) -> None:
        """Answer what waits, then stop."""
        if self.lane is not None:
            await asyncio.gather(self.lane, return_exceptions=True)

    async def _drain(self) -> None:
        """Record what waits, together, until nothing waits any more."""
        loop = asyncio.get_running_loop()
        while self.waiting:
            taken = [self.waiting.popleft() for _ in range(min(TOGETHER_MAX, len(self.waiting)))]
            oldest = loop.time() - self.queue_seconds_max
            fresh = [one for one in taken if one.since >= oldest]
            for one in taken:
                if one.since < oldest:
                    _answer(one, fault("queue_full"))
            if not fresh:
                continue
            try:
                verdicts = await self._judge([one.event for one in fresh])
            except DatabaseFault as error:
                verdicts = [of_fault(error)] * len(fresh)
            for one, verdict in zip(fresh, verdicts, strict=True):
                _answer(one, verdict)

    async def _judge(self, events: Sequence[Arrived]) -> list[Verdict]:
        """Record in one transaction; what is at fault for a failure of ours is found by halving.

        Raises DatabaseFault.
        """
        try:
            verdicts = await self._run(events)
        except DatabaseFault:
            raise
        except Exception as error:
            if len(events) == 1:
                log.error("event_failed", exc_info=error)
                return [fault("internal")]
            self.gauges.retried("split")
            middle = len(events) // 2
            return [*await self._judge(events[:middle]), *await self._judge(events[middle:])]
        for fate in ("new", "duplicate", "conflict", "unreadable"):
            count = sum(isinstance(v, Recorded) and v.fate == fate for v in verdicts)
            if count:
                self.gauges.events(fate, count)
        return verdicts

    async def _run(self, events: Sequence[Arrived]) -> list[Verdict]:
        """`_transact`, again after what wrote nothing, or may have: identities tell. Bounded."""
        unknown: OutcomeUnknown | None = None
        for attempt in range(1, RUNS_MAX + 1):
            is_last = attempt == RUNS_MAX
            try:
                return await self._transact(events)
            except CatalogChanged:
                await self.refresh()
                if is_last:
                    raise TransactionConflict("the catalog keeps changing") from None
            except OutcomeUnknown as error:
                self.gauges.retried("outcome_unknown")
                unknown = error
                if is_last:
                    raise
            except TransactionConflict as error:
                self.gauges.retried("conflict")
                if is_last:
                    raise unknown or error from None
            except DatabaseFault as error:
                # A connection may have died in the pool while the server is well: once more.
                if attempt > 1 or not isinstance(error, DatabaseUnavailable):
                    raise unknown or error from None
                self.gauges.retried("unavailable")
            await asyncio.sleep(0.005 * 2**attempt * random.uniform(0.5, 1.0))
        raise AssertionError("bounded")

    async def _transact(self, events: Sequence[Arrived]) -> list[Verdict]:
        catalog = self.catalog()
        async with transaction(self.pool) as conn:
            await catalogs.hold(conn, known=catalog.version)
            now = await customers.now(conn)
            verdicts: list[Verdict | None]
            if len(events) <= IN_LOOP_MAX:
                verdicts, plan = _prepared(events, catalog, now)
            else:
                verdicts, plan = await asyncio.to_thread(_prepared, events, catalog, now)
            recorded = iter(await record(conn, plan.facts, catalog, plan=plan))
        return [next(recorded) if verdict is None else verdict for verdict in verdicts]


def _answer(waiting: _Waiting, verdict: Verdict) -> None:
    if not waiting.answer.done():  # the caller may have gone
        waiting.answer.set_result(verdict)


def _prepared(
    events: Sequence[Arrived], catalog: Catalog, now: datetime
) -> tuple[list[Verdict | None], Plan]:
    """The events whose time will do, read by their meters; and of each event a refusal, or None."""
    verdicts: list[Verdict | None] = []
    facts: list[Fact] = []
    oldest, newest = now - LATE_MAX, now + AHEAD_MAX
    for event in events:
        sent = event.sent
        at = now if sent.time is None else sent.time
        if not oldest <= at <= newest:
            verdicts.append(_bad_time())
            continue
        verdicts.append(None)
        facts.append(
            Fact(
                event.customer_no,
                sent.source,
                sent.id,
                sent.type,
                at,
                now,
                sent.data,
                sent.text,
                sent.content_hash,
                sent.extensions,
            )
        )
    return verdicts, plan_of(facts, catalog)


def _bad_time() -> ProblemError:
    return ProblemError(
        422,
        "invalid_time",
        f"time may lie at most {LATE_MAX.days} days back and "
        f"{AHEAD_MAX.total_seconds() / 3600:g} hour ahead.",
        pointer="/time",
    )
