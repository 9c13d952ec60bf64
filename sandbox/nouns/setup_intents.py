"""Setup intents: saving a card without paying."""

from sandbox import cards
from sandbox.errors import declined, invalid, unexpected_state
from sandbox.lists import Readable, readable
from sandbox.nouns import payment_methods
from sandbox.nouns.payment_intents import kinds_of
from sandbox.routing import Call, route
from sandbox.shapes import Obj
from sandbox.world import World, copied, merged_metadata, pick

readable(Readable("setup_intent", "/v1/setup_intents", "intent"))

CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")


def new_intent(world: World, customer: str | None, **members: object) -> Obj:
    """An intent to save a card; not stored."""
    intent = world.make("setup_intent", "seti")
    for absent in ("managed_payments", "attach_to_self", "flow_directions"):
        intent.pop(absent, None)
    intent.update(
        automatic_payment_methods={"allow_redirects": "always", "enabled": True},
        client_secret=f"{intent['id']}_secret_{world.secret()}",
        customer=customer,
        metadata={},
        payment_method_types=["card", "us_bank_account"],
        status="requires_payment_method",
        usage="off_session",
    )
    intent.update({name: value for name, value in members.items() if value is not None})
    if intent["payment_method"] is not None:
        intent["status"] = "requires_confirmation"
    return intent


@route("POST /v1/setup_intents")
def create(world: World, call: Call) -> Obj:
    """An intent to save a card, tried at once with `confirm`."""
    given = call.params
    if (customer := given.get("customer")) is not None:
        world.used("customer", customer, "customer")
    method = None
    if "payment_method" in given:
        method = payment_methods.used(world, given["payment_method"])
        payment_methods.check_usable(method, customer)
    intent = new_intent(
        world,
        customer,
        description=given.get("description"),
        metadata=merged_metadata(None, given),
        payment_method=None if method is None else method["id"],
        payment_method_types=kinds_of(given),
        usage=given.get("usage"),
    )
    world.add(intent, "setup_intent.created")
    return _confirmed(world, intent, given) if given.get("confirm") else intent


@route("POST /v1/setup_intents/{intent}")
def update(world: World, call: Call) -> Obj:
    intent, given = world.get("setup_intent", call.id), call.params
    metadata = merged_metadata(intent["metadata"], given)
    changes = pick(given, "description", "customer")
    if "payment_method" in given:
        method = payment_methods.used(world, given["payment_method"])
        changes.update(payment_method=method["id"], status="requires_confirmation")
    return world.change(intent, metadata=metadata, **changes)


@route("POST /v1/setup_intents/{intent}/confirm")
def confirm(world: World, call: Call) -> Obj:
    return _confirmed(world, world.get("setup_intent", call.id), call.params)


def _confirmed(world: World, intent: Obj, given: Obj) -> Obj:
    name = given.get("payment_method", intent["payment_method"])
    if name is None:
        raise invalid(
            "You cannot confirm this SetupIntent because it's missing a payment method.",
            code="setup_intent_unexpected_state",
            param="payment_method",
        )
    return save(world, intent, payment_methods.used(world, name))


def save(world: World, intent: Obj, method: Obj, *, passed: bool = False) -> Obj:
    """Save the method for later. Raises StripeError 402 for a decline, 400 in a wrong state."""
    if intent["status"] not in CONFIRMABLE:
        raise unexpected_state("SetupIntent", intent, "confirm")
    payment_methods.check_usable(method, intent["customer"])
    intent.update(payment_method=method["id"], last_setup_error=None, next_action=None)
    means = payment_methods.means_of(world, method)
    if means.authentication != "never" and not passed:
        url = f"{world.base_url}/3ds/{intent['id']}"
        action = {"type": "redirect_to_url", "redirect_to_url": {"return_url": None, "url": url}}
        return world.move(intent, "requires_action", next_action=action)
    if means.decline is not None and means.refuses_attach:
        code, decline_code = means.decline
        problem = declined(code, decline_code, cards.MESSAGES[code])
        _back_to_start(world, intent, problem.members)
        problem.members.update(setup_intent=copied(intent), payment_method=copied(method))
        raise problem
    if intent["customer"] is not None and method["customer"] is None:
        payment_methods.attached(world, method["id"], intent["customer"])
    world.note(method["id"])["is_set_up"] = intent["usage"] == "off_session"
    return world.move(intent, "succeeded", next_action=None)


def authenticate(world: World, intent: Obj, outcome: str) -> Obj:
    """The customer has answered the bank."""
    if intent["status"] != "requires_action":
        raise unexpected_state("SetupIntent", intent, "authenticate")
    if outcome == "succeeded":
        return save(
            world, intent, world.get("payment_method", intent["payment_method"]), passed=True
        )
    code = "setup_intent_authentication_failure"
    problem: Obj = {"code": code, "message": cards.MESSAGES[code], "type": "invalid_request_error"}
    _back_to_start(world, intent, problem)
    return intent


def _back_to_start(world: World, intent: Obj, problem: Obj) -> None:
    members = pick(problem, "code", "decline_code", "doc_url", "message", "type")
    world.move(
        intent,
        "requires_payment_method",
        last_setup_error=members,
        next_action=None,
        payment_method=None,
    )


@route("POST /v1/setup_intents/{intent}/cancel")
def cancel(world: World, call: Call) -> Obj:
    intent = world.get("setup_intent", call.id)
    if intent["status"] not in CONFIRMABLE:
        raise unexpected_state("SetupIntent", intent, "cancel")
    why = call.params.get("cancellation_reason")
    return world.move(intent, "canceled", cancellation_reason=why, next_action=None)
