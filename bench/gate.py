"""A target and what was measured against it."""

import statistics
from dataclasses import dataclass, field


@dataclass
class Gate:
    """`ratios`: one per run. `at_least` or, for latencies, `at_most`."""

    name: str
    ratios: list[float]
    at_least: float | None = None
    at_most: float | None = None
    notes: list[str] = field(default_factory=list[str])

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def is_met(self) -> bool:
        if self.at_least is not None:
            return self.median >= self.at_least and min(self.ratios) >= 0.85 * self.at_least
        if self.at_most is not None:
            return self.median <= self.at_most
        return True

    def line(self) -> str:
        target = "measured"
        if self.at_least is not None:
            target = f"target ≥ {self.at_least:g}, {'met' if self.is_met else 'SHORT'}"
        elif self.at_most is not None:
            target = f"target ≤ {self.at_most:g}, {'met' if self.is_met else 'OVER'}"
        runs = " ".join(f"{ratio:.2f}" for ratio in self.ratios)
        notes = "".join(f"\n      {note}" for note in self.notes)
        return f"  {self.name}: median {self.median:.2f} ({runs}); {target}{notes}"
