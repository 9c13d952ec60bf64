"""The bodies of requests about saved cards and automatic top-up, and their answers."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from meter.http.bodies import Body, CustomerId
from meter.http.stripe_bodies import PackKey, Url

Level = Annotated[
    str,
    Meta(
        description="A plain decimal, 0 allowed.",
        extra_json_schema={"pattern": r"^(0|[1-9][0-9]{0,25})(\.[0-9]{1,12})?$"},
        examples=["500"],
    ),
]


class SetupBody(Body, frozen=True, kw_only=True):
    """On Stripe's page (`hosted`, with both addresses), or in one of yours (`elements`)."""

    customer_id: CustomerId
    mode: Literal["hosted", "elements"]
    success_url: Url | None = None
    cancel_url: Url | None = None


class SetupAnswer(Struct, frozen=True, kw_only=True):
    """Send the browser to `url`, or give the secret to Stripe's Elements."""

    id: str
    url: str | None = None
    client_secret: str | None = None
    publishable_key: str | None = None


class CardAnswer(Struct, frozen=True, kw_only=True):
    """A saved card; of another means of payment only the members that it has."""

    id: str
    type: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    default: bool
    created_at: datetime


class Caps(Body, frozen=True, kw_only=True):
    """Days and months are of UTC."""

    count_day: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    """Attempts a day, declined ones too."""
    amount_month: Annotated[str, Meta(examples=["200.00"])] | None = None
    """Money a month, in the currency that the pack costs the customer."""


class TopUpBody(Body, frozen=True, kw_only=True):
    """At or below `threshold`, one charge buys the fewest whole packs that reach `target`."""

    enabled: bool
    threshold: Level
    pack: PackKey
    target: Level | None = None
    """Above the threshold; left out: the threshold."""
    caps: Caps = Caps()


class TopUpAnswer(Struct, frozen=True, kw_only=True):
    """What is set, and what it is about now."""

    enabled: bool
    state: Literal["off", "ready", "in_flight", "backoff", "suspended", "needs_authentication"]
    threshold: str | None
    target: str | None
    pack: str | None
    caps: Caps
    currency: str | None
    """Of the month's cap."""
    declines: int
    """In a row: the third suspends it until another card is there."""
    retry_at: datetime | None
    reason: str | None
    """Why it is suspended or waits: the bank's words, that there is no card, or that nothing can be
    bought for now."""
    purchase_id: str | None
    """Of the attempt that is open."""
