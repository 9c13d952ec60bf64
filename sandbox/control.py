"""The control plane: what people do at Stripe, and what goes wrong there, on order.

Each answer comes after the work that it caused, deliveries included.
"""

import inspect
import re
import secrets
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Struct

from sandbox.account import Account
from sandbox.errors import StripeError, invalid, unknown_url
from sandbox.front import query_of
from sandbox.shapes import Obj

PREFIX: Final = "/_sandbox/"


class Body(Struct, kw_only=True, forbid_unknown_fields=True):
    """Members that a route takes; others are refused, as a typing error is not a wish."""


class Nothing(Body):
    """The body of a route that needs none."""


class Later:
    """An answer that is read off once the deliveries were tried."""

    def __init__(self, read: Callable[[], Obj]) -> None:
        self.read = read


Handler = Callable[..., Any]
"""Of the account, the ids of the path, and the body (of GET: the query)."""

_ROUTES: Final[list[tuple[str, re.Pattern[str], type[Struct] | None, Handler]]] = []


def on(operation: str, body: type[Struct] | None = Nothing) -> Callable[[Handler], Handler]:
    """Let a function answer `METHOD path/{id}`."""
    method, _, path = operation.partition(" ")
    pattern = re.compile(re.sub(r"{(\w+)}", r"([^/]+)", path))

    def register(handler: Handler) -> Handler:
        _ROUTES.append((method, pattern, body, handler))
        return handler

    return register


def paths() -> list[str]:
    """Every route, as the documentation lists them."""
    return [
        f"{method} {pattern.pattern.replace('([^/]+)', '{id}')}" for method, pattern, *_ in _ROUTES
    ]


class Control:
    """Answers the routes under `/_sandbox/` for an account."""

    def __init__(self, account: Account) -> None:
        self.account = account

    async def answer(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        try:
            self._admit(request)
            result = self._dispatch(request, body)
            if inspect.isawaitable(result):
                result = await result
            status = 200
        except StripeError as error:
            status, result = error.status, error.body()
        self.account.version += request.method != "GET"
        await self.account.postman.drain()
        if isinstance(result, Later):
            result = result.read()
        return web.Response(
            status=status, body=msgspec.json.encode(result), content_type="application/json"
        )

    def _admit(self, request: web.BaseRequest) -> None:
        """Only from this machine, and only with the token. Raises StripeError 403, 401."""
        try:
            is_near = ip_address(request.remote or "").is_loopback
        except ValueError:
            is_near = False
        if not is_near:
            raise StripeError(403, "The control plane is for this machine only.")
        kind, _, sent = request.headers.get("Authorization", "").partition(" ")
        token = self.account.keys.token.encode()
        if kind.lower() != "bearer" or not secrets.compare_digest(sent.strip().encode(), token):
            raise StripeError(401, "The control plane needs its own token as bearer.")

    def _dispatch(self, request: web.BaseRequest, body: bytes) -> Any:
        path = request.path.removeprefix(PREFIX).rstrip("/")
        for method, pattern, kind, handler in _ROUTES:
            match = pattern.fullmatch(path) if method == request.method else None
            if match is None:
                continue
            given: Any = query_of(request) if method == "GET" else _read(kind, body)
            return handler(self.account, *match.groups(), given)
        raise unknown_url(request.method, request.path)


def _read(kind: type[Struct] | None, body: bytes) -> Any:
    try:
        if kind is None:
            return msgspec.json.decode(body or b"{}", type=dict[str, Any])
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise invalid(str(error)) from error
