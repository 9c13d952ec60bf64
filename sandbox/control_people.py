"""The control plane's routes for what people do: customers, banks, Stripe's staff."""

from typing import Annotated, Literal

from msgspec import Meta

from sandbox.account import Account
from sandbox.calendar import DAY
from sandbox.control import PREFIX, Body, Nothing, on
from sandbox.errors import StripeError, invalid, unknown_url
from sandbox.nouns import (
    checkout,
    checkout_pays,
    customers,
    disputes,
    meter_stream,
    meters,
    paying,
    payment_methods,
    portal,
    refunds,
    setup_intents,
)
from sandbox.shapes import Obj


class Complete(Body):
    payment_method: str = "pm_card_visa"
    delayed: bool = False
    authentication: Literal["succeeded", "failed", "pending"] = "succeeded"
    promotion_code: str | None = None


class Settle(Body):
    outcome: Literal["succeeded", "failed"] = "succeeded"


class Confirm(Body):
    payment_method: str = "pm_card_visa"


class Refund(Body):
    payment_intent: str
    amount: int | None = None
    status: Literal["pending", "requires_action", "succeeded"] = "succeeded"
    reason: Literal["duplicate", "fraudulent", "requested_by_customer"] | None = None


class Dispute(Body):
    payment_intent: str
    amount: int | None = None
    inquiry: bool = False
    reason: str = "fraudulent"


class Warn(Body):
    payment_intent: str


class Reject(Body):
    code: str
    identifier: str | None = None
    sampled: bool = True


class Lag(Body):
    seconds: Annotated[int, Meta(ge=0, le=30 * DAY)]


# Customers pay


@on("POST checkout/{id}/complete", Complete)
def _complete(account: Account, session_id: str, asked: Complete) -> Obj:
    session = account.world.get("checkout.session", session_id)
    return checkout_pays.complete(
        account.world,
        session,
        asked.payment_method,
        delayed=asked.delayed,
        authentication=asked.authentication,
        promotion_code=asked.promotion_code,
    )


@on("POST checkout/{id}/settle", Settle)
def _settle(account: Account, session_id: str, asked: Settle) -> Obj:
    world = account.world
    session = world.get("checkout.session", session_id)
    intent_id = session["payment_intent"]
    if intent_id is None and session["invoice"] is not None:
        intent_id = world.note(session["invoice"]).get("intent")
    if intent_id is None:
        raise invalid("This session has no payment that could be settled.")
    with world.on_clock(world.clock_of(session)):
        paying.settle(world, world.get("payment_intent", intent_id), asked.outcome)
    return session


@on("POST checkout/{id}/expire")
def _expire(account: Account, session_id: str, _: Nothing) -> Obj:
    session = account.world.get("checkout.session", session_id)
    if session["status"] != "open":
        raise invalid(f"This Checkout Session is {session['status']}.")
    return checkout.expired(account.world, session)


@on("POST payment-intents/{id}/confirm", Confirm)
def _confirm(account: Account, intent_id: str, asked: Confirm) -> Obj:
    world = account.world
    intent = world.get("payment_intent", intent_id)
    with world.on_clock(world.clock_of(intent)):
        method = payment_methods.used(world, asked.payment_method)
        return paying.confirm(world, intent, method)


@on("POST payment-intents/{id}/authenticate", Settle)
def _authenticate(account: Account, intent_id: str, asked: Settle) -> Obj:
    world = account.world
    intent = world.get("payment_intent", intent_id)
    with world.on_clock(world.clock_of(intent)):
        return paying.authenticate(world, intent, asked.outcome)


@on("POST payment-intents/{id}/settle", Settle)
def _settle_intent(account: Account, intent_id: str, asked: Settle) -> Obj:
    world = account.world
    intent = world.get("payment_intent", intent_id)
    with world.on_clock(world.clock_of(intent)):
        return paying.settle(world, intent, asked.outcome)


@on("POST setup-intents/{id}/confirm", Confirm)
def _confirm_setup(account: Account, intent_id: str, asked: Confirm) -> Obj:
    world = account.world
    intent = world.get("setup_intent", intent_id)
    with world.on_clock(world.clock_of(intent)):
        method = payment_methods.used(world, asked.payment_method)
        return setup_intents.save(world, intent, method)


@on("POST setup-intents/{id}/authenticate", Settle)
def _authenticate_setup(account: Account, intent_id: str, asked: Settle) -> Obj:
    world = account.world
    return setup_intents.authenticate(world, world.get("setup_intent", intent_id), asked.outcome)


# People at Stripe, at banks, and in the portal


def _charge_of(account: Account, intent_id: str) -> Obj:
    world = account.world
    intent = world.get("payment_intent", intent_id, param="payment_intent")
    if intent["status"] != "succeeded":
        raise invalid(f"This PaymentIntent is {intent['status']}.", param="payment_intent")
    return world.get("charge", intent["latest_charge"])


@on("POST refunds", Refund)
def _refund(account: Account, asked: Refund) -> Obj:
    charge = _charge_of(account, asked.payment_intent)
    return refunds.refund(
        account.world, charge, asked.amount, status=asked.status, reason=asked.reason
    )


@on("POST refunds/{id}/succeed")
def _refund_succeed(account: Account, refund_id: str, _: Nothing) -> Obj:
    return refunds.succeed(account.world, account.world.get("refund", refund_id))


@on("POST refunds/{id}/fail")
def _refund_fail(account: Account, refund_id: str, _: Nothing) -> Obj:
    return refunds.give_up(account.world, account.world.get("refund", refund_id), "failed")


@on("POST refunds/{id}/cancel")
def _refund_cancel(account: Account, refund_id: str, _: Nothing) -> Obj:
    return refunds.give_up(account.world, account.world.get("refund", refund_id), "canceled")


@on("POST disputes", Dispute)
def _dispute(account: Account, asked: Dispute) -> Obj:
    charge = _charge_of(account, asked.payment_intent)
    return disputes.open_dispute(
        account.world, charge, asked.amount, inquiry=asked.inquiry, reason=asked.reason
    )


@on("POST disputes/{id}/{act}")
def _dispute_act(account: Account, dispute_id: str, act: str, _: Nothing) -> Obj:
    acts = {
        "win": disputes.win,
        "lose": disputes.lose,
        "close_inquiry": disputes.close_inquiry,
        "escalate": disputes.escalate,
    }
    if act not in acts:
        raise unknown_url("POST", f"{PREFIX}disputes/{dispute_id}/{act}")
    return acts[act](account.world, account.world.get("dispute", dispute_id))


@on("POST early-fraud-warnings", Warn)
def _warn(account: Account, asked: Warn) -> Obj:
    return disputes.warn(account.world, _charge_of(account, asked.payment_intent))


@on("POST customers/{id}/payment-method", Confirm)
def _swap(account: Account, customer_id: str, asked: Confirm) -> Obj:
    customer = account.world.used("customer", customer_id, "customer")
    return portal.replace_method(account.world, customer, asked.payment_method)


@on("POST customers/{id}/delete")
def _delete(account: Account, customer_id: str, _: Nothing) -> Obj:
    customer = account.world.used("customer", customer_id, "customer")
    return customers.deleted(account.world, customer)


@on("POST portal/{id}/act", None)
def _portal(account: Account, session_id: str, given: Obj) -> Obj:
    world = account.world
    session = world.get("billing_portal.session", session_id)
    with world.on_clock(world.clock_of(session)):
        return portal.act(world, session, str(given.pop("action", "")), given)


# Metering


@on("POST meters/{id}/reject", Reject)
def _reject(account: Account, event_name: str, asked: Reject) -> Obj:
    if asked.code not in meters.MESSAGES:
        raise invalid(f"code is one of {', '.join(sorted(meters.MESSAGES))}", param="code")
    taken = meter_stream.reject(
        account.world, event_name, asked.identifier, asked.code, asked.sampled
    )
    return {"rejected": taken, "ordered": 1 - taken}


@on("POST meters/{id}/lag", Lag)
def _lag(account: Account, event_name: str, asked: Lag) -> Obj:
    account.world.note("meter lag")[event_name] = asked.seconds
    return {"seconds": asked.seconds}


@on("GET meters/{id}/total")
def _total(account: Account, event_name: str, query: dict[str, str]) -> Obj:
    """Everything that counts, of all time."""
    world = account.world
    meter = meters.meter_of(world, event_name)
    if meter is None:
        raise StripeError(404, f"No meter with the event name {event_name}")
    rows = [
        row
        for row in world.table("billing.meter_event").values()
        if row["meter"] == meter["id"]
        and row["is_counted"]
        and row["customer"] == query.get("customer", row["customer"])
    ]
    owners = dict.fromkeys(row["customer"] for row in rows)
    end = max((row["timestamp"] for row in rows), default=0) + 1
    total = sum(meters.total(world, meter, owner, 0, end) for owner in owners)
    return {"meter": meter["id"], "total": format(total, "f") if rows else "0", "events": len(rows)}
