"""What subscriptions and their invoices at Stripe make of our books."""

from collections.abc import Sequence

import msgspec

from jobs.stripe_apply import Foreign, decisions
from jobs.stripe_shares import shares_of
from ledger import load_purchases
from ledger.bought import Terms
from ledger.ids import parse_id
from ledger.load_purchases import PurchaseRef
from ledger.requests import CreditPurchase, OpenPurchase
from meter import plan_items, plans, subscriptions
from meter.plan_lines import Allotment, allotments
from meter.service import Service
from meter.stripe_port import InvoiceState, SubscriptionState
from meter.subscriptions import ENDED
from sql import queries
from sql.pool import Connection


async def apply_subscription(
    service: Service, conn: Connection, *, state: SubscriptionState
) -> None:
    """Keep a subscription as it is now, and what follows of it for its customer. Raises Foreign."""
    customer_no = await _owner(service, conn, state, [item.price_id for item in state.items])
    await subscriptions.keep(service, conn, customer_no, state)


async def _owner(
    service: Service, conn: Connection, state: SubscriptionState, prices: Sequence[str]
) -> int:
    """Whose it is: by the customer at Stripe, else by our mark. A price has to be one of ours."""
    if not (await plans.of_prices(conn, prices) or await plan_items.of_prices(conn, prices)):
        raise Foreign("it is of no plan of ours")
    marks = state.marks
    ours = marks.get("user_id") if marks.get("drawdown") == service.installation_id else None
    customer_no = await conn.fetchval(queries.stripe_customer_find, state.customer_id, ours)
    if customer_no is None:
        raise Foreign("its customer is none of ours")
    if state.status not in ENDED:  # a customer that was deleted at Stripe is not linked again
        await conn.execute(queries.stripe_customer_link, customer_no, state.customer_id)
    return customer_no


async def apply_invoice(
    service: Service, conn: Connection, *, invoice: InvoiceState, state: SubscriptionState
) -> None:
    """Credit what a paid invoice pays for, and move it to what became of the money since.

    Each line (or change) is a purchase of its own, credited once. Raises Foreign, MissingPeriod.
    """
    prices = [line.price_id for line in invoice.lines if line.price_id]
    customer_no = await _owner(service, conn, state, prices)
    known = await plans.of_prices(conn, prices)
    ends = {line.ends for line in invoice.lines if line.is_proration}
    rows = await conn.fetch(queries.plan_periods, customer_no, list(ends))
    periods = {row["expires_at"]: row["effective_at"] for row in rows}
    given = allotments(invoice, state, known, periods)
    ordered = _ordered(service, state)
    owners: list[PurchaseRef] = []
    for one in given:
        request = OpenPurchase(
            customer_no=customer_no,
            operation="open_purchase",
            terms=_terms(one, invoice),
            ordered_no=ordered.purchase_no
            if ordered and ordered.customer_no == customer_no
            else None,
        )
        result = await service.decide_in(conn, request)
        named = parse_id("pur", msgspec.json.decode(result.body, type=_Named).id)
        assert named is not None, "the books name it so"
        owners.append(PurchaseRef(*named))
    await _link(conn, invoice, owners)
    shares = shares_of(invoice, given, await _asked(conn, invoice, owners))
    fraud = service.config.freeze_on_fraud_warning
    for one, owner, share in zip(given, owners, shares, strict=True):
        for asked in decisions(owner, share, freezes_fraud=fraud, rollover=one.rollover):
            done = await service.decide_in(conn, asked)
            if isinstance(asked, CreditPurchase) and not _is_credited(done.body):
                break  # parked: a person decides first


async def _link(conn: Connection, invoice: InvoiceState, owners: Sequence[PurchaseRef]) -> None:
    """What has paid an invoice belongs to its purchase; of several, to their invoice."""
    objects = [name for payment in invoice.payments for name in payment.object_ids]
    for name in objects if owners else ():
        if len(owners) == 1:
            await load_purchases.link(conn, name, owners[0])
        else:
            place = owners[0].customer_no, invoice.invoice_id
            await conn.execute(queries.invoice_intent_link, *place, name)


async def _asked(
    conn: Connection, invoice: InvoiceState, owners: Sequence[PurchaseRef]
) -> dict[str, int]:
    """Which purchase each refund of ours was asked for."""
    asked: dict[str, int] = {}
    for refund in (refund for paid in invoice.payments for refund in paid.refunds):
        row = await conn.fetchrow(queries.stripe_call_owner, refund.call)
        owner = None if row is None else PurchaseRef(row["customer_no"], row["purchase_no"])
        if owner in owners:
            asked[refund.call or ""] = owners.index(owner)
    return asked


class _Named(msgspec.Struct, frozen=True):
    id: str
    status: str


def _is_credited(body: bytes) -> bool:
    return msgspec.json.decode(body, type=_Named).status == "credited"


def _ordered(service: Service, state: SubscriptionState) -> PurchaseRef | None:
    """The purchase that a subscription was ordered by, if it was by ours."""
    named = parse_id("pur", state.marks.get("purchase_id", ""))
    if named is None or state.marks.get("drawdown") != service.installation_id:
        return None
    return PurchaseRef(*named)


def _terms(one: Allotment, invoice: InvoiceState) -> Terms:
    return Terms(
        kind="plan",
        product=one.plan.product,
        asset=one.plan.asset,
        credits=one.credits,
        currency=invoice.currency,
        amount=max(0, one.listed),
        quantity=one.quantity,
        priority=one.plan.priority,
        bonus_priority=one.plan.priority,
        effective_at=one.starts,
        expires_at=one.ends,
        invoice_id=invoice.invoice_id,
        line_id=one.line_id,
    )
