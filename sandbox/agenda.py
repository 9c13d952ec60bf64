"""What the time brings: each kind of object says when it is due next, and what happens then.

Nothing is put on a list in advance: an object that changes has changed its due time as well.
"""

from collections.abc import Callable
from typing import Final

from sandbox.lives import LIVES
from sandbox.shapes import Obj
from sandbox.world import World

When = Callable[[World, Obj], int | None]
Act = Callable[[World, Obj], None]

FIRST: Final = ("subscription_schedule", "subscription", "invoice")
"""At one instant: a phase sets the price of the renewal, which drafts an invoice."""

_KINDS: Final[dict[str, tuple[When, Act]]] = {}


def register(kind: str, when: When, act: Act) -> None:
    """`act` must change what `when` says, or time would stand still."""
    _KINDS[kind] = (when, act)
    for name in reversed(FIRST):
        if name in _KINDS:
            rest = {other: both for other, both in _KINDS.items() if other != name}
            found = _KINDS[name]
            _KINDS.clear()
            _KINDS.update({name: found, **rest})


def soonest(world: World, clock_id: str | None = None) -> tuple[int, Obj] | None:
    """The first object that is due, and when; on one test clock, or on the clock of all others."""
    best: tuple[int, Obj] | None = None
    for kind, (when, _) in _KINDS.items():
        life = LIVES.get(kind)
        for obj in list(world.live.get(kind, {}).values()):
            if life is not None and life.is_over(obj["status"]):
                del world.live[kind][obj["id"]]
                continue
            at = when(world, obj)
            if (
                at is not None
                and (best is None or at < best[0])
                and (world.clock_of(obj) == clock_id)
            ):
                best = (at, obj)
    return best


def act(world: World, obj: Obj) -> None:
    """Let an object do what it is due for."""
    _KINDS[obj["object"]][1](world, obj)
