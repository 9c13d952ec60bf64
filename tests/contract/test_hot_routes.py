"""The hot routes answer the same ahead of the framework and behind it, to the byte.

Two services with one history on two databases with stopped clocks: one serves the hot routes first,
the other sends everything through the framework. Every request goes to both.
"""

import gzip
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from itertools import count
from typing import Any

import aiohttp
import msgspec
import pytest
from yarl import URL

from meter.app import HOT_OPERATIONS
from meter.http.hot import ROUTES
from meter.service import Config
from sql.pool import STATEMENT_CACHE, open_pool
from tests.http import Answer, Api, Described, FrozenClock, Running, serving
from tests.servers import Databases

NOW = datetime(2026, 5, 4, 9, tzinfo=UTC)
ORIGIN = "https://app.example.com"
CONFIG = Config(is_sandbox=True, rate_limit=(1_000_000, 1), cors_origins=(ORIGIN,))
UNLIKE = {"date", "traceparent"}
HOT = [route.path for route in ROUTES if route.operation in HOT_OPERATIONS]
KEYED = [route.path for route in ROUTES if route.operation in HOT_OPERATIONS and route.needs_key]
WORKS: Mapping[str, dict[str, Any]] = {
    "/v1/reserve": {"customer_id": "acme", "amount": "1"},
    "/v1/consume": {"customer_id": "acme", "amount": "1"},
    "/v1/holds/{hold_id}/capture": {"amount": "1", "final": False},
    "/v1/holds/{hold_id}/void": {},
    "/v1/holds/{hold_id}/extend": {"expires_in": 900},
}

_names = count(1)


def fresh() -> str:
    return f"name-{next(_names)}"


Raw = bytes | Callable[[], AsyncIterator[bytes] | BytesIO] | None


@dataclass
class Pair:
    """Both services, with the clients of their keys by name; what was made in both has one id."""

    sides: list[dict[str, Api]]
    described: Described
    hold_id: str = ""

    async def send(
        self,
        method: str,
        path: str,
        raw: Raw = None,
        *,
        headers: Mapping[str, str] | None = None,
        who: str | None = "admin",
    ) -> Answer:
        """Send it to both, assert that they answer alike, and give that answer.

        A header that is "" is left out. `who`: whose key, None for no key.
        """
        sent = {"X-Request-Id": fresh(), "Content-Type": "application/json", **(headers or {})}
        answers: list[Answer] = []
        for side in self.sides:
            api = side[who or "admin"]
            own = {n: v for n, v in sent.items() if v}
            if who is not None:
                own.setdefault("Authorization", f"Bearer {api.secret}")
            data = raw() if callable(raw) else raw
            async with api.session.request(
                method,
                URL(api.url + path, encoded=True),
                data=data,
                headers=own,
                skip_auto_headers=["Content-Type"],
                allow_redirects=False,
            ) as response:
                answers.append(Answer(response.status, response.headers, await response.read()))
        hot, behind = answers
        told = (method, path, answers)
        assert hot.status == behind.status, told
        assert hot.raw == behind.raw, told
        assert headers_of(hot) == headers_of(behind), told
        assert hot.headers["x-request-id"] == sent["X-Request-Id"], told
        assert len(hot.headers["traceparent"]) == len(behind.headers["traceparent"]) == 55
        return hot

    async def post(
        self, template: str, body: Any, *, key: str | None = None, who: str = "admin"
    ) -> Answer:
        """One request that fits the route, of which the document must know the answer."""
        headers = {} if key is None else {"Idempotency-Key": key}
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        answer = await self.send("POST", self.path(template), raw, headers=headers, who=who)
        if template in HOT:
            self.described.check("POST", template, answer)
        return answer

    def path(self, template: str) -> str:
        return template.replace("{hold_id}", self.hold_id)

    async def reserve(self, amount: str = "10", **body: Any) -> str:
        """The id of a new hold, which `path` names from now on."""
        made = await self.post(
            "/v1/reserve", {"customer_id": "acme", "amount": amount, **body}, key=fresh()
        )
        assert made.status == 201, made
        self.hold_id = made.body["id"]
        return self.hold_id


def headers_of(answer: Answer) -> list[tuple[str, str]]:
    """The headers that must be equal."""
    headers = [(name.lower(), value) for name, value in answer.headers.items()]
    return sorted(header for header in headers if header[0] not in UNLIKE)


async def enter(running: Running) -> dict[str, Api]:
    """Make the customers and keys of one side."""
    api = running.api
    for name in ("acme", "other", "closed"):
        await api.customer(name)
    await api.post("/v1/customers/closed/close")
    await api.grant("1000000", "acme", reason="start")
    keys = {
        "admin": api,
        "writer": await api.key("usage:write"),
        "reader": await api.key("usage:read", "customers:read"),
        "bound": await api.key("usage:write", customer_id="acme"),
        "foreign": await api.key("usage:write", customer_id="other"),
        "token": await api.token("acme", "usage:read"),
        "revoked": await api.key("admin"),
    }
    listed = await api.get("/v1/keys?limit=1")
    assert (await api.delete(f"/v1/keys/{listed.body['data'][0]['id']}")).status == 200
    return keys


@pytest.fixture(scope="module")
async def pair(databases: Databases) -> AsyncGenerator[Pair]:
    async with AsyncExitStack() as stack:
        sides: list[dict[str, Api]] = []
        for hot_first in (True, False):
            database = await databases.make()
            stack.push_async_callback(databases.drop, database)
            await stack.enter_async_context(FrozenClock(database).stopped_at(NOW))
            pool = await open_pool(database.dsn, size=4, statement_cache=STATEMENT_CACHE)
            stack.push_async_callback(pool.close)
            running = await stack.enter_async_context(serving(pool, CONFIG, hot_first=hot_first))
            sides.append(await enter(running))
        made = Pair(sides, await Described.of(sides[0]["admin"]))
        await made.reserve()
        yield made


def test_there_are_five_hot_routes() -> None:
    assert set(HOT) == set(WORKS)
    assert len(KEYED) == 4


@pytest.mark.parametrize("template", HOT)
async def test_who_may_not(pair: Pair, template: str) -> None:
    raw = msgspec.json.encode(WORKS[template])
    path = pair.path(template)
    key = {"Idempotency-Key": fresh()}
    assert (await pair.send("POST", path, raw, headers=key, who=None)).code == "unauthenticated"
    for value in (
        "Bearer",
        "Bearer ",
        "Bearer ddk_wrong",
        "bearer ddk_wrong",
        "Bearer ddt_" + "x" * 43,
        "Basic YTpi",
        "ddk_bare",
        "Bearer " + "x" * 5_000,
        "Bearer a b",
        "Bearer \u00e9".encode().decode("latin-1"),
    ):
        headers = {**key, "Authorization": value}
        answer = await pair.send("POST", path, raw, headers=headers)
        assert (answer.status, answer.code) == (401, "unauthenticated"), value
    assert (await pair.send("POST", path, raw, headers=key, who="revoked")).code == "key_revoked"
    for who in ("reader", "token"):
        answer = await pair.send("POST", path, raw, headers=key, who=who)
        assert (answer.status, answer.code) == (403, "scope_missing")
    answer = await pair.send("POST", path, raw, headers=key, who="foreign")
    assert answer.status == 404
    assert answer.code in ("customer_not_found", "hold_not_found")


@pytest.mark.parametrize("template", HOT)
async def test_order_of_refusals(pair: Pair, template: str) -> None:
    """With everything wrong at once, the same thing is named."""
    broken = {"Content-Type": "text/plain", "Idempotency-Key": ""}
    path = pair.path(template) + "?what=1"
    answer = await pair.send("POST", path, b"{", headers=broken, who=None)
    assert answer.status == 401
    assert (await pair.send("POST", path, b"{", headers=broken, who="reader")).status == 403
    assert (await pair.send("POST", path, b"{", headers=broken)).status == 422
    path = pair.path(template)
    assert (await pair.send("POST", path, b"{", headers=broken)).status in (400, 415)


@pytest.mark.parametrize("template", HOT)
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD", "TRACE"])
async def test_other_methods(pair: Pair, template: str, method: str) -> None:
    for who in ("admin", None):
        answer = await pair.send(method, pair.path(template), who=who)
        assert answer.status == 405
        assert answer.headers["allow"] == "POST"


async def test_preflights(pair: Pair) -> None:
    for origin in (ORIGIN, "https://evil.example.com"):
        for template in HOT:
            headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            answer = await pair.send("OPTIONS", pair.path(template), headers=headers, who=None)
            assert answer.status == 204
            assert "POST" not in answer.headers.get("access-control-allow-methods", "")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/reserve/",
        "//v1/reserve",
        "/v1//reserve",
        "/V1/reserve",
        "/v1/Reserve",
        "/v1/%72eserve",
        "/v1/reserve%2f",
        "/v1/reserve;a=b",
        "/v1/reserve%00",
        "/v1/./reserve",
        "/v1/holds",
        "/v1/holds/",
        "/v1/holds//capture",
        "/v1/holds/x/capture/",
        "/v1/holds/x/y/capture",
        "/v1/holds/x%2fy/capture",
        "/v1/holds/x%2Fcapture",
        "/v1/holds/%2e%2e/capture",
        "/v1/holds/%20/capture",
        "/v1/holds/%ff/capture",
        "/v1/holds/%C3%A9/capture",
        "/v1/holds/%F0%9F%92%B0/void",
        "/v1/holds/x%00/extend",
        "/v1/holds/x/nothing",
        "/v1/holds/x/",
        "/v1/holds/capture",
        "/v1/consume/more",
        "/v1",
        "/v1/nothing",
        "/v1/reserve?",
        "/v1/reserve?&",
        "/v1/reserve?%",
        "/v1/reserve?a",
        "/v1/reserve?%ff=1",
        "/v1/reserve?a=1&a=2",
        "/v1/holds/" + "x" * 3_000 + "/capture",
    ],
)
async def test_odd_addresses(pair: Pair, path: str) -> None:
    for method in ("POST", "GET"):
        answer = await pair.send(method, path, b"{}", headers={"Idempotency-Key": fresh()})
        assert 400 <= answer.status < 500 or path.startswith("/v1/holds"), answer


ODD_BODIES = (
    b"",
    b" ",
    b"null",
    b"[]",
    b"1",
    b'"text"',
    b"true",
    b"{",
    b"}",
    b"{}}",
    b"{} {}",
    b"{'a': 1}",
    b'{"a": 1,}',
    b'{"amount": NaN}',
    b'{"amount": Infinity}',
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}",
    b'{"a": "\xff"}',
    b'{"a": "\xed\xa0\x80"}',
    b'{"a": "\\ud800"}',
    b'{"a": "\\u0000"}',
    b'{"a\\u0000": 1}',
    b'{"a": "\x01"}',
    b'{"a": "\\x"}',
    b'{"amount": "1", "amount": "1"}',
    b'{"metadata": {"a": 1, "a": 2}}',
    b'{"who": 1}',
    b'{"": 1}',
    b'{"a/b~c": 1}',
    b'{"customer_id": 1}',
    b'{"customer_id": null}',
    b'{"customer_id": ""}',
    b'{"customer_id": "a/b", "amount": "1"}',
    b'{"customer_id": "nobody", "amount": "1"}',
    b'{"customer_id": "acme"}',
    b'{"customer_id": "acme", "amount": 1}',
    b'{"customer_id": "acme", "amount": "1", "asset": "USD"}',
    b'{"customer_id": "acme", "amount": "1", "asset": "nothing"}',
    b'{"customer_id": "acme", "amount": "1", "effective_at": "yesterday"}',
    b'{"customer_id": "acme", "amount": "1", "effective_at": "2020-01-01T00:00:00Z"}',
    b'{"customer_id": "acme", "amount": "1", "effective_at": "2026-02-30T00:00:00Z"}',
    b'{"customer_id": "acme", "amount": "1", "effective_at": "2026-05-04T09:00:00"}',
    b'{"customer_id": "acme", "amount": "1", "expires_in": 0}',
    b'{"customer_id": "acme", "amount": "1", "expires_in": 86401}',
    b'{"customer_id": "acme", "amount": "1", "expires_in": "600"}',
    b'{"customer_id": "acme", "amount": "1", "expires_in": 1.5}',
    b'{"customer_id": "acme", "amount": "1", "minimum": "2"}',
    b'{"customer_id": "acme", "amount": "99999999999999999999"}',
    b'{"customer_id": "acme", "amount": "0"}',
    b'{"customer_id": "acme", "amount": "1", "reference": "' + b"x" * 256 + b'"}',
    b'{"amount": null}',
    b'{"amount": "0.0000000001"}',
    b'{"final": "yes"}',
    b'{"above_hold": "perhaps"}',
    b'{"expires_in": null}',
    b'{"add": null}',
    b'{"add": {}}',
    b'{"add": {"amount": "1", "usage": []}}',
    b'{"usage": []}',
    b'{"metadata": []}',
    b'{"metadata": {"a": ' + b"[" * 9 + b"]" * 9 + b"}}",
    b'{"metadata": ' + b'{"a":' * 100 + b"1" + b"}" * 101,
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"a": ' + b"9" * 5_000 + b"}",
    b'{"a": 1e999999999}',
    b'{"metadata": {' + b",".join(b'"m%d": 1' % n for n in range(51)) + b"}}",
    b'{"metadata": {"a": "' + b"x" * 16_384 + b'"}}',
)


@pytest.mark.parametrize("template", HOT)
async def test_odd_bodies(pair: Pair, template: str) -> None:
    await pair.reserve()
    for raw in ODD_BODIES:
        answer = await pair.post(template, raw, key=fresh())
        harmless = {b"", b" ", b'{"expires_in": null}'}
        assert 400 <= answer.status < 500 or raw in harmless, (raw[:80], answer)


@pytest.mark.parametrize("template", HOT)
async def test_body_sizes(pair: Pair, template: str) -> None:
    limit = 1024 * 1024

    async def chunks(size: int) -> AsyncIterator[bytes]:
        for _ in range(0, size, 65_536):
            yield b" " * 65_536

    key = {"Idempotency-Key": fresh()}
    path = pair.path(template)
    fits = await pair.send("POST", path, lambda: BytesIO(b"{" + b" " * (limit - 1)), headers=key)
    assert fits.code == "malformed"
    for raw in (lambda: BytesIO(b"{" + b" " * limit), lambda: chunks(limit + 65_536)):
        with suppress(aiohttp.ClientOSError):  # the server may hang up on what it does not read
            answer = await pair.send("POST", path, raw, headers=key)
            assert (answer.status, answer.code) == (413, "body_too_large")
            assert str(limit) in answer.body["detail"]


@pytest.mark.parametrize("template", HOT)
async def test_media_types(pair: Pair, template: str) -> None:
    raw = msgspec.json.encode({**WORKS[template], "unknown": 1})
    path = pair.path(template)
    for kind in ("application/json", "APPLICATION/JSON", "application/json; charset=utf-8", ""):
        headers = {"Idempotency-Key": fresh(), "Content-Type": kind}
        assert (await pair.send("POST", path, raw, headers=headers)).code == "unknown_member"
    for kind in (
        "text/plain",
        "text/json",
        "application/jsonp",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/cloudevents+json",
        "*/*",
        ";",
        "\u00e9",
    ):
        headers = {"Idempotency-Key": fresh(), "Content-Type": kind}
        answer = await pair.send("POST", path, raw, headers=headers)
        assert (answer.status, answer.code) == (415, "unsupported_media_type"), kind
    headers = {"Idempotency-Key": fresh(), "Content-Encoding": "gzip"}
    answer = await pair.send("POST", path, gzip.compress(raw), headers=headers)
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize("template", HOT)
async def test_idempotency_keys(pair: Pair, template: str) -> None:
    await pair.reserve()
    path, raw = pair.path(template), msgspec.json.encode({**WORKS[template], "unknown": 1})
    missing = await pair.send("POST", path, raw)
    expected = "idempotency_key_missing" if template in KEYED else "unknown_member"
    assert missing.code == expected
    for key in ("k" * 256, "\u00e9", '"', '"a', '"a"b', '"\\a"', "x\ty", '""'):
        headers = {"Idempotency-Key": key}
        answer = await pair.send("POST", path, raw, headers=headers)
        assert (answer.status, answer.code) == (422, "invalid_idempotency_key"), key
    for key in ("k" * 255, '"quoted"', '"with \\" quote"', "~!@#$%^&*()", "a b"):
        headers = {"Idempotency-Key": key}
        assert (await pair.send("POST", path, raw, headers=headers)).code == "unknown_member"


async def test_successes_replays_and_reuse(pair: Pair) -> None:
    for template in HOT:
        await pair.reserve()
        for who in ("admin", "writer", "bound"):
            if template.endswith("/void") and who != "admin":
                await pair.reserve()
            key = fresh()
            first = await pair.post(template, WORKS[template], key=key, who=who)
            assert first.status in (200, 201), first
            again = await pair.post(template, WORKS[template], key=f'"{key}"', who=who)
            assert (again.status, again.raw) == (first.status, first.raw)
            assert again.is_replayed
            other = {**WORKS[template], "amount": "2"}
            if not template.endswith(("/void", "/extend")):
                reused = await pair.post(template, other, key=key, who=who)
                assert (reused.status, reused.code) == (422, "idempotency_key_reused")


async def test_extend_with_add_needs_a_key_and_without_replays_nothing(pair: Pair) -> None:
    await pair.reserve()
    path = "/v1/holds/{hold_id}/extend"
    added = await pair.post(path, {"add": {"amount": "1"}})
    assert (added.status, added.code) == (400, "idempotency_key_missing")
    key = fresh()
    first = await pair.post(path, {"add": {"amount": "1"}}, key=key)
    assert (first.status, first.body["amount"]) == (200, "11")
    again = await pair.post(path, {"add": {"amount": "1"}}, key=key)
    assert (again.is_replayed, again.raw) == (True, first.raw)
    plain = [await pair.post(path, {"expires_in": 700}) for _ in range(2)]
    assert [(a.status, a.is_replayed) for a in plain] == [(200, False)] * 2


async def test_refusals_of_the_books_and_their_replays(pair: Pair) -> None:
    customer = {"customer_id": "other", "amount": "5"}
    for template in ("/v1/reserve", "/v1/consume"):
        key = fresh()
        for is_replayed in (False, True):
            answer = await pair.post(template, customer, key=key)
            assert (answer.status, answer.is_replayed) == (402, is_replayed)
        answer = await pair.post(template, {**customer, "customer_id": "closed"}, key=fresh())
        assert (answer.status, answer.code) == (409, "customer_closed")
        answer = await pair.post(template, {**customer, "customer_id": "nobody"}, key=fresh())
        assert (answer.status, answer.code) == (404, "customer_not_found")
    hold_id = await pair.reserve()
    for action, body, code in (
        ("capture", {"amount": "11"}, "capture_exceeds_hold"),
        ("capture", {"amount": "9999999", "above_hold": "take"}, "insufficient_credits"),
        ("extend", {"add": {"amount": "9999999"}}, "insufficient_credits"),
    ):
        key = fresh()
        for is_replayed in (False, True):
            answer = await pair.post(f"/v1/holds/{{hold_id}}/{action}", body, key=key)
            assert (answer.code, answer.is_replayed) == (code, is_replayed)
    await pair.post("/v1/holds/{hold_id}/void", {}, key=fresh())
    for action in ("capture", "void", "extend"):
        body = WORKS[f"/v1/holds/{{hold_id}}/{action}"]
        answer = await pair.post(f"/v1/holds/{{hold_id}}/{action}", body, key=fresh())
        assert (answer.status, answer.code) == (409, "hold_already_voided")
    for absent in ("x", hold_id[:-8] + "ffffffff", "hld_" + "f" * 32, "hld_" + "0" * 32):
        for action in ("capture", "void", "extend"):
            body = msgspec.json.encode(WORKS[f"/v1/holds/{{hold_id}}/{action}"])
            headers = {"Idempotency-Key": fresh()}
            answer = await pair.send("POST", f"/v1/holds/{absent}/{action}", body, headers=headers)
            assert (answer.status, answer.code) == (404, "hold_not_found"), absent


async def test_headers_of_traces_origins_and_ids(pair: Pair) -> None:
    raw = msgspec.json.encode({"customer_id": "acme", "amount": "1"})
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for extra in (
        {"Origin": ORIGIN},
        {"Origin": "https://evil.example.com"},
        {"traceparent": trace},
        {"traceparent": "00-" + "0" * 32 + "-b7ad6b7169203331-01"},
        {"traceparent": "nonsense"},
        {"Accept": "text/html"},
        {"Accept-Encoding": "gzip, br"},
        {"Expect": "100-continue"},
        {"X-HTTP-Method-Override": "DELETE"},
        {"X-Forwarded-Prefix": "/x"},
    ):
        headers = {"Idempotency-Key": fresh(), **extra}
        answer = await pair.send("POST", "/v1/consume", raw, headers=headers)
        assert answer.status == 201
        is_allowed = extra.get("Origin") == ORIGIN
        assert ("access-control-allow-origin" in answer.headers) == is_allowed
        if extra.get("traceparent") == trace:
            assert answer.headers["traceparent"].split("-")[1] == trace.split("-")[1]


async def test_rate_limit_headers_are_there_on_success_and_refusal(pair: Pair) -> None:
    for body in ({"customer_id": "acme", "amount": "1"}, {"customer_id": "acme"}):
        answer = await pair.post("/v1/consume", body, key=fresh())
        assert {"ratelimit", "ratelimit-policy"} <= {name.lower() for name in answer.headers}


async def test_rate_limit_refuses_alike(databases: Databases) -> None:
    """One request may pass, the second is 429 on both."""
    statuses: list[Any] = []
    for hot_first in (True, False):
        async with AsyncExitStack() as stack:
            database = await databases.make()
            stack.push_async_callback(databases.drop, database)
            pool = await open_pool(database.dsn, size=4, statement_cache=STATEMENT_CACHE)
            stack.push_async_callback(pool.close)
            limited = Config(is_sandbox=True, rate_limit=(1, 3600))
            running = await stack.enter_async_context(serving(pool, limited, hot_first=hot_first))
            await running.api.customer("acme")
            body = {"customer_id": "acme", "amount": "1"}
            answer = await running.api.post("/v1/consume", body)
            statuses.append(
                (
                    answer.status,
                    answer.code,
                    answer.body["detail"],
                    sorted(name.lower() for name in answer.headers),
                )
            )
    assert statuses[0] == statuses[1]
    assert statuses[0][:2] == (429, "rate_limited")
    assert {"retry-after", "ratelimit", "ratelimit-policy"} <= set(statuses[0][3])


async def test_twice_the_same_header(pair: Pair) -> None:
    """Neither counts: nobody can know which one was meant."""
    replies: list[bytes] = []
    for side in pair.sides:
        api = side["admin"]
        port = int(api.url.rpartition(":")[2])
        lines = [
            "POST /v1/consume HTTP/1.1",
            "Host: x",
            f"Authorization: Bearer {api.secret}",
            "Idempotency-Key: first",
            "Idempotency-Key: second",
            "X-Request-Id: twice",
            "Content-Length: 2",
            "Connection: close",
        ]
        raw = ("\r\n".join(lines) + "\r\n\r\n{}").encode()
        reply = await exchange(port, raw)
        replies.append(reply.rpartition(b"\r\n\r\n")[2])
    assert replies[0] == replies[1]
    assert b'"code":"malformed"' in replies[0]


async def exchange(port: int, raw: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    reader, writer = await open_connection(port)
    writer.write(raw)
    await writer.drain()
    reply = await reader.read()
    writer.close()
    return reply


async def open_connection(port: int) -> Any:
    import asyncio

    return await asyncio.open_connection("127.0.0.1", port, family=socket.AF_INET)


EVENT = b'{"id":"e","source":"s","type":"t","subject":"acme"}'


@pytest.mark.parametrize(
    ("raw", "headers"),
    [
        (EVENT, {}),
        (EVENT, {"Content-Type": "application/cloudevents+json"}),
        (b"[" + EVENT + b"]", {"Content-Type": "application/cloudevents-batch+json"}),
        (b"[" + EVENT + b",{},7]", {}),
        (b"{}", {"ce-id": "1", "ce-source": "s", "ce-type": "t", "ce-subject": "acme"}),
        (b"{}", {"ce-id": "1"}),
        (EVENT, {"Content-Encoding": "gzip"}),
        (EVENT, {"Content-Encoding": "br"}),
        (EVENT, {"Content-Type": "text/plain"}),
        (EVENT, {"Content-Type": ""}),
        (EVENT, {"Authorization": "Bearer wrong"}),
        (EVENT.replace(b"acme", b"nobody"), {}),
        (b"{", {}),
        (b"", {}),
        (None, {}),
    ],
    ids=str,
)
async def test_events(pair: Pair, raw: bytes | None, headers: dict[str, str]) -> None:
    answer = await pair.send("POST", "/v1/events", raw, headers=headers)
    pair.described.check("POST", "/v1/events", answer)
    assert (await pair.send("POST", "/v1/events?x=1", raw, headers=headers)).status >= 400
