"""Prices in words: how a rate reads in a diff, and tiers in one cell of a table. Pure."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET, Struct

from meter.rate_cards import RateBody, TierBody

REST: Final = "rest"
"""Stands for the end of the last tier, which has none."""

_TIER = re.compile(r"\s*([^:;]+?)\s*:\s*([^:;+]+?)\s*(?:\+\s*([^:;+]+?)\s*)?")

RateKey = tuple[str, tuple[tuple[str, str], ...]]
"""What makes a rate the same in two versions: its meter and what it matches."""


def tiers_text(tiers: Sequence[TierBody]) -> str:
    """Tiers in one line, such as `10: 5; 20: 3 + 7; rest: 1`: up to, unit price, flat price."""
    return "; ".join(
        f"{REST if tier.up_to is None else tier.up_to}: {tier.unit_price}"
        + ("" if tier.flat_price == "0" else f" + {tier.flat_price}")
        for tier in tiers
    )


def read_tiers(text: str) -> list[dict[str, str]]:
    """Tiers of one line, as members of a rate. Raises ValueError."""
    tiers: list[dict[str, str]] = []
    for part in text.removesuffix(";").split(";"):
        match = _TIER.fullmatch(part)
        if match is None:
            raise ValueError(
                'tiers are written "10: 5; 20: 3 + 7; rest: 1": up to, unit price, flat price'
            )
        up_to, unit_price, flat_price = match.groups()
        tier = {"unit_price": unit_price}
        if up_to != REST:
            tier["up_to"] = up_to
        if flat_price is not None:
            tier["flat_price"] = flat_price
        tiers.append(tier)
    return tiers


def price_text(rate: RateBody) -> str:
    """What a rate asks for, in one line."""
    per = "" if rate.per == 1 else f" per {rate.per}"
    if rate.unit_price is not UNSET:
        words = f"{rate.unit_price}{per}"
    elif rate.package is not UNSET:
        words = f"{rate.package.price} for each {rate.package.size}"
    else:
        assert rate.tiers is not UNSET, "a rate has one form"
        mode = "graduated" if rate.tier_mode is UNSET else rate.tier_mode
        words = f"{mode} {tiers_text(rate.tiers)}" + (per and f",{per}")
    if rate.allowance is not UNSET:
        words += f", {rate.allowance} free"
    if rate.minimum is not UNSET:
        words += f", at least {rate.minimum}"
    if rate.accumulate is not UNSET:
        words += f", by {rate.accumulate}"
    if rate.rounding != "half_even":
        words += f", rounded {rate.rounding}"
    return words


def rate_text(key: RateKey) -> str:
    """Which usage a rate is for, in one line."""
    meter, match = key
    if not match:
        return meter
    return f"{meter} {' '.join(f'{name}={pattern}' for name, pattern in match)}"


class Changed(Struct, frozen=True):
    """A rate that has another price in the new version."""

    meter: str
    match: dict[str, str]
    old: str
    new: str


class Priced(Struct, frozen=True):
    """A rate that only one of two versions has."""

    meter: str
    match: dict[str, str]
    price: str


class Diff(Struct, frozen=True):
    """What a new version changes."""

    added: list[Priced]
    removed: list[Priced]
    changed: list[Changed]
    unchanged: int

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.removed or self.changed)

    def lines(self) -> list[str]:
        """For people: what goes with `-`, what comes with `+`, what changes with `~`."""
        told = [f"- {_which(one)}: {one.price}" for one in self.removed]
        told += [f"+ {_which(one)}: {one.price}" for one in self.added]
        told += [f"~ {_which(one)}: {one.old} → {one.new}" for one in self.changed]
        return told


def _which(one: Changed | Priced) -> str:
    return rate_text((one.meter, tuple(one.match.items())))


def diff(old: Sequence[RateBody], new: Sequence[RateBody]) -> Diff:
    """What changes from one version's rates to another's. Their order makes no difference."""
    before, after = _by_key(old), _by_key(new)
    both = [key for key in after if key in before]
    return Diff(
        added=[_priced(key, after[key]) for key in after if key not in before],
        removed=[_priced(key, before[key]) for key in before if key not in after],
        changed=[
            Changed(key[0], dict(key[1]), price_text(before[key]), price_text(after[key]))
            for key in both
            if not _same(before[key], after[key])
        ],
        unchanged=sum(_same(before[key], after[key]) for key in both),
    )


def _priced(key: RateKey, rate: RateBody) -> Priced:
    return Priced(key[0], dict(key[1]), price_text(rate))


def _same(old: RateBody, new: RateBody) -> bool:
    """Whether two rates for the same are the same, in whatever order their match was written."""
    return msgspec.structs.replace(old, match={}) == msgspec.structs.replace(new, match={})


def _by_key(rates: Sequence[RateBody]) -> dict[RateKey, RateBody]:
    return {(rate.meter, tuple(sorted(rate.match.items()))): rate for rate in rates}
