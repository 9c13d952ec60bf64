"""Cursors: what was given out comes back, and nothing else."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import pytest

from meter import cursors
from meter.problems import ProblemError

SECRET = b"s" * 32
FILTERS = {"list": "holds", "customer_id": "acme", "status": None}


@pytest.mark.parametrize("position", [7, "x", [1, "2026-05-04T00:00:00Z"], None, {"a": 1}])
def test_cursor_comes_back(position: Any) -> None:
    cursor = cursors.encode(SECRET, FILTERS, position)
    assert cursor.replace("-", "").replace("_", "").isalnum()
    assert cursors.decode(SECRET, dict(reversed(FILTERS.items())), cursor) == position


@pytest.mark.parametrize(
    "filters",
    [
        {**FILTERS, "status": "open"},
        {**FILTERS, "list": "charges"},
        {**FILTERS, "customer_id": "acme2"},
        {**FILTERS, "more": ""},
        {},
    ],
)
def test_cursor_of_other_filters_is_refused(filters: dict[str, str | None]) -> None:
    refused(filters, cursors.encode(SECRET, FILTERS, 7))


def test_cursor_of_another_installation_is_refused() -> None:
    refused(FILTERS, cursors.encode(b"t" * 32, FILTERS, 7))


def test_cursor_every_changed_byte_is_refused() -> None:
    cursor = cursors.encode(SECRET, FILTERS, [7, "x"])
    data = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    for index in range(len(data)):
        changed = bytearray(data)
        changed[index] ^= 1
        refused(FILTERS, urlsafe_b64encode(changed).rstrip(b"=").decode())


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "=", "a" * 5, "ü", "\0", "'; DROP TABLE holds; --", "A" * 1_025, "A" * 64, "%00"],
)
def test_cursor_that_is_none_is_refused(cursor: str) -> None:
    refused(FILTERS, cursor)


def refused(filters: dict[str, str | None], cursor: str) -> None:
    with pytest.raises(ProblemError, match="400 invalid_cursor"):
        cursors.decode(SECRET, filters, cursor)
