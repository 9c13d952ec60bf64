"""What a purchase's money at Stripe makes of our books: credited, moved to its state, frozen."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from ledger import load_purchases
from ledger.bought import FreezeReason, Funds
from ledger.load_purchases import PurchaseRef
from ledger.requests import (
    CreditPurchase,
    FreezePurchase,
    MarkPurchase,
    MovePurchase,
    ReleasePurchase,
    Request,
    Rollover,
)
from meter import checkout
from meter.service import Service
from meter.stripe_port import DisputeState, Payment, RefundState
from sql import queries
from sql.pool import Connection

REFUND_ENDED: Final = frozenset({"succeeded", "failed", "canceled"})
DISPUTE_ENDED: Final = frozenset({"won", "lost", "warning_closed", "prevented"})
FRAUD: Final = "fraud-warning"


class Foreign(Exception):
    """An object is not of a purchase of ours: it is counted, and never credited."""


class Twin(Exception):
    """Another object than ours with our marks is paid: a person has to look at that money."""


async def apply_payment(service: Service, conn: Connection, *, payment: Payment) -> None:
    """Bring a purchase to what Stripe has. In the caller's transaction. Raises Foreign, Twin.

    What is told is a state, not a change: it may be told again, late, or in any order.
    """
    owner = await _owner(service, conn, payment)
    for object_id in payment.object_ids:
        await load_purchases.link(conn, object_id, owner)
    for request in decisions(owner, payment, freezes_fraud=service.config.freeze_on_fraud_warning):
        result = await service.decide_in(conn, request)
        if isinstance(request, CreditPurchase) and not _is_credited(result.body):
            return  # parked: a person decides before anything is booked of it


class _Status(Struct, frozen=True):
    status: str


def _is_credited(body: bytes) -> bool:
    return msgspec.json.decode(body, type=_Status).status == "credited"


async def _owner(service: Service, conn: Connection, payment: Payment) -> PurchaseRef:
    """Whose it is, by the mark that we gave it, and only if we made the call that it names."""
    named = checkout.owner_of(payment.marks, service.installation_id)
    if named is None:
        raise Foreign("it has no mark of ours")
    owner, call = named
    row = await conn.fetchrow(queries.stripe_call_owner, call)
    if row is None or PurchaseRef(row["customer_no"], row["purchase_no"]) != owner:
        raise Foreign(f"we never made {call or 'it'} for this purchase")
    if row["object_id"] in (None, *payment.object_ids):
        return owner
    for object_id in payment.object_ids:
        if await load_purchases.find(conn, object_id) == owner:
            return owner
    if payment.status != "paid":
        raise Foreign(f"{call} made another object")
    raise Twin(f"{row['object_id']} is what the purchase is paid by, and this has its marks")


def decisions(
    owner: PurchaseRef,
    payment: Payment,
    *,
    freezes_fraud: bool,
    rollover: Rollover | None = None,
) -> list[Request]:
    """What is asked of the books, in order; `rollover` is that of a plan's credits. Pure."""
    of: dict[str, Any] = {"customer_no": owner.customer_no, "purchase_no": owner.purchase_no}
    if payment.status != "paid":
        if payment.status == "failed":
            return [MarkPurchase(**of, operation="mark_purchase", mark="failed")]
        return []
    credit = CreditPurchase(
        **of,
        operation="credit_purchase",
        currency=payment.currency,
        captured=payment.captured,
        tax=payment.tax,
        listed=payment.listed,
        rollover=rollover,
    )
    move = MovePurchase(
        **of, operation="move_purchase", funds=funds_of(payment), ends=ended(payment)
    )
    asked: list[Request] = [credit, move]
    if freezes_fraud and not payment.is_suspected:
        asked.append(ReleasePurchase(**of, operation="release_purchase", reference=FRAUD))
    # What was released is free now, and may be frozen again for another reason.
    for refund in payment.refunds:
        if refund.status not in REFUND_ENDED:
            asked.append(_freeze(of, "refund", _reference(refund), refund.amount))
    for dispute in payment.disputes:
        if _freezes(dispute):
            asked.append(_freeze(of, "dispute", dispute.dispute_id, dispute.amount))
    if freezes_fraud and payment.is_suspected:
        asked.append(_freeze(of, "fraud", FRAUD, None))
    return asked


def _freeze(
    of: dict[str, Any], reason: FreezeReason, reference: str, amount: int | None
) -> FreezePurchase:
    return FreezePurchase(
        **of,
        operation="freeze_purchase",
        reason=reason,
        reference=reference,
        amount=amount,
    )


def _reference(refund: RefundState) -> str:
    """By what a refund's freeze is known: ours was frozen before Stripe gave it an id."""
    return refund.call or refund.refund_id


def _freezes(dispute: DisputeState) -> bool:
    """An open dispute freezes; an inquiry only asks."""
    return dispute.status not in DISPUTE_ENDED and not dispute.status.startswith("warning_")


def funds_of(payment: Payment) -> Funds:
    """What has become of the money."""
    lost = [one for one in payment.disputes if one.status == "lost"]
    open_ = [one for one in payment.disputes if _freezes(one)]
    return Funds(
        refunded=sum(one.amount for one in payment.refunds if one.status == "succeeded"),
        lost=sum(one.amount for one in lost),
        disputed=sum(one.withdrawn for one in open_),
        fees=payment.fee + sum(one.fee for one in payment.disputes),
    )


def ended(payment: Payment) -> tuple[str, ...]:
    """References of the freezes that this news ends."""
    refunds = [_reference(one) for one in payment.refunds if one.status in REFUND_ENDED]
    disputes = [one.dispute_id for one in payment.disputes if not _freezes(one)]
    return (*refunds, *disputes)
