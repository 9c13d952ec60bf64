"""Stripe's subscriptions and their invoices in our own words. Pure."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from jobs.stripe_shapes import marks_of
from meter.stripe_port import (
    InvoiceBrief,
    InvoiceLine,
    InvoiceState,
    Payment,
    Preview,
    SubscriptionItem,
    SubscriptionState,
)


def subscription_state(sub: Any, payments: Iterable[Any] = ()) -> SubscriptionState:
    """A subscription whose latest invoice is expanded; `payments` are of that invoice."""
    update = sub.pending_update
    return SubscriptionState(
        subscription_id=sub.id,
        customer_id=_id(sub.customer),
        marks=marks_of(sub),
        status=sub.status,
        currency=str(sub.currency).upper(),
        items=tuple(_item(one) for one in sub["items"].data if not _is_metered(one.price)),
        metered=tuple(_item(one) for one in sub["items"].data if _is_metered(one.price)),
        anchor=_time(sub.billing_cycle_anchor),
        started_at=_time(sub.start_date),
        trial_start=_maybe(sub.trial_start),
        trial_end=_maybe(sub.trial_end),
        cancel_at=_maybe(sub.cancel_at),
        canceled_at=_maybe(sub.canceled_at),
        ended_at=_maybe(sub.ended_at),
        schedule_id=None if sub.schedule is None else _id(sub.schedule),
        update_expires_at=None if update is None else _time(update.expires_at),
        invoice=None if sub.latest_invoice is None else _brief(sub.latest_invoice, payments),
    )


def _item(item: Any) -> SubscriptionItem:
    return SubscriptionItem(
        item_id=item.id,
        price_id=item.price.id,
        quantity=getattr(item, "quantity", None) or 0,  # of what bills by use there is none
        period_start=_time(item.current_period_start),
        period_end=_time(item.current_period_end),
        created_at=_time(item.created),
    )


def _brief(invoice: Any, payments: Iterable[Any]) -> InvoiceBrief:
    intents = [getattr(one.payment, "payment_intent", None) for one in payments]
    return InvoiceBrief(
        invoice_id=invoice.id,
        status=invoice.status or "draft",
        amount_due=invoice.amount_due,
        hosted_url=invoice.hosted_invoice_url,
        attempts=invoice.attempt_count,
        next_attempt_at=_maybe(invoice.next_payment_attempt),
        needs_action=any(getattr(one, "status", None) == "requires_action" for one in intents),
    )


def invoice_state(invoice: Any, lines: Sequence[Any], payments: Sequence[Payment]) -> InvoiceState:
    """An invoice with all its lines."""
    return InvoiceState(
        invoice_id=invoice.id,
        customer_id=_id(invoice.customer),
        subscription_id=subscription_of(invoice),
        status=invoice.status or "draft",
        currency=str(invoice.currency).upper(),
        amount_paid=invoice.amount_paid,
        lines=tuple(_line(one) for one in lines),
        payments=tuple(payments),
    )


def subscription_of(invoice: Any) -> str | None:
    """The subscription that an invoice is of."""
    details = getattr(invoice.parent, "subscription_details", None)
    return None if details is None else _id(details.subscription)


def preview_of(invoice: Any) -> Preview:
    """An invoice that is not there."""
    lines = [_line(one) for one in invoice.lines.data]
    return Preview(
        amount_due=invoice.amount_due,
        tax=sum(one.tax_added + one.tax_inside for one in lines),
        currency=str(invoice.currency).upper(),
        lines=tuple(lines),
        words=tuple(one.description or "" for one in invoice.lines.data),
    )


def _line(line: Any) -> InvoiceLine:
    parent = line.parent
    item = getattr(parent, "subscription_item_details", None)
    details = item or getattr(parent, "invoice_item_details", None)
    price = getattr(getattr(line.pricing, "price_details", None), "price", None)
    taxes = list(line.taxes or ())
    return InvoiceLine(
        line_id=line.id,
        price_id=None if price is None else _id(price),
        subscription_id=getattr(details, "subscription", None),
        is_proration=bool(getattr(details, "proration", False)),
        quantity=line.quantity or 0,
        amount=line.amount,
        discount=sum(one.amount for one in line.discount_amounts or ()),
        tax_added=sum(one.amount for one in taxes if one.tax_behavior == "exclusive"),
        tax_inside=sum(one.amount for one in taxes if one.tax_behavior == "inclusive"),
        starts=_time(line.period.start),
        ends=_time(line.period.end),
    )


def _is_metered(price: Any) -> bool:
    return price.recurring is not None and price.recurring.usage_type == "metered"


def _id(one: Any) -> str:
    """The id of what is named, or expanded."""
    return one if isinstance(one, str) else one.id


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _maybe(seconds: int | None) -> datetime | None:
    return None if seconds is None else _time(seconds)
