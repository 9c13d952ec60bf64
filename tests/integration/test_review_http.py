"""scratch"""
import asyncio
from typing import Any
import pytest
from meter.service import Config, Service
from sql.pool import Pool, transaction
from tests.http import FRESH, serving
from datetime import timedelta


async def raw(port: int, data: bytes, *, close: bool = True) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    if close:
        writer.close()
        return b""
    out = await reader.read(65536)
    writer.close()
    return out


async def test_body_never_arrives(pool: Pool) -> None:
    async with serving(pool) as r:
        api = r.api
        await api.customer("acme")
        await api.grant("100")
        h = await api.reserve("40")
        await raw(r.port, (f"POST /v1/holds/{h['id']}/capture HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.secret}\r\n"
          f"Idempotency-Key: k1\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n").encode())
        await asyncio.sleep(0.5)
        got = await api.get(f"/v1/holds/{h['id']}")
        print(got)
        assert got.body["status"] == "open"


async def test_big_capture(pool: Pool) -> None:
    async with serving(pool) as r:
        api = r.api
        await api.customer("acme")
        await api.grant("20000000")
        h = await api.reserve("10000000")
        got = await api.post(f"/v1/holds/{h['id']}/capture", {"amount": "10000000"})
        print(got)
        assert got.status == 200


async def test_put_refused_writes_nothing(pool: Pool) -> None:
    async with serving(pool) as r:
        api = r.api
        got = await api.put("/v1/customers/newone", {"overage": {"policy": "owe"}})
        assert got.status == 422
        got = await api.get("/v1/customers/newone")
        assert got.status == 404, got


async def test_time_zone(pool: Pool) -> None:
    async with serving(pool) as r:
        for name in ("Nowhere/City", "Europe", "", "../x", "a\x7f", "Europe/Budapest\n", "x"*64, "é"):
            got = await r.api.put("/v1/customers/acme", {"time_zone": name})
            print(name, got)


async def test_bad_utf8_id(pool: Pool) -> None:
    async with serving(pool) as r:
        for i in ("%FF", "%FE", "%ED%A0%80", "a%00b", "a%2Fb", "%2e%2e"):
            got = await r.api.put(f"/v1/customers/{i}", {})
            print(i, got)


async def test_key_with_slash(pool: Pool) -> None:
    async with serving(pool) as r:
        await r.api.customer("acme")
        await r.api.grant("10")
        for key in ("run/file/1/capture", "a b", "%41", 'q"x', "a?b#c", "..", "a//b", "x/"):
            got = await r.api.send("POST", "/v1/consume", {"customer_id": "acme", "amount": "1"}, key=key)
            from urllib.parse import quote
            seen = await r.api.get(f"/v1/customers/acme/requests/{quote(key, safe='')}")
            print(key, got.status, seen.status, seen.code)


async def test_token_after_clock(pool: Pool) -> None:
    async with serving(pool) as r:
        await r.api.customer("acme")
        token = await r.api.token("acme", "customers:read")
        got = await token.get("/v1/customers/acme")
        assert got.status == 200
        await r.api.post("/v1/test-clock", {"advance": 7200}, key=None)
        got = await token.get("/v1/customers/acme")
        assert got.status == 401, got


async def test_two_processes_assets(pool: Pool) -> None:
    async with serving(pool) as a, serving(pool) as b:
        await a.api.customer("acme")
        await a.api.grant("5")
        got = await a.api.put("/v1/assets/points", {"scale": 2})
        await a.api.grant("7", asset="points")
        got = await b.api.post("/v1/consume", {"customer_id": "acme", "amount": "1"})
        print("credits through b:", got)
        got2 = await b.api.post("/v1/consume", {"customer_id": "acme", "amount": "1", "asset": "points"})
        print("points through b:", got2)
        got3 = await b.api.get("/v1/customers/acme/balance")
        print("balance b:", got3)


async def test_two_processes_scale(pool: Pool) -> None:
    async with serving(pool) as a:
        await a.api.customer("acme")
        await a.api.put("/v1/assets/points", {"scale": 0})
        async with serving(pool) as b:
            print(await a.api.put("/v1/assets/points", {"scale": 2}))
            got = await b.api.post("/v1/grants", {"customer_id": "acme", "amount": "5", "category": "promotional", "asset": "points"})
            print(got)


async def test_credits_scale_after_limit(pool: Pool) -> None:
    async with serving(pool) as a:
        await a.api.customer("acme", overage={"policy": "owe", "limit": "20"})
        print(await a.api.put("/v1/assets/credits", {"scale": 0}))
        print(await a.api.get("/v1/customers/acme"))
        print(await a.api.get("/v1/customers/acme/balance"))
