"""Plans: credits by subscription, in versions; and their products and prices at Stripe."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, Literal

from asyncpg import Record
from msgspec import Struct, structs

from meter import stripe_calls
from meter.stripe_calls import Host, StripeCall
from meter.stripe_port import Made
from sql import queries
from sql.pool import Connection, transaction

Period = Literal["month", "year"]
UpgradeCredits = Literal["renewal", "full"]
TRIAL_DAYS_MAX: Final = 730
"""Stripe's."""


class Plan(Struct, frozen=True, kw_only=True):
    """One version of a plan. Credits in the asset's smallest unit, the price in the currency's."""

    plan: str
    version: int
    name: str
    tier: str
    asset: str
    currency: str
    amount: int
    period: Period
    trial_days: int | None
    credits: int
    """For each period and seat."""
    trial_credits: int
    upgrade_credits: UpgradeCredits
    priority: int
    requires_subscription: bool
    rate_card: str | None
    tax_code: str | None
    tax_behavior: str | None
    is_active: bool
    metadata: str
    created_at: datetime | None = None

    @property
    def product(self) -> str:
        """The version, as purchases name it."""
        return f"{self.plan}@{self.version}"

    def credits_for(self, quantity: int) -> int:
        """What a whole period gives."""
        return self.credits * quantity


def _read(row: Record) -> Plan:
    return Plan(**dict(row))


async def listed(conn: Connection) -> list[Plan]:
    """The latest version of every plan, by key."""
    return [_read(row) for row in await conn.fetch(queries.plans_read, None)]


async def latest(conn: Connection, plan: str) -> Plan | None:
    """The latest version of a plan."""
    row = await conn.fetchrow(queries.plans_read, plan)
    return None if row is None else _read(row)


async def version(conn: Connection, plan: str, number: int) -> Plan:
    """A version that something names. There is none that was never made."""
    row = await conn.fetchrow(queries.plan_version, plan, number)
    assert row is not None, (plan, number)
    return _read(row)


async def of_prices(conn: Connection, price_ids: Iterable[str]) -> dict[str, Plan]:
    """The versions that prices at Stripe stand for; those that are not of ours are left out."""
    rows = await conn.fetch(queries.plans_of_prices, list(price_ids))
    return {
        row["price_id"]: Plan(**{k: v for k, v in row.items() if k != "price_id"}) for row in rows
    }


async def put(conn: Connection, wanted: Plan) -> tuple[Plan, bool]:
    """Make a version, unless the latest is the same; the latest, and whether the plan is new."""
    await conn.execute(queries.plan_lock, wanted.plan)
    known = await latest(conn, wanted.plan)
    if known is not None:
        same = structs.replace(wanted, version=known.version, created_at=known.created_at)
        if same == known:
            return known, False
    members: dict[str, Any] = structs.asdict(wanted)
    del members["version"], members["created_at"]
    await conn.execute(queries.plan_add, *members.values())
    made = await latest(conn, wanted.plan)
    assert made is not None, "it was just made"
    return made, known is None


def product_id(host: Host, plan: Plan) -> str:
    """Stripe's id of a plan's product, which is ours to choose."""
    return f"dd_{host.installation_id}_plan-{plan.plan}"


async def price_at_stripe(host: Host, plan: Plan) -> str:
    """The id of a version's price at Stripe, made if it is not there. Raises StripeFault.

    Each version has its own price, so that an invoice's line says which version it is of.
    """
    product = StripeCall(
        name=f"product-plan-{plan.plan}",
        kind="product",
        params={
            "id": product_id(host, plan),
            "name": plan.name,
            **({} if plan.tax_code is None else {"tax_code": plan.tax_code}),
        },
    )
    price = StripeCall(
        name=f"price-plan-{plan.plan}-{plan.version}",
        kind="price",
        params={
            "product": product_id(host, plan),
            "nickname": plan.product,
            "currency": plan.currency.lower(),
            "unit_amount": plan.amount,
            "recurring": {"interval": plan.period},
            "metadata": {"drawdown": host.installation_id, "plan": plan.product},
            **({} if plan.tax_behavior is None else {"tax_behavior": plan.tax_behavior}),
        },
    )
    for call in (product, price):
        async with transaction(host.pool) as conn:
            await stripe_calls.note(conn, call)
    await stripe_calls.send(host, product.name)

    async def link(conn: Connection, made: Made) -> None:
        await conn.execute(queries.plan_price_link, made.object_id, plan.plan, plan.version)

    return (await stripe_calls.send(host, price.name, link)).object_id
