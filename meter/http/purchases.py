"""Buying credits: checkout, purchases with their story, refunds."""

from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET

from ledger import customers, purchase_reads
from ledger.customers import CustomerAnswer
from ledger.ids import public_id
from ledger.load_purchases import PurchaseRef
from ledger.purchases import PurchaseAnswer
from ledger.requests import Claim, OpenPurchase
from meter import checkout, packs, parse, plan_checkout, plans, stripe_calls, subscriptions
from meter.checkout import Opened
from meter.http import readers
from meter.http.customers import answer
from meter.http.hot import JSON, REPLAYED
from meter.http.paging import LIMIT, Page, page, place
from meter.http.reads import CUSTOMER, guarded
from meter.http.stripe_bodies import (
    CheckoutAnswer,
    CheckoutBody,
    IntentAnswer,
    IntentBody,
    RefundBody,
    Story,
)
from meter.problems import ProblemError
from meter.purchase_story import story_of
from meter.refunds import refund
from meter.route import Call, Query, Reply, Route
from meter.service import customer_missing
from meter.stripe_port import StripeFault
from sql import queries
from sql.pool import transaction

STATUSES: Final = ("open", "credited", "failed", "parked")
STRIPE_ERRORS: Final = (
    "stripe_unavailable",
    "stripe_refused",
    "request_in_progress",
    "customer_erased",
)


class PurchaseShown(PurchaseAnswer, frozen=True, kw_only=True):
    """A purchase with its whole story."""

    story: Story


async def create_checkout(call: Call) -> Reply:
    """Sell a pack or a plan on Stripe's page: a purchase of ours, and where to send the browser.

    The same key and body give the same purchase and page again. Credits come when it is paid. A
    trial is for customers that have never had a subscription.
    """
    assert call.body is not None
    wanted = parse.decode(call.body, CheckoutBody)
    for name in ("success_url", "cancel_url"):
        check_url(getattr(wanted, name), f"/{name}")
    if (wanted.pack is UNSET) == (wanted.plan is UNSET):
        raise ProblemError(422, "invalid_value", "Send a pack or a plan.", pointer="/plan")
    asked = msgspec.structs.asdict(wanted)
    if isinstance(wanted.plan, str):
        opened = await _order(call, wanted, wanted.plan, asked)
    else:
        opened = await _open(call, wanted, "session", asked)
    made = opened.made
    return _made(opened, CheckoutAnswer(made.object_id, opened.purchase_id, made.url))


async def create_intent(call: Call) -> Reply:
    """Sell a pack in a page of yours, with Stripe's Elements: see the guide for a whole page.

    The client secret is read from Stripe for each answer and never kept.
    """
    assert call.body is not None
    wanted = parse.decode(call.body, IntentBody)
    asked = msgspec.structs.asdict(wanted)
    opened = await _open(call, wanted, "intent", asked)
    config, stripe = call.service.config.stripe, call.service.stripe
    assert config is not None, "the intent was made with it"
    assert stripe is not None
    assert opened.purchase_id is not None, "of a pack"
    try:
        secret = await stripe.client_secret(opened.made.object_id)
    except StripeFault as fault:
        raise stripe_calls.problem_of(fault) from fault
    shown = IntentAnswer(opened.made.object_id, opened.purchase_id, secret, config.publishable_key)
    return _made(opened, shown)


def _made(opened: Opened, shown: object) -> Reply:
    made = answer(201, shown)
    if not opened.is_replayed:
        return made
    return Reply(made.status, made.body, (JSON, REPLAYED))


async def _open(
    call: Call,
    wanted: CheckoutBody | IntentBody,
    kind: Literal["session", "intent"],
    asked: dict[str, Any],
) -> Opened:
    """Read what is bought by whom, and open the purchase."""
    service, body = call.service, call.body
    assert body is not None
    customer, number, is_known = await _buyer(call, wanted)
    async with transaction(service.pool) as conn:
        pack = await packs.latest(conn, str(wanted.pack))
    if pack is None or not (pack.is_active or is_known):
        raise ProblemError(
            404, "pack_not_found", "No pack of this key is for sale. See GET /v1/packs."
        )
    terms = checkout.terms_of(pack, wanted.quantity, checkout.currency_of(pack, customer.currency))

    def read(_: Call, __: Any, ___: Any, common: dict[str, Any]) -> OpenPurchase:
        return OpenPurchase(customer_no=number, terms=terms, **common)

    operation = "checkout" if kind == "session" else "payment_intent"
    request = await readers.request_of(call, read, operation, (), body, call.idempotency_key)
    assert isinstance(request, OpenPurchase)
    try:
        return await checkout.open_purchase(
            service, request, kind, {**asked, "user_id": wanted.customer_id}
        )
    except StripeFault as fault:
        raise stripe_calls.problem_of(fault) from fault


async def _buyer(call: Call, wanted: CheckoutBody | IntentBody) -> tuple[CustomerAnswer, int, bool]:
    """Who buys, and whether this request has been answered. Raises ProblemError."""
    service = call.service
    number = await service.customer_no(call, wanted.customer_id, makes=True)
    scale = service.credit_scale("credits")
    async with transaction(service.pool) as conn:
        customer = await customers.read(conn, number, scale)
        # What was answered is answered again, whatever has become of product and customer.
        known = await conn.fetchrow(queries.request_read, number, call.idempotency_key)
    if customer is None:
        raise customer_missing()
    if customer.status == "closed" and not known:
        raise ProblemError(409, "customer_closed", "This customer is closed: nothing is sold.")
    if service.config.stripe is None:
        raise ProblemError(
            503,
            "stripe_unavailable",
            "No key of Stripe is set (STRIPE_SECRET_KEY): nothing can be sold.",
        )
    return customer, number, known is not None


async def _order(call: Call, wanted: CheckoutBody, key: str, asked: dict[str, Any]) -> Opened:
    """Read what is subscribed to by whom, and open the order."""
    service, body = call.service, call.body
    assert body is not None
    _, number, is_known = await _buyer(call, wanted)
    async with transaction(service.pool, snapshot=True) as conn:
        plan = await plans.latest(conn, key)
        had = await subscriptions.of(conn, number)
    if plan is None or not (plan.is_active or is_known):
        raise ProblemError(
            404, "plan_not_found", "No plan of this key is for sale. See GET /v1/plans."
        )
    if any(one.is_live for one in had) and not is_known:
        raise ProblemError(
            409,
            "subscription_exists",
            f"The customer has {had[0].subscription_id} on the plan {had[0].plan.plan} "
            f"({had[0].status}): POST /v1/customers/{wanted.customer_id}/subscription/change "
            "moves it.",
        )
    has_trial = plan.trial_days is not None and not had
    terms = plan_checkout.terms_of(plan, wanted.quantity, has_trial=has_trial)

    def read(_: Call, __: Any, ___: Any, common: dict[str, Any]) -> OpenPurchase | Claim:
        if terms is None:
            return Claim(customer_no=number, **common)
        return OpenPurchase(customer_no=number, terms=terms, **common)

    request = await readers.request_of(call, read, "checkout", (), body, call.idempotency_key)
    assert isinstance(request, (OpenPurchase, Claim))
    try:
        return await plan_checkout.open_order(
            service,
            request,
            plan,
            {**asked, "user_id": wanted.customer_id},
            has_trial=has_trial,
        )
    except StripeFault as fault:
        raise stripe_calls.problem_of(fault) from fault


def check_url(url: str, pointer: str) -> None:
    """Raise ProblemError 422 unless a browser may be sent there."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    is_here = host in {"localhost", "127.0.0.1", "::1"}
    if host is None or not (parts.scheme == "https" or (parts.scheme == "http" and is_here)):
        raise ProblemError(
            422,
            "invalid_value",
            "An address is https://…, or http:// on this machine.",
            pointer=pointer,
        )


@guarded
async def get_purchase(call: Call) -> Reply:
    """A purchase as it is now, with what was asked of Stripe, what it told, and what was booked."""
    owner = PurchaseRef(*readers.owned(call, "pur", call.ids[0], "purchase_not_found"))
    async with transaction(call.service.pool, snapshot=True) as conn:
        found = await purchase_reads.purchases(conn, [owner], call.service.settings())
        if not found:
            raise ProblemError(404, "purchase_not_found", "No such purchase.")
        story = await story_of(conn, owner)
    members = msgspec.structs.asdict(found[0])
    return answer(200, PurchaseShown(**members, story=story))


@guarded
async def list_purchases(call: Call) -> Reply:
    """Purchases, newest first: of a customer, or of all."""
    at, service = place(call, "purchases"), call.service
    status = call.query.get("status")
    if status is not None and status not in STATUSES:
        raise ProblemError(422, "invalid_query", f"status is one of {', '.join(STATUSES)}.")
    number = call.key.customer_no
    if (customer_id := call.query.get("customer_id")) is not None:
        number = await service.customer_no(call, customer_id, pointer="/customer_id")
    after = at.after and (datetime.fromisoformat(at.after[0]), at.after[1], at.after[2])
    async with transaction(service.pool, snapshot=True) as conn:
        found, more = await purchase_reads.listed(
            conn,
            service.settings(),
            customer_no=number,
            status=status,
            after=after,
            limit=at.limit,
        )
    next_ = None if more is None else (more[0].isoformat(), *more[1:])
    return page(call, "purchases", found, next_)


async def refund_purchase(call: Call) -> Reply:
    """Give money back. What it stands for is frozen at once; Stripe is asked by a job.

    Without `amount` and `credits`: what is unspent. The credits leave when Stripe has refunded, and
    are free again if it can't.
    """
    assert call.body is not None
    wanted = parse.decode(call.body, RefundBody)
    if wanted.amount is not UNSET and wanted.credits is not UNSET:
        raise ProblemError(
            422, "invalid_value", "Send amount or credits, not both.", pointer="/credits"
        )
    owner = PurchaseRef(*readers.owned(call, "pur", call.ids[0], "purchase_not_found"))
    return await refund(call, owner, wanted)


def purchase_id(owner: PurchaseRef) -> str:
    """The public id of a purchase."""
    return public_id("pur", owner.customer_no, owner.purchase_no)


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/checkout",
        operation="create_checkout",
        summary="Sell a pack or a plan on Stripe's page.",
        scope="billing:write",
        handler=create_checkout,
        tag="Money in",
        body=CheckoutBody,
        answers={201: CheckoutAnswer},
        errors=(
            "customer_not_found",
            "customer_closed",
            "pack_not_found",
            "plan_not_found",
            "subscription_exists",
            *STRIPE_ERRORS,
        ),
        needs_key=True,
        example={
            "customer_id": "acme",
            "pack": "starter",
            "success_url": "https://app.example.com/credits?session={CHECKOUT_SESSION_ID}",
            "cancel_url": "https://app.example.com/credits",
        },
    ),
    Route(
        method="POST",
        path="/v1/payment-intents",
        operation="create_payment_intent",
        summary="Sell a pack in a page of yours, with Stripe's Elements.",
        scope="billing:write",
        handler=create_intent,
        tag="Money in",
        body=IntentBody,
        answers={201: IntentAnswer},
        errors=("customer_not_found", "customer_closed", "pack_not_found", *STRIPE_ERRORS),
        needs_key=True,
        example={"customer_id": "acme", "pack": "starter"},
    ),
    Route(
        method="GET",
        path="/v1/purchases",
        operation="list_purchases",
        summary="Purchases, newest first.",
        scope="billing:read",
        handler=list_purchases,
        tag="Money in",
        answers={200: Page[PurchaseAnswer]},
        errors=("customer_not_found",),
        query=(CUSTOMER, Query("status", f"One of {', '.join(STATUSES)}."), *LIMIT),
    ),
    Route(
        method="GET",
        path="/v1/purchases/{purchase_id}",
        operation="get_purchase",
        summary="A purchase with its whole story.",
        scope="billing:read",
        handler=get_purchase,
        tag="Money in",
        answers={200: PurchaseShown},
        errors=("purchase_not_found",),
    ),
    Route(
        method="POST",
        path="/v1/purchases/{purchase_id}/refund",
        operation="refund_purchase",
        summary="Give money back: what is unspent, or so much.",
        scope="billing:write",
        handler=refund_purchase,
        tag="Money in",
        body=RefundBody,
        answers={202: PurchaseAnswer},
        errors=(
            "purchase_not_found",
            "purchase_not_credited",
            "nothing_refundable",
            "too_many_lots",
        ),
        needs_key=True,
        example={},
    ),
)
