"""Moving a sandbox's clock: from one due instant to the next, ours and the stand-in's."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Final, Protocol

from ledger import customers
from meter.problems import ProblemError
from sql import queries
from sql.pool import Pool, transaction

STEPS_MAX: Final = 20_000
"""In one call: 400 days of an instant every half hour."""
NEWS_ROUNDS_MAX: Final = 5
"""At one instant: an answer of ours may lead to the next event, but not for ever."""


class Companion(Protocol):
    """Somebody who lives by our clock: Stripe's stand-in; the composition puts it in."""

    def next_due(self) -> datetime | None:
        """The next instant at which something happens there by itself; never before its now."""
        ...

    async def walk(self, to: datetime) -> int:
        """Go to a time and finish all that is due until then, deliveries to us included.

        Answers how much has happened since the last walk. An earlier time than its now leaves it.
        """
        ...


class ClockWalk:
    """One move of the clock. Only one at a time."""

    def __init__(
        self,
        pool: Pool,
        settle_due: Callable[[], Awaitable[Mapping[str, int]]],
        companion: Companion | None,
        take_news: Callable[[], Awaitable[None]],
        next_report: Callable[[datetime], Awaitable[datetime | None]],
    ) -> None:
        """`take_news` applies what the companion has told us, and tells it what it has to know;
        `next_report` says when there is something to tell by itself."""
        self._pool, self._settle_due = pool, settle_due
        self._companion, self._take_news = companion, take_news
        self._next_report = next_report

    async def to(self, now: datetime, target: datetime) -> int:
        """Go from `now` to `target` and finish everything; at how many instants something was due.

        Raises ProblemError where it gets no further; the clock stays where it is then.
        """
        if self._companion is not None:
            # What is on its way is of this instant: signed later, it would be too old.
            await self._visit(now)
        steps, is_there = 0, False
        while True:
            due = await self._next_due(target if is_there else now)
            if due is not None and due <= target:
                steps += 1
            elif is_there:
                return steps
            else:
                due, is_there = target, True
            if steps > STEPS_MAX:
                raise ProblemError(
                    503, "busy", "Too much is due until then for one call: send it again."
                )
            await self._visit(due)
            now = max(now, due)

    async def _visit(self, at: datetime) -> None:
        """Move our clock to an instant, and let both sides finish what is due then."""
        async with transaction(self._pool) as conn:
            await customers.advance_clock(conn, at - await customers.now(conn))
        if self._companion is not None:
            await self._companion.walk(at)
        await self._settle(at)
        if self._companion is None:
            return
        for _ in range(NEWS_ROUNDS_MAX):
            await self._take_news()
            if not await self._companion.walk(at):
                break

    async def _settle(self, at: datetime) -> None:
        ours = await self._ours_due()
        if ours is None or ours > at:
            return
        done = await self._settle_due()
        # The sweep may have been faster: then nothing was left to do.
        if done["customers"] == 0 and (left := await self._ours_due()) and left <= at:
            raise ProblemError(503, "busy", "Something due can't be posted now: see the log.")

    async def _ours_due(self) -> datetime | None:
        async with transaction(self._pool) as conn:
            return await conn.fetchval(queries.customers_due_next)

    async def _next_due(self, now: datetime) -> datetime | None:
        ours, theirs, reports = await self._ours_due(), None, None
        if self._companion is not None:
            theirs, reports = self._companion.next_due(), await self._next_report(now)
        return min((due for due in (ours, theirs, reports) if due is not None), default=None)
