"""How fast one process calls Stripe: so many at once, so many a second, and not while it refuses.

Every try of a call takes a turn. Turns are a second's worth at once, then evenly apart; after a
refusal nobody calls until it is over, and then evenly apart from the first on, so that those who
waited don't all come at once. Pure but for the waiting.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

LIVE_RATE: Final = 80.0
"""Calls a second of one process: Stripe lets 100 of an account pass."""
TEST_RATE: Final = 20.0
"""The same with test keys: there it is 25."""
TOGETHER_MAX: Final = 20
"""Calls under way at once."""
BURST_SECONDS: Final = 1.0
WAIT_SECONDS_MAX: Final = 5.0
"""For a turn: whoever would wait for longer is refused at once, and comes again."""
PAUSE_SECONDS_FIRST: Final = 0.5
PAUSE_SECONDS_UNTOLD_MAX: Final = 2.0
"""Where Stripe does not say how long: shorter than a turn is waited for."""
PAUSE_SECONDS_MAX: Final = 60.0
OF_ONE_OBJECT: Final = "resource-specific"
"""Why a call was refused: its object is called too often, and others may go on."""


class TooSoon(Exception):
    """The turn would come too late."""


class Pace:
    """Turns to call, in this process."""

    def __init__(self, rate: float) -> None:
        self._apart = 1 / rate
        self._slots = asyncio.Semaphore(TOGETHER_MAX)
        self._full_at = 0.0
        """When all that was taken will have been a turn each, evenly apart."""
        self._refusals = 0
        self._over = 0.0
        """When the last pause ends."""

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """A turn to call, once it comes. Raises TooSoon."""
        async with self._slots:
            await asyncio.sleep(self.take(monotonic()))
            yield

    def take(self, now: float) -> float:
        """Take the next turn: how many seconds it is away. Raises TooSoon, and takes none."""
        full_at = max(self._full_at, now)
        wait = max(0.0, full_at - BURST_SECONDS - now)
        if wait > WAIT_SECONDS_MAX:
            raise TooSoon
        self._full_at = full_at + self._apart
        return wait

    def answered(self, status: int, headers: Mapping[str, str], now: float) -> None:
        """Note an answer of Stripe: after a refusal for being too many nobody calls for a while.

        As long as it says, else ever longer, and never equally long in two processes.
        """
        if status != 429:
            self._refusals = 0
            return
        after, reason = headers.get("Retry-After"), headers.get("Stripe-Rate-Limited-Reason")
        if after is None and reason in (None, OF_ONE_OBJECT):  # an object is locked, or busy
            return
        if after is not None and after.isdecimal():
            pause = min(float(after), PAUSE_SECONDS_MAX)
        elif now < self._over:
            return  # of calls that were under way when the pause began
        else:
            longest = min(PAUSE_SECONDS_UNTOLD_MAX, PAUSE_SECONDS_FIRST * 2**self._refusals)
            pause = longest * random.uniform(0.5, 1)
        self._refusals = min(self._refusals + 1, 10)
        self._over = max(self._over, now + pause)
        self._full_at = max(self._full_at, self._over + BURST_SECONDS)
