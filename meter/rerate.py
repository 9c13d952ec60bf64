"""Charge lines of the past under other rates: what they would have come to. Pure."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from meter.rates import Accumulate, Rate, find, matched, period, price

REMEMBERED_MAX: Final = 10_000
"""Kinds of usage whose rate is remembered, of one customer; beyond it they are looked up again."""

UnratedKey = tuple[str, str]
"""A meter, and dimensions as JSON."""


class PastLine(Struct, frozen=True):
    """A charge line, as far as pricing it again needs."""

    meter: str
    dimensions: str
    """JSON, members sorted."""
    quantity: int
    """Below 0: it took another line back."""
    amount: int
    at: datetime


class Rerated(Struct, frozen=True):
    """What the lines of one customer came to, and would have come to."""

    lines: int
    old: int
    new: int
    unrated_lines: int
    """Lines that the new rates have no price for; in neither sum."""
    unrated_old: int
    unrated: UnratedKey | None
    """Of which usage the first of them was."""


class _Counter(Struct, eq=False):
    """Quantities of one period: before the window, and until its end."""

    rate: Rate
    before: int = 0
    after: int = 0


class Rerating:
    """Prices the lines of one customer again, one by one; keeps sums, not lines.

    Lines from `begins` on are to be added, so that counters start where their periods do; those
    before `start` are counted and not summed. The order of lines makes no difference.
    """

    def __init__(
        self,
        by_meter: dict[str, tuple[Rate, ...]],
        *,
        scale: int,
        zone: ZoneInfo,
        start: datetime,
        grouped: frozenset[str],
    ) -> None:
        """`grouped`: meters of which each group of dimension values has a counter of its own."""
        self.by_meter, self.scale, self.zone, self.start = by_meter, scale, zone, start
        self.grouped = grouped
        self.begins = begins(by_meter, start, zone)
        self._rates: dict[UnratedKey, Rate | None] = {}
        self._counters: dict[tuple[str, int, str, datetime], _Counter] = {}
        self._periods: dict[Accumulate, tuple[datetime, datetime]] = {}
        self._lines = self._old = self._alone = 0
        self._unrated_lines = self._unrated_old = 0
        self._unrated: UnratedKey | None = None

    def add(self, line: PastLine) -> None:
        """Count a line, and sum it if it lies in the window."""
        rate = self._rate(line.meter, line.dimensions)
        is_inside = line.at >= self.start
        if rate is None:
            if is_inside:
                self._unrated_lines += 1
                self._unrated_old += line.amount
                self._unrated = self._unrated or (line.meter, line.dimensions)
            return
        if is_inside:
            self._lines += 1
            self._old += line.amount
        if rate.accumulate == "line":
            if is_inside:
                cost = price(rate, abs(line.quantity), self.scale)
                self._alone += cost if line.quantity >= 0 else -cost
            return
        group = line.dimensions if line.meter in self.grouped else ""
        key = line.meter, rate.rate_no, group, self._period_start(rate.accumulate, line.at)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = _Counter(rate)
        counter.after += line.quantity
        if not is_inside:
            counter.before += line.quantity

    def done(self) -> Rerated:
        """What the lines so far come to."""
        counted = sum(
            price(counter.rate, max(0, counter.after), self.scale)
            - price(counter.rate, max(0, counter.before), self.scale)
            for counter in self._counters.values()
        )
        return Rerated(
            lines=self._lines,
            old=self._old,
            new=self._alone + counted,
            unrated_lines=self._unrated_lines,
            unrated_old=self._unrated_old,
            unrated=self._unrated,
        )

    def _rate(self, meter: str, dimensions: str) -> Rate | None:
        key = meter, dimensions
        if key not in self._rates:
            if len(self._rates) >= REMEMBERED_MAX:
                self._rates.clear()
            usage = matched(msgspec.json.decode(dimensions))
            self._rates[key] = find(self.by_meter.get(meter, ()), usage)
        return self._rates[key]

    def _period_start(self, accumulate: Accumulate, at: datetime) -> datetime:
        known = self._periods.get(accumulate)
        if known is None or not known[0] <= at < known[1]:
            known = self._periods[accumulate] = period(accumulate, at, self.zone)
        return known[0]


def begins(by_meter: dict[str, tuple[Rate, ...]], start: datetime, zone: ZoneInfo) -> datetime:
    """When the first period begins that a window from `start` on lies in."""
    kinds: Iterable[Accumulate] = {
        rate.accumulate
        for rates in by_meter.values()
        for rate in rates
        if rate.accumulate != "line"
    }
    return min((period(kind, start, zone)[0] for kind in kinds), default=start)
