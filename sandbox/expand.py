"""`expand[]`: an id becomes its object, and lists that Stripe only sends on demand are put in."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from sandbox import schema
from sandbox.errors import invalid
from sandbox.shapes import Obj, as_list, as_obj
from sandbox.world import World, copied

DEPTH_MAX: Final = 4
PATHS_MAX: Final = 40

Include = Callable[[World, Obj], Any]
I = TypeVar("I", bound=Include)  # noqa: E741

_INCLUDES: Final[dict[tuple[str, str], Include]] = {}


def included(kind: str, member: str) -> Callable[[I], I]:
    """Let a function give a member that only comes when it is expanded."""

    def register(function: I) -> I:
        _INCLUDES[kind, member] = function
        return function

    return register


def check_paths(node: Obj, paths: list[str]) -> None:
    """Before anything is done. Raises StripeError 400 for what cannot be expanded."""
    if len(paths) > PATHS_MAX:
        raise invalid("Too many fields to expand.", param="expand")
    for path in paths:
        names = path.split(".")
        if len(names) > DEPTH_MAX + (names[0] == "data"):
            message = f"You cannot expand more than {DEPTH_MAX} levels of a property: {path}."
            raise invalid(message, param="expand")
        at = node
        for place, name in enumerate(names):
            found = _object_node(_items_node(schema.resolve(at)))
            below: Obj | None = found.get("properties", {}).get(name)
            is_last = place == len(names) - 1
            if below is None or (is_last and not _is_expandable(found, name, below)):
                raise _not_expandable(path)
            at = below


def _items_node(node: Obj) -> Obj:
    """Of a list: what is in it."""
    if node.get("type") == "array":
        return schema.resolve(node["items"])
    return node


def _is_expandable(owner: Obj, name: str, node: Obj) -> bool:
    kinds: list[str] = owner["properties"].get("object", {}).get("enum", [])
    return (
        bool(node.get("x-expandable"))
        or _has_expandable_items(node)
        or schema.is_list(node)
        or any((kind, name) in _INCLUDES for kind in kinds)
    )


def expanded(world: World, node: Obj, answer: Any, paths: list[str]) -> Any:
    """The answer with what was asked for in place; the paths are checked."""
    made = copied(answer)
    for path in paths:
        made = _expand(world, node, made, path.split("."))
    return made


def _expand(world: World, node: Obj, value: Any, names: list[str]) -> Any:
    if not names or value is None:
        return value
    node = schema.resolve(node)
    if (rows := as_list(value)) is not None:
        inner = node.get("items", {})
        return [_expand(world, inner, one, names) for one in rows]
    name, rest = names[0], names[1:]
    node = _object_node(node)
    below = node.get("properties", {}).get(name)
    obj = as_obj(value)
    if below is None or obj is None:
        return value
    include = _INCLUDES.get((str(obj.get("object")), name))
    if include is not None and obj.get(name) is None:
        obj[name] = copied(include(world, obj))
    elif below.get("x-expandable") or _has_expandable_items(below):
        obj[name] = _fetched(world, obj.get(name))
    obj[name] = _expand(world, below, obj.get(name), rest)
    return obj


def _object_node(node: Obj) -> Obj:
    """Of an id or an object: the object."""
    for option in node.get("anyOf", []):
        if "$ref" in option or option.get("type") == "object":
            return schema.resolve(option)
    return node


def _has_expandable_items(node: Obj) -> bool:
    return node.get("type") == "array" and bool(node["items"].get("x-expandable"))


def _fetched(world: World, value: Any) -> Any:
    if (rows := as_list(value)) is not None:
        return [_fetched(world, one) for one in rows]
    if isinstance(value, str) and (found := world.any(value)) is not None:
        return copied(found)
    return value


def _not_expandable(path: str) -> Exception:
    message = f"This property cannot be expanded ({path})."
    return invalid(message, param="expand")
