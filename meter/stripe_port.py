"""What the service needs of Stripe: the keys, and the calls, as a protocol.

The calls are made by `jobs.stripe_gateway`, which the composition puts in. Nothing here knows
Stripe's library.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, Protocol

from msgspec import Struct

LIVE_PREFIXES: Final = ("sk_live_", "rk_live_")

Kind = Literal[
    "customer",
    "product",
    "price",
    "session",
    "intent",
    "refund",
    "action",
    "setup",
    "portal",
    "invoice_item",
]
"""What is made at Stripe; an `action` is something done to a subscription, a `portal` says what
customers may do on their page."""
FaultKind = Literal["declined", "refused", "missing", "busy", "limited", "unauthorized", "unknown"]
"""`declined`: a card. `refused`: it will never work so. `missing`: there is no such object. `busy`:
the same is under way. `limited`: too many calls, nothing was done. `unauthorized`: the key is not
accepted. `unknown`: it may have been done."""


class StripeConfig(Struct, frozen=True, kw_only=True):
    """Keys of one Stripe account in one mode. Never shown."""

    secret_key: str
    publishable_key: str | None = None
    webhook_secrets: Sequence[str] = ()
    """Any of them may have signed a delivery: so they can be rotated."""
    api_base: str | None = None
    """Where Stripe is, without a slash at the end; None: Stripe itself."""

    @property
    def is_live(self) -> bool:
        return self.secret_key.startswith(LIVE_PREFIXES)

    def __repr__(self) -> str:
        return "StripeConfig(…)"


class StripeFault(Exception):
    """A call to Stripe that did not do what it was to do."""

    def __init__(
        self,
        kind: FaultKind,
        words: str,
        *,
        code: str | None = None,
        request_id: str | None = None,
        object_id: str | None = None,
        is_replayed: bool = False,
    ) -> None:
        super().__init__(words)
        self.object_id = object_id
        """Of a declined payment: its intent, which is there all the same."""
        self.is_replayed = is_replayed
        """Stripe will answer this key so for a day, whatever was done."""
        self.kind: FaultKind = kind
        self.code = code
        """Stripe's own: of a declined card the decline code."""
        self.request_id = request_id

    @property
    def is_final(self) -> bool:
        """Whether the same call would fail again."""
        return self.kind in {"declined", "refused", "missing"}


class Card(Struct, frozen=True, kw_only=True):
    """A saved card (or another means of payment, without the card's members)."""

    card_id: str
    kind: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    fingerprint: str
    """The same for the same card, however often it is saved. Never shown."""
    is_default: bool
    created_at: datetime


class SubscriptionItem(Struct, frozen=True, kw_only=True):
    """One price of a subscription, and the period that is paid for."""

    item_id: str
    price_id: str
    quantity: int
    period_start: datetime
    period_end: datetime
    created_at: datetime | None = None


class InvoiceBrief(Struct, frozen=True, kw_only=True):
    """A subscription's latest invoice, as far as its customer has to act on it."""

    invoice_id: str
    status: str
    amount_due: int
    hosted_url: str | None
    attempts: int
    next_attempt_at: datetime | None
    needs_action: bool = False
    """The bank asks the customer something (3-D Secure)."""


class SubscriptionState(Struct, frozen=True, kw_only=True):
    """A subscription as Stripe has it now."""

    subscription_id: str
    customer_id: str
    """Stripe's."""
    marks: Mapping[str, str]
    status: str
    currency: str
    items: tuple[SubscriptionItem, ...]
    """Those that are paid in advance."""
    anchor: datetime
    """From which its periods are counted."""
    metered: tuple[SubscriptionItem, ...] = ()
    """Those that bill by use."""
    started_at: datetime
    trial_start: datetime | None = None
    trial_end: datetime | None = None
    cancel_at: datetime | None = None
    canceled_at: datetime | None = None
    ended_at: datetime | None = None
    schedule_id: str | None = None
    update_expires_at: datetime | None = None
    """A change waits for its payment until then."""
    invoice: InvoiceBrief | None = None


class InvoiceLine(Struct, frozen=True, kw_only=True):
    """One line of an invoice. Amounts in the currency's smallest unit, negative for credit."""

    line_id: str
    price_id: str | None
    subscription_id: str | None
    is_proration: bool
    quantity: int
    amount: int
    """Before discounts and tax that is added."""
    discount: int
    tax_added: int
    tax_inside: int
    starts: datetime
    ends: datetime

    @property
    def paid(self) -> int:
        """After discounts, with tax."""
        return self.amount - self.discount + self.tax_added


class InvoiceState(Struct, frozen=True, kw_only=True):
    """An invoice of a subscription, with what was paid for it."""

    invoice_id: str
    customer_id: str
    subscription_id: str | None
    status: str
    currency: str
    amount_paid: int
    lines: tuple[InvoiceLine, ...]
    payments: tuple["Payment", ...] = ()


class Preview(Struct, frozen=True, kw_only=True):
    """What an invoice would be. Amounts in the currency's smallest unit."""

    amount_due: int
    tax: int
    currency: str
    lines: tuple[InvoiceLine, ...]
    words: tuple[str, ...]
    """What each line is called, in the same order."""


class Made(Struct, frozen=True):
    """An object that was made, and what of it is worth keeping: never a secret."""

    object_id: str
    url: str | None = None
    subscription: SubscriptionState | None = None
    """Of an action: how it left the subscription."""


class RefundState(Struct, frozen=True, kw_only=True):
    refund_id: str
    status: str
    amount: int
    call: str | None
    """The name of our call that made it; None: it was made elsewhere."""


class DisputeState(Struct, frozen=True, kw_only=True):
    dispute_id: str
    status: str
    amount: int
    withdrawn: int
    """What Stripe has taken for it and not given back, in the purchase's currency."""
    fee: int


class Payment(Struct, frozen=True, kw_only=True):
    """The money of one purchase as Stripe has it now, in the currency's smallest unit."""

    object_ids: tuple[str, ...]
    """The session and the intent, as far as there are."""
    marks: Mapping[str, str]
    """The metadata that we gave them."""
    status: Literal["open", "paid", "failed"]
    currency: str
    listed: int | None = None
    """Before discounts and tax."""
    captured: int = 0
    tax: int = 0
    fee: int = 0
    refunds: tuple[RefundState, ...] = ()
    disputes: tuple[DisputeState, ...] = ()
    is_suspected: bool = False
    """An early fraud warning is open."""


class UsageEvent(Struct, frozen=True, kw_only=True):
    """A piece of usage as Stripe is told of it."""

    identifier: str
    event_name: str
    customer_id: str
    """Stripe's."""
    value: str
    """A plain decimal."""
    at: datetime
    attempt: int
    """Each has an idempotency key of its own: by the identifier Stripe counts once, and a key that
    was answered with a fault is answered so for a day."""


class UsageInvoice(Struct, frozen=True):
    """The invoice that bills the usage of a period."""

    invoice_id: str
    finalized_at: datetime | None
    """From when on it can't change any more; None: it can."""


class News(Struct, frozen=True):
    """One event of Stripe's own list."""

    event_id: str
    body: bytes
    created_at: datetime


class Invoice(Struct, frozen=True, kw_only=True):
    """An invoice as its customer sees it. Amounts in the currency's smallest unit."""

    id: str
    number: str | None
    status: str
    currency: str
    total: int
    amount_paid: int
    amount_due: int
    hosted_url: str | None
    pdf_url: str | None
    created_at: datetime


class InvoicePage(Struct, frozen=True):
    data: list[Invoice]
    has_more: bool


class StripePort(Protocol):
    """Calls to Stripe. Each may raise StripeFault."""

    @property
    def is_accepted(self) -> bool | None:
        """Whether the last answer accepted our key; None: nothing was asked yet."""
        ...

    async def portal(self, params: Mapping[str, Any]) -> str:
        """The address of a page where a customer manages cards, invoices, subscriptions."""
        ...

    async def invoices(self, customer_id: str, limit: int, after: str | None) -> InvoicePage:
        """A customer's invoices, the newest first."""
        ...

    async def make(self, kind: Kind, params: Mapping[str, Any], key: str) -> Made:
        """Make an object under an idempotency key."""
        ...

    async def find(
        self, kind: Kind, name: str, params: Mapping[str, Any], since: datetime, until: datetime
    ) -> Made | None:
        """The object that the call `name` made with `params`, among those of that time."""
        ...

    async def client_secret(self, intent_id: str) -> str:
        """What the browser needs to pay an intent. Never stored."""
        ...

    async def payment(self, kind: Literal["session", "intent"], object_id: str) -> Payment:
        """The money behind a session or an intent, whole."""
        ...

    async def subscription(self, subscription_id: str) -> SubscriptionState: ...

    async def invoice(self, invoice_id: str) -> InvoiceState:
        """An invoice with all its lines, and refunds and disputes of what paid it."""
        ...

    async def invoices_since(self, subscription_id: str, since: datetime) -> list[str]:
        """The ids of a subscription's invoices that were made from then on."""
        ...

    async def invoice_of(self, intent_id: str) -> str | None:
        """The invoice that an intent pays; None: it is of none."""
        ...

    async def preview(self, params: Mapping[str, Any]) -> Preview:
        """The invoice that a change would make."""
        ...

    async def invoice_secret(self, invoice_id: str) -> str | None:
        """What the browser needs to pay an invoice. Never stored."""
        ...

    async def cards(self, customer_id: str) -> list[Card]:
        """A customer's saved cards: the default first, then the newest."""
        ...

    async def card_owner(self, card_id: str) -> str | None:
        """The customer that a card is saved for; None: nobody's, or there is no such card."""
        ...

    async def set_default_card(self, customer_id: str, card_id: str) -> None: ...

    async def forget_card(self, card_id: str) -> None: ...

    async def setup_secret(self, setup_id: str) -> str:
        """What the browser needs to save a card. Never stored."""
        ...

    async def intent_status(self, intent_id: str) -> str: ...

    async def cancel_intent(self, intent_id: str) -> str:
        """Give up an intent; its status then, whatever it is."""
        ...

    async def usage_meter(self, event_name: str) -> str:
        """The meter at Stripe that adds up what is told under a name, made if there is none.

        One that does something else is refused.
        """
        ...

    async def tell_usage(self, event: UsageEvent) -> None:
        """Tell one piece of usage; that Stripe knows it already is no fault."""
        ...

    async def stream_usage(self, events: Sequence[UsageEvent]) -> None:
        """Tell up to STREAM_MAX pieces in one call. What Stripe can't count it says later."""
        ...

    async def rejected_usage(self, event_id: str) -> Mapping[str, str]:
        """Why usage that was told is not counted, by identifier, as far as an error report says."""
        ...

    async def usage_sums(
        self, meter_id: str, customer_id: str, since: datetime, until: datetime
    ) -> Mapping[datetime, Decimal]:
        """What Stripe has counted of a customer, by the hours of [since, until) that have any."""
        ...

    async def invoice_at(self, subscription_id: str, ends: datetime) -> UsageInvoice | None:
        """The invoice that bills what a subscription used in the period that ended then."""
        ...

    async def is_deleted(self, customer_id: str) -> bool: ...

    async def news(self, since: datetime, until: datetime, most: int) -> Sequence[News] | None:
        """Events from then until before then, the oldest first; None: there are more than that."""
        ...

    async def close(self) -> None: ...
