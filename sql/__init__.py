"""Every statement of drawdown as text, by name: `from sql import queries`.

A file `queries/NOUN.sql` holds many statements. Each starts with a line `-- name --`, then a
comment that says what the statement does, then the statement with parameters `$1`, `$2`, …
"""

import re
from collections.abc import Iterator
from pathlib import Path

QUERIES = Path(__file__).parent / "queries"

_HEADER = re.compile(r"^-- ([a-z][a-z0-9_]*) --$")
_LOOKS_LIKE_HEADER = re.compile(r"^\s*--.*--\s*$")


class QueryFileError(Exception):
    """A query file can't be read as statements. Names the file and the line."""


class Queries:
    """The statements of a folder: one `str` attribute each. An unknown name is an AttributeError.

    Iterating gives the names in order.
    """

    def __init__(self, folder: Path) -> None:
        """Read every `*.sql` of `folder`. Raises QueryFileError on a bad file or a double name."""
        self._texts: dict[str, str] = {}
        for path in sorted(folder.glob("*.sql")):
            for name, text in _statements(path):
                if name in self._texts:
                    raise QueryFileError(f"{path.name}: a second statement is named {name!r}")
                self._texts[name] = text

    def __getattr__(self, name: str) -> str:
        # Only reached when there is no ordinary attribute of that name.
        try:
            return self.__dict__["_texts"][name]
        except KeyError:
            raise AttributeError(f"no statement is named {name!r}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._texts))


def _statements(path: Path) -> Iterator[tuple[str, str]]:
    """The (name, text) pairs of one file, without leading comments and the last semicolon."""
    name = ""
    lines: list[str] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if header := _HEADER.match(line):
            if name:
                yield name, _text(path, name, lines)
            name, lines = header[1], []
        elif _LOOKS_LIKE_HEADER.match(line):
            # Taken for a comment, it would hide its statement in the one above.
            raise QueryFileError(f"{path.name}:{number}: not a statement's name: {line.strip()}")
        elif name:
            lines.append(line)
        elif line.strip() and not line.startswith("--"):
            raise QueryFileError(f"{path.name}:{number}: text before the first `-- name --`")
    if name:
        yield name, _text(path, name, lines)


def _text(path: Path, name: str, lines: list[str]) -> str:
    start = next((i for i, x in enumerate(lines) if x.strip() and not x.startswith("--")), None)
    if start is None:
        raise QueryFileError(f"{path.name}: the statement {name!r} is empty")
    return "\n".join(lines[start:]).strip().removesuffix(";").rstrip()


queries = Queries(QUERIES)
