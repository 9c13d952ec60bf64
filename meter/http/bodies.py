"""The bodies of requests, as callers write them. See `api.md` for what each member means."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from ledger.amounts import AMOUNT_PATTERN
from meter.catalog import Aggregation, ChargedBy
from meter.http.usage_bodies import RateCardKey, UsageList

Amount = Annotated[
    str,
    Meta(
        description="A plain decimal string in units of the asset, above 0.",
        extra_json_schema={"pattern": AMOUNT_PATTERN},
        examples=["12.5"],
    ),
]
Time = Annotated[
    str,
    Meta(
        description="RFC 3339 with an offset.",
        extra_json_schema={"format": "date-time"},
        examples=["2026-05-04T09:00:00Z"],
    ),
]
CustomerId = Annotated[
    str,
    Meta(
        description="Your own id of the customer: 1-255 bytes, kept as it is.",
        extra_json_schema={"minLength": 1, "maxLength": 255},
        examples=["acme"],
    ),
]
Metadata = Annotated[
    dict[str, Any],
    Meta(description="Free: at most 50 members, 8 levels, 16 KiB."),
]
Reference = Annotated[str, Meta(max_length=255)]
Reason = Annotated[str, Meta(max_length=500)]
ExpiresIn = Annotated[int, Meta(ge=1, le=86_400, description="Seconds.")]


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unknown members are refused, with their pointer.

    An amount that may be left out may not be null: that is a caller's missing value, not "all".
    """


class ReserveBody(Body, frozen=True, kw_only=True):
    """How much: `amount`, or `usage` as an upper estimate."""

    customer_id: CustomerId
    amount: Amount | UnsetType = UNSET
    usage: UsageList | UnsetType = UNSET
    rate_card: RateCardKey | UnsetType = UNSET
    minimum: Amount | UnsetType = UNSET
    asset: str | UnsetType = UNSET
    expires_in: ExpiresIn = 600
    reference: Reference | None = None
    metadata: Metadata | None = None


class CaptureBody(Body, frozen=True, kw_only=True):
    amount: (
        Annotated[
            str,
            Meta(
                description='Left out: all that is left. "0": end the hold without a charge.',
                extra_json_schema={"pattern": AMOUNT_PATTERN},
            ),
        ]
        | UnsetType
    ) = UNSET
    usage: UsageList | UnsetType = UNSET
    final: bool = True
    above_hold: Literal["deny", "take"] = "deny"
    effective_at: Time | None = None
    metadata: Metadata | None = None


class VoidHoldBody(Body, frozen=True, kw_only=True):
    pass


class Add(Body, frozen=True, kw_only=True):
    amount: Amount | UnsetType = UNSET
    usage: UsageList | UnsetType = UNSET


class ExtendBody(Body, frozen=True, kw_only=True):
    expires_in: ExpiresIn | None = None
    add: Add | UnsetType = UNSET


class ConsumeBody(Body, frozen=True, kw_only=True):
    """How much: `amount`, or `usage`, which is priced and recorded."""

    customer_id: CustomerId
    amount: Amount | UnsetType = UNSET
    usage: UsageList | UnsetType = UNSET
    rate_card: RateCardKey | UnsetType = UNSET
    asset: str | UnsetType = UNSET
    reference: Reference | None = None
    metadata: Metadata | None = None
    effective_at: Time | None = None


class ReverseBody(Body, frozen=True, kw_only=True):
    amount: Amount | UnsetType = UNSET
    reason: Reason | None = None


class CostBody(Body, frozen=True, kw_only=True):
    amount: Annotated[
        str,
        Meta(
            description="What was paid, tax taken off. 0 is allowed.",
            extra_json_schema={"pattern": AMOUNT_PATTERN},
        ),
    ]
    currency: Annotated[str, Meta(description="ISO 4217, upper case.", examples=["USD"])]


class RolloverBody(Body, frozen=True, kw_only=True):
    max: Amount
    expires_in: Annotated[int, Meta(ge=1, le=315_360_000, description="Seconds.")] | None = None


class RecurrenceBody(Body, frozen=True, kw_only=True):
    interval: Literal["day", "week", "month", "year"]
    count: Annotated[int, Meta(ge=1, le=1_000)] = 1
    anchor: Time | None = None
    rollover: RolloverBody | None = None


class GrantBody(Body, frozen=True, kw_only=True):
    customer_id: CustomerId
    amount: Amount
    asset: str = "credits"
    category: Literal["paid", "promotional"]
    cost: CostBody | None = None
    priority: Annotated[int, Meta(ge=0, le=100, description="Lower burns first.")] = 50
    effective_at: Time | None = None
    expires_at: Time | None = None
    recurrence: RecurrenceBody | None = None
    reason: Reason | None = None
    metadata: Metadata | None = None


class VoidGrantBody(Body, frozen=True, kw_only=True):
    reason: Reason | None = None
    money: Literal["refunded", "breakage"] | None = None


class OverageBody(Body, frozen=True, kw_only=True):
    policy: Literal["deny", "owe", "bill"]
    limit: Amount | None = None


class CustomerBody(Body, frozen=True, kw_only=True):
    name: Annotated[str, Meta(max_length=255)] | None = None
    email: Annotated[str, Meta(max_length=320)] | None = None
    time_zone: Annotated[str, Meta(max_length=64)] | None = None
    currency: Annotated[str, Meta(description="ISO 4217, upper case.")] | None = None
    rate_card: RateCardKey | None = None
    stripe_customer_id: (
        Annotated[
            str,
            Meta(
                pattern="^cus_[A-Za-z0-9_]{1,60}$",
                description="Who it is at Stripe already; left out, somebody is made there.",
            ),
        ]
        | None
    ) = None
    overage: OverageBody | None = None
    metadata: Metadata | None = None


class CloseBody(Body, frozen=True, kw_only=True):
    pass


class TokenBody(Body, frozen=True, kw_only=True):
    scopes: Annotated[
        list[Literal["customers:read", "usage:read", "billing:read"]],
        Meta(min_length=1, max_length=3),
    ]
    expires_in: ExpiresIn


class KeyBody(Body, frozen=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=255)]
    scopes: Annotated[list[str], Meta(min_length=1, max_length=20)]
    customer_id: CustomerId | None = None
    expires_at: Time | None = None


Name = Annotated[str, Meta(min_length=1, max_length=255)]


class EventBody(Struct, frozen=True, kw_only=True):
    """A CloudEvent. Members beyond these are extension attributes, kept with the event."""

    id: Name
    """With `source`: names the event for its retries."""
    source: Name
    type: Name
    subject: CustomerId
    specversion: Literal["1.0"] = "1.0"
    time: Time | UnsetType = UNSET
    datacontenttype: str | UnsetType = UNSET
    data: Annotated[
        dict[str, Any], Meta(description="Free: at most 50 members, 8 levels, 64 KiB.")
    ] = {}


class CorrectBody(Body, frozen=True, kw_only=True):
    customer_id: CustomerId
    source: Name
    id: Name
    correction_id: Name
    action: Literal["cancel", "replace"]
    data: dict[str, Any] | UnsetType = UNSET
    time: Time | None = None


class MeterBody(Body, frozen=True, kw_only=True):
    event_type: Name
    aggregation: Aggregation
    value_property: str | None = None
    group_by: dict[str, str] = {}
    filters: dict[str, Any] | None = None
    unit: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    charge: ChargedBy = "none"


class AssetBody(Body, frozen=True, kw_only=True):
    scale: Annotated[int, Meta(ge=0, le=12)]


class TestClockBody(Body, frozen=True, kw_only=True):
    advance: Annotated[int, Meta(ge=0, le=400 * 86_400, description="Seconds.")] | None = None
    to: Time | None = None


class BatchBody(Body, frozen=True, kw_only=True):
    operations: Annotated[list[dict[str, Any]], Meta(max_length=1_000)]
