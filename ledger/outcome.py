"""What deciding a request came to."""

from msgspec import Struct

from ledger.answers import Problem

REMEMBERED = frozenset({200, 201, 202, 402, 409})


class Outcome(Struct, eq=False):
    """The answer to one request: a status, and a body yet to be rendered or stored earlier."""

    status: int
    answer: Struct | None
    """The answer, or a Problem; None where `body` is a stored answer or there is nothing to say."""
    is_replayed: bool = False
    body: bytes | None = None
    first: "Outcome | None" = None
    """The outcome in this batch that this one repeats: its rendered body is the answer."""

    @property
    def is_remembered(self) -> bool:
        return self.status in REMEMBERED


def refuse(
    status: int, code: str, detail: str, *, pointer: str | None = None, **facts: object
) -> Outcome:
    return Outcome(status, Problem(code, detail, facts, pointer))
