"""Lists: `limit`, a signed `cursor` bound to its filters, and the page that comes back."""

from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from meter import cursors
from meter.http.hot import JSON
from meter.problems import ProblemError
from meter.route import Call, Query, Reply

LIMIT_MAX: Final = 100
LIMIT_DEFAULT: Final = 25

LIMIT: Final = (
    Query(
        "limit",
        "How many at most.",
        {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
    ),
    Query("cursor", "`next_cursor` of the page before."),
)

Item = TypeVar("Item")


class Page(Struct, Generic[Item], frozen=True):
    data: list[Item]
    has_more: bool
    next_cursor: str | None


class Place(Struct, frozen=True):
    """Where a page begins (None: at the beginning) and how long it may be."""

    after: Any
    limit: int


def _filters(call: Call, name: str) -> dict[str, str]:
    """What a cursor is bound to: the list, its filters, and whose eyes it is for."""
    filters = {n: v for n, v in call.query.items() if n not in {"cursor", "limit"}}
    return {"list": name, "ids": "/".join(call.ids), "of": str(call.key.customer_no), **filters}


def place(call: Call, name: str) -> Place:
    """Read `limit` and `cursor`. 422 for a bad limit, 400 for a cursor of another list."""
    limit = LIMIT_DEFAULT
    if (given := call.query.get("limit")) is not None:
        limit = int(given) if given.isascii() and given.isdigit() and len(given) <= 3 else 0
        if not 1 <= limit <= LIMIT_MAX:
            raise ProblemError(422, "invalid_query", f"limit is 1 to {LIMIT_MAX}.")
    after = None
    if (cursor := call.query.get("cursor")) is not None:
        secret = call.service.installation.cursor_secret
        after = cursors.decode(secret, _filters(call, name), cursor)
    return Place(after, limit)


def next_cursor(call: Call, name: str, more: Any) -> str | None:
    """The cursor of the next page; None at the end."""
    if more is None:
        return None
    return cursors.encode(call.service.installation.cursor_secret, _filters(call, name), more)


def link(call: Call, cursor: str | None) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of a page: the way to the next one is in `Link` too."""
    if cursor is None:
        return (JSON,)
    query = urlencode({**call.query, "cursor": cursor})
    return JSON, (b"link", f'<?{query}>; rel="next"'.encode())


def page(call: Call, name: str, data: list[Any], more: Any) -> Reply:
    """A page of a list."""
    cursor = next_cursor(call, name, more)
    body = msgspec.json.encode(Page(data, cursor is not None, cursor))
    return Reply(200, body, link(call, cursor))
