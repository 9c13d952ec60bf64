"""The problem codes of purchases and of Stripe: a part of the public list in `codes`."""

from collections.abc import Mapping
from typing import Final

from meter.code import Code

STRIPE_CODES: Final[Mapping[str, Code]] = {
    "invalid_signature": Code(
        (400,),
        "Invalid signature",
        "A delivery was not signed with a secret of ours, or more than five minutes ago.",
        "Compare STRIPE_WEBHOOK_SECRET with the endpoint's secret, and look at the clock.",
    ),
    "card_declined": Code(
        (402,),
        "Card declined",
        "The bank refused the payment. `detail` is for the customer, `decline_code` is Stripe's.",
        "Let the customer choose another card.",
    ),
    "subscription_required": Code(
        (403,),
        "Subscription required",
        "The customer's plan lets holds and usage start only with a subscription in good standing; "
        "or that was asked for (`GET …/access?require=1`).",
        "Let the customer pay the open invoice, or subscribe: `POST /v1/checkout` with a plan.",
    ),
    "subscription_not_found": Code(
        (404,),
        "Subscription not found",
        "The customer has no subscription that this could be done to.",
        "See `GET /v1/customers/{customer_id}/subscriptions`.",
    ),
    "subscription_exists": Code(
        (409,),
        "Subscription exists",
        "The customer has a live subscription already: a second one would be paid beside it.",
        "Change it: `POST /v1/customers/{customer_id}/subscription/change`.",
    ),
    "usage_flush_pending": Code(
        (409,),
        "Usage still to be told",
        "The subscription bills by use, and Stripe does not take now what was used since the last "
        "hour: ended or changed at once, it would not be billed.",
        "Send the same request again in a minute, or ask for the change at the period's end.",
    ),
    "subscription_state": Code(
        (409,),
        "Subscription state",
        "What was asked does not fit what the subscription is now; `detail` says why.",
        "See `GET /v1/customers/{customer_id}/subscription`.",
    ),
    "currency_mismatch": Code(
        (409,),
        "Currency mismatch",
        "The subscription is paid in one currency, and the plan has its price in another.",
        "Cancel the subscription and subscribe anew.",
    ),
    "preview_changed": Code(
        (409,),
        "Preview changed",
        "The change costs something else now than was expected: `amount_due_now` says what.",
        "Preview it again, and send its `proration_date` along with the amount.",
    ),
    "payment_method_not_found": Code(
        (404,),
        "Payment method not found",
        "The customer has no such saved card.",
        "See `GET /v1/customers/{customer_id}/payment-methods`.",
    ),
    "plan_not_found": Code(
        (404,), "Plan not found", "No plan of this key is for sale.", "See `GET /v1/plans`."
    ),
    "pack_not_found": Code(
        (404,), "Pack not found", "No pack of this key is for sale.", "See `GET /v1/packs`."
    ),
    "stripe_customer_taken": Code(
        (409,),
        "Customer at Stripe is taken",
        "Another customer of ours is this one at Stripe.",
        "Send that customer's own id, or leave it out.",
    ),
    "request_in_progress": Code(
        (409,),
        "Request in progress",
        "The same request is under way at Stripe.",
        "Send it again in a moment, with the same key.",
    ),
    "stripe_refused": Code(
        (422,),
        "Stripe refused",
        "Stripe takes no such request; `detail` has its words. The purchase was not made payable.",
        "Change what it names, and send it under a new key.",
    ),
    "stripe_unavailable": Code(
        (503,),
        "Stripe unavailable",
        "Stripe did not answer, takes no calls for a moment, or does not accept our key. What is "
        "ours is kept.",
        "Send it again with the same key; if it stays so, see `drawdown doctor`.",
        retryable=True,
    ),
    "purchase_not_found": Code(
        (404,),
        "Purchase not found",
        "No purchase has this id.",
        "Use the `purchase_id` that its checkout answered.",
    ),
    "grant_has_purchase": Code(
        (409,),
        "Grant has a purchase",
        "The credits were bought, so they can't be voided.",
        "Refund the purchase.",
    ),
    "purchase_not_credited": Code(
        (409,),
        "Purchase not credited",
        "The purchase is not paid, or a person has to look at it: there are no credits of it.",
        "Wait until its `status` is `credited`.",
    ),
    "purchase_already_credited": Code(
        (409,),
        "Purchase already credited",
        "The purchase was credited for a payment of another amount.",
        "Look at both payments at Stripe: a purchase is paid once.",
    ),
    "nothing_refundable": Code(
        (409,),
        "Nothing refundable",
        "What can still be refunded of the purchase is less than asked for, or all is spent.",
        "Send at most `left` as `amount`; without one, what is unspent is refunded.",
    ),
    "invalid_purchase": Code(
        (422,),
        "Invalid purchase",
        "The members of a purchase do not fit together: tax above the payment, a line of an "
        "invoice without its period, a pack with one.",
        "See [purchases](../concepts/purchases.md).",
    ),
}
