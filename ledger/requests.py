"""What a caller asks of the books, after the edge has parsed it: ids decoded, amounts as integers.

`key` is the caller's idempotency key (None where none is needed) and `fingerprint` the digest of
what is compared under it. `notes` carries free text beside the facts, with the salt of its digest.
"""

from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from ledger.bought import FreezeReason, Funds, Terms
from ledger.calendar import Interval
from ledger.chart import Category
from ledger.rated import Usage

Policy = Literal["deny", "owe", "bill"]
AboveHold = Literal["deny", "take"]


class Notes(Struct, frozen=True):
    """Free text of one fact: erasable, so it enters the hash chain only as a salted digest."""

    salt: bytes
    reference: str | None = None
    reason: str | None = None
    metadata: str | None = None
    """A JSON object as the caller wrote it."""


class Request(Struct, frozen=True, kw_only=True):
    """Common to all: whose books, under which key, decided by which API key."""

    customer_no: int
    key: str | None = None
    operation: str = ""
    fingerprint: bytes = b""
    notes: Notes | None = None
    api_key_no: int | None = None
    """Checked again under the lock: no effect commits under a key revoked before."""
    trace_id: str | None = None
    request_id: str = ""
    scale: int | None = None
    """Of the asset, as the edge knew it when it read the amounts. Checked against the books'."""


class Reserve(Request, frozen=True, kw_only=True):
    asset: str | None
    """None, with usage: that of its rate card."""
    amount: int = 0
    usage: Usage | None = None
    """Instead of `amount`: an upper estimate, priced under the lock."""
    minimum: int | None = None
    expires_in: int = 600
    """Seconds."""


class Capture(Request, frozen=True, kw_only=True):
    hold_no: int
    amount: str | None = None
    """A decimal string: its asset, and so its scale, is the hold's. None = all that is left."""
    usage: Usage | None = None
    """Instead of `amount`: what was used."""
    final: bool = True
    above_hold: AboveHold = "deny"
    effective_at: datetime | None = None


class VoidHold(Request, frozen=True, kw_only=True):
    hold_no: int


class Extend(Request, frozen=True, kw_only=True):
    hold_no: int
    expires_in: int | None = None
    add: str | None = None
    add_usage: Usage | None = None


class Consume(Request, frozen=True, kw_only=True):
    asset: str | None
    """None, with usage: that of its rate card."""
    amount: int = 0
    usage: Usage | None = None
    """Instead of `amount`: what was used."""
    effective_at: datetime | None = None


class EventRef(Struct, frozen=True):
    """A stored event and one meter that reads it; what it says is read under the lock."""

    meter: str
    meter_no: int
    source: str
    event_id: str
    at: datetime


class ChargeEvents(Request, frozen=True, kw_only=True):
    """Charge events of this customer that are not charged yet. They are facts: never refused."""

    events: tuple[EventRef, ...]


class CorrectEvent(Request, frozen=True, kw_only=True):
    """An event was cancelled or replaced, in this transaction: what it was charged follows."""

    source: str
    event_id: str
    at: datetime


class ChargeWindows(Request, frozen=True, kw_only=True):
    """Charge what meters come to in the windows of these moments, once they have closed."""

    windows: tuple[tuple[int, datetime], ...]
    """(meter_no, a moment of the window)."""
    ready_by: datetime
    """Windows that end later are not closed yet."""


class Reverse(Request, frozen=True, kw_only=True):
    charge_seq: int
    amount: str | None = None


class Cost(Struct, frozen=True):
    amount: int
    currency: str


class Rollover(Struct, frozen=True):
    max: int
    expires_in: int | None = None


class Recurrence(Struct, frozen=True):
    interval: Interval
    count: int = 1
    anchor: datetime | None = None
    rollover: Rollover | None = None


OPENING: Final = "opening"
"""Where a grant came from that takes over a balance of another system: it was paid there."""


class GrantCredit(Request, frozen=True, kw_only=True):
    asset: str
    amount: int
    category: Category
    cost: Cost | None = None
    priority: int = 50
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    recurrence: Recurrence | None = None
    origin: str = "api"


class VoidGrant(Request, frozen=True, kw_only=True):
    grant_no: int
    money: Literal["refunded", "breakage"] | None = None


class OpenPurchase(Request, frozen=True, kw_only=True):
    """Record a purchase before it is paid. Of one line of an invoice there is one purchase."""

    terms: Terms
    ordered_no: int | None = None
    """The purchase of a plan that was ordered: the first line that pays it says what it is."""


class CreditPurchase(Request, frozen=True, kw_only=True):
    """It was paid: give its credits, once however often this is asked."""

    purchase_no: int
    currency: str
    captured: int
    """What was paid, tax included, after discounts."""
    tax: int = 0
    listed: int | None = None
    """Before discounts and tax, where known: another than expected parks the purchase."""
    rollover: Rollover | None = None
    """What of a plan's credits stays when its period ends."""


class MovePurchase(Request, frozen=True, kw_only=True):
    """Bring lots and money to where the purchase's current state says they belong."""

    purchase_no: int
    funds: Funds
    ends: tuple[str, ...] = ()
    """References of freezes that end with this news: a refund's fate, a dispute's."""


class MarkPurchase(Request, frozen=True, kw_only=True):
    """It was not paid after all, or a person has to look at it; `open` takes that back."""

    purchase_no: int
    mark: Literal["open", "failed", "parked"]


class FreezePurchase(Request, frozen=True, kw_only=True):
    """Pin what `amount` of money stands for (None: all of it), as far as it is unspent.

    Asked again with the same reference it moves to what is asked for: more if more is unspent now.
    """

    purchase_no: int
    reason: FreezeReason
    reference: str
    amount: int | None = None


class ReleasePurchase(Request, frozen=True, kw_only=True):
    """End the freezes of a reference: their credit returns to its lots."""

    purchase_no: int
    reference: str


class StartRefund(Request, frozen=True, kw_only=True):
    """Before Stripe is asked for a refund of ours: how much it comes to, and the freeze for it.

    Neither `amount` nor `credits`: what is unspent.
    """

    purchase_no: int
    reference: str
    amount: int | None = None
    """Money."""
    credits: int | None = None
    waiting: int = 0
    """Money of refunds that Stripe is still to be asked for."""
    step: int = 1
    """The least part of the currency that Stripe moves, in its smallest unit."""


class SetOverage(Request, frozen=True, kw_only=True):
    """The customer's own overage policy; the limit counts the asset `credits`."""

    policy: Policy
    limit: int | None = None


class Claim(Request, frozen=True, kw_only=True):
    """Take a key for something that is done at Stripe: its answer names the claim, once."""


class SetStanding(Request, frozen=True, kw_only=True):
    """What the customer's subscription allows: see `Books`."""

    gated_from: datetime | None
    unbilled_from: datetime | None
    billed_before: int
    plan_until: datetime | None
    policy: Policy
    """The plan's, of whoever has no own."""
    limit: int | None = None


class CloseCustomer(Request, frozen=True, kw_only=True):
    """No new holds, charges or grants from now on; what is open can still be finished."""


class Settle(Request, frozen=True, kw_only=True):
    """Post what time has done and nothing else (the sweeper's request)."""


class Recognise(Request, frozen=True, kw_only=True):
    """Post the money halves of what left the customer's paid lots (the request of a job)."""
