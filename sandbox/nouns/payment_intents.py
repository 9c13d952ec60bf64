"""Payment intents: what Elements and off-session payments use."""

from typing import Any

from sandbox.errors import invalid, unexpected_state
from sandbox.lists import Readable, readable
from sandbox.money import check_amount, check_currency
from sandbox.nouns import paying, payment_methods
from sandbox.routing import Call, route
from sandbox.shapes import Obj
from sandbox.world import World, merged_metadata, pick

PLAIN = (
    *("description", "receipt_email", "setup_future_usage", "shipping", "statement_descriptor"),
    *("statement_descriptor_suffix", "transfer_group"),
)
TYPES = ("card", "us_bank_account")

readable(Readable("payment_intent", "/v1/payment_intents", "intent"))


def kinds_of(given: Obj) -> list[str]:
    """The types that are left of those this stand-in has. Raises StripeError 400."""
    allowed = given.get("allowed_payment_method_types")
    excluded = given.get("excluded_payment_method_types")
    if allowed is not None and (excluded or "automatic_payment_methods" in given):
        raise invalid(
            "allowed_payment_method_types cannot be combined with other ways to choose methods.",
            param="allowed_payment_method_types",
            code="parameters_exclusive",
        )
    kinds = [kind for kind in TYPES if allowed is None or kind in allowed]
    return [kind for kind in kinds if kind not in (excluded or [])] or ["card"]


@route("POST /v1/payment_intents")
def create(world: World, call: Call) -> Obj:
    """An intent, tried at once with `confirm`."""
    given = call.params
    currency = check_currency(given["currency"])
    check_amount(given["amount"], currency)
    if given.get("off_session") and not given.get("confirm"):
        raise invalid("`off_session` can only be used with `confirm=true`.", param="off_session")
    if (customer := given.get("customer")) is not None:
        world.used("customer", customer, "customer")
    method = _method(world, given)
    if method is not None:
        payment_methods.check_usable(method, customer)
    intent = paying.new_intent(
        world,
        given["amount"],
        currency,
        customer=customer,
        capture_method=given.get("capture_method"),
        confirmation_method=given.get("confirmation_method"),
        metadata=merged_metadata(None, given),
        payment_method=None if method is None else method["id"],
        payment_method_types=kinds_of(given),
        **pick(given, *PLAIN),
    )
    if "automatic_payment_methods" not in given and "allowed_payment_method_types" in given:
        intent["automatic_payment_methods"] = None
    world.add(intent, "payment_intent.created")
    return _confirmed(world, intent, given) if given.get("confirm") else intent


def _method(world: World, given: Obj) -> Obj | None:
    if "payment_method" in given:
        return payment_methods.used(world, given["payment_method"])
    if (data := given.get("payment_method_data")) is not None:
        is_bank = data["type"] == "us_bank_account"
        return payment_methods.made(
            world, "pm_usBankAccount_success" if is_bank else "pm_card_visa"
        )
    return None


def _confirmed(world: World, intent: Obj, given: Obj) -> Obj:
    method = _method(world, given)
    if method is None:
        if intent["payment_method"] is None:
            raise invalid(
                "You cannot confirm this PaymentIntent because it's missing a payment method.",
                code="payment_intent_unexpected_state",
                param="payment_method",
            )
        method = world.get("payment_method", intent["payment_method"])
    world.note(intent["id"])["return_url"] = given.get("return_url")
    asks = paying.verdict(world, method, off_session=bool(given.get("off_session"))) == "asks"
    if given.get("error_on_requires_action") and asks:
        raise invalid("This payment needs authentication.", code="authentication_required")
    return paying.confirm(world, intent, method, off_session=bool(given.get("off_session")))


@route("POST /v1/payment_intents/{intent}")
def update(world: World, call: Call) -> Obj:
    """What can still change before an intent is paid; metadata always."""
    intent, given = world.get("payment_intent", call.id), call.params
    if intent["status"] not in paying.CONFIRMABLE and given.keys() - {"metadata", "expand"}:
        raise unexpected_state("PaymentIntent", intent, "update")
    currency = check_currency(given.get("currency", intent["currency"]))
    if "amount" in given:
        check_amount(given["amount"], currency)
    changes: dict[str, Any] = pick(given, *PLAIN, "amount", "customer")
    changes["currency"] = currency
    if (method := _method(world, given)) is not None:
        payment_methods.check_usable(method, given.get("customer", intent["customer"]))
        changes.update(payment_method=method["id"], status="requires_confirmation")
    changes["metadata"] = merged_metadata(intent["metadata"], given)
    return world.change(intent, **changes)


@route("POST /v1/payment_intents/{intent}/confirm")
def confirm(world: World, call: Call) -> Obj:
    intent, given = world.get("payment_intent", call.id), call.params
    if intent["status"] not in paying.CONFIRMABLE:
        raise unexpected_state("PaymentIntent", intent, "confirm")
    intent.update(pick(given, "setup_future_usage", "receipt_email", "shipping"))
    return _confirmed(world, intent, given)


@route("POST /v1/payment_intents/{intent}/capture")
def capture(world: World, call: Call) -> Obj:
    intent, given = world.get("payment_intent", call.id), call.params
    if intent["status"] != "requires_capture":
        raise unexpected_state("PaymentIntent", intent, "capture")
    amount = given.get("amount_to_capture", intent["amount_capturable"])
    if not 1 <= amount <= intent["amount_capturable"]:
        message = "The amount could not be captured because it is greater than the authorised one."
        raise invalid(message, param="amount_to_capture", code="amount_too_large")
    return paying.capture(world, intent, amount)


@route("POST /v1/payment_intents/{intent}/cancel")
def cancel(world: World, call: Call) -> Obj:
    intent = world.get("payment_intent", call.id)
    return paying.cancel(world, intent, call.params.get("cancellation_reason"))
