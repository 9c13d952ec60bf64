"""Disputes, inquiries and early fraud warnings."""

from sandbox import reactions
from sandbox.calendar import DAY
from sandbox.errors import StripeError, invalid
from sandbox.lists import Readable, readable
from sandbox.money import DISPUTE_FEE
from sandbox.nouns import charges
from sandbox.routing import Call, route
from sandbox.shapes import Obj
from sandbox.world import World, merged_metadata, pick

RESPONSE_DAYS = 21
EVIDENCE = (
    *("access_activity_log", "billing_address", "cancellation_policy"),
    *("cancellation_policy_disclosure", "cancellation_rebuttal", "customer_communication"),
    *("customer_email_address", "customer_name", "customer_purchase_ip", "customer_signature"),
    *("duplicate_charge_documentation", "duplicate_charge_explanation", "duplicate_charge_id"),
    *("product_description", "receipt", "refund_policy", "refund_policy_disclosure"),
    *("refund_refusal_explanation", "service_date", "service_documentation", "shipping_address"),
    *("shipping_carrier", "shipping_date", "shipping_documentation", "shipping_tracking_number"),
    *("uncategorized_file", "uncategorized_text"),
)

readable(Readable("dispute", "/v1/disputes", "dispute"))
readable(
    Readable("radar.early_fraud_warning", "/v1/radar/early_fraud_warnings", "early_fraud_warning")
)


def open_dispute(
    world: World,
    charge: Obj,
    amount: int | None = None,
    *,
    inquiry: bool = False,
    reason: str = "fraudulent",
) -> Obj:
    """A cardholder disputes a charge. Only an inquiry leaves the money where it is.

    Raises StripeError 400 if the charge is not paid or already disputed.
    """
    if charge["status"] != "succeeded" or charge["disputed"]:
        raise invalid("Only a paid charge without a dispute can be disputed.", param="charge")
    amount = int(charge["amount"] if amount is None else amount)
    if not 1 <= amount <= charge["amount"]:
        raise invalid("Invalid amount.", param="amount")
    dispute = world.make("dispute", "du")
    for absent in ("intended_submission_method", "network_reason_code"):
        dispute.pop(absent, None)
    dispute.update(
        amount=amount,
        balance_transactions=[],
        charge=charge["id"],
        currency=charge["currency"],
        enhanced_eligibility_types=[],
        evidence={**dict.fromkeys(EVIDENCE), "enhanced_evidence": {}},
        evidence_details={
            "due_by": world.now + RESPONSE_DAYS * DAY,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        is_charge_refundable=inquiry,
        metadata={},
        payment_intent=charge["payment_intent"],
        payment_method_details={
            "type": "card",
            "card": {
                "brand": charge["payment_method_details"].get("card", {}).get("brand", "visa"),
                "case_type": "inquiry" if inquiry else "chargeback",
                "network": "visa",
                "network_reason_code": "10.4" if reason == "fraudulent" else "13.1",
            },
        },
        reason=reason,
        status="warning_needs_response" if inquiry else "needs_response",
    )
    world.change(charge, disputed=True)
    world.add(dispute, "charge.dispute.created")
    if not inquiry:
        _withdraw(world, dispute)
    return dispute


def _withdraw(world: World, dispute: Obj) -> None:
    taken = charges.entry(
        world,
        "adjustment",
        -dispute["amount"],
        dispute["currency"],
        cost=DISPUTE_FEE,
        source=dispute["id"],
    )
    dispute["balance_transactions"] = [*dispute["balance_transactions"], taken]
    world.emit("charge.dispute.funds_withdrawn", dispute)


def win(world: World, dispute: Obj) -> Obj:
    """We were right: the money comes back, the fee does not."""
    _check_in(dispute, "needs_response", "under_review")
    world.move(dispute, "won", is_charge_refundable=True)
    back = charges.entry(
        world, "adjustment", dispute["amount"], dispute["currency"], cost=0, source=dispute["id"]
    )
    dispute["balance_transactions"] = [*dispute["balance_transactions"], back]
    world.emit("charge.dispute.funds_reinstated", dispute)
    return dispute


def lose(world: World, dispute: Obj) -> Obj:
    """The money stays with the cardholder."""
    _check_in(dispute, "needs_response", "under_review")
    return world.move(dispute, "lost", is_charge_refundable=False)


def close_inquiry(world: World, dispute: Obj) -> Obj:
    """An inquiry that came to nothing. The charge can be disputed again."""
    _check_in(dispute, "warning_needs_response", "warning_under_review")
    world.change(world.get("charge", dispute["charge"]), disputed=False)
    return world.move(dispute, "warning_closed")


def escalate(world: World, dispute: Obj) -> Obj:
    """An inquiry becomes a chargeback."""
    _check_in(dispute, "warning_needs_response", "warning_under_review")
    details = dispute["payment_method_details"]
    details = {**details, "card": {**details["card"], "case_type": "chargeback"}}
    world.move(
        dispute, "needs_response", is_charge_refundable=False, payment_method_details=details
    )
    _withdraw(world, dispute)
    return dispute


def _check_in(dispute: Obj, *allowed: str) -> None:
    if dispute["status"] not in allowed:
        message = f"This dispute has the status {dispute['status']}."
        raise StripeError(400, message, code="dispute_unexpected_state")


@route("POST /v1/disputes/{dispute}")
def update(world: World, call: Call) -> Obj:
    """Evidence. Submitting it ends in review, or decides at once by its magic words."""
    dispute, given = world.get("dispute", call.id), call.params
    change: Obj = given.get("evidence", {})
    evidence = {**dispute["evidence"], **pick(change, *EVIDENCE)}
    details = {**dispute["evidence_details"]}
    details["has_evidence"] = any(evidence[name] for name in EVIDENCE)
    submits = given.get("submit", True) and bool(change)
    open_ones = ("needs_response", "warning_needs_response")
    if submits and dispute["status"] not in open_ones:
        raise invalid("This dispute is already closed or under review.")
    metadata = merged_metadata(dispute["metadata"], given)
    if not submits:
        return world.change(
            dispute,
            "charge.dispute.updated",
            evidence=evidence,
            evidence_details=details,
            metadata=metadata,
        )
    details["submission_count"] += 1
    details["submission_method"] = "manual"
    prefix = "warning_" if dispute["status"].startswith("warning_") else ""
    world.move(
        dispute,
        f"{prefix}under_review",
        evidence=evidence,
        evidence_details=details,
        metadata=metadata,
    )
    decide = {"winning_evidence": win, "losing_evidence": lose}.get(evidence["uncategorized_text"])
    return dispute if prefix or decide is None else decide(world, dispute)


@route("POST /v1/disputes/{dispute}/close")
def close(world: World, call: Call) -> Obj:
    dispute = world.get("dispute", call.id)
    if dispute["status"].startswith("warning_"):
        return close_inquiry(world, dispute)
    return lose(world, dispute)


def warn(world: World, charge: Obj, fraud_type: str = "unauthorized_use_of_card") -> Obj:
    """A card network suspects fraud. No money moves."""
    warning = world.make(
        "radar.early_fraud_warning",
        "issfr",
        actionable=not charge["refunded"],
        charge=charge["id"],
        fraud_type=fraud_type,
        payment_intent=charge["payment_intent"],
    )
    return world.add(warning, "radar.early_fraud_warning.created")


# What test cards lead to, right after the charge


@reactions.on("standin.dispute")
def _dispute(world: World, charge: Obj) -> None:
    open_dispute(world, charge)


@reactions.on("standin.dispute_product")
def _dispute_product(world: World, charge: Obj) -> None:
    open_dispute(world, charge, reason="product_not_received")


@reactions.on("standin.inquiry")
def _inquire(world: World, charge: Obj) -> None:
    open_dispute(world, charge, inquiry=True)


@reactions.on("standin.fraud_warning")
def _warn(world: World, charge: Obj) -> None:
    warn(world, charge)
