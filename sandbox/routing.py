"""Which function answers which request, and what it is told."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from sandbox import schema
from sandbox.shapes import Obj
from sandbox.world import World


@dataclass
class Call:
    """One request, checked."""

    method: str
    path: str
    template: str
    ids: dict[str, str]
    params: Obj
    token: str = ""
    headers: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def id(self) -> str:
        """The last id of the path."""
        return [*self.ids.values()][-1]


Handler = Callable[[World, Call], Any]
H = TypeVar("H", bound=Handler)

ROUTES: Final[dict[str, Handler]] = {}
"""By `METHOD /path/{template}`."""
_PATTERNS: dict[str, re.Pattern[str]] = {}


def route(operation: str) -> Callable[[H], H]:
    """Let a function answer an operation of the description."""

    def register(handler: H) -> H:
        if operation not in schema.OPERATIONS:
            raise ValueError(f"no such operation: {operation}")
        if operation in ROUTES:
            raise ValueError(f"answered twice: {operation}")
        ROUTES[operation] = handler
        template = operation.partition(" ")[2]
        _PATTERNS[template] = re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", template))
        return handler

    return register


def find(method: str, path: str) -> tuple[str, dict[str, str]] | None:
    """The template and the ids of a path that is answered for this method.

    A template without parameters is preferred: `/v1/prices/search` is no price.
    """
    if f"{method} {path}" in ROUTES:
        return path, {}
    for template, pattern in _PATTERNS.items():
        match = pattern.fullmatch(path)
        if match is not None and f"{method} {template}" in ROUTES:
            return template, {name: unquote(value) for name, value in match.groupdict().items()}
    return None
