"""What of a plan is billed by use: metered items, and usage beyond the wallet. And at Stripe.

A metered item is paid for afterwards: what its meter counts is told to Stripe. The overage item
bills what the policy `bill` has covered, in credits. Each has a meter at Stripe, found there by the
name of its events or made, and a price for each version of the plan.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct

from ledger.requests import Policy
from meter import stripe_calls
from meter.problems import ProblemError
from meter.rates import TierMode
from meter.stripe_calls import Host, StripeCall
from meter.stripe_port import Made, StripeFault
from sql import queries
from sql.pool import Connection, transaction

EVENT_NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
ITEMS_MAX: Final = 19
"""Metered items of a plan: Stripe lets a subscription have 20, and one is the plan itself."""
CENT_DECIMALS_MAX: Final = 12
"""Of the smallest unit of a currency: what Stripe's prices take."""


class ItemTier(Struct, frozen=True, kw_only=True):
    """From where the one before ends up to and with `up_to`; None: without end."""

    up_to: int | None
    unit_price: str
    flat_price: str


class Metered(Struct, frozen=True, kw_only=True):
    """Usage of a meter that is paid for afterwards. Prices in units of the plan's currency."""

    meter: str
    event_name: str
    unit_price: str | None = None
    tiers: tuple[ItemTier, ...] = ()
    tier_mode: TierMode = "graduated"


class Overage(Struct, frozen=True, kw_only=True):
    """The overage policy of those who have none of their own, and what `bill` costs."""

    policy: Policy
    limit: int | None
    event_name: str | None = None
    unit_price: str | None = None
    report_unit: int | None = None
    """Smallest units of `credits` that are one unit at Stripe."""


class UsageItem(Struct, frozen=True, kw_only=True):
    """One price of a plan at Stripe that bills by use."""

    price_id: str
    plan: str
    version: int
    event_name: str
    stripe_meter_id: str


def decimal_price(text: str, scale: int, pointer: str) -> str:
    """A price per unit as it is kept. Raises ProblemError 422 where Stripe could not take it."""
    exact = Decimal(text)
    if exact.scaleb(scale).normalize().as_tuple().exponent < -CENT_DECIMALS_MAX:  # type: ignore[operator]
        raise ProblemError(
            422,
            "invalid_value",
            f"Stripe takes prices of at most {scale + CENT_DECIMALS_MAX} decimals in this "
            "currency.",
            pointer=pointer,
        )
    return f"{exact.normalize():f}"


async def of_prices(conn: Connection, price_ids: Iterable[str]) -> list[UsageItem]:
    """What prices at Stripe that bill by use stand for; those that are not ours are left out."""
    rows = await conn.fetch(queries.plan_items_of_prices, list(price_ids))
    return [UsageItem(**dict(row)) for row in rows]


async def prices_at_stripe(
    host: Host,
    *,
    plan: str,
    version: int,
    name: str,
    currency: str,
    scale: int,
    period: str,
    metered: Iterable[Metered],
    overage: Overage | None,
) -> list[str]:
    """The ids of the prices of a version's items, made where they are not. Raises StripeFault.

    A meter at Stripe that does something else than adding up is refused.
    """
    stripe = host.stripe
    if stripe is None:
        raise StripeFault("unauthorized", "No key of Stripe is set.")
    costs = {one.event_name: _cost(one, scale) for one in metered}
    if overage is not None and overage.event_name is not None:
        costs[overage.event_name] = {
            "billing_scheme": "per_unit",
            "unit_amount_decimal": _cents(overage.unit_price or "0", scale),
        }
    found: list[str] = []
    for event_name, cost in costs.items():
        async with transaction(host.pool) as conn:
            known = await conn.fetchval(queries.plan_item_price, plan, version, event_name)
        if known is not None:
            found.append(known)
            continue
        meter_id = await stripe.usage_meter(event_name)
        label = f"{name}: {event_name}"[:250]
        product_id = f"dd_{host.installation_id}_plan-{plan}-{event_name}"
        calls = (
            StripeCall(
                name=f"product-plan-{plan}-{event_name}",
                kind="product",
                params={"id": product_id, "name": label},
            ),
            StripeCall(
                name=f"price-plan-{plan}-{version}-{event_name}",
                kind="price",
                params={
                    "product": product_id,
                    "nickname": f"{plan}@{version} {event_name}",
                    "currency": currency.lower(),
                    "recurring": {"interval": period, "usage_type": "metered", "meter": meter_id},
                    "metadata": {"drawdown": host.installation_id, "plan": f"{plan}@{version}"},
                    **cost,
                },
            ),
        )
        for call in calls:
            async with transaction(host.pool) as conn:
                await stripe_calls.note(conn, call)
        await stripe_calls.send(host, calls[0].name)
        link = _linking(plan, version, event_name, meter_id)
        found.append((await stripe_calls.send(host, calls[1].name, link)).object_id)
    return found


def _linking(plan: str, version: int, event_name: str, meter_id: str) -> stripe_calls.Then:
    async def link(conn: Connection, made: Made) -> None:
        await conn.execute(
            queries.plan_item_link, made.object_id, plan, version, event_name, meter_id
        )

    return link


def _cost(one: Metered, scale: int) -> Mapping[str, Any]:
    """What a unit costs, as Stripe's prices say it."""
    if not one.tiers:
        price = _cents(one.unit_price or "0", scale)
        return {"billing_scheme": "per_unit", "unit_amount_decimal": price}
    return {
        "billing_scheme": "tiered",
        "tiers_mode": one.tier_mode,
        "tiers": [
            {
                "up_to": "inf" if tier.up_to is None else tier.up_to,
                "unit_amount_decimal": _cents(tier.unit_price, scale),
                "flat_amount_decimal": _cents(tier.flat_price, scale),
            }
            for tier in one.tiers
        ],
    }


def _cents(price: str, scale: int) -> str:
    return f"{Decimal(price).scaleb(scale).normalize():f}"
