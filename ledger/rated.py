"""Usage priced under the customer's lock: what the books need to know of it. Pure.

What a meter, a rate card or an event is belongs to the edge, which brings a `Pricing`. The books
keep the charge lines, and the counters that tiers and allowances count on.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from ledger.outcome import Outcome
    from ledger.state import Books

QUANTITY_SCALE: Final = 18
"""Decimals of a quantity: inside it is a whole number of 10^-18."""

Identity = tuple[str, str]
"""`source` and `id` of a usage event; unique for its customer."""

Readings = Mapping[int, tuple[int, str]]
"""Of one fact: meter_no → (quantity, dimensions as JSON with sorted members)."""

Window = tuple[int, datetime, datetime]
"""A meter's number, and a period [start, end)."""

CounterKey = tuple[str, datetime]
"""A counter and the start of its period."""


class CatalogChanged(Exception):
    """The copy is older than the database's: nothing was written; read it and start over."""


class Counted(Struct, frozen=True):
    """A counter: the quantity so far, and what a cheaper tier has still to give back."""

    quantity: int = 0
    carry: int = 0
    dimensions: str | None = None
    """Of a window that is priced once: whose group of values it is."""


class UsageItem(Struct, frozen=True):
    """So much of one meter, as a caller states it."""

    meter: str
    quantity: int
    """Whole numbers of 10^-18."""
    dimensions: Mapping[str, Any] = {}
    source: str | None = None
    event_id: str | None = None


class Usage(Struct, frozen=True):
    """What a request is to be charged for, and by which rate card (None: the customer's)."""

    items: tuple[UsageItem, ...]
    rate_card: str | None = None


class CardVersion(Struct, frozen=True):
    """One published version of a rate card, as `default@3` outside."""

    rate_card: str
    version: int

    def __str__(self) -> str:
        return f"{self.rate_card}@{self.version}"


class Line(Struct, frozen=True, kw_only=True):
    """A charge line: one usage quantity by one rate. Negative amounts give back."""

    meter_no: int
    meter: str
    quantity: int
    dimensions: str
    """JSON, members sorted."""
    card: CardVersion
    rate_no: int
    asset: str
    amount: int
    counter: str | None
    """What the quantity was counted on; None: this line alone."""
    period_start: datetime | None
    period_end: datetime | None
    total_before: int
    carry: int = 0
    """What the counter has still to give back after this line."""
    source: str | None = None
    """With `event_id`: the fact as its sender named it; None: the event is named after the line."""
    event_id: str | None = None
    event_at: datetime
    revision: int = 0
    """Grows with every correction of the event."""
    makes_event: bool = True
    """Whether the fact is not stored yet."""
    is_window: bool = False
    """Whether it is counted for its group of dimension values alone."""
    undoes: int | None = None
    """The charge that a negative amount gives back, where no counter says it."""

    @property
    def counter_key(self) -> CounterKey | None:
        """The counter and period that it was counted on."""
        if self.counter is None or self.period_start is None:
            return None
        return self.counter, self.period_start


class Priced(Struct, frozen=True):
    """What usage comes to, line by line."""

    asset: str
    card: CardVersion
    lines: tuple[Line, ...]

    @property
    def amount(self) -> int:
        """What has to be paid; lines that give back are not taken off."""
        return sum(line.amount for line in self.lines if line.amount > 0)


def netted(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Lines of one request, of which no counter both takes and gives back.

    What lines give back first comes off the others of their counter, the last first; what is more
    than those stands on the counter's last line. So a cheaper tier that is reached within one
    request costs what it costs when it is reached at once.
    """
    left: dict[CounterKey, int] = {}
    last: dict[CounterKey, int] = {}
    for place, line in enumerate(lines):
        if (key := line.counter_key) is not None:
            left[key] = left.get(key, 0) + line.amount
            last[key] = place
    settled: list[Line] = []
    for place, line in enumerate(lines):
        amount = line.amount
        if (key := line.counter_key) is not None:
            if left[key] >= 0:
                amount = min(max(amount, 0), left[key])
            else:
                amount = left[key] if place == last[key] else 0
            left[key] -= amount
        settled.append(msgspec.structs.replace(line, amount=amount))
    return tuple(settled)


class PricedWindow(Struct, frozen=True):
    """A window [start, end) and its lines; None: it ends later than it was to be ready by."""

    start: datetime
    end: datetime
    priced: Priced | None


class StoredFact(Struct, frozen=True):
    """A usage event as it stands after its corrections."""

    at: datetime
    revision: int
    """How many corrections it has."""
    readings: Readings
    """What each meter reads in it; nothing if it was cancelled."""


class UsageState(Struct, eq=False):
    """What pricing needs to know of one customer under the lock."""

    time_zone: str
    rate_card: str | None
    counters: dict[CounterKey, Counted] = {}
    """A counter that is missing is at 0."""
    charged: dict[tuple[str, str, int], int] = {}
    """(source, id, meter_no) → the charge that this fact already has."""
    events: dict[Identity, StoredFact] = {}
    """Facts that are stored already."""
    lines: dict[Identity, list[tuple[int, Line]]] = {}
    """(seq, line) of a fact that is being corrected, the oldest first."""
    measured: dict[Window, Mapping[str, int]] = {}
    """Of closed windows: dimensions as JSON → what the meter comes to."""
    charges: dict[CounterKey, list[int]] = {}
    """The latest charges of a counter, newest first, where they were asked for."""


class Pricing(Protocol):
    """Pure: usage and the customer's state → charge lines, or why not."""

    @property
    def version(self) -> int:
        """The catalog it goes by; a decision by an older one than the database's is not made."""
        ...

    def price(
        self,
        books: "Books",
        usage: Usage,
        *,
        at: datetime,
        card: CardVersion | None,
        is_final: bool,
    ) -> "Priced | Outcome":
        """Lines for usage of the time `at`, by `card` if one was pinned, else by what applies.

        `is_final`: the usage becomes facts, so facts that are charged or differ are refused.
        """
        ...

    def correct(
        self, books: "Books", line: Line, item: UsageItem | None, *, seq: int, revision: int
    ) -> "Priced | Outcome":
        """The lines that undo `line` of the charge `seq` and, if there is one, charge `item`."""
        ...

    def window(
        self, books: "Books", meter_no: int, *, at: datetime, ready_by: datetime
    ) -> "PricedWindow | Outcome":
        """The window of `at` of a meter that is priced once per window, after it has closed.

        What was charged for the window before is taken off.
        """
        ...
