"""Whether customers may use what their plans are for."""

import asyncio
from datetime import datetime
from typing import Final

from ledger import customers
from meter import subscriptions
from meter.http.customers import answer
from meter.http.plan_bodies import AccessAnswer
from meter.problems import ProblemError
from meter.route import Call, Query, Reply, Route
from meter.service import Service
from meter.stripe_port import StripeFault
from meter.subscriptions import Subscription, standing
from sql.pool import transaction

ASK_SECONDS_MAX: Final = 5.0
"""Whoever asks for access waits no longer for Stripe."""
NONE: Final = "There is no live subscription: POST /v1/checkout with a plan sells one."
UNPAID: Final = "Let the customer pay the open invoice (GET /v1/invoices), or change the card."


async def get_access(call: Call) -> Reply:
    """Whether the customer may use what its plan is for; with `require=1` a 403 if not.

    Active and trialing pass, past due within the grace. News that should have come by now is
    fetched; if Stripe is away, what is known counts and is said to be stale.
    """
    service, wanted = call.service, call.query.get("plan")
    requires = call.query.get("require")
    if requires not in {None, "1"}:
        raise ProblemError(422, "invalid_query", "require is 1, or left out.")
    number = await service.customer_no(call, call.ids[0])
    async with transaction(service.pool, snapshot=True) as conn:
        found, now = await subscriptions.primary(conn, number), await customers.now(conn)
    stale = False
    if found is not None and found.is_stale(now):
        found, stale = await _fetched(service, found)
    shown = _access(found, wanted, now, service, stale=stale)
    if requires is not None and not shown.active:
        raise ProblemError(403, "subscription_required", shown.reason or NONE)
    return answer(200, shown)


async def _fetched(service: Service, known: Subscription) -> tuple[Subscription, bool]:
    """A subscription as it is now; as it was, and stale, if Stripe is away."""
    if service.stripe is None:
        return known, True
    try:
        async with asyncio.timeout(ASK_SECONDS_MAX):
            state = await service.stripe.subscription(known.subscription_id)
    except (StripeFault, TimeoutError):
        return known, True

    async def write() -> Subscription | None:
        async with transaction(service.pool) as conn:
            await subscriptions.keep(service, conn, known.customer_no, state)
            return await subscriptions.primary(conn, known.customer_no)

    return await service.retried(write) or known, False


def _access(
    found: Subscription | None,
    wanted: str | None,
    now: datetime,
    service: Service,
    *,
    stale: bool,
) -> AccessAnswer:
    if found is None:
        return AccessAnswer(
            active=False,
            status="none",
            plan=None,
            tier=None,
            stale=False,
            period_end=None,
            trial_end=None,
            cancel_at=None,
            grace_until=None,
            reason=NONE,
        )
    worth = standing(found, now, service.config.past_due_grace)
    is_plan = wanted is None or wanted == found.plan.plan
    reason = None
    if not worth.is_active:
        reason = UNPAID if found.is_live else NONE
    elif not is_plan:
        reason = (
            f"The customer is on the plan {found.plan.plan}, not on {wanted}: "
            "POST …/subscription/change moves it."
        )
    return AccessAnswer(
        active=worth.is_active and is_plan,
        status=found.status,
        plan=found.plan.plan,
        tier=found.plan.tier,
        stale=stale,
        period_end=found.period_end,
        trial_end=found.state.trial_end,
        cancel_at=found.state.cancel_at,
        grace_until=worth.grace_until,
        reason=reason,
    )


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/customers/{customer_id}/access",
        operation="get_access",
        summary="Whether a customer's subscription is in good standing.",
        scope="customers:read",
        handler=get_access,
        tag="Money in",
        answers={200: AccessAnswer},
        errors=("customer_not_found", "subscription_required"),
        query=(
            Query("plan", "Only on this plan."),
            Query("require", "1: a 403 unless active.", {"type": "string", "enum": ["1"]}),
        ),
    ),
)
