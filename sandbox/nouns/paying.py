"""What happens to a payment intent: trying a card, 3-D Secure, settling, failing.

Everything that takes money comes through here: checkout, invoices, Elements, off-session top-ups.
"""

from typing import Any, Literal

from sandbox import agenda, cards
from sandbox.calendar import DAY
from sandbox.cards import Means
from sandbox.errors import StripeError, declined, unexpected_state
from sandbox.nouns import charges, payment_methods
from sandbox.shapes import Obj
from sandbox.world import World, copied, pick

CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
Verdict = Literal["pays", "asks", "declines"]


def new_intent(world: World, amount: int, currency: str, **members: Any) -> Obj:
    """An intent that nothing has been tried for; not stored."""
    intent = world.make("payment_intent", "pi")
    for absent in ("hooks", "managed_payments", "presentment_details", "source", "review"):
        intent.pop(absent, None)
    intent.update(
        amount=amount,
        amount_capturable=0,
        amount_details={"tip": {}},
        amount_received=0,
        automatic_payment_methods={"allow_redirects": "always", "enabled": True},
        capture_method="automatic_async",
        client_secret=f"{intent['id']}_secret_{world.secret()}",
        confirmation_method="automatic",
        currency=currency,
        metadata={},
        payment_method_types=["card", "us_bank_account"],
        status="requires_payment_method",
    )
    intent.update({name: value for name, value in members.items() if value is not None})
    if intent["payment_method"] is not None:
        intent["status"] = "requires_confirmation"
    return intent


def verdict(world: World, method: Obj, *, off_session: bool, passed: bool = False) -> Verdict:
    """What a try with this method would come to. `passed`: the customer has authenticated."""
    means = payment_methods.means_of(world, method)
    if means.authentication != "never" and not passed:
        is_known = means.authentication == "unless_set_up" and world.note(method["id"])["is_set_up"]
        if not is_known:
            return "declines" if off_session else "asks"
    return "declines" if means.decline is not None else "pays"


def reason(world: World, method: Obj, *, off_session: bool) -> tuple[str, str | None]:
    """Code and decline code of a try that declines."""
    means = payment_methods.means_of(world, method)
    if means.decline is not None:
        return means.decline
    return "authentication_required", "authentication_required" if off_session else None


def confirm(
    world: World, intent: Obj, method: Obj, *, off_session: bool = False, passed: bool = False
) -> Obj:
    """Try to take the money. Raises StripeError 402 for a decline, 400 in a wrong state."""
    if intent["status"] not in CONFIRMABLE:
        raise unexpected_state("PaymentIntent", intent, "confirm")
    payment_methods.check_usable(method, intent["customer"])
    intent.update(payment_method=method["id"], last_payment_error=None, next_action=None)
    match verdict(world, method, off_session=off_session, passed=passed):
        case "asks":
            return world.move(intent, "requires_action", next_action=_three_d_secure(world, intent))
        case "declines":
            raise _declined(world, intent, method, off_session=off_session)
        case _:
            return _take(world, intent, method)


def _three_d_secure(world: World, intent: Obj) -> Obj:
    url = f"{world.base_url}/3ds/{intent['id']}"
    back = world.note(intent["id"]).get("return_url")
    return {"type": "redirect_to_url", "redirect_to_url": {"return_url": back, "url": url}}


def _declined(world: World, intent: Obj, method: Obj, *, off_session: bool) -> StripeError:
    code, decline_code = reason(world, method, off_session=off_session)
    charge = world.add(charges.made(world, intent, method))
    intent["latest_charge"] = charge["id"]
    charges.fail(world, charge, code, decline_code)
    message = cards.MESSAGES[code]
    _back_to_start(world, intent, method, code, decline_code, message)
    return declined(
        code,
        decline_code,
        message,
        charge=charge["id"],
        payment_intent=copied(intent),
        payment_method=copied(method),
    )


def _back_to_start(
    world: World, intent: Obj, method: Obj, code: str, decline_code: str | None, message: str
) -> None:
    problem = {
        "code": code,
        "decline_code": decline_code,
        "message": message,
        "payment_method": copied(method),
        "type": "card_error" if method["type"] == "card" else "invalid_request_error",
        "charge": intent["latest_charge"],
    }
    problem = {name: value for name, value in problem.items() if value is not None}
    world.move(
        intent,
        "requires_payment_method",
        last_payment_error=problem,
        next_action=None,
        payment_method=None,
        processing=None,
    )


def _take(world: World, intent: Obj, method: Obj) -> Obj:
    charge = world.add(charges.made(world, intent, method))
    intent["latest_charge"] = charge["id"]
    _save(world, intent, method)
    means = payment_methods.means_of(world, method)
    if means.is_delayed or world.note(intent["id"]).pop("is_delayed", False):
        note = world.note(intent["id"])
        note["settles_at"] = world.now + world.settings.delayed_days * DAY
        note["settles"] = means.settles
        world.emit("charge.pending", charge)
        is_card = method["type"] == "card"
        details: Obj | None = {"type": "card", "card": {}} if is_card else None
        return world.move(intent, "processing", processing=details)
    if intent["capture_method"] == "manual":
        charges.succeed(world, charge, is_captured=False)
        return world.move(intent, "requires_capture", amount_capturable=intent["amount"])
    return _succeed(world, intent, charge, means)


def _save(world: World, intent: Obj, method: Obj) -> None:
    """Keep the method for later if that was asked for."""
    if intent["setup_future_usage"] is None or intent["customer"] is None:
        return
    if method["customer"] is None:
        payment_methods.attached(world, method["id"], intent["customer"])
    if intent["setup_future_usage"] == "off_session":
        world.note(method["id"])["is_set_up"] = True


def _succeed(world: World, intent: Obj, charge: Obj, means: Means) -> Obj:
    charges.succeed(world, charge, is_captured=True)
    world.move(
        intent, "succeeded", amount_received=intent["amount"], next_action=None, processing=None
    )
    if means.afterwards:
        world.react(f"standin.{means.afterwards}", charge)
    return intent


def settle(world: World, intent: Obj, outcome: str) -> Obj:
    """A delayed payment has ended. Raises StripeError 400 if none is under way."""
    if intent["status"] != "processing":
        raise unexpected_state("PaymentIntent", intent, "settle")
    note = world.note(intent["id"])
    note.pop("settles_at", None)
    charge = world.get("charge", intent["latest_charge"])
    method = world.get("payment_method", intent["payment_method"])
    if outcome == "succeeded":
        return _succeed(world, intent, charge, payment_methods.means_of(world, method))
    code = "payment_intent_payment_attempt_failed"
    charges.fail(world, charge, code, None)
    _back_to_start(world, intent, method, code, None, "The customer's bank refused the debit.")
    return intent


def _settles_at(world: World, intent: Obj) -> int | None:
    return world.note(intent["id"]).get("settles_at") if intent["status"] == "processing" else None


def _settle_in_time(world: World, intent: Obj) -> None:
    settle(world, intent, world.note(intent["id"]).get("settles", "succeeded"))


agenda.register("payment_intent", _settles_at, _settle_in_time)


def authenticate(world: World, intent: Obj, outcome: str) -> Obj:
    """The customer has answered the bank. A failure leads back to the start, without an error."""
    if intent["status"] != "requires_action":
        raise unexpected_state("PaymentIntent", intent, "authenticate")
    method = world.get("payment_method", intent["payment_method"])
    if outcome == "succeeded":
        intent["status"] = "requires_confirmation"
        try:
            return confirm(world, intent, method, passed=True)
        except StripeError:
            return intent
    code = "payment_intent_authentication_failure"
    _back_to_start(world, intent, method, code, None, cards.MESSAGES[code])
    return intent


def cancel(world: World, intent: Obj, why: str | None = None) -> Obj:
    """End an intent that is not paid. Raises StripeError 400."""
    if intent["status"] in ("succeeded", "canceled", "processing"):
        raise unexpected_state("PaymentIntent", intent, "cancel")
    if intent["status"] == "requires_capture":
        charge = world.get("charge", intent["latest_charge"])
        charge.update(amount_refunded=charge["amount"], refunded=True)
        world.emit("charge.expired", charge)
    return world.move(
        intent,
        "canceled",
        amount_capturable=0,
        canceled_at=world.now,
        cancellation_reason=why,
        next_action=None,
    )


def capture(world: World, intent: Obj, amount: int) -> Obj:
    """Take what was authorised, or a part of it."""
    charge = world.get("charge", intent["latest_charge"])
    charges.capture(world, charge, amount)
    return world.move(intent, "succeeded", amount_capturable=0, amount_received=amount)


def error_without_charge(problem: StripeError) -> Obj:
    """The members of a decline that a message needs."""
    return pick(problem.members, "code", "decline_code", "message", "type")
