"""JSON as it comes: objects, lists, and what is inside them."""

from typing import Any, TypeVar, cast

Obj = dict[str, Any]
"""An object as the wire has it."""
T = TypeVar("T")


def as_obj(value: object) -> Obj | None:
    """The value, if it is an object."""
    return cast("Obj", value) if isinstance(value, dict) else None


def as_list(value: object) -> list[Any] | None:
    """The value, if it is a list."""
    return cast("list[Any]", value) if isinstance(value, list) else None


def inside(obj: Obj, *path: str) -> Obj:
    """The object at the end of a path; an empty one if something on the way is absent or null."""
    found: object = obj
    for name in path:
        found = (as_obj(found) or {}).get(name)
    return as_obj(found) or {}


def at(obj: object, *path: str) -> Any:
    """The value at the end of a path; None if something on the way is no object."""
    found: object = obj
    for name in path:
        found = (as_obj(found) or {}).get(name)
    return found


def ids_of(value: list[str] | str | None) -> list[str]:
    """A list that a request may also clear with an empty string."""
    return value if isinstance(value, list) else []


def objs_of(value: list[Obj] | str | None) -> list[Obj]:
    """The same, of objects."""
    return value if isinstance(value, list) else []


def has_status(obj: Obj, *statuses: str) -> bool:
    """Whether an object is in one of these statuses now, whatever it was a line before."""
    return obj["status"] in statuses
