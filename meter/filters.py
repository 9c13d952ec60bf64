"""Which events of its type a meter reads: conditions on the event's data, joined by and / or.

A filter is an object with `and` or `or` (a list of filters), or with `property` (a path in the
data, its steps joined by dots) and one operator: `eq`, `ne`, `in`, `gt`, `gte`, `lt`, `lte`,
`like`. What is missing is null. Values of different kinds are not equal: "1" is not 1. The
orderings compare numbers and decimal strings, exactly, and are false for anything else. `like`
compares strings: `%` stands for any characters, `_` for one.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from operator import ge, gt, le, lt
from typing import Any, Final, cast

from meter.paths import PathError, decimal_of, getter

DEPTH_MAX: Final = 5
CONDITIONS_MAX: Final = 50
VALUES_MAX: Final = 100
TEXT_CHARS_MAX: Final = 255

Test = Callable[[Mapping[str, Any]], bool]
OPERATORS: Final = ("eq", "ne", "in", "gt", "gte", "lt", "lte", "like")
_ORDERINGS: Final = {"gt": gt, "gte": ge, "lt": lt, "lte": le}


class FilterError(ValueError):
    """A filter that can't be used. `pointer` is the place in it."""

    def __init__(self, pointer: str, words: str) -> None:
        super().__init__(words)
        self.pointer = pointer


def test_of(given: Any) -> Test:
    """The test that a filter, as parsed JSON, stands for. Raises FilterError."""
    return _Reader().read(given, "", 1)


def properties_of(checked: Mapping[str, Any]) -> set[str]:
    """The paths that a filter which was checked looks at."""
    parts = checked.get("and") or checked.get("or")
    if parts is None:
        return {checked["property"]}
    return {path for part in parts for path in properties_of(part)}


class _Reader:
    def __init__(self) -> None:
        self.conditions = 0

    def read(self, given: Any, pointer: str, depth: int) -> Test:
        if not isinstance(given, dict):
            raise FilterError(pointer, "a filter is an object")
        members = cast("dict[str, Any]", given)
        if depth > DEPTH_MAX:
            raise FilterError(pointer, f"filters may be nested {DEPTH_MAX} deep")
        if len(members) == 1 and (name := next(iter(members))) in ("and", "or"):
            return self._joined(name, members[name], f"{pointer}/{name}", depth)
        return self._condition(members, pointer)

    def _joined(self, name: str, given: Any, pointer: str, depth: int) -> Test:
        if not isinstance(given, list) or not given:
            raise FilterError(pointer, f"{name} is a list of filters")
        parts = cast("list[Any]", given)
        tests = [self.read(part, f"{pointer}/{i}", depth + 1) for i, part in enumerate(parts)]
        if name == "and":
            return lambda data: all(test(data) for test in tests)
        return lambda data: any(test(data) for test in tests)

    def _condition(self, members: dict[str, Any], pointer: str) -> Test:
        self.conditions += 1
        if self.conditions > CONDITIONS_MAX:
            raise FilterError(pointer, f"a filter may have {CONDITIONS_MAX} conditions")
        operators = [name for name in members if name != "property"]
        if "property" not in members or len(operators) != 1 or operators[0] not in OPERATORS:
            raise FilterError(
                pointer,
                f"a condition has property and one of {', '.join(OPERATORS)}; or a filter has one "
                "of and, or",
            )
        try:
            get = getter(members["property"])
        except PathError as error:
            raise FilterError(f"{pointer}/property", f"property {error}") from None
        operator = operators[0]
        test = _operation(operator, members[operator], f"{pointer}/{operator}")
        return lambda data: test(get(data))


def _operation(operator: str, given: Any, pointer: str) -> Callable[[Any], bool]:
    if operator in ("eq", "ne"):
        wanted = _kinded(_scalar(given, pointer))
        if operator == "eq":
            return lambda value: _kinded(value) == wanted
        return lambda value: _kinded(value) != wanted
    if operator == "in":
        if not isinstance(given, list) or not 1 <= len(cast("list[Any]", given)) <= VALUES_MAX:
            raise FilterError(pointer, f"in is a list of 1 to {VALUES_MAX} values")
        values = cast("list[Any]", given)
        among = [_kinded(_scalar(one, f"{pointer}/{i}")) for i, one in enumerate(values)]
        return lambda value: _kinded(value) in among
    if operator == "like":
        if not isinstance(given, str) or len(given) > TEXT_CHARS_MAX:
            raise FilterError(pointer, f"like is a string of at most {TEXT_CHARS_MAX} characters")
        match = _pattern(given).fullmatch
        return lambda value: isinstance(value, str) and match(value) is not None
    bound, compare = decimal_of(given), _ORDERINGS[operator]
    if bound is None:
        raise FilterError(pointer, f"{operator} compares with a number, or a decimal string")

    def ordered(value: Any) -> bool:
        number = decimal_of(value)
        return number is not None and compare(number, bound)

    return ordered


def _scalar(given: Any, pointer: str) -> Any:
    if isinstance(given, dict | list) or (isinstance(given, str) and len(given) > TEXT_CHARS_MAX):
        raise FilterError(
            pointer,
            f"compare with a string of at most {TEXT_CHARS_MAX} characters, a number, true, false "
            "or null",
        )
    return given


def _kinded(value: Any) -> tuple[str, Any]:
    """A value with its kind: to Python 1 equals true, to JSON it does not."""
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int | Decimal):
        return "number", value
    if isinstance(value, dict | list):
        return "other", id(cast("object", value))
    return "text", value


def _pattern(like: str) -> re.Pattern[str]:
    """`like` as an expression that never goes back behind a part that it has found."""
    first, *rest = like.split("%")
    if not rest:
        return re.compile(_literal(first), re.DOTALL)
    *middle, last = rest
    # The first place is as good as any other for all parts but the last, which stands at the end.
    found = "".join(f"(?>.*?{_literal(part)})" for part in middle)
    end = f"(?>.{{{len(last)},}})(?<={_literal(last)})" if last else ".*"
    return re.compile(_literal(first) + found + end, re.DOTALL)


def _literal(part: str) -> str:
    return "".join("." if char == "_" else re.escape(char) for char in part)
