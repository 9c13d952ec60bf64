"""Refunds, and what becomes of them."""

from sandbox import agenda
from sandbox.calendar import DAY
from sandbox.errors import StripeError, invalid
from sandbox.lists import Readable, readable
from sandbox.nouns import charges
from sandbox.routing import Call, route
from sandbox.shapes import Obj
from sandbox.world import World, merged_metadata, pick

readable(Readable("refund", "/v1/refunds", "refund"))


@route("POST /v1/refunds")
def create(world: World, call: Call) -> Obj:
    given = call.params
    charge = _charge_of(world, given)
    return refund(
        world,
        charge,
        given.get("amount"),
        metadata=merged_metadata(None, given),
        **pick(given, "reason", "instructions_email"),
    )


def _charge_of(world: World, given: Obj) -> Obj:
    if "charge" in given:
        return world.used("charge", given["charge"], "charge")
    if "payment_intent" not in given:
        raise invalid(
            "One of the following params should be provided for this request: payment_intent or "
            "charge.",
            code="parameter_missing",
        )
    intent = world.used("payment_intent", given["payment_intent"], "payment_intent")
    if intent["status"] != "succeeded":
        message = (
            f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund."
        )
        raise invalid(message, param="payment_intent")
    return world.get("charge", intent["latest_charge"])


def refund(
    world: World, charge: Obj, amount: int | None, *, status: str | None = None, **members: object
) -> Obj:
    """Give money back. Without a status, the test card says how it goes.

    Raises StripeError 400 for more than is left and for a charge that a dispute has taken.
    """
    left = charge["amount_captured"] - charge["amount_refunded"]
    amount = int(left if amount is None else amount)
    _check(world, charge, amount, left)
    means = charges.means_of(world, charge)
    if status is None:
        waits = means.refund == "waits" or means.is_delayed
        status = "pending" if waits else "succeeded"
    made = world.make("refund", "re")
    for absent in ("presentment_details", "customer_account", "instructions_email"):
        made.pop(absent, None)
    made.update(
        amount=amount,
        charge=charge["id"],
        currency=charge["currency"],
        customer=charge["customer"],
        destination_details={"type": "card", "card": {"type": "pending"}},
        metadata={},
        payment_intent=charge["payment_intent"],
        payment_method=charge["payment_method"],
        status=status,
    )
    if means.is_delayed:
        made["destination_details"] = {"type": "us_bank_account"}
    made.update(members)
    booked = charges.entry(world, "refund", -amount, charge["currency"], cost=0, source=made["id"])
    made["balance_transaction"] = booked["id"]
    if means.refund != "succeeds" or (status == "pending" and means.is_delayed):
        world.note(made["id"])["goes_on_at"] = world.now + world.settings.refund_days * DAY
    world.add(made, "refund.created")
    _count(world, charge, amount)
    world.emit("charge.refunded", charge)
    return made


def _check(world: World, charge: Obj, amount: int, left: int) -> None:
    taken = [one for one in world.every("dispute", charge=charge["id"]) if _has_taken(one)]
    if taken:
        message = f"Charge {charge['id']} has been charged back; cannot issue a refund."
        raise invalid(message, code="charge_disputed")
    if charge["status"] != "succeeded" or not charge["captured"]:
        raise invalid(f"Charge {charge['id']} has not been captured and cannot be refunded.")
    if charge["refunded"] or left == 0:
        message = f"Charge {charge['id']} has already been refunded."
        raise invalid(message, code="charge_already_refunded")
    if not 1 <= amount <= left:
        message = (
            f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})."
            if amount > 0
            else "Invalid positive integer"
        )
        raise invalid(message, param="amount")


def _has_taken(dispute: Obj) -> bool:
    return dispute["status"] in ("needs_response", "under_review", "lost")


def _count(world: World, charge: Obj, amount: int) -> None:
    total = charge["amount_refunded"] + amount
    world.change(charge, amount_refunded=total, refunded=total == charge["amount"])


def succeed(world: World, made: Obj) -> Obj:
    """The money has arrived."""
    _check_open(made, "succeeded", "pending", "requires_action")
    return world.move(made, "succeeded", pending_reason=None)


def give_up(
    world: World, made: Obj, status: str, reason: str | None = "expired_or_canceled_card"
) -> Obj:
    """A refund that fails or is canceled: the money is back on our balance."""
    _check_open(made, status, "pending", "requires_action", *(["succeeded"] * (status == "failed")))
    back = charges.entry(
        world, "refund_failure", made["amount"], made["currency"], cost=0, source=made["id"]
    )
    charge = world.get("charge", made["charge"])
    _count(world, charge, -made["amount"])
    world.emit("charge.updated", charge)
    members: Obj = {"failure_balance_transaction": back["id"]}
    if status == "failed":
        members["failure_reason"] = reason
    return world.move(made, status, **members)


def _check_open(made: Obj, new: str, *allowed: str) -> None:
    if made["status"] not in allowed:
        message = f"A refund with status {made['status']} cannot become {new}."
        raise StripeError(400, message, code="refund_unexpected_state")


@route("POST /v1/refunds/{refund}")
def update(world: World, call: Call) -> Obj:
    made = world.get("refund", call.id)
    metadata = merged_metadata(made["metadata"], call.params)
    return world.change(made, "refund.updated", metadata=metadata)


@route("POST /v1/refunds/{refund}/cancel")
def cancel(world: World, call: Call) -> Obj:
    made = world.get("refund", call.id)
    if made["status"] != "requires_action":
        raise invalid("Only refunds that require action can be canceled.")
    return give_up(world, made, "canceled")


@route("POST /v1/test_helpers/refunds/{refund}/expire")
def expire(world: World, call: Call) -> Obj:
    made = world.get("refund", call.id)
    if made["status"] != "requires_action":
        raise invalid("Only refunds that require action can expire.")
    return give_up(world, made, "failed", "unknown")


def _goes_on_at(world: World, made: Obj) -> int | None:
    return world.note(made["id"]).get("goes_on_at")


def _go_on(world: World, made: Obj) -> None:
    """What a test card for refunds does after a day."""
    world.note(made["id"]).pop("goes_on_at")
    means = charges.means_of(world, world.get("charge", made["charge"]))
    if means.refund == "fails" and made["status"] in ("pending", "succeeded"):
        give_up(world, made, "failed")
    elif made["status"] == "pending":
        succeed(world, made)


agenda.register("refund", _goes_on_at, _go_on)
