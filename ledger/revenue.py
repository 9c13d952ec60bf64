"""Deferred revenue of a lot: what of its cost is still unearned. Pure."""

from ledger.amounts import half_even


def deferred_after(deferred: int, units: int, left: int) -> int:
    """Deferred once `left` more of `units` units have gone: half_even(deferred × rest ÷ units).

    `deferred` (money) and `units` are what the lot had at its last refund, restore or rollover; at
    zero units nothing stays.
    """
    rest = units - left
    return half_even(deferred * rest, units) if units > 0 and rest > 0 else 0
