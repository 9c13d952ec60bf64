"""Random requests on a real database, beside the same decisions in memory and a second opinion.

Every answer must be the model's, byte for byte, however little of the customer was loaded for it;
its status and balance must be the oracle's where that one has an opinion; and in the end every
stored row and the head of the chain must be the model's.
"""

from collections.abc import Generator
from datetime import datetime, timedelta
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import ledger.grants
import ledger.load
import ledger.settle
from ledger.decide import decide
from ledger.outcome import Outcome
from ledger.requests import Request
from tests.integration.player import render
from tests.property import strategies
from tests.property.bench import Bench
from tests.property.checker import check, check_bound
from tests.property.oracle import Oracle
from tests.property.sizes import IS_MUTANT, size, tries
from tests.property.world import (
    SETTINGS,
    Act,
    Capture,
    Consume,
    Extend,
    Grant,
    Overage,
    Reserve,
    Settle,
    Void,
    VoidGrant,
    Wait,
    World,
)
from tests.servers import Database

who = st.integers(0, 1)
plain = st.one_of(
    strategies.plain_grants,
    strategies.reserves,
    strategies.captures,
    strategies.voids,
    strategies.extends,
    strategies.consumes,
)


class BooksMachine(RuleBasedStateMachine):
    """Two customers; each rule is one committed transaction."""

    bench: ClassVar[Bench]

    @initialize(
        is_plain=st.booleans(),
        loads=st.sampled_from([(1, 2, 1), (2, 3, 2), (2, 250, 100)]),
        steps_max=st.sampled_from([1_000, 1_000, 3]),
        amount=st.integers(60, 300),
    )
    def begin(
        self, is_plain: bool, loads: tuple[int, int, int], steps_max: int, amount: int
    ) -> None:
        # The oracle does not know that time may have done too much for one request.
        self.is_plain = is_plain and steps_max == 1_000
        set_sizes(*loads, steps_max)
        made = self.bench.customers(2)
        self.worlds = [World(no, name) for name, no in made.items()]
        self.oracles = [Oracle(), Oracle()]
        self.sent: list[tuple[int, Request]] = []
        self.clock(0)
        for place in (0, 1):
            self.run_batch([(place, Grant(amount))])
            self.run_batch([(place, Reserve(amount // 6))])

    # Rules

    @rule(place=who, act=strategies.plain_grants)
    def grant(self, place: int, act: Act) -> None:
        self.run_batch([(place, act)])

    @precondition(lambda self: not self.is_plain)
    @rule(place=who, act=strategies.series)
    def grant_series(self, place: int, act: Act) -> None:
        self.run_batch([(place, act)])

    @rule(place=who, act=strategies.reserves)
    def reserve(self, place: int, act: Act) -> None:
        self.run_batch([(place, act)])

    @rule(place=who, act=strategies.captures)
    def capture(self, place: int, act: Act) -> None:
        self.run_batch([(place, act)])

    @precondition(lambda self: not self.is_plain)
    @rule(place=who, act=strategies.late_captures)
    def capture_late_usage(self, place: int, act: Act) -> None:
        self.run_batch([(place, act)])

    @rule(place=who, act=strategies.voids)
    def void(self, place: int, act: Act) -> None:
        self.run_batch([(place, act)])

    @rule(place=who, act=strategies.extends)
    def extend(self, place: int, act: Act) -> None:
        self.run_batch([(place, act)])

    @rule(place=who, act=strategies.consumes)
    def consume(self, place: int, act: Act) -> None:
        self.run_batch([(place, act)])

    @precondition(lambda self: not self.is_plain)
    @rule(place=who, act=strategies.late_consumes)
    def consume_late(self, place: int, act: Act) -> None:
        self.run_batch([(place, act)])

    @precondition(lambda self: not self.is_plain)
    @rule(place=who, act=strategies.reverses)
    def reverse(self, place: int, act: Act) -> None:
        self.run_batch([(place, act)])

    @rule(place=who, act=strategies.grant_voids | strategies.overages | st.just(Settle()))
    def do_what_is_rare(self, place: int, act: Act) -> None:
        self.run_batch([(place, act)])

    @rule(place=who, act=strategies.waits)
    def wait(self, place: int, act: Wait) -> None:
        self.worlds[place].wait(act)
        self.clock(place)

    @rule(batch=st.lists(st.tuples(who, plain), min_size=2, max_size=5))
    def batch(self, batch: list[tuple[int, Act]]) -> None:
        self.run_batch(batch)

    @rule(back=st.integers(1, 8))
    def replay(self, back: int) -> None:
        place, request = self.sent[-min(back, len(self.sent))]
        [outcome] = self.compare([request])
        assert outcome.is_replayed or not outcome.is_remembered
        if not outcome.is_replayed:
            # The first answer was not remembered (404, 422): the same again, and time settled.
            self.oracles[place].tick(self.worlds[place].now)

    # What they share

    def clock(self, place: int) -> None:
        """One clock for both customers: that of this one."""
        now = self.worlds[place].now
        for world in self.worlds:
            world.now = now
        self.bench.move_clock(now)

    def run_batch(self, acts: list[tuple[int, Act]]) -> None:
        said = [self.opinion(place, act) for place, act in acts] if self.is_plain else []
        batch = [self.worlds[place].request(act) for place, act in acts]
        outcomes = self.compare(batch)
        if self.is_plain:
            assert [outcome.status for outcome in outcomes] == said
            for place in {place for place, _ in acts}:
                self.agree(place)
        self.sent += [
            (place, request)
            for (place, _), request, outcome in zip(acts, batch, outcomes, strict=True)
            if request.key is not None and outcome.status != 503
        ]

    def compare(self, batch: list[Request]) -> list[Outcome]:
        """Send a batch to the database and to the model; their answers are the same."""
        books = {world.books.customer_no: world.books for world in self.worlds}
        now = self.worlds[0].now
        outcomes = decide(books, batch, SETTINGS, now)
        results = self.bench.send(batch)
        for request, outcome, result in zip(batch, outcomes, results, strict=True):
            expected = render(request, outcome)
            assert (result.status, result.is_replayed) == (outcome.status, outcome.is_replayed)
            assert result.body == expected, (result.body, expected)
        for world in self.worlds:
            mine = [
                outcome
                for request, outcome in zip(batch, outcomes, strict=True)
                if request.customer_no == world.books.customer_no
            ]
            world.commit(mine)
            if any(not outcome.is_replayed for outcome in mine) and not is_busy(mine):
                check(world.books, now)
        return outcomes

    def opinion(self, place: int, act: Act) -> int:
        """The status that the oracle expects; it moves on."""
        oracle, world = self.oracles[place], self.worlds[place]
        now = world.now
        oracle.tick(now)
        match act:
            case Grant():
                end = None if act.ends is None else _later(now, act.ends)
                start = now if act.starts is None else _later(now, act.starts)
                status = oracle.grant(act.amount, act.priority, act.paid, start, end, now)
                oracle.tick(now)
                return status
            case Reserve():
                least = act.amount if act.minimum is None else min(act.minimum, act.amount)
                return oracle.reserve(act.amount, least, act.seconds, now)
            case Consume():
                return oracle.consume(act.amount)
            case Overage():
                limit = 30 if act.policy == "owe" and act.limit is None else act.limit
                return oracle.overage(act.policy, limit)
            case VoidGrant():
                known = len(world.grants)
                parcel = oracle.parcels[known - 1 - act.grant % known]
                return oracle.void_grant(parcel)
            case Capture() | Void() | Extend():
                known = len(world.holds)
                pledge = oracle.pledges[known - 1 - act.hold % known]
                if isinstance(act, Void):
                    return oracle.void(pledge, now)
                if isinstance(act, Extend):
                    return oracle.extend(pledge, act.seconds, act.add or 0, now)
                return oracle.capture(pledge, act.amount, act.final, act.take, now)
            case _:
                return 200

    def agree(self, place: int) -> None:
        oracle, account = self.oracles[place], self.worlds[place].account
        balance = (account.available, account.pending, account.owed, account.billed)
        assert balance == (oracle.available, oracle.held, oracle.owed, oracle.billed)
        assert account.wallet == oracle.available + oracle.held

    def teardown(self) -> None:
        for world in getattr(self, "worlds", []):
            _compare_rows(self.bench, world)


def is_busy(outcomes: list[Outcome]) -> bool:
    """Whether time has done more to the customer than one request posts."""
    return any(outcome.status == 503 for outcome in outcomes)


def _later(now: datetime, seconds: int) -> datetime:
    return now + timedelta(seconds=seconds)


def _compare_rows(bench: Bench, world: World) -> None:
    """The database holds what the model holds."""
    books, no = world.books, world.books.customer_no
    head = "SELECT last_no, last_seq, last_hash, next_due_at FROM customers WHERE customer_no = $1"
    [(*numbers, due_at)] = bench.rows(head, no)
    assert numbers == [books.last_no, books.last_seq, books.last_hash]
    check_bound(due_at, books)
    lots = """
        SELECT lot_no, remaining, pinned, expired, voided, is_upcoming, voided_at, deferred_amount
        FROM lots WHERE customer_no = $1 ORDER BY lot_no
    """
    assert bench.rows(lots, no) == [
        (
            *(n, o.remaining, o.pinned, o.expired, o.voided),
            *(o.is_upcoming, o.voided_at, o.deferred_amount),
        )
        for n, o in sorted(books.lots.items())
    ]
    holds = """
        SELECT hold_no, status, amount, captured, uncovered, expires_at, ended_at, steps
        FROM holds WHERE customer_no = $1 ORDER BY hold_no
    """
    assert bench.rows(holds, no) == [
        (n, h.status, h.amount, h.captured, h.uncovered, h.expires_at, h.ended_at, h.steps)
        for n, h in sorted(books.holds.items())
    ]
    debts = """
        SELECT debt_no, amount, repaid, cancelled, returned
        FROM debts WHERE customer_no = $1 ORDER BY debt_no
    """
    assert bench.rows(debts, no) == [
        (n, d.amount, d.repaid, d.cancelled, d.returned) for n, d in sorted(books.debts.items())
    ]
    accounts = """
        SELECT wallet_credits - wallet_debits, wallet_pending, owed_debits - owed_credits
        FROM accounts WHERE customer_no = $1
    """
    assert bench.rows(accounts, no) == [
        (account.wallet, account.pending, account.owed) for account in books.accounts.values()
    ]


@pytest.fixture
def bench(database: Database) -> Generator[Bench]:
    made = Bench(database)
    sizes = ledger.load.LOTS_FIRST, ledger.load.LOTS_MORE, ledger.load.DEBTS_FIRST
    yield made
    set_sizes(*sizes, 1_000)
    made.close()


def set_sizes(lots_first: int, lots_more: int, debts_first: int, steps_max: int) -> None:
    """How much is loaded at first, then, and how much time may do in one request."""
    ledger.load.LOTS_FIRST, ledger.load.LOTS_MORE = lots_first, lots_more  # type: ignore[misc]
    ledger.load.DEBTS_FIRST = debts_first  # type: ignore[misc]
    ledger.load.DEBTS_MAX = ledger.load.DUE_MAX = steps_max + 1  # type: ignore[misc]
    ledger.settle.STEPS_MAX = ledger.grants.STEPS_MAX = steps_max  # type: ignore[misc]


def test_random_requests_on_the_database_equal_model_and_oracle(bench: Bench) -> None:
    BooksMachine.bench = bench
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        BooksMachine,
        settings=tries(25 if IS_MUTANT else 150, 2_000, stateful_step_count=size(30, 50)),
    )
