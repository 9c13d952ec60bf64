"""The small application on DRAWDOWN_METRICS_BIND: `/metrics`, and `/livez` for a jobs process."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from meter.observe import Metrics
from meter.server import App

Message = MutableMapping[str, Any]


def metrics_app(metrics: Metrics) -> App:
    """An ASGI application that answers without a database and without a key."""

    async def answer(
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
            return
        status, body, content_type = _reply(scope["method"], scope["path"], metrics)
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


def _reply(method: str, path: str, metrics: Metrics) -> tuple[int, bytes, str]:
    if method != "GET":
        return 405, b"GET only\n", "text/plain"
    if path == "/metrics":
        return 200, *metrics.exposition()
    if path == "/livez":
        return 200, b"ok\n", "text/plain"
    return 404, b"/metrics and /livez are here\n", "text/plain"
