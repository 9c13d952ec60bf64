"""Every status an object can have, where it may go from there, and what Stripe tells about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class Life:
    """The statuses of one kind of object."""

    moves: Mapping[str, str]
    """Status to the statuses that may follow, separated by blanks."""
    events: Mapping[str, str] = field(default_factory=dict[str, str])
    """Status to the events of entering it, separated by blanks; `*` stands for all others."""

    def may(self, old: str, new: str) -> bool:
        return new in self.moves[old].split()

    def is_over(self, status: str) -> bool:
        """Whether nothing can follow."""
        return not self.moves[status]

    def told(self, new: str) -> list[str]:
        return self.events.get(new, self.events.get("*", "")).split()


LIVES: Final[Mapping[str, Life]] = {
    "checkout.session": Life(
        {"open": "complete expired", "complete": "", "expired": ""},
        {"complete": "checkout.session.completed", "expired": "checkout.session.expired"},
    ),
    "payment_intent": Life(
        {
            "requires_payment_method": "requires_confirmation requires_action processing "
            "requires_capture succeeded canceled requires_payment_method",
            "requires_confirmation": "requires_action processing requires_capture succeeded "
            "requires_payment_method canceled",
            "requires_action": "processing requires_capture succeeded requires_payment_method "
            "requires_confirmation requires_action canceled",
            "processing": "succeeded requires_payment_method",
            "requires_capture": "succeeded canceled",
            "succeeded": "",
            "canceled": "",
        },
        {
            "requires_payment_method": "payment_intent.payment_failed",
            "requires_action": "payment_intent.requires_action",
            "processing": "payment_intent.processing",
            "requires_capture": "payment_intent.amount_capturable_updated",
            "succeeded": "payment_intent.succeeded",
            "canceled": "payment_intent.canceled",
        },
    ),
    "setup_intent": Life(
        {
            "requires_payment_method": "requires_confirmation requires_action processing "
            "succeeded requires_payment_method canceled",
            "requires_confirmation": "requires_action processing succeeded "
            "requires_payment_method canceled",
            "requires_action": "processing succeeded requires_payment_method requires_action "
            "canceled",
            "processing": "succeeded requires_payment_method canceled",
            "succeeded": "",
            "canceled": "",
        },
        {
            "requires_payment_method": "setup_intent.setup_failed",
            "requires_action": "setup_intent.requires_action",
            "succeeded": "setup_intent.succeeded",
            "canceled": "setup_intent.canceled",
        },
    ),
    "charge": Life(
        {"pending": "succeeded failed", "succeeded": "", "failed": ""},
        {"succeeded": "charge.succeeded", "failed": "charge.failed"},
    ),
    "refund": Life(
        {
            "pending": "succeeded failed canceled",
            "requires_action": "succeeded failed canceled",
            "succeeded": "failed",
            "failed": "",
            "canceled": "",
        },
        {
            "failed": "refund.updated charge.refund.updated refund.failed",
            "*": "refund.updated charge.refund.updated",
        },
    ),
    "dispute": Life(
        {
            "needs_response": "under_review won lost",
            "under_review": "won lost",
            "warning_needs_response": "warning_under_review warning_closed needs_response",
            "warning_under_review": "warning_closed needs_response",
            "warning_closed": "",
            "won": "",
            "lost": "",
            "prevented": "",
        },
        {
            "won": "charge.dispute.closed",
            "lost": "charge.dispute.closed",
            "warning_closed": "charge.dispute.closed",
            "*": "charge.dispute.updated",
        },
    ),
    "subscription": Life(
        {
            "incomplete": "active trialing incomplete_expired canceled",
            "incomplete_expired": "",
            "trialing": "active past_due paused canceled unpaid",
            "active": "past_due unpaid canceled paused trialing",
            "past_due": "active unpaid canceled paused",
            "unpaid": "active canceled",
            "paused": "active past_due canceled",
            "canceled": "",
        },
        {
            "canceled": "customer.subscription.deleted",
            "paused": "customer.subscription.updated customer.subscription.paused",
            "*": "customer.subscription.updated",
        },
    ),
    "invoice": Life(
        {
            "draft": "open paid void",
            "open": "paid void uncollectible",
            "uncollectible": "paid void",
            "paid": "",
            "void": "",
        },
        {
            "open": "invoice.finalized invoice.updated",
            "paid": "invoice.updated invoice.paid invoice.payment_succeeded",
            "void": "invoice.updated invoice.voided",
            "uncollectible": "invoice.updated invoice.marked_uncollectible",
        },
    ),
    "invoice_payment": Life(
        {"open": "paid canceled", "paid": "", "canceled": ""}, {"paid": "invoice_payment.paid"}
    ),
    "subscription_schedule": Life(
        {
            "not_started": "active released canceled",
            "active": "completed released canceled",
            "completed": "",
            "released": "",
            "canceled": "",
        },
        {
            "active": "subscription_schedule.updated",
            "completed": "subscription_schedule.updated subscription_schedule.completed",
            "released": "subscription_schedule.released",
            "canceled": "subscription_schedule.canceled",
        },
    ),
    "billing.meter": Life(
        {"active": "inactive", "inactive": "active"},
        {"inactive": "billing.meter.deactivated", "active": "billing.meter.reactivated"},
    ),
    "test_helpers.test_clock": Life(
        {"ready": "advancing", "advancing": "ready internal_failure", "internal_failure": ""},
        {
            "advancing": "test_helpers.test_clock.advancing",
            "ready": "test_helpers.test_clock.ready",
        },
    ),
}
