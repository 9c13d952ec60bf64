"""Customers and their balance."""

from sandbox.errors import invalid, missing
from sandbox.expand import included
from sandbox.lists import Readable, is_inside, page, readable
from sandbox.money import check_currency
from sandbox.nouns import payment_methods
from sandbox.routing import Call, route
from sandbox.shapes import Obj
from sandbox.world import World, listed, merged_metadata, pick

PLAIN = (
    *("address", "business_name", "description", "email", "individual_name", "invoice_prefix"),
    *("name", "next_invoice_sequence", "phone", "preferred_locales", "shipping", "tax_exempt"),
)

readable(
    Readable(
        "customer", "/v1/customers", filters={"created": lambda _, c, v: is_inside(c["created"], v)}
    )
)


@route("POST /v1/customers")
def create(world: World, call: Call) -> Obj:
    """A customer; with a payment method, if one is named, saved for it."""
    given = call.params
    if (clock := given.get("test_clock")) is not None:
        world.used("test_helpers.test_clock", clock, "test_clock")
    customer = made(
        world,
        **pick(given, *PLAIN),
        balance=given.get("balance", 0),
        metadata=merged_metadata(None, given),
        test_clock=clock,
    )
    with world.on_clock(clock):
        customer["created"] = world.now
        chosen = given.get("invoice_settings", {}).get("default_payment_method")
        if chosen != given.get("payment_method"):
            _settings(world, customer, given)
        world.add(customer, "customer.created")
        if (method := given.get("payment_method")) is not None:
            saved = payment_methods.attached(world, method, customer["id"])
            if chosen == method:
                customer["invoice_settings"]["default_payment_method"] = saved["id"]
    return customer


def made(world: World, **members: object) -> Obj:
    """A customer that is not stored yet."""
    customer = world.make("customer", "cus")
    customer.update(
        balance=0,
        delinquent=False,
        invoice_prefix=world.secret(8).upper(),
        invoice_settings={
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        metadata={},
        next_invoice_sequence=1,
        preferred_locales=[],
        tax_exempt="none",
    )
    for absent in ("tax", "cash_balance", "customer_account"):
        customer.pop(absent, None)
    customer.update({name: value for name, value in members.items() if value is not None})
    return customer


def live(world: World, customer_id: str, param: str = "customer") -> Obj:
    """A customer that a request names. Raises StripeError 400."""
    return world.used("customer", customer_id, param)


def _settings(world: World, customer: Obj, given: Obj) -> None:
    change: Obj = given.get("invoice_settings", {})
    settings = {**customer["invoice_settings"]}
    settings.update(pick(change, "custom_fields", "footer", "default_payment_method"))
    if (method := settings["default_payment_method"]) is not None:
        owner = world.used("payment_method", method, "invoice_settings[default_payment_method]")[
            "customer"
        ]
        if owner != customer["id"]:
            raise invalid(
                "The customer does not have a payment method with the ID " + method + ". "
                "The payment method must be attached to the customer.",
                param="invoice_settings[default_payment_method]",
                code="resource_missing",
            )
    customer["invoice_settings"] = settings


@route("GET /v1/customers/{customer}")
def retrieve(world: World, call: Call) -> Obj:
    return world.get("customer", call.id, param="id")


@route("POST /v1/customers/{customer}")
def update(world: World, call: Call) -> Obj:
    customer, given = _not_deleted(world, call.id), call.params
    changed = {**customer, **pick(given, *PLAIN, "balance")}
    changed["metadata"] = merged_metadata(customer["metadata"], given)
    _settings(world, changed, given)
    return world.change(customer, "customer.updated", **changed)


@route("DELETE /v1/customers/{customer}")
def delete(world: World, call: Call) -> Obj:
    return deleted(world, _not_deleted(world, call.id))


def deleted(world: World, customer: Obj) -> Obj:
    """End a customer and what it subscribed to; only its id is left."""
    world.emit("customer.deleted", customer)
    gone = {"id": customer["id"], "object": "customer", "deleted": True}
    world.store(dict(gone))
    return gone


def _not_deleted(world: World, customer_id: str) -> Obj:
    customer = world.get("customer", customer_id)
    if customer.get("deleted"):
        raise missing("customer", customer_id)
    return customer


@included("customer", "subscriptions")
def subscriptions_of(world: World, customer: Obj) -> Obj:
    rows = [
        sub
        for sub in reversed(world.every("subscription", customer=customer["id"]))
        if sub["status"] not in ("canceled", "incomplete_expired")
    ]
    return listed(rows, f"/v1/customers/{customer['id']}/subscriptions")


# The balance: what a customer owes us is positive


def move_balance(world: World, customer: Obj, amount: int, currency: str, **members: object) -> Obj:
    """Change what a customer owes; a negative amount is credit."""
    ending = customer["balance"] + amount
    entry = world.make("customer_balance_transaction", "cbtxn")
    entry.update(
        amount=amount,
        currency=currency,
        customer=customer["id"],
        ending_balance=ending,
        metadata={},
        type="adjustment",
    )
    entry.update(members)
    world.store(entry)
    world.change(customer, "customer.updated", balance=ending, currency=currency)
    return entry


@route("POST /v1/customers/{customer}/balance_transactions")
def adjust_balance(world: World, call: Call) -> Obj:
    """Give credit (negative) or take it away."""
    customer, given = _not_deleted(world, call.id), call.params
    currency = check_currency(given["currency"])
    if customer["currency"] not in (None, currency):
        raise invalid(f"The customer's currency is {customer['currency']}.", param="currency")
    return move_balance(
        world,
        customer,
        given["amount"],
        currency,
        description=given.get("description"),
        metadata=merged_metadata(None, given),
    )


@route("GET /v1/customers/{customer}/balance_transactions")
def list_balance(world: World, call: Call) -> Obj:
    wanted = {name: call.params[name] for name in ("invoice",) if name in call.params}
    rows = world.every(
        "customer_balance_transaction", customer=_not_deleted(world, call.id)["id"], **wanted
    )
    return page(call, rows[::-1])
