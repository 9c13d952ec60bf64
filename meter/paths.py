"""Places in an event's data, and the numbers found there, exactly."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, cast

STEPS_MAX: Final = 8
"""As deep as an event's data may be."""
PATH_CHARS_MAX: Final = 255
DIGITS_MAX: Final = 26
"""Before the point, as in amounts."""
DECIMALS_MAX: Final = 18
"""After it: a floating-point number written out has up to 17."""

Get = Callable[[Mapping[str, Any]], Any]

_DECIMAL: Final = re.compile(
    rf"-?(?:0|[1-9][0-9]{{0,{DIGITS_MAX - 1}}})(?:\.[0-9]{{1,{DECIMALS_MAX}}})?", re.ASCII
)
_BOUND: Final = 10**DIGITS_MAX


class PathError(ValueError):
    """Not a path. The words go behind its name."""


def getter(path: Any) -> Get:
    """What reads the value at a path; None where there is none. Raises PathError.

    A member whose name is the whole path, dots included, comes first.
    """
    if not isinstance(path, str) or not 1 <= len(path) <= PATH_CHARS_MAX:
        raise PathError(f"is a path of 1 to {PATH_CHARS_MAX} characters")
    if "\0" in path:
        raise PathError("must not hold the character U+0000")
    steps = tuple(path.split("."))
    if len(steps) > STEPS_MAX or "" in steps:
        raise PathError(f"is at most {STEPS_MAX} member names joined by dots")
    if len(steps) == 1:
        return lambda data: data.get(path)

    def get(data: Mapping[str, Any]) -> Any:
        if path in data:
            return data[path]
        found: Any = data
        for step in steps:
            if not isinstance(found, dict):
                return None
            found = cast("dict[str, Any]", found).get(step)
        return found

    return get


def decimal_of(value: Any) -> int | Decimal | None:
    """A number or a decimal string as a number; None for what is none, is too long, or is -0."""
    if type(value) is int:
        return value if -_BOUND < value < _BOUND else None
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        is_short = isinstance(exponent, int) and exponent >= -DECIMALS_MAX
        is_short = is_short and value.adjusted() < DIGITS_MAX
        return value if is_short and not (value.is_zero() and value.is_signed()) else None
    if isinstance(value, str) and _DECIMAL.fullmatch(value) is not None:
        number = Decimal(value) if "." in value else int(value)
        return number if number or value[0] != "-" else None
    return None


def decimal_text(value: int | Decimal) -> str:
    """The one plain form of a number: no exponent, no zeros at the end."""
    if type(value) is int:
        return str(value)
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
