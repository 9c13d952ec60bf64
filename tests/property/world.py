"""One customer's books in memory, moved by `decide`, and acts on them that need no ids.

An act names the things it is about by place ("the third latest hold"), so that random lists of
acts make sense and shrink. The laws play them in memory alone; the machine plays them on a database
too. Amounts are counts of the smallest unit.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from ledger import requests
from ledger.amounts import format_amount
from ledger.answers import ChargeAnswer, GrantAnswer, HoldAnswer
from ledger.calendar import Interval
from ledger.decide import decide
from ledger.ids import parse_id
from ledger.outcome import Outcome
from ledger.requests import Cost, Notes, Policy, Recurrence, Request, Rollover
from ledger.state import Account, Books, Settings

START = datetime(2030, 1, 31, 12, tzinfo=UTC)
SCALE = 9
SETTINGS = Settings(
    scales={"credits": SCALE, "USD": 2, "EUR": 2},
    books_time_zone=UTC,
    hold_lifetime_max=timedelta(days=2),
)
NOBODY = 999_999
"""A number that nothing has."""
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Act:
    """Something a caller does, or time."""


@dataclass(frozen=True)
class Wait(Act):
    """Time passes: some seconds, or until just before, at, or just after the next due instant."""

    seconds: float = 0
    due: Literal["before", "at", "after"] | None = None


@dataclass(frozen=True)
class Grant(Act):
    amount: int
    paid: bool = False
    priority: int = 50
    starts: int | None = None
    """Seconds from now; negative: in the past."""
    ends: int | None = None
    """Seconds from now."""
    every: Interval | None = None
    rollover: int | None = None
    rollover_seconds: int | None = None


@dataclass(frozen=True)
class Reserve(Act):
    amount: int
    minimum: int | None = None
    seconds: int = 600


@dataclass(frozen=True)
class Capture(Act):
    hold: int
    amount: int | None = None
    final: bool = True
    take: bool = False
    ago: int | None = None
    """How many seconds back the usage is dated."""


@dataclass(frozen=True)
class Void(Act):
    hold: int


@dataclass(frozen=True)
class Extend(Act):
    hold: int
    seconds: int | None = None
    add: int | None = None


@dataclass(frozen=True)
class Consume(Act):
    amount: int
    ago: int | None = None


@dataclass(frozen=True)
class Reverse(Act):
    charge: int
    amount: int | None = None


@dataclass(frozen=True)
class VoidGrant(Act):
    grant: int


@dataclass(frozen=True)
class Overage(Act):
    policy: Policy
    limit: int | None = None


@dataclass(frozen=True)
class Settle(Act):
    """Post what time has done."""


class World:
    """Books, the time, and the numbers of what came back."""

    def __init__(
        self, customer_no: int = 1, customer_id: str = "c", settings: Settings = SETTINGS
    ) -> None:
        self.settings = settings
        self.now = START
        self.books = Books(customer_no=customer_no, customer_id=customer_id, created_at=START)
        self.holds: list[int] = []
        self.charges: list[int] = []
        self.grants: list[int] = []
        self.keys = 0

    @property
    def account(self) -> Account:
        """The account of credits; all zero before the first use."""
        return self.books.accounts.get("credits") or Account(asset="credits", scale=SCALE)

    def wait(self, act: Wait) -> None:
        """Move the time on."""
        at = self.now + timedelta(seconds=act.seconds)
        due = self.books.next_due_at
        if act.due is not None and due is not None:
            shift = {"before": -MICROSECOND, "at": timedelta(), "after": MICROSECOND}[act.due]
            at = max(self.now, due + shift)
        self.now = at

    def request(self, act: Act) -> Request:
        """The request of an act, under a fresh key."""
        self.keys += 1
        key = f"key-{self.keys}"
        common: dict[str, Any] = {
            "customer_no": self.books.customer_no,
            "key": key,
            "operation": type(act).__name__.lower(),
            "fingerprint": hashlib.sha256(repr(act).encode()).digest(),
        }
        if isinstance(act, Grant | Reserve | Capture | Consume | Reverse) and self.keys % 2:
            is_undo = isinstance(act, Grant | Reverse)
            common["notes"] = Notes(
                bytes(16),
                reference="ref" if isinstance(act, Reserve | Consume) else None,
                reason="why" if is_undo else None,
                metadata=None if isinstance(act, Reverse) else '{"n": 1}',
            )
        match act:
            case Grant():
                return self._grant(act, common)
            case Reserve():
                return requests.Reserve(
                    **common,
                    asset="credits",
                    amount=act.amount,
                    minimum=None if act.minimum is None else min(act.minimum, act.amount),
                    expires_in=act.seconds,
                )
            case Capture():
                return requests.Capture(
                    **common,
                    hold_no=picked(self.holds, act.hold),
                    amount=text(act.amount),
                    final=act.final,
                    above_hold="take" if act.take else "deny",
                    effective_at=self._back(act.ago),
                )
            case Void():
                return requests.VoidHold(**common, hold_no=picked(self.holds, act.hold))
            case Extend():
                return requests.Extend(
                    **common,
                    hold_no=picked(self.holds, act.hold),
                    expires_in=act.seconds,
                    add=text(act.add),
                )
            case Consume():
                return requests.Consume(
                    **common,
                    asset="credits",
                    amount=act.amount,
                    effective_at=self._back(act.ago),
                )
            case Reverse():
                return requests.Reverse(
                    **common, charge_seq=picked(self.charges, act.charge), amount=text(act.amount)
                )
            case VoidGrant():
                grant_no = picked(self.grants, act.grant)
                grant = self.books.grants.get(grant_no)
                is_paid = grant is not None and grant.category == "paid"
                return requests.VoidGrant(
                    **common, grant_no=grant_no, money="breakage" if is_paid else None
                )
            case Overage():
                limit = 30 if act.policy == "owe" and act.limit is None else act.limit
                return requests.SetOverage(
                    customer_no=self.books.customer_no, policy=act.policy, limit=limit
                )
            case _:
                return requests.Settle(customer_no=self.books.customer_no)

    def _grant(self, act: Grant, common: dict[str, Any]) -> Request:
        recurrence = None
        if act.every is not None:
            kept = None if act.rollover is None else Rollover(act.rollover, act.rollover_seconds)
            recurrence = Recurrence(interval=act.every, rollover=kept)
        return requests.GrantCredit(
            **common,
            asset="credits",
            amount=act.amount,
            category="paid" if act.paid else "promotional",
            cost=Cost(act.amount * 7, "USD") if act.paid else None,
            priority=act.priority,
            effective_at=None if act.starts is None else self._at(act.starts),
            expires_at=None if act.ends is None else self._at(act.ends),
            recurrence=recurrence,
        )

    def _at(self, seconds: int) -> datetime:
        return self.now + timedelta(seconds=seconds)

    def _back(self, ago: int | None) -> datetime | None:
        return None if ago is None else self._at(-ago)

    def send(self, *batch: Request) -> list[Outcome]:
        """Decide a batch at the present time, as committed."""
        outcomes = decide(
            {self.books.customer_no: self.books}, list(batch), self.settings, self.now
        )
        self.commit(outcomes)
        return outcomes

    def commit(self, outcomes: Iterable[Outcome]) -> None:
        """The next request meets the books as a fresh load would find them."""
        books = self.books
        for made in (
            *(books.holds, books.lots, books.grants, books.debts, books.accounts),
            *(books.purchases, books.freezes),
        ):
            for row in made.values():
                row.is_new = False
        books.settled_at, books.is_unsettled, books.learned = None, False, None
        for outcome in outcomes:
            answer = outcome.answer
            if outcome.is_replayed:
                continue
            if isinstance(answer, HoldAnswer):
                self._know(self.holds, answer.id)
                if answer.charge is not None:
                    self._know(self.charges, answer.charge.id)
            elif isinstance(answer, ChargeAnswer):
                self._know(self.charges, answer.id)
            elif isinstance(answer, GrantAnswer):
                self._know(self.grants, answer.id)

    def _know(self, known: list[int], public: str) -> None:
        parsed = parse_id(public[:3], public)
        assert parsed is not None
        if parsed[1] not in known:
            known.append(parsed[1])

    def do(self, act: Act) -> Outcome | None:
        """Play one act; None for time."""
        if isinstance(act, Wait):
            self.wait(act)
            return None
        return self.send(self.request(act))[0]


def picked(known: Sequence[int], place: int) -> int:
    """The number at a place, counted from the latest; of nothing if there is none."""
    return known[-1 - place % len(known)] if known else NOBODY


def text(amount: int | None) -> str | None:
    return None if amount is None else format_amount(amount, SCALE)


def play(acts: Iterable[Act]) -> World:
    """A world in which these acts happened."""
    world = World()
    for act in acts:
        world.do(act)
    return world


def facts(books: Books) -> dict[str, Any]:
    """What the books say that another way to the same place must say too: no times, no numbers."""
    return {
        "lots": {
            no: (
                lot.remaining,
                lot.pinned,
                lot.expired,
                lot.voided,
                lot.is_upcoming,
                lot.voided_at,
                lot.deferred_amount,
                lot.deferred_units,
            )
            for no, lot in books.lots.items()
        },
        "accounts": {
            asset: (
                *(a.wallet, a.pending, a.upcoming, a.owed, a.billed),
                *(a.uncovered_owe, a.uncovered_bill),
            )
            for asset, a in books.accounts.items()
        },
    }
