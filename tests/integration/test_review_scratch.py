"""scratch"""
import asyncio, time
from datetime import timedelta
from typing import Any
import pytest
from ledger import customers
from ledger.load import lock
from ledger.requests import *
from ledger.transact import transact
import ledger.transact as T
from sql.pool import Pool, Connection, transaction
from sql import queries
from tests.http import serving
from tests.integration.player import Player, SETTINGS, UNIT, render


async def test_catch_up(conn: Connection) -> None:
    p = await Player.enter(conn)
    now = await p.now()
    g = GrantCredit(**p.common(), operation="grant", asset="credits", amount=100*UNIT, category="promotional",
        effective_at=now - timedelta(days=239, hours=1), recurrence=Recurrence("day", rollover=Rollover(10*UNIT, 3600*13)))
    c = Consume(**p.common(), operation="consume", asset="credits", amount=1*UNIT)
    rs = await transact(conn, [g, c], SETTINGS, render, wait=True)
    import msgspec
    for r in rs: print(r.status, r.body[:700])
    print(await p.send(Settle(customer_no=p.no)))
    print(await p.send(Consume(**p.common(), operation="consume", asset="credits", amount=1*UNIT)))


async def test_asset_put_race(pool: Pool) -> None:
    async with transaction(pool) as conn:
        p = await Player.enter(conn)
    async with transaction(pool) as one:
        await one.fetch(queries.accounts_open, [p.no], ["points"], [0])
        async def other():
            async with transaction(pool) as two:
                return await customers.put_asset(two, "points", 3)
        task = asyncio.create_task(other())
        await asyncio.sleep(0.3)
        assert not task.done()
    made = await task
    print("PUT after use:", made)
    assert made is None


async def test_share_starves(pool: Pool) -> None:
    async with serving(pool) as r:
        await r.api.customer("acme")
        await r.api.grant("1000")
        token = await r.api.token("acme", "customers:read")
        stop = False
        n = 0
        async def hammer():
            nonlocal n
            while not stop:
                now = (await token.get("/v1/customers/acme/balance")).body["as_of"]
                got = await token.get(f"/v1/customers/acme/balance?at={now}&axis=created")
                assert got.status == 200, got
                n += 1
        tasks = [asyncio.create_task(hammer()) for _ in range(16)]
        await asyncio.sleep(0.3)
        for _ in range(8):
            t = time.perf_counter()
            got = await r.api.post("/v1/consume", {"customer_id": "acme", "amount": "1"})
            print(got.status, got.code, round(time.perf_counter() - t, 3), n)
        stop = True
        await asyncio.gather(*tasks)


async def test_need_more(conn: Connection, monkeypatch) -> None:
    ps = []
    for _ in range(60):
        p = await Player.enter(conn)
        for _ in range(4):
            await p.grant(1)
        ps.append(p)
    n = 0
    real = T.load
    async def counted(*a, **k):
        nonlocal n
        n += 1
        return await real(*a, **k)
    monkeypatch.setattr(T, "load", counted)
    t = time.perf_counter()
    rs = await transact(conn, [Consume(**p.common(), operation="consume", asset="credits", amount=3*UNIT) for p in ps], SETTINGS, render, wait=True)
    print("loads", n, time.perf_counter() - t, {r.status for r in rs})


async def test_unknown_ids(pool: Pool) -> None:
    async with serving(pool) as r:
        ops = [{"op": "void", "key": f"k{i}", "hold_id": "hld_%016X%016X" % (10**9 + i, 1)} for i in range(1000)]
        t = time.perf_counter()
        got = await r.api.send("POST", "/v1/batch", {"operations": ops})
        print("1000 ids of nobody", time.perf_counter() - t, {(x["status"], x["body"]["code"]) for x in got.body["results"]})
        ops = [{"op": "consume", "key": f"k{i}", "customer_id": f"no{i}", "amount": "1"} for i in range(1000)]
        t = time.perf_counter()
        got = await r.api.send("POST", "/v1/batch", {"operations": ops})
        print("1000 unknown customers", time.perf_counter() - t, {(x["status"], x["body"]["code"]) for x in got.body["results"]})
        await r.api.customer("acme"); await r.api.grant("1000")
        async def one(i): return await r.api.post("/v1/consume", {"customer_id": f"no{i}", "amount": "1"})
        t = time.perf_counter()
        tasks = [asyncio.create_task(one(i)) for i in range(3000)]
        await asyncio.sleep(0.5)
        x = [await r.api.post("/v1/consume", {"customer_id": "acme", "amount": "1"}) for _ in range(3)]
        print("good ones meanwhile", [(a.status, a.code) for a in x], time.perf_counter() - t)
        got = await asyncio.gather(*tasks)
        from collections import Counter
        print(Counter((a.status, a.code) for a in got), time.perf_counter() - t)
