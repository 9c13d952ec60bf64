"""Reading JSON bodies: strictly, exactly, and in a few microseconds where nothing is unusual.

Numbers never pass through a float. A body has one canonical form, whatever its member order,
spacing and escapes, so that a retry can be told from another request.
"""

import json
from decimal import Decimal
from itertools import islice
from typing import Any, Final, NoReturn

import msgspec
from msgspec import Raw, Struct

from meter.problems import FieldError, ProblemError

DEPTH_MAX: Final = 64
"""No route needs more than a free object's 8 and a few around it."""
NUMBER_DIGITS_MAX: Final = 4_300
"""Python's own limit: reading a number takes time by the square of its length."""


class Number(Decimal):
    """A JSON number with a fraction or an exponent, or -0, exactly. Whole numbers are ints."""

    def shortest(self) -> str:
        """The one form of this value: equal numbers, equal text (1.0 is the int 1)."""
        text = format(self, "f")  # exact, unlike normalize()
        if "." in text:
            text = text.rstrip("0").rstrip(".")
        return "0" if text == "-0" else text


class Body(Struct, frozen=True):
    """A JSON object as it was sent."""

    value: dict[str, Any]
    """Members in the order they came. Numbers are int or Number."""
    canonical: bytes
    """Members sorted, numbers exact, no spacing. Empty if there are flaws."""
    flaws: list[FieldError] = []
    """What is wrong inside single items: only `read_body(…, items=…)` lets a body have any."""

    def item_flaw(self, pointer: str) -> FieldError | None:
        """The first flaw of the item at `pointer`, seen from the item."""
        for flaw in self.flaws:
            if flaw.pointer == pointer or flaw.pointer.startswith(pointer + "/"):
                return FieldError(flaw.pointer[len(pointer) :], flaw.code, flaw.detail)
        return None


class _HasFraction(Exception):
    """A number that the fast reader would make a float of."""


class _TooLong:
    """Stands for a number over the limit."""


class _Doubled(dict[str, Any]):
    """An object in which a member came twice."""

    names: list[str]


def _stop(_: str) -> NoReturn:
    raise _HasFraction


def _canonical_number(value: object) -> Raw:
    if isinstance(value, Number):
        return Raw(value.shortest().encode())
    raise TypeError(f"no JSON value: {type(value)}")


def _sent_number(value: object) -> Raw:
    if isinstance(value, Number):
        return Raw(str(value).encode())
    raise TypeError(f"no JSON value: {type(value)}")


_fast = msgspec.json.Decoder(float_hook=_stop).decode
_format = msgspec.json.format
canonical = msgspec.json.Encoder(order="sorted", enc_hook=_canonical_number).encode
"""The canonical form of a parsed value, as bytes."""
_as_sent = msgspec.json.Encoder(enc_hook=_sent_number).encode


def json_text(value: Any) -> str:
    """A parsed value as JSON again: members in the order they came, numbers as exact as sent."""
    return _as_sent(value).decode()


def read_body(raw: bytes, *, items: str | None = None) -> Body:
    """Parse a request body, which must be one JSON object.

    Raises ProblemError 400 `malformed` for what is not JSON, UTF-8 or an object. What is wrong in
    one place (`duplicate_member`, `invalid_text`, `invalid_number`, `invalid_depth`) is a 422 with
    its pointer. `items` is the pointer of a list, such as `/operations`: what is wrong inside one
    of its items is listed in `flaws` instead, so that it does not fail the others.
    """
    try:
        value: dict[str, Any] = _fast(raw)
        if type(value) is dict and b"\\" not in raw and _is_shallow(value, raw):
            text = canonical(value)
            # Without escapes and fractions only a repeated member (and -0) makes the canonical
            # form shorter than the body without its spacing, and nothing makes it longer.
            if len(text) == len(raw) or len(text) == len(_format(raw, indent=-1)):
                return Body(value, text)
    except (msgspec.MsgspecError, _HasFraction, RecursionError, UnicodeError):
        pass  # the careful reader finds out what it is
    return _read_carefully(raw, items)


def read_json(raw: bytes) -> tuple[Any, list[FieldError]]:
    """Parse a body of any form, numbers exact; of a list, the flaws of each item are listed.

    Raises as `read_body` does: 400 for what can't be read, 422 for flaws outside of list items.
    """
    try:
        value = _exact(raw)
        # What `read_body` says of lengths, but numbers keep the form that they were sent in. An
        # escape may stand for what can't be kept.
        if b"\\u" not in raw and _is_shallow(value, raw):
            text = _as_sent(value)
            if len(text) == len(raw) or len(text) == len(_format(raw, indent=-1)):
                return value, []
    except (msgspec.MsgspecError, _HasFraction, RecursionError, UnicodeError, ValueError):
        pass
    value = _parse_carefully(raw)
    if not isinstance(value, dict | list):
        return value, []
    flaws: list[FieldError] = []
    is_list = isinstance(value, list)
    _find_flaws(value, "", 1, flaws, "" if is_list else None)  # pyright: ignore[reportUnknownArgumentType]
    if flaws and not is_list:
        raise _flawed(flaws)
    return value, flaws  # pyright: ignore[reportUnknownVariableType]


def _is_shallow(value: Any, raw: bytes) -> bool:
    """Whether nothing is nested deeper than DEPTH_MAX. Most bodies have too few brackets for it."""
    if raw.count(b"{") + raw.count(b"[") <= DEPTH_MAX:
        return True
    level: list[Any] = [value]
    for _ in range(DEPTH_MAX):
        level = [
            member
            for one in level
            for member in (one.values() if type(one) is dict else one)  # pyright: ignore[reportUnknownVariableType]
            if type(member) is dict or type(member) is list  # pyright: ignore[reportUnknownArgumentType]
        ]
        if not level:
            return True
    return False


def _flawed(flaws: list[FieldError]) -> ProblemError:
    first = flaws[0]
    return ProblemError(422, first.code, first.detail, errors=flaws[:ERRORS_MAX])


def _parse_carefully(raw: bytes) -> Any:
    try:
        return _careful(raw.decode())
    except UnicodeDecodeError as error:
        raise _malformed(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        words = f"{error.msg[:1].lower()}{error.msg[1:]}"
        raise _malformed(f"{words} at character {error.pos}") from None
    except RecursionError:
        raise _too_deep() from None


def _read_carefully(raw: bytes, items: str | None) -> Body:
    value: dict[str, Any] = _parse_carefully(raw)
    if not isinstance(value, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _malformed("it is not an object")
    flaws: list[FieldError] = []
    _find_flaws(value, "", 1, flaws, items)
    if not flaws:
        return Body(value, canonical(value))
    if items is not None and all(flaw.pointer.startswith(items + "/") for flaw in flaws):
        return Body(value, b"", flaws)
    raise _flawed(flaws)


def _malformed(words: str) -> ProblemError:
    return ProblemError(
        400, "malformed", f"The body can't be read: {words}. Send one JSON object in UTF-8."
    )


def _too_deep() -> ProblemError:
    return ProblemError(422, "invalid_depth", f"The body is nested deeper than {DEPTH_MAX}.")


ERRORS_MAX: Final = 100
"""Shown at once: who sends more of them has one mistake to find, not many."""
FLAWS_MAX: Final = 10_000
"""As many as a batch has items: of each item only the first flaw counts."""


_Container = dict[str, Any] | list[Any]
_SOUND: Final = frozenset({int, Number, bool, type(None)})


def _find_flaws(
    value: _Container, pointer: str, depth: int, flaws: list[FieldError], items: str | None = None
) -> None:
    """Add what is wrong below `pointer`. Places are spelled out only where something may be."""
    if depth > DEPTH_MAX:
        words = f"The body is nested deeper than {DEPTH_MAX}."
        flaws.append(FieldError(pointer, "invalid_depth", words))
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            if type(item) not in _SOUND and not (type(item) is str and _is_sound(item)):
                found = [] if pointer == items else flaws
                _find_flaws_at(item, f"{pointer}/{index}", depth, found)
                if found is not flaws and len(flaws) < FLAWS_MAX:
                    # However much is wrong in one item, the flaws of the others are found.
                    flaws += found[:1]
        return
    if isinstance(value, _Doubled):
        for name in value.names:
            words = "This member came twice in its object: send it once."
            flaws.append(FieldError(f"{pointer}/{escape(name)}", "duplicate_member", words))
    for name, member in value.items():
        if not _is_sound(name):
            words = f"The name {_text_flaw(name)}: leave it out."
            flaws.append(FieldError(f"{pointer}/{escape(name)}", "invalid_text", words))
        if type(member) not in _SOUND and not (type(member) is str and _is_sound(member)):
            _find_flaws_at(member, f"{pointer}/{escape(name)}", depth, flaws, items)


def _find_flaws_at(
    value: Any, pointer: str, depth: int, flaws: list[FieldError], items: str | None = None
) -> None:
    if len(flaws) >= FLAWS_MAX:
        return
    if isinstance(value, str):
        words = f"The text {_text_flaw(value)}: leave it out."
        flaws.append(FieldError(pointer, "invalid_text", words))
    elif isinstance(value, _TooLong):
        words = f"The number has more than {NUMBER_DIGITS_MAX} digits, written out."
        flaws.append(FieldError(pointer, "invalid_number", words))
    else:
        _find_flaws(value, pointer, depth + 1, flaws, items)


def _is_sound(text: str) -> bool:
    """Whether the text can be kept: most are ASCII, which is known without looking at them."""
    return "\0" not in text and (text.isascii() or _text_flaw(text) is None)


def _text_flaw(text: str) -> str | None:
    if "\0" in text:
        return "contains the character U+0000"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half a surrogate pair"
    return None


NAME_CHARS_MAX: Final = 100
"""Of a member's name in a pointer: the answer to a large body is small."""


def escape(name: str) -> str:
    """A member name as one step of a JSON Pointer. What is no Unicode is shown as `?`."""
    if len(name) > NAME_CHARS_MAX:
        name = name[:NAME_CHARS_MAX] + "…"
    shown = name.encode(errors="replace").decode()
    return shown.replace("~", "~0").replace("/", "~1")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    doubled = _Doubled(members)
    seen: set[str] = set()
    repeated = (name for name, _ in pairs if name in seen or seen.add(name))
    doubled.names = list(dict.fromkeys(islice(repeated, ERRORS_MAX)))
    return doubled


def _whole(text: str) -> int | Number | _TooLong:
    if text == "-0":
        return Number(text)  # no whole number is below nothing and nothing at once
    return _TooLong() if len(text) > NUMBER_DIGITS_MAX else int(text)


def _fraction(text: str) -> Number | _TooLong:
    if len(text) > NUMBER_DIGITS_MAX:
        return _TooLong()
    exponent = text.lower().partition("e")[2]
    # Checked as text: an exponent may be too large even for Decimal.
    if len(exponent.lstrip("+-").lstrip("0")) > len(str(NUMBER_DIGITS_MAX)):
        return _TooLong()
    number = Number(text)
    places = max(abs(number.adjusted()), abs(int(exponent or 0)))
    return number if places <= NUMBER_DIGITS_MAX else _TooLong()


def _constant(text: str) -> NoReturn:
    raise _malformed(f"{text} is not a JSON value")


def _short_fraction(text: str) -> Number:
    number = _fraction(text)
    if isinstance(number, _TooLong):
        raise _HasFraction
    return number


_exact = msgspec.json.Decoder(float_hook=_short_fraction).decode
_careful = json.JSONDecoder(
    object_pairs_hook=_members,
    parse_int=_whole,
    parse_float=_fraction,
    parse_constant=_constant,
).decode
