"""Selling a pack: the purchase is ours first, then it is made payable at Stripe.

The purchase is committed before Stripe hears of it, and its id is in the metadata of everything
made for it. So whatever is lost on the way, the same request finds what there is and goes on.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from ledger import load_purchases
from ledger.amounts import AMOUNT_MAX
from ledger.bought import Terms
from ledger.ids import parse_id
from ledger.load_purchases import PurchaseRef
from ledger.requests import OpenPurchase
from meter import packs, stripe_calls
from meter.packs import Pack
from meter.problems import ProblemError
from meter.service import Service, customer_missing
from meter.stripe_calls import StripeCall
from meter.stripe_port import Made
from sql import queries
from sql.pool import Connection, transaction

QUANTITY_MAX: Final = 1_000
"""Packs in one purchase."""
CENTS_MAX: Final = 99_999_999
"""Of one payment: Stripe takes eight digits."""


class Opened(Struct, frozen=True):
    """A purchase that can be paid at Stripe."""

    purchase_id: str | None
    """None: an order of a plan without credits."""
    made: Made
    is_replayed: bool


class _Answer(Struct, frozen=True):
    """What we need of the books' answer."""

    id: str
    product: str
    quantity: int
    currency: str


def currency_of(pack: Pack, wanted: str | None) -> str:
    """The customer's currency if the pack has a price in it, else the pack's first."""
    return wanted if wanted in pack.prices else next(iter(pack.prices))


def terms_of(pack: Pack, quantity: int, currency: str) -> Terms:
    """What is expected of a purchase. Raises ProblemError 422."""
    amount = pack.prices[currency] * quantity
    if amount > CENTS_MAX:
        raise ProblemError(
            422,
            "invalid_value",
            "Stripe takes payments of up to eight digits: buy fewer at once.",
            pointer="/quantity",
        )
    if max(pack.credits, pack.bonus) * quantity > AMOUNT_MAX:
        raise ProblemError(
            422,
            "amount_out_of_range",
            "So many credits are above the limit of amounts: buy fewer at once.",
            pointer="/quantity",
        )
    return Terms(
        kind="pack",
        product=pack.product,
        asset=pack.asset,
        credits=pack.credits * quantity,
        bonus=pack.bonus * quantity,
        currency=currency,
        amount=amount,
        quantity=quantity,
        priority=pack.priority,
        bonus_priority=pack.priority,
        expires_in=pack.expires_in,
        bonus_expires_in=pack.bonus_expires_in,
    )


def customer_call(customer_no: int, epoch: int) -> str:
    """The name of the call that makes a customer at Stripe."""
    return f"customer-{customer_no}-{epoch}"


async def stripe_customer(service: Service, customer_no: int) -> str:
    """Who a customer is at Stripe, made if there is nobody; one, however many ask at once.

    Raises StripeFault.
    """
    async with transaction(service.pool) as conn:
        row = await conn.fetchrow(queries.stripe_customer_read, customer_no)
        if row is None:
            raise customer_missing()
        if row["erased_at"] is not None:
            raise ProblemError(
                409, "customer_erased", "This customer was erased: nothing is made at Stripe."
            )
        if row["stripe_customer_id"] is not None:
            return row["stripe_customer_id"]
        name = customer_call(customer_no, await conn.fetchval(queries.stripe_epoch))
        params = {
            "metadata": {"user_id": row["customer_id"], "drawdown": service.installation_id},
            **{key: row[key] for key in ("name", "email") if row[key]},
        }
        await stripe_calls.note(
            conn,
            StripeCall(name=name, kind="customer", params=params, customer_no=customer_no),
        )

    async def link(conn: Connection, made: Made) -> None:
        await conn.execute(queries.stripe_customer_link, customer_no, made.object_id)

    return (await stripe_calls.send(service, name, link)).object_id


async def open_purchase(
    service: Service,
    request: OpenPurchase,
    kind: Literal["session", "intent"],
    asked: Mapping[str, Any],
) -> Opened:
    """Open a purchase and make it payable; asked again, what there is.

    `asked` are Stripe's parameters beside those that follow from the purchase. Raises ProblemError
    and StripeFault; the purchase stays, and the same request goes on with it.
    """

    async def begin() -> tuple[_Answer, bool]:
        async with transaction(service.pool) as conn:
            result = await service.decide_in(conn, request)
            return msgspec.json.decode(result.body, type=_Answer), result.is_replayed

    answer, is_replayed = await service.retried(begin)
    found = parse_id("pur", answer.id)
    assert found is not None, "the books name it so"
    owner = PurchaseRef(*found)
    async with transaction(service.pool) as conn:
        pack = await packs.version(conn, answer.product)
        epoch: int = await conn.fetchval(queries.stripe_epoch)
    name = f"{kind}-{answer.id}-{epoch}"
    customer = await stripe_customer(service, owner.customer_no)
    marks = {
        "drawdown": service.installation_id,
        "drawdown_call": name,
        "purchase_id": answer.id,
        "user_id": asked["user_id"],
    }
    if kind == "session":
        price = await packs.price_at_stripe(service, pack, answer.currency)
        params = _session(asked, answer, price, customer, marks)
    else:
        amount = pack.prices[answer.currency] * answer.quantity
        params = _intent(asked, answer, amount, customer, marks)
    call = StripeCall(
        name=name,
        kind=kind,
        params=params,
        customer_no=owner.customer_no,
        purchase_no=owner.purchase_no,
    )
    async with transaction(service.pool) as conn:
        await stripe_calls.note(conn, call)

    async def link(conn: Connection, made: Made) -> None:
        await load_purchases.link(conn, made.object_id, owner)

    made = await stripe_calls.send(service, name, link)
    return Opened(answer.id, made, is_replayed)


def _session(
    asked: Mapping[str, Any], answer: _Answer, price: str, customer: str, marks: Mapping[str, str]
) -> dict[str, Any]:
    """A checkout session for one payment. The price is ours, whatever the browser says."""
    intent: dict[str, Any] = {"metadata": marks}
    if asked["save_card"]:
        intent["setup_future_usage"] = "off_session"
    params: dict[str, Any] = {
        "mode": "payment",
        "customer": customer,
        "client_reference_id": answer.id,
        "line_items": [{"price": price, "quantity": answer.quantity}],
        "success_url": asked["success_url"],
        "cancel_url": asked["cancel_url"],
        "metadata": marks,
        "payment_intent_data": intent,
    }
    if asked["allow_promotion_codes"]:
        params["allow_promotion_codes"] = True
    if asked["tax"] == "automatic":
        params |= {"automatic_tax": {"enabled": True}, "customer_update": {"address": "auto"}}
    if asked["invoice"]:
        params["invoice_creation"] = {"enabled": True, "invoice_data": {"metadata": marks}}
    return params


def _intent(
    asked: Mapping[str, Any], answer: _Answer, amount: int, customer: str, marks: Mapping[str, str]
) -> dict[str, Any]:
    """A payment intent for the Elements of a page of yours."""
    params: dict[str, Any] = {
        "amount": amount,
        "currency": answer.currency.lower(),
        "customer": customer,
        "automatic_payment_methods": {"enabled": True},
        "metadata": marks,
        "description": answer.product,
    }
    if asked["save_card"]:
        params["setup_future_usage"] = "off_session"
    return params


def owner_of(marks: Mapping[str, str], installation_id: str) -> tuple[PurchaseRef, str] | None:
    """The purchase that an object's metadata names, and the call; None: it is not of ours."""
    found = parse_id("pur", marks.get("purchase_id", ""))
    if found is None or marks.get("drawdown") != installation_id:
        return None
    return PurchaseRef(*found), marks.get("drawdown_call", "")
