"""Rate cards: versions of price lists, immutable once published. JSON to rates and back. Pure.

The public form is stored as it was published; `compile_rates` makes of it what `rates` works with.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ledger.rated import QUANTITY_SCALE, CardVersion
from meter.problems import ProblemError
from meter.rates import Accumulate, Rate, Rounding, Tier, TierMode, ambiguous

CARD_KEY_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
PRICE_PATTERN: Final = r"^(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?$"
QUANTITY_PATTERN: Final = r"^(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?$"
RATES_MAX: Final = 1_000
TIERS_MAX: Final = 100
MATCHES_MAX: Final = 10
PATTERN_LENGTH_MAX: Final = 255
PER_MAX: Final = 1_000_000_000
DEFAULT_CARD: Final = "default"

Price = Annotated[
    str,
    Meta(
        description="A plain decimal string; finer than the asset is fine.",
        extra_json_schema={"pattern": PRICE_PATTERN},
        examples=["0.00000015"],
    ),
]
Quantity = Annotated[
    str,
    Meta(
        description="A plain decimal string of at most 18 decimals.",
        extra_json_schema={"pattern": QUANTITY_PATTERN},
        examples=["1000"],
    ),
]
Pattern = Annotated[str, Meta(min_length=1, max_length=PATTERN_LENGTH_MAX)]


_CARD_KEY: Final = re.compile(CARD_KEY_PATTERN, re.ASCII)


def check_key(key: str, pointer: str = "/key") -> None:
    """Raise ProblemError 422 for what can't be the key of a rate card."""
    if _CARD_KEY.fullmatch(key) is None:
        raise ProblemError(
            422,
            "invalid_rate_card",
            "A rate card's key is 1 to 63 letters, digits, dots, hyphens and underscores.",
            pointer=pointer,
        )


class TierBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    up_to: Quantity | None = None
    """The last quantity of this tier; left out on the last one only."""
    unit_price: Price = "0"
    flat_price: Price = "0"


class PackageBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    size: Quantity
    price: Price


class RateBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rate: exactly one of `unit_price`, `tiers` and `package`."""

    meter: Annotated[str, Meta(min_length=1, max_length=63)]
    match: Annotated[dict[str, Pattern], Meta(max_length=MATCHES_MAX)] = {}
    unit_price: Price | UnsetType = UNSET
    tiers: Annotated[list[TierBody], Meta(min_length=1, max_length=TIERS_MAX)] | UnsetType = UNSET
    tier_mode: TierMode | UnsetType = UNSET
    package: PackageBody | UnsetType = UNSET
    per: Annotated[int, Meta(ge=1, le=PER_MAX)] = 1
    allowance: Quantity | UnsetType = UNSET
    minimum: Price | UnsetType = UNSET
    accumulate: Accumulate | UnsetType = UNSET
    rounding: Rounding = "half_even"


class RateCard(Struct, frozen=True, kw_only=True):
    """One published version, ready to price by."""

    card: CardVersion
    asset: str
    effective_at: datetime
    created_at: datetime
    rates: tuple[RateBody, ...]
    by_meter: dict[str, tuple[Rate, ...]]
    """Of each meter, the narrowest first."""


class MeterOfRate(Struct, frozen=True):
    """What publishing needs to know of a meter."""

    dimensions: frozenset[str]
    is_per_event: bool
    is_charged: bool


def compile_rates(
    bodies: Sequence[RateBody], meters: Mapping[str, MeterOfRate] | None = None
) -> dict[str, tuple[Rate, ...]]:
    """The rates by meter, the narrowest first.

    With `meters`, checked against them as publishing does. Raises ProblemError 422 `invalid_rate`
    or `ambiguous_rates`, with the pointer of the place.
    """
    made: dict[str, list[Rate]] = {}
    for rate_no, body in enumerate(bodies):
        pointer = f"/rates/{rate_no}"
        rate = _compile(rate_no, body, pointer)
        if meters is not None:
            _check_meter(rate, meters.get(body.meter), pointer)
        made.setdefault(body.meter, []).append(rate)
    ready = {
        meter: tuple(sorted(rates, key=lambda rate: -rate.weight)) for meter, rates in made.items()
    }
    for meter, rates in ready.items():
        if meters is not None and (pair := ambiguous(rates)) is not None:
            first, second = sorted(rate.rate_no for rate in pair)
            raise ProblemError(
                422,
                "ambiguous_rates",
                f"Rates {first} and {second} of the meter {meter} can both match, and neither is "
                "the narrower: add a rate for exactly what both match, or change one.",
                pointer=f"/rates/{second}/match",
            )
    return ready


def _check_meter(rate: Rate, meter: MeterOfRate | None, pointer: str) -> None:
    if meter is None:
        raise _wrong(f"There is no meter {rate.meter}.", f"{pointer}/meter")
    if not meter.is_charged:
        raise _wrong(
            f'Nothing charges for the meter {rate.meter}: set its charge to "calls" or "events".',
            f"{pointer}/meter",
        )
    for name, _ in rate.match:
        if name not in meter.dimensions:
            known = ", ".join(sorted(meter.dimensions)) or "nothing"
            raise _wrong(
                f"The meter {rate.meter} is grouped by {known}, not by {name}.",
                f"{pointer}/match/{_escape(name)}",
            )
    if not meter.is_per_event and rate.accumulate == "line":
        raise _wrong(
            "This meter is priced once for a closed window: accumulate is day, month or "
            "billing_period.",
            f"{pointer}/accumulate",
        )


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _wrong(words: str, pointer: str) -> ProblemError:
    return ProblemError(422, "invalid_rate", words, pointer=pointer)


def _compile(rate_no: int, body: RateBody, pointer: str) -> Rate:
    forms = [
        name
        for name, value in (
            ("unit_price", body.unit_price),
            ("tiers", body.tiers),
            ("package", body.package),
        )
        if value is not UNSET
    ]
    if len(forms) != 1:
        raise _wrong("A rate has exactly one of unit_price, tiers and package.", pointer)
    if body.tier_mode is not UNSET and body.tiers is UNSET:
        raise _wrong("tier_mode goes with tiers.", f"{pointer}/tier_mode")
    if body.package is not UNSET and body.per != 1:
        raise _wrong("A package has its own size: leave per out.", f"{pointer}/per")
    for name, pattern in body.match.items():
        if "*" in pattern[:-1]:
            raise _wrong(
                "A pattern is a literal, or a beginning that ends with one *.",
                f"{pointer}/match/{_escape(name)}",
            )
    digits = _decimals(body, pointer)
    # One denominator: 10^-18 of quantity, the finest price, and `per`.
    fixed = 10**QUANTITY_SCALE * body.per

    def unit(text: str) -> int:
        return _scaled(text, digits)

    tiers = () if body.tiers is UNSET else _tiers(body.tiers, unit, fixed, pointer)
    package = body.package
    size = None if package is UNSET else _scaled(package.size, QUANTITY_SCALE)
    if size == 0:
        raise _wrong("A package holds more than nothing.", f"{pointer}/package/size")
    is_plain = forms == ["unit_price"] and body.allowance is UNSET and body.minimum is UNSET
    default: Literal["line", "month"] = "line" if is_plain else "month"
    return Rate(
        rate_no=rate_no,
        meter=body.meter,
        match=tuple(sorted(body.match.items())),
        unit_price=None if body.unit_price is UNSET else unit(body.unit_price),
        tiers=tiers,
        tier_mode="graduated" if body.tier_mode is UNSET else body.tier_mode,
        package_size=size,
        package_price=0 if package is UNSET else unit(package.price) * fixed,
        allowance=0 if body.allowance is UNSET else _scaled(body.allowance, QUANTITY_SCALE),
        minimum=0 if body.minimum is UNSET else unit(body.minimum) * fixed,
        accumulate=default if body.accumulate is UNSET else body.accumulate,
        rounding=body.rounding,
        denominator=fixed * 10**digits,
    )


def _tiers(
    bodies: list[TierBody], unit: Callable[[str], int], fixed: int, pointer: str
) -> tuple[Tier, ...]:
    tiers: list[Tier] = []
    reached = 0
    for place, body in enumerate(bodies):
        is_last = place == len(bodies) - 1
        where = f"{pointer}/tiers/{place}/up_to"
        if (body.up_to is None) != is_last:
            raise _wrong("Every tier but the last has an up_to, and the last has none.", where)
        up_to = None if body.up_to is None else _scaled(body.up_to, QUANTITY_SCALE)
        if up_to is not None and up_to <= reached:
            raise _wrong("Each tier ends above the one before.", where)
        reached = up_to or reached
        tiers.append(Tier(up_to, unit(body.unit_price), unit(body.flat_price) * fixed))
    return tuple(tiers)


_PRICE: Final = re.compile(PRICE_PATTERN, re.ASCII)
_QUANTITY: Final = re.compile(QUANTITY_PATTERN, re.ASCII)


def _decimals(body: RateBody, pointer: str) -> int:
    """The most decimals that a price of this rate has; every number is checked here."""
    prices: list[tuple[str, str]] = []
    quantities: list[tuple[str, str]] = []
    if body.unit_price is not UNSET:
        prices.append((body.unit_price, "unit_price"))
    if body.tiers is not UNSET:
        for place, tier in enumerate(body.tiers):
            prices.append((tier.unit_price, f"tiers/{place}/unit_price"))
            prices.append((tier.flat_price, f"tiers/{place}/flat_price"))
            if tier.up_to is not None:
                quantities.append((tier.up_to, f"tiers/{place}/up_to"))
    if body.package is not UNSET:
        prices.append((body.package.price, "package/price"))
        quantities.append((body.package.size, "package/size"))
    if body.minimum is not UNSET:
        prices.append((body.minimum, "minimum"))
    if body.allowance is not UNSET:
        quantities.append((body.allowance, "allowance"))
    for text, where in prices:
        if _PRICE.fullmatch(text) is None:
            raise _wrong(
                "A price is a plain decimal string: at most 18 digits before the point and 18 "
                "after, no sign, no exponent.",
                f"{pointer}/{where}",
            )
    for text, where in quantities:
        if _QUANTITY.fullmatch(text) is None:
            raise _wrong(
                "A quantity is a plain decimal string: at most 18 digits before the point and 18 "
                "after, no sign, no exponent.",
                f"{pointer}/{where}",
            )
    return max(len(text.partition(".")[2]) for text, _ in prices)


def _scaled(text: str, scale: int) -> int:
    whole, _, decimals = text.partition(".")
    return int(whole + decimals.ljust(scale, "0"))


def rates_json(bodies: Sequence[RateBody]) -> str:
    """Rates as they are stored and shown: what was left out stays out."""
    return msgspec.json.encode([_shown(body) for body in bodies]).decode()


def _shown(body: RateBody) -> dict[str, object]:
    """The members that say something."""
    shown: dict[str, object] = msgspec.to_builtins(body)
    if not body.match:
        del shown["match"]
    if body.per == 1:
        del shown["per"]
    return shown


def read_rates(text: str) -> tuple[RateBody, ...]:
    """Rates from their stored form."""
    return msgspec.json.decode(text, type=tuple[RateBody, ...])
