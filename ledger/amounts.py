"""Amounts: integers in an asset's smallest unit inside, plain decimal strings outside."""

import re
from functools import lru_cache
from typing import Final

AMOUNT_MAX: Final = 2**63 - 1
"""The largest single amount (a lot, a hold, a transfer), in the smallest unit."""

# The public pattern of an amount: no sign, no exponent, no leading zeros.
AMOUNT_PATTERN: Final = r"^(0|[1-9][0-9]{0,25})(\.[0-9]{1,12})?$"
_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,25})(?:\.([0-9]{1,12}))?", re.ASCII)


class AmountError(ValueError):
    """The text is not an amount of this asset. `code` is a problem code, the message says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse_amount(text: str, scale: int) -> int:
    """Read a plain decimal string as a count of the asset's smallest unit.

    Raises AmountError `invalid_amount` for what is not a plain decimal, `amount_out_of_range` for
    more decimals than the asset's scale or more than the largest amount: nothing is rounded.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise AmountError(
            "invalid_amount",
            'must be a plain decimal string such as "12.5": digits, at most 12 decimals, '
            "no sign, no exponent",
        )
    whole, decimals = match[1], match[2] or ""
    if len(decimals) > scale:
        raise AmountError("amount_out_of_range", f"has more than {scale} decimals")
    amount = int(whole + decimals.ljust(scale, "0"))
    if amount > AMOUNT_MAX:
        raise AmountError(
            "amount_out_of_range", f"is above the limit of {format_amount(AMOUNT_MAX, scale)}"
        )
    return amount


@lru_cache(maxsize=16_384)  # an answer says most of its amounts more than once
def format_amount(amount: int, scale: int) -> str:
    """Write a count of the smallest unit as a plain decimal string, without trailing zeros."""
    if amount == 0:
        return "0"
    if amount < 0:
        return "-" + format_amount(-amount, scale)
    digits = str(amount)
    if scale == 0:
        return digits
    if len(digits) <= scale:
        digits = digits.zfill(scale + 1)
    decimals = digits[-scale:].rstrip("0")
    return f"{digits[:-scale]}.{decimals}" if decimals else digits[:-scale]


def half_even(numerator: int, denominator: int) -> int:
    """Round `numerator / denominator` (both ≥ 0, denominator > 0) to the nearest, ties to even."""
    quotient, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and quotient % 2 == 1):
        return quotient + 1
    return quotient
