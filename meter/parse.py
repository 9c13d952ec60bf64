"""From the wire to values: typed bodies, keys, ids, amounts, times. Every mistake is a problem.

All functions here raise ProblemError with a code, the JSON Pointer of the place, and words that
say what to do. They are pure and quick: most run for every request of the hot path.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from ledger.amounts import AmountError, parse_amount
from meter.json_body import Body, Number, canonical, json_text, read_body
from meter.problems import ProblemError
from meter.type_errors import refuse_value

__all__ = [
    "Body",
    "Number",
    "amount",
    "amount_text",
    "check_depth",
    "customer_id",
    "decode",
    "fingerprint",
    "idempotency_key",
    "key_missing",
    "metadata",
    "part",
    "read_body",
    "time",
    "timestamp",
]

KEY_CHARACTERS_MAX: Final = 255
METADATA_MEMBERS_MAX: Final = 50
METADATA_DEPTH_MAX: Final = 8
METADATA_BYTES_MAX: Final = 16_384
CUSTOMER_ID_BYTES_MAX: Final = 255
SCALE_MAX: Final = 12
YEAR_MIN: Final = 1970
YEAR_MAX: Final = 2200

T = TypeVar("T")

_convert = msgspec.convert
_encode = msgspec.json.encode


def decode(source: Body | bytes | Any, type_: type[T], *, pointer: str = "") -> T:
    """A body, its bytes, or a parsed value as the Struct `type_`.

    `pointer`: where the value stands in the whole body. Raises ProblemError 422: `unknown_member`,
    `missing_member`, `invalid_amount`, `invalid_timestamp` or `invalid_value`; 400 for bytes that
    can't be read.
    """
    if isinstance(source, bytes):
        source = read_body(source)
    value = source.value if isinstance(source, Body) else source
    try:
        return _convert(value, type_)
    except msgspec.ValidationError as error:
        raise refuse_value(error, type_, pointer) from None


def part(members: dict[str, Any]) -> Body:
    """Members of a parsed body as a body of their own, such as one operation of a batch."""
    return Body(members, canonical(members))


# Free objects


def metadata(value: dict[str, Any], pointer: str = "/metadata") -> str:
    """A free object (`metadata`, `dimensions`) as the JSON text to store.

    Raises ProblemError 422 `invalid_metadata` over 50 members, a depth of 8, or 16 KiB.
    """
    if not value:
        return "{}"
    if len(value) > METADATA_MEMBERS_MAX:
        raise _bad_metadata(f"has more than {METADATA_MEMBERS_MAX} members", pointer)
    _check_depth(value, METADATA_DEPTH_MAX, pointer)
    text = json_text(value)
    if len(text) > METADATA_BYTES_MAX or len(text.encode()) > METADATA_BYTES_MAX:
        raise _bad_metadata(f"is over {METADATA_BYTES_MAX} bytes", pointer)
    return text


def check_depth(value: dict[str, Any], pointer: str) -> None:
    """Raise ProblemError 422 `invalid_metadata` if a free object is nested too deep."""
    _check_depth(value, METADATA_DEPTH_MAX, pointer)


def _check_depth(value: dict[str, Any] | list[Any], left: int, pointer: str) -> None:
    if left == 0:
        raise _bad_metadata(f"is nested deeper than {METADATA_DEPTH_MAX}", pointer)
    for member in value.values() if isinstance(value, dict) else value:
        if isinstance(member, dict | list):
            _check_depth(member, left - 1, pointer)  # pyright: ignore[reportUnknownArgumentType]


def _bad_metadata(words: str, pointer: str) -> ProblemError:
    name = pointer.rpartition("/")[2]
    return ProblemError(422, "invalid_metadata", f"{name} {words}.", pointer=pointer)


# Idempotency


_KEY = re.compile(rb"[\x20-\x7e]{1,255}")
_QUOTED_KEY = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')


def idempotency_key(header: bytes | None) -> str | None:
    """The key that a header or a batch item gives: bare or quoted, the same key; None if neither.

    Raises ProblemError 422 `invalid_idempotency_key`.
    """
    if header is None:
        return None
    key = header
    if header[:1] == b'"':
        quoted = _QUOTED_KEY.fullmatch(header)
        key = b"" if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted[1])
    if _KEY.fullmatch(key) is None:
        raise ProblemError(
            422,
            "invalid_idempotency_key",
            f"An idempotency key is 1 to {KEY_CHARACTERS_MAX} printable ASCII characters, bare or "
            "as one quoted string.",
        )
    return key.decode("ascii")


def key_missing(pointer: str | None = None) -> ProblemError:
    """The problem of a request without its key: in the header, or in a batch item."""
    where = "the header Idempotency-Key" if pointer is None else "the member key"
    return ProblemError(
        400,
        "idempotency_key_missing",
        f"This request changes books: name it with {where}, the same for every retry.",
        pointer=pointer,
    )


def fingerprint(operation: str, ids: Sequence[str], canonical_body: bytes) -> bytes:
    """What is compared under an idempotency key: 32 bytes.

    `operation` is the same word for a route and its batch operation, `ids` those in the path.
    """
    # A JSON array ends by itself, so no two different parts run into the same bytes.
    return sha256(_encode((operation, *ids)) + canonical_body).digest()


# Single values


def amount(text: str, scale: int, pointer: str, *, allow_zero: bool = False) -> int:
    """An amount in the smallest unit of an asset with `scale` decimals, above 0.

    Raises ProblemError 422 `invalid_amount` or `amount_out_of_range`.
    """
    try:
        value = parse_amount(text, scale)
    except AmountError as error:
        name = pointer.rpartition("/")[2]
        raise ProblemError(422, error.code, f"{name} {error}.", pointer=pointer) from None
    if value == 0 and not allow_zero:
        name = pointer.rpartition("/")[2]
        raise ProblemError(422, "amount_out_of_range", f"{name} must be above 0.", pointer=pointer)
    return value


def amount_text(text: str, pointer: str, *, allow_zero: bool = False) -> str:
    """An amount of an asset that only the books know: its form, and that it is above 0.

    Its decimals and its size are checked there. Raises ProblemError 422 as `amount` does.
    """
    try:
        parse_amount(text, SCALE_MAX)
    except AmountError as error:
        if error.code == "invalid_amount":
            name = pointer.rpartition("/")[2]
            raise ProblemError(422, error.code, f"{name} {error}.", pointer=pointer) from None
    if not allow_zero and not text.strip("0."):
        name = pointer.rpartition("/")[2]
        raise ProblemError(422, "amount_out_of_range", f"{name} must be above 0.", pointer=pointer)
    return text


_NOT_IN_ID = re.compile(r"[\x00-\x1f\x7f-\x9f/\\]")


def customer_id(text: str, pointer: str | None = "/customer_id") -> str:
    """The caller's id of a customer, unchanged. Raises ProblemError 422 `invalid_customer_id`."""
    if text in ("", ".", "..") or _NOT_IN_ID.search(text) is not None:
        _refuse_customer_id(pointer)
    # A character has at most 4 bytes, so most ids need no second look.
    if len(text) > CUSTOMER_ID_BYTES_MAX // 4 or not text.isascii():
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            _refuse_customer_id(pointer)
        if size > CUSTOMER_ID_BYTES_MAX:
            _refuse_customer_id(pointer)
    return text


def _refuse_customer_id(pointer: str | None) -> NoReturn:
    raise ProblemError(
        422,
        "invalid_customer_id",
        f"customer_id must be 1 to {CUSTOMER_ID_BYTES_MAX} bytes of UTF-8, without control "
        'characters, "/" and backslash, and not "." or "..".',
        pointer=pointer,
    )


def time(text: str | None, pointer: str) -> datetime | None:
    """`timestamp`, for a member that may be left out."""
    return None if text is None else timestamp(text, pointer)


_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})"
    r"(?:\.([0-9]{1,9}))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def timestamp(text: str, pointer: str) -> datetime:
    """A time of the years 1970 to 2200 in UTC. Digits past the microsecond are dropped.

    Raises ProblemError 422 `invalid_timestamp`.
    """
    match = _TIMESTAMP.fullmatch(text)
    if match is not None and f"{YEAR_MIN - 1}" <= text[:4] <= f"{YEAR_MAX + 1}":
        day, clock, fraction, offset = match.groups()
        micros = ((fraction or "") + "000000")[:6]
        offset = "+00:00" if offset in "Zz" else offset
        try:
            at = datetime.fromisoformat(f"{day}T{clock}.{micros}{offset}").astimezone(UTC)
        except ValueError:
            at = None  # such as 30 February, or second 60
        if at is not None and YEAR_MIN <= at.year <= YEAR_MAX:
            return at
    name = pointer.rpartition("/")[2]
    raise ProblemError(
        422,
        "invalid_timestamp",
        f"{name} must be an RFC 3339 time with an offset, years {YEAR_MIN} to {YEAR_MAX}, no leap "
        'second: such as "2030-01-31T12:00:00Z".',
        pointer=pointer,
    )
