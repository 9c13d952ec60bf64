"""What an invoice would be: the change is really made, in a fork of the world."""

from sandbox.errors import invalid
from sandbox.nouns import (
    customers,
    discounts,
    invoice_lines,
    invoices,
    invoicing,
    sub_changes,
    sub_clock,
    subscribing,
)
from sandbox.routing import Call, route
from sandbox.shapes import Obj, objs_of
from sandbox.world import World


@route("POST /v1/invoices/create_preview")
def preview(world: World, call: Call) -> Obj:
    """The invoice that a change would make, or the next one, or the first of a new subscription."""
    given = call.params
    details: Obj = given.get("subscription_details", {})
    fork = world.fork()
    if "schedule" in given or "schedule_details" in given:
        raise invalid("Previews of schedules are not answered here.", param="schedule")
    if "subscription" in given:
        sub = fork.used("subscription", given["subscription"], "subscription")
        with fork.on_clock(fork.clock_of(sub)):
            invoice, at = _of_change(fork, sub, given, details)
    else:
        customer = _customer(fork, given)
        with fork.on_clock(fork.clock_of(customer)):
            invoice, at = _of_new(fork, customer, given, details)
    if "discounts" in given:
        asked = objs_of(given["discounts"])
        redeemed = discounts.redeem(fork, asked, customer=invoice["customer"])
        invoice["discounts"] = [one["id"] for one in redeemed]
    if "automatic_tax" in given:
        invoice["automatic_tax"]["enabled"] = given["automatic_tax"]["enabled"]
    invoice_lines.add_up(fork, invoice)
    return sub_clock.as_preview(fork, invoice, at)


def _customer(fork: World, given: Obj) -> Obj:
    if "customer" in given:
        return fork.used("customer", given["customer"], "customer")
    if "customer_details" not in given:
        raise invalid(
            "Missing required param: customer.", param="customer", code="parameter_missing"
        )
    return fork.store(customers.made(fork))


def _of_change(fork: World, sub: Obj, given: Obj, details: Obj) -> tuple[Obj, int]:
    """The invoice that a change makes at once, or else the next renewal after it."""
    if sub["status"] in subscribing.ENDED:
        raise invalid("The subscription is canceled.", code="invoice_upcoming_none")
    _add_items(fork, sub["customer"], given, sub["id"])
    if details.get("cancel_now"):
        return _of_cancel(fork, sub)
    change = {
        name: details[name]
        for name in (
            *("items", "proration_behavior", "proration_date", "trial_end"),
            "billing_cycle_anchor",
        )
        if name in details
    }
    invoice = None
    if change.keys() - {"proration_behavior", "proration_date"}:
        invoice = sub_changes.apply(fork, sub, change)
    subscribing.set_end(fork, sub, details)
    if invoice is not None:
        invoice["billing_reason"] = "upcoming"
        return invoice, fork.now
    if sub["cancel_at"] is not None:
        raise invalid(
            f"No upcoming invoices for subscription: {sub['id']}", code="invoice_upcoming_none"
        )
    at = sub_clock.period_end(sub)
    invoice = sub_clock.turn(fork, sub, at, was_trial=sub["status"] == "trialing")
    invoice["billing_reason"] = "upcoming"
    return invoice, at


def _of_cancel(fork: World, sub: Obj) -> tuple[Obj, int]:
    sub_changes.credit_all(fork, sub)
    invoice = sub_clock.last_invoice(fork, sub, fork.now)
    if invoice is None:
        invoice = sub_changes.update_draft(fork, sub)
    return invoice, fork.now


def _of_new(fork: World, customer: Obj, given: Obj, details: Obj) -> tuple[Obj, int]:
    """The first invoice of a subscription that is not there yet, or of waiting items only."""
    if "items" in details:
        wanted = {name: value for name, value in details.items() if name != "billing_cycle_anchor"}
        anchor: Obj = details.get("billing_cycle_anchor", {})
        if anchor.get("timestamp") is not None:
            wanted["billing_cycle_anchor"] = anchor["timestamp"]
        if given.get("currency"):
            customer["currency"] = given["currency"]
        sub = subscribing.begin(fork, customer, wanted)
        _add_items(fork, customer["id"], given, sub["id"])
        return subscribing.first_invoice(fork, sub, wanted), fork.now
    _add_items(fork, customer["id"], given, None)
    currency = given.get("currency") or customer.get("currency") or "usd"
    invoice = invoicing.draft(
        fork, customer, currency=currency, reason="upcoming", start=fork.now, end=fork.now
    )
    lines = invoicing.take_pending(fork, invoice, sub=None)
    if not lines:
        message = f"No upcoming invoices for customer: {customer['id']}"
        raise invalid(message, code="invoice_upcoming_none")
    invoicing.put_lines(fork, invoice, lines)
    return invoice, fork.now


def _add_items(fork: World, customer: str, given: Obj, sub_id: str | None) -> None:
    """Invoice items that are only in the question."""
    for asked in objs_of(given.get("invoice_items")):
        if "price" in asked:
            asked = {**asked, "pricing": {"price": asked["price"]}}
        entry = invoices.item(fork, fork.get("customer", customer), asked)
        if sub_id is not None:
            fork.note(entry["id"])["subscription"] = sub_id
        fork.store(entry)
