"""Bought credits by number: credited once, taken back to a target, restored, frozen, refunded."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledger import requests
from ledger.answers import Problem
from ledger.bought import Clawback, Funds, Terms, claw_of
from ledger.decide import decide
from ledger.entities import Lot
from ledger.ids import parse_id
from ledger.outcome import Outcome
from ledger.purchases import PurchaseAnswer, unspent
from ledger.refunds import RefundAnswer
from ledger.requests import Request
from ledger.revenue import Split, deferred_of, split_refund, split_restore
from ledger.state import Books, Settings
from tests.property.checker import check

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
SCALES = {"credits": 0, "EUR": 2, "JPY": 0, "KWD": 3}
HOUR, DAY = 3_600, 86_400


class Till:
    """One customer in memory; credits and money as whole smallest units."""

    def __init__(self, mode: Clawback = "owe") -> None:
        self.settings = Settings(scales=SCALES, books_time_zone=UTC, clawback=mode)
        self.books = Books(customer_no=1, customer_id="c", created_at=NOW)
        self.now, self.keys, self.posted = NOW, 0, 0
        self.currency = "EUR"

    def send(self, kind: type[Request], **members: Any) -> Outcome:
        if "key" not in members:
            self.keys += 1
            members["key"] = f"k{self.keys}"
        request = kind(customer_no=1, **members)
        self.posted = len(self.books.journals)
        [outcome] = decide({1: self.books}, [request], self.settings, self.now)
        self.books.settled_at = None
        for made in (self.books.holds, self.books.lots, self.books.debts, self.books.freezes):
            for row in made.values():
                row.is_new = False
        check(self.books, self.now)
        return outcome

    def ask(self, kind: type[Request], **members: Any) -> Any:
        outcome = self.send(kind, **members)
        assert not isinstance(outcome.answer, Problem), outcome.answer
        return outcome.answer

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def open(self, credits: int, amount: int, **members: Any) -> int:
        members = {"kind": "pack", "product": "pack@1", "asset": "credits", **members}
        terms = Terms(credits=credits, currency=self.currency, amount=amount, **members)
        answer: PurchaseAnswer = self.ask(requests.OpenPurchase, key=None, terms=terms)
        return number("pur", answer.id)

    def buy(self, credits: int, captured: int, *, tax: int = 0, **terms: Any) -> int:
        no = self.open(credits, captured, **terms)
        payment: Any = {"currency": self.currency, "captured": captured, "tax": tax}
        self.ask(requests.CreditPurchase, purchase_no=no, **payment)
        return no

    def told(self, no: int, *ends: str, **funds: int) -> PurchaseAnswer:
        return self.ask(
            requests.MovePurchase, key=None, purchase_no=no, funds=Funds(**funds), ends=ends
        )

    def freeze(self, no: int, amount: int | None = None, reason: str = "dispute") -> PurchaseAnswer:
        return self.ask(
            requests.FreezePurchase, purchase_no=no, reason=reason, reference="x", amount=amount
        )

    def consume(self, amount: int, **members: Any) -> int:
        answer = self.ask(requests.Consume, asset="credits", amount=amount, **members)
        return number("chg", answer.id)

    def reserve(self, amount: int) -> int:
        answer = self.ask(requests.Reserve, asset="credits", amount=amount)
        return number("hld", answer.id)

    @property
    def balance(self) -> tuple[int, int, int]:
        """Posted, available, owed."""
        account = self.books.accounts["credits"]
        return account.wallet, account.available, account.owed

    def lots(self, no: int) -> list[Lot]:
        return [lot for lot in self.books.lots.values() if lot.purchase_no == no]

    @property
    def last(self) -> list[tuple[str, list[str]]]:
        """The journals of the last request: kind, and transfers as `debit credit amount`."""
        return [
            (journal.kind, [f"{t.debit} {t.credit} {t.amount}" for t in journal.transfers])
            for journal in self.books.journals[self.posted :]
        ]

    def money(self, account: str) -> int:
        """Debits less credits."""
        return sum(
            (t.amount if t.debit == account else 0) - (t.amount if t.credit == account else 0)
            for journal in self.books.journals
            for t in journal.transfers
        )


def number(prefix: str, public: str) -> int:
    parsed = parse_id(prefix, public)
    assert parsed is not None
    return parsed[1]


# The formula


@pytest.mark.parametrize(
    ("granted", "gone", "captured", "claw"),
    [
        (1_000, 250, 1_000, 250),
        (1_000, 1_000, 1_000, 1_000),
        (3, 333, 1_000, 1),
        (1, 500, 1_000, 0),  # a tie goes to the even
        (3, 500, 1_000, 2),
        (9_899, 989, 9_899, 989),
        (7, 1_001, 1_000, 7),
        (1_000, 0, 0, 0),
        (2**63 - 1, 2**62, 2**63 - 1, 2**62),
    ],
)
def test_claw_of_is_half_even_and_exactly_all(
    granted: int, gone: int, captured: int, claw: int
) -> None:
    assert claw_of(granted, gone, captured) == claw


@pytest.mark.parametrize(
    ("net", "deferred", "before", "after", "split"),
    [
        (500, 600, 600, 100, Split(500, 0)),
        (1_000, 600, 600, 0, Split(600, 400)),
        (300, 600, 600, 600, Split(0, 300)),
        (600, 1_000, 1, 0, Split(600, 0)),
        (10, 0, 0, 0, Split(0, 10)),
    ],
)
def test_split_refund_takes_the_units_share_of_deferred(
    net: int, deferred: int, before: int, after: int, split: Split
) -> None:
    assert split_refund(net, deferred, before, after) == split


def test_split_restore_gives_back_earnings_first() -> None:
    assert split_restore(-500, 400) == Split(-100, -400)
    assert split_restore(-300, 400) == Split(0, -300)


# Crediting


def test_credit_posts_both_halves_once() -> None:
    till = Till()
    no = till.buy(1_000, 1_190, tax=190, bonus=100, bonus_expires_in=DAY)

    assert till.last == [
        ("grant", ["purchased wallet 1000", "cash deferred_revenue 1000", "cash tax 190"]),
        ("grant", ["granted wallet 100"]),
    ]
    paid, bonus = till.lots(no)
    assert (paid.category, paid.cost, paid.expires_at) == (
        "paid",
        requests.Cost(1_000, "EUR"),
        None,
    )
    assert (bonus.category, bonus.cost) == ("promotional", None)
    assert bonus.expires_at == NOW + timedelta(days=1)
    assert {j.origin for j in till.books.journals} == {"purchase"}

    for _ in range(3):
        again: Any = {"currency": "EUR", "captured": 1_190, "tax": 190}
        answer = till.ask(requests.CreditPurchase, key=None, purchase_no=no, **again)
        assert answer.status == "credited"
        assert till.last == []
    assert till.balance == (1_100, 1_100, 0)


def test_credit_for_another_payment_is_refused() -> None:
    till = Till()
    no = till.buy(10, 500)

    outcome = till.send(
        requests.CreditPurchase, purchase_no=no, currency="EUR", captured=600, listed=600
    )

    assert isinstance(outcome.answer, Problem)
    assert (outcome.status, outcome.answer.code) == (409, "purchase_already_credited")


@pytest.mark.parametrize("paid", [("JPY", 500), ("EUR", 600)])
def test_other_currency_or_price_than_expected_parks(paid: tuple[str, int]) -> None:
    till = Till()
    no = till.open(10, 500)
    payment: Any = {"purchase_no": no, "currency": paid[0], "captured": 500, "listed": paid[1]}

    assert till.ask(requests.CreditPurchase, **payment).status == "parked"
    right: Any = {"purchase_no": no, "currency": "EUR", "captured": 450, "listed": 500}
    assert till.ask(requests.CreditPurchase, **right).status == "parked"
    assert till.books.journals == []

    till.ask(requests.MarkPurchase, purchase_no=no, mark="open")
    assert till.ask(requests.CreditPurchase, **right).status == "credited"


def test_paid_after_it_had_failed_is_credited() -> None:
    till = Till()
    no = till.open(10, 500)
    till.ask(requests.MarkPurchase, purchase_no=no, mark="failed")
    till.ask(requests.CreditPurchase, purchase_no=no, currency="EUR", captured=500)
    assert till.balance == (10, 10, 0)
    till.ask(requests.MarkPurchase, purchase_no=no, mark="failed")
    assert till.books.purchases[no].status == "credited"


def test_line_of_an_invoice_has_one_purchase() -> None:
    till = Till()
    period: Any = {"effective_at": NOW, "expires_at": NOW + timedelta(days=30)}
    first = till.open(10, 500, kind="plan", invoice_id="in_1", line_id="il_1", **period)
    assert till.open(10, 500, kind="plan", invoice_id="in_1", line_id="il_1", **period) == first
    assert till.open(10, 500, kind="plan", invoice_id="in_1", line_id="il_2", **period) != first


@pytest.mark.parametrize(
    "members",
    [
        {"kind": "plan", "expires_at": NOW},
        {"kind": "plan", "invoice_id": "i"},
        {"kind": "plan", "invoice_id": "i", "line_id": "l"},
        {"expires_at": NOW},
        {"invoice_id": "i", "line_id": "l"},
    ],
)
def test_terms_that_do_not_fit_their_kind_are_refused(members: dict[str, Any]) -> None:
    terms: Any = {"kind": "pack", "product": "p", "asset": "credits", "credits": 1}
    terms |= {"currency": "EUR", "amount": 1, **members}

    outcome = Till().send(requests.OpenPurchase, terms=Terms(**terms))

    assert isinstance(outcome.answer, Problem)
    assert (outcome.status, outcome.answer.code) == (422, "invalid_purchase")


def test_credited_purchase_repays_debt_and_its_grant_is_not_voided() -> None:
    till = Till()
    till.ask(requests.SetOverage, key=None, policy="owe", limit=50)
    till.consume(30)
    no = till.buy(100, 1_000)
    assert till.balance == (70, 70, 0)

    outcome = till.send(requests.VoidGrant, grant_no=till.lots(no)[0].grant_no)

    assert isinstance(outcome.answer, Problem)
    assert (outcome.status, outcome.answer.code) == (409, "grant_has_purchase")


def test_nothing_is_known_of_a_purchase_that_is_not_there_or_not_paid() -> None:
    till = Till()
    no = till.open(10, 500)
    for known, status, code in (
        (999, 404, "purchase_not_found"),
        (no, 409, "purchase_not_credited"),
    ):
        for kind, members in (
            (requests.MovePurchase, {"funds": Funds(refunded=5)}),
            (requests.FreezePurchase, {"reason": "fraud", "reference": "x"}),
            (requests.StartRefund, {"reference": "x"}),
        ):
            outcome = till.send(kind, purchase_no=known, **members)
            assert isinstance(outcome.answer, Problem)
            assert (outcome.status, outcome.answer.code) == (status, code)
    assert till.books.journals == []


# Taking back


def test_cumulative_refunds_take_back_the_difference() -> None:
    till = Till()
    no = till.buy(1_000, 1_000)
    till.told(no, refunded=250)
    assert till.last == [
        ("clawback", ["wallet purchased 250", "deferred_revenue cash 250"]),
    ]
    assert till.balance == (750, 750, 0)
    till.told(no, refunded=500)
    till.told(no, refunded=500)
    assert till.last == []
    assert till.balance == (500, 500, 0)


@pytest.mark.parametrize(
    ("currency", "captured", "credits", "refund", "left"),
    [
        ("JPY", 9_899, 9_899, 989, 8_910),
        ("JPY", 80, 1_000, 40, 500),
        ("KWD", 1_234, 1_000, 617, 500),
    ],
)
def test_currencies_without_cents(
    currency: str, captured: int, credits: int, refund: int, left: int
) -> None:
    till = Till()
    till.currency = currency
    no = till.buy(credits, captured)
    answer = till.told(no, refunded=refund)
    assert till.balance[0] == left
    assert answer.captured == {"JPY": str(captured), "KWD": "1.234"}[currency]


def test_refund_of_a_third_takes_its_share_of_bonus_and_tax() -> None:
    till = Till()
    no = till.buy(900, 1_200, tax=200, bonus=100)
    till.told(no, refunded=400)
    assert till.last == [
        (
            "clawback",
            [
                *("wallet purchased 300", "wallet granted 33"),
                *("deferred_revenue cash 333", "tax cash 67"),
            ],
        ),
    ]
    till.told(no, refunded=1_200)
    assert till.balance == (0, 0, 0)
    assert [till.money(name) for name in ("cash", "tax", "deferred_revenue", "refunds")] == [0] * 4


def test_what_was_burned_is_owed_and_its_money_is_no_longer_deferred() -> None:
    till = Till()
    no = till.buy(1_000, 1_000)
    till.consume(400)
    answer = till.told(no, refunded=1_000)
    assert till.last == [
        (
            "clawback",
            [
                *("wallet purchased 600", "owed purchased 400"),
                *("deferred_revenue cash 600", "refunds cash 400"),
            ],
        ),
    ]
    assert till.balance == (0, 0, 400)
    assert answer.lots[0].clawback_owed == "400"


def test_what_was_burned_is_forgiven_by_setting() -> None:
    till = Till("zero")
    no = till.buy(1_000, 1_000)
    charge = till.consume(400)
    till.told(no, refunded=1_000)
    assert till.balance == (0, 0, 0)
    assert till.lots(no)[0].written_off == 400

    # What comes back of what was forgiven is taken.
    till.ask(requests.Reverse, charge_seq=charge, amount="150")
    assert till.last == [("reversal", ["burned wallet 150", "wallet purchased 150"])]
    assert till.balance == (0, 0, 0)
    assert till.lots(no)[0].written_off == 250


def test_spent_less_than_what_is_left_owes_nothing() -> None:
    till = Till()
    no = till.buy(1_000, 1_000)
    till.consume(400)
    till.told(no, refunded=500)
    assert till.balance == (100, 100, 0)


def test_what_ran_out_is_no_debt_and_can_no_longer_be_used() -> None:
    till = Till()
    no = till.buy(1_000, 1_000, expires_in=DAY)
    till.consume(400)
    till.wait(2 * DAY)
    till.told(no, refunded=1_000)
    assert till.last == [
        ("expiry", ["wallet expired 600"]),
        ("clawback", ["owed purchased 400", "refunds cash 1000"]),
    ]
    assert till.lots(no)[0].lapsed == 600

    late = {"asset": "credits", "amount": 1, "effective_at": NOW + timedelta(hours=1)}
    assert till.send(requests.Consume, **late).status == 402


def test_late_usage_draws_only_on_what_ran_out_and_was_kept() -> None:
    till = Till()
    no = till.buy(1_000, 1_000, expires_in=DAY)
    till.wait(2 * DAY)
    till.told(no, refunded=900)
    late: Any = {"asset": "credits", "effective_at": NOW + timedelta(hours=1)}
    assert till.send(requests.Consume, amount=101, **late).status == 402
    assert till.send(requests.Consume, amount=100, **late).status == 201
    assert till.lots(no)[0].lapsed == till.lots(no)[0].expired == 900


def test_pinned_credit_is_taken_as_it_returns() -> None:
    till = Till()
    no = till.buy(1_000, 1_000)
    hold = till.reserve(300)
    till.told(no, refunded=800)
    lot = till.lots(no)[0]
    assert (lot.remaining, lot.clawback_due) == (300, 100)
    assert till.balance == (300, 0, 0)

    till.ask(requests.VoidHold, hold_no=hold)
    assert till.last == [("hold_end", ["wallet purchased 100"])]
    assert till.balance == (200, 200, 0)


@pytest.mark.parametrize(("mode", "owed"), [("owe", 50), ("zero", 0)])
def test_captured_credit_that_was_due_back_is_booked_as_spent(mode: Clawback, owed: int) -> None:
    till = Till(mode)
    no = till.buy(1_000, 1_000)
    hold = till.reserve(300)
    till.told(no, refunded=1_000)
    till.ask(requests.Capture, hold_no=hold, amount="20", final=False)
    assert till.balance[2] == (20 if mode == "owe" else 0)
    till.ask(requests.Capture, hold_no=hold, amount="30")

    charge, *rest = till.last
    assert charge == ("charge", ["wallet burned 30", "wallet purchased 250"])
    assert rest == ([("clawback", ["owed purchased 30"])] if owed else [])
    assert till.balance == (0, 0, owed)
    assert till.lots(no)[0].written_off == 50 - owed


def test_free_purchase_keeps_its_credits() -> None:
    till = Till()
    no = till.buy(100, 0, bonus=10)
    assert till.lots(no)[0].cost == requests.Cost(0, "EUR")
    till.told(no, refunded=0, fees=5)
    assert till.balance == (110, 110, 0)
    assert till.last == [("fee", ["fees cash 5"])]


def test_purchase_of_a_period_to_come_is_taken_back_before_it_starts() -> None:
    till = Till()
    starts = NOW + timedelta(days=1)
    period: Any = {"effective_at": starts, "expires_at": starts + timedelta(days=30)}
    no = till.buy(100, 1_000, kind="plan", invoice_id="in_1", line_id="il_1", **period)
    till.told(no, refunded=400)
    assert till.last[0][1][0] == "upcoming purchased 40"
    assert till.books.accounts["credits"].upcoming == 60
    till.told(no)
    assert till.last[0][1][0] == "purchased upcoming 40"


# Restoring


def test_failed_refund_restores_the_lot_with_its_end() -> None:
    till = Till()
    no = till.buy(1_000, 1_000, tax=160, expires_in=10 * DAY)
    till.consume(100)
    till.told(no, refunded=500)
    till.told(no)
    assert till.last == [
        (
            "restore",
            ["purchased wallet 500", "cash deferred_revenue 420", "cash tax 80"],
        ),
    ]
    lot = till.lots(no)[0]
    assert (lot.remaining, lot.expires_at) == (900, NOW + timedelta(days=10))
    assert (lot.deferred_amount, lot.deferred_units) == (756, 900)
    till.wait(11 * DAY)
    till.ask(requests.Settle, key=None)
    assert till.balance == (0, 0, 0)


def test_restored_after_its_end_it_leaves_at_once() -> None:
    till = Till()
    no = till.buy(1_000, 1_000, expires_in=DAY)
    till.told(no, refunded=500)
    till.wait(2 * DAY)
    till.told(no)
    assert till.last[-1] == (
        "restore",
        ["purchased wallet 500", "wallet expired 500", "cash deferred_revenue 500"],
    )
    assert till.balance == (0, 0, 0)
    assert deferred_of(till.lots(no)[0]) == 0


def test_debt_that_another_purchase_paid_goes_back_to_it() -> None:
    till = Till()
    first = till.buy(1_000, 1_000)
    till.consume(1_000)
    second = till.buy(1_000, 1_000)
    till.told(first, refunded=700)
    assert till.last[-1] == ("debt_repaid", ["wallet owed 700"])
    assert till.lots(second)[0].remaining == 300

    till.told(first, refunded=100)
    kind, transfers = till.last[0]
    assert (kind, transfers[:2]) == ("restore", ["purchased owed 600", "owed wallet 600"])
    assert till.lots(second)[0].remaining == 900
    assert till.balance == (900, 900, 0)


def test_restore_undoes_due_then_debt_then_gives_credit() -> None:
    till = Till()
    no = till.buy(1_000, 1_000)
    till.consume(200)
    hold = till.reserve(300)
    till.told(no, refunded=1_000)
    lot = till.lots(no)[0]
    assert (lot.voided, lot.clawback_due, till.balance[2]) == (500, 300, 200)
    till.told(no, refunded=600)
    assert (lot.voided, lot.clawback_due, till.balance[2]) == (500, 0, 100)
    till.told(no, refunded=400)
    assert (lot.voided, lot.clawback_due, till.balance[2]) == (400, 0, 0)
    till.ask(requests.VoidHold, hold_no=hold)
    assert till.balance == (400, 400, 0)


# Disputes, fees


@pytest.mark.parametrize(
    "order",
    [
        [{"disputed": 1_000, "fees": 1_500}, {"fees": 1_500}],
        [{"disputed": 1_000}, {"disputed": 1_000, "fees": 1_500}, {"fees": 1_500}] * 2,
        [{"fees": 1_500}],
    ],
)
def test_dispute_that_is_won_moves_no_credit(order: list[dict[str, int]]) -> None:
    till = Till()
    no = till.buy(500, 1_000)
    till.freeze(no)
    assert till.balance == (500, 0, 0)
    for funds in order:
        till.told(no, **funds)
        assert till.balance == (500, 0, 0)
    till.told(no, "x", fees=1_500)
    assert till.balance == (500, 500, 0)
    assert {j.kind for j in till.books.journals} <= {"grant", "dispute", "fee"}
    assert [till.money(name) for name in ("cash", "disputed", "fees")] == [-500, 0, 1_500]


def test_dispute_that_is_lost_takes_what_was_frozen() -> None:
    till = Till()
    no = till.buy(500, 1_000)
    till.consume(100)
    till.freeze(no)
    till.told(no, disputed=1_000)
    assert till.last == [("dispute", ["disputed cash 1000"])]
    till.told(no, "x", lost=1_000)
    assert till.last == [
        (
            "clawback",
            [
                *("wallet purchased 400", "owed purchased 100"),
                *("deferred_revenue disputed 800", "refunds disputed 200"),
            ],
        )
    ]
    assert till.balance == (0, 0, 100)
    assert till.books.freezes == {}


def test_dispute_won_after_the_lot_had_ended_lets_it_go() -> None:
    till = Till()
    no = till.buy(500, 1_000, expires_in=DAY)
    till.freeze(no)
    till.told(no, disputed=1_000)
    till.wait(2 * DAY)
    till.told(no, "x")
    assert till.last == [
        ("dispute", ["cash disputed 1000"]),
        ("release", ["wallet expired 500"]),
    ]
    assert till.balance == (0, 0, 0)


def test_more_lost_than_was_captured_is_a_loss_of_money_alone() -> None:
    till = Till()
    no = till.buy(100, 1_000)
    till.told(no, refunded=400)
    till.told(no, refunded=400, lost=1_000)
    assert till.balance == (0, 0, 0)
    assert till.money("refunds") == 400
    assert till.money("cash") == -400


# Freezes


def test_frozen_credit_is_held_and_no_hold_or_charge_has_it() -> None:
    till = Till()
    no = till.buy(500, 1_000)
    other = till.ask(requests.GrantCredit, asset="credits", amount=20, category="promotional")
    answer = till.freeze(no)
    assert answer.balance
    assert (answer.balance.posted, answer.balance.held) == ("520", "500")
    assert (answer.balance.available, answer.lots[0].frozen) == ("20", "500")
    assert till.send(requests.Reserve, asset="credits", amount=21).status == 402
    assert till.send(requests.Consume, asset="credits", amount=21).status == 402
    till.consume(20)
    assert other.remaining == "20"

    till.ask(requests.ReleasePurchase, purchase_no=no, reference="x")
    assert till.last == []
    assert till.balance == (500, 500, 0)


def test_freeze_asked_again_moves_to_what_is_asked() -> None:
    till = Till()
    no = till.buy(500, 1_000)
    hold = till.reserve(200)
    for amount, frozen in ((400, 200), (400, 200), (1_000, 300), (100, 50), (None, 300)):
        assert till.freeze(no, amount).lots[0].frozen == str(frozen)
    till.ask(requests.VoidHold, hold_no=hold)
    assert till.freeze(no).lots[0].frozen == "500"


def test_frozen_lot_ends_when_it_is_released() -> None:
    till = Till()
    no = till.buy(500, 1_000, expires_in=DAY)
    till.freeze(no, 600)
    till.wait(2 * DAY)
    till.ask(requests.Settle, key=None)
    assert till.balance == (300, 0, 0)
    till.told(no, "x")
    assert till.last == [("release", ["wallet expired 300"])]
    assert till.balance == (0, 0, 0)


def test_part_of_a_freeze_that_is_released_meets_its_lot_and_repays() -> None:
    till = Till()
    till.ask(requests.SetOverage, key=None, policy="owe", limit=50)
    lasting, ending = till.buy(100, 1_000), till.buy(100, 1_000, expires_in=DAY)
    till.freeze(lasting)
    till.freeze(ending)
    till.consume(40)
    till.wait(2 * DAY)
    till.freeze(ending, 400)
    assert till.last[-1] == ("release", ["wallet expired 60"])
    till.freeze(lasting, 400)
    assert till.last == [("debt_repaid", ["wallet owed 40"])]
    assert till.balance == (100, 20, 0)


def test_frozen_lot_of_a_period_to_come_stays_frozen_when_it_starts() -> None:
    till = Till()
    starts = NOW + timedelta(days=1)
    period: Any = {"effective_at": starts, "expires_at": starts + timedelta(days=30)}
    no = till.buy(100, 1_000, kind="plan", invoice_id="in_1", line_id="il_1", **period)
    till.freeze(no, 400)
    assert till.balance == (0, 0, 0)
    till.wait(DAY)
    till.ask(requests.Settle, key=None)
    assert till.balance == (100, 60, 0)
    till.ask(requests.ReleasePurchase, purchase_no=no, reference="x")
    assert till.balance == (100, 100, 0)


def test_pending_refund_freezes_then_takes_then_fails() -> None:
    till = Till()
    no = till.buy(1_000, 1_000)
    till.freeze(no, 500, "refund")
    assert till.balance == (1_000, 500, 0)
    till.told(no, "x", refunded=500)
    assert till.balance == (500, 500, 0)
    till.told(no, refunded=0)
    assert till.balance == (1_000, 1_000, 0)


def test_refund_takes_from_the_freeze_of_a_dispute_what_is_not_free() -> None:
    till = Till()
    no = till.buy(1_000, 1_000)
    till.freeze(no)
    answer = till.told(no, refunded=300)
    assert answer.lots[0].frozen == "700"
    assert till.balance == (700, 0, 0)
    ends = [freeze.ended_as for freeze in till.books.changed_freezes.values()]
    assert ends == ["split", None]


# Refunds of ours


def test_refund_defaults_to_what_is_unspent() -> None:
    till = Till()
    no = till.buy(900, 1_000, bonus=100, bonus_priority=60)
    till.consume(300)
    till.reserve(100)

    answer: RefundAnswer = till.ask(requests.StartRefund, purchase_no=no, reference="rfd_1")

    assert answer.amount == "5.55"  # 500 of 900: 555.55…, no more credit than that is taken
    assert [lot.frozen for lot in answer.purchase.lots] == ["500", "56"]
    till.told(no, "rfd_1", refunded=555)
    assert till.balance == (144, 44, 0)


def test_refund_of_credits_and_of_money() -> None:
    till = Till()
    no = till.buy(900, 1_000)
    by_credits = till.ask(requests.StartRefund, purchase_no=no, reference="rfd_1", credits=90)
    assert by_credits.amount == "1"
    by_money = till.ask(requests.StartRefund, purchase_no=no, reference="rfd_2", amount=900)
    assert by_money.amount == "9"
    assert by_money.purchase.lots[0].frozen == "900"


def test_unspent_of_everything_is_all_that_was_captured() -> None:
    till = Till()
    no = till.buy(7, 999)
    purchase = till.books.purchases[no]
    assert unspent(till.books, purchase) == 999
    till.told(no, refunded=333)
    assert unspent(till.books, purchase) == 666


def test_nothing_refundable() -> None:
    till = Till()
    no = till.buy(900, 1_000)
    till.consume(900)
    for members in ({}, {"amount": 1_001}, {"amount": 0}):
        outcome = till.send(requests.StartRefund, purchase_no=no, reference="r", **members)
        assert isinstance(outcome.answer, Problem)
        assert (outcome.status, outcome.answer.code) == (409, "nothing_refundable")
