"""Saved cards, and the top-up that charges them."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ledger import customers
from ledger.amounts import format_amount
from ledger.ids import public_id
from ledger.requests import Claim
from meter import checkout, packs, parse, stripe_calls, top_ups
from meter.http import readers
from meter.http.billing import port
from meter.http.card_bodies import (
    Caps,
    CardAnswer,
    SetupAnswer,
    SetupBody,
    TopUpAnswer,
    TopUpBody,
)
from meter.http.customers import answer
from meter.http.hot import JSON, REPLAYED
from meter.http.packs import price_of
from meter.http.paging import Page
from meter.http.purchases import STRIPE_ERRORS, check_url
from meter.problems import ProblemError
from meter.route import Call, Reply, Route
from meter.service import Service, customer_missing
from meter.stripe_calls import StripeCall
from meter.stripe_port import Card, StripeFault
from meter.top_ups import TopUp, Wait
from sql import queries
from sql.pool import transaction

_CARD_ID: Final = re.compile(r"[A-Za-z0-9_]{1,255}", re.ASCII)
NO_CARD: Final = "There is no saved card: POST /v1/setup lets the customer save one."
WAITS: Final[Mapping[Wait, str]] = {
    "cap": "A cap is reached: the rest of the day or month buys no more.",
    "currency": "The pack costs the customer another currency than that of the cap: send the "
    "settings again.",
    "pack": "The pack is not for sale.",
    "closed": "The customer is closed.",
}


class _Claimed(msgspec.Struct, frozen=True):
    id: str


async def create_setup(call: Call) -> Reply:
    """Let a customer save a card for later: on Stripe's page, or in one of yours.

    The client secret is read from Stripe for each answer and never kept.
    """
    assert call.body is not None
    wanted = parse.decode(call.body, SetupBody)
    if wanted.mode == "hosted":
        for name in ("success_url", "cancel_url"):
            if getattr(wanted, name) is None:
                raise ProblemError(
                    422, "invalid_value", f"A hosted page needs {name}.", pointer=f"/{name}"
                )
            check_url(getattr(wanted, name), f"/{name}")
    stripe, service = port(call.service), call.service
    number = await service.customer_no(call, wanted.customer_id, makes=True)
    name, is_replayed = await _claim(call, number)
    try:
        customer = await checkout.stripe_customer(service, number)
        async with transaction(service.pool) as conn:
            await stripe_calls.note(conn, await _call(service, wanted, name, number, customer))
        made = await stripe_calls.send(service, name)
        shown = SetupAnswer(id=made.object_id, url=made.url)
        if wanted.mode == "elements":
            keys = service.config.stripe
            shown = SetupAnswer(
                id=made.object_id,
                client_secret=await stripe.setup_secret(made.object_id),
                publishable_key=None if keys is None else keys.publishable_key,
            )
    except StripeFault as fault:
        raise stripe_calls.problem_of(fault) from fault
    reply = answer(201, shown)
    return Reply(201, reply.body, (JSON, REPLAYED)) if is_replayed else reply


async def _claim(call: Call, number: int) -> tuple[str, bool]:
    """The name of the request's call at Stripe; whether it came before."""
    service, body = call.service, call.body
    assert body is not None

    def read(_: Call, __: Any, ___: Any, common: dict[str, Any]) -> Claim:
        return Claim(customer_no=number, **common)

    request = await readers.request_of(call, read, "setup", (), body, call.idempotency_key)

    async def claim() -> tuple[str, bool]:
        async with transaction(service.pool) as conn:
            result = await service.decide_in(conn, request)
            epoch: int = await conn.fetchval(queries.stripe_epoch)
            claimed = msgspec.json.decode(result.body, type=_Claimed)
            return f"setup-{claimed.id}-{epoch}", result.is_replayed

    return await service.retried(claim)


async def _call(
    service: Service, wanted: SetupBody, name: str, number: int, customer: str
) -> StripeCall:
    marks = {"drawdown": service.installation_id, "user_id": wanted.customer_id}
    if wanted.mode == "elements":
        params: dict[str, Any] = {
            "customer": customer,
            "usage": "off_session",
            "automatic_payment_methods": {"enabled": True},
            "metadata": marks,
        }
        return StripeCall(name=name, kind="setup", params=params, customer_no=number)
    async with transaction(service.pool) as conn:
        known = await conn.fetchrow(queries.stripe_customer_read, number)
    currency = None if known is None else known["currency"]
    params = {
        "mode": "setup",
        "currency": (currency or "USD").lower(),
        "customer": customer,
        "success_url": wanted.success_url,
        "cancel_url": wanted.cancel_url,
        "metadata": marks,
        "setup_intent_data": {"metadata": marks},
    }
    return StripeCall(name=name, kind="session", params=params, customer_no=number)


async def list_cards(call: Call) -> Reply:
    """A customer's saved cards as Stripe has them now: the default first, then the newest."""
    stripe = port(call.service)
    customer = await _at_stripe(call)
    try:
        found = [] if customer is None else await stripe.cards(customer)
    except StripeFault as fault:
        raise stripe_calls.problem_of(fault) from fault
    return answer(200, Page([_show(card) for card in found], has_more=False, next_cursor=None))


async def _at_stripe(call: Call) -> str | None:
    """Who the customer is at Stripe."""
    number = await call.service.customer_no(call, call.ids[0])
    async with transaction(call.service.pool) as conn:
        row = await conn.fetchrow(queries.stripe_customer_read, number)
    if row is None:
        raise customer_missing()
    return row["stripe_customer_id"]


def _show(card: Card) -> CardAnswer:
    return CardAnswer(
        id=card.card_id,
        type=card.kind,
        brand=card.brand,
        last4=card.last4,
        exp_month=card.exp_month,
        exp_year=card.exp_year,
        default=card.is_default,
        created_at=card.created_at,
    )


async def set_default(call: Call) -> Reply:
    """Charge this card from now on, for subscriptions and top-ups."""
    return await _on_card(call, forget=False)


async def forget_card(call: Call) -> Reply:
    """Forget a card. What was paid by it stays paid."""
    return await _on_card(call, forget=True)


async def _on_card(call: Call, *, forget: bool) -> Reply:
    stripe, card_id = port(call.service), call.ids[1]
    customer = await _at_stripe(call)
    missing = ProblemError(404, "payment_method_not_found", "The customer has no such saved card.")
    if customer is None or _CARD_ID.fullmatch(card_id) is None:
        raise missing
    try:
        if await stripe.card_owner(card_id) != customer:
            raise missing
        if forget:
            await stripe.forget_card(card_id)
        else:
            await stripe.set_default_card(customer, card_id)
        found = await stripe.cards(customer)
    except StripeFault as fault:
        raise stripe_calls.problem_of(fault) from fault
    return answer(200, Page([_show(card) for card in found], has_more=False, next_cursor=None))


async def get_top_up(call: Call) -> Reply:
    """What is set, and what it is about now."""
    number = await call.service.customer_no(call, call.ids[0])
    return answer(200, await _shown(call.service, number))


async def put_top_up(call: Call) -> Reply:
    """Set automatic top-up. It buys where credit is at or below the threshold, within seconds.

    What a bank has declined three times stays suspended until another card is there.
    """
    assert call.body is not None
    wanted = parse.decode(call.body, TopUpBody)
    service = call.service
    number = await service.customer_no(call, call.ids[0])
    async with transaction(service.pool) as conn:
        pack = await packs.latest(conn, wanted.pack)
        customer = await customers.read(conn, number, service.credit_scale("credits"))
    if customer is None:
        raise customer_missing()
    if pack is None or (wanted.enabled and not pack.is_active):
        raise ProblemError(
            404, "pack_not_found", "No pack of this key is for sale. See GET /v1/packs."
        )
    scale = await service.asset_scale(pack.asset)
    threshold = _level(wanted.threshold, scale, "/threshold")
    target = None if wanted.target is None else _level(wanted.target, scale, "/target")
    if target is not None and target <= threshold:
        raise ProblemError(
            422, "invalid_value", "target lies above the threshold.", pointer="/target"
        )
    money, currency = None, None
    if wanted.caps.amount_month is not None:
        currency = checkout.currency_of(pack, customer.currency)
        money_scale = service.settings().scales[currency]
        money = price_of(wanted.caps.amount_month, money_scale, "/caps/amount_month")
    made = TopUp(
        customer_no=number,
        is_enabled=wanted.enabled,
        asset=pack.asset,
        threshold=threshold,
        target=target,
        pack=pack.pack,
        count_day=wanted.caps.count_day,
        amount_month=money,
        currency=currency,
    )

    async def write() -> None:
        async with transaction(service.pool) as conn:
            await top_ups.put(conn, made)

    await service.retried(write)
    return answer(200, await _shown(service, number))


def _level(text: str, scale: int, pointer: str) -> int:
    """An amount that may be 0. Raises ProblemError 422."""
    if text == "0":
        return 0
    return parse.amount(text, scale, pointer)


async def _shown(service: Service, number: int) -> TopUpAnswer:
    async with transaction(service.pool, snapshot=True) as conn:
        found, now = await top_ups.read(conn, number), await customers.now(conn)
    if found is None:
        return TopUpAnswer(
            enabled=False,
            state="off",
            threshold=None,
            target=None,
            pack=None,
            caps=Caps(),
            currency=None,
            declines=0,
            retry_at=None,
            reason=None,
            purchase_id=None,
        )
    scales = service.settings().scales
    scale, most = scales[found.asset], found.amount_month
    opened, state, waits = found.purchase_no, found.state(now), found.waits(now)
    retry_at = found.not_before if state == "backoff" else None
    reason = NO_CARD if found.trouble == "no_card" else found.error
    if waits is not None:
        retry_at, reason = found.look_at, WAITS[waits]
    return TopUpAnswer(
        enabled=found.is_enabled,
        state=state,
        threshold=format_amount(found.threshold, scale),
        target=None if found.target is None else format_amount(found.target, scale),
        pack=found.pack,
        caps=Caps(
            count_day=found.count_day,
            amount_month=None
            if most is None or found.currency is None
            else format_amount(most, scales[found.currency]),
        ),
        currency=found.currency,
        declines=found.declines,
        retry_at=retry_at,
        reason=reason,
        purchase_id=None if opened is None else public_id("pur", number, opened),
    )


_CARD: Final = "/v1/customers/{customer_id}/payment-methods/{payment_method}"
_ERRORS: Final = ("customer_not_found", "payment_method_not_found", *STRIPE_ERRORS)

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/setup",
        operation="create_setup",
        summary="Let a customer save a card for later.",
        scope="billing:write",
        handler=create_setup,
        tag="Money in",
        body=SetupBody,
        answers={201: SetupAnswer},
        errors=("customer_not_found", *STRIPE_ERRORS),
        needs_key=True,
        example={"customer_id": "acme", "mode": "elements"},
    ),
    Route(
        method="GET",
        path="/v1/customers/{customer_id}/payment-methods",
        operation="list_payment_methods",
        summary="A customer's saved cards.",
        scope="billing:read",
        handler=list_cards,
        tag="Money in",
        answers={200: Page[CardAnswer]},
        errors=("customer_not_found", *STRIPE_ERRORS),
    ),
    Route(
        method="POST",
        path=f"{_CARD}/default",
        operation="set_default_payment_method",
        summary="Charge this card from now on.",
        scope="billing:write",
        handler=set_default,
        tag="Money in",
        answers={200: Page[CardAnswer]},
        errors=_ERRORS,
    ),
    Route(
        method="DELETE",
        path=_CARD,
        operation="delete_payment_method",
        summary="Forget a saved card.",
        scope="billing:write",
        handler=forget_card,
        tag="Money in",
        answers={200: Page[CardAnswer]},
        errors=_ERRORS,
    ),
    Route(
        method="GET",
        path="/v1/customers/{customer_id}/auto-top-up",
        operation="get_auto_top_up",
        summary="What is set for automatic top-up, and what it is about.",
        scope="billing:read",
        handler=get_top_up,
        tag="Money in",
        answers={200: TopUpAnswer},
        errors=("customer_not_found",),
    ),
    Route(
        method="PUT",
        path="/v1/customers/{customer_id}/auto-top-up",
        operation="put_auto_top_up",
        summary="Buy a pack by the saved card when credit runs low.",
        scope="billing:write",
        handler=put_top_up,
        tag="Money in",
        body=TopUpBody,
        answers={200: TopUpAnswer},
        errors=("customer_not_found", "pack_not_found", "invalid_amount", "amount_out_of_range"),
        example={"enabled": True, "threshold": "500", "pack": "starter"},
    ),
)
