"""The hot path: requests that arrive while the database is busy share one transaction.

Natural group commit. A lane takes what is waiting (never waiting for more), runs it as one batch
(lock → load → decide → post → commit) and answers each request. Fair: customers take turns, so one
hot customer can't starve the others. A customer locked by somebody else leaves the batch and waits
alone. A batch that fails is run again in halves, down to the request at fault.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog
from msgspec import Struct

from ledger.post import ScaleChanged
from ledger.requests import Request
from ledger.state import Settings
from ledger.transact import Render, Result, TooMuch, transact
from meter.problems import problem_body
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
        refresh_assets: Callable[[], Awaitable[None]] | None = None,
        batch_max: int = BATCH_MAX,
        lanes: int = LANES,
    ) -> None:
        self.pool, self.render, self.settings, self.gauges = pool, render, settings, gauges
        self.queue_max, self.queue_seconds_max = queue_max, queue_seconds_max
        self.batch_max = batch_max
        self.refresh_assets = refresh_assets
        # In turn order: a customer that was served goes to the end of the line.
        self.waiting: dict[int, deque[Item]] = {}
        self.in_flight: set[int] = set()
        self.depth = 0
        self.wake = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.unanswered = 0
        self.lock_waits = asyncio.Semaphore(WAITING_MAX)
        self.tasks = {asyncio.create_task(self._lane()) for _ in range(lanes)}

    def submit(self, request: Request) -> asyncio.Future[Result]:
        """Queue a request; its answer comes after commit. Refused at once if the queue is full."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        if self.depth >= self.queue_max:
            answer.set_result(self._refusal(request, 503, "queue_full"))
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
                locked = await self._run(fresh, wait=False) if fresh else []
            finally:
                # Also when the lane is cancelled: nobody may wait for ever.
                self._release(batch, locked=())
            for no in {item.request.customer_no for item in locked}:
                self._wait_alone([i for i in locked if i.request.customer_no == no])
            self.gauges.batch(len(fresh), loop.time() - started)

    def _drop_stale(self, batch: list[Item], now: float) -> list[Item]:
        fresh: list[Item] = []
        for item in batch:
            if now - item.since > self.queue_seconds_max:
                self._answer(item, self._refusal(item.request, 503, "queue_full"))
            else:
                fresh.append(item)
        return fresh

    def _release(self, batch: Sequence[Item], locked: Sequence[Item]) -> None:
        self.in_flight.difference_update(item.request.customer_no for item in batch)
        if self.waiting:
            self.wake.set()

    def _wait_alone(self, items: list[Item]) -> None:
        """Run one customer's requests behind whoever holds its lock; its later ones queue up."""
        self.in_flight.add(items[0].request.customer_no)

        async def wait() -> None:
            try:
                async with self.lock_waits:
                    await self._run(items, wait=True)
            finally:
                self._release(items, locked=())

        task = asyncio.create_task(wait())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _run(self, items: list[Item], *, wait: bool) -> list[Item]:
        """Run a batch and answer it. The items whose customers are locked by others come back."""
        loop = asyncio.get_running_loop()
        unknown_since: float | None = None
        for attempt in range(1, 1_000):
            try:
                async with transaction(self.pool) as conn:
                    results = await transact(
                        conn,
                        [item.request for item in items],
                        self.settings(),
                        self.render,
                        wait=wait,
                        timed=self.gauges.batch_step,
                    )
                    decided = loop.time()
                self.gauges.batch_step("commit", loop.time() - decided)
            except OutcomeUnknown as fault:
                # Decided again: the keys, read under the lock, tell what was written.
                unknown_since = unknown_since or loop.time()
                self.gauges.retried("outcome_unknown")
                log.warning("commit_outcome_unknown", error=str(fault), requests=len(items))
            except TransactionConflict as fault:
                self.gauges.retried("conflict")
                if attempt > RETRIES_MAX:
                    return self._refuse(items, "busy", fault, unknown_since)
            except DatabaseBusy as fault:
                if unknown_since is None:
                    return self._refuse(items, "busy", fault, None)
            except DatabaseUnavailable as fault:
                # A connection may have died in the pool while the server is well: once more.
                self.gauges.retried("unavailable")
                if unknown_since is None and attempt > 1:
                    return self._refuse(items, "database_unavailable", fault, None)
            except ScaleChanged:
                if self.refresh_assets is None or attempt > RETRIES_MAX:
                    return await self._split(items, wait=wait, error=None)
                await self.refresh_assets()
            except TooMuch as error:
                return await self._split(items, wait=wait, error=error)
            except Exception as error:
                return await self._split(items, wait=wait, error=error)
            else:
                return self._answer_all(items, results)
            if unknown_since is not None and loop.time() - unknown_since > UNKNOWN_SECONDS_MAX:
                return self._refuse(items, "outcome_unknown", None, unknown_since)
            await asyncio.sleep(min(0.005 * 2**attempt, 0.25) * random.uniform(0.5, 1.0))
        raise AssertionError("bounded by the cases above")

    async def _split(self, items: list[Item], *, wait: bool, error: Exception | None) -> list[Item]:
        """Halve a failed batch until the request at fault stands alone."""
        if len(items) == 1:
            item = items[0]
            if isinstance(error, TooMuch):
                self._answer(item, self._refusal(item.request, 409, "too_many_lots"))
            else:
                log.error("request_failed", exc_info=error, request_id=item.request.request_id)
                self._answer(item, self._refusal(item.request, 500, "internal"))
            return []
        self.gauges.retried("split")
        middle = len(items) // 2
        first = await self._run(items[:middle], wait=wait)
        return first + await self._run(items[middle:], wait=wait)

    def _answer_all(self, items: list[Item], results: list[Result | None]) -> list[Item]:
        locked: list[Item] = []
        for item, result in zip(items, results, strict=True):
            if result is None:
                locked.append(item)
            else:
                self._answer(item, result)
        return locked

    def _refuse(
        self,
        items: list[Item],
        code: str,
        fault: DatabaseFault | None,
        unknown_since: float | None,
    ) -> list[Item]:
        if unknown_since is not None:
            code = "outcome_unknown"
        log.warning("batch_refused", code=code, error=str(fault), requests=len(items))
        for item in items:
            self._answer(item, self._refusal(item.request, 503, code))
        return []

    def _answer(self, item: Item, result: Result) -> None:
        self.unanswered -= 1
        if self.unanswered == 0:
            self.idle.set()
        if not item.answer.done():  # the caller may have gone
            item.answer.set_result(result)

    def _refusal(self, request: Request, status: int, code: str) -> Result:
        body = problem_body(status, code, DETAILS[code], request_id=request.request_id)
        return Result(status, body, False, code)


_AGAIN: Final = "Nothing was written: send it again."
DETAILS: Final = {
    "queue_full": f"Too many requests are waiting. {_AGAIN}",
    "busy": f"The customer or the database was busy for too long. {_AGAIN}",
    "database_unavailable": f"The database is not available. {_AGAIN}",
    "outcome_unknown": "The database went away while committing. It may have been applied: send it "
    "again with the same key, and the answer will tell.",
    "too_many_lots": "This customer has more open lots than one request can work on. Void lots "
    "that are not needed, or draw less at a time.",
    "internal": "Something went wrong on our side. Nothing was written for this request.",
}
