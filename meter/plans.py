"""Plans: credits by subscription, in versions; and their products and prices at Stripe."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from asyncpg import Record
from msgspec import Struct, structs

from ledger.requests import Rollover
from meter import catalog, plan_items, stripe_calls
from meter.plan_items import Metered, Overage
from meter.problems import ProblemError
from meter.stripe_calls import Host, StripeCall
from meter.stripe_port import Made
from sql import queries
from sql.pool import Connection, transaction

Period = Literal["month", "year"]
UpgradeCredits = Literal["renewal", "full"]
ApplyTo = Literal["new", "next_period"]
MONTHS: Final[Mapping[Period, int]] = {"month": 1, "year": 12}
BILLABLE: Final = frozenset({"sum", "count"})
"""Aggregations whose hours add up to the period, as a sum at Stripe does."""
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
    """For each seat, and each period or, with `credits_every`, each month of it."""
    trial_credits: int
    upgrade_credits: UpgradeCredits
    priority: int
    requires_subscription: bool
    rate_card: str | None
    tax_code: str | None
    tax_behavior: str | None
    is_active: bool
    metadata: str
    metered: tuple[Metered, ...] = ()
    overage: Overage | None = None
    credits_every: Literal["month"] | None = None
    """Given month by month of a period that is longer; None: whole, at its start."""
    rollover: Rollover | None = None
    """What stays of each period's credits, for each seat."""
    apply_to: ApplyTo = "new"
    """Whether those who have subscribed already move to it when their period ends."""
    created_at: datetime | None = None

    @property
    def product(self) -> str:
        """The version, as purchases name it."""
        return f"{self.plan}@{self.version}"

    def meanings(self) -> dict[str, tuple[str | None, int | None]]:
        """What is told under each name: of a meter, or so many credits beyond the wallet."""
        found: dict[str, tuple[str | None, int | None]] = {
            one.event_name: (one.meter, None) for one in self.metered
        }
        if self.overage is not None and self.overage.event_name is not None:
            found[self.overage.event_name] = (None, self.overage.report_unit)
        return found

    def billed_by(self, event_name: str) -> Metered | Overage | None:
        """What says the price of what is told under a name."""
        if self.overage is not None and self.overage.event_name == event_name:
            return self.overage
        return next((one for one in self.metered if one.event_name == event_name), None)

    def credits_for(self, quantity: int) -> int:
        """What a whole period gives."""
        return self.credits * quantity * (1 if self.credits_every is None else MONTHS[self.period])


def _read(row: Record) -> Plan:
    known: dict[str, Any] = {name: value for name, value in row.items() if name != "price_id"}
    most, seconds = known.pop("rollover_max"), known.pop("rollover_expires_in")
    known["rollover"] = None if most is None else Rollover(most, seconds)
    known["metered"] = msgspec.json.decode(row["metered"], type=tuple[Metered, ...])
    known["overage"] = msgspec.json.decode(row["overage"], type=Overage | None)
    return Plan(**known)


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
    return {row["price_id"]: _read(row) for row in rows}


async def put(conn: Connection, wanted: Plan) -> tuple[Plan, bool]:
    """Make a version, unless the latest is the same; the latest, and whether the plan is new."""
    await conn.execute(queries.plan_lock, wanted.plan)
    if wanted.metered:
        await _check_meters(conn, wanted.metered)
    await _check_names(conn, wanted)
    known = await latest(conn, wanted.plan)
    if known is not None:
        same = structs.replace(wanted, version=known.version, created_at=known.created_at)
        if same == known:
            return known, False
    members: dict[str, Any] = structs.asdict(wanted)
    del members["version"], members["created_at"], members["apply_to"], members["rollover"]
    for name in ("metered", "overage"):
        members[name] = msgspec.json.encode(members[name]).decode()
    kept = wanted.rollover
    rollover = (None, None) if kept is None else (kept.max, kept.expires_in)
    await conn.execute(queries.plan_add, *members.values(), *rollover, wanted.apply_to)
    if wanted.metered:
        await conn.execute(queries.meters_report, [one.meter for one in wanted.metered])
    made = await latest(conn, wanted.plan)
    assert made is not None, "it was just made"
    return made, known is None


async def _check_meters(conn: Connection, metered: Iterable[Metered]) -> None:
    """Nobody changes a meter meanwhile. Raises ProblemError 422."""
    await catalog.change(conn)
    meters = (await catalog.read(conn)).meters
    for place, item in enumerate(metered):
        meter = meters.get(item.meter)
        words = None
        if meter is None:
            words = "There is no meter of this key: PUT /v1/meters/{key} makes one."
        elif meter.aggregation not in BILLABLE:
            words = (
                f"Stripe adds up what it is told, and {meter.aggregation} does not add up: a plan "
                "bills meters of sum and count."
            )
        elif meter.charge != "none":
            words = (
                f"Usage of this meter is charged in credits (charge: {meter.charge}): a plan can't "
                "bill it as well. Make another meter of the same events with charge: none."
            )
        if words is not None:
            raise ProblemError(422, "invalid_value", words, pointer=f"/metered/{place}/meter")


async def _check_names(conn: Connection, wanted: Plan) -> None:
    """One name means one thing in all plans: Stripe adds up by it. Raises ProblemError 422."""
    means = wanted.meanings()
    for other in await listed(conn):
        known = other.meanings()
        for name in means:
            if other.plan != wanted.plan and name in known and known[name] != means[name]:
                raise ProblemError(
                    422,
                    "invalid_value",
                    f"The plan {other.plan} tells something else under the event_name {name}: "
                    "choose another.",
                    pointer="/metered",
                )


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


async def item_prices_at_stripe(host: Host, plan: Plan, scale: int) -> list[str]:
    """The ids of the prices that bill a version by use; `scale` is its currency's.

    Raises StripeFault.
    """
    return await plan_items.prices_at_stripe(
        host,
        plan=plan.plan,
        version=plan.version,
        name=plan.name,
        currency=plan.currency,
        scale=scale,
        period=plan.period,
        metered=plan.metered,
        overage=plan.overage,
    )
