"""Linearizability of one customer's books: is there an order of the calls that explains them all?

A call takes effect at one instant between its start and its return. The checker looks for such
instants: it tries every call that may come next, and remembers what it has tried. The sequential
model knows one lot that never ends, so a balance is two numbers and a hold is three.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verb = Literal["grant", "reserve", "capture", "void", "read", "read hold"]


@dataclass(frozen=True)
class Seen:
    """What a caller was told. Amounts in whole credits."""

    status: int
    code: str | None = None
    hold: str | None = None
    state: tuple[str, int, int] | None = None
    """A hold's status, captured and remaining."""
    balance: tuple[int, int, int] | None = None
    """Posted, held, available."""
    is_replayed: bool = False
    raw: bytes = b""


@dataclass(frozen=True)
class Call:
    """One request: what was asked, what came back, and the ticks of a common counter around it."""

    verb: Verb
    key: str
    started: int
    returned: int
    seen: Seen
    amount: int | None = None
    hold: str = ""
    final: bool = True


@dataclass(frozen=True)
class State:
    """The books in order: hashable, so that a search can tell where it was."""

    wallet: int = 0
    holds: frozenset[tuple[str, str, int, int]] = frozenset()
    """id, status, captured, remaining"""

    @property
    def held(self) -> int:
        return sum([one[3] for one in self.holds])

    @property
    def balance(self) -> tuple[int, int, int]:
        return self.wallet, self.held, self.wallet - self.held


def step(state: State, call: Call) -> State | None:
    """The state after the call, if what was seen can be the answer here; else None."""
    seen = call.seen
    if call.verb == "read":
        return state if seen.balance == state.balance else None
    holds = {one[0]: one for one in state.holds}
    if call.verb == "read hold":
        known = holds.get(call.hold)
        return state if known is not None and known[1:] == seen.state else None
    if seen.is_replayed:
        return state
    after = _act(state, holds, call)
    return None if after is None or (seen.status < 400 and seen.balance != after.balance) else after


def _act(state: State, holds: dict[str, tuple[str, str, int, int]], call: Call) -> State | None:
    seen, amount = call.seen, call.amount or 0
    free = state.wallet - state.held
    if call.verb == "grant":
        return State(state.wallet + amount, state.holds) if seen.status == 201 else None
    if call.verb == "reserve":
        if amount > free:
            right = (402, free) == (seen.status, seen.balance[2] if seen.balance else None)
            return state if right else None
        if seen.status != 201 or seen.hold is None or seen.hold in holds:
            return None
        return State(state.wallet, state.holds | {(seen.hold, "open", 0, amount)})
    known = holds.get(call.hold)
    if known is None:
        return None
    _, status, captured, remaining = known
    if status != "open":
        return state if (seen.status, seen.code) == (409, f"hold_already_{status}") else None
    taken = 0
    if call.verb == "void":
        after = (call.hold, "voided", captured, 0)
    else:
        taken = remaining if call.amount is None else amount
        if taken > remaining:
            return state if (seen.status, seen.code) == (409, "capture_exceeds_hold") else None
        ends = call.final or taken == 0
        after = (
            call.hold,
            "captured" if ends else "open",
            captured + taken,
            0 if ends else remaining - taken,
        )
    if seen.status != 200 or seen.state != after[1:]:
        return None
    return State(state.wallet - taken, (state.holds - {known}) | {after})


def explain(calls: Sequence[Call], start: State = State()) -> str | None:
    """None if the calls are linearizable; else the first calls that no order explains."""
    calls = sorted(calls, key=lambda call: call.started)
    keys = [_same_key(calls, call) for call in calls]
    every = (1 << len(calls)) - 1
    best = 0
    tried: set[tuple[int, State]] = set()
    paths: list[tuple[int, State]] = [(0, start)]
    while paths:
        done, state = paths.pop()
        if done == every:
            return None
        if done.bit_count() > best.bit_count():
            best = done
        following: list[tuple[int, State]] = []
        for place in _may_come_next(calls, done):
            is_first = not done & keys[place]
            if is_first == calls[place].seen.is_replayed:
                continue  # a replay before the first answer, or a second answer
            after = step(state, calls[place])
            if after is None:
                continue
            path = (done | 1 << place, after)
            if after == state:
                # It changes nothing and may be now: so it need not be tried later.
                following = [path]
                break
            following.append(path)
        paths += [path for path in following if path not in tried]
        tried.update(following)
    left = [call for place, call in enumerate(calls) if not best >> place & 1]
    return f"{best.bit_count()} of {len(calls)} calls explained; then none of {left[:12]}"


def _same_key(calls: Sequence[Call], call: Call) -> int:
    """The other calls (a bit each) whose first answer a replay of this one would repeat."""
    if call.verb in {"read", "read hold"}:
        return 0
    found = 0
    for place, other in enumerate(calls):
        is_twin = other is not call and other.key == call.key and not other.seen.is_replayed
        if is_twin and (other.seen.raw == call.seen.raw or not call.seen.is_replayed):
            found |= 1 << place
    return found


def _may_come_next(calls: Sequence[Call], done: int) -> list[int]:
    """The calls that started before any other that is left had returned."""
    found: list[int] = []
    returned = None
    for place, call in enumerate(calls):
        if returned is not None and call.started > returned:
            break
        if not done >> place & 1:
            found.append(place)
            returned = call.returned if returned is None else min(returned, call.returned)
    assert returned is not None
    return [place for place in found if calls[place].started < returned]
