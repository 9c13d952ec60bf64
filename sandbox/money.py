"""Money in smallest units, and the sums of prices. Fractions are rounded once, half away from 0."""

from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any, Final

from sandbox.errors import invalid
from sandbox.shapes import Obj

AMOUNT_MAX: Final = 99_999_999
MINIMUM: Final = 50
ZERO_DECIMAL: Final = frozenset(
    [
        "bif",
        "clp",
        "djf",
        "gnf",
        "jpy",
        "kmf",
        "krw",
        "mga",
        "pyg",
        "rwf",
        "ugx",
        "vnd",
        "vuv",
        "xaf",
        "xof",
        "xpf",
    ]
)
FEE_PERCENT: Final = Fraction(29, 1000)
FEE_FIXED: Final = 30
DISPUTE_FEE: Final = 1_500


def rounded(value: Fraction | Decimal) -> int:
    """The nearest integer; a half goes away from zero, on both sides of it."""
    exact = Fraction(value)
    whole = abs(exact.numerator) * 2 + exact.denominator
    size = whole // (exact.denominator * 2)
    return size if exact >= 0 else -size


def share(amount: int, part: int, whole: int) -> int:
    """`amount` x part / whole."""
    return rounded(Fraction(amount * part, whole)) if whole else 0


def spread(amount: int, weights: list[int]) -> list[int]:
    """`amount` in parts by weight, that sum up exactly."""
    total, parts, given, seen = sum(weights), list[int](), 0, 0
    for weight in weights:
        seen += weight
        upto = share(amount, seen, total)
        parts.append(upto - given)
        given = upto
    return parts


def fee(amount: int) -> int:
    """What Stripe keeps of a card payment."""
    return rounded(amount * FEE_PERCENT) + FEE_FIXED


def check_amount(amount: int, currency: str, *, param: str = "amount") -> None:
    """Raises StripeError 400 for what cannot be charged."""
    if amount < 1:
        message = "This value must be greater than or equal to 1."
        raise invalid(message, param=param, code="parameter_invalid_integer")
    if amount > AMOUNT_MAX:
        message = "Amount must be no more than 8 digits."
        raise invalid(message, param=param, code="amount_too_large")
    if currency not in ZERO_DECIMAL and amount < MINIMUM:
        message = f"Amount must convert to at least {MINIMUM} cents."
        raise invalid(message, param=param, code="amount_too_small")


def check_currency(code: str, *, param: str = "currency") -> str:
    """The code in lower case. Raises StripeError 400."""
    lower = code.lower()
    if len(lower) != 3 or not (lower.isascii() and lower.isalpha()):
        raise invalid(f"Invalid currency: {code}.", param=param)
    return lower


def decimal_text(value: Decimal | Fraction | int) -> str:
    """A plain decimal, as `unit_amount_decimal` has it."""
    if isinstance(value, Fraction):
        value = Decimal(value.numerator) / Decimal(value.denominator)
    text = format(Decimal(value), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def unit(of: Obj) -> Decimal:
    """The exact amount of one unit of a price or a tier."""
    text: Any = of.get("unit_amount_decimal")
    return Decimal(text if text is not None else of.get("unit_amount") or 0)


def price_amount(price: Obj, quantity: Decimal) -> int:
    """What a quantity costs. A negative quantity of metered usage costs nothing."""
    if (transform := price.get("transform_quantity")) is not None:
        whole, rest = divmod(quantity, transform["divide_by"])
        quantity = whole + (1 if rest and transform["round"] == "up" else 0)
    quantity = max(quantity, Decimal(0))
    if price["billing_scheme"] == "per_unit":
        return rounded(unit(price) * quantity)
    return rounded(_tiered(price["tiers"], price["tiers_mode"], quantity))


def _tiered(tiers: list[Obj], mode: str, quantity: Decimal) -> Decimal:
    total, below = Decimal(0), Decimal(0)
    for tier in tiers:
        upper = None if tier["up_to"] is None else Decimal(tier["up_to"])
        is_last = upper is None or quantity <= upper
        flat = Decimal(tier.get("flat_amount_decimal") or tier.get("flat_amount") or 0)
        if mode == "volume":
            if is_last:
                return unit(tier) * quantity + (flat if quantity else 0)
            continue
        inside = quantity - below if is_last or upper is None else upper - below
        total += unit(tier) * inside + (flat if inside > 0 else 0)
        if is_last:
            break
        below = upper or below
    return total


def percent_of(amount: int, percent: float | Decimal) -> int:
    exact = Decimal(amount) * Decimal(str(percent)) / 100
    return int(exact.quantize(Decimal(1), ROUND_HALF_UP))
