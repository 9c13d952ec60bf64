"""The hot path: requests that arrive while the database is busy share one transaction.

Natural group commit. A lane takes what is waiting (never waiting for more), runs it as one batch
(lock → load → decide → post → commit) and answers each request. Fair: customers take turns, so one
hot customer can't starve the others. A customer locked by somebody else leaves the batch and waits
alone. A batch that fails is run again in halves, down to the request at fault.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog
from msgspec import Struct

from ledger.load import ScaleChanged, TooMuch
from ledger.load_usage import Facts
from ledger.rated import CatalogChanged
from ledger.requests import Request
from ledger.state import Settings
from ledger.transact import Render, Result, transact
from meter.problems import fault
from sql.errors import (
    DatabaseBusy,
    DatabaseFault,
    DatabaseUnavailable,
    OutcomeUnknown,
    TransactionConflict,
)
from sql.pool import Pool, transaction

BATCH_MAX: Final = 256
"""More per transaction gains nothing (measured) and makes everyone in it wait longer."""
ANSWERS_PER_TURN: Final = 4
"""Answered at once they keep the loop for milliseconds, in which the database waits (measured)."""
LANES: Final = 1
RETRIES_MAX: Final = 5
"""Runs of a batch after a deadlock or serialization failure; both mean that nothing was written."""
UNKNOWN_SECONDS_MAX: Final = 5.0
"""How long to find out what became of a commit whose connection was lost."""
WAITING_MAX: Final = 4
"""Customers locked by others that are waited for at the same time, each on its own connection."""

log = structlog.get_logger()


class Gauges(Protocol):
    """What the hot path reports about itself."""

    def batch(self, size: int, seconds: float) -> None: ...
    def batch_step(self, step: str, seconds: float) -> None: ...
    def retried(self, reason: str) -> None: ...
    def waited(self, seconds: float) -> None: ...
    def queued(self, depth: int) -> None: ...


class Item(Struct, eq=False):
    request: Request
    answer: asyncio.Future[Result]
    since: float
    unknown_since: float | None = None
    """Since when nobody knows whether it was committed; until a later run tells."""
    is_open: bool = True


class Batcher:
    """Collects requests and runs them in batches. One per process."""

    def __init__(
        self,
        pool: Pool,
        render: Render,
        settings: Callable[[], Settings],
        gauges: Gauges,
        *,
        queue_max: int,
        queue_seconds_max: float,
        refresh: Callable[[], Awaitable[None]] | None = None,
        facts: Facts | None = None,
        batch_max: int = BATCH_MAX,
        lanes: int = LANES,
    ) -> None:
        self.pool, self.render, self.settings, self.gauges = pool, render, settings, gauges
        self.queue_max, self.queue_seconds_max = queue_max, queue_seconds_max
        self.batch_max = batch_max
        self.refresh, self.facts = refresh, facts
        # In turn order: a customer that was served goes to the end of the line.
        self.waiting: dict[int, deque[Item]] = {}
        self.in_flight: set[int] = set()
        self.depth = 0
        self.wake = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.unanswered = 0
        self.committed: deque[tuple[Item, Result]] = deque()
        self.is_answering = False
        self.lock_waits = asyncio.Semaphore(WAITING_MAX)
        self.tasks = {asyncio.create_task(self._lane()) for _ in range(lanes)}

    def submit(self, request: Request) -> asyncio.Future[Result]:
        """Queue a request; its answer comes after commit. Refused at once if the queue is full."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        if self.depth >= self.queue_max:
            answer.set_result(self._refusal(request, "queue_full"))
            return answer
        line = self.waiting.get(request.customer_no)
        if line is None:
            line = self.waiting[request.customer_no] = deque()
        line.append(Item(request, answer, loop.time()))
        self.depth += 1
        self.unanswered += 1
        self.idle.clear()
        self.wake.set()
        return answer

    async def drained(self) -> None:
        """Wait until everything queued has its answer."""
        await self.idle.wait()

    async def close(self) -> None:
        """Answer what is queued, then stop."""
        await self.drained()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _take(self) -> list[Item]:
        """The next batch: one request per customer in turn until it is full or nothing is left."""
        ready = [no for no in self.waiting if no not in self.in_flight]
        batch: list[Item] = []
        while ready and len(batch) < self.batch_max:
            left: list[int] = []
            for no in ready[: self.batch_max - len(batch)]:
                line = self.waiting[no]
                batch.append(line.popleft())
                if line:
                    left.append(no)
                else:
                    del self.waiting[no]
            for no in left:
                self.waiting[no] = self.waiting.pop(no)
            ready = left
        self.depth -= len(batch)
        self.in_flight.update(item.request.customer_no for item in batch)
        return batch

    async def _lane(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = self._take()
            if not batch:
                self.wake.clear()
                await self.wake.wait()
                continue
            started = loop.time()
            self.gauges.queued(self.depth)
            self.gauges.waited(started - batch[0].since)
            fresh = self._drop_stale(batch, started)
            try:
                locked = await self._run_safely(fresh, wait=False)
            finally:
                # Also when the lane is cancelled: nobody may wait for ever.
                self._release(batch)
            for no in {item.request.customer_no for item in locked}:
                self._wait_alone([i for i in locked if i.request.customer_no == no])
            self.gauges.batch(len(fresh), loop.time() - started)

    def _drop_stale(self, batch: list[Item], now: float) -> list[Item]:
        fresh: list[Item] = []
        for item in batch:
            if now - item.since > self.queue_seconds_max:
                self._answer(item, self._refusal(item.request, "queue_full"))
            else:
                fresh.append(item)
        return fresh

    def _release(self, batch: Sequence[Item]) -> None:
        self.in_flight.difference_update(item.request.customer_no for item in batch)
        if self.waiting:
            self.wake.set()

    def _wait_alone(self, items: list[Item]) -> None:
        """Run one customer's requests behind whoever holds its lock; its later ones queue up."""
        self.in_flight.add(items[0].request.customer_no)

        async def wait() -> None:
            try:
                async with self.lock_waits:
                    await self._run_safely(items, wait=True)
            finally:
                self._release(items)

        task = asyncio.create_task(wait())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _run_safely(self, items: list[Item], *, wait: bool) -> list[Item]:
        """`_run`; a fault of ours ends in answers, never in a lane that has died."""
        try:
            locked = await self._run(items, wait=wait) if items else []
        except Exception as error:
            self._refuse([item for item in items if item.is_open], "internal", error)
            return []
        if wait:
            self._refuse(locked, "busy", None)
            return []
        return locked

    async def _run(self, items: list[Item], *, wait: bool) -> list[Item]:
        """Run a batch and answer it. The items whose customers are locked by others come back."""
        attempt = 0
        while True:
            attempt += 1
            try:
                results = await self._transact(items, wait=wait)
            except Exception as error:
                fate = await self._fate(items, error, attempt)
                if fate == "split":
                    return await self._split(items, error, wait=wait)
                if fate != "again":
                    self._refuse(items, fate, error)
                    return []
            else:
                return self._answer_all(items, results)
            await asyncio.sleep(min(0.005 * 2**attempt, 0.25) * random.uniform(0.5, 1.0))

    async def _transact(self, items: list[Item], *, wait: bool) -> list[Result | None]:
        loop = asyncio.get_running_loop()
        async with transaction(self.pool) as conn:
            results = await transact(
                conn,
                [item.request for item in items],
                self.settings(),
                self.render,
                wait=wait,
                facts=self.facts,
                timed=self.gauges.batch_step,
            )
            decided = loop.time()
        self.gauges.batch_step("commit", loop.time() - decided)
        return results

    async def _fate(self, items: list[Item], error: Exception, attempt: int) -> str:
        """What becomes of a batch that failed: `again`, `split`, or the code it is refused with.

        Bounded: conflicts by RETRIES_MAX, an unknown outcome by UNKNOWN_SECONDS_MAX.
        """
        now = asyncio.get_running_loop().time()
        if isinstance(error, OutcomeUnknown):
            # Decided again: the keys, read under the lock, tell what was written.
            self.gauges.retried("outcome_unknown")
            log.warning("commit_outcome_unknown", error=str(error), requests=len(items))
            for item in items:
                item.unknown_since = item.unknown_since or now
        since = min((i.unknown_since for i in items if i.unknown_since is not None), default=None)
        if since is not None and isinstance(error, DatabaseFault):
            return "again" if now - since < UNKNOWN_SECONDS_MAX else "outcome_unknown"
        if isinstance(error, TransactionConflict):
            self.gauges.retried("conflict")
            return "again" if attempt <= RETRIES_MAX else "busy"
        if isinstance(error, DatabaseBusy):
            return "busy"
        if isinstance(error, DatabaseUnavailable):
            # A connection may have died in the pool while the server is well: once more.
            self.gauges.retried("unavailable")
            return "again" if attempt == 1 else "database_unavailable"
        if isinstance(error, ScaleChanged | CatalogChanged) and self.refresh is not None:
            return await self._refresh(self.refresh, attempt)
        return "split"

    async def _refresh(self, refresh: Callable[[], Awaitable[None]], attempt: int) -> str:
        try:
            await refresh()
        except DatabaseFault:
            return "database_unavailable"
        return "again" if attempt <= RETRIES_MAX else "busy"

    async def _split(self, items: list[Item], error: Exception, *, wait: bool) -> list[Item]:
        """Halve a failed batch until the request at fault stands alone."""
        if len(items) == 1:
            is_large = isinstance(error, TooMuch)
            self._refuse(items, "too_many_lots" if is_large else "internal", error)
            return []
        self.gauges.retried("split")
        middle = len(items) // 2
        first = await self._run(items[:middle], wait=wait)
        # A customer's requests keep their order: what comes after a locked one waits with it.
        held = {item.request.customer_no for item in first}
        kept = [item for item in items[middle:] if item.request.customer_no in held]
        rest = [item for item in items[middle:] if item.request.customer_no not in held]
        return [*first, *kept, *(await self._run(rest, wait=wait) if rest else [])]

    def _answer_all(self, items: list[Item], results: list[Result | None]) -> list[Item]:
        locked: list[Item] = []
        for item, result in zip(items, results, strict=True):
            if result is None:
                locked.append(item)
            else:
                item.is_open = False
                self.committed.append((item, result))
        if self.committed and not self.is_answering:
            self.is_answering = True
            asyncio.get_running_loop().call_soon(self._answer_some)
        return locked

    def _answer_some(self) -> None:
        """Answer a few per turn of the loop, so that the next batch's statements go out between."""
        for _ in range(min(ANSWERS_PER_TURN, len(self.committed))):
            self._answer(*self.committed.popleft())
        self.is_answering = bool(self.committed)
        if self.is_answering:
            asyncio.get_running_loop().call_soon(self._answer_some)

    def _refuse(self, items: list[Item], code: str, error: Exception | None) -> None:
        """Answer with a refusal; where a commit may have gone through, it says just that."""
        if not items:
            return
        is_ours = code == "internal"
        log.log(
            logging.ERROR if is_ours else logging.WARNING,
            "batch_refused",
            code=code,
            error=str(error),
            requests=[item.request.request_id for item in items[:10]],
            count=len(items),
            exc_info=error if is_ours else None,
        )
        for item in items:
            known = code if item.unknown_since is None else "outcome_unknown"
            self._answer(item, self._refusal(item.request, known))

    def _answer(self, item: Item, result: Result) -> None:
        item.is_open = False
        self.unanswered -= 1
        if self.unanswered == 0:
            self.idle.set()
        if not item.answer.done():  # the caller may have gone
            item.answer.set_result(result)

    def _refusal(self, request: Request, code: str) -> Result:
        problem = fault(code)
        return Result(problem.status, problem.body(request.request_id), False, code)
