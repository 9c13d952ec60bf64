"""Usage that missed its invoice, as an invoice item: what it costs and what it says. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct

from meter.plan_items import ItemTier, Metered, Overage
from meter.report_pieces import EXACT, value_text

GATHER: Final = timedelta(hours=6)
"""Between two items of one period: Stripe puts at most 250 on an invoice."""
PIECES_MAX: Final = 100
"""Of one item: its metadata names them all."""
MARK_MAX: Final = 500
"""Characters that Stripe takes of a member of metadata."""


class LatePiece(Struct, frozen=True, kw_only=True):
    """A report row that missed its invoice."""

    window_at: datetime
    ends_at: datetime
    seq: int
    part: int
    value: Decimal
    identifier: str


class LateOwner(Struct, frozen=True, kw_only=True):
    """Whose usage it was, and under which name it is billed."""

    installation_id: str
    customer_id: str
    event_name: str
    meter: str | None
    """None: usage beyond the wallet."""
    subscription_id: str
    stripe_customer_id: str
    currency: str


def cost(item: Metered | Overage, used: Decimal, scale: int) -> int:
    """What a period's usage costs, in the currency's smallest unit (`scale`).

    Rounded once, a half up, as Stripe rounds. Less than nothing used costs nothing.
    """
    used = max(used, Decimal(0))
    tiers = item.tiers if isinstance(item, Metered) else ()
    if not tiers:
        exact = EXACT.multiply(Decimal(item.unit_price or "0"), used)
    elif isinstance(item, Metered) and item.tier_mode == "volume":
        exact = _volume(tiers, used)
    else:
        exact = _graduated(tiers, used)
    return int(EXACT.scaleb(exact, scale).quantize(Decimal(1), "ROUND_HALF_UP", EXACT))


def _volume(tiers: Iterable[ItemTier], used: Decimal) -> Decimal:
    """All at the price of the tier that the quantity reaches."""
    for tier in tiers:
        if used and (tier.up_to is None or used <= tier.up_to):
            whole = EXACT.multiply(Decimal(tier.unit_price), used)
            return EXACT.add(whole, Decimal(tier.flat_price))
    return Decimal(0)


def _graduated(tiers: Iterable[ItemTier], used: Decimal) -> Decimal:
    """Each part at the price of its own tier."""
    total, below = Decimal(0), Decimal(0)
    for tier in tiers:
        if used <= below:
            break
        upper = used if tier.up_to is None else min(used, Decimal(tier.up_to))
        part = EXACT.multiply(Decimal(tier.unit_price), EXACT.subtract(upper, below))
        total = EXACT.add(EXACT.add(total, part), Decimal(tier.flat_price))
        below = upper
    return total


def sum_of(pieces: Iterable[LatePiece]) -> Decimal:
    """What pieces come to, exactly."""
    total = Decimal(0)
    for one in pieces:
        total = EXACT.add(total, one.value)
    return total


def call_name(pieces: Sequence[LatePiece]) -> str:
    """The name of the call that makes their item: after the first, which is in no other."""
    return f"late-{pieces[0].identifier}"


def params(owner: LateOwner, pieces: Sequence[LatePiece], amount: int) -> dict[str, Any]:
    """What Stripe is asked for: an item that the subscription's next invoice takes."""
    starts = min(one.window_at for one in pieces)
    ends = max(one.ends_at for one in pieces)
    name = owner.event_name if owner.meter is None else f"{owner.meter} ({owner.event_name})"
    value = sum_of(pieces)
    than = "more" if value > 0 else "less"
    return {
        "customer": owner.stripe_customer_id,
        "subscription": owner.subscription_id,
        "currency": owner.currency.lower(),
        "amount": amount,
        "description": f"{name}, {starts:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC: "
        f"{value_text(abs(value))} {than} than was billed",
        "period": {"start": int(starts.timestamp()), "end": int(ends.timestamp())},
        "metadata": {
            "drawdown": owner.installation_id,
            "user_id": owner.customer_id,
            "event_name": owner.event_name,
            **_named(one.identifier for one in pieces),
        },
    }


def _named(identifiers: Iterable[str]) -> Mapping[str, str]:
    """The rows by name, as many in a member as it takes."""
    lines = [""]
    for one in identifiers:
        if len(lines[-1]) + len(one) >= MARK_MAX:
            lines.append("")
        lines[-1] = f"{lines[-1]} {one}".strip()
    return {f"report_rows_{number}": line for number, line in enumerate(lines, 1)}
