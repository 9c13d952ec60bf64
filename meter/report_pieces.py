"""Pieces of usage as Stripe is told of them: how a value is cut, and what each is called. Pure."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Context, Decimal
from typing import Final

from msgspec import Struct

DIGITS_MAX: Final = 15
"""Of a value that Stripe takes."""
DECIMALS_MAX: Final = 12
PARTS_MAX: Final = 100
"""Of one value: more than 10^17 is no usage, but a fault."""
PAST_MAX: Final = timedelta(days=35)
"""How old usage may be that Stripe takes."""
CONFIRM_AFTER: Final = timedelta(minutes=5)
"""After it was told: Stripe's sums are a little behind."""
SLACK: Final = timedelta(minutes=30)
"""What may pass between the making of a piece and its telling."""

_WHOLE_MAX: Final = Decimal(10**DIGITS_MAX - 1)
EXACT: Final = Context(prec=120)
"""Sums of values lose nothing."""


class Piece(Struct, frozen=True, kw_only=True):
    """One row to be told. It never changes."""

    customer_no: int
    item_no: int
    window_at: datetime
    seq: int
    part: int
    value: Decimal
    identifier: str
    status: str


def parts_of(value: Decimal) -> list[Decimal]:
    """A value in parts of at most 15 digits each, whose sum is exactly the value.

    At most 12 decimals may be given. Raises OverflowError for what would take too many parts.
    """
    left = value.copy_abs()
    parts: list[Decimal] = []
    while left > _WHOLE_MAX:
        parts.append(_WHOLE_MAX)
        left = EXACT.subtract(left, _WHOLE_MAX)
        if len(parts) >= PARTS_MAX:
            raise OverflowError(f"{value} takes more than {PARTS_MAX} events")
    whole = left.to_integral_value("ROUND_DOWN")
    fraction = EXACT.subtract(left, whole)
    digits = len(value_text(left).replace(".", "").lstrip("0"))
    parts += [left] if digits <= DIGITS_MAX else [whole, fraction]
    return [part.copy_sign(value) for part in parts if part]


def value_text(value: Decimal) -> str:
    """A plain decimal, never with an exponent."""
    return f"{value.normalize(EXACT):f}"


def pieces_of(
    *,
    prefix: str,
    customer_no: int,
    item_no: int,
    window_at: datetime,
    seq: int,
    delta: Decimal,
    is_closed: bool,
    now: datetime,
) -> Iterator[Piece]:
    """The rows of what is to be told of a window; or listed, where it can't be told any more.

    `prefix`: of the installation and its epoch, which grows when books are restored.
    """
    status = "due"
    if is_closed:
        status = "missed_invoice"
    elif window_at < now - PAST_MAX + SLACK:
        status = "unreportable"
    try:
        parts = parts_of(delta)
    except OverflowError:
        parts, status = [delta], "unreportable"
    for part, value in enumerate(parts, 1):
        yield Piece(
            customer_no=customer_no,
            item_no=item_no,
            window_at=window_at,
            seq=seq,
            part=part,
            value=value,
            identifier=(f"{prefix}_{customer_no}_{item_no}_{_moment(window_at)}_{seq}_{part}"),
            status=status,
        )


def _moment(at: datetime) -> str:
    """A window in an identifier: its start in seconds, and what is left of one."""
    seconds = int(at.timestamp())
    return f"{seconds}.{at.microsecond:06d}" if at.microsecond else str(seconds)
