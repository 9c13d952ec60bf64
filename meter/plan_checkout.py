"""Selling a plan: the order is ours first, then the customer pays it on Stripe's page.

The order is a purchase that waits for the first line of an invoice that pays it. Every line after
that is a purchase of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from ledger import load_purchases
from ledger.amounts import AMOUNT_MAX
from ledger.bought import Terms
from ledger.ids import parse_id
from ledger.load_purchases import PurchaseRef
from ledger.requests import Claim, OpenPurchase
from meter import plans, stripe_calls
from meter.checkout import CENTS_MAX, Opened, stripe_customer
from meter.plans import Plan
from meter.problems import ProblemError
from meter.service import Service
from meter.stripe_calls import StripeCall
from meter.stripe_port import Made
from sql import queries
from sql.pool import Connection, transaction

NO_CARD: Final = {"end_behavior": {"missing_payment_method": "cancel"}}
"""A trial whose customer gave no card ends with it."""


class _Answer(Struct, frozen=True):
    id: str


def terms_of(plan: Plan, quantity: int, *, has_trial: bool) -> Terms | None:
    """What is expected of an order; None: the plan gives no credits. Raises ProblemError 422."""
    if plan.amount * quantity > CENTS_MAX:
        raise ProblemError(
            422,
            "invalid_value",
            "Stripe takes payments of up to eight digits: order fewer seats.",
            pointer="/quantity",
        )
    credits = plan.credits_for(quantity)
    if has_trial and plan.trial_credits:
        credits = plan.trial_credits * quantity
    if credits > AMOUNT_MAX:
        raise ProblemError(
            422,
            "amount_out_of_range",
            "So many credits are above the limit of amounts: order fewer seats.",
            pointer="/quantity",
        )
    if credits == 0:
        return None
    return Terms(
        kind="plan",
        product=plan.product,
        asset=plan.asset,
        credits=credits,
        currency=plan.currency,
        amount=plan.amount * quantity,
        quantity=quantity,
        priority=plan.priority,
        bonus_priority=plan.priority,
    )


async def open_order(
    service: Service,
    request: OpenPurchase | Claim,
    plan: Plan,
    asked: Mapping[str, Any],
    *,
    has_trial: bool,
) -> Opened:
    """Record an order and make it payable; asked again, what there is.

    Raises ProblemError and StripeFault; the order stays, and the same request goes on with it.
    """

    async def begin() -> tuple[str, bool, int]:
        async with transaction(service.pool) as conn:
            result = await service.decide_in(conn, request)
            epoch: int = await conn.fetchval(queries.stripe_epoch)
            named = msgspec.json.decode(result.body, type=_Answer).id
            return named, result.is_replayed, epoch

    order_id, is_replayed, epoch = await service.retried(begin)
    named = parse_id("pur", order_id)
    owner = None if named is None else PurchaseRef(*named)
    price = await plans.price_at_stripe(service, plan)
    scale = service.settings().scales[plan.currency]
    by_use = await plans.item_prices_at_stripe(service, plan, scale)
    customer = await stripe_customer(service, request.customer_no)
    name = f"session-{order_id}-{epoch}"
    marks = {
        "drawdown": service.installation_id,
        "drawdown_call": name,
        "user_id": asked["user_id"],
        **({} if owner is None else {"purchase_id": order_id}),
    }
    call = StripeCall(
        name=name,
        kind="session",
        params=_session(asked, plan, [price, *by_use], customer, marks, has_trial=has_trial),
        customer_no=request.customer_no,
        purchase_no=None if owner is None else owner.purchase_no,
    )
    async with transaction(service.pool) as conn:
        await stripe_calls.note(conn, call)

    async def link(conn: Connection, made: Made) -> None:
        if owner is not None:
            await load_purchases.link(conn, made.object_id, owner)

    made = await stripe_calls.send(service, name, link)
    return Opened(order_id if owner is not None else None, made, is_replayed)


def _session(
    asked: Mapping[str, Any],
    plan: Plan,
    prices: Sequence[str],
    customer: str,
    marks: Mapping[str, str],
    *,
    has_trial: bool,
) -> dict[str, Any]:
    """A checkout session that starts a subscription: the plan's own price is the first."""
    data: dict[str, Any] = {"metadata": marks, "billing_mode": {"type": "flexible"}}
    params: dict[str, Any] = {
        "mode": "subscription",
        "customer": customer,
        "client_reference_id": marks.get("purchase_id", marks["drawdown_call"]),
        "line_items": [
            {"price": prices[0], "quantity": asked["quantity"]},
            *({"price": price} for price in prices[1:]),
        ],
        "success_url": asked["success_url"],
        "cancel_url": asked["cancel_url"],
        "metadata": marks,
        "subscription_data": data,
    }
    if has_trial:
        data |= {"trial_period_days": plan.trial_days, "trial_settings": NO_CARD}
        params["payment_method_collection"] = "if_required"
    if asked["allow_promotion_codes"]:
        params["allow_promotion_codes"] = True
    if asked["tax"] == "automatic":
        params |= {"automatic_tax": {"enabled": True}, "customer_update": {"address": "auto"}}
    return params
