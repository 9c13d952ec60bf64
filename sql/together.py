"""Statements that belong together, sent as one: a round trip for all, and nothing for the others.

PostgreSQL opens every table and index that a statement names, whether it has rows for it or not.
So a statement is put together from those parts that have something to do. There are few ways to do
so, and a connection prepares each once.
"""

import re
from functools import cache
from typing import Final

from sql import queries

_PARAMETER: Final = re.compile(r"\$(\d+)")


@cache
def as_one(*names: str) -> str:
    """Statements that write, as one: all see the same rows, so no two may write the same row.

    The parameters are those of the first, then those of the next, and so on.
    """
    *before, last = _renumbered(names)
    if not before:
        return last
    parts = ",\n".join(f"part_{place} AS (\n{text}\n)" for place, text in enumerate(before, 1))
    return f"WITH {parts}\n{last}"


@cache
def as_row(*names: str) -> str:
    """Statements that read one row each, as one row of all their columns; parameters as above."""
    parts = [f"(\n{text}\n) AS part_{n}" for n, text in enumerate(_renumbered(names), 1)]
    return "SELECT *\nFROM " + "\nCROSS JOIN ".join(parts)


def _renumbered(names: tuple[str, ...]) -> list[str]:
    texts: list[str] = []
    offset = 0
    for name in names:
        text: str = getattr(queries, name)
        numbers = [int(number) for number in _PARAMETER.findall(text)]
        texts.append(_PARAMETER.sub(lambda found, by=offset: f"${int(found[1]) + by}", text))
        offset += max(numbers, default=0)
    return texts
