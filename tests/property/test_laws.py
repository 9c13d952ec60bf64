"""Laws of the books, on random histories. Pure: no database."""

from datetime import timedelta
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.answers import HoldAnswer, Problem
from ledger.decide import decide_one
from ledger.outcome import Outcome
from ledger.requests import Capture as CaptureRequest
from tests.property import strategies
from tests.property.checker import check
from tests.property.sizes import tries
from tests.property.world import (
    SETTINGS,
    Act,
    Capture,
    Consume,
    Grant,
    Reserve,
    Reverse,
    Settle,
    Void,
    Wait,
    World,
    facts,
    play,
)

law = tries(100, 3_000)
LATEST = 0
amounts = strategies.amounts
histories = strategies.histories


def ready(history: list[Act]) -> World:
    """A world with a history, settled at its present time."""
    world = play(history)
    world.do(Settle())
    return world


def done(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.status in {200, 201}


@law
@given(histories)
def test_any_history_keeps_every_invariant_after_every_decision(history: list[Act]) -> None:
    world = World()
    for act in history:
        outcome = world.do(act)
        if outcome is not None:
            check(world.books, world.now)


@law
@given(histories, amounts, amounts)
def test_consume_in_two_steps_equals_consume_at_once(
    history: list[Act], first: int, second: int
) -> None:
    once, twice = ready(history), ready(history)
    assume(done(once.do(Consume(first + second))))
    assert done(twice.do(Consume(first)))
    assert done(twice.do(Consume(second)))
    assert facts(once.books) == facts(twice.books)


@law
@given(histories, amounts, st.integers(1, 39), st.integers(0, 10))
def test_capture_in_two_steps_equals_capture_at_once(
    history: list[Act], amount: int, first: int, rest: int
) -> None:
    assume(first < amount)
    once, twice = ready(history), ready(history)
    assume(done(once.do(Reserve(amount + rest))))
    assert done(twice.do(Reserve(amount + rest)))
    assert done(once.do(Capture(LATEST, amount)))
    assert done(twice.do(Capture(LATEST, first, final=False)))
    assert done(twice.do(Capture(LATEST, amount - first)))
    assert facts(once.books) == facts(twice.books)


@law
@given(histories, amounts)
def test_reserve_then_void_changes_nothing(history: list[Act], amount: int) -> None:
    world = ready(history)
    before = facts(world.books), len(world.books.journals)
    assume(done(world.do(Reserve(amount))))
    assert done(world.do(Void(LATEST)))
    before[0]["accounts"].setdefault("credits", (0,) * 7)
    assert (facts(world.books), len(world.books.journals)) == before


@law
@given(histories, st.lists(strategies.captures, min_size=1, max_size=6))
def test_capture_with_deny_never_exceeds_its_hold(
    history: list[Act], captures: list[Capture]
) -> None:
    world = ready(history)
    for capture in captures:
        request = world.request(Capture(capture.hold, capture.amount, capture.final))
        assert isinstance(request, CaptureRequest)
        hold = world.books.holds.get(request.hold_no)
        left, captured = (hold.remaining, hold.captured) if hold else (0, 0)
        [outcome] = world.send(request)
        if hold is not None:
            assert 0 <= hold.captured - captured <= left
        if outcome.status == 409:
            assert hold is not None
            assert hold.captured == captured


@law
@given(histories, st.data())
def test_settling_early_or_late_gives_the_same_books(history: list[Act], data: Any) -> None:
    late, early = World(), World()
    for act in history:
        if isinstance(act, Wait):
            start = late.now
            late.wait(act)
            pause = (late.now - start) * data.draw(st.sampled_from([0, 0.5, 0.999]))
            early.now = start + pause
            early.do(Settle())
            early.now = late.now
            early.do(Settle())
        else:
            late.do(act)
            early.do(act)
    late.do(Settle())
    early.do(Settle())
    assert facts(late.books) == facts(early.books)
    assert _story(late) == _story(early)


def _story(world: World) -> list[tuple[object, ...]]:
    return [
        (j.kind, j.effective_at, j.book_date, j.transfers, j.hold_no, j.lot_no, j.charge_seq)
        for j in world.books.journals
    ]


@law
@given(histories, amounts, st.sampled_from([None, 1, strategies.HOUR, strategies.DAY]), st.data())
def test_reversal_restores_the_lots_it_came_from(
    history: list[Act], amount: int, ago: int | None, data: Any
) -> None:
    world = ready(history)
    before = facts(world.books)
    assume(done(world.do(Consume(amount, ago=ago))))
    first = data.draw(st.integers(1, amount))
    assert done(world.do(Reverse(LATEST, first)))
    if first < amount:
        assert done(world.do(Reverse(LATEST)))
    before["accounts"].setdefault("credits", (0,) * 7)
    assert facts(world.books) == before
    again = world.do(Reverse(LATEST))
    assert again is not None
    assert isinstance(again.answer, Problem)
    assert again.answer.code == "reversal_exceeds_charge"


@law
@given(histories, strategies.acts, st.lists(strategies.acts, max_size=5))
def test_replay_returns_the_first_answer_and_changes_nothing(
    history: list[Act], act: Act, since: list[Act]
) -> None:
    world = play(history)
    assume(not isinstance(act, Wait))
    request = world.request(act)
    [first] = world.send(request)
    assume(first.is_remembered and request.key is not None)
    for other in since:
        world.do(other)
    before = facts(world.books), len(world.books.journals), world.books.last_no
    [again] = world.send(request)
    assert again.is_replayed
    assert (again.status, again.answer) == (first.status, first.answer)
    [reused] = world.send(replace(request, fingerprint=b"another request"))
    assert isinstance(reused.answer, Problem)
    assert reused.answer.code == "idempotency_key_reused"
    assert (facts(world.books), len(world.books.journals), world.books.last_no) == before


@law
@given(histories, strategies.acts)
def test_refused_request_leaves_only_what_time_had_done(history: list[Act], act: Act) -> None:
    asked, settled = play(history), play(history)
    assume(not isinstance(act, Wait))
    outcome = asked.do(act)
    assume(not done(outcome))
    settled.do(Settle())
    known = facts(settled.books)
    if "credits" in asked.books.accounts:
        known["accounts"].setdefault("credits", (0,) * 7)
    assert facts(asked.books) == known
    assert _story(asked) == _story(settled)
    assert asked.books.last_no == settled.books.last_no


@law
@given(histories, st.lists(strategies.acts, min_size=2, max_size=6))
def test_batch_decides_as_one_by_one(history: list[Act], acts: list[Act]) -> None:
    together, apart = play(history), play(history)
    waiting = [act for act in acts if not isinstance(act, Wait)]
    batch = [together.request(act) for act in waiting]
    single = [apart.request(act) for act in waiting]
    outcomes = together.send(*batch)
    for request, outcome in zip(single, outcomes, strict=True):
        # Nobody can name in a batch what the batch itself makes.
        alone = decide_one(apart.books, request, SETTINGS, apart.now)
        assert (outcome.status, outcome.answer) == (alone.status, alone.answer)
    assert facts(together.books) == facts(apart.books)


@law
@given(histories, amounts)
def test_hold_ends_exactly_at_its_deadline(history: list[Act], amount: int) -> None:
    world = ready(history)
    made = world.do(Reserve(amount, seconds=600))
    assume(done(made))
    assert made is not None
    assert isinstance(made.answer, HoldAnswer)
    deadline = made.answer.expires_at
    world.now = deadline - timedelta(microseconds=1)
    assert done(world.do(Capture(LATEST, 1, final=False)))
    world.now = deadline
    refused = world.do(Capture(LATEST, 1))
    assert refused is not None
    assert isinstance(refused.answer, Problem)
    assert refused.answer.code == "hold_expired"


@law
@given(histories, amounts, amounts, st.booleans())
def test_credit_that_returns_at_the_end_of_its_lot_leaves_with_it(
    history: list[Act], amount: int, used: int, is_reversed: bool
) -> None:
    world = ready(history)
    assume(done(world.do(Grant(amount, priority=0, ends=60))))
    lot = world.books.lots[max(world.books.lots)]
    end = lot.expires_at
    assert end is not None
    assume(done(world.do(Consume(used) if is_reversed else Reserve(used))))
    world.now = end
    assert done(world.do(Reverse(LATEST) if is_reversed else Void(LATEST)))
    assert lot.remaining == 0
    check(world.books, world.now)
