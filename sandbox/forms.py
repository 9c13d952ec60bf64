"""Form bodies and queries as Stripe reads them: `a[b][0][c]=1`, `a[]=1`."""

import re
from typing import Any, Final
from urllib.parse import parse_qsl

from sandbox.errors import invalid
from sandbox.shapes import Obj, as_obj

FIELDS_MAX: Final = 2_000
"""Of one request: more than any call has, few enough to read in a moment."""
DEPTH_MAX: Final = 12

_KEY: Final = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_PART: Final = re.compile(r"\[([^\[\]]*)\]")


def parse_form(text: str) -> Obj:
    """Nested maps, lists and strings. The last of two equal keys wins.

    Raises StripeError 400 for a key without sense.
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError as error:
        raise invalid(f"The request cannot be read as a form: {error}") from error
    tree: Obj = {}
    for name, value in pairs:
        _put(tree, name, value)
    return {name: _with_lists(value) for name, value in tree.items()}


def _put(tree: Obj, name: str, value: str) -> None:
    match = _KEY.fullmatch(name)
    if match is None:
        raise invalid(f"Invalid parameter name: {name}", param=name)
    path: list[str] = [match[1], *_PART.findall(match[2])]
    if len(path) > DEPTH_MAX:
        raise invalid(f"Too deep: {name}", param=name)
    node = tree
    for part in path[:-1]:
        below = as_obj(node.setdefault(part or str(len(node)), {}))
        if below is None:
            raise invalid(f"Invalid {match[1]}: both a value and an object", param=match[1])
        node = below
    node[path[-1] or str(len(node))] = value


def _with_lists(value: Any) -> Any:
    """Maps whose keys are all numbers become lists, in their order."""
    if (node := as_obj(value)) is None:
        return value
    tree = {name: _with_lists(inner) for name, inner in node.items()}
    if tree and all(name.isascii() and name.isdecimal() for name in tree):
        return [tree[name] for name in sorted(tree, key=int)]
    return tree
