"""The rate limit: a token bucket for each API key, in this process.

Headers as in the IETF draft "RateLimit header fields for HTTP", version 11.
"""

import math
from time import monotonic
from typing import Final, Protocol

from meter.problems import ProblemError

KEYS_MAX: Final = 10_000
"""Buckets kept; beyond it the full ones are dropped, which changes nothing."""
ROUNDING: Final = 1e-6
"""Of a request: what adding up floats may lose."""

Headers = tuple[tuple[bytes, bytes], ...]


class Numbered(Protocol):
    """An API key, as far as the limit goes."""

    @property
    def key_no(self) -> int: ...


class Limiter:
    """Lets each key send `requests` at once, and then one every `seconds / requests`."""

    def __init__(self, limit: tuple[int, int] | None) -> None:
        """`limit`: (requests, seconds); None: no limit."""
        self._is_on = limit is not None
        self._most, self._seconds = limit or (0, 1)
        self._rate = self._most / self._seconds
        # Per key: when its bucket will be full again, on the monotonic clock.
        self._full_at: dict[int, float] = {}
        policy = f'"key";q={self._most};w={self._seconds}'
        self._policy = (b"ratelimit-policy", policy.encode())

    def spend(self, key: Numbered) -> Headers:
        """Count one request: the headers that tell what is left; none if there is no limit.

        Raises ProblemError 429 `rate_limited` with the same headers and `Retry-After`.
        """
        if not self._is_on:
            return ()
        now = monotonic()
        full_at = max(self._full_at.get(key.key_no, now), now)
        # A bucket that is full in t seconds lacks t × rate tokens now.
        left = self._most - (full_at - now) * self._rate
        if left < 1 - ROUNDING:
            wait = math.ceil((1 - left) / self._rate)
            headers = self._headers(0, full_at - now)
            raise ProblemError(
                429,
                "rate_limited",
                f"This key may send {self._most} requests in {self._seconds} s. Wait {wait} s.",
                headers={
                    "Retry-After": str(max(wait, 1)),
                    **{name.decode(): value.decode() for name, value in headers},
                },
            )
        if len(self._full_at) >= KEYS_MAX:
            self._full_at = {no: at for no, at in self._full_at.items() if at > now}
        self._full_at[key.key_no] = full_at + 1 / self._rate
        return self._headers(math.floor(left - 1 + ROUNDING), full_at + 1 / self._rate - now)

    def _headers(self, left: int, full_in: float) -> Headers:
        state = f'"key";r={left};t={math.ceil(full_in)}'
        return (self._policy, (b"ratelimit", state.encode()))
