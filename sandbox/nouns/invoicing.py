"""The life of an invoice: drafted, finalised, paid or not, tried again, voided."""

from typing import Any

from sandbox import reactions
from sandbox.calendar import DAY
from sandbox.errors import StripeError, invalid
from sandbox.expand import included
from sandbox.nouns import customers, invoice_lines, paying, payment_methods
from sandbox.shapes import Obj, at, ids_of
from sandbox.world import World, listed

FINAL_ATTEMPT = "standin.invoice_given_up"
FAILED = "standin.invoice_failed"


def draft(
    world: World,
    customer: Obj,
    *,
    currency: str,
    reason: str,
    start: int,
    end: int,
    sub: Obj | None = None,
    **members: Any,
) -> Obj:
    """An invoice without lines; not stored."""
    invoice = world.make("invoice", "in")
    for absent in ("threshold_reason", "customer_account", "confirmation_secret", "rendering"):
        invoice.pop(absent, None)
    source: Obj = sub or {}
    invoice.update(
        account_country="US",
        account_name="Stand-in",
        amount_due=0,
        amount_overpaid=0,
        amount_paid=0,
        amount_remaining=0,
        amount_shipping=0,
        attempt_count=0,
        attempted=False,
        auto_advance=True,
        automatic_tax=_automatic_tax(bool(source.get("automatic_tax", {}).get("enabled"))),
        billing_reason=reason,
        collection_method=source.get("collection_method", "charge_automatically"),
        currency=currency,
        customer=customer["id"],
        customer_email=customer.get("email"),
        customer_name=customer.get("name"),
        customer_tax_exempt=customer.get("tax_exempt"),
        customer_tax_ids=[],
        default_tax_rates=list(source.get("default_tax_rates") or []),
        discounts=[one for one in ids_of(source.get("discounts")) if _is_running(world, one)],
        issuer={"type": "self"},
        lines=listed([], f"/v1/invoices/{invoice['id']}/lines"),
        metadata={},
        parent=None if sub is None else parent_of(sub),
        payment_settings=dict.fromkeys(
            ("default_mandate", "payment_method_options", "payment_method_types")
        ),
        period_end=end,
        period_start=start,
        post_payment_credit_notes_amount=0,
        pre_payment_credit_notes_amount=0,
        starting_balance=0,
        status="draft",
        status_transitions=dict.fromkeys(
            ("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")
        ),
        subtotal=0,
        test_clock=customer.get("test_clock"),
        total=0,
    )
    if source.get("collection_method") == "send_invoice":
        invoice["due_date"] = world.now + (source["days_until_due"] or 30) * DAY
    invoice.update(members)
    return invoice


def _automatic_tax(enabled: bool) -> Obj:
    return {
        "disabled_reason": None,
        "enabled": enabled,
        "liability": None,
        "provider": None,
        "status": None,
    }


def _is_running(world: World, discount_id: str) -> bool:
    end = world.get("discount", discount_id)["end"]
    return end is None or end > world.now


def parent_of(sub: Obj) -> Obj:
    return {
        "type": "subscription_details",
        "subscription_details": {"metadata": sub["metadata"], "subscription": sub["id"]},
        "quote_details": None,
    }


def subscription_of(invoice: Obj) -> str | None:
    """The subscription that an invoice belongs to."""
    return at(invoice, "parent", "subscription_details", "subscription")


def put_lines(world: World, invoice: Obj, lines: list[Obj]) -> None:
    """Add lines, and add up."""
    for line in lines:
        line["invoice"] = invoice["id"]
    invoice["lines"]["data"].extend(lines)
    invoice_lines.add_up(world, invoice)


def take_pending(world: World, invoice: Obj, *, sub: str | None) -> list[Obj]:
    """The lines of invoice items that wait for an invoice like this one."""
    taken = list[Obj]()
    for entry in world.every("invoiceitem", invoice=None, customer=invoice["customer"]):
        owner = world.note(entry["id"]).get("subscription")
        if entry["currency"] == invoice["currency"] and owner in (None, sub):
            entry["invoice"] = invoice["id"]
            taken.append(invoice_lines.of_invoice_item(world, entry))
    return taken


# Finalising


def finalize(world: World, invoice: Obj) -> Obj:
    """A draft becomes final: numbered, the balance applied, and paid at once if nothing is due."""
    for line in invoice["lines"]["data"]:
        invoice_lines.count(world, line)
    invoice_lines.add_up(world, invoice)
    customer = world.get("customer", invoice["customer"])
    due = _apply_balance(world, invoice, customer)
    sequence = customer.get("next_invoice_sequence", 1)
    customer["next_invoice_sequence"] = sequence + 1
    number = f"{customer.get('invoice_prefix', 'X')}-{sequence:04}"
    url = f"{world.base_url}/invoice/{invoice['id']}"
    transitions = {**invoice["status_transitions"], "finalized_at": world.now}
    if due:
        _make_payment(world, invoice, due)
    world.move(
        invoice,
        "open",
        amount_due=due,
        amount_remaining=due,
        automatically_finalizes_at=None,
        effective_at=world.now,
        ending_balance=customer.get("balance", 0),
        hosted_invoice_url=url,
        invoice_pdf=f"{url}/pdf",
        number=number,
        status_transitions=transitions,
    )
    if due == 0:
        mark_paid(world, invoice)
    return invoice


def _apply_balance(world: World, invoice: Obj, customer: Obj) -> int:
    """What is left to pay once the customer's balance is used; a negative total becomes credit."""
    total, balance = invoice["total"], customer.get("balance", 0)
    if total < 0:
        change, due = total, 0
    else:
        change = min(-balance, total) if balance < 0 else -balance
        due = total - change
    if change:
        customers.move_balance(
            world,
            customer,
            change,
            invoice["currency"],
            type="applied_to_invoice",
            invoice=invoice["id"],
        )
    return due


def _make_payment(world: World, invoice: Obj, due: int) -> None:
    """The payment intent of an invoice, and the entry that ties them."""
    note = world.note(invoice["id"])
    intent = paying.new_intent(
        world,
        due,
        invoice["currency"],
        customer=invoice["customer"],
        description="Subscription payment" if subscription_of(invoice) else "Payment for Invoice",
        setup_future_usage=note.get("setup_future_usage"),
    )
    world.note(intent["id"])["invoice"] = invoice["id"]
    world.add(intent, "payment_intent.created")
    payment = world.make("invoice_payment", "inpay")
    payment.update(
        amount_requested=due,
        currency=invoice["currency"],
        invoice=invoice["id"],
        is_default=True,
        payment={"type": "payment_intent", "payment_intent": intent["id"]},
        status="open",
        status_transitions={"canceled_at": None, "paid_at": None},
    )
    world.store(payment)
    note.update(intent=intent["id"], payment=payment["id"])


@included("invoice", "payments")
def payments_of(world: World, invoice: Obj) -> Obj:
    rows = world.every("invoice_payment", invoice=invoice["id"])
    return listed(rows, "/v1/invoice_payments")


@included("invoice", "confirmation_secret")
def secret_of(world: World, invoice: Obj) -> Obj | None:
    intent = intent_of(world, invoice)
    if intent is None:
        return None
    return {"client_secret": intent["client_secret"], "type": "payment_intent"}


def intent_of(world: World, invoice: Obj) -> Obj | None:
    intent_id = world.note(invoice["id"]).get("intent")
    return None if intent_id is None else world.get("payment_intent", intent_id)


# Paying


def method_for(world: World, invoice: Obj) -> Obj | None:
    """What an invoice is charged to: its own method, the subscription's, or the customer's."""
    sub = world.table("subscription").get(subscription_of(invoice) or "", {})
    customer = world.get("customer", invoice["customer"])
    settings = customer.get("invoice_settings", {})
    for name in (
        invoice["default_payment_method"],
        sub.get("default_payment_method"),
        settings.get("default_payment_method"),
    ):
        if name is not None:
            return world.get("payment_method", name)
    return None


def pay(
    world: World, invoice: Obj, method: Obj | None, *, off_session: bool, passed: bool = False
) -> Obj:
    """One try to collect an open invoice. Raises StripeError 402, or 400 without a method."""
    intent = intent_of(world, invoice)
    assert intent is not None
    if intent["status"] not in paying.CONFIRMABLE:
        return invoice
    invoice.update(attempt_count=invoice["attempt_count"] + 1, attempted=True)
    if method is None:
        failed(world, invoice)
        raise invalid(
            "This customer has no attached payment source or default payment method. Please "
            "consider adding a default payment method.",
            code="resource_missing",
        )
    paying.confirm(world, intent, method, off_session=off_session, passed=passed)
    return invoice


def collect(world: World, invoice: Obj) -> Obj:
    """As `pay` with the saved method and nobody present; a failure is only told."""
    try:
        pay(world, invoice, method_for(world, invoice), off_session=True)
    except StripeError:
        return invoice
    return invoice


def mark_paid(world: World, invoice: Obj, *, out_of_band: bool = False) -> Obj:
    """The money is there, or is not needed."""
    due = invoice["amount_due"]
    note = world.note(invoice["id"])
    if (payment_id := note.get("payment")) is not None:
        payment = world.get("invoice_payment", payment_id)
        intent = intent_of(world, invoice)
        transitions = {**payment["status_transitions"]}
        if out_of_band:
            transitions["canceled_at"] = world.now
            world.move(payment, "canceled", status_transitions=transitions)
            if intent is not None and intent["status"] in paying.CONFIRMABLE:
                paying.cancel(world, intent)
        else:
            transitions["paid_at"] = world.now
            world.move(payment, "paid", amount_paid=due, status_transitions=transitions)
    transitions = {**invoice["status_transitions"], "paid_at": world.now}
    return world.move(
        invoice,
        "paid",
        amount_paid=due,
        amount_paid_off_stripe=due if out_of_band else 0,
        amount_remaining=0,
        attempted=True,
        next_payment_attempt=None,
        status_transitions=transitions,
    )


@reactions.on("payment_intent.succeeded")
def _paid_by(world: World, intent: Obj) -> None:
    invoice_id = world.note(intent["id"]).get("invoice")
    if invoice_id is None:
        return
    invoice = world.get("invoice", invoice_id)
    if invoice["status"] in ("open", "uncollectible"):
        mark_paid(world, invoice)


@reactions.on("payment_intent.requires_action")
def _asked_by(world: World, intent: Obj) -> None:
    invoice_id = world.note(intent["id"]).get("invoice")
    if invoice_id is not None:
        world.emit("invoice.payment_action_required", world.get("invoice", invoice_id))


@reactions.on("payment_intent.payment_failed")
def _failed_by(world: World, intent: Obj) -> None:
    invoice_id = world.note(intent["id"]).get("invoice")
    if invoice_id is not None:
        failed(world, world.get("invoice", invoice_id))


def failed(world: World, invoice: Obj) -> None:
    """A try has failed: there will be another one, or this was the last."""
    note, days = world.note(invoice["id"]), world.settings.dunning_days
    tries = note["tries"] = int(note.get("tries", 0)) + 1
    is_first = invoice["billing_reason"] == "subscription_create"
    goes_on = (
        bool(invoice["auto_advance"])
        and invoice["collection_method"] == "charge_automatically"
        and not is_first
    )
    next_at = world.now + days[tries - 1] * DAY if goes_on and tries <= len(days) else None
    invoice["next_payment_attempt"] = next_at
    if world.table("invoice").get(invoice["id"]) is not None:
        world.emit("invoice.payment_failed", invoice)
        world.emit("invoice.updated", invoice, {"attempted": False})
    world.react(FAILED, invoice)
    if goes_on and next_at is None:
        world.react(FINAL_ATTEMPT, invoice)


def usable_method(world: World, name: str, customer: str) -> Obj:
    """A method that a request names to pay with."""
    method = payment_methods.used(world, name)
    payment_methods.check_usable(method, customer)
    return method
