"""Deferred revenue of a lot: what of its cost is still unearned, and what was earned when. Pure."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime

from msgspec import Struct

from ledger.amounts import half_even
from ledger.entities import Lot


def deferred_after(deferred: int, units: int, left: int) -> int:
    """Deferred once `left` more of `units` units have gone: half_even(deferred × rest ÷ units).

    `deferred` (money) and `units` are what the lot had at its last refund, restore or rollover; at
    zero units nothing stays.
    """
    rest = units - left
    return half_even(deferred * rest, units) if units > 0 and rest > 0 else 0


def deferred_of(lot: Lot, returned: int = 0) -> int:
    """What of a paid lot's cost is unearned now; `returned`: what refunds took out of deferred.

    What is to come back as holds end counts as gone. A lot that got burned credit back after a
    refund has more units than it had then, and at most what it cost is deferred.
    """
    if lot.cost is None:
        return 0
    units = lot.deferred_units
    return min(
        deferred_after(lot.deferred_amount, units, units - lot.kept), lot.cost.amount - returned
    )


class Split(Struct, frozen=True):
    """What of a sum without tax is moved in `deferred_revenue`, and what in `refunds`."""

    deferred: int
    refunds: int


def split_refund(net: int, deferred: int, kept_before: int, kept_after: int) -> Split:
    """A refund of `net` when a lot's units go from `kept_before` to `kept_after`.

    min(net, the units' share of deferred) was not earned yet, all deferred if no units are left;
    the rest takes back what was.
    """
    share = deferred - deferred_after(deferred, kept_before, kept_before - kept_after)
    taken = min(net, share)
    return Split(taken, net - taken)


def split_restore(net: int, refunds: int) -> Split:
    """Money that is back (`net` < 0): what took back earnings first, it went last; then deferred.

    `refunds`: what is booked there. Both parts of the split are negative, or 0.
    """
    earned = max(net, -refunds)
    return Split(net - earned, earned)


class Known(Struct, frozen=True):
    """What has left a lot's deferred revenue: earned, or gone another way (`returned`)."""

    revenue: int = 0
    breakage: int = 0
    returned: int = 0
    """Refunded, voided, or moved along by a rollover."""


class Moved(Struct, frozen=True, kw_only=True):
    """The credit that left a lot on one book day; negative: that came back."""

    lot_no: int
    book_date: date
    late_for: str | None
    effective_at: datetime
    burned: int = 0
    expired: int = 0
    voided: int = 0
    """What holds and reversals gave back to a lot that was voided: it left at once."""

    @property
    def units(self) -> int:
        return self.burned + self.expired + self.voided


class Earned(Struct, frozen=True):
    """What of a lot's deferred revenue leaves it on one book day, and where it goes."""

    moved: Moved
    revenue: int
    breakage: int
    voided: int


def earn(lot: Lot, known: Known, moves: Sequence[Moved]) -> list[Earned]:
    """What is earned of a lot that is booked as `known`, with `moves` since, by book day.

    Afterwards its cost is accounted for: revenue + breakage + returned + deferred. Where a refund,
    void or rollover came between two runs, the days before it share by units what they earned.
    """
    if lot.cost is None or not moves:
        return []
    moves = sorted(moves, key=lambda move: (move.book_date, move.late_for or ""))
    swaps = [_Swap.of(move) for move in moves]
    total = sum(move.units for move in moves)
    line = _Line(lot, known, lot.kept + total, total)
    earned = [
        Earned(
            move,
            line.take(move.burned + swap.ended - swap.used),
            line.take(move.expired + swap.used - (swap.ended - swap.voided)),
            line.take(move.voided - swap.voided),
        )
        for move, swap in zip(moves, swaps, strict=True)
    ]
    last = earned[-1]
    earned[-1] = Earned(last.moved, last.revenue + line.rest(), last.breakage, last.voided)
    return _swapped(lot, known, earned, swaps)


class _Swap(Struct, frozen=True):
    """Units that only changed what they are, so that as many are deferred as before."""

    used: int
    """Had expired, and late usage burned them."""
    ended: int
    """Were burned, came back, and left at once as the lot had ended (or was voided)."""
    voided: int
    """Of `ended`: those that left a voided lot."""

    @classmethod
    def of(cls, move: Moved) -> "_Swap":
        used = max(0, min(-move.expired, move.burned))
        ended = max(0, min(-move.burned, max(0, move.expired) + move.voided))
        return cls(used, ended, min(ended, move.voided))


class _Line:
    """How the deferred revenue of a lot falls, unit by unit, from what is booked to what is so."""

    def __init__(self, lot: Lot, known: Known, start: int, total: int) -> None:
        assert lot.cost is not None
        self.lot, self.returned, self.start, self.total = lot, known.returned, start, total
        cost = lot.cost.amount
        self.cap = cost - known.returned
        self.booked = self.now = self.cap - known.revenue - known.breakage
        self.target = deferred_of(lot, known.returned)
        self.is_formula = self._formula(start) == self.booked
        self.gone = 0

    def _formula(self, kept: int) -> int:
        units = self.lot.deferred_units
        return min(deferred_after(self.lot.deferred_amount, units, units - kept), self.cap)

    def take(self, units: int) -> int:
        """What `units` more that leave take along; negative for what comes back."""
        self.gone += units
        if self.is_formula:
            now = self._formula(self.start - self.gone)
        elif self.total == 0:
            now = self.now
        else:
            sign = 1 if self.total > 0 else -1
            fallen = (self.booked - self.target) * self.gone * sign
            now = self.booked - half_even(fallen, self.total * sign)
        taken, self.now = self.now - now, now
        return taken

    def rest(self) -> int:
        """What no unit explains, at the end of the line."""
        return self.now - self.target


def _swapped(
    lot: Lot, known: Known, earned: Sequence[Earned], swaps: Sequence[_Swap]
) -> list[Earned]:
    """Move along what swapped units had earned: their share of all that was earned so."""
    expired = lot.expired + sum(swap.used for swap in swaps)
    burned = lot.amount - lot.remaining - lot.expired - lot.voided
    burned += sum(swap.ended for swap in swaps)
    breakage = known.breakage + sum(e.breakage for e in earned)
    revenue = known.revenue + sum(e.revenue for e in earned)
    used = _shares(breakage, expired, [swap.used for swap in swaps])
    ended = _shares(revenue, burned, [swap.ended for swap in swaps])
    return [
        Earned(
            e.moved,
            e.revenue + to_used - to_ended,
            e.breakage - to_used + to_ended - (voided := to_ended if swap.voided else 0),
            e.voided + voided,
        )
        for e, swap, to_used, to_ended in zip(earned, swaps, used, ended, strict=True)
    ]


def _shares(amount: int, units: int, swapped: Sequence[int]) -> Iterator[int]:
    """What each day's swapped units are of `amount`, which `units` had earned together."""
    done = before = 0
    for part in swapped:
        done += part
        after = half_even(amount * done, units) if units > 0 else 0
        yield after - before
        before = after
