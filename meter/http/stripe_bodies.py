"""The bodies of requests about money, and the answers that the books do not give."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from meter.http.bodies import Amount, Body, CustomerId, Metadata

Url = Annotated[
    str,
    Meta(
        description="Where the browser goes; https, or http on this machine.",
        max_length=2_000,
        extra_json_schema={"format": "uri"},
        examples=["https://app.example.com/credits"],
    ),
]
PlanKey = Annotated[str, Meta(min_length=1, max_length=63, examples=["pro"])]
PackKey = Annotated[str, Meta(min_length=1, max_length=63, examples=["starter"])]
Quantity = Annotated[int, Meta(ge=1, le=1_000, description="How many packs, or seats.")]
Seconds = Annotated[int, Meta(ge=1, le=315_360_000, description="Seconds from the crediting.")]


class Price(Body, frozen=True, kw_only=True):
    """What it costs in one currency, before tax."""

    amount: Annotated[str, Meta(description="In units of the currency.", examples=["10.00"])]
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$", examples=["USD"])]


class Bonus(Body, frozen=True, kw_only=True):
    """Promotional credits that come along."""

    credits: Amount
    expires_in: Seconds | None = None


class PackBody(Body, frozen=True, kw_only=True):
    """A pack. Every change is a new version; what was bought stays what it was."""

    name: Annotated[str, Meta(min_length=1, max_length=250)]
    credits: Amount
    price: Price
    prices: Annotated[tuple[Price, ...], Meta(max_length=50)] = ()
    bonus: Bonus | None = None
    expires_in: Seconds | None = None
    asset: str = "credits"
    priority: Annotated[int, Meta(ge=0, le=100)] = 50
    active: bool = True
    tax_code: Annotated[str, Meta(pattern="^txcd_[0-9]{8}$")] | None = None
    tax_behavior: Literal["inclusive", "exclusive"] | None = None
    metadata: Metadata | None = None


class PriceAnswer(Struct, frozen=True):
    amount: str
    currency: str


class BonusAnswer(Struct, frozen=True):
    credits: str
    expires_in: int | None


class PackAnswer(Struct, frozen=True, kw_only=True):
    """The latest version of a pack."""

    key: str
    version: int
    name: str
    asset: str
    credits: str
    price: PriceAnswer
    prices: list[PriceAnswer]
    bonus: BonusAnswer | None
    expires_in: int | None
    priority: int
    active: bool
    tax_code: str | None
    tax_behavior: str | None
    metadata: msgspec.Raw
    created_at: datetime


class CheckoutBody(Body, frozen=True, kw_only=True):
    """A `pack`, paid once, or a `plan`, paid for each period."""

    customer_id: CustomerId
    pack: PackKey | UnsetType = UNSET
    plan: PlanKey | UnsetType = UNSET
    quantity: Quantity = 1
    success_url: Url
    cancel_url: Url
    save_card: bool = False
    """For later purchases without the customer: they are told so on Stripe's page."""
    allow_promotion_codes: bool = False
    tax: Literal["off", "automatic"] = "off"
    invoice: bool = False


class CheckoutAnswer(Struct, frozen=True):
    """Send the browser to `url`."""

    id: str
    purchase_id: str | None
    """Null for a plan without credits: there is nothing to book of it."""
    url: str | None


class IntentBody(Body, frozen=True, kw_only=True):
    customer_id: CustomerId
    pack: PackKey
    quantity: Quantity = 1
    save_card: bool = False


class IntentAnswer(Struct, frozen=True):
    """For Stripe's Elements in a page of yours. The secret is its customer's alone."""

    id: str
    purchase_id: str
    client_secret: str
    publishable_key: str | None


class RefundBody(Body, frozen=True, kw_only=True):
    """`amount` of money, or the money that `credits` stand for; neither: what is unspent."""

    amount: Annotated[str, Meta(description="In the purchase's currency.")] | UnsetType = UNSET
    credits: Amount | UnsetType = UNSET
    reason: Literal["duplicate", "fraudulent", "requested_by_customer"] | None = None


class CallAnswer(Struct, frozen=True, kw_only=True):
    """What was asked of Stripe for a purchase."""

    kind: str
    object_id: str | None
    status: Literal["waiting", "done", "parked"]
    error: str | None
    """Why it is not done yet."""
    created_at: datetime
    done_at: datetime | None


class NewsAnswer(Struct, frozen=True):
    """A delivery of Stripe's about the purchase."""

    event_id: str
    type: str
    object_id: str
    created_at: datetime
    received_at: datetime


class ObjectAnswer(Struct, frozen=True):
    """What Stripe has of it, and whether all news of that is applied."""

    object_id: str
    kind: str
    status: Literal["applied", "waiting", "parked"]
    error: str | None


class StoryJournal(Struct, frozen=True):
    id: str
    kind: str
    created_at: datetime


class Story(Struct, frozen=True, kw_only=True):
    """What happened, from our request to the books."""

    calls: list[CallAnswer]
    objects: list[ObjectAnswer]
    news: list[NewsAnswer]
    journals: list[StoryJournal]
