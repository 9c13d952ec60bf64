"""Subscriptions as Stripe last had them, and what follows for their customers: access, the gate."""

from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from ledger import customers, load
from ledger.requests import Policy, SetStanding
from meter import plan_items, plans, usage_items
from meter.plans import Plan
from meter.service import Service
from meter.stripe_port import SubscriptionState
from sql import queries
from sql.pool import Connection

GOOD: Final = frozenset({"active", "trialing"})
ENDED: Final = frozenset({"canceled", "incomplete_expired"})
STALE_AFTER: Final = timedelta(hours=72)
"""News of a new period comes at its start, and its invoice within hours."""

log = structlog.get_logger()


class Subscription(Struct, frozen=True, kw_only=True):
    """One subscription of a customer, and the version of the plan that it is of."""

    customer_no: int
    plan: Plan
    quantity: int
    price_id: str
    status: str
    state: SubscriptionState
    period_start: datetime
    period_end: datetime
    is_duplicate: bool
    is_live: bool
    fetched_at: datetime

    @property
    def subscription_id(self) -> str:
        return self.state.subscription_id

    @property
    def item_id(self) -> str:
        """Of the item that is its plan's."""
        return next(one.item_id for one in self.state.items if one.price_id == self.price_id)

    def is_stale(self, now: datetime) -> bool:
        """Whether there should have been news of it since."""
        due = self.period_end + STALE_AFTER
        return self.is_live and self.fetched_at < due <= now


class Standing(Struct, frozen=True):
    """Whether a subscription gives access, and if it is overdue, until when."""

    is_active: bool
    grace_until: datetime | None = None
    lost_at: datetime | None = None


def standing(one: Subscription, now: datetime, grace: timedelta) -> Standing:
    """What a subscription is worth now. Pure."""
    if one.status in GOOD:
        return Standing(True)
    if one.status == "past_due":
        until = one.period_start + grace
        return Standing(now < until, until, until)
    return Standing(False, None, one.state.ended_at or one.state.canceled_at)


async def of(conn: Connection, customer_no: int) -> list[Subscription]:
    """A customer's subscriptions: the first live one, or the last that ended; then the others."""
    found: list[Subscription] = []
    for row in await conn.fetch(queries.subscriptions_read, customer_no):
        found.append(
            Subscription(
                customer_no=customer_no,
                plan=await plans.version(conn, row["plan"], row["version"]),
                quantity=row["quantity"],
                price_id=row["price_id"],
                status=row["status"],
                state=msgspec.json.decode(row["state"], type=SubscriptionState),
                period_start=row["period_start"],
                period_end=row["period_end"],
                is_duplicate=row["is_duplicate"],
                is_live=row["is_live"],
                fetched_at=row["fetched_at"],
            )
        )
    return found


async def as_told(
    conn: Connection, customer_no: int, state: SubscriptionState, at: datetime
) -> Subscription:
    """A subscription as it was at a moment, of which its state was kept."""
    known = await plans.of_prices(conn, [item.price_id for item in state.items])
    item = next(one for one in state.items if one.price_id in known)
    rows = await of(conn, customer_no)
    return Subscription(
        customer_no=customer_no,
        plan=known[item.price_id],
        quantity=item.quantity,
        price_id=item.price_id,
        status=state.status,
        state=state,
        period_start=item.period_start,
        period_end=item.period_end,
        is_duplicate=any(
            one.is_duplicate for one in rows if one.subscription_id == state.subscription_id
        ),
        is_live=state.status not in ENDED,
        fetched_at=at,
    )


async def primary(conn: Connection, customer_no: int) -> Subscription | None:
    """The subscription that counts; None: there never was one."""
    return next(iter(await of(conn, customer_no)), None)


async def keep(
    service: Service, conn: Connection, customer_no: int, state: SubscriptionState
) -> None:
    """Keep a subscription as it was fetched, with what the customer shows and the gate of usage.

    In the caller's transaction. One that has no plan of ours any more stays as it was.
    """
    await load.lock(conn, [customer_no], wait=True)
    known = await plans.of_prices(conn, [item.price_id for item in state.items])
    item = next((one for one in state.items if one.price_id in known), None)
    if item is None:
        log.warning("subscription_left_its_plan", subscription_id=state.subscription_id)
        return
    plan = known[item.price_id]
    await conn.execute(
        queries.subscription_put,
        customer_no,
        state.subscription_id,
        state.status,
        plan.plan,
        plan.version,
        item.quantity,
        item.price_id,
        msgspec.json.encode(state).decode(),
        item.period_start,
        item.period_end,
        state.started_at,
    )
    first, *_ = await of(conn, customer_no)
    for row in await conn.fetch(queries.subscriptions_rank, customer_no, first.subscription_id):
        if row["is_duplicate"]:
            log.error(
                "subscription_is_duplicate",
                subscription_id=row["subscription_id"],
                beside=first.subscription_id,
            )
            service.metrics.stripe.duplicate_subscription()
    plan = first.plan
    await conn.execute(
        queries.subscription_show,
        *(customer_no, first.subscription_id, first.status, plan.plan, plan.tier),
        plan.rate_card if first.is_live else None,
    )
    await usage_items.follow(conn, customer_no, first.state, await customers.now(conn))
    await stand(service, conn, customer_no)


async def stand(service: Service, conn: Connection, customer_no: int) -> None:
    """Bring into the books what the customer's subscription allows: the gate, and what `bill` may
    cover. In the caller's transaction.
    """
    books = (await load.lock(conn, [customer_no], wait=True))[customer_no]
    first, now = await primary(conn, customer_no), await customers.now(conn)
    grace = service.config.past_due_grace
    gated, unbilled = None, None
    if service.config.stripe is not None:
        unbilled = min(books.unbilled_from or now, now)
    policy: Policy = "deny"
    limit, billed_before = None, books.billed_before
    if first is not None:
        worth = standing(first, now, grace)
        gated = _gate(first, books.gated_from, now, grace)
        prices = [item.price_id for item in first.state.metered]
        items = await plan_items.of_prices(conn, prices)
        if usage_items.bills(first.plan, first.state, items):
            unbilled = worth.lost_at
            if unbilled is None and not worth.is_active:
                unbilled = min(books.unbilled_from or now, now)
            billed_before = int(
                await conn.fetchval(queries.billed_before_read, customer_no, first.period_start)
            )
        if first.is_live and first.plan.overage is not None:
            policy, limit = first.plan.overage.policy, first.plan.overage.limit
    request = SetStanding(
        customer_no=customer_no,
        operation="set_standing",
        gated_from=gated,
        unbilled_from=unbilled,
        billed_before=billed_before,
        plan_until=None if first is None else first.state.ended_at or first.state.cancel_at,
        policy=policy,
        limit=limit,
    )
    await service.decide_in(conn, request)


def _gate(
    first: Subscription, known: datetime | None, now: datetime, grace: timedelta
) -> datetime | None:
    """From when on the customer's plan lets nothing new start; None: it does. Pure."""
    if not first.plan.requires_subscription:
        return None
    found = standing(first, now, grace)
    if found.lost_at is not None:
        return found.lost_at
    return None if found.is_active else min(known or now, now)
