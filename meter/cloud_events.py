"""CloudEvents 1.0 as they are sent: structured, batched, in headers (binary mode), or plain JSON.

`subject` names the customer. Attributes that the specification does not know are extensions and
are kept. What is wrong with one event is a problem of that event alone.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias, cast
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from meter import genai, parse
from meter.events import OUR_SOURCE, content_hash
from meter.json_body import canonical, escape, read_json
from meter.problems import FieldError, ProblemError

EVENTS_MAX: Final = 10_000
"""In one batch: one transaction of a few hundred milliseconds."""
NAME_CHARS_MAX: Final = 255
"""Of source, id and type: they are keys of rows."""
DATA_BYTES_MAX: Final = 65_536
EXTENSION_BYTES_MAX: Final = 1_024
EXTENSION_NAME_CHARS_MAX: Final = 20

KNOWN: Final = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"}
)
KEPT: Final = frozenset({"dataschema"})
"""Optional attributes that we keep beside the extensions."""
_EXTENSION: Final = re.compile(rf"[a-z0-9]{{1,{EXTENSION_NAME_CHARS_MAX}}}", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_JSON_TYPE: Final = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.ASCII | re.I)


class Sent(Struct, frozen=True):
    """An event as it was sent, checked."""

    customer_id: str
    source: str
    id: str
    type: str
    time: datetime | None
    data: dict[str, Any]
    text: str
    """The data as canonical JSON."""
    extensions: str | None
    content_hash: bytes


Read: TypeAlias = Sent | ProblemError


def read_single(members: dict[str, Any]) -> Sent:
    """One event of a body. Raises ProblemError 422."""
    return _event(members)


def read_list(given: list[Any], flaws: list[FieldError]) -> list[Read]:
    """The events of a batch, each read or refused. Raises ProblemError 422 over EVENTS_MAX."""
    if len(given) > EVENTS_MAX:
        raise ProblemError(
            422, "invalid_value", f"A batch has at most {EVENTS_MAX} events.", pointer=""
        )
    flawed = {int(flaw.pointer.split("/", 2)[1]): flaw for flaw in reversed(flaws)}
    found: list[Read] = []
    for index, members in enumerate(given):
        if (flaw := flawed.get(index)) is not None:
            found.append(ProblemError(422, flaw.code, flaw.detail, pointer=flaw.pointer))
            continue
        try:
            found.append(_event(members))
        except ProblemError as error:
            found.append(error)
    return found


def read_binary(raw: bytes, headers: Mapping[bytes, bytes]) -> Sent:
    """An event whose attributes are headers `ce-…` and whose body is its data."""
    members: dict[str, Any] = {}
    for name, value in headers.items():
        if name.startswith(b"ce-"):
            attribute = name[3:].decode("latin-1")
            try:
                members[attribute] = unquote_to_bytes(value).decode()
            except UnicodeDecodeError:
                raise _bad(attribute, "is not percent-encoded UTF-8") from None
    if (kind := headers.get(b"content-type")) is not None:
        members["datacontenttype"] = kind.decode("latin-1")
    if "data" in members:
        raise ProblemError(422, "unknown_member", "ce-data is no attribute.", pointer="/data")
    members["data"] = read_json(raw)[0] if raw else {}
    return _event(members)


def _event(members: Any) -> Sent:
    if type(members) is not dict:
        raise ProblemError(422, "invalid_value", "An event is an object.", pointer="")
    event = cast("dict[str, Any]", members)
    source, id_, type_ = event.get("source"), event.get("id"), event.get("type")
    for value, name in ((source, "source"), (id_, "id"), (type_, "type")):
        # Most are short and plain: nothing else to look at.
        if not (type(value) is str and 0 < len(value) <= NAME_CHARS_MAX and value.isprintable()):
            name_of(value, name)
    source, id_, type_ = cast("tuple[str, str, str]", (source, id_, type_))
    if source == OUR_SOURCE:
        raise _bad("source", f"{OUR_SOURCE} is for events that charges record: use another")
    if event.get("specversion", "1.0") != "1.0":
        raise _bad("specversion", 'must be "1.0"')
    subject = event.get("subject")
    if type(subject) is not str:
        if subject is None:
            raise ProblemError(
                422, "missing_member", "subject is missing: the customer_id.", pointer="/subject"
            )
        raise _bad("subject", "must be a string, the customer_id")
    parse.customer_id(subject, "/subject")
    time = event.get("time")
    data, raw = _data(event)
    if type_ == genai.EVENT_TYPE:
        try:
            genai.billable(data)
        except genai.TokensError as error:
            raise _bad("data", str(error)) from None
    at = None if time is None else _time(time)
    extensions = None if event.keys() <= KNOWN else _extensions(event)
    return Sent(
        subject,
        source,
        id_,
        type_,
        at,
        data,
        raw.decode(),
        extensions,
        content_hash(type_, raw, extensions, at),
    )


def _bad(name: str, words: str) -> ProblemError:
    pointer = f"/{escape(name)}"
    return ProblemError(422, "invalid_value", f"{name[:NAME_CHARS_MAX]} {words}.", pointer=pointer)


def name_of(value: Any, name: str) -> str:
    """A source, an id or a type. Raises ProblemError 422."""
    if type(value) is str and 0 < len(value) <= NAME_CHARS_MAX:
        if value.isprintable() or _CONTROL.search(value) is None:
            return value
    elif value is None:
        raise ProblemError(422, "missing_member", f"{name} is missing.", pointer=f"/{name}")
    raise _bad(
        name, f"must be a string of 1 to {NAME_CHARS_MAX} characters, without control characters"
    )


def _time(given: Any) -> datetime:
    if type(given) is not str:
        raise _bad("time", 'must be an RFC 3339 time, such as "2030-01-31T12:00:00Z"')
    # The usual forms, quickly: to the second, the millisecond, the microsecond, in UTC.
    if (
        len(given) in (20, 24, 27)
        and given[4] == given[7] == "-"
        and given[10] == "T"
        and given[13] == given[16] == ":"
        and given[-1] == "Z"
        and (len(given) == 20 or given[19] == ".")
        and given.isascii()
    ):
        try:
            at = datetime.fromisoformat(given)
        except ValueError:
            return parse.timestamp(given, "/time")
        if parse.YEAR_MIN <= at.year <= parse.YEAR_MAX:
            return at
    return parse.timestamp(given, "/time")


def _data(event: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    data = event.get("data")
    kind = event.get("datacontenttype")
    if kind is not None and not (isinstance(kind, str) and _JSON_TYPE.fullmatch(kind)):
        raise _bad("datacontenttype", "must be application/json: data is read by meters")
    if data is None:
        return {}, b"{}"
    return data_of(data)


def data_of(data: Any) -> tuple[dict[str, Any], bytes]:
    """An event's data, and as canonical JSON. Raises ProblemError 422."""
    if type(data) is not dict:
        raise _bad("data", "must be an object")
    members = cast("dict[str, Any]", data)
    if len(members) > parse.METADATA_MEMBERS_MAX:
        raise _bad("data", f"has more than {parse.METADATA_MEMBERS_MAX} members")
    for member in members.values():
        if type(member) in (dict, list):
            parse.check_depth(members, "/data")
            break
    text = canonical(members)
    if len(text) > DATA_BYTES_MAX:
        raise _bad("data", f"is over {DATA_BYTES_MAX} bytes")
    return members, text


def _extensions(event: dict[str, Any]) -> str:
    """The attributes that are kept, as JSON."""
    kept = {name: value for name, value in event.items() if name not in KNOWN}
    for name, value in kept.items():
        is_named = name in KEPT or _EXTENSION.fullmatch(name) is not None
        if not is_named or name == "data_base64":
            raise ProblemError(
                422,
                "unknown_member",
                f"An extension attribute has a name of 1 to {EXTENSION_NAME_CHARS_MAX} lower-case "
                "letters and digits.",
                pointer=f"/{escape(name)}",
            )
        if type(value) not in (str, int, bool) or len(str(value).encode()) > EXTENSION_BYTES_MAX:
            raise _bad(
                name,
                "is an extension attribute: a string, a whole number, true or false, of at most "
                f"{EXTENSION_BYTES_MAX} bytes",
            )
    if len(kept) > parse.METADATA_MEMBERS_MAX:
        raise ProblemError(
            422,
            "invalid_value",
            f"An event has at most {parse.METADATA_MEMBERS_MAX} extension attributes.",
            pointer="",
        )
    return canonical(kept).decode()
