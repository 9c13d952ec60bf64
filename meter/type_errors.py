"""What msgspec says of a wrong body, in the words and codes of the API."""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import inspect

from ledger.amounts import AmountError, parse_amount
from meter.json_body import escape
from meter.problems import ProblemError

AMOUNT_MEMBERS: Final = frozenset({"amount", "minimum", "limit", "max"})
"""Members of bodies that hold an amount wherever they stand."""

_MESSAGE = re.compile(r"(.*?)(?: - at `(\$[^`]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_STEP = re.compile(r"\.([A-Za-z0-9_]+)|\[([0-9]+)\]")
_KIND = re.compile(r"`([^`]*)`")
_WORDS: Final = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number with a fraction or exponent",
    "Number": "a number with a fraction or exponent",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}


def refuse_value(error: msgspec.ValidationError, type_: Any, pointer: str) -> ProblemError:
    """The problem for a value that is not of `type_` and stands at `pointer`."""
    match = _MESSAGE.fullmatch(str(error))
    assert match is not None, "the pattern takes any text"
    message, path = match[1], match[2] or "$"
    steps = [name or int(index) for name, index in _STEP.findall(path)]
    at = pointer + "".join(f"/{step}" for step in steps)
    if (unknown := _UNKNOWN.fullmatch(message)) is not None:
        return ProblemError(
            422,
            "unknown_member",
            "This member is not known here. Check its spelling, or leave it out.",
            pointer=f"{at}/{escape(unknown[1])}",
        )
    if (missing := _MISSING.fullmatch(message)) is not None:
        return ProblemError(
            422, "missing_member", f"{missing[1]} is missing.", pointer=f"{at}/{missing[1]}"
        )
    name = at.rpartition("/")[2] or "the body"
    if name in AMOUNT_MEMBERS and message.startswith("Expected `str"):
        return ProblemError(422, "invalid_amount", f"{name} {_amount_words()}.", pointer=at)
    code = "invalid_timestamp" if "datetime" in message or "RFC3339" in message else "invalid_value"
    return ProblemError(422, code, f"{name} {_words(message, type_, steps)}.", pointer=at)


def _amount_words() -> str:
    try:
        parse_amount("", 0)
    except AmountError as error:
        return str(error)
    raise AssertionError("an empty text is no amount")


def _words(message: str, type_: Any, steps: list[str | int]) -> str:
    """The message for people, without the value: it may be long or secret."""
    allowed = sorted(_choices(inspect.type_info(type_), steps))
    if allowed:
        return f"must be one of: {', '.join(allowed)}"
    if "datetime" in message or "RFC3339" in message:
        return 'must be an RFC 3339 time with an offset, such as "2030-01-31T12:00:00Z"'
    if not message.startswith("Expected "):
        return "is not valid here"
    expected, _, got = message.removeprefix("Expected ").partition(", got ")
    words = f"must be {_kinds(expected)}"
    return f"{words}, not {_kinds(got)}" if got else words


def _kinds(text: str) -> str:
    def word(match: re.Match[str]) -> str:
        return " or ".join(_WORDS.get(kind, kind) for kind in match[1].split(" | "))

    return _KIND.sub(word, text)


def _choices(type_: inspect.Type, steps: list[str | int]) -> Iterator[str]:
    """The values of the Literal at `steps`, if there is one."""
    if isinstance(type_, inspect.Metadata):
        yield from _choices(type_.type, steps)
    elif isinstance(type_, inspect.UnionType):
        for member in type_.types:
            yield from _choices(member, steps)
    elif isinstance(type_, inspect.LiteralType):
        if not steps:
            yield from (str(value) for value in type_.values)
    elif isinstance(type_, inspect.StructType):
        for field in type_.fields:
            if steps and field.encode_name == steps[0]:
                yield from _choices(field.type, steps[1:])
    elif isinstance(type_, inspect.ListType | inspect.VarTupleType) and steps:
        yield from _choices(type_.item_type, steps[1:])
