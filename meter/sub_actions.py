"""What is done to a customer's subscription at Stripe: each thing once, under the caller's key."""

import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ledger import customers
from ledger.requests import GrantCredit, Notes
from meter import stripe_calls, subscriptions, usage_items
from meter.plan_lines import part_of
from meter.plans import Plan
from meter.service import Service
from meter.stripe_calls import StripeCall
from meter.stripe_port import Made, Preview, StripePort, SubscriptionState
from meter.subscriptions import Subscription
from sql import queries
from sql.pool import Connection, transaction

When = Literal["now", "period_end"]
Proration = Literal["invoice_now", "next_invoice", "none"]
BEHAVIOR = {"invoice_now": "always_invoice", "next_invoice": "create_prorations", "none": "none"}
"""Our words for Stripe's."""


class Wanted(Struct, frozen=True, kw_only=True):
    """A change that was asked for."""

    plan: Plan
    price_id: str
    item_prices: tuple[str, ...]
    """Of what it bills by use."""
    quantity: int
    when: When
    proration: Proration
    proration_date: datetime | None


class Told(Struct, frozen=True):
    """How an action left its subscription, and when; the same however often it is asked for."""

    object_id: str
    state: SubscriptionState
    at: datetime


class Doing(Struct, frozen=True, kw_only=True):
    """A claimed key: what is done under it is done once."""

    service: Service
    customer_no: int
    name: str
    """Calls made for it are named after it."""
    is_replayed: bool

    async def do(
        self,
        what: str,
        one: Subscription,
        params: Mapping[str, Any] | None = None,
        *,
        to: str | None = None,
        then: stripe_calls.Then | None = None,
    ) -> Told:
        """Do one thing, or tell what was done; the subscription is kept as it is then.

        `to`: what it is done to, if not to the subscription itself. Raises StripeFault.
        """
        service, name = self.service, f"{self.name}-{what}"
        call = StripeCall(
            name=name,
            kind="action",
            customer_no=self.customer_no,
            params={
                "do": what,
                "id": to or one.subscription_id,
                "with": dict(params or {}),
                "subscription": one.subscription_id,
            },
        )
        async with transaction(service.pool) as conn:
            await stripe_calls.note(conn, call)

        async def keep(conn: Connection, made: Made) -> None:
            assert made.subscription is not None, "an action tells it"
            await subscriptions.keep(service, conn, self.customer_no, made.subscription)
            if then is not None:
                await then(conn, made)

        await stripe_calls.send(service, name, keep)
        told = await self.told(what)
        assert told is not None, "it was done"
        return told

    async def told(self, *whats: str) -> Told | None:
        """What the first of these that was done has led to."""
        async with transaction(self.service.pool) as conn:
            for what in whats:
                row = await conn.fetchrow(queries.stripe_call_read, f"{self.name}-{what}")
                if row is not None and row["object_id"] is not None:
                    made = msgspec.json.decode(row["answer"], type=Made)
                    assert made.subscription is not None, "an action tells it"
                    return Told(made.object_id, made.subscription, row["done_at"])
        return None

    async def is_begun(self, *whats: str) -> bool:
        """Whether one of these may have been sent."""
        async with transaction(self.service.pool) as conn:
            for what in whats:
                if await conn.fetchrow(queries.stripe_call_read, f"{self.name}-{what}"):
                    return True
        return False


async def preview(stripe: StripePort, one: Subscription, wanted: Wanted) -> Preview:
    """What Stripe would bill for a change that is made now. Raises StripeFault."""
    details: dict[str, Any] = {
        "items": _items(one, wanted),
        "proration_behavior": BEHAVIOR[wanted.proration],
    }
    if wanted.proration_date is not None:
        details["proration_date"] = int(wanted.proration_date.timestamp())
    return await stripe.preview(
        {"subscription": one.subscription_id, "subscription_details": details}
    )


def _items(one: Subscription, wanted: Wanted) -> list[dict[str, Any]]:
    """The plan's own item first; then what bills by use and comes or goes with the change."""
    has = {item.price_id: item.item_id for item in one.state.metered}
    return [
        {"id": one.item_id, "price": wanted.price_id, "quantity": wanted.quantity},
        *({"id": has[gone], "deleted": True} for gone in has if gone not in wanted.item_prices),
        *({"price": new} for new in wanted.item_prices if new not in has),
    ]


def credits_more(one: Subscription, wanted: Wanted, now: datetime) -> int:
    """What a change made now adds to the credits of the period, once it is paid."""
    if wanted.when == "period_end" or one.plan.asset != wanted.plan.asset:
        return 0
    more = wanted.plan.credits_for(wanted.quantity) - one.plan.credits_for(one.quantity)
    if one.plan.period != wanted.plan.period:
        return wanted.plan.credits_for(wanted.quantity)  # a new period begins
    if one.state.trial_end is not None and now < one.state.trial_end:
        return 0
    if wanted.proration == "none":
        return max(0, more) if wanted.plan.upgrade_credits == "full" else 0
    at = wanted.proration_date or now
    return part_of(more, wanted.plan.period, one.state, at, one.period_end)


async def change_now(doing: Doing, one: Subscription, wanted: Wanted) -> Told:
    """Move to another plan or quantity at once; it counts when its invoice is paid."""
    params: dict[str, Any] = {
        "items": _items(one, wanted),
        "proration_behavior": BEHAVIOR[wanted.proration],
        "payment_behavior": "pending_if_incomplete",
    }
    if wanted.proration_date is not None:
        params["proration_date"] = int(wanted.proration_date.timestamp())

    async def give(conn: Connection, made: Made) -> None:
        """Credits at once for a change that nothing is billed for: the plan says so."""
        if wanted.proration != "none" or one.plan.period != wanted.plan.period:
            return  # an invoice pays for it
        more = credits_more(one, wanted, await customers.now(conn))
        if more == 0:
            return
        request = GrantCredit(
            customer_no=one.customer_no,
            operation="upgrade_credits",
            asset=wanted.plan.asset,
            amount=more,
            category="promotional",
            priority=wanted.plan.priority,
            expires_at=one.period_end,
            notes=Notes(os.urandom(16), reason=f"change to {wanted.plan.product}"),
        )
        await doing.service.decide_in(conn, request)

    await usage_items.flush(doing.service, doing.customer_no)
    await _release(doing, one)
    return await doing.do("update", one, params, then=give)


async def change_later(doing: Doing, one: Subscription, wanted: Wanted) -> Told:
    """Move to another plan or quantity when the period ends."""
    schedule_id = one.state.schedule_id or (await doing.do("schedule", one)).object_id
    phases = [
        {
            "items": [
                {"price": one.price_id, "quantity": one.quantity},
                *({"price": item.price_id} for item in one.state.metered),
            ],
            "start_date": int(one.period_start.timestamp()),
            "end_date": int(one.period_end.timestamp()),
        },
        {
            "items": [
                {"price": wanted.price_id, "quantity": wanted.quantity},
                *({"price": price} for price in wanted.item_prices),
            ],
            "duration": {"interval": wanted.plan.period, "interval_count": 1},
        },
    ]
    return await doing.do(
        "phases", one, {"end_behavior": "release", "phases": phases}, to=schedule_id
    )


async def _release(doing: Doing, one: Subscription) -> Told | None:
    """Give up what was to happen at the period's end."""
    if one.state.schedule_id is None:
        return None
    return await doing.do("release", one, to=one.state.schedule_id)


async def cancel(doing: Doing, one: Subscription, when: When) -> Told:
    """End it now, or at the end of what is paid. Nothing is refunded by this."""
    if when == "now":
        await usage_items.flush(doing.service, doing.customer_no)
        return await doing.do("cancel", one, {"invoice_now": True} if one.state.metered else {})
    await _release(doing, one)
    return await doing.do("update", one, {"cancel_at_period_end": True})


async def resume(doing: Doing, one: Subscription) -> Told:
    """Take back what was to happen at the period's end, or begin again after a pause."""
    if one.status == "paused":
        return await doing.do("resume", one, {"billing_cycle_anchor": {"type": "now"}})
    released = await _release(doing, one)
    if one.state.cancel_at is None and released is not None:
        return released
    return await doing.do("update", one, {"cancel_at_period_end": False})


async def pause(doing: Doing, one: Subscription) -> Told:
    """No more invoices and no access until it is resumed."""
    await _release(doing, one)
    return await doing.do("pause", one, {"type": "subscription"})
