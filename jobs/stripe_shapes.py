"""Stripe's objects, as far as money goes, in our own words. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from meter.stripe_port import DisputeState, Invoice, Payment, RefundState

INQUIRY: Final = "warning_"
"""How the statuses of an inquiry begin: no money moves."""
PAID: Final = frozenset({"paid", "no_payment_required"})


def refund_state(refund: Any) -> RefundState:
    """A refund; its status is pending, requires_action, succeeded, failed or canceled."""
    return RefundState(
        refund_id=refund.id,
        status=refund.status or "pending",
        amount=refund.amount,
        call=marks_of(refund).get("drawdown_call"),
    )


def dispute_state(dispute: Any, currency: str) -> DisputeState:
    """A dispute: what it has moved follows from its balance transactions.

    Those may be in the account's own currency; then the dispute's amount is what is known.
    """
    moved = list(dispute.balance_transactions or ())
    is_same = all(one.currency == currency for one in moved)
    withdrawn = -sum(one.amount for one in moved) if is_same else 0
    if not is_same:
        net = sum(one.amount for one in moved)
        withdrawn = dispute.amount if net < 0 else 0
    return DisputeState(
        dispute_id=dispute.id,
        status=dispute.status,
        amount=dispute.amount,
        withdrawn=max(0, withdrawn),
        fee=sum(one.fee for one in moved) if is_same else 0,
    )


def is_open_warning(warning: Any) -> bool:
    """Whether a fraud warning still asks for something to be done."""
    return bool(warning.actionable)


def invoice_of(invoice: Any) -> Invoice:
    """An invoice, with the pages where it can be paid and read."""
    return Invoice(
        id=invoice.id,
        number=invoice.number,
        status=invoice.status or "draft",
        currency=str(invoice.currency).upper(),
        total=invoice.total,
        amount_paid=invoice.amount_paid,
        amount_due=invoice.amount_due,
        hosted_url=invoice.hosted_invoice_url,
        pdf_url=invoice.invoice_pdf,
        created_at=datetime.fromtimestamp(invoice.created, UTC),
    )


def marks_of(one: Any) -> dict[str, str]:
    """An object's metadata."""
    found = getattr(one, "metadata", None)
    return {} if found is None else dict(found.to_dict())


def payment_of(
    session: Any,
    intent: Any,
    refunds: Sequence[RefundState],
    disputes: Sequence[DisputeState],
    *,
    is_suspected: bool,
) -> Payment:
    """What a session, or an intent alone, says of the money.

    A session knows the tax and what was listed; with a coupon of 100 % it has no intent at all.
    """
    found = [one for one in (session, intent) if one is not None]
    marks: dict[str, str] = {}
    for one in found:
        marks |= marks_of(one)
    status, captured, tax, listed = _paid(session, intent)
    currency = str((intent or session).currency or "")
    charge = None if intent is None else intent.latest_charge
    booked: Any = getattr(charge, "balance_transaction", None)
    is_known = getattr(booked, "currency", None) == currency
    return Payment(
        object_ids=tuple(one.id for one in found),
        marks=marks,
        status=status,
        currency=currency.upper(),
        listed=listed,
        captured=captured,
        tax=tax,
        fee=booked.fee if is_known else 0,
        refunds=tuple(refunds),
        disputes=tuple(disputes),
        is_suspected=is_suspected,
    )


def _paid(session: Any, intent: Any) -> tuple[Any, int, int, int | None]:
    """Status, what was captured, tax in it, and what was listed."""
    if session is None:
        listed = intent.amount
        if intent.status == "succeeded":
            return "paid", intent.amount_received, 0, listed
        return ("failed" if intent.status == "canceled" else "open"), 0, 0, listed
    if session.mode != "payment":  # an invoice is what is paid, or nothing is
        return ("failed" if session.status == "expired" else "open"), 0, 0, None
    totals = session.total_details
    tax = 0 if totals is None else totals.amount_tax
    # One that costs nothing, with a coupon of all, says so while it is still open.
    if session.status == "complete" and session.payment_status in PAID:
        return "paid", session.amount_total or 0, tax, session.amount_subtotal
    has_failed = session.status == "expired" or (
        session.status == "complete"
        and intent is not None
        and intent.status in {"requires_payment_method", "canceled"}
    )
    return ("failed" if has_failed else "open"), 0, 0, session.amount_subtotal
