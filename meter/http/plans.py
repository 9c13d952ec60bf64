"""Plans: what can be subscribed to."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

import msgspec

from ledger.amounts import format_amount
from ledger.answers import RolloverAnswer
from ledger.requests import Rollover
from meter import parse, plans, stripe_calls
from meter.http.customers import answer
from meter.http.packs import price_of
from meter.http.paging import LIMIT, Page, page, place
from meter.http.plan_bodies import (
    ItemTierAnswer,
    ItemTierBody,
    MeteredAnswer,
    MeteredBody,
    PlanAnswer,
    PlanBody,
    PlanOverageAnswer,
    PlanOverageBody,
)
from meter.http.stripe_bodies import PriceAnswer
from meter.packs import PACK
from meter.plan_items import ItemTier, Metered, Overage, decimal_price
from meter.plans import Plan
from meter.problems import ProblemError
from meter.route import Call, Reply, Route
from meter.service import Service
from meter.stripe_port import StripeFault
from sql.pool import transaction


async def put_plan(call: Call) -> Reply:
    """Make a plan or change it, with its product and price at Stripe.

    A change is a new version, for those who subscribe or change from now on; with `apply_to:
    next_period` also for those who have subscribed, when their period ends. If Stripe is away the
    version is there, and the same request (or the first checkout) makes what is missing.
    """
    assert call.body is not None
    wanted = await _read(call, parse.decode(call.body, PlanBody))

    async def write() -> tuple[Plan, bool]:
        async with transaction(call.service.pool) as conn:
            return await plans.put(conn, wanted)

    made, is_new = await call.service.retried(write)
    if made.is_active:
        try:
            await plans.price_at_stripe(call.service, made)
            scale = call.service.settings().scales[made.currency]
            await plans.item_prices_at_stripe(call.service, made, scale)
        except StripeFault as fault:
            raise stripe_calls.problem_of(fault) from fault
    return answer(201 if is_new else 200, _show(call.service, made))


async def _read(call: Call, body: PlanBody) -> Plan:
    key, service = call.ids[0], call.service
    if PACK.fullmatch(key) is None:
        raise ProblemError(
            422, "invalid_value", "A plan's key is 1-63 letters, digits, `_` and `-`."
        )
    scale = await service.asset_scale(body.asset)
    money = service.money_scale(body.price.currency, "/price/currency")
    if body.trial_credits is not None and body.trial_days is None:
        raise ProblemError(
            422, "invalid_value", "trial_credits need trial_days.", pointer="/trial_credits"
        )
    if body.rate_card is not None and not await service.has_rate_card(body.rate_card):
        raise ProblemError(
            422,
            "invalid_rate_card",
            "There is no rate card of this key: POST /v1/rate-cards publishes one.",
            pointer="/rate_card",
        )
    return Plan(
        plan=key,
        version=0,
        name=body.name,
        tier=body.tier,
        asset=body.asset,
        currency=body.price.currency,
        amount=price_of(body.price.amount, money, "/price/amount"),
        period=body.interval,
        trial_days=body.trial_days,
        credits=_credits(body.credits, scale, "/credits"),
        trial_credits=_credits(body.trial_credits, scale, "/trial_credits"),
        upgrade_credits=body.upgrade_credits,
        priority=body.priority,
        requires_subscription=body.requires_subscription,
        rate_card=body.rate_card,
        tax_code=body.tax_code,
        tax_behavior=body.tax_behavior,
        is_active=body.active,
        metadata=parse.metadata(body.metadata or {}, "/metadata"),
        metered=_metered(body.metered, money),
        overage=_overage(service, body.overage, money, [one.event_name for one in body.metered]),
        credits_every=_every(body),
        rollover=_rollover(body, scale),
        apply_to=body.apply_to,
    )


def _rollover(body: PlanBody, scale: int) -> Rollover | None:
    """What stays of a period's credits. Raises ProblemError 422."""
    if body.rollover is None:
        return None
    if body.credits is None:
        raise ProblemError(
            422,
            "invalid_value",
            "There are no credits that could stay: send credits.",
            pointer="/rollover",
        )
    return Rollover(
        parse.amount(body.rollover.max, scale, "/rollover/max"), body.rollover.expires_in
    )


def _metered(bodies: Sequence[MeteredBody], money: int) -> tuple[Metered, ...]:
    """Metered items as they are kept. Raises ProblemError 422."""
    found: list[Metered] = []
    for number, body in enumerate(bodies):
        at = f"/metered/{number}"
        if (body.unit_price is None) == (not body.tiers):
            raise ProblemError(
                422, "invalid_value", "Send a unit_price or tiers.", pointer=f"{at}/unit_price"
            )
        if any(one.event_name == body.event_name for one in found):
            raise ProblemError(
                422,
                "invalid_value",
                "Another item of this plan has this event_name: each needs its own.",
                pointer=f"{at}/event_name",
            )
        price = body.unit_price
        found.append(
            Metered(
                meter=body.meter,
                event_name=body.event_name,
                unit_price=None
                if price is None
                else decimal_price(price, money, f"{at}/unit_price"),
                tiers=tuple(
                    ItemTier(
                        up_to=tier.up_to,
                        unit_price=decimal_price(tier.unit_price, money, f"{at}/tiers/{tier_no}"),
                        flat_price=decimal_price(tier.flat_price, money, f"{at}/tiers/{tier_no}"),
                    )
                    for tier_no, tier in enumerate(body.tiers)
                ),
                tier_mode=body.tier_mode,
            )
        )
        _check_tiers(body.tiers, f"{at}/tiers")
    return tuple(found)


def _check_tiers(tiers: Sequence[ItemTierBody], pointer: str) -> None:
    ends = [tier.up_to for tier in tiers]
    rises = all(a is not None and b is not None and a < b for a, b in pairwise(ends[:-1]))
    if ends and (ends[-1] is not None or None in ends[:-1] or not rises):
        raise ProblemError(
            422,
            "invalid_value",
            "Tiers end ever higher, and only the last one, which has no up_to, has no end.",
            pointer=pointer,
        )


def _overage(
    service: Service, body: PlanOverageBody | None, money: int, taken: Sequence[str]
) -> Overage | None:
    """The overage item as it is kept. Raises ProblemError 422."""
    if body is None:
        return None
    scale = service.credit_scale("credits")
    limit = None if body.limit is None else parse.amount(body.limit, scale, "/overage/limit")
    if body.policy == "owe" and limit is None:
        raise ProblemError(422, "invalid_overage", "owe needs a limit.", pointer="/overage/limit")
    if body.policy == "deny" and limit is not None:
        raise ProblemError(422, "invalid_overage", "deny has no limit.", pointer="/overage/limit")
    named = body.event_name, body.unit_price, body.report_unit
    if body.event_name in taken:
        raise ProblemError(
            422,
            "invalid_value",
            "A metered item of this plan has this event_name: each needs its own.",
            pointer="/overage/event_name",
        )
    if body.policy != "bill":
        if named != (None, None, None):
            raise ProblemError(
                422,
                "invalid_overage",
                "Only `bill` has an event_name, a unit_price and a report_unit.",
                pointer="/overage/policy",
            )
        return Overage(policy=body.policy, limit=limit)
    if body.event_name is None or body.unit_price is None:
        raise ProblemError(
            422,
            "invalid_overage",
            "`bill` needs an event_name and a unit_price: what Stripe is told, and its price.",
            pointer="/overage/event_name",
        )
    unit = 10**scale
    if body.report_unit is not None:
        unit = parse.amount(body.report_unit, scale, "/overage/report_unit")
    return Overage(
        policy="bill",
        limit=limit,
        event_name=body.event_name,
        unit_price=decimal_price(body.unit_price, money, "/overage/unit_price"),
        report_unit=unit,
    )


def _every(body: PlanBody) -> Literal["month"] | None:
    """How often its credits are given. Raises ProblemError 422."""
    words = None
    if body.credits_every is None:
        return None
    if body.interval != "year":
        words = "A plan of a month gives its credits each month: leave credits_every out."
    elif body.credits is None:
        words = "There are no credits to give each month: send credits."
    elif body.upgrade_credits == "full":
        words = (
            "upgrade_credits: full gives what is left of the period at once, and this plan gives "
            "its credits by month: leave one of the two out."
        )
    if words is not None:
        raise ProblemError(422, "invalid_value", words, pointer="/credits_every")
    return body.credits_every


def _credits(text: str | None, scale: int, pointer: str) -> int:
    return 0 if text is None else parse.amount(text, scale, pointer)


def _show(service: Service, plan: Plan) -> PlanAnswer:
    scales = service.settings().scales
    scale = scales[plan.asset]
    assert plan.created_at is not None, "it was read"
    return PlanAnswer(
        key=plan.plan,
        version=plan.version,
        name=plan.name,
        tier=plan.tier,
        price=PriceAnswer(format_amount(plan.amount, scales[plan.currency]), plan.currency),
        interval=plan.period,
        trial_days=plan.trial_days,
        asset=plan.asset,
        credits=format_amount(plan.credits, scale) if plan.credits else None,
        credits_every=plan.credits_every,
        trial_credits=format_amount(plan.trial_credits, scale) if plan.trial_credits else None,
        upgrade_credits=plan.upgrade_credits,
        priority=plan.priority,
        requires_subscription=plan.requires_subscription,
        metered=[
            MeteredAnswer(
                meter=one.meter,
                event_name=one.event_name,
                unit_price=one.unit_price,
                tiers=[
                    ItemTierAnswer(tier.up_to, tier.unit_price, tier.flat_price)
                    for tier in one.tiers
                ],
                tier_mode=one.tier_mode,
            )
            for one in plan.metered
        ],
        overage=None if plan.overage is None else _show_overage(plan.overage, scales["credits"]),
        rollover=None
        if plan.rollover is None
        else RolloverAnswer(format_amount(plan.rollover.max, scale), plan.rollover.expires_in),
        apply_to=plan.apply_to,
        rate_card=plan.rate_card,
        active=plan.is_active,
        tax_code=plan.tax_code,
        tax_behavior=plan.tax_behavior,
        metadata=msgspec.Raw(plan.metadata.encode()),
        created_at=plan.created_at,
    )


def _show_overage(overage: Overage, scale: int) -> PlanOverageAnswer:
    def shown(amount: int | None) -> str | None:
        return None if amount is None else format_amount(amount, scale)

    return PlanOverageAnswer(
        policy=overage.policy,
        limit=shown(overage.limit),
        event_name=overage.event_name,
        unit_price=overage.unit_price,
        report_unit=shown(overage.report_unit),
    )


async def list_plans(call: Call) -> Reply:
    """The latest version of every plan, by key."""
    at = place(call, "plans")
    async with transaction(call.service.pool, snapshot=True) as conn:
        found = [plan for plan in await plans.listed(conn) if plan.plan > (at.after or "")]
    shown = found[: at.limit]
    more = shown[-1].plan if len(found) > at.limit else None
    return page(call, "plans", [_show(call.service, plan) for plan in shown], more)


ROUTES: Final = (
    Route(
        method="PUT",
        path="/v1/plans/{plan}",
        operation="put_plan",
        summary="Make or change a plan that customers can subscribe to.",
        scope="catalog:write",
        handler=put_plan,
        tag="Money in",
        body=PlanBody,
        answers={200: PlanAnswer, 201: PlanAnswer},
        errors=(
            "invalid_amount",
            "invalid_asset",
            "invalid_currency",
            "invalid_rate_card",
            "invalid_overage",
            "amount_out_of_range",
            "stripe_unavailable",
            "stripe_refused",
            "request_in_progress",
        ),
        example={
            "name": "Pro",
            "tier": "pro",
            "price": {"amount": "20.00", "currency": "USD"},
            "interval": "month",
            "credits": "3000",
        },
    ),
    Route(
        method="GET",
        path="/v1/plans",
        operation="list_plans",
        summary="Plans, by key.",
        scope="catalog:read",
        handler=list_plans,
        tag="Money in",
        answers={200: Page[PlanAnswer]},
        query=LIMIT,
    ),
)
