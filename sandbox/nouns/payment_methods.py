"""Saved cards and bank accounts."""

from datetime import UTC, datetime
from typing import Any

from sandbox import cards
from sandbox.cards import MEANS, Means
from sandbox.errors import declined, invalid
from sandbox.lists import Readable, page, readable
from sandbox.routing import Call, route
from sandbox.shapes import Obj
from sandbox.world import World, copied, merged_metadata, pick

readable(Readable("payment_method", "/v1/payment_methods", "payment_method"))


def made(world: World, name: str, *, param: str = "payment_method") -> Obj:
    """A fresh method like the test method of this name; stored. Raises StripeError 400."""
    means = MEANS.get(name)
    if means is None:
        message = f"No such PaymentMethod: '{name}'"
        raise invalid(message, param=param, code="resource_missing")
    method = world.make("payment_method", "pm")
    for absent in ("customer_balance", "link", "sepa_debit", "us_bank_account", "card"):
        method.pop(absent, None)
    year = datetime.fromtimestamp(world.now, UTC).year + 4
    method.update(
        allow_redisplay="unspecified",
        billing_details={
            "address": {
                name: None for name in ("city", "country", "line1", "line2", "postal_code", "state")
            },
            "email": None,
            "name": None,
            "phone": None,
            "tax_id": None,
        },
        metadata={},
        radar_options={},
        type=means.kind,
        **{means.kind: means.details(exp_year=year)},
    )
    world.note(method["id"]).update(means=name, is_set_up=False)
    return world.store(method)


def used(world: World, name: str, *, param: str = "payment_method") -> Obj:
    """The method of this id, or a fresh one for the name of a test method."""
    if name in MEANS:
        return made(world, name, param=param)
    method = world.table("payment_method").get(name)
    if method is None:
        message = f"No such PaymentMethod: '{name}'"
        raise invalid(message, param=param, code="resource_missing")
    return method


def means_of(world: World, method: Obj) -> Means:
    return MEANS[world.note(method["id"])["means"]]


def check_usable(method: Obj, customer: str | None) -> None:
    """Raises StripeError 400 if the method belongs to somebody else."""
    if method["customer"] is not None and method["customer"] != customer:
        raise invalid(
            "The payment method you provided is attached to a customer. Please include the "
            "customer in your request.",
            param="payment_method",
        )


def attached(world: World, name: str, customer: str) -> Obj:
    """Save a method for a customer. Raises StripeError 402 for a card that declines, 400."""
    method = used(world, name)
    if method["customer"] == customer:
        return method
    if method["customer"] is not None or world.note(method["id"]).get("is_detached"):
        raise invalid(
            "The payment method you provided has already been attached to a customer.",
            param="payment_method",
            code="payment_method_unexpected_state",
        )
    means = means_of(world, method)
    if means.decline is not None and means.refuses_attach:
        code, decline_code = means.decline
        raise declined(code, decline_code, cards.MESSAGES[code])
    return world.change(method, "payment_method.attached", customer=customer)


@route("POST /v1/payment_methods")
def create(world: World, call: Call) -> Obj:
    """A copy of another method, or a card that works."""
    given = call.params
    if "payment_method" in given:
        source = used(world, given["payment_method"])
        return made(world, world.note(source["id"])["means"])
    names = {"card": "pm_card_visa", "us_bank_account": "pm_usBankAccount_success"}
    kind = given.get("type")
    if kind not in names:
        raise invalid(
            "Raw card data is never sent to the stand-in: `type` is card or us_bank_account.",
            param="type",
        )
    method = made(world, names[kind])
    if "billing_details" in given:
        method["billing_details"].update(_details(given["billing_details"]))
    method["metadata"] = merged_metadata(None, given)
    return method


def _details(given: Obj) -> Obj:
    return pick(given, "address", "email", "name", "phone", "tax_id")


@route("POST /v1/payment_methods/{payment_method}")
def update(world: World, call: Call) -> Obj:
    method, given = used(world, call.id), call.params
    details = copied(method["billing_details"])
    details.update(_details(given.get("billing_details", {})))
    metadata = merged_metadata(method["metadata"], given)
    changes: dict[str, Any] = {"billing_details": details, "metadata": metadata}
    if (card := given.get("card")) is not None and method.get("card"):
        changes["card"] = {**method["card"], **pick(card, "exp_month", "exp_year")}
    return world.change(
        method, "payment_method.updated", **changes, **pick(given, "allow_redisplay")
    )


@route("POST /v1/payment_methods/{payment_method}/attach")
def attach(world: World, call: Call) -> Obj:
    if "customer" not in call.params:
        raise invalid(
            "Missing required param: customer.", param="customer", code="parameter_missing"
        )
    customer = world.used("customer", call.params["customer"], "customer")
    return attached(world, call.id, customer["id"])


@route("POST /v1/payment_methods/{payment_method}/detach")
def detach(world: World, call: Call) -> Obj:
    method = used(world, call.id)
    if method["customer"] is None:
        message = "The payment method you provided is not attached to a customer so detachment is "
        raise invalid(message + "impossible.", code="payment_method_unexpected_state")
    return detached(world, method)


def detached(world: World, method: Obj) -> Obj:
    """Take a method from its customer, who loses it as default; it can never be attached again."""
    customer = world.table("customer").get(method["customer"])
    if customer is not None and not customer.get("deleted"):
        settings = customer["invoice_settings"]
        if settings["default_payment_method"] == method["id"]:
            settings = {**settings, "default_payment_method": None}
            world.change(customer, "customer.updated", invoice_settings=settings)
    for sub in world.every("subscription", default_payment_method=method["id"]):
        world.change(sub, "customer.subscription.updated", default_payment_method=None)
    world.note(method["id"])["is_detached"] = True
    return world.change(method, "payment_method.detached", customer=None)


@route("GET /v1/customers/{customer}/payment_methods")
def list_of_customer(world: World, call: Call) -> Obj:
    world.get("customer", call.ids["customer"])
    rows = world.every("payment_method", customer=call.ids["customer"])
    if "type" in call.params:
        rows = [row for row in rows if row["type"] == call.params["type"]]
    return page(call, rows[::-1])


@route("GET /v1/customers/{customer}/payment_methods/{payment_method}")
def retrieve_of_customer(world: World, call: Call) -> Obj:
    method = world.get("payment_method", call.id)
    if method["customer"] != call.ids["customer"]:
        message = f"The customer has no payment method {call.id}."
        raise invalid(message, param="payment_method", code="resource_missing")
    return method
