"""What follows from a change elsewhere: a payment that succeeds pays its invoice.

Reactions run inside the change, in the order in which their modules were imported.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

F = TypeVar("F", bound=Callable[..., None])

_REACTIONS: Final[dict[str, list[Callable[[Any, dict[str, Any]], None]]]] = {}


def on(*events: str) -> Callable[[F], F]:
    """Run the function with the world and the object, each time one of these events begins."""

    def register(function: F) -> F:
        for event in events:
            _REACTIONS.setdefault(event, []).append(function)
        return function

    return register


def of(event: str) -> list[Callable[[Any, dict[str, Any]], None]]:
    return _REACTIONS.get(event, [])
