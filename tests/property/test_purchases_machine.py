"""Random lives of purchases on a real database, beside the same decisions in memory.

Every answer is the model's, byte for byte, however little of the customer was loaded for it; all
proofs hold; in the end every stored row is the model's.
"""

from collections.abc import Generator
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from msgspec.structs import replace

import ledger.load
from ledger.bought import Clawback
from ledger.decide import decide
from ledger.requests import Request
from tests.integration.player import render
from tests.property import buying
from tests.property.bench import Bench
from tests.property.buying import Buy, Credit, Shop
from tests.property.checker import check, check_bound
from tests.property.sizes import size, tries
from tests.property.test_machine import set_sizes
from tests.property.world import SETTINGS, Act, Overage, Wait
from tests.servers import Database

PROVED_EVERY = 8


class PurchasesMachine(RuleBasedStateMachine):
    """One customer; each rule is one committed transaction."""

    bench: ClassVar[Bench]

    @initialize(
        mode=st.sampled_from(["owe", "zero"]), loads=st.sampled_from([(1, 2, 1), (2, 250, 100)])
    )
    def begin(self, mode: Clawback, loads: tuple[int, int, int]) -> None:
        set_sizes(*loads, 1_000)
        self.bench.settings = replace(SETTINGS, clawback=mode)
        [(name, no)] = self.bench.customers(1).items()
        self.world = Shop(no, name, self.bench.settings)
        self.bench.move_clock(self.world.now)
        self.steps = 0
        self.last: Request | None = None
        for act in (Overage("owe", 30), Buy(30, bonus=5), Credit(0, 1_200, 200)):
            self.run(act)

    @rule(act=buying.buying)
    def buy_or_give_back(self, act: Act) -> None:
        self.run(act)

    @rule(credits=st.integers(1, 40), bonus=st.sampled_from([0, 7]), payment=buying.payments)
    def buy_and_pay(self, credits: int, bonus: int, payment: Credit) -> None:
        self.run(Buy(credits, bonus))
        self.run(Credit(0, payment.captured, payment.tax))

    @rule(act=buying.living)
    def live(self, act: Act) -> None:
        if isinstance(act, Wait):
            self.world.wait(act)
            self.bench.move_clock(self.world.now)
        else:
            self.run(act)

    @rule()
    def repeat(self) -> None:
        if self.last is not None:
            self.send(self.last)

    def run(self, act: Act) -> None:
        self.last = self.world.request(act)
        self.send(self.last)

    def send(self, request: Request) -> None:
        """The same to the database and to the model."""
        world = self.world
        [outcome] = decide(
            {world.books.customer_no: world.books}, [request], world.settings, world.now
        )
        [result] = self.bench.send([request])
        assert (result.status, result.is_replayed) == (outcome.status, outcome.is_replayed)
        assert result.body == render(request, outcome)
        world.commit([outcome])
        if not outcome.is_replayed:
            check(world.books, world.now)
        self.steps += 1
        if self.steps % PROVED_EVERY == 0:
            assert self.bench.prove() == []

    def teardown(self) -> None:
        if hasattr(self, "world"):
            assert self.bench.prove() == []
            compare_rows(self.bench, self.world)


def compare_rows(bench: Bench, world: Shop) -> None:
    """The database holds what the model holds."""
    books, no = world.books, world.books.customer_no
    lots = """
        SELECT lot_no, purchase_no, remaining, pinned, expired, voided, clawback_due, written_off,
            lapsed, deferred_amount, deferred_units
        FROM lots WHERE customer_no = $1 ORDER BY lot_no
    """
    assert bench.rows(lots, no) == [
        (
            *(n, o.purchase_no, o.remaining, o.pinned, o.expired, o.voided),
            *(o.clawback_due, o.written_off, o.lapsed, o.deferred_amount, o.deferred_units),
        )
        for n, o in sorted(books.lots.items())
    ]
    debts = """
        SELECT debt_no, lot_no, amount, repaid, cancelled, returned
        FROM debts WHERE customer_no = $1 ORDER BY debt_no
    """
    assert bench.rows(debts, no) == [
        (n, d.lot_no, d.amount, d.repaid, d.cancelled, d.returned)
        for n, d in sorted(books.debts.items())
    ]
    purchases = """
        SELECT purchase_no, status, captured_amount, tax_amount, refunded_amount, lost_amount,
            disputed_amount, fee_amount, tax_returned, deferred_returned, credited_at
        FROM purchases WHERE customer_no = $1 ORDER BY purchase_no
    """
    assert bench.rows(purchases, no) == [
        (
            *(n, p.status, p.captured, p.tax, p.funds.refunded, p.funds.lost, p.funds.disputed),
            *(p.funds.fees, p.tax_returned, p.deferred_returned, p.credited_at),
        )
        for n, p in sorted(books.purchases.items())
    ]
    freezes = """
        SELECT freeze_no, lot_no, reason, reference, amount, started_at, ended_at, ended_as
        FROM freezes WHERE customer_no = $1 ORDER BY freeze_no
    """
    assert bench.rows(freezes, no) == [
        (n, f.lot_no, f.reason, f.reference, f.amount, f.started_at, f.ended_at, f.ended_as)
        for n, f in sorted({**books.changed_freezes, **books.freezes}.items())
    ]
    head = "SELECT last_no, last_seq, last_hash, next_due_at FROM customers WHERE customer_no = $1"
    [(*numbers, due_at)] = bench.rows(head, no)
    assert numbers == [books.last_no, books.last_seq, books.last_hash]
    check_bound(due_at, books)


@pytest.fixture
def bench(database: Database) -> Generator[Bench]:
    made = Bench(database)
    sizes = ledger.load.LOTS_FIRST, ledger.load.LOTS_MORE, ledger.load.DEBTS_FIRST
    yield made
    set_sizes(*sizes, 1_000)
    made.close()


def test_random_purchases_on_the_database_equal_the_model(bench: Bench) -> None:
    PurchasesMachine.bench = bench
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        PurchasesMachine, settings=tries(40, 250, stateful_step_count=size(25, 40))
    )
