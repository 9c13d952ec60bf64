"""Rows as the columns of a set-based statement, most of them as the text of an array.

The driver looks at each element of a list; PostgreSQL reads an array's text faster than that.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, cast


def columns(rows: Sequence[Sequence[Any]], kinds: str) -> list[Any]:
    """The columns of `rows`, each of its kind.

    `i`: whole numbers, `n`: some may be missing; `s`: plain words without quotes or backslashes, or
    missing; `q`: any text, or missing; `t`: times, or missing; `.`: left to the driver.
    """
    if not rows:
        return [() if kind == "." else "{}" for kind in kinds]
    return [
        _WRITERS[kind](column) for kind, column in zip(kinds, zip(*rows, strict=True), strict=True)
    ]


def array_text(numbers: Iterable[int]) -> str:
    """Whole numbers as PostgreSQL writes an array."""
    return f"{{{','.join(map(str, numbers))}}}"


def _maybe_numbers(column: Iterable[int | None]) -> str:
    return f"{{{','.join(['NULL' if n is None else str(n) for n in column])}}}"


def _words(column: Iterable[str | None]) -> str:
    return "{" + ",".join(["NULL" if word is None else f'"{word}"' for word in column]) + "}"


def _times(column: Iterable[datetime | None]) -> str:
    """Many rows of a batch have the same few times."""
    known: dict[datetime | None, str] = {None: "NULL"}
    words: list[str] = []
    for at in column:
        word = known.get(at)
        if word is None:
            assert at is not None
            word = known[at] = f'"{at.isoformat()}"'
        words.append(word)
    return f"{{{','.join(words)}}}"


def _texts(column: Sequence[str | None]) -> str:
    if None not in column:
        # The whole column at once: no text holds U+0000.
        joined = "\0".join(cast("Sequence[str]", column))
        escaped = joined.replace("\\", "\\\\").replace('"', '\\"').replace("\0", '","')
        return f'{{"{escaped}"}}'
    return f"{{{','.join(['NULL' if text is None else _quoted(text) for text in column])}}}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _as_is(column: Sequence[Any]) -> Sequence[Any]:
    return column


_WRITERS: Final[dict[str, Callable[[Any], Any]]] = {
    "i": array_text,
    "n": _maybe_numbers,
    "s": _words,
    "q": _texts,
    "t": _times,
    ".": _as_is,
}
