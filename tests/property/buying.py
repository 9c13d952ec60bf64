"""Acts of a customer who buys credits, and of those who want the money back. All in EUR.

`Told` is news of a purchase's money as it stands; news may be wrong for a while, come twice or in
any order. What counts is what is told last.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from ledger import requests
from ledger.answers import Problem
from ledger.bought import FreezeReason, Funds, Purchase, Terms
from ledger.ids import parse_id
from ledger.outcome import Outcome
from ledger.purchases import PurchaseAnswer
from ledger.requests import Request
from tests.property import strategies
from tests.property.world import Act, Settle, World, picked


@dataclass(frozen=True)
class Buy(Act):
    """A pack, or a line of an invoice (`starts`), recorded; `Credit` pays for it."""

    credits: int
    bonus: int = 0
    ends: int | None = None
    """Seconds until the credits end; of a plan's line, of its period."""
    starts: int | None = None


@dataclass(frozen=True)
class Credit(Act):
    purchase: int
    captured: int
    tax: int = 0


@dataclass(frozen=True)
class Told(Act):
    """Sums in parts of 12 of what was captured, and which freezes end with it."""

    purchase: int
    refunded: int = 0
    lost: int = 0
    disputed: int = 0
    fees: int = 0
    ends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Freeze(Act):
    purchase: int
    reason: FreezeReason
    twelfths: int | None = None


@dataclass(frozen=True)
class Release(Act):
    purchase: int
    reason: FreezeReason


@dataclass(frozen=True)
class AskRefund(Act):
    purchase: int
    twelfths: int | None = None


class Shop(World):
    """A world with purchases."""

    def __init__(self, *args: Any, **members: Any) -> None:
        super().__init__(*args, **members)
        self.purchases: list[int] = []
        self.lines = 0

    def request(self, act: Act) -> Request:
        if isinstance(act, Buy):
            return self._buy(act)
        if not isinstance(act, Credit | Told | Freeze | Release | AskRefund):
            return super().request(act)
        purchase_no = picked(self.purchases, act.purchase)
        common: Any = {"customer_no": self.books.customer_no, "purchase_no": purchase_no}
        purchase = self.books.purchases.get(purchase_no)
        match act:
            case Credit():
                if purchase is not None and purchase.status == "credited":
                    return requests.CreditPurchase(
                        **common, currency="EUR", captured=purchase.captured, tax=purchase.tax
                    )
                return requests.CreditPurchase(
                    **common, currency="EUR", captured=act.captured, tax=min(act.tax, act.captured)
                )
            case Told():
                return requests.MovePurchase(**common, funds=funds_of(purchase, act), ends=act.ends)
            case Freeze():
                amount = None if act.twelfths is None else part_of(purchase, act.twelfths)
                return requests.FreezePurchase(
                    **common, reason=act.reason, reference=act.reason, amount=amount
                )
            case Release():
                return requests.ReleasePurchase(**common, reference=act.reason)
            case AskRefund():
                amount = None if act.twelfths is None else part_of(purchase, act.twelfths)
                return requests.StartRefund(**common, reference="refund", amount=amount)

    def _buy(self, act: Buy) -> Request:
        common: dict[str, Any] = {
            "product": "some@1",
            "asset": "credits",
            "credits": act.credits,
            "bonus": act.bonus,
            "currency": "EUR",
            "amount": 1_200,
        }
        if act.starts is None:
            terms = Terms(kind="pack", expires_in=act.ends, **common)
        else:
            self.lines += 1
            starts = self.now + timedelta(seconds=act.starts)
            ends = starts + timedelta(seconds=act.ends or 30 * strategies.DAY)
            line: Any = {"invoice_id": "in_1", "line_id": f"il_{self.lines}"}
            terms = Terms(kind="plan", effective_at=starts, expires_at=ends, **line, **common)
        return requests.OpenPurchase(customer_no=self.books.customer_no, terms=terms)

    def commit(self, outcomes: Any) -> None:
        super().commit(outcomes)
        for outcome in outcomes:
            if isinstance(outcome.answer, PurchaseAnswer):
                parsed = parse_id("pur", outcome.answer.id)
                assert parsed is not None
                if parsed[1] not in self.purchases:
                    self.purchases.append(parsed[1])

    def buy(self, act: Buy, captured: int = 1_200, tax: int = 0) -> int:
        """Record, pay and credit; the purchase's number."""
        self.do(act)
        fine(self.do(Credit(0, captured, tax)))
        return self.purchases[-1]


def fine(outcome: Outcome | None) -> None:
    assert outcome is not None
    assert not isinstance(outcome.answer, Problem), outcome.answer


def part_of(purchase: Purchase | None, twelfths: int) -> int:
    return 0 if purchase is None else purchase.captured * twelfths // 12


def funds_of(purchase: Purchase | None, act: Told) -> Funds:
    return Funds(
        refunded=part_of(purchase, act.refunded),
        lost=part_of(purchase, act.lost),
        disputed=part_of(purchase, act.disputed),
        fees=act.fees,
    )


places = st.integers(0, 2)
twelfths = st.sampled_from([0, 0, 1, 3, 4, 6, 8, 12])
reasons: st.SearchStrategy[FreezeReason] = st.sampled_from(["refund", "dispute", "fraud"])
buys = st.builds(
    Buy,
    credits=st.integers(1, 40),
    bonus=st.sampled_from([0, 0, 5, 17]),
    ends=strategies.ends,
    starts=st.sampled_from([None, None, None, 0, -strategies.DAY, strategies.HOUR]),
)
payments = st.builds(
    Credit,
    purchase=places,
    captured=st.sampled_from([1_200, 1_200, 997, 5, 0]),
    tax=st.sampled_from([0, 0, 167, 2]),
)
news = st.builds(
    Told,
    purchase=places,
    refunded=twelfths,
    lost=st.sampled_from([0, 0, 0, 3, 12]),
    disputed=st.sampled_from([0, 0, 12]),
    fees=st.sampled_from([0, 30, 1_530]),
    ends=st.sampled_from([(), (), ("refund",), ("dispute", "fraud")]),
)
freezes = st.builds(
    Freeze, purchase=places, reason=reasons, twelfths=st.none() | st.integers(1, 12)
)
releases = st.builds(Release, purchase=places, reason=reasons)
refunds = st.builds(AskRefund, purchase=places, twelfths=st.none() | st.integers(1, 12))

buying: st.SearchStrategy[Act] = st.one_of(
    buys,
    payments,
    payments,
    news,
    news,
    freezes,
    st.one_of(releases, refunds),
)
living: st.SearchStrategy[Act] = st.one_of(
    strategies.reserves,
    strategies.captures,
    strategies.consumes,
    strategies.waits,
    st.one_of(strategies.voids, strategies.late_consumes, strategies.plain_grants),
    st.one_of(strategies.reverses, strategies.overages, st.just(Settle())),
)
acts: st.SearchStrategy[Act] = st.one_of(buying, living)
