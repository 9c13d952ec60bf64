"""Subscriptions of customers: what they are, access, and what is done to them."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final

from ledger import customers
from ledger.amounts import format_amount
from meter import parse, plans, stripe_calls, sub_actions, subscriptions
from meter.http.billing import port
from meter.http.claims import begin
from meter.http.customers import answer
from meter.http.hot import JSON, REPLAYED
from meter.http.paging import LIMIT, Page, page, place
from meter.http.plan_bodies import (
    CancelBody,
    ChangeAnswer,
    ChangeBody,
    EmptyBody,
    NextInvoice,
    OpenInvoice,
    PreviewAnswer,
    PreviewLine,
    SubscriptionAnswer,
)
from meter.http.purchases import STRIPE_ERRORS
from meter.http.reads import guarded
from meter.plan_lines import MissingPeriod
from meter.problems import ProblemError
from meter.route import Call, Reply, Route
from meter.service import Service
from meter.stripe_port import Preview, StripeFault
from meter.sub_actions import Doing, Told, Wanted
from meter.subscriptions import Subscription
from sql import queries
from sql.pool import transaction

OVER: Final = "There is no subscription to do this to: POST /v1/checkout with a plan sells one."


@guarded
async def get_subscription(call: Call) -> Reply:
    """The customer's first live subscription, or the last one that ended."""
    number = await call.service.customer_no(call, call.ids[0])
    async with transaction(call.service.pool, snapshot=True) as conn:
        found = await subscriptions.primary(conn, number)
    if found is None:
        raise ProblemError(404, "subscription_not_found", OVER)
    return answer(200, _show(call.service, call.ids[0], found))


@guarded
async def list_subscriptions(call: Call) -> Reply:
    """All of the customer's subscriptions: the one that counts first."""
    at, number = place(call, "subscriptions"), await call.service.customer_no(call, call.ids[0])
    async with transaction(call.service.pool, snapshot=True) as conn:
        found = await subscriptions.of(conn, number)
    start = 0 if at.after is None else int(at.after)
    shown = [_show(call.service, call.ids[0], one) for one in found[start : start + at.limit]]
    more = start + at.limit if len(found) > start + at.limit else None
    return page(call, "subscriptions", shown, more)


def _show(service: Service, customer_id: str, one: Subscription) -> SubscriptionAnswer:
    state, invoice = one.state, one.state.invoice
    shown = None
    if invoice is not None and invoice.status == "open":
        shown = OpenInvoice(
            id=invoice.invoice_id,
            amount_due=format_amount(invoice.amount_due, service.settings().scales[state.currency]),
            hosted_url=invoice.hosted_url,
            attempts=invoice.attempts,
            next_attempt_at=invoice.next_attempt_at,
            needs_authentication=invoice.needs_action,
        )
    return SubscriptionAnswer(
        id=one.subscription_id,
        customer_id=customer_id,
        status=one.status,
        plan=one.plan.plan,
        version=one.plan.version,
        tier=one.plan.tier,
        quantity=one.quantity,
        period_start=one.period_start,
        period_end=one.period_end,
        trial_end=state.trial_end,
        cancel_at=state.cancel_at,
        ended_at=state.ended_at,
        has_scheduled_change=state.schedule_id is not None,
        pending_until=state.update_expires_at,
        open_invoice=shown,
        duplicate=one.is_duplicate,
        fetched_at=one.fetched_at,
    )


async def _live(call: Call) -> Subscription:
    """The live subscription that is acted on. Raises ProblemError 404."""
    number = await call.service.customer_no(call, call.ids[0])
    async with transaction(call.service.pool, snapshot=True) as conn:
        found = await subscriptions.primary(conn, number)
    if found is None or not found.is_live:
        raise ProblemError(404, "subscription_not_found", OVER)
    return found


async def _wanted(call: Call, one: Subscription, body: ChangeBody) -> Wanted:
    """The change that was asked for. Raises ProblemError."""
    service = call.service
    async with transaction(service.pool, snapshot=True) as conn:
        plan, now = await plans.latest(conn, body.plan), await customers.now(conn)
    if plan is not None and plan.plan == one.plan.plan:
        plan = one.plan  # another number of seats: its own version stays
    if plan is None or not (plan.is_active or plan == one.plan):
        raise ProblemError(404, "plan_not_found", "No plan of this key: see GET /v1/plans.")
    if plan.currency != one.plan.currency:
        raise ProblemError(
            409,
            "currency_mismatch",
            f"The subscription is paid in {one.plan.currency}, the plan costs {plan.currency}: "
            "cancel it and subscribe anew.",
        )
    date = (
        None if body.proration_date is None else parse.time(body.proration_date, "/proration_date")
    )
    if date is not None and not one.period_start <= date <= min(now, one.period_end):
        raise ProblemError(
            422,
            "invalid_value",
            "proration_date lies in the period that has begun, and not ahead.",
            pointer="/proration_date",
        )
    if body.when == "now" and date is None and body.proration != "none":
        date = now.replace(microsecond=0)
    price_id = one.price_id
    by_use = [item.price_id for item in one.state.metered]
    if plan != one.plan:
        price_id = await plans.price_at_stripe(service, plan)
        scale = service.settings().scales[plan.currency]
        by_use = await plans.item_prices_at_stripe(service, plan, scale)
    return Wanted(
        plan=plan,
        price_id=price_id,
        item_prices=tuple(by_use),
        quantity=one.quantity if body.quantity is None else body.quantity,
        when=body.when,
        proration=body.proration,
        proration_date=None if date is None else max(date, one.period_start),
    )


async def preview_change(call: Call) -> Reply:
    """What a change would cost and give; nothing is changed."""
    assert call.body is not None
    body = parse.decode(call.body, ChangeBody)
    stripe, one = port(call.service), await _live(call)
    try:
        wanted = await _wanted(call, one, body)
        shown = await sub_actions.preview(stripe, one, wanted) if wanted.when == "now" else None
    except StripeFault as fault:
        raise stripe_calls.problem_of(fault) from fault
    async with transaction(call.service.pool) as conn:
        now = await customers.now(conn)
    return answer(200, _preview(call.service, one, wanted, shown, now))


def _due_now(shown: Preview | None, wanted: Wanted, one: Subscription) -> int:
    """What is billed at once: with prorations left for later, only a period that begins anew."""
    if shown is None:
        return 0
    starts_anew = wanted.plan.period != one.plan.period
    return shown.amount_due if wanted.proration == "invoice_now" or starts_anew else 0


def _preview(
    service: Service, one: Subscription, wanted: Wanted, shown: Preview | None, now: datetime
) -> PreviewAnswer:
    scales = service.settings().scales
    money, credit = scales[one.plan.currency], scales[wanted.plan.asset]
    due = _due_now(shown, wanted, one)
    lines: list[PreviewLine] = []
    for line, words in () if shown is None else zip(shown.lines, shown.words, strict=True):
        lines.append(
            PreviewLine(
                description=words,
                amount=format_amount(line.amount, money),
                proration=line.is_proration,
                period_start=line.starts,
                period_end=line.ends,
            )
        )
    return PreviewAnswer(
        amount_due_now=format_amount(due, money),
        currency=one.plan.currency,
        tax=format_amount(0 if shown is None or not due else shown.tax, money),
        lines=lines,
        credits_delta=format_amount(_credits(one, wanted, now), credit),
        proration_date=wanted.proration_date or now,
        next_invoice=NextInvoice(
            one.period_end, format_amount(wanted.plan.amount * wanted.quantity, money)
        ),
    )


def _credits(one: Subscription, wanted: Wanted, now: datetime) -> int:
    try:
        return sub_actions.credits_more(one, wanted, now)
    except MissingPeriod as missing:
        raise ProblemError(
            409, "subscription_state", f"The subscription is about to be renewed: {missing}."
        ) from missing


async def change(call: Call) -> Reply:
    """Move to another plan or number of seats.

    At once, it counts when its invoice is paid: until then the customer keeps what it has. At the
    period's end, the renewal bills it. `expected_amount` refuses what a preview has not shown.
    """
    assert call.body is not None
    body = parse.decode(call.body, ChangeBody)

    async def act(doing: Doing, one: Subscription) -> Told:
        wanted = await _wanted(call, one, body)
        if wanted.when == "period_end":
            return await sub_actions.change_later(doing, one, wanted)
        if body.expected_amount is not None and not await doing.is_begun("update"):
            await _check_amount(call.service, one, wanted, body.expected_amount)
        return await sub_actions.change_now(doing, one, wanted)

    return await _act(call, "change", ("update", "phases"), act)


async def _check_amount(service: Service, one: Subscription, wanted: Wanted, expected: str) -> None:
    money = service.settings().scales[one.plan.currency]
    due = _due_now(await sub_actions.preview(port(service), one, wanted), wanted, one)
    if format_amount(due, money) != expected:
        raise ProblemError(
            409,
            "preview_changed",
            f"The change costs {format_amount(due, money)} {one.plan.currency} now, not "
            f"{expected}: preview it again, and send its proration_date along. Nothing was "
            "changed.",
            facts={"amount_due_now": format_amount(due, money)},
        )


async def _act(
    call: Call,
    operation: str,
    ends: Sequence[str],
    act: Callable[[Doing, Subscription], Awaitable[Told]],
) -> Reply:
    """Do something to the live subscription under the request's key, or tell what was done.

    `ends`: the last steps that it may consist of.
    """
    service = call.service
    port(service)
    number = await service.customer_no(call, call.ids[0])
    async with transaction(service.pool) as conn:
        known = await conn.fetchrow(queries.request_read, number, call.idempotency_key)
    one = None if known else await _live(call)  # a key is not claimed for nothing
    doing = await begin(call, number, operation)
    try:
        told = await doing.told(*ends) if doing.is_replayed else None
        if told is None:
            told = await act(doing, one or await _live(call))
        return await _changed(call, doing, told)
    except StripeFault as fault:
        raise stripe_calls.problem_of(fault) from fault


async def _changed(call: Call, doing: Doing, told: Told) -> Reply:
    """The subscription as it was left, with what the browser needs to pay for it."""
    service, invoice = call.service, told.state.invoice
    status, secret = "none", None
    if invoice is not None and invoice.status in {"open", "paid"}:
        status = invoice.status
        if invoice.needs_action:
            status = "requires_action"
        if invoice.status == "open" and service.stripe is not None:
            secret = await service.stripe.invoice_secret(invoice.invoice_id)
    keys = service.config.stripe
    async with transaction(service.pool, snapshot=True) as conn:
        one = await subscriptions.as_told(conn, doing.customer_no, told.state, told.at)
    shown = ChangeAnswer(
        subscription=_show(service, call.ids[0], one),
        payment_status=status,  # pyright: ignore[reportArgumentType]
        client_secret=secret,
        publishable_key=None if keys is None else keys.publishable_key,
    )
    made = answer(200, shown)
    return Reply(200, made.body, (JSON, REPLAYED)) if doing.is_replayed else made


async def cancel(call: Call) -> Reply:
    """End the subscription, by default when what is paid ends. Nothing is refunded by this.

    Credits of the period stay until it ends, also when it is cancelled at once.
    """
    assert call.body is not None
    when = parse.decode(call.body, CancelBody).when

    async def act(doing: Doing, one: Subscription) -> Told:
        return await sub_actions.cancel(doing, one, when)

    return await _act(call, "cancel", ("cancel", "update"), act)


async def resume(call: Call) -> Reply:
    """Take back a cancellation or a change at the period's end, or go on after a pause."""
    assert call.body is not None
    parse.decode(call.body, EmptyBody)
    return await _act(call, "resume", ("resume", "update"), sub_actions.resume)


async def pause(call: Call) -> Reply:
    """No more invoices and no access, until it is resumed. What was paid is not refunded."""
    assert call.body is not None
    parse.decode(call.body, EmptyBody)
    return await _act(call, "pause", ("pause",), sub_actions.pause)


_PLACE: Final = "/v1/customers/{customer_id}/subscription"
_ERRORS: Final = ("customer_not_found", "subscription_not_found")
_CHANGES: Final = (
    "invalid_timestamp",
    "plan_not_found",
    "currency_mismatch",
    "subscription_state",
    "usage_flush_pending",
    *STRIPE_ERRORS,
)


def _action(name: str, summary: str, handler: Any, body: Any, example: Any) -> Route:
    return Route(
        method="POST",
        path=f"{_PLACE}/{name}",
        operation=f"{name}_subscription",
        summary=summary,
        scope="billing:write",
        handler=handler,
        tag="Money in",
        body=body,
        answers={200: ChangeAnswer},
        errors=(*_ERRORS, "card_declined", *STRIPE_ERRORS),
        needs_key=True,
        example=example,
    )


ROUTES: Final = (
    Route(
        method="GET",
        path=_PLACE,
        operation="get_subscription",
        summary="A customer's subscription: the first live one, or the last that ended.",
        scope="billing:read",
        handler=get_subscription,
        tag="Money in",
        answers={200: SubscriptionAnswer},
        errors=_ERRORS,
    ),
    Route(
        method="GET",
        path="/v1/customers/{customer_id}/subscriptions",
        operation="list_subscriptions",
        summary="All subscriptions of a customer.",
        scope="billing:read",
        handler=list_subscriptions,
        tag="Money in",
        answers={200: Page[SubscriptionAnswer]},
        errors=("customer_not_found",),
        query=LIMIT,
    ),
    Route(
        method="POST",
        path=f"{_PLACE}/preview",
        operation="preview_subscription_change",
        summary="What a change of plan or seats would cost and give.",
        scope="billing:write",
        handler=preview_change,
        tag="Money in",
        body=ChangeBody,
        answers={200: PreviewAnswer},
        errors=(*_ERRORS, *_CHANGES),
        example={"plan": "pro"},
    ),
    Route(
        method="POST",
        path=f"{_PLACE}/change",
        operation="change_subscription",
        summary="Move a subscription to another plan or number of seats.",
        scope="billing:write",
        handler=change,
        tag="Money in",
        body=ChangeBody,
        answers={200: ChangeAnswer},
        errors=(*_ERRORS, "preview_changed", "card_declined", *_CHANGES),
        needs_key=True,
        example={"plan": "pro", "quantity": 2},
    ),
    _action(
        "cancel",
        "End a subscription, now or when what is paid ends.",
        cancel,
        CancelBody,
        {"when": "period_end"},
    ),
    _action(
        "resume",
        "Take back what was to happen at the period's end, or go on after a pause.",
        resume,
        EmptyBody,
        {},
    ),
    _action("pause", "No more invoices and no access until it is resumed.", pause, EmptyBody, {}),
)
