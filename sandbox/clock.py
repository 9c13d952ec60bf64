"""The stand-in's time: it ticks or stands still, and only goes forward."""

import time


class Clock:
    """Seconds since 1970, as the stand-in sees them."""

    def __init__(self, start: float | None = None, *, is_ticking: bool = True) -> None:
        self._base = time.time() if start is None else start
        self.is_ticking = is_ticking
        self._set_at = time.monotonic()

    def now(self) -> float:
        return self._base + (time.monotonic() - self._set_at if self.is_ticking else 0.0)

    def dump(self) -> dict[str, float]:
        """The time, and when that was."""
        return {"now": self.now(), "real": time.time()}

    def restore(self, dumped: dict[str, float]) -> None:
        """Go on from what was dumped: a clock that ticks has ticked meanwhile."""
        passed = max(0.0, time.time() - dumped["real"]) if self.is_ticking else 0.0
        self._base, self._set_at = dumped["now"] + passed, time.monotonic()

    def forward(self, to: float) -> None:
        """Set the time; an earlier one than now leaves it."""
        if to > self.now():
            self._base, self._set_at = to, time.monotonic()
