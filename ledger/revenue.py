"""Deferred revenue of a lot: what of its cost is still unearned. Pure."""

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
