"""What happens when a customer completes a checkout session, by a click or by the control plane."""

from typing import Any

from sandbox import reactions
from sandbox.cards import MESSAGES
from sandbox.errors import StripeError, declined, invalid
from sandbox.nouns import (
    baskets,
    customers,
    discounts,
    invoice_lines,
    invoicing,
    paying,
    payment_methods,
    setup_intents,
    subscribing,
)
from sandbox.shapes import Obj, at, has_status
from sandbox.world import World, merged_metadata, pick

EMAIL = "customer@example.com"


def complete(
    world: World,
    session: Obj,
    name: str = "pm_card_visa",
    *,
    delayed: bool = False,
    authentication: str = "succeeded",
    promotion_code: str | None = None,
) -> Obj:
    """The customer pays with a test method. `delayed`: the money comes later, if it comes.

    Raises StripeError 402 if the card declines or the bank's question is answered with no; the
    session stays open. 400 if the session is not open.
    """
    if session["status"] != "open":
        raise invalid(
            f"This Checkout Session is {session['status']}.",
            code="checkout_session_unexpected_state",
        )
    if promotion_code is not None:
        _use_code(world, session, promotion_code)
    with world.on_clock(world.clock_of(session)):
        customer = _customer(world, session)
        method = _method(world, session, name, customer)
        pays = {"payment": _pay, "subscription": _subscribe, "setup": _save}[session["mode"]]
        pays(world, session, customer, method, delayed, authentication)
    return session


def _use_code(world: World, session: Obj, text: str) -> None:
    """A promotion code that is typed into the page."""
    if not session["allow_promotion_codes"]:
        raise invalid("This session takes no promotion codes.", param="promotion_code")
    found = world.every("promotion_code", code=text, active=True)
    if not found:
        raise invalid(f"No such promotion code: {text}", param="promotion_code")
    world.note(session["id"])["discounts"] = [{"promotion_code": found[0]["id"]}]
    baskets.price(world, session)


def _customer(world: World, session: Obj) -> Obj | None:
    """The session's customer, or a new one if there must be one."""
    if session["customer"] is not None:
        return world.used("customer", session["customer"], "customer")
    data: Obj = world.note(session["id"])["payment_intent_data"]
    needed = (
        session["mode"] != "payment"
        or session["customer_creation"] == "always"
        or data.get("setup_future_usage") is not None
        or bool(at(session, "invoice_creation", "enabled"))
    )
    if not needed:
        return None
    email = session["customer_email"] or EMAIL
    return customers.made(world, email=email, name="Jenny Rosen")


def _method(world: World, session: Obj, name: str, customer: Obj | None) -> Obj | None:
    note = world.note(session["id"])
    is_free = session["amount_total"] in (0, None) and session["mode"] != "setup"
    is_optional = session["payment_method_collection"] == "if_required"
    recurs_later = session["mode"] == "subscription" and not is_optional
    if is_free and not recurs_later:
        return None
    method = payment_methods.used(world, name)
    payment_methods.check_usable(method, None if customer is None else customer["id"])
    note["method"] = method["id"]
    return method


def _details(session: Obj, customer: Obj | None) -> Obj:
    known: Obj = customer or {}
    return {
        "address": known.get("address"),
        "business_name": None,
        "email": known.get("email") or session["customer_email"] or EMAIL,
        "individual_name": None,
        "name": known.get("name") or "Jenny Rosen",
        "phone": known.get("phone"),
        "tax_exempt": "none",
        "tax_ids": [],
    }


def _keep(world: World, customer: Obj | None) -> None:
    """Store a customer that this session made."""
    if customer is not None and customer["id"] not in world.table("customer"):
        world.add(customer, "customer.created")


def _done(world: World, session: Obj, customer: Obj | None, status: str, **members: Any) -> None:
    world.move(
        session,
        "complete",
        customer=None if customer is None else customer["id"],
        customer_details=_details(session, customer),
        payment_status=status,
        url=None,
        **members,
    )


def _redeem(world: World, session: Obj, **owner: Any) -> list[str]:
    asked = world.note(session["id"])["discounts"]
    return [one["id"] for one in discounts.redeem(world, asked, **owner)]


# One payment


def _pay(
    world: World,
    session: Obj,
    customer: Obj | None,
    method: Obj | None,
    delayed: bool,
    authentication: str,
) -> None:
    if method is None:
        _keep(world, customer)
        _redeem(world, session, customer=None if customer is None else customer["id"])
        world.note(session["id"])["is_redeemed"] = True
        _done(world, session, customer, "no_payment_required", **_receipt(world, session, customer))
        return
    _keep(world, customer)
    if customer is not None:
        session["customer"] = customer["id"]
    intent = _intent(world, session, customer)
    if delayed:
        world.note(intent["id"])["is_delayed"] = True
    if intent["status"] == "requires_action":
        intent["status"] = "requires_payment_method"
    paying.confirm(world, intent, method)
    if intent["status"] == "requires_action" and authentication != "pending":
        paying.authenticate(world, intent, authentication)
        if (problem := intent["last_payment_error"]) is not None:
            raise declined(problem["code"], problem.get("decline_code"), problem["message"])


def _intent(world: World, session: Obj, customer: Obj | None) -> Obj:
    """The payment intent of the session, made at the first try."""
    if session["payment_intent"] is not None:
        intent = world.get("payment_intent", session["payment_intent"])
        return world.change(intent, amount=session["amount_total"])
    data: Obj = world.note(session["id"])["payment_intent_data"]
    intent = paying.new_intent(
        world,
        session["amount_total"],
        session["currency"],
        capture_method=data.get("capture_method"),
        customer=None if customer is None else customer["id"],
        metadata=merged_metadata(None, data),
        **pick(data, "description", "receipt_email", "setup_future_usage", "transfer_group"),
    )
    world.note(intent["id"])["session"] = session["id"]
    session["payment_intent"] = intent["id"]
    return world.add(intent, "payment_intent.created")


def _session_of(world: World, intent: Obj) -> Obj | None:
    session_id = world.note(intent["id"]).get("session")
    return None if session_id is None else world.get("checkout.session", session_id)


@reactions.on("payment_intent.succeeded")
def _paid(world: World, intent: Obj) -> None:
    session = _session_of(world, intent)
    if session is None:
        return
    customer = world.table("customer").get(str(session["customer"]))
    if session["status"] == "open":
        _redeem_once(world, session)
        _done(world, session, customer, "paid", **_receipt(world, session, customer))
    elif session["status"] == "complete" and session["payment_status"] == "unpaid":
        receipt = _receipt(world, session, customer)
        world.change(session, payment_status="paid", **receipt)
        world.emit("checkout.session.async_payment_succeeded", session)


@reactions.on("payment_intent.processing", "payment_intent.amount_capturable_updated")
def _under_way(world: World, intent: Obj) -> None:
    session = _session_of(world, intent)
    if session is not None and session["status"] == "open":
        customer = world.table("customer").get(str(session["customer"]))
        _redeem_once(world, session)
        _done(world, session, customer, "unpaid")


@reactions.on("payment_intent.payment_failed")
def _failed(world: World, intent: Obj) -> None:
    session = _session_of(world, intent)
    if session is not None and session["status"] == "complete":
        world.emit("checkout.session.async_payment_failed", session)


def _redeem_once(world: World, session: Obj) -> None:
    note = world.note(session["id"])
    if not note.get("is_redeemed"):
        note["is_redeemed"] = True
        _redeem(world, session, customer=session["customer"], checkout_session=session["id"])


def _receipt(world: World, session: Obj, customer: Obj | None) -> Obj:
    """The invoice of a payment that is already made, if the session wants one."""
    creation = session["invoice_creation"]
    if customer is None or not (creation and creation["enabled"]):
        return {}
    invoice = invoicing.draft(
        world,
        customer,
        currency=session["currency"],
        reason="manual",
        start=world.now,
        end=world.now,
        metadata=creation["invoice_data"]["metadata"],
    )
    invoice["automatic_tax"]["enabled"] = session["automatic_tax"]["enabled"]
    asked = world.note(session["id"])["discounts"]
    if asked:
        invoice["discounts"] = _redeem(world, session, customer=customer["id"])
    invoicing.put_lines(world, invoice, [_line(world, one) for one in _lines(world, session)])
    world.add(invoice, "invoice.created")
    _settle_receipt(world, session, invoice)
    return {"invoice": invoice["id"]}


def _lines(world: World, session: Obj) -> list[Obj]:
    return world.note(session["id"])["lines"]


def _line(world: World, line: Obj) -> Obj:
    price = line["price"]
    made = invoice_lines.made(
        world,
        amount=line["amounts"]["amount_subtotal"],
        currency=price["currency"],
        start=world.now,
        end=world.now,
        description=world.get("product", price["product"])["name"],
        quantity=line["quantity"],
        price=price,
    )
    if line["tax_rates"]:
        world.note(made["id"])["tax_rates"] = line["tax_rates"]
    return made


def _settle_receipt(world: World, session: Obj, invoice: Obj) -> None:
    """Paid by the session's intent: no second one is made."""
    invoice["status_transitions"]["finalized_at"] = world.now
    invoice.update(number=f"R-{world.secret(6).upper()}-0001", effective_at=world.now)
    invoice["hosted_invoice_url"] = f"{world.base_url}/invoice/{invoice['id']}"
    world.move(invoice, "open")
    if session["payment_intent"] is not None:
        payment = world.make("invoice_payment", "inpay")
        payment.update(
            amount_requested=invoice["amount_due"],
            currency=invoice["currency"],
            invoice=invoice["id"],
            is_default=True,
            payment={"type": "payment_intent", "payment_intent": session["payment_intent"]},
            status="open",
            status_transitions={"canceled_at": None, "paid_at": None},
        )
        world.store(payment)
        world.note(invoice["id"]).update(intent=session["payment_intent"], payment=payment["id"])
    invoicing.mark_paid(world, invoice)


# A subscription


def _subscribe(
    world: World,
    session: Obj,
    customer: Obj | None,
    method: Obj | None,
    delayed: bool,
    authentication: str,
) -> None:
    """Declined tries leave nothing: the subscription begins with its payment."""
    assert customer is not None
    if method is not None:
        _check_card(world, method, authentication)
    _keep(world, customer)
    if method is not None:
        if method["customer"] is None:
            payment_methods.attached(world, method["id"], customer["id"])
        world.note(method["id"])["is_set_up"] = True
    data: Obj = world.note(session["id"])["subscription_data"]
    lines = _lines(world, session)
    wanted = {
        **data,
        "items": [_as_item(line) for line in lines if line["price"]["recurring"]],
        "add_invoice_items": [_as_item(line) for line in lines if not line["price"]["recurring"]],
        "automatic_tax": {"enabled": session["automatic_tax"]["enabled"]},
        "discounts": world.note(session["id"])["discounts"],
    }
    sub = subscribing.begin(world, customer, wanted, method=method)
    invoice = subscribing.first_invoice(world, sub, wanted)
    invoicing.finalize(world, invoice)
    members: Obj = {"subscription": sub["id"], "invoice": invoice["id"]}
    if invoice["status"] != "open":
        is_free = invoice["amount_paid"] == 0
        status = "no_payment_required" if is_free else "paid"
        _done(world, session, customer, status, **members)
        return
    intent = invoicing.intent_of(world, invoice)
    assert intent is not None
    if delayed:
        world.note(intent["id"])["is_delayed"] = True
        world.move(sub, "active")
    invoicing.pay(world, invoice, method, off_session=False, passed=True)
    paid = has_status(invoice, "paid")
    if not paid:
        world.note(intent["id"])["late_session"] = session["id"]
    _done(world, session, customer, "paid" if paid else "unpaid", **members)


def _as_item(line: Obj) -> Obj:
    # A price that was made for this session is inactive to all others.
    item: Obj = {"price": line["price"]["id"], "metadata": line["metadata"], "is_own": True}
    if line["quantity"] is not None:
        item["quantity"] = line["quantity"]
    if line["tax_rates"]:
        item["tax_rates"] = line["tax_rates"]
    return item


def _check_card(world: World, method: Obj, authentication: str) -> None:
    """Raises StripeError 402 before anything is made."""
    verdict = paying.verdict(world, method, off_session=False)
    if verdict == "asks" and authentication != "succeeded":
        code: str = "payment_intent_authentication_failure"
        raise StripeError(402, MESSAGES[code], kind="card_error", code=code)
    if verdict == "declines":
        code, decline_code = paying.reason(world, method, off_session=False)
        raise declined(code, decline_code, MESSAGES[code])


@reactions.on("payment_intent.succeeded", "payment_intent.payment_failed")
def _late(world: World, intent: Obj) -> None:
    """A subscription's first payment that came later, or not."""
    session_id = world.note(intent["id"]).pop("late_session", None)
    if session_id is None:
        return
    session = world.get("checkout.session", session_id)
    if intent["status"] == "succeeded":
        world.change(session, payment_status="paid")
        world.emit("checkout.session.async_payment_succeeded", session)
    else:
        world.emit("checkout.session.async_payment_failed", session)


# A card


def _save(
    world: World,
    session: Obj,
    customer: Obj | None,
    method: Obj | None,
    delayed: bool,
    authentication: str,
) -> None:
    assert method is not None
    assert customer is not None
    del delayed
    _keep(world, customer)
    data: Obj = world.note(session["id"])["setup_intent_data"]
    intent = setup_intents.new_intent(
        world,
        customer["id"],
        description=data.get("description"),
        metadata=merged_metadata(None, data),
    )
    world.add(intent, "setup_intent.created")
    setup_intents.save(world, intent, method)
    if intent["status"] == "requires_action":
        setup_intents.authenticate(world, intent, authentication)
    if intent["status"] != "succeeded":
        code: str = "setup_intent_authentication_failure"
        raise StripeError(402, MESSAGES[code], kind="card_error", code=code)
    _done(world, session, customer, "no_payment_required", setup_intent=intent["id"])
