"""The application: every route, behind Litestar, with the hot path in front of it."""

import re
from collections.abc import AsyncGenerator
from typing import Any, Final, cast
from urllib.parse import unquote

from litestar import Litestar, Request, Response
from litestar import route as litestar_route
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
)
from litestar.response import Stream

from meter.edge import INTERNAL, App, Edge, Receive, Scope, Send
from meter.http import ROUTES
from meter.problems import ProblemError
from meter.route import Reply, Route
from meter.service import Service

HOT_OPERATIONS: Final = frozenset(
    {"reserve", "capture", "void", "extend", "consume", "record_events"}
)


def create_app(service: Service, *, hot_first: bool = True) -> App:
    """The ASGI application of a service.

    Without `hot_first` the hot routes too go through Litestar: for the test that both are equal.
    """
    framework = Litestar(
        route_handlers=[_handler(route) for route in ROUTES],
        openapi_config=None,
        exception_handlers={Exception: _failed, HTTPException: _failed},
    )
    hot = [route for route in ROUTES if route.operation in HOT_OPERATIONS] if hot_first else []
    return Edge(service, hot, _with_options(cast("App", framework)))


def _handler(route: Route) -> Any:
    """An ordinary Litestar handler over a route."""
    pattern = _pattern(route)

    async def handle(request: Request[Any, Any, Any]) -> Response[Any]:
        scope = cast("Scope", request.scope)
        edge: Edge = scope["drawdown"][0]
        ids = _ids(pattern, scope["raw_path"].decode("latin-1"))
        if ids is None:
            raise NotFoundException
        reply = await edge.answer(
            route,
            ids,
            scope,
            cast("Receive", request.receive),
            dict(scope["headers"]),
        )
        scope["reply_code"] = reply.code
        return _response(reply)

    handle.__name__ = f"{route.operation}_{route.method.lower()}"
    method = cast("Any", route.method)
    path = re.sub(r"{(\w+)}", r"{\1:str}", route.path).replace("{key:str}", "{key:path}")
    return litestar_route(path, http_method=[method], status_code=200)(handle)


def _with_options(framework: App) -> App:
    """The framework, but OPTIONS names all methods of a path: its own names those of one route."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        is_options = scope["type"] == "http" and scope["method"] == "OPTIONS"
        methods = methods_of(scope["path"]) if is_options else set[str]()
        if not methods:
            await framework(scope, receive, send)
            return
        allowed = ", ".join(sorted({"OPTIONS", *methods})).encode()
        await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", allowed)]})
        await send({"type": "http.response.body", "body": b""})

    return answer


def _ids(pattern: re.Pattern[str], sent: str) -> tuple[str, ...] | None:
    """The ids of a path, from the path as it was sent: an encoded slash belongs to an id.

    The framework decodes first and tidies up slashes: it would find another id than was meant.
    """
    if match := pattern.fullmatch(sent) or pattern.fullmatch(sent.removesuffix("/")):
        return tuple(map(unquote, match.groups()))
    match = pattern.fullmatch(unquote(sent))
    return None if match is None else match.groups()


def _pattern(route: Route) -> re.Pattern[str]:
    """What a path of this route looks like: only an idempotency key may hold slashes."""
    path = re.escape(route.path).replace(r"\{key\}", "(.+)")
    return re.compile(re.sub(r"\\{\w+\\}", "([^/]+)", path))


def _response(reply: Reply) -> Response[Any]:
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    media_type = headers.pop("content-type", "application/json")
    if reply.stream is not None:
        return Stream(
            _whole(reply.body, reply.stream),
            status_code=reply.status,
            headers=headers,
            media_type=media_type,
        )
    return Response(
        content=reply.body, status_code=reply.status, headers=headers, media_type=media_type
    )


async def _whole(body: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    try:
        yield body
        async for part in rest:
            yield part
    finally:
        await rest.aclose()


def _failed(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """What the framework refuses by itself: no such path, no such method."""
    scope = cast("Scope", request.scope)
    request_id: str = scope["drawdown"][1]
    problem = INTERNAL
    if isinstance(error, NotFoundException):
        problem = ProblemError(404, "not_found", "No such path. See /docs.")
    elif isinstance(error, MethodNotAllowedException):
        allowed = ", ".join(sorted(methods_of(request.url.path)))
        problem = ProblemError(
            405,
            "method_not_allowed",
            f"Allowed here: {allowed}.",
            headers={"Allow": allowed},
        )
    elif isinstance(error, HTTPException) and error.status_code < 500:
        problem = ProblemError(error.status_code, "malformed", error.detail)
    reply = Reply(
        problem.status, problem.body(request_id), tuple(problem.raw_headers()), problem.code
    )
    scope["reply_code"] = problem.code
    return _response(reply)


def methods_of(path: str) -> set[str]:
    """The methods that a path answers."""
    return {route.method for route in ROUTES if _pattern(route).fullmatch(path)}
