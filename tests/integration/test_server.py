"""The HTTP server on a socket: limits of time and size, and a stop that drops nothing.

Each test runs on an event loop of its own, the one that serves in production. Waits are cut short;
what is asserted is who is closed and who is answered, not when.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
import uvloop

from meter import server
from meter.server import Server

Message = MutableMapping[str, Any]
BODY_MAX = 1_000_000


class Echo:
    """Answers with the length of the body; waits at `/wait` until told to go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.waiting = asyncio.Event()
        self.seen: list[str] = []
        self.is_up = False

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        self.seen.append(scope["path"])
        headers = dict(scope["headers"])
        if int(headers.get(b"content-length", b"0")) > BODY_MAX:
            await _answer(send, 413, b"too large")
            return
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.seen.append("disconnect")
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        if scope["path"] == "/wait":
            self.waiting.set()
            await self.go_on.wait()
        if scope["path"] == "/large":
            await _answer(send, 200, b"x" * 20_000_000)
            return
        await _answer(send, 200, b"%d" % size)

    async def _live(
        self,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        await receive()
        self.is_up = True
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.is_up = False
        await send({"type": "lifespan.shutdown.complete"})


async def _answer(send: Callable[[Message], Awaitable[None]], status: int, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(app: Any) -> AsyncGenerator[Server]:
    made = Server()
    await made.start(app, "127.0.0.1", 0)
    try:
        yield made
    finally:
        await made.stop(5)
        for client in Client.connected:
            client.writer.close()
        Client.connected.clear()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it; fail if it does not come."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("waited for nothing")


class Client:
    """One connection, byte by byte."""

    connected: ClassVar[list["Client"]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> "Client":
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        cls.connected.append(client)
        return client

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, body

    async def ended(self) -> bytes:
        """Everything until the server closes the connection."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


def post(path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEADER_SECONDS_MAX", "BODY_SECONDS_MAX", "WRITE_SECONDS_MAX"):
        monkeypatch.setattr(server, name, 0.2)
    monkeypatch.setattr(server, "LOOK_SECONDS", 0.02)


def test_requests_on_one_connection_are_answered_in_order() -> None:
    async def story() -> None:
        app = Echo()
        async with serving(app) as running:
            assert app.is_up
            client = await Client.connect(running.port)
            await client.send(post("/a", b"12345"))
            status, headers, body = await client.answer()
            assert (status, body) == (200, b"5")
            assert "date" in headers
            assert "server" not in headers
            await client.send(post("/b", b"1") + post("/c", b"123"))
            assert [(await client.answer())[2], (await client.answer())[2]] == [b"1", b"3"]
        assert not app.is_up

    uvloop.run(story())


@pytest.mark.usefixtures("_quick")
def test_half_headers_are_answered_408_and_closed() -> None:
    async def story() -> None:
        async with serving(Echo()) as running:
            fresh = await Client.connect(running.port)
            await fresh.send(b"POST /a HTTP/1.1\r\nHost: x\r\nX-Sl")
            second = await Client.connect(running.port)
            await second.send(post("/a"))
            await second.answer()
            await second.send(b"POST /b HT")
            for client in (fresh, second):
                status, headers, body = await client.answer()
                assert status == 408
                assert headers["content-type"] == "application/problem+json"
                assert json.loads(body)["code"] == "request_timeout"
                assert await client.ended() == b""

    uvloop.run(story())


@pytest.mark.usefixtures("_quick")
def test_half_body_is_answered_408_and_the_application_hears_of_it() -> None:
    async def story() -> None:
        app = Echo()
        async with serving(app) as running:
            client = await Client.connect(running.port)
            await client.send(post("/a", b"12345")[:-2])
            status, _, _ = await client.answer()
            assert status == 408
            assert await client.ended() == b""
        assert app.seen == ["/a", "disconnect"]

    uvloop.run(story())


@pytest.mark.usefixtures("_quick")
def test_trickling_body_is_closed_too() -> None:
    async def story() -> None:
        async with serving(Echo()) as running:
            client = await Client.connect(running.port)
            await client.send(post("/a", b"1" * 100_000)[:200])
            answer = asyncio.create_task(client.answer())
            while not answer.done():
                client.writer.write(b"1")
                await asyncio.wait([answer], timeout=0.01)
            assert (await answer)[0] == 408

    uvloop.run(story())


@pytest.mark.usefixtures("_quick")
def test_slow_reader_is_cut_off() -> None:
    async def story() -> None:
        app = Echo()
        async with serving(app) as running:
            client = await Client.connect(running.port)
            await client.send(post("/large"))
            await until(lambda: bool(app.seen))
            # Nobody reads: the buffers of both sides are full long before 20 MB.
            await until(lambda: not running._state.connections)  # pyright: ignore[reportPrivateUsage]
            assert len(await client.ended()) < 20_000_000

    uvloop.run(story())


def test_idle_connection_is_closed_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS_MAX", 0.1)
    monkeypatch.setattr(server, "LOOK_SECONDS", 0.02)

    async def story() -> None:
        async with serving(Echo()) as running:
            silent = await Client.connect(running.port)
            client = await Client.connect(running.port)
            await client.send(post("/a"))
            await client.answer()
            assert await client.ended() == b""
            assert await silent.ended() == b""

    uvloop.run(story())


@pytest.mark.usefixtures("_quick")
def test_waiting_for_the_application_is_no_timeout() -> None:
    async def story() -> None:
        app = Echo()
        async with serving(app) as running:
            client = await Client.connect(running.port)
            await client.send(post("/wait"))
            await app.waiting.wait()
            other = await Client.connect(running.port)
            await other.send(b"POST")
            assert (await other.answer())[0] == 408  # time has passed for everybody
            app.go_on.set()
            assert (await client.answer())[0] == 200

    uvloop.run(story())


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 200 + b"\r\n",
    ],
    ids=["address", "many headers"],
)
def test_too_large_headers_are_answered_431(head: bytes) -> None:
    async def story() -> None:
        app = Echo()
        async with serving(app) as running:
            client = await Client.connect(running.port)
            await client.send(head)
            status, _, body = await client.answer()
            assert (status, json.loads(body)["code"]) == (431, "headers_too_large")
            assert await client.ended() == b""
        assert app.seen == []

    uvloop.run(story())


def test_endless_header_is_answered_431() -> None:
    async def story() -> None:
        async with serving(Echo()) as running:
            client = await Client.connect(running.port)
            await client.send(b"GET / HTTP/1.1\r\nX-A: ")
            answer = asyncio.create_task(client.answer())
            for _ in range(10_000):
                if answer.done():
                    break
                client.writer.write(b"a" * 1_000)
                await asyncio.sleep(0)
            assert (await answer)[0] == 431

    uvloop.run(story())


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x02\x00\x01", b"GET nothing\r\n\r\n"])
def test_what_is_not_http_is_answered_400(noise: bytes) -> None:
    async def story() -> None:
        async with serving(Echo()) as running:
            client = await Client.connect(running.port)
            await client.send(noise)
            status, _, body = await client.answer()
            assert (status, json.loads(body)["code"]) == (400, "malformed")

    uvloop.run(story())


def test_noise_after_a_request_does_not_take_its_answer() -> None:
    async def story() -> None:
        app = Echo()
        async with serving(app) as running:
            client = await Client.connect(running.port)
            await client.send(post("/wait", b"123"))
            await app.waiting.wait()
            await client.send(b"\x16\x03\x01 noise\r\n\r\n")
            connection: Any = next(iter(running._state.connections))  # pyright: ignore[reportPrivateUsage]
            await until(lambda: connection.flow.read_paused)
            app.go_on.set()
            assert (await client.answer())[::2] == (200, b"3")
            assert await client.ended() == b""

    uvloop.run(story())


def test_early_413_reaches_a_client_that_is_still_sending() -> None:
    async def story() -> None:
        async with serving(Echo()) as running:
            client = await Client.connect(running.port)
            body = b"1" * (BODY_MAX + 1)
            await client.send(post("/a", body))
            assert (await client.answer())[0] == 413
            # What was sent after all is read and dropped, and the connection goes on.
            await client.send(post("/b", b"12"))
            assert (await client.answer())[::2] == (200, b"2")

            huge = await Client.connect(running.port)
            await huge.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
            assert (await huge.answer())[0] == 413

    uvloop.run(story())


@pytest.mark.usefixtures("_quick")
def test_body_that_goes_on_after_a_413_is_cut_off_without_a_second_answer() -> None:
    async def story() -> None:
        async with serving(Echo()) as running:
            client = await Client.connect(running.port)
            await client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
            assert (await client.answer())[0] == 413
            assert await client.ended() == b""

    uvloop.run(story())


def test_stop_answers_what_has_arrived_and_closes_the_rest() -> None:
    async def story() -> None:
        app = Echo()
        async with serving(app) as running:
            idle = await Client.connect(running.port)
            await idle.send(post("/a"))
            await idle.answer()
            half = await Client.connect(running.port)
            await half.send(post("/b", b"123")[:20])
            busy = await Client.connect(running.port)
            await busy.send(post("/wait"))
            await app.waiting.wait()

            stopping = asyncio.create_task(running.stop(5))
            assert await idle.ended() == b""
            with pytest.raises(ConnectionError):
                await Client.connect(running.port)
            await half.send(post("/b", b"123")[20:])
            status, headers, body = await half.answer()
            assert (status, headers["connection"], body) == (200, "close", b"3")
            assert not stopping.done()
            app.go_on.set()
            assert (await busy.answer())[0] == 200
            await stopping
            assert not app.is_up

    uvloop.run(story())


def test_drain_answers_close_their_connections_but_new_ones_are_taken() -> None:
    async def story() -> None:
        async with serving(Echo()) as running:
            running.drain()
            for _ in range(2):
                client = await Client.connect(running.port)
                await client.send(post("/a"))
                status, headers, _ = await client.answer()
                assert (status, headers["connection"]) == (200, "close")
                assert await client.ended() == b""

    uvloop.run(story())


def test_stop_cuts_off_what_does_not_end_in_time() -> None:
    async def story() -> None:
        app = Echo()
        async with serving(app) as running:
            client = await Client.connect(running.port)
            await client.send(post("/wait"))
            await app.waiting.wait()
            await running.stop(0.1)
            assert await client.ended() == b""
            assert not app.is_up

    uvloop.run(story())


def test_stop_under_load_drops_no_request() -> None:
    """Clients that keep sending: each request gets an answer, or finds the door closed."""

    async def one(port: int, counts: dict[str, int]) -> None:
        while True:
            try:
                client = await Client.connect(port)
            except ConnectionError:
                return
            closes = False
            while not closes:
                try:
                    await client.send(post("/a", b"12"))
                    _, headers, body = await client.answer()
                except (ConnectionError, asyncio.IncompleteReadError):
                    counts["dropped"] += 1
                    return
                assert body == b"2"
                counts["answered"] += 1
                closes = headers.get("connection") == "close"

    async def story() -> None:
        counts = {"answered": 0, "dropped": 0}
        async with serving(Echo()) as running:
            clients = [asyncio.create_task(one(running.port, counts)) for _ in range(20)]
            await until(lambda: counts["answered"] > 1_000)
            running.drain()
            await running.stop(5)
            await asyncio.gather(*clients)
        assert counts["dropped"] == 0

    uvloop.run(story())


def test_start_on_a_taken_port_is_an_os_error() -> None:
    async def story() -> None:
        async with serving(Echo()) as running:
            app = Echo()
            with pytest.raises(OSError, match="Address already in use"):
                await Server().start(app, "127.0.0.1", running.port)
            assert not app.is_up

    uvloop.run(story())
