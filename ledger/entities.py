"""What a customer has, as the books see it under the lock: lots, holds, debts, charges, grants."""

from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from ledger.calendar import Interval
from ledger.chart import Category
from ledger.rated import CardVersion, Line
from ledger.requests import Cost, Policy

FOREVER: Final = datetime.max.replace(tzinfo=UTC)
BurnKey = tuple[int, bool, datetime, bool, datetime, datetime, int]


class Lot(Struct, eq=False):
    """One parcel of credit. amount = remaining + burned + expired + voided, at every moment."""

    lot_no: int
    grant_no: int
    asset: str
    category: Category
    amount: int
    remaining: int
    pinned: int
    expired: int
    voided: int
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    created_at: datetime
    is_upcoming: bool = False
    """Granted and not yet activated: its credit sits in the account `upcoming`."""
    is_rollover: bool = False
    voided_at: datetime | None = None
    cost: Cost | None = None
    deferred_amount: int = 0
    deferred_units: int = 0
    purchase_no: int | None = None
    clawback_due: int = 0
    """To come back to Stripe's side, and pinned: taken as it returns."""
    written_off: int = 0
    """To come back, and burned: forgiven."""
    lapsed: int = 0
    """To come back, and run out before: a part of `expired`."""
    is_offered: bool = False
    """Whether it stands in `Books.order`."""
    is_reshaped: bool = False
    """More than `remaining` and `pinned` changed."""
    is_new: bool = False

    @property
    def unpinned(self) -> int:
        return self.remaining - self.pinned

    @property
    def returnable(self) -> int:
        """What ran out and late usage may still use. Of a plan's lot that was kept longer nothing:
        it would be usage of after its first end as well."""
        if self.is_rollover and self.purchase_no is not None:
            return 0
        return self.expired - self.lapsed

    @property
    def kept(self) -> int:
        """What it has left for good: its share of the cost is still deferred."""
        return self.remaining - self.clawback_due

    @property
    def burn_key(self) -> BurnKey:
        """Priority, earlier expiry (never last), promotional first, effective, created, id."""
        expires_at = self.expires_at
        return (
            self.priority,
            expires_at is None,
            expires_at or FOREVER,
            self.category == "paid",
            self.effective_at,
            self.created_at,
            self.lot_no,
        )

    def ended_by(self, now: datetime) -> bool:
        """Whether its own end has been reached at `now`; intervals are [start, end)."""
        return self.expires_at is not None and self.expires_at <= now

    def status(self, now: datetime) -> str:
        if self.voided_at is not None:
            return "voided"
        if self.effective_at > now:
            return "pending"
        if self.remaining == 0 and self.expired == 0:
            return "depleted"
        return "expired" if self.ended_by(now) else "active"


class Hold(Struct, eq=False):
    """Value set aside. What it has left is `pins` (per lot) plus `uncovered` (under `policy`)."""

    hold_no: int
    asset: str
    status: str
    requested: int
    amount: int
    captured: int
    uncovered: int
    policy: Policy | None
    pins: dict[int, int]
    """lot_no → pinned. An ended hold keeps what it had pinned just before its end."""
    expires_at: datetime
    created_at: datetime
    ended_at: datetime | None = None
    """The instant of its end in the world: an expired hold's deadline."""
    ended_created_at: datetime | None = None
    """When the books learned of the end."""
    reference: str | None = None
    metadata: str | None = None
    steps: int = 0
    """How many earlier pin totals are kept (see HoldStep)."""
    charges: list["HoldCharge"] | None = None
    """The latest charges, newest first; None if not loaded."""
    card: CardVersion | None = None
    """The rate card that its usage is priced by: the one of its first estimate."""
    is_card_new: bool = False
    is_new: bool = False

    @property
    def pinned(self) -> int:
        return sum(self.pins.values())

    @property
    def remaining(self) -> int:
        return sum(self.pins.values()) + self.uncovered if self.status == "open" else 0


class HoldStep(Struct, frozen=True):
    """What an open hold had pinned before `at`: lets a past moment be asked."""

    hold_no: int
    step_no: int
    at: datetime
    pinned_before: int


class HoldCharge(Struct, frozen=True):
    seq: int
    amount: int
    created_at: datetime


class Debt(Struct, eq=False):
    """What a charge or a clawback left unpaid. Still open: amount − repaid − cancelled."""

    debt_no: int
    asset: str
    charge_seq: int
    """The journal that left it."""
    amount: int
    repaid: int = 0
    cancelled: int = 0
    returned: int = 0
    """Of `repaid`, what undoing gave back to the lots that had paid."""
    lot_no: int | None = None
    """Of a clawback: the lot whose credit had been spent."""
    payments: list["Draw"] | None = None
    """Of a clawback: what each repayment took from each lot, in order, where that was loaded."""
    is_new: bool = False

    @property
    def open(self) -> int:
        return self.amount - self.repaid - self.cancelled


class Draw(Struct, frozen=True):
    lot_no: int
    amount: int


class Charge(Struct, eq=False):
    """One capture or consume, as far as undoing and showing it needs."""

    seq: int
    asset: str
    draws: list[Draw]
    """What each lot gave, in draw order."""
    billed: int
    owed: int
    reversed: int
    effective_at: datetime
    created_at: datetime
    hold_no: int | None = None
    late: bool = False
    debt_no: int | None = None
    payments: list[Draw] | None = None
    """What each repayment of its debt took from each lot, in order; loaded with the debt."""
    reference: str | None = None
    metadata: str | None = None
    lines: list[Line] | None = None
    """None: it was for an amount, or they were not loaded."""

    @property
    def amount(self) -> int:
        return sum(draw.amount for draw in self.draws) + self.overage

    @property
    def overage(self) -> int:
        return self.billed + self.owed


class Grant(Struct, eq=False):
    """The commercial act. A recurring one makes a lot per period until `next_start_at` is None."""

    grant_no: int
    asset: str
    amount: int
    category: Category
    priority: int
    effective_at: datetime
    created_at: datetime
    origin: str
    journal_seq: int
    """The journal of its first lot."""
    expires_at: datetime | None = None
    cost: Cost | None = None
    interval: Interval | None = None
    count: int = 1
    anchor: datetime | None = None
    rollover_max: int | None = None
    rollover_expires_in: int | None = None
    next_start_at: datetime | None = None
    voided_at: datetime | None = None
    void_money: str | None = None
    has_purchase: bool = False
    reason: str | None = None
    metadata: str | None = None
    is_new: bool = False
