"""What `decide` works on: one customer's books as loaded under the lock, and what it changed.

`Books` is owned by the call that loaded it. Deciding moves it forward in place and keeps a list of
what is new or changed, which `post` writes with set-based statements. It may hold a part of the
customer's rows only; whoever needs a row that was left out raises `NeedMore`, and the caller loads
the rest and decides again from the beginning.
"""

from bisect import insort
from datetime import date, datetime, timedelta, tzinfo
from typing import Final

from msgspec import Struct

from ledger.bought import Clawback, Freeze, Purchase
from ledger.entities import BurnKey, Charge, Debt, Grant, Hold, HoldStep, Lot
from ledger.ids import public_id
from ledger.rated import CounterKey, Line, Pricing, UsageState
from ledger.requests import Notes, Policy
from ledger.revenue import Known, Moved

MICROSECOND: Final = timedelta(microseconds=1)
GENESIS: Final = bytes(32)
"""`prev_hash` of a customer's first journal."""


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


class Unrecognised(Struct, eq=False):
    """What was loaded to recognise a customer's revenue."""

    last_seq: int
    """The last journal that `moves` cover."""
    moves: dict[int, list[Moved]]
    """By lot."""
    known: dict[int, Known]
    voids: dict[int, str]
    """Of lots of voided grants: where the money went."""


class Recognised(Struct, frozen=True):
    """What is added to what is known of a lot's deferred revenue."""

    lot_no: int
    revenue: int = 0
    breakage: int = 0
    returned: int = 0
    recognised_seq: int = 0


class Books(Struct, eq=False):
    """One customer under the lock."""

    customer_no: int
    customer_id: str
    created_at: datetime
    policy: Policy = "deny"
    limit: int | None = None
    signup_due: bool = False
    closed_at: datetime | None = None
    gated_from: datetime | None = None
    """From when on its plan lets nothing new start; None: it may."""
    has_own_overage: bool = False
    """The policy is the customer's own; else it is its plan's."""
    unbilled_from: datetime | None = None
    """From when on `bill` acts as `deny`: no subscription passes it on. None: it is in force."""
    billed_before: int = 0
    plan_until: datetime | None = None
    """What was billed before the current billing period."""
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
    unrecognised: Unrecognised | None = None
    """Loaded where revenue is to be recognised."""
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
    recognised: list[Recognised] = []
    recognised_seq: int | None = None
    """The last journal whose money half is recognised, if that is news."""
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

    def offer_again(self, lot: Lot) -> None:
        """Put a lot, whose end has moved, in its place of the burn order."""
        line = self.order.setdefault(lot.asset, [])
        line[:] = [entry for entry in line if entry[1] is not lot]
        lot.is_offered = False
        self.offer(lot)

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

    def undefer(self, lot_no: int, amount: int) -> None:
        """Note what left a lot's deferred revenue unearned: refunded, voided, moved along."""
        if amount:
            self.recognised.append(Recognised(lot_no, returned=amount))

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
