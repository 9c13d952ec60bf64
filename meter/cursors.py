"""Cursors of lists: opaque, signed, and good only for the list and the filters they came from."""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from meter.problems import ProblemError

SIGNATURE_BYTES: Final = 16
CURSOR_CHARS_MAX: Final = 1_024

_encode = msgspec.json.Encoder(order="sorted").encode


def encode(secret: bytes, filters: Mapping[str, str | None], position: Any) -> str:
    """A cursor for what comes after `position` (a JSON value) under `filters`.

    `filters` names the list and whatever else the cursor is bound to.
    """
    text = msgspec.json.encode(position)
    return urlsafe_b64encode(_sign(secret, filters, text) + text).rstrip(b"=").decode()


def decode(secret: bytes, filters: Mapping[str, str | None], cursor: str) -> Any:
    """The position in a cursor.

    Raises ProblemError 400 `invalid_cursor` for one that this installation did not make for these
    filters.
    """
    if len(cursor) > CURSOR_CHARS_MAX or not cursor.isascii():
        raise _refused()
    try:
        data = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (Error, ValueError):
        raise _refused() from None
    signature, text = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _sign(secret, filters, text)):
        raise _refused()
    return msgspec.json.decode(text)


def _sign(secret: bytes, filters: Mapping[str, str | None], text: bytes) -> bytes:
    # A JSON object ends by itself, so filters and position can't run into each other.
    message = _encode(dict(filters)) + text
    return hmac.digest(secret, message, "sha256")[:SIGNATURE_BYTES]


def _refused() -> ProblemError:
    return ProblemError(
        400,
        "invalid_cursor",
        "This cursor was not made for this list with these filters. Begin again without one.",
    )
