"""Large, deep and slow input: a clear refusal, bounded memory, and nobody else waits."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from meter import server
from sql.pool import Pool
from tests.http import Answer, Described, Running, check_problem, fresh_key, serving

MIB = 1024 * 1024
BATCH_MAX = 1_000
RISE_MAX = 100 * MIB
SLOW = 50
SLOW_LONG = 500
CLOSED_SECONDS_MAX = 15.0
ESTABLISHED = "01"
"""In `/proc/net/tcp`."""


@pytest.fixture
async def running(pool: Pool) -> AsyncGenerator[Running]:
    """A sandbox in which `acme` has 1,000,000 credits."""
    async with serving(pool) as made:
        await made.api.customer("acme")
        await made.api.grant("1000000")
        yield made


def memory() -> int:
    """What this process, which is the service too, has in memory: bytes."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def post_raw(
    running: Running, path: str, data: bytes | AsyncIterator[bytes], **headers: str
) -> Answer:
    """Send a body of any size, as it is. The server may answer before it has read all of it."""
    api = running.api
    sent = {
        "Authorization": f"Bearer {api.secret}",
        "Content-Type": "application/json",
        "Idempotency-Key": fresh_key(),
        **headers,
    }
    body = BytesIO(data) if isinstance(data, bytes) else data
    async with api.session.post(api.url + path, data=body, headers=sent) as response:
        return Answer(response.status, response.headers, await response.read())


def consume(n: int) -> bytes:
    return b'{"op":"consume","key":"op-%d","customer_id":"acme","amount":"1"}' % n


def batch_of(items: list[bytes]) -> bytes:
    return b'{"operations":[' + b",".join(items) + b"]}"


# Large


@pytest.mark.parametrize("is_chunked", [False, True], ids=["sized", "chunked"])
@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/v1/batch", 10 * MIB),
        ("/v1/consume", MIB),
        ("/v1/grants", MIB),
        ("/v1/keys", MIB),
        ("/v1/customers/acme/close", MIB),
    ],
)
async def test_body_over_the_limit_is_413_and_names_it(
    running: Running, path: str, limit: int, is_chunked: bool
) -> None:
    before = memory()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(0, 4 * limit, 65_536):
            yield b" " * 65_536

    for _ in range(3):
        try:
            answer = await post_raw(running, path, chunks() if is_chunked else b" " * (limit + 1))
        except aiohttp.ClientError:
            continue  # the server hung up on the rest before the client looked at the answer
        assert (answer.status, answer.code) == (413, "body_too_large")
        check_problem(answer)
        assert str(limit) in answer.body["detail"]
    assert memory() - before < RISE_MAX
    assert (await running.api.get("/livez")).status == 200


async def test_declared_length_over_the_limit_is_413_before_the_body(running: Running) -> None:
    """A caller that says how much it will send hears it at once."""
    for length in (MIB + 1, 10**12, 10**30):
        head = head_of(running, "POST", "/v1/consume", f"Content-Length: {length}")
        reply = await exchange(running, head)
        assert reply.startswith(b"HTTP/1.1 4"), reply
        assert b"body_too_large" in reply or length == 10**30


async def test_body_at_the_limit_is_read(running: Running) -> None:
    raw = b'{"customer_id":"acme","amount":"1"}'
    answer = await post_raw(running, "/v1/consume", raw + b" " * (MIB - len(raw)))
    assert answer.status == 201
    items = [consume(n) for n in range(BATCH_MAX)]
    whole = batch_of(items)
    answer = await post_raw(running, "/v1/batch", whole + b"\n" * (10 * MIB - len(whole)))
    assert answer.status == 200
    assert {one["status"] for one in answer.body["results"]} == {201}


@pytest.mark.parametrize("count", [BATCH_MAX + 1, 10_001])
async def test_too_many_operations_are_422_and_none_is_done(running: Running, count: int) -> None:
    before = await running.api.posted()
    answer = await post_raw(running, "/v1/batch", batch_of([consume(n) for n in range(count)]))
    assert answer.status == 422, answer
    (await Described.of(running.api)).check("POST", "/v1/batch", answer)
    assert answer.body["errors"][0]["pointer"] == "/operations"
    assert "1000" in answer.body["detail"].replace(",", "").replace("_", "")
    assert await running.api.posted() == before


async def test_no_operations_at_all_is_an_empty_answer(running: Running) -> None:
    answer = await post_raw(running, "/v1/batch", b'{"operations":[]}')
    assert (answer.status, answer.body) == (200, {"results": []})


def nested(depth: int, opening: bytes, closing: bytes, core: bytes = b"1") -> bytes:
    return opening * depth + core + closing * depth


DEEP = {
    "objects": nested(100, b'{"a":', b"}"),
    "lists": nested(100, b"[", b"]"),
    "mixed": nested(50, b'{"a":[', b"]}"),
    "very deep lists": nested(200_000, b"[", b"]"),
    "very deep objects": nested(100_000, b'{"a":', b"}"),
}


@pytest.mark.parametrize("deep", DEEP.values(), ids=DEEP.keys())
async def test_deep_json_is_a_clear_4xx(running: Running, deep: bytes) -> None:
    described = await Described.of(running.api)
    for raw, statuses in (
        (b'{"customer_id":"acme","amount":"1","metadata":{"a":%b}}' % deep, {422}),
        (b'{"customer_id":"acme","amount":"1","unknown":%b}' % deep, {422}),
        (deep, {400, 422}),
        (deep[: len(deep) // 2], {400, 422}),
    ):
        answer = await post_raw(running, "/v1/consume", raw)
        assert answer.status in statuses, (raw[:60], answer)
        described.check("POST", "/v1/consume", answer)
    item = b'{"op":"consume","key":"deep","customer_id":"acme","amount":"1","metadata":{"a":%b}}'
    raw = batch_of([consume(1), item % deep, consume(2)])
    answer = await post_raw(running, "/v1/batch", raw)
    if answer.status == 200:
        assert [one["status"] for one in answer.body["results"]] == [201, 422, 201]
    else:
        assert answer.status == 422
        described.check("POST", "/v1/batch", answer)


async def test_flaws_of_one_item_hide_none_of_another(running: Running) -> None:
    """A first item with more flaws than are counted; then each kind of flaw, and a sound item."""
    start = b'{"op":"consume","customer_id":"acme","amount":"1","key":'
    items = [
        start + b'"a","metadata":{"l":[' + b",".join([b'"\\u0000"'] * 3_000) + b"]}}",
        start + b'"b","reference":"\\u0000"}',
        start + b'"c","reference":"\\ud800"}',
        start + b'"d","metadata":{"n":' + b"9" * 5_000 + b"}}",
        start + b'"e","amount":"1"}',
        start + b'"f","metadata":' + nested(100, b'{"a":', b"}") + b"}",
        start + b'"\\u0000"}',
        start + b'"h"}',
    ]
    answer = await post_raw(running, "/v1/batch", batch_of(items))
    assert answer.status == 200, answer
    results = [(one["status"], one["body"].get("code")) for one in answer.body["results"]]
    assert results == [
        (422, "invalid_text"),
        (422, "invalid_text"),
        (422, "invalid_text"),
        (422, "invalid_number"),
        (422, "duplicate_member"),
        (422, "invalid_depth"),
        (422, "invalid_text"),
        (201, None),
    ]


NUMBERS = {
    "digits": b"9" * 1_000_000,
    "negative": b"-" + b"9" * 1_000_000,
    "decimals": b"0." + b"9" * 1_000_000,
    "zeros": b"1" + b"0" * 1_000_000,
    "exponent": b"1e1000000",
    "long exponent": b"1e" + b"9" * 100_000,
    "small": b"1e-1000000",
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS.keys())
async def test_endless_number_is_422_wherever_it_stands(running: Running, number: bytes) -> None:
    described = await Described.of(running.api)
    fits = number[: MIB - 200]
    for raw in (
        b'{"customer_id":"acme","amount":%b}' % fits,
        b'{"customer_id":"acme","amount":"%b"}' % fits,
        b'{"customer_id":"acme","amount":"1","metadata":{"n":%b}}' % fits,
        b'{"customer_id":"acme","amount":"1","effective_at":%b}' % fits,
        b'{"customer_id":"acme","amount":"1","effective_at":"%b"}' % fits,
        b'{"customer_id":%b,"amount":"1"}' % fits,
    ):
        answer = await post_raw(running, "/v1/consume", raw)
        assert answer.status == 422, (raw[:60], answer)
        described.check("POST", "/v1/consume", answer)
        assert len(answer.raw) < 10_000
    raw = b'{"customer_id":"acme","amount":"1","expires_in":%b}' % fits
    answer = await post_raw(running, "/v1/reserve", raw)
    assert answer.status == 422, answer
    assert (await running.api.posted())[0] == "1000000"


async def test_large_texts_are_422_and_not_repeated_in_full(running: Running) -> None:
    api, long = running.api, "x" * 500_000
    described = await Described.of(api)
    for method, path, body in (
        ("POST", "/v1/consume", {"customer_id": long, "amount": "1"}),
        ("POST", "/v1/consume", {"customer_id": "acme", "amount": long}),
        ("POST", "/v1/consume", {"customer_id": "acme", "amount": "1", "asset": long}),
        ("POST", "/v1/consume", {"customer_id": "acme", "amount": "1", "reference": long}),
        ("POST", "/v1/consume", {"customer_id": "acme", "amount": "1", "effective_at": long}),
        ("POST", "/v1/consume", {"customer_id": "acme", "amount": "1", "metadata": {"a": long}}),
        ("POST", "/v1/consume", {"customer_id": "acme", "amount": "1", long: 1}),
        ("POST", "/v1/consume", {"metadata": {long: ["\0"] * 1_000}}),
        ("POST", "/v1/consume", {"metadata": {long: {long[:9_000]: {"\0": 1}}}}),
        ("POST", "/v1/grants", {"customer_id": "acme", "amount": "1", "category": long}),
        ("PUT", "/v1/customers/acme", {"name": long}),
        ("PUT", "/v1/customers/acme", {"email": long}),
        ("PUT", "/v1/customers/acme", {"time_zone": long}),
        ("PUT", "/v1/customers/acme", {"currency": long}),
        ("PUT", "/v1/customers/acme", {"overage": {"policy": long}}),
        ("POST", "/v1/keys", {"name": long, "scopes": ["admin"]}),
        ("POST", "/v1/keys", {"name": "x", "scopes": [long]}),
        ("POST", "/v1/customers/acme/tokens", {"scopes": [long], "expires_in": 1}),
        ("POST", "/v1/test-clock", {"to": long}),
        ("POST", "/v1/batch", {"operations": [{"op": long}]}),
    ):
        answer = await api.send(method, path, body, key=None if "batch" in path else fresh_key())
        template = path.replace("acme", "{customer_id}")
        described.check(method, template, answer)
        assert answer.status == (200 if "batch" in path else 422), (path, list(body))
        assert len(answer.raw) < 50_000, (path, list(body), len(answer.raw))


async def test_large_addresses_and_headers_are_refused(running: Running) -> None:
    api = running.api
    for path in (
        "/v1/customers/" + "x" * 300,
        "/v1/customers/" + "%F0%9F%92%B0" * 64,
        "/v1/holds/" + "x" * 8_000,
        "/v1/customers?query=" + "x" * 8_000,
        "/v1/customers?cursor=" + "x" * 8_000,
        "/v1/customers?" + "&".join(f"a{n}=1" for n in range(100)),
        "/v1/customers/acme/requests/" + "k" * 300,
    ):
        answer = await api.get(path)
        assert 400 <= answer.status < 500 or "query=" in path, (path[:60], answer)
    for extra in (f"X-Long: {'x' * 70_000}", "\r\n".join(f"X-{n}: 1" for n in range(150))):
        reply = await exchange(running, head_of(running, "GET", "/v1/customers", extra))
        assert reply.startswith(b"HTTP/1.1 431"), reply[:100]
        assert b"headers_too_large" in reply
    reply = await exchange(running, head_of(running, "GET", "/v1/customers?q=" + "x" * 20_000))
    assert reply.startswith(b"HTTP/1.1 431"), reply[:100]
    assert (await api.get("/livez")).status == 200


async def test_memory_stays_bounded_under_large_input(running: Running) -> None:
    """Many large bodies at once, none of which can be used."""
    bodies = [
        b'{"customer_id":"acme","amount":"1","metadata":%b}' % nested(100_000, b'{"a":', b"}"),
        b'{"customer_id":"acme","amount":"1","metadata":{"n":%b}}' % (b"9" * 1_000_000),
        b'{"customer_id":"acme","amount":"1","metadata":{"a":[%b1]}}' % (b"1," * 400_000),
        b'{"customer_id":"acme","amount":"1","metadata":{%b"z":1}}'
        % b"".join(b'"%d":1,' % n for n in range(100_000)),
    ]
    await asyncio.gather(*(post_raw(running, "/v1/consume", raw) for raw in bodies))
    before = memory()
    for _ in range(3):
        answers = await asyncio.gather(
            *(post_raw(running, "/v1/consume", raw) for raw in bodies * 4)
        )
        assert {answer.status for answer in answers} == {422}
    assert memory() - before < RISE_MAX


# Slow


def head_of(running: Running, method: str, path: str, *lines: str) -> bytes:
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {running.api.secret}",
        f"Idempotency-Key: {fresh_key()}",
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode()


async def exchange(running: Running, raw: bytes) -> bytes:
    """Send bytes and read until the server closes, at most for a few seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(raw)
    reply = b""
    try:
        async with asyncio.timeout(5):
            while chunk := await reader.read(65_536):
                reply += chunk
                if b"\r\n\r\n" in reply and b"connection: close" not in reply:
                    break
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    return reply


async def half_headers(running: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(head_of(running, "POST", "/v1/consume")[:60])
    return reader, writer


async def half_body(running: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(head_of(running, "POST", "/v1/consume", "Content-Length: 500") + b'{"amount":')
    return reader, writer


async def slow_reader(running: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Asks for much and reads nothing of it."""
    plug = socket.socket()
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    plug.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plug, ("127.0.0.1", running.port))
    reader, writer = await asyncio.open_connection(sock=plug, limit=1_024)
    writer.write(head_of(running, "GET", "/openapi.json") * 40)
    return reader, writer


Opening = Callable[[Running], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
KINDS: dict[str, Opening] = {
    "half headers": half_headers,
    "half bodies": half_body,
    "slow readers": slow_reader,
}


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Everything until the server closes the connection."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_slow_clients_are_closed_within_the_promised_time() -> None:
    longest = max(
        server.HEADER_SECONDS_MAX,
        server.BODY_SECONDS_MAX,
        server.WRITE_SECONDS_MAX,
        server.IDLE_SECONDS_MAX,
    )
    assert longest + server.LOOK_SECONDS <= CLOSED_SECONDS_MAX


def connected_to(port: int) -> int:
    """How many connections the server still has, as the kernel sees it."""
    local = f":{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return sum(row[1].endswith(local) and row[3] == ESTABLISHED for row in rows)


async def hold_off(running: Running, opening: Opening, count: int) -> list[bytes]:
    """Let `count` slow clients hang while another one works; what they heard at the end."""
    slow = [await opening(running) for _ in range(count)]
    assert connected_to(running.port) > 1
    body = {"customer_id": "acme", "amount": "1"}
    for _ in range(20):
        answer = await running.api.post("/v1/consume", body)
        assert answer.status == 201
    async with asyncio.timeout(CLOSED_SECONDS_MAX):
        # One may stay: that of the client that works.
        while connected_to(running.port) > 1:  # noqa: ASYNC110 (the kernel has no event for it)
            await asyncio.sleep(0.05)
    if opening is slow_reader:
        heard = [b"" for _ in slow]
    else:
        heard = await asyncio.gather(*(ended(reader) for reader, _ in slow))
    for _, writer in slow:
        writer.transport.abort()
    return heard


@pytest.mark.parametrize("kind", KINDS)
async def test_slow_clients_are_closed_and_others_served(
    running: Running, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """With the times of the server cut short, so that the test is."""
    for name in ("HEADER_SECONDS_MAX", "BODY_SECONDS_MAX", "WRITE_SECONDS_MAX"):
        monkeypatch.setattr(server, name, 1.0)
    monkeypatch.setattr(server, "LOOK_SECONDS", 0.1)
    heard = await hold_off(running, KINDS[kind], SLOW)
    assert len(heard) == SLOW
    if kind != "slow readers":
        for reply in heard:
            assert reply.startswith(b"HTTP/1.1 408"), reply[:200]
            problem: Any = msgspec.json.decode(reply.partition(b"\r\n\r\n")[2])
            assert (problem["code"], problem["retryable"]) == ("request_timeout", True)
    assert (await running.api.posted())[0] == str(1_000_000 - 20)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
async def test_many_slow_clients_are_closed_in_the_real_time(running: Running, kind: str) -> None:
    heard = await hold_off(running, KINDS[kind], SLOW_LONG)
    assert len(heard) == SLOW_LONG
