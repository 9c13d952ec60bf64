"""Rows as columns for `unnest`, mostly as the text of an array: quicker to send than lists."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final


def array_text(numbers: Iterable[int]) -> str:
    """Whole numbers as the text of an array: the driver looks at every element of a list."""
    return f"{{{','.join(map(str, numbers))}}}"


def quick(rows: Sequence[Sequence[Any]], kinds: str) -> list[Any]:
    """Rows as columns, most of them as the text of an array: the driver looks at list elements.

    `i`: whole numbers, `n`: some may be missing; `s`: plain words without quotes or backslashes, or
    missing; `q`: any text, or missing; `.`: left to the driver.
    """
    if not rows:
        return [() if kind == "." else "{}" for kind in kinds]
    return [
        _WRITERS[kind](column) for kind, column in zip(kinds, zip(*rows, strict=True), strict=True)
    ]


def _maybe_numbers(column: Iterable[int | None]) -> str:
    return f"{{{','.join(['NULL' if n is None else str(n) for n in column])}}}"


def _words(column: Iterable[str | None]) -> str:
    return "{" + ",".join(["NULL" if word is None else f'"{word}"' for word in column]) + "}"


def _texts(column: Iterable[str | None]) -> str:
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
    ".": _as_is,
}
