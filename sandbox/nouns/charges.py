"""Charges, and the entries that they and what follows them make in the account's balance."""

from typing import Any

from sandbox.calendar import DAY
from sandbox.cards import MESSAGES
from sandbox.expand import included
from sandbox.lists import Readable, is_inside, readable
from sandbox.money import fee
from sandbox.nouns import payment_methods
from sandbox.routing import Call, route
from sandbox.shapes import Obj
from sandbox.world import World, copied, listed, merged_metadata, pick

AVAILABLE_DAYS = 2


def _with_status(world: World, entry: Obj) -> Obj:
    status = "available" if entry["available_on"] <= world.now else "pending"
    return {**entry, "status": status}


readable(Readable("charge", "/v1/charges", "charge"))
readable(
    Readable(
        "balance_transaction",
        "/v1/balance_transactions",
        "id",
        filters={"created": lambda _, entry, bounds: is_inside(entry["created"], bounds)},
        view=_with_status,
    )
)


def entry(world: World, kind: str, amount: int, currency: str, *, cost: int, source: str) -> Obj:
    """Move money on the account's balance; `cost` is the fee."""
    category = {
        "payment": "charge",
        "charge": "charge",
        "refund": "refund",
        "refund_failure": "refund_failure",
        "adjustment": "dispute" if amount < 0 else "dispute_reversal",
    }[kind]
    details: list[Obj] = []
    if cost:
        words = "Dispute fee" if category == "dispute" else "Stripe processing fees"
        details = [
            {
                "amount": cost,
                "application": None,
                "currency": currency,
                "description": words,
                "type": "stripe_fee",
            }
        ]
    made = world.make("balance_transaction", "txn")
    made.update(
        amount=amount,
        available_on=world.now + AVAILABLE_DAYS * DAY,
        balance_type="payments",
        currency=currency,
        fee=cost,
        fee_details=details,
        net=amount - cost,
        reporting_category=category,
        source=source,
        status="pending",
        type=kind,
    )
    return world.store(made)


def made(world: World, intent: Obj, method: Obj) -> Obj:
    """A charge of a payment intent that has no outcome yet; not stored."""
    charge = world.make("charge", "ch" if method["type"] == "card" else "py")
    for absent in ("fraud_details", "level3", "presentment_details", "authorization_code"):
        charge.pop(absent, None)
    details: Obj = {"type": method["type"]}
    if method["type"] == "card":
        card = method["card"]
        details["card"] = {
            **pick(card, "brand", "country", "exp_month", "exp_year", "fingerprint", "funding"),
            "last4": card["last4"],
            "network": card["brand"],
            "checks": copied(card["checks"]),
            "three_d_secure": None,
            "wallet": None,
        }
    charge.update(
        amount=intent["amount"],
        amount_captured=0,
        amount_refunded=0,
        billing_details=copied(method["billing_details"]),
        captured=False,
        currency=intent["currency"],
        customer=intent["customer"],
        description=intent["description"],
        disputed=False,
        metadata=copied(intent["metadata"]),
        outcome=None,
        paid=False,
        payment_intent=intent["id"],
        payment_method=method["id"],
        payment_method_details=details,
        receipt_email=intent["receipt_email"],
        receipt_url=f"{world.base_url}/receipt/{charge['id']}",
        refunded=False,
        status="pending",
        calculated_statement_descriptor="STAND-IN",
    )
    return charge


def succeed(world: World, charge: Obj, *, is_captured: bool) -> Obj:
    """The money has come, or is authorised."""
    outcome = {
        "advice_code": None,
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": "approved_by_network",
        "reason": None,
        "risk_level": "normal",
        "risk_score": 12,
        "seller_message": "Payment complete.",
        "type": "authorized",
    }
    if is_captured:
        _book(world, charge, charge["amount"])
    return world.move(charge, "succeeded", outcome=outcome, paid=True)


def _book(world: World, charge: Obj, amount: int) -> None:
    kind = "charge" if charge["id"].startswith("ch_") else "payment"
    booked = entry(world, kind, amount, charge["currency"], cost=fee(amount), source=charge["id"])
    charge.update(amount_captured=amount, balance_transaction=booked["id"], captured=True)


def capture(world: World, charge: Obj, amount: int) -> Obj:
    """Take an authorised amount, or less; the rest counts as refunded."""
    _book(world, charge, amount)
    charge["amount_refunded"] = charge["amount"] - amount
    world.emit("charge.captured", charge)
    return charge


def fail(world: World, charge: Obj, code: str, decline_code: str | None) -> Obj:
    """The card has declined, or the bank."""
    is_blocked = decline_code == "fraudulent"
    outcome = {
        "advice_code": None,
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": "not_sent_to_network" if is_blocked else "declined_by_network",
        "reason": decline_code or code,
        "risk_level": "highest" if is_blocked else "normal",
        "risk_score": 90 if is_blocked else 12,
        "seller_message": "The bank did not return any further details with this decline.",
        "type": "blocked" if is_blocked else "issuer_declined",
    }
    return world.move(
        charge,
        "failed",
        failure_code=code,
        failure_message=MESSAGES.get(code, "The payment failed."),
        outcome=outcome,
    )


@included("charge", "refunds")
def refunds_of(world: World, charge: Obj) -> Obj:
    rows = world.every("refund", charge=charge["id"])
    return listed(rows[::-1], f"/v1/charges/{charge['id']}/refunds")


@route("POST /v1/charges/{charge}")
def update(world: World, call: Call) -> Obj:
    charge, given = world.get("charge", call.id), call.params
    return world.change(
        charge,
        "charge.updated",
        **pick(given, "customer", "description", "receipt_email", "shipping", "transfer_group"),
        metadata=merged_metadata(charge["metadata"], given),
    )


@route("GET /v1/balance")
def balance(world: World, call: Call) -> Obj:
    """What the account has, and what is on its way to it."""
    sums: dict[str, dict[str, int]] = {"available": {}, "pending": {}}
    for one in world.every("balance_transaction"):
        part = sums[_with_status(world, one)["status"]]
        part[one["currency"]] = part.get(one["currency"], 0) + one["net"]

    def rows(part: str) -> list[dict[str, Any]]:
        return [
            {"amount": amount, "currency": currency, "source_types": {"card": amount}}
            for currency, amount in sorted((sums[part] or {"usd": 0}).items())
        ]

    return {
        "object": "balance",
        "available": rows("available"),
        "livemode": False,
        "pending": rows("pending"),
    }


def means_of(world: World, charge: Obj) -> Any:
    """How the test card of a charge behaves."""
    return payment_methods.means_of(world, world.get("payment_method", charge["payment_method"]))
