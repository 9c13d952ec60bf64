"""What a purchase is and what is booked of it; the formula of what it is still worth. Pure.

A purchase is our record of one pack, or of one line of a plan's invoice. Its lots, its money and
what went back of both follow from its state: `claw_of` is the one rule, and everything that moves
credits moves only the difference to what is booked.
"""

from datetime import datetime
from typing import Literal

from msgspec import Struct

from ledger.amounts import half_even

PurchaseKind = Literal["pack", "plan"]
PurchaseStatus = Literal["open", "credited", "failed", "parked"]
FreezeReason = Literal["refund", "dispute", "fraud"]
FreezeEnd = Literal["clawback", "released", "split"]
Clawback = Literal["owe", "zero"]
"""What becomes of credit that is to come back and was spent: a debt, or a write-off."""


class Terms(Struct, frozen=True, kw_only=True):
    """What was expected of a purchase when it was made, before anything was paid."""

    kind: PurchaseKind
    product: str
    """The version of the pack or plan, such as `starter@3`."""
    asset: str
    credits: int
    currency: str
    amount: int
    """Before discounts and tax."""
    bonus: int = 0
    quantity: int = 1
    priority: int = 50
    bonus_priority: int = 50
    effective_at: datetime | None = None
    """A plan's period. None: when it is credited."""
    expires_at: datetime | None = None
    expires_in: int | None = None
    """Seconds from the crediting, of the credits that were paid for (unless `expires_at`)."""
    bonus_expires_in: int | None = None
    """Of the bonus; None: as the credits that were paid for."""
    invoice_id: str | None = None
    line_id: str | None = None


class Funds(Struct, frozen=True, kw_only=True):
    """What has become of a purchase's money, in its currency's smallest unit, as last fetched."""

    refunded: int = 0
    """Of refunds that succeeded."""
    lost: int = 0
    """Of disputes that were lost."""
    disputed: int = 0
    """Withdrawn for disputes that are neither lost nor won yet."""
    fees: int = 0

    @property
    def returned(self) -> int:
        return self.refunded + self.lost


class Purchase(Struct, eq=False):
    """A purchase, and what is booked of its money."""

    purchase_no: int
    terms: Terms
    created_at: datetime
    status: PurchaseStatus = "open"
    captured: int = 0
    """What was paid, tax included, after discounts."""
    tax: int = 0
    funds: Funds = Funds()
    tax_returned: int = 0
    deferred_returned: int = 0
    """Of what went back, the part that was still deferred; the rest is in `refunds`."""
    credited_at: datetime | None = None
    is_new: bool = False
    is_filled: bool = False
    """Its terms are those of the line that pays it."""

    @property
    def cost(self) -> int:
        return self.captured - self.tax

    @property
    def gone(self) -> int:
        return min(self.captured, self.funds.returned)

    @property
    def refunds(self) -> int:
        """What is booked in `refunds`: returned, and neither tax nor still deferred."""
        return self.funds.returned - self.tax_returned - self.deferred_returned


class Freeze(Struct, eq=False):
    """What is pinned of one lot without a deadline. Only its end ever changes."""

    freeze_no: int
    purchase_no: int
    lot_no: int
    asset: str
    reason: FreezeReason
    reference: str
    """Whose it is: our refund's id, or that of Stripe's object."""
    amount: int
    started_at: datetime
    created_at: datetime
    """When the books learned of it."""
    ended_at: datetime | None = None
    ended_created_at: datetime | None = None
    ended_as: FreezeEnd | None = None
    is_new: bool = False


def claw_of(granted: int, gone: int, captured: int) -> int:
    """What is to come back of `granted` credits when `gone` of `captured` money has gone back.

    half_even(granted × gone ÷ captured); exactly all when all is gone. Nothing was captured (a
    coupon of 100 %): nothing comes back.
    """
    if captured == 0:
        return 0
    return granted if gone >= captured else half_even(granted * gone, captured)


def tax_of(tax: int, gone: int, captured: int) -> int:
    """How much of what has gone back was tax: its share, and all of it when all is gone."""
    return claw_of(tax, gone, captured)
