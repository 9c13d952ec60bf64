"""The outermost layer: every request passes here, and the hot routes go no further.

`answer` is the whole life of a request on any route: who asks, may they, is the body readable, and
the handler. The hot routes call it at once; all others are found by Litestar first and then call
the same function, so both ways give the same answers.
"""

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from time import perf_counter
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

import structlog
from msgspec.structs import replace

from meter import parse
from meter.auth import Key
from meter.limits import Limiter
from meter.observe import new_request_id, trace_of
from meter.parse import Body
from meter.problems import ProblemError, fault, of_fault
from meter.route import Call, Reply, Route
from meter.scopes import allows
from meter.service import Service
from sql.errors import DatabaseFault

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = structlog.get_logger()

ANYONE: Final = Key(
    key_no=0,
    kind="key",
    scopes=frozenset(),
    customer_no=None,
    customer_id=None,
    expires_at=None,
    name="",
)
"""Who asks on a route without a scope."""

PREFLIGHT: Final = Reply(
    204,
    b"",
    (
        (b"access-control-allow-methods", b"GET"),
        (b"access-control-allow-headers", b"authorization, x-request-id, traceparent"),
        (b"access-control-max-age", b"600"),
    ),
)
"""Browsers of the allowed origins may read, and no more."""

_HOLDS: Final = "/v1/holds/"
PARSED_AT_ONCE_MAX: Final = 64 * 1024
"""Bytes of a body that are read in the event loop: at most a few milliseconds of it."""


class Edge:
    """The ASGI application: hot routes first, the framework behind them."""

    def __init__(self, service: Service, hot: Sequence[Route], framework: App) -> None:
        self.service, self.framework = service, framework
        self.limiter = Limiter(service.config.rate_limit)
        self.fixed = {route.path: route for route in hot if "{" not in route.path}
        self.of_hold = {
            route.path.rsplit("/", 1)[1]: route
            for route in hot
            if route.path.startswith(_HOLDS) and route.path.count("/") == 4
        }
        # Asked once: even a line that is not written costs more than the rest of this layer.
        self.tells_all = logging.getLogger().isEnabledFor(logging.DEBUG)
        self.cors = frozenset(origin.encode() for origin in service.config.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.framework(scope, receive, send)
            return
        started = perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id"))
        trace = trace_of(headers.get(b"traceparent"))
        scope["drawdown"] = (self, request_id, trace)
        extra = [(b"x-request-id", request_id.encode()), (b"traceparent", trace.header)]
        if self.cors and (origin := headers.get(b"origin")) in self.cors:
            extra += [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await _send(send, PREFLIGHT, extra)
                return
        path = scope["path"]
        if "\ufffd" in path and not _is_utf8(scope["raw_path"]):
            # Decoded with a stand-in, two different ids would become one.
            await _send(send, _problem(UNREADABLE, request_id), extra)
            return
        found = self.match(path) if scope["method"] == "POST" else None
        if found is not None:
            route, ids = found
            reply = await self.answer(route, ids, scope, receive, headers)
            scope["reply_code"] = reply.code
            await _send(send, reply, extra)
            template, status = route.path, reply.status
        else:
            template, status = await self.pass_on(scope, receive, send, extra)
        seconds, code = perf_counter() - started, scope.get("reply_code")
        self.service.metrics.request(template, scope["method"], status, seconds, code)
        if status >= 500 or self.tells_all:
            log.log(
                logging.WARNING if status >= 500 else logging.DEBUG,
                "answered",
                route=template,
                method=scope["method"],
                status=status,
                code=code,
                seconds=round(seconds, 6),
                request_id=request_id,
                trace_id=trace.trace_id,
            )

    def match(self, path: str) -> tuple[Route, tuple[str, ...]] | None:
        """The hot route of a path, and the ids in it."""
        route = self.fixed.get(path)
        if route is not None:
            return route, ()
        if path.startswith(_HOLDS):
            hold_id, _, action = path[len(_HOLDS) :].partition("/")
            route = self.of_hold.get(action)
            if route is not None and hold_id:
                return route, (hold_id,)
        return None

    async def pass_on(
        self, scope: Scope, receive: Receive, send: Send, extra: list[tuple[bytes, bytes]]
    ) -> tuple[str, int]:
        """Let the framework answer; the route's template and the status, for counting."""
        status = 500

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        await self.framework(scope, receive, with_headers)
        return scope.get("path_template") or "unknown", status

    async def answer(
        self,
        route: Route,
        ids: Sequence[str],
        scope: Scope,
        receive: Receive,
        headers: Mapping[bytes, bytes],
    ) -> Reply:
        """One request on one route, from its headers to its answer. Never raises."""
        _, request_id, trace = scope["drawdown"]
        limits: tuple[tuple[bytes, bytes], ...] = ()
        try:
            if len(headers) < len(scope["headers"]):
                _refuse_doubles(scope["headers"])
            key = ANYONE
            if route.scope is not None:
                key = self.service.keys.cached(headers.get(b"authorization")) or (
                    await self.service.keys.authenticate(headers.get(b"authorization"))
                )
                limits = self.limiter.spend(key)
                if not allows(key, route.scope):
                    raise ProblemError(
                        403, "scope_missing", f"This key lacks the scope {route.scope}."
                    )
            call = Call(
                service=self.service,
                key=key,
                ids=ids,
                query=_query(route, scope["query_string"]),
                raw=b"",
                idempotency_key=_key(route, headers),
                request_id=request_id,
                trace_id=trace.trace_id,
                headers=headers,
            )
            if route.body is not None:
                call.raw = await _read(route, receive, headers)
                if route.reads_body:
                    call.raw = await _inflated(route, call.raw, headers)
                else:
                    call.body = await _parse(call.raw or b"{}", route.items)
            reply = await route.handler(call)
        except ProblemError as error:
            reply = _problem(error, request_id)
        except DatabaseFault as fault:
            reply = _problem(of_fault(fault), request_id)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.error("request_failed", exc_info=error, request_id=request_id, route=route.path)
            reply = _problem(INTERNAL, request_id)
        if limits:
            return replace(reply, headers=(*reply.headers, *limits))
        return reply


INTERNAL: Final = fault("internal")


ENDED_EARLY: Final = ProblemError(400, "malformed", "The body ended early. Nothing was written.")
BAD_GZIP: Final = ProblemError(400, "malformed", "The body is not one whole gzip stream.")
UNREADABLE: Final = ProblemError(
    400, "malformed", "The path is not readable: percent-encoded UTF-8 is expected."
)


def _is_utf8(raw_path: bytes) -> bool:
    try:
        unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        return False
    return True


def _problem(error: ProblemError, request_id: str) -> Reply:
    return Reply(error.status, error.body(request_id), tuple(error.raw_headers()), error.code)


def _request_id(given: bytes | None) -> str:
    """The caller's id if it is plain (1-128 of letters, digits, `-._:`), else a new one."""
    if given is not None and len(given) <= 128:
        text = given.decode("latin-1")
        if (
            text
            and text.isascii()
            and text.replace("-", "").replace("_", "").replace(".", "").replace(":", "").isalnum()
        ):
            return text
    return new_request_id()


def _query(route: Route, raw: bytes) -> Mapping[str, str]:
    """The query parameters; one that the route does not know, or twice the same, is refused."""
    if not raw:
        return {}
    known = {query.name: query for query in route.query}
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError as error:
        raise ProblemError(
            400, "malformed", "The query string is not readable: percent-encoded UTF-8 is expected."
        ) from error
    for name, value in pairs:
        # `filter[model]=x` is the member `model` of the parameter `filter`, if that has members.
        base, bracket, member = name.partition("[")
        is_member = bool(bracket) and member.endswith("]") and len(member) > 1
        query = known.get(base)
        is_known = query is not None and is_member == (query.schema.get("type") == "object")
        if not is_known or name in found:
            raise ProblemError(
                422,
                "invalid_query",
                f"Query parameter {name[:64]!r} is not known here, or given twice.",
            )
        if "\0" in value or "\0" in name:
            raise ProblemError(422, "invalid_text", f"Query parameter {base!r} holds a NUL.")
        found[name] = value
    return found


def _key(route: Route, headers: Mapping[bytes, bytes]) -> str | None:
    if not (route.needs_key or route.takes_key):
        return None
    key = parse.idempotency_key(headers.get(b"idempotency-key"))
    if key is None and route.needs_key:
        raise parse.key_missing()
    return key


async def _read(route: Route, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
    """The whole body, within the route's limit and of a type we read."""
    declared = headers.get(b"content-length")
    if declared is not None and (not declared.isdigit() or int(declared) > route.body_max):
        raise _too_large(route)
    if not route.reads_body:
        kind = headers.get(b"content-type")
        if kind is not None and kind.split(b";", 1)[0].strip().lower() != b"application/json":
            raise ProblemError(415, "unsupported_media_type", "Send application/json.")
        if b"content-encoding" in headers:
            raise ProblemError(415, "unsupported_media_type", "Send the body without an encoding.")
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ENDED_EARLY
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > route.body_max:
            raise _too_large(route)
        return body
    parts, size = [body], len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ENDED_EARLY
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > route.body_max:
            raise _too_large(route)
    return b"".join(parts)


SINGLE: Final = frozenset(
    {
        b"idempotency-key",
        b"authorization",
        b"content-type",
        b"content-length",
        b"content-encoding",
    }
)
"""Headers that mean one thing; so do those that start with `ce-`."""


async def _inflated(route: Route, raw: bytes, headers: Mapping[bytes, bytes]) -> bytes:
    """The body as it was before it was gzipped, within the same limit."""
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding == b"identity":
        return raw
    if encoding != b"gzip":
        raise ProblemError(415, "unsupported_media_type", "Send the body as it is, or gzipped.")
    inflater = zlib.decompressobj(wbits=31)
    try:
        # No more is made than is allowed, whatever the body would become.
        body = await asyncio.to_thread(inflater.decompress, raw, route.body_max + 1)
    except zlib.error:
        raise BAD_GZIP from None
    if len(body) > route.body_max:
        raise _too_large(route)
    if not inflater.eof or inflater.unused_data:
        raise BAD_GZIP
    return body


async def _parse(raw: bytes, items: str | None) -> Body:
    """Read a body; a large one beside the loop, or everybody else would wait for it."""
    if len(raw) <= PARSED_AT_ONCE_MAX:
        return parse.read_body(raw, items=items)
    return await asyncio.to_thread(parse.read_body, raw, items=items)


def _refuse_doubles(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Two keys, or two logins, in one request: nobody can say which was meant."""
    names = [name for name, _ in headers]
    for name in names:
        if (name in SINGLE or name.startswith(b"ce-")) and names.count(name) > 1:
            raise ProblemError(400, "malformed", f"The header {name.decode()} came twice.")


def _too_large(route: Route) -> ProblemError:
    return ProblemError(
        413, "body_too_large", f"The body may have at most {route.body_max} bytes here."
    )


async def _send(send: Send, reply: Reply, extra: list[tuple[bytes, bytes]]) -> None:
    headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body)), *extra]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
