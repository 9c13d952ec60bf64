"""Burn-down: which lots pay, in which order. Pure.

The order is total: priority, earlier expiry (never-expiring last), promotional before paid, earlier
effective, earlier created, then id. `Books.order` keeps it.
"""

from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from ledger.entities import Draw, Lot
from ledger.state import Books, NeedMore

LATE_MAX: Final = timedelta(days=35)
"""How far back usage may be dated (Stripe accepts meter events 35 days old)."""


class Source(Struct, frozen=True):
    """What one draw may take from, in burn order: (lot, unpinned, expired but un-expirable)."""

    lots: list[tuple[Lot, int, int]]
    available: int


def present(books: Books, asset: str, amount: int) -> Source:
    """The first lots in burn order that together hold `amount` unpinned, or all there are.

    The caller has checked `amount` against what is available. Raises NeedMore if the loaded part
    of the burn order ends before that.
    """
    lots: list[tuple[Lot, int, int]] = []
    total = 0
    horizon = books.horizon.get(asset)
    for key, lot in books.order.get(asset, ()):
        if total >= amount:
            return Source(lots, total)
        if horizon is not None and key > horizon:
            break
        if lot.remaining > lot.pinned and lot.voided_at is None:
            lots.append((lot, lot.unpinned, 0))
            total += lot.unpinned
    if total < amount and horizon is not None:
        raise NeedMore(books.customer_no)
    return Source(lots, total)


def past(books: Books, asset: str, at: datetime) -> Source:
    """The lots that were effective at `at`, with what they have unpinned or expired unburned.

    Raises NeedMore unless the customer's lots of the last 35 days are loaded.
    """
    if not (books.is_full and books.has_late):
        raise NeedMore(books.customer_no, late=True)
    found = [
        lot
        for lot in books.lots.values()
        if lot.asset == asset
        and lot.effective_at <= at
        and not lot.is_upcoming
        and lot.voided_at is None
        and not lot.ended_by(at)
        and lot.unpinned + lot.returnable > 0
    ]
    found.sort(key=lambda lot: lot.burn_key)
    lots = [(lot, lot.unpinned, lot.returnable) for lot in found]
    return Source(lots, sum(unpinned + expired for _, unpinned, expired in lots))


def plan(source: Source, amount: int) -> tuple[list[tuple[Lot, int, int]], int]:
    """How `amount` is drawn: per lot (lot, unpinned, expired), and what is left uncovered."""
    taken: list[tuple[Lot, int, int]] = []
    for lot, unpinned, expired in source.lots:
        if amount == 0:
            break
        first = min(amount, unpinned)
        second = min(amount - first, expired)
        amount -= first + second
        taken.append((lot, first, second))
    return taken, amount


def merge(draws: list[Draw]) -> list[Draw]:
    """Draws summed per lot, in order of first appearance."""
    if len(draws) < 2:
        return draws
    totals: dict[int, int] = {}
    for draw in draws:
        totals[draw.lot_no] = totals.get(draw.lot_no, 0) + draw.amount
    return [Draw(lot_no, amount) for lot_no, amount in totals.items()]
