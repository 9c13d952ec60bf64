"""Rates: from a quantity to a price, exactly, rounded once by a named mode. Pure.

A price is a whole numerator over one denominator per rate, so nothing is lost before the end of a
charge line. Quantities are whole numbers of 10^-18.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from ledger.amounts import half_even

LITERAL_WEIGHT: Final = 1_000_000
"""A literal narrows more than any prefix."""

Rounding = Literal["half_even", "up", "down"]
Accumulate = Literal["line", "day", "month", "billing_period"]
TierMode = Literal["graduated", "volume"]
Dimensions = Mapping[str, str | None]
"""A dimension that is missing or null is None; a number or a boolean is its JSON text."""

_sorted_json = msgspec.json.Encoder(order="sorted").encode


class Tier(Struct, frozen=True):
    """From where the one before ends up to and with `up_to`; None: without end."""

    up_to: int | None
    unit_price: int
    flat_price: int = 0


class Rate(Struct, frozen=True, kw_only=True):
    """What a quantity of one meter costs.

    A unit price times a quantity, and every fixed price, is a numerator over `denominator`.
    """

    rate_no: int
    """Its place in the version, from 0."""
    meter: str
    match: tuple[tuple[str, str], ...] = ()
    """Dimension → a literal, or a prefix that ends with `*`; sorted by dimension."""
    unit_price: int | None = None
    tiers: tuple[Tier, ...] = ()
    tier_mode: TierMode = "graduated"
    package_size: int | None = None
    package_price: int = 0
    allowance: int = 0
    """Free in each period."""
    minimum: int = 0
    accumulate: Accumulate = "line"
    rounding: Rounding = "half_even"
    denominator: int = 1

    @property
    def weight(self) -> int:
        """A rate that is narrower in every dimension weighs more."""
        return sum(
            len(pattern) if pattern.endswith("*") else LITERAL_WEIGHT for _, pattern in self.match
        )

    def matches(self, dimensions: Dimensions) -> bool:
        """Whether usage with these dimensions has this price."""
        for name, pattern in self.match:
            value = dimensions.get(name)
            if value is None or not fits(pattern, value):
                return False
        return True


def matched(dimensions: Mapping[str, Any]) -> Dimensions:
    """Dimensions as rates match them: text as it is, numbers and booleans as their JSON."""
    return {
        name: value if value is None or isinstance(value, str) else _sorted_json(value).decode()
        for name, value in dimensions.items()
    }


def fits(pattern: str, value: str) -> bool:
    """Whether a value is the literal, or begins with the prefix before `*`."""
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern


def price(rate: Rate, total: int, scale: int) -> int:
    """What `total` of a period costs, in the smallest unit of an asset with `scale` decimals.

    Rounded once, here.
    """
    if total == 0:
        return 0
    counted = max(0, total - rate.allowance)
    exact = max(_exact(rate, counted), rate.minimum)
    return _round(exact * 10**scale, rate.denominator, rate.rounding)


def _exact(rate: Rate, quantity: int) -> int:
    """The numerator of the price of a quantity."""
    if quantity == 0:
        return 0
    if rate.unit_price is not None:
        return quantity * rate.unit_price
    if rate.package_size is not None:
        # A package begun is a package taken.
        return -(-quantity // rate.package_size) * rate.package_price
    if rate.tier_mode == "volume":
        tier = next(t for t in rate.tiers if t.up_to is None or quantity <= t.up_to)
        return quantity * tier.unit_price + tier.flat_price
    exact = begins = 0
    for tier in rate.tiers:
        ends = quantity if tier.up_to is None else min(quantity, tier.up_to)
        exact += (ends - begins) * tier.unit_price + tier.flat_price
        if ends == quantity:
            break
        begins = ends
    return exact


def _round(numerator: int, denominator: int, mode: Rounding) -> int:
    if mode == "half_even":
        return half_even(numerator, denominator)
    return -(-numerator // denominator) if mode == "up" else numerator // denominator


_HasRate = TypeVar("_HasRate", bound=Rate)


def find(rates: tuple[_HasRate, ...], dimensions: Dimensions) -> _HasRate | None:
    """The narrowest rate that matches, of one meter's rates sorted by `weight`, heaviest first.

    Publishing refuses what could be ambiguous, so the first that matches lies within all others.
    """
    for rate in rates:
        if rate.matches(dimensions):
            return rate
    return None


def ambiguous(rates: tuple[Rate, ...]) -> tuple[Rate, Rate] | None:
    """Two rates of one meter of which neither is the narrower where both match, if there are any.

    Allowed if a third rate is exactly for what both match: then that one wins.
    """
    matches = {rate.match for rate in rates}
    if len(matches) < len(rates):
        seen: dict[tuple[tuple[str, str], ...], Rate] = {}
        for rate in rates:
            if rate.match in seen:
                return seen[rate.match], rate
            seen[rate.match] = rate
    for place, one in enumerate(rates):
        mine = dict(one.match)
        for other in rates[place + 1 :]:
            if _differ(mine, other):
                continue
            both = overlap(one, other)
            if both is not None and both not in matches:
                return one, other
    return None


def _differ(mine: dict[str, str], other: Rate) -> bool:
    """Whether two literals keep them apart: so it is of most pairs, and quick to see."""
    for name, pattern in other.match:
        known = mine.get(name, pattern)
        if known != pattern and known[-1] != "*" and pattern[-1] != "*":
            return True
    return False


def overlap(one: Rate, other: Rate) -> tuple[tuple[str, str], ...] | None:
    """What both match, as a match of its own; None if no usage can match both."""
    both = dict(one.match)
    for name, pattern in other.match:
        mine = both.get(name)
        if mine is None or _within(pattern, mine):
            both[name] = pattern
        elif not _within(mine, pattern):
            return None
    return tuple(sorted(both.items()))


def _within(narrow: str, wide: str) -> bool:
    """Whether everything that fits `narrow` fits `wide`."""
    if wide.endswith("*"):
        return narrow.removesuffix("*").startswith(wide[:-1])
    return narrow == wide


def period(accumulate: Accumulate, at: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The [start, end) of the day or calendar month of `at` in `zone`, in UTC.

    Until a subscription gives another, a billing period is the calendar month.
    """
    local = at.astimezone(zone)
    first = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if accumulate == "day":
        # The next day by the calendar: it may be 23 or 25 hours away.
        after = (first.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=zone)
    else:
        first = first.replace(day=1)
        month = first.month % 12 + 1
        after = first.replace(year=first.year + (month == 1), month=month)
    return first.astimezone(UTC), after.astimezone(UTC)
