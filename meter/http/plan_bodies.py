"""The bodies of requests about plans and subscriptions, and their answers."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from ledger.answers import RolloverAnswer
from meter.http.bodies import Amount, Body, Metadata, RolloverBody, Time
from meter.http.stripe_bodies import PlanKey, Price, PriceAnswer
from meter.http.usage_bodies import RateCardKey
from meter.plan_items import EVENT_NAME_PATTERN, ITEMS_MAX
from meter.plans import TRIAL_DAYS_MAX
from meter.rate_cards import PRICE_PATTERN

EventName = Annotated[
    str,
    Meta(
        description="Under which Stripe is told: of a meter there that adds up, or of a new one.",
        pattern=EVENT_NAME_PATTERN,
        examples=["api_calls"],
    ),
]
ItemPrice = Annotated[
    str,
    Meta(
        description="In units of the plan's currency; finer than its cents is fine.",
        pattern=PRICE_PATTERN,
        examples=["0.002"],
    ),
]
Seats = Annotated[int, Meta(ge=1, le=100_000, description="How many seats; left out: as it is.")]
When = Annotated[
    Literal["now", "period_end"],
    Meta(description="At once, or when what is paid ends."),
]


class ItemTierBody(Body, frozen=True, kw_only=True):
    """From where the one before ends up to and with `up_to`."""

    up_to: Annotated[int, Meta(ge=1)] | None = None
    """Left out on the last one only."""
    unit_price: ItemPrice = "0"
    flat_price: ItemPrice = "0"


class MeteredBody(Body, frozen=True, kw_only=True):
    """Usage that is paid for afterwards: exactly one of `unit_price` and `tiers`."""

    meter: Annotated[str, Meta(min_length=1, max_length=63)]
    """One with `charge: none`: what it counts is billed, not charged in credits."""
    event_name: EventName
    unit_price: ItemPrice | None = None
    tiers: Annotated[tuple[ItemTierBody, ...], Meta(max_length=100)] = ()
    tier_mode: Literal["graduated", "volume"] = "graduated"


class PlanOverageBody(Body, frozen=True, kw_only=True):
    """The overage policy of its customers that have none of their own."""

    policy: Literal["deny", "owe", "bill"]
    limit: Amount | None = None
    event_name: EventName | None = None
    """Of `bill`, as is `unit_price`."""
    unit_price: ItemPrice | None = None
    """Of one `report_unit` of credits, in the plan's currency."""
    report_unit: Amount | None = None
    """Credits that are one unit at Stripe; left out: 1."""


class PlanBody(Body, frozen=True, kw_only=True):
    """A plan. Every change is a new version; who has subscribed stays with what that was."""

    name: Annotated[str, Meta(min_length=1, max_length=250)]
    tier: Annotated[str, Meta(min_length=1, max_length=63, description="Shown on the customer.")]
    price: Price
    interval: Literal["month", "year"]
    trial_days: Annotated[int, Meta(ge=1, le=TRIAL_DAYS_MAX)] | None = None
    credits: Amount | None = None
    """For each period (or month, see `credits_every`) and seat; left out: the plan gives none."""
    credits_every: Literal["month"] | None = None
    """Of a yearly plan: its credits are given each month, and end with it."""
    trial_credits: Amount | None = None
    upgrade_credits: Literal["renewal", "full"] = "renewal"
    """Of a change to this plan that nothing is billed for: at the renewal, or at once."""
    asset: str = "credits"
    priority: Annotated[int, Meta(ge=0, le=100)] = 50
    requires_subscription: bool = False
    """Whether holds and usage of its customers need it in good standing."""
    metered: Annotated[tuple[MeteredBody, ...], Meta(max_length=ITEMS_MAX)] = ()
    overage: PlanOverageBody | None = None
    rollover: RolloverBody | None = None
    """Of what a period (or month, see `credits_every`) leaves unused, for each seat: at most `max`
    stays, for `expires_in` seconds longer (left out: for ever), once. Nothing stays when the
    subscription ends."""
    rate_card: RateCardKey | None = None
    apply_to: Literal["new", "next_period"] = "new"
    """Whether those who have subscribed already move to this version, when their period ends."""
    active: bool = True
    tax_code: Annotated[str, Meta(pattern="^txcd_[0-9]{8}$")] | None = None
    tax_behavior: Literal["inclusive", "exclusive"] | None = None
    metadata: Metadata | None = None


class ItemTierAnswer(Struct, frozen=True):
    up_to: int | None
    unit_price: str
    flat_price: str


class MeteredAnswer(Struct, frozen=True, kw_only=True):
    """Usage that is paid for afterwards."""

    meter: str
    event_name: str
    unit_price: str | None
    tiers: list[ItemTierAnswer]
    tier_mode: str


class PlanOverageAnswer(Struct, frozen=True, kw_only=True):
    """What covers usage beyond the wallet."""

    policy: str
    limit: str | None
    event_name: str | None
    unit_price: str | None
    report_unit: str | None


class PlanAnswer(Struct, frozen=True, kw_only=True):
    """The latest version of a plan."""

    key: str
    version: int
    name: str
    tier: str
    price: PriceAnswer
    interval: str
    trial_days: int | None
    asset: str
    credits: str | None
    credits_every: str | None
    trial_credits: str | None
    upgrade_credits: str
    priority: int
    requires_subscription: bool
    metered: list[MeteredAnswer]
    overage: PlanOverageAnswer | None
    rollover: RolloverAnswer | None
    rate_card: str | None
    apply_to: str
    active: bool
    tax_code: str | None
    tax_behavior: str | None
    metadata: msgspec.Raw
    created_at: datetime


class OpenInvoice(Struct, frozen=True, kw_only=True):
    """An invoice that its customer has still to pay, and where."""

    id: str
    amount_due: str
    hosted_url: str | None
    attempts: int
    next_attempt_at: datetime | None
    needs_authentication: bool


class SubscriptionAnswer(Struct, frozen=True, kw_only=True):
    """A subscription as Stripe had it when it was fetched last."""

    id: str
    customer_id: str
    status: str
    plan: str
    version: int
    tier: str
    quantity: int
    period_start: datetime
    period_end: datetime
    trial_end: datetime | None
    cancel_at: datetime | None
    ended_at: datetime | None
    has_scheduled_change: bool
    """Another plan or quantity follows when the period ends."""
    pending_until: datetime | None
    """A change waits for its payment until then."""
    open_invoice: OpenInvoice | None
    duplicate: bool
    """Another live subscription of the customer came first: both are billed."""
    fetched_at: datetime


class AccessAnswer(Struct, frozen=True, kw_only=True):
    """Whether a customer may use what a plan is for."""

    active: bool
    status: str
    """`none`: there never was a subscription."""
    plan: str | None
    tier: str | None
    stale: bool
    """There should have been news since, and Stripe could not be asked."""
    period_end: datetime | None
    trial_end: datetime | None
    cancel_at: datetime | None
    grace_until: datetime | None
    """Of one that is past due: access ends then."""
    reason: str | None
    """Why not, and what to do."""


class ChangeBody(Body, frozen=True, kw_only=True):
    """To which plan, and when. `proration` is how the rest of the period is billed."""

    plan: PlanKey
    quantity: Seats | None = None
    when: When = "now"
    proration: Literal["invoice_now", "next_invoice", "none"] = "invoice_now"
    proration_date: Time | None = None
    """From when on it is prorated, in the period; from a preview, so that it costs the same."""
    expected_amount: Annotated[str, Meta(examples=["15.00"])] | None = None
    """The `amount_due_now` of a preview: another one is refused."""


class PreviewLine(Struct, frozen=True, kw_only=True):
    description: str
    amount: str
    proration: bool
    period_start: datetime
    period_end: datetime


class NextInvoice(Struct, frozen=True):
    at: datetime
    amount: str
    """For a whole period, before discounts and tax."""


class PreviewAnswer(Struct, frozen=True, kw_only=True):
    """What a change costs and gives. Nothing was changed."""

    amount_due_now: str
    currency: str
    tax: str
    lines: list[PreviewLine]
    credits_delta: str
    """What it adds to this period's credits, once it is paid."""
    proration_date: datetime
    next_invoice: NextInvoice | None


class ChangeAnswer(Struct, frozen=True, kw_only=True):
    """The subscription after it, and whether its invoice is paid."""

    subscription: SubscriptionAnswer
    payment_status: Literal["paid", "open", "requires_action", "none"]
    """`requires_action`: confirm the payment in the browser with `client_secret`."""
    client_secret: str | None
    publishable_key: str | None


class CancelBody(Body, frozen=True, kw_only=True):
    when: When = "period_end"


class EmptyBody(Body, frozen=True, kw_only=True):
    """There is nothing to say."""
