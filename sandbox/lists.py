"""Lists, searches and single objects: the same for every kind."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sandbox.errors import invalid, missing
from sandbox.routing import Call, route
from sandbox.schema import OPERATIONS
from sandbox.shapes import Obj, as_obj, at
from sandbox.world import World

LIMIT: Final = 10
LIMIT_MAX: Final = 100
PAGING: Final = frozenset({"limit", "starting_after", "ending_before", "expand"})

Match = Callable[[World, Obj, Any], bool]


def is_inside(value: Any, bounds: Any) -> bool:
    """A time equal to a number, or inside `gt`, `gte`, `lt`, `lte`."""
    if value is None:
        return False
    if (given := as_obj(bounds)) is None:
        return value == bounds
    tests: dict[str, Callable[[int], bool]] = {
        "gt": lambda bound: value > bound,
        "gte": lambda bound: value >= bound,
        "lt": lambda bound: value < bound,
        "lte": lambda bound: value <= bound,
    }
    return all(tests[name](bound) for name, bound in given.items())


def page(call: Call, rows: Sequence[Obj]) -> Obj:
    """One page of rows that are newest first."""
    limit = call.params.get("limit", LIMIT)
    if not 1 <= limit <= LIMIT_MAX:
        message = f"Invalid limit: must be between 1 and {LIMIT_MAX}"
        raise invalid(message, param="limit", code="parameter_invalid_integer")
    ids = [row["id"] for row in rows]
    after, before = call.params.get("starting_after"), call.params.get("ending_before")
    if after is not None and before is not None:
        message = "You may only specify one of starting_after and ending_before."
        raise invalid(message, code="parameters_exclusive")
    start, end = 0, len(rows)
    if after is not None:
        start = _place(ids, after, "starting_after") + 1
        end = min(len(rows), start + limit)
        has_more = end < len(rows)
    elif before is not None:
        end = _place(ids, before, "ending_before")
        start = max(0, end - limit)
        has_more = start > 0
    else:
        end = min(len(rows), limit)
        has_more = end < len(rows)
    return {
        "object": "list",
        "data": list(rows[start:end]),
        "has_more": has_more,
        "url": call.path,
    }


def _place(ids: list[str], wanted: str, param: str) -> int:
    try:
        return ids.index(wanted)
    except ValueError:
        raise missing("object", wanted, param=param) from None


def same(*path: str) -> Match:
    """The member at a path is the value."""

    def match(_: World, obj: Obj, value: Any) -> bool:
        return at(obj, *path) == value

    return match


@dataclass(frozen=True)
class Readable:
    """A kind of object that can be listed and read."""

    kind: str
    path: str
    single: str | None = None
    """The name of the parameter of `{path}/{…}`; None if there is no such route."""
    filters: Mapping[str, Match] = field(default_factory=dict[str, Match])
    """How a parameter of the list is compared, if not with the member of its name."""
    view: Callable[[World, Obj], Obj] | None = None
    """What of an object depends on the time of reading."""
    hides: Callable[[Obj], bool] | None = None
    """Objects that a list without filter leaves out."""


def readable(readers: Readable) -> None:
    """Answer the list, the search and the single object of a kind, as far as they are described."""
    kind, path = readers.kind, readers.path

    def seen(world: World, obj: Obj) -> Obj:
        return obj if readers.view is None else readers.view(world, obj)

    def list_all(world: World, call: Call) -> Obj:
        rows = [
            seen(world, obj)
            for obj in reversed(world.table(kind).values())
            if _is_wanted(world, readers, obj, call.params)
        ]
        return page(call, rows)

    def retrieve(world: World, call: Call) -> Obj:
        return seen(world, world.get(kind, call.id))

    def search(world: World, call: Call) -> Obj:
        terms = parse_query(call.params["query"])
        rows = [
            seen(world, obj)
            for obj in reversed(world.table(kind).values())
            if not obj.get("deleted") and terms.match(obj)
        ]
        return _search_page(call, rows)

    if f"GET {path}" in OPERATIONS:
        route(f"GET {path}")(list_all)
    if readers.single is not None:
        route(f"GET {path}/{{{readers.single}}}")(retrieve)
    if f"GET {path}/search" in OPERATIONS:
        route(f"GET {path}/search")(search)


def _is_wanted(world: World, readers: Readable, obj: Obj, params: Obj) -> bool:
    if obj.get("deleted"):
        return False
    wanted = {name: value for name, value in params.items() if name not in PAGING}
    if readers.hides is not None and not wanted.keys() & {"status"} and readers.hides(obj):
        return False
    for name, value in wanted.items():
        match = readers.filters.get(name)
        if match is not None:
            if not match(world, obj, value):
                return False
        elif not is_inside(obj.get(name), value):
            return False
    return True


# Search


@dataclass(frozen=True)
class Term:
    """One condition of a search."""

    path: tuple[str, ...]
    sign: str
    value: str | None
    is_negated: bool

    def holds(self, obj: Obj) -> bool:
        return self._compared(at(obj, *self.path)) != self.is_negated

    def _compared(self, found: Any) -> bool:
        if self.value is None:
            return found is None
        if found is None:
            return False
        if self.sign == ":":
            text = str(found).lower() if isinstance(found, bool) else str(found)
            return text == self.value
        if self.sign == "~":
            return self.value.lower() in str(found).lower()
        number = int(self.value)
        return {
            ">": found > number,
            "<": found < number,
            ">=": found >= number,
            "<=": found <= number,
        }[self.sign]


@dataclass(frozen=True)
class Terms:
    """All conditions of a search, joined by one word."""

    terms: tuple[Term, ...]
    is_any: bool

    def match(self, obj: Obj) -> bool:
        found = (term.holds(obj) for term in self.terms)
        return any(found) if self.is_any else all(found)


_TERM: Final = re.compile(
    r"""\s*(-?)([a-z_.]+)(?:\[(["'])([^"'\]]+)\3\])?\s*(>=|<=|[:~<>])\s*"""
    r"""(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|(\d+|null|NULL|true|false))\s*"""
)
_JOIN: Final = re.compile(r"(AND|OR|and|or)(?=\s)|(?=-?[a-z_.]+(?:\[|[:~<>]))")


def parse_query(text: str) -> Terms:
    """Stripe's search language. Raises StripeError 400."""
    terms, joins, at = list[Term](), set[str](), 0
    while True:
        match = _TERM.match(text, at)
        if match is None:
            raise invalid("We were unable to parse your search query.", param="query")
        negation, name, _, key, sign, double, single, bare = match.groups()
        quoted = double if double is not None else single
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare
        is_null = quoted is None and bare.lower() == "null"
        path = (*name.split("."), *([key] if key is not None else []))
        terms.append(Term(path, sign, None if is_null else value, negation == "-"))
        at = match.end()
        if at == len(text):
            break
        join = _JOIN.match(text, at)
        if join is None:
            raise invalid("We were unable to parse your search query.", param="query")
        joins.add((join[1] or "and").lower())
        at = join.end()
    if len(joins) > 1:
        raise invalid("You cannot combine AND with OR in a search query.", param="query")
    return Terms(tuple(terms), "or" in joins)


def _search_page(call: Call, rows: Sequence[Obj]) -> Obj:
    """The page token of a search is how many results came before, in a coat."""
    limit = call.params.get("limit", LIMIT)
    if not 1 <= limit <= LIMIT_MAX:
        message = f"Invalid limit: must be between 1 and {LIMIT_MAX}"
        raise invalid(message, param="limit", code="parameter_invalid_integer")
    token = call.params.get("page", "page_0")
    if not re.fullmatch(r"page_\d{1,9}", token, re.ASCII):
        raise invalid("Invalid page token.", param="page")
    start = int(token.removeprefix("page_"))
    end = min(len(rows), start + limit)
    has_more = end < len(rows)
    return {
        "object": "search_result",
        "data": list(rows[start:end]),
        "has_more": has_more,
        "next_page": f"page_{end}" if has_more else None,
        "url": call.path,
    }
