"""The HTTP server: uvicorn's protocol with limits of time and size, and a stop that drops nothing.

Uvicorn has no timeout for headers, bodies and readers. Here one look around per second closes what
has been too slow, which costs a request nothing but a few attributes.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final, Literal, cast

import structlog
import uvicorn
from uvicorn.lifespan.on import LifespanOn
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from meter.observe import new_request_id
from meter.problems import ProblemError

App = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]

HEADER_SECONDS_MAX: Final = 10.0
BODY_SECONDS_MAX: Final = 10.0
"""For the whole body: 10 MiB take a line of 8 Mbit/s. Clients that trickle gain nothing by it."""
WRITE_SECONDS_MAX: Final = 10.0
"""For what fills the buffers to be read, and for the last bytes of a connection that we close."""
IDLE_SECONDS_MAX: Final = 14.0
"""Between two requests on one connection."""
LOOK_SECONDS: Final = 1.0
URL_BYTES_MAX: Final = 16 * 1024
"""Longer than any list with every filter and a cursor."""
HEADERS_MAX: Final = 100
HEADER_BYTES_MAX: Final = 64 * 1024
"""Of all headers as far as they have arrived."""
BACKLOG: Final = 2_048
SETTLE_SECONDS: Final = 0.5
"""On stopping, how long a connection without a request is kept: one may be on its way."""
STOP_STEP_SECONDS: Final = 0.05

log = structlog.get_logger()

Phase = Literal["idle", "headers", "body", "answer"]


class _Protocol(HttpToolsProtocol):
    """One connection. `phase` says what we wait for, `since` from when on."""

    is_stopping = False
    """Of all connections of one server (set on its subclass): each closes after its answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.phase: Phase = "idle"
        self.since = self.loop.time()
        self.slow_since: float | None = None
        """Since when the client has not read what is waiting for it."""
        self.header_bytes = 0
        self.verdict: tuple[int, str, str] | None = None
        """Why we stopped the parser ourselves: status, code, words."""

    # From the transport

    def data_received(self, data: bytes) -> None:
        was_headers = self.phase == "headers"
        if self.phase == "idle":
            self._enter("headers")
        super().data_received(data)
        # What arrived while headers were awaited and did not complete them is headers.
        if was_headers and self.phase == "headers":
            self.header_bytes += len(data)
            if self.header_bytes > HEADER_BYTES_MAX:
                self._refuse(431, "headers_too_large", "The headers are over the limit.")

    def pause_writing(self) -> None:
        super().pause_writing()
        self.slow_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.slow_since = None

    # From the parser. What these raise comes back as `send_400_response`.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._enter("headers")
        self.header_bytes = 0

    def on_headers_complete(self) -> None:
        size = sum([len(name) + len(value) for name, value in self.headers])
        if (
            len(self.url) > URL_BYTES_MAX
            or len(self.headers) > HEADERS_MAX
            or size > HEADER_BYTES_MAX
        ):
            words = "The address or the headers are over the limit."
            self.verdict = (431, "headers_too_large", words)
            raise ValueError(words)
        super().on_headers_complete()
        self._enter("body")
        if self.is_stopping:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._enter("answer")
        super().on_message_complete()
        if self.cycle.response_complete:
            self._enter("idle")

    def send_400_response(self, msg: str) -> None:
        self._refuse(*(self.verdict or (400, "malformed", msg)))

    # From the request's task

    def on_response_complete(self) -> None:
        # As uvicorn's own, but for its timer: idle connections are found by `check`.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self.phase == "answer":
            self._enter("idle")

    # Looking around and stopping

    def check(self, now: float) -> None:
        """Close the connection if the client has been too slow."""
        waited = now - self.since
        if self.slow_since is not None and now - self.slow_since > WRITE_SECONDS_MAX:
            self.transport.abort()
        elif self.transport.is_closing():
            # The last answer may still be in our buffer, below the mark of a slow reader.
            if self.slow_since is None:
                self.slow_since = now
        elif self.flow.read_paused:
            self.since = now  # it is us who do not read
        elif self.phase == "idle" and waited > IDLE_SECONDS_MAX:
            self.transport.close()
        elif self.phase == "headers" and waited > HEADER_SECONDS_MAX:
            self._refuse(408, "request_timeout", "The headers did not arrive in time.")
        elif self.phase == "body" and waited > BODY_SECONDS_MAX:
            self._refuse(408, "request_timeout", "The body did not arrive in time.")

    def finish(self, now: float) -> None:
        """The server is stopping: close as soon as nothing is on its way."""
        if self.transport.is_closing():
            return
        if (cycle := self._unanswered()) is not None:
            cycle.keep_alive = False
        elif self.phase == "body" or (self.phase == "idle" and now - self.since > SETTLE_SECONDS):
            self.transport.close()

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.since = self.loop.time()

    def _unanswered(self) -> RequestResponseCycle | None:
        """The latest request, if its answer is not complete."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return None if cycle is None or cycle.response_complete else cycle

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer in the application's place, where it still can be told apart, and close."""
        if self.transport.is_closing():
            return
        cycle = self._unanswered()
        if cycle is not None and self.phase != "body":
            # Not about this request but what follows it: it gets its answer first.
            cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if self.phase != "body" or (cycle and not cycle.response_started and not self.pipeline):
            problem = ProblemError(status, code, detail)
            body = problem.body(new_request_id())
            headers = [
                *self.server_state.default_headers,
                *problem.raw_headers(),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            ]
            lines = [b"%b: %b\r\n" % header for header in headers]
            self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()


def _not_started() -> _Protocol:
    raise AssertionError("the server has started")


class Server:
    """Serves an ASGI application in the running event loop. Signals are the caller's business."""

    def __init__(self) -> None:
        self.port = 0
        """The port that it listens on, once started."""
        self._state = ServerState()
        self._protocol = type("_ServerProtocol", (_Protocol,), {})
        self._connect: Callable[[], _Protocol] = _not_started
        self._door: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._lifespan: LifespanOn | None = None
        self._look: asyncio.Task[None] | None = None

    async def start(self, app: App, host: str, port: int) -> None:
        """Start the application and listen. Port 0: a free one.

        Raises OSError if the address can't be had, RuntimeError if the application does not start.
        """
        config = uvicorn.Config(
            cast("Any", app),
            http=self._protocol,
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        config.load()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        door = socket.create_server((host, port), family=family, backlog=BACKLOG)
        door.setblocking(False)
        # What it accepts inherits this. An answer is two writes: without it the second one waits
        # for the client to confirm the first, 40 ms (asyncio itself forgets it for such sockets).
        door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lifespan = LifespanOn(config)
        await lifespan.startup()
        if lifespan.should_exit:
            door.close()
            raise RuntimeError("the application did not start: see the log")
        self._write_date()
        loop = asyncio.get_running_loop()
        self._connect = lambda: self._protocol(config, self._state, lifespan.state, loop)
        self._lifespan, self._door = lifespan, door
        self._listener = await loop.create_server(self._connect, sock=door, backlog=BACKLOG)
        self.port = door.getsockname()[1]
        self._look = asyncio.create_task(self._look_around())

    def drain(self) -> None:
        """From now on every answer closes its connection; new connections are still taken."""
        self._protocol.is_stopping = True

    async def stop(self, seconds_max: float) -> None:
        """Close the listener, answer everything that has arrived, end the application.

        After `seconds_max` what is still unanswered is cut off.
        """
        if self._lifespan is None or self._look is None:
            return
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds_max
        self.drain()
        await self._close_door()
        while (self._state.connections or self._state.tasks) and loop.time() < ends:
            for connection in self._connections():
                connection.finish(loop.time())
            await asyncio.sleep(STOP_STEP_SECONDS)
        self._look.cancel()
        with suppress(asyncio.CancelledError):
            await self._look
        for connection in self._connections():
            connection.transport.abort()
        if left := list(self._state.tasks):
            log.error("requests_cut_off", count=len(left))
            # First they hear that their connections are gone, so that none answers with an error.
            await asyncio.sleep(0)
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=1.0)
        await self._lifespan.shutdown()
        self._lifespan = None

    async def _close_door(self) -> None:
        """Stop listening. Who has connected by now is let in, not reset."""
        assert self._listener is not None, "the server has started"
        assert self._door is not None, "the server has started"
        arrived: list[socket.socket] = []
        with suppress(BlockingIOError):
            while True:
                arrived.append(self._door.accept()[0])
        self._listener.close()
        loop = asyncio.get_running_loop()
        for connection in arrived:
            connection.setblocking(False)
            with suppress(OSError):  # gone again
                await loop.connect_accepted_socket(self._connect, connection)

    def _connections(self) -> list[_Protocol]:
        return list(cast("set[_Protocol]", self._state.connections))

    def _write_date(self) -> None:
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]

    async def _look_around(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._write_date()
            now = loop.time()
            for connection in self._connections():
                connection.check(now)
