"""Usage traces: CSV files with one request to a language model in each row.

Columns `TIMESTAMP,ContextTokens,GeneratedTokens`, as in `AzureLLMInferenceDataset2023`. Lines end
in CRLF or LF, the last one perhaps in neither. A file is read row by row: its size does not matter.
"""

import csv
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from msgspec import Struct

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
DIGITS_MAX: Final = 9
"""Of a token count; the largest amount of the asset `credits` has ten digits before the point."""

TIMESTAMP: Final = re.compile(
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,7})?(Z|[+-]\d\d:\d\d)?", re.ASCII
)


class TraceError(Exception):
    """The file is not a usage trace. The message is one line that names the file and the line."""


class Row(Struct, frozen=True):
    """One request: `context` tokens were known before the work, `generated` only after it."""

    number: int
    """From 1, the header not counted."""
    at: datetime
    context: int
    generated: int


class Trace(Struct, frozen=True):
    """A file that was read once to its end: every row of it is good."""

    path: Path
    name: str
    """The name of the file as printable ASCII, percent-encoded where it is not."""
    row_count: int
    context: int
    generated: int
    longest_answer: int
    """Most generated tokens of any row."""
    first_at: datetime
    last_at: datetime


def survey(path: Path) -> Trace:
    """Read the whole file once. Raises TraceError at the first wrong line, or if it has no rows."""
    count = context = generated = longest = 0
    first = last = None
    for row in read_rows(path):
        count += 1
        context += row.context
        generated += row.generated
        longest = max(longest, row.generated)
        first = row.at if first is None else min(first, row.at)
        last = row.at if last is None else max(last, row.at)
    if first is None or last is None:
        raise TraceError(f"{path}: has no rows after its header")
    name = quote(path.name, safe="", errors="surrogateescape")
    return Trace(path, name, count, context, generated, longest, first, last)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows in file order, blank lines left out. Raises TraceError at the first wrong line."""
    if path.exists() and not path.is_file():
        raise TraceError(f"{path}: is not a regular file, and a trace is read twice")
    line = 1
    try:
        # Some editors write a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            cells = csv.reader(file, strict=True)
            _check_header(next(cells, None) or [])
            number = 0
            while True:
                line = cells.line_num + 1
                if (record := next(cells, None)) is None:
                    return
                if record:
                    number += 1
                    yield _row(number, record)
    except OSError as exc:
        raise TraceError(f"can't read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise TraceError(f"{path}, line {line} or later: not UTF-8 text") from exc
    except (csv.Error, ValueError) as exc:
        raise TraceError(f"{path}, line {line}: {exc}") from exc


def _check_header(header: list[str]) -> None:
    """Raises ValueError."""
    if tuple(header) != COLUMNS:
        found = ",".join(header)[:80] or "nothing"
        raise ValueError(f"the columns must be {','.join(COLUMNS)}, not {found!r}")


def _row(number: int, record: list[str]) -> Row:
    """Raises ValueError."""
    if len(record) != len(COLUMNS):
        raise ValueError(f"{len(record)} columns instead of {len(COLUMNS)}")
    at, context, generated = record
    return Row(number, _time(at), _count(context, COLUMNS[1]), _count(generated, COLUMNS[2]))


def _time(text: str) -> datetime:
    if TIMESTAMP.fullmatch(text) is None:
        raise ValueError(f"TIMESTAMP must be like 2023-11-16 18:17:03.9799600, not {text[:40]!r}")
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _count(text: str, column: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX):
        raise ValueError(f"{column} must be a whole number, not {text[:40]!r}")
    return int(text)
