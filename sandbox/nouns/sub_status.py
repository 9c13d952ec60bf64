"""The status of a subscription follows its invoices, until it ends."""

from typing import Any

from sandbox import reactions
from sandbox.nouns import discounts, invoicing, payment_methods
from sandbox.nouns.subscribing import ENDED
from sandbox.shapes import Obj, at
from sandbox.world import World


@reactions.on("invoice.paid")
def _paid(world: World, invoice: Obj) -> None:
    sub = world.table("subscription").get(invoicing.subscription_of(invoice) or "")
    if sub is None or sub["status"] in ENDED:
        return
    _keep_method(world, sub, invoice)
    sub["discounts"] = discounts.still_running(world, sub["discounts"])
    if sub["latest_invoice"] != invoice["id"]:
        return
    if sub["status"] in ("incomplete", "past_due", "unpaid"):
        world.move(sub, "active")
    elif sub["status"] == "paused" and world.note(sub["id"]).pop("resumes_when_paid", False):
        world.move(sub, "active", status_details=None)
        world.emit("customer.subscription.resumed", sub)


def _keep_method(world: World, sub: Obj, invoice: Obj) -> None:
    intent = invoicing.intent_of(world, invoice)
    if intent is None or intent["payment_method"] is None:
        return
    save = at(sub, "payment_settings", "save_default_payment_method")
    if save == "on_subscription" and sub["default_payment_method"] is None:
        method = world.get("payment_method", intent["payment_method"])
        if method["customer"] is None:
            payment_methods.attached(world, method["id"], sub["customer"])
        sub["default_payment_method"] = method["id"]


@reactions.on(invoicing.FAILED)
def _failed(world: World, invoice: Obj) -> None:
    sub = world.table("subscription").get(invoicing.subscription_of(invoice) or "")
    if sub is None or sub["latest_invoice"] != invoice["id"]:
        return
    if sub["status"] in ("active", "trialing") and sub["pending_update"] is None:
        world.move(sub, "past_due")


@reactions.on(invoicing.FINAL_ATTEMPT)
def _given_up(world: World, invoice: Obj) -> None:
    sub = world.table("subscription").get(invoicing.subscription_of(invoice) or "")
    if sub is None or sub["status"] != "past_due":
        return
    match world.settings.dunning_end:
        case "canceled":
            end(world, sub, reason="payment_failed")
        case "unpaid":
            world.move(sub, "unpaid")
        case _:
            pass


# Ending


def end(world: World, sub: Obj, *, reason: str, status: str = "canceled") -> Obj:
    """A subscription is over. Its open invoices are not collected any more."""
    for invoice in world.every("invoice", customer=sub["customer"]):
        if invoicing.subscription_of(invoice) == sub["id"] and invoice["status"] in (
            "draft",
            "open",
        ):
            invoice.update(auto_advance=False, next_payment_attempt=None)
    members: dict[str, Any] = {
        "canceled_at": sub["canceled_at"] or world.now,
        "cancel_at_period_end": False,
        "cancellation_details": {**sub["cancellation_details"], "reason": reason},
        "ended_at": world.now,
    }
    if status == "canceled":
        members["cancel_at_period_end"] = sub["cancel_at_period_end"]
    return world.move(sub, status, **members)


@reactions.on("customer.deleted")
def _customer_deleted(world: World, customer: Obj) -> None:
    for sub in world.every("subscription", customer=customer["id"]):
        if sub["status"] not in ENDED:
            end(world, sub, reason="cancellation_requested")
