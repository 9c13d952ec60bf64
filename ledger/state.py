"""What `decide` works on: one customer's books as loaded under the lock, and what it changed.

`Books` is owned by the call that loaded it. Deciding moves it forward in place and keeps a list of
what is new or changed, which `post` writes with set-based statements. It may hold a part of the
customer's rows only; whoever needs a row that was left out raises `NeedMore`, and the caller loads
the rest and decides again from the beginning.
"""

from bisect import insort
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final

from msgspec import Struct

from ledger.bought import Clawback, Freeze, Purchase
from ledger.calendar import Interval
from ledger.chart import Category
from ledger.ids import public_id
from ledger.rated import CardVersion, CounterKey, Line, Pricing, UsageState
from ledger.requests import Cost, Notes, Policy

MICROSECOND: Final = timedelta(microseconds=1)
GENESIS: Final = bytes(32)
"""`prev_hash` of a customer's first journal."""

FOREVER: Final = datetime.max.replace(tzinfo=UTC)
BurnKey = tuple[int, bool, datetime, bool, datetime, datetime, int]


class NeedMore(Exception):
    """Deciding needs rows of this customer that were not loaded."""

    def __init__(
        self,
        customer_no: int,
        *,
        wants_due: bool = False,
        late: bool = False,
        counter: CounterKey | None = None,
    ) -> None:
        super().__init__(f"customer {customer_no}: not everything needed was loaded")
        self.customer_no = customer_no
        self.counter = counter
        """The charges of this counter are needed, and nothing else."""
        self.wants_due = wants_due
        """What time has done, or more debts, are needed, not more lots."""
        self.late = late


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


class Account(Struct, eq=False):
    """The credit accounts of a customer in one asset: balances now, and moves to be written."""

    asset: str
    scale: int
    wallet: int = 0
    pending: int = 0
    upcoming: int = 0
    owed: int = 0
    billed: int = 0
    uncovered_owe: int = 0
    uncovered_bill: int = 0
    debits: dict[str, int] = {}
    credits: dict[str, int] = {}
    pending_before: int = 0
    uncovered_owe_before: int = 0
    uncovered_bill_before: int = 0
    is_new: bool = False

    @property
    def available(self) -> int:
        return self.wallet - self.pending


class MoneyMoves(Struct, eq=False):
    """What this batch moves in one currency, per money account."""

    debits: dict[str, int] = {}
    credits: dict[str, int] = {}


class Transfer(Struct, frozen=True):
    asset: str
    debit: str
    credit: str
    amount: int
    lot_no: int | None = None
    debt_no: int | None = None


class Journal(Struct, eq=False):
    """One business fact as it will be written: balanced, numbered, chained."""

    seq: int
    kind: str
    effective_at: datetime
    created_at: datetime
    book_date: date
    origin: str
    transfers: list[Transfer]
    late_for: str | None = None
    """The closed month, `YYYY-MM`, that the fact belongs to by its effective day."""
    request_key: str | None = None
    hold_no: int | None = None
    grant_no: int | None = None
    lot_no: int | None = None
    charge_seq: int | None = None
    debt_no: int | None = None
    is_late: bool = False
    notes: Notes | None = None
    notes_digest: bytes | None = None
    prev_hash: bytes = GENESIS
    hash: bytes = GENESIS


class Books(Struct, eq=False):
    """One customer under the lock."""

    customer_no: int
    customer_id: str
    created_at: datetime
    policy: Policy = "deny"
    limit: int | None = None
    signup_due: bool = False
    closed_at: datetime | None = None
    last_no: int = 0
    last_seq: int = 0
    last_hash: bytes = GENESIS
    last_created_at: datetime | None = None
    next_due_at: datetime | None = None
    """Nothing falls due before this instant (None: nothing at all)."""

    accounts: dict[str, Account] = {}
    lots: dict[int, Lot] = {}
    holds: dict[int, Hold] = {}
    debts: dict[int, Debt] = {}
    """Open debts (oldest first), and those of charges being undone."""
    grants: dict[int, Grant] = {}
    charges: dict[int, Charge] = {}
    purchases: dict[int, Purchase] = {}
    freezes: dict[int, Freeze] = {}
    """The open freezes of the purchases that are loaded."""
    usage: UsageState | None = None
    """Loaded where a request states usage."""
    answered: dict[str, "Answered"] = {}
    """Requests of this customer already answered, by key."""

    is_full: bool = True
    """All open lots are loaded (else the first in burn order)."""
    has_due: bool = True
    """What time has done by now is loaded: due holds, ending and starting lots, open series."""
    has_late: bool = True
    """Lots whose credit expired in the last 35 days are loaded too."""
    debts_until: int | None = None
    """Open debts after this one were not loaded; None: all are."""
    later_due_at: datetime | None = None
    """With `has_due`: when something that was not loaded falls due, at the earliest after now."""
    is_cut: bool = False
    """More is due than was loaded."""

    order: dict[str, list[tuple[BurnKey, Lot]]] = {}
    """Per asset, the lots that may be drawn on, in burn order."""
    horizon: dict[str, BurnKey] = {}
    """Per asset, where the loaded part of the burn order ends, if it is cut."""

    learned: tuple[datetime, datetime] | None = None
    """What the clock said, and the `moment` made of it."""
    settled_at: datetime | None = None
    is_unsettled: bool = False
    """Time has done more than one request may post."""

    journals: list[Journal] = []
    money: dict[str, MoneyMoves] = {}
    steps: list[HoldStep] = []
    lines: list[tuple[int, int, Line]] = []
    """New charge lines: (seq, place from 1, line)."""
    counted: dict[CounterKey, datetime] = {}
    """Counters that moved, with the end of their period."""
    changed_lots: dict[int, Lot] = {}
    changed_holds: dict[int, Hold] = {}
    changed_debts: dict[int, Debt] = {}
    changed_grants: dict[int, Grant] = {}
    changed_charges: dict[int, Charge] = {}
    changed_purchases: dict[int, Purchase] = {}
    changed_freezes: dict[int, Freeze] = {}
    is_changed: bool = False
    is_redefined: bool = False
    """Policy, limit, sign-up mark or closing changed."""

    def take_no(self) -> int:
        """The customer's next object number (holds, lots, grants, debts share one count)."""
        self.last_no += 1
        self.is_changed = True
        return self.last_no

    def moment(self, now: datetime) -> datetime:
        """When the book learns of what this batch does to holds: after all that it knew before.

        The clock, unless it has stepped back. So a past moment of the book never changes.
        """
        if self.learned is not None and self.learned[0] == now:
            return self.learned[1]
        last = self.last_created_at
        moment = now if last is None or now > last else last + MICROSECOND
        self.learned, self.last_created_at = (now, moment), moment
        self.is_changed = True
        return moment

    def due(self, at: datetime | None) -> None:
        """Something falls due at `at`."""
        if at is not None and (self.next_due_at is None or at < self.next_due_at):
            self.next_due_at = at
            self.is_changed = True

    def public(self, prefix: str, no: int) -> str:
        return public_id(prefix, self.customer_no, no)

    def offer(self, lot: Lot) -> None:
        """Put a lot where drawing looks for it, unless it is there."""
        if not (lot.is_offered or lot.is_upcoming or lot.unpinned == 0):
            lot.is_offered = True
            line = self.order.setdefault(lot.asset, [])
            insort(line, (lot.burn_key, lot), key=_burn_key)

    def keep_lot(self, lot: Lot) -> Lot:
        """Keep a lot as it was loaded, unless it is there; the one that is."""
        known = self.lots.get(lot.lot_no)
        if known is not None:
            return known
        self.lots[lot.lot_no] = lot
        if lot.voided_at is None:
            self.offer(lot)
        return lot

    def change_lot(self, lot: Lot, *, reshaped: bool = False) -> None:
        self.changed_lots[lot.lot_no] = lot
        if reshaped:
            lot.is_reshaped = True

    def redefine(self) -> None:
        self.is_redefined = self.is_changed = True

    def change_purchase(self, purchase: Purchase) -> None:
        self.changed_purchases[purchase.purchase_no] = purchase
        self.is_changed = True

    def change_freeze(self, freeze: Freeze) -> None:
        self.changed_freezes[freeze.freeze_no] = freeze
        self.is_changed = True

    def change_hold(self, hold: Hold) -> None:
        self.changed_holds[hold.hold_no] = hold


def _burn_key(entry: tuple[BurnKey, Lot]) -> BurnKey:
    return entry[0]


class Answered(Struct, eq=False):
    """A request of this customer that has its answer: stored earlier, or decided in this batch."""

    fingerprint: bytes
    status: int
    body: bytes | None = None
    """The stored answer; None while its outcome of this batch is not rendered yet."""
    outcome: object = None


class Settings(Struct, frozen=True):
    """What deciding needs to know of the installation."""

    scales: dict[str, int]
    """Scale of every asset."""
    books_time_zone: tzinfo
    hold_lifetime_max: timedelta = timedelta(days=7)
    clawback: Clawback = "owe"
    pricing: Pricing | None = None
    closed_through: date | None = None
    """The last accounting day of the latest closed month; None: all is open."""
    signup_amount: int | None = None
    signup_expires_in: int | None = None
    signup_priority: int = 50
