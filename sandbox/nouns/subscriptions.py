"""Subscriptions: what requests do to them."""

from typing import Any

from sandbox.errors import StripeError, invalid
from sandbox.lists import Readable, is_inside, readable
from sandbox.nouns import (
    discounts,
    invoice_ends,
    invoice_lines,
    invoicing,
    paying,
    payment_methods,
    sub_changes,
    sub_clock,
    sub_status,
    subscribing,
)
from sandbox.nouns.subscribing import ENDED, items_of
from sandbox.routing import Call, route
from sandbox.shapes import Obj
from sandbox.world import World, copied, merged_metadata, pick

STRUCTURAL = frozenset({"items", "trial_end", "billing_cycle_anchor", "add_invoice_items"})


def _has_status(world: World, sub: Obj, wanted: Any) -> bool:
    if wanted == "all":
        return True
    return sub["status"] in ENDED if wanted == "ended" else sub["status"] == wanted


def _has_price(world: World, sub: Obj, wanted: Any) -> bool:
    return any(item["price"]["id"] == wanted for item in items_of(sub))


def _period(name: str) -> Any:
    return lambda _, sub, bounds: any(is_inside(item[name], bounds) for item in items_of(sub))  # pyright: ignore


readable(
    Readable(
        "subscription",
        "/v1/subscriptions",
        "subscription_exposed_id",
        filters={
            "status": _has_status,
            "price": _has_price,
            "plan": _has_price,
            "current_period_start": _period("current_period_start"),
            "current_period_end": _period("current_period_end"),
            "automatic_tax": lambda _, sub, v: sub["automatic_tax"]["enabled"] == v["enabled"],
        },
        hides=lambda sub: sub["status"] == "canceled",
    )
)


@route("POST /v1/subscriptions")
def create(world: World, call: Call) -> Obj:
    given = call.params
    if "customer" not in given:
        raise invalid(
            "Missing required param: customer.", param="customer", code="parameter_missing"
        )
    customer = world.used("customer", given["customer"], "customer")
    method = None
    if "default_payment_method" in given:
        method = payment_methods.used(world, given["default_payment_method"])
        payment_methods.check_usable(method, customer["id"])
    return start(world, customer, given, method=method)


def start(world: World, customer: Obj, given: Obj, *, method: Obj | None = None) -> Obj:
    """A new subscription with its first invoice, paid as its payment behavior says.

    Raises StripeError 400, 402 for `error_if_incomplete`.
    """
    behavior = given.get("payment_behavior", "allow_incomplete")
    by_card = given.get("collection_method", "charge_automatically") == "charge_automatically"
    off_session = bool(given.get("off_session"))
    if by_card and behavior in ("allow_incomplete", "error_if_incomplete"):
        _check_start(world, customer, given, method, behavior)
    sub = subscribing.begin(world, customer, given, method=method)
    invoice = subscribing.first_invoice(world, sub, given)
    if not by_card:
        invoice["automatically_finalizes_at"] = world.now + world.settings.finalize_seconds
        return sub
    invoicing.finalize(world, invoice)
    if invoice["status"] == "open" and behavior != "default_incomplete":
        try:
            found = invoicing.method_for(world, invoice)
            invoicing.pay(world, invoice, found, off_session=off_session)
        except StripeError:
            return sub
    if sub["status"] == "trialing" and subscribing.default_method(world, sub) is None:
        subscribing.ask_for_card(world, sub)
    return sub


def _check_start(
    world: World, customer: Obj, given: Obj, method: Obj | None, behavior: str
) -> None:
    """Try it in a fork first: what is refused leaves nothing behind."""
    fork = world.fork()
    twin = fork.get("customer", customer["id"])
    sub = subscribing.begin(fork, twin, given, method=method)
    invoice = subscribing.first_invoice(fork, sub, given)
    if invoice["amount_due"] == 0:
        return
    found = method or subscribing.default_method(fork, sub)
    if found is None or behavior == "error_if_incomplete":
        off_session = bool(given.get("off_session"))
        subscribing.check_payable(world, found, off_session=off_session)


@route("POST /v1/subscriptions/{subscription_exposed_id}")
def update(world: World, call: Call) -> Obj:
    return change(world, world.get("subscription", call.id), call.params)


def change(world: World, sub: Obj, given: Obj) -> Obj:
    """What an update request does. Raises StripeError 400, 402."""
    if sub["status"] in ENDED and given.keys() - {"metadata", "cancellation_details", "expand"}:
        raise invalid(
            "A canceled subscription can only update its cancellation_details and metadata."
        )
    is_structural = bool(given.keys() & STRUCTURAL)
    behavior = given.get("payment_behavior", "allow_incomplete")
    wants_money = is_structural and behavior in ("error_if_incomplete", "pending_if_incomplete")
    if wants_money and not sub_changes.would_pay(world, sub, given):
        if behavior == "error_if_incomplete":
            method = subscribing.default_method(world, sub)
            off_session = bool(given.get("off_session"))
            subscribing.check_payable(world, method, off_session=off_session)
        sub_changes.hold_back(world, sub, given)
        return sub
    before = copied(sub)
    _change_members(world, sub, given)
    invoice = sub_changes.apply(world, sub, given) if is_structural else None
    subscribing.set_end(world, sub, given)
    sub_changes.told(world, sub, before)
    sub_changes.settle(world, sub, invoice, given)
    return sub


def _change_members(world: World, sub: Obj, given: Obj) -> None:
    sub["metadata"] = merged_metadata(sub["metadata"], given)
    subscribing.take_plain(sub, given, "collection_method")
    if (name := given.get("default_payment_method")) is not None:
        method = payment_methods.used(world, name)
        payment_methods.check_usable(method, sub["customer"])
        sub["default_payment_method"] = method["id"]
    if "pause_collection" in given:
        pause = given["pause_collection"]
        sub["pause_collection"] = None
        if pause:
            resumes_at = pause.get("resumes_at")
            sub["pause_collection"] = {"behavior": pause["behavior"], "resumes_at": resumes_at}
    if "discounts" in given:
        owner = {"customer": sub["customer"], "subscription": sub["id"]}
        redeemed = discounts.redeem(world, given["discounts"] or [], **owner)
        sub["discounts"] = [one["id"] for one in redeemed]
    if "default_tax_rates" in given:
        rates = given["default_tax_rates"]
        sub["default_tax_rates"] = invoice_lines.rates_of(world, rates, "default_tax_rates")
    if "automatic_tax" in given:
        enabled = given["automatic_tax"]["enabled"]
        sub["automatic_tax"] = {**sub["automatic_tax"], "enabled": enabled}
    if "cancellation_details" in given:
        details = pick(given["cancellation_details"], "comment", "feedback")
        sub["cancellation_details"] = {**sub["cancellation_details"], **details}


@route("DELETE /v1/subscriptions/{subscription_exposed_id}")
def cancel(world: World, call: Call) -> Obj:
    sub, given = world.get("subscription", call.id), call.params
    if sub["status"] in ENDED:
        raise StripeError(404, f"No such subscription: '{sub['id']}'", code="resource_missing")
    details = pick(given.get("cancellation_details", {}), "comment", "feedback")
    sub["cancellation_details"] = {**sub["cancellation_details"], **details}
    return cancel_now(
        world, sub, prorate=given.get("prorate", False), invoice_now=given.get("invoice_now", False)
    )


def cancel_now(world: World, sub: Obj, *, prorate: bool, invoice_now: bool) -> Obj:
    """End a subscription at once. What is prorated becomes credit of the customer, no refund."""
    if prorate and sub["status"] in ("active", "past_due"):
        sub_changes.credit_all(world, sub)
    sub_status.end(world, sub, reason="cancellation_requested")
    invoice = sub_clock.last_invoice(world, sub, world.now, is_due=invoice_now)
    if invoice is not None:
        invoice_ends.finalize_and_collect(world, invoice)
    return sub


@route("POST /v1/subscriptions/{subscription}/migrate")
def migrate(world: World, call: Call) -> Obj:
    sub = world.get("subscription", call.id)
    if sub["billing_mode"]["type"] == "flexible":
        raise invalid("The subscription is already in flexible mode.", param="billing_mode[type]")
    mode = {
        "type": "flexible",
        "flexible": {"proration_discounts": "included"},
        "updated_at": world.now,
    }
    return world.change(sub, "customer.subscription.updated", billing_mode=mode)


@route("POST /v1/subscriptions/{subscription}/pause")
def pause(world: World, call: Call) -> Obj:
    """Stop a subscription: no invoices and no access until it is resumed."""
    sub, given = world.get("subscription", call.id), call.params
    if sub["billing_mode"]["type"] != "flexible":
        raise invalid("Only subscriptions in flexible billing mode can be paused.")
    if sub["schedule"] is not None:
        raise invalid("A subscription with a schedule cannot be paused.")
    if sub["status"] not in ("active", "past_due", "trialing"):
        raise invalid(f"A subscription with status {sub['status']} cannot be paused.")
    bills: Obj = given.get("bill_for", {})
    unused = bills.get("unused_time_from", {}).get("type", "none")
    if unused != "none" and sub["status"] != "trialing":
        sub_changes.credit_all(world, sub, from_start=unused == "item_current_period_start")
    invoices_now = given.get("invoicing_behavior") == "invoice"
    if sub["status"] == "trialing":
        sub["status"] = "active"
    because = sub_clock.paused_because(world, "pause_requested")
    world.move(sub, "paused", status_details=because)
    through = bills.get("outstanding_usage_through", {}).get("type", "none")
    invoice = sub_clock.last_invoice(world, sub, world.now, is_due=invoices_now or through == "now")
    if invoice is not None:
        invoice_ends.finalize_and_collect(world, invoice)
    return sub


@route("POST /v1/subscriptions/{subscription}/resume")
def resume(world: World, call: Call) -> Obj:
    """Start again, in a new period or in what is left of the old one."""
    sub, given = world.get("subscription", call.id), call.params
    if sub["status"] != "paused":
        raise invalid("Only paused subscriptions can be resumed.")
    ends = sub_clock.period_end(sub)
    keeps = given.get("billing_cycle_anchor", {}).get("type", "now") == "unchanged"
    lines = list[Obj]()
    before = copied(sub)
    if not keeps:
        sub["billing_cycle_anchor"] = world.now
    if not keeps or ends <= world.now:
        for item in items_of(sub):
            anchor = sub["billing_cycle_anchor"]
            subscribing.set_period(item, *subscribing.period_of(item, anchor, world.now))
        lines = subscribing.advance_lines(world, sub, items_of(sub))
    invoice = sub_changes.update_draft(world, sub)
    lines = invoicing.take_pending(world, invoice, sub=sub["id"]) + lines
    if not lines:
        return _resumed(world, sub, before)
    invoicing.put_lines(world, invoice, lines)
    world.add(invoice, "invoice.created")
    on_success = given.get("payment_behavior", "resume_on_payment_success").endswith("success")
    return _resume_paid(world, sub, invoice, before, waits=on_success)


def _resumed(world: World, sub: Obj, before: Obj) -> Obj:
    sub.update(status="active", status_details=None)
    sub_changes.told(world, sub, before)
    world.emit("customer.subscription.resumed", sub)
    return sub


def _resume_paid(world: World, sub: Obj, invoice: Obj, before: Obj, *, waits: bool) -> Obj:
    """Resume with an invoice: once it is paid, or at once, with the money still to come."""
    sub["latest_invoice"] = invoice["id"]
    if not waits:
        _resumed(world, sub, before)
    else:
        world.note(sub["id"])["resumes_when_paid"] = True
    invoicing.finalize(world, invoice)
    if invoice["status"] == "open":
        invoicing.collect(world, invoice)
    intent = invoicing.intent_of(world, invoice)
    is_unpaid = intent is not None and intent["status"] in paying.CONFIRMABLE
    if is_unpaid and sub["status"] == "active":
        world.move(sub, "past_due")
    return sub
