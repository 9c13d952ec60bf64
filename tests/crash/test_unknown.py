"""The database gone at the worst moment, and all its connections taken."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from ledger import customers
from ledger.requests import GrantCredit
from ledger.state import Settings
from meter import hot_path
from meter.hot_path import Batcher
from meter.observe import Metrics
from meter.service import render
from sql.pool import Pool, open_pool, transaction
from tests.faults import Fault, faulty_pool, no_faults
from tests.http import serving
from tests.property.sizes import IS_LONG
from tests.property.world import SETTINGS
from tests.servers import Database, Databases, Server, connected

SLOW = 50
POOL_SIZE = 5
HEARD_SECONDS_MAX = 1.0
HEALED_SECONDS_MAX = 2.0


@pytest.fixture
async def own_server() -> AsyncGenerator[Server]:
    """A PostgreSQL of the test's own, to be stopped."""
    server = await asyncio.to_thread(Server)
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.remove)


@pytest.mark.parametrize(("fault", "was_applied"), [("cut", False), ("cut after", True)])
async def test_database_that_stays_away_after_a_commit_is_an_unknown_outcome(
    own_server: Server, monkeypatch: pytest.MonkeyPatch, fault: Fault, was_applied: bool
) -> None:
    database = await Databases(own_server.url(), prefix="unknown").make()
    monkeypatch.setattr(hot_path, "UNKNOWN_SECONDS_MAX", 0.3)
    async with faulty_pool(database.dsn, monkeypatch) as (pool, faults):
        async with transaction(pool) as conn:
            await customers.make_installation(conn, mode="sandbox", books_time_zone="UTC")
            made = await customers.make(conn, ["a"], signup_due=False)
        settings: Settings = SETTINGS
        batcher = Batcher(
            pool, render, lambda: settings, Metrics(), queue_max=10, queue_seconds_max=60
        )

        async def leave() -> None:
            faults.start(no_faults)
            await asyncio.to_thread(own_server.kill)

        faults.start(lambda _n, query: fault if query == "COMMIT;" else None)
        faults.on_cut = leave
        request = GrantCredit(
            customer_no=made["a"],
            key="k",
            asset="credits",
            amount=5,
            category="promotional",
        )
        result = await batcher.submit(request)
        assert (result.status, result.code) == (503, "outcome_unknown")
        await asyncio.to_thread(own_server.start)
        again = await batcher.submit(request)
        assert (again.status, again.is_replayed) == (201, was_applied)
        await batcher.close()
    async with connected(database.dsn) as conn:
        assert await conn.fetchval("SELECT count(*) FROM journals") == 1
        assert await conn.fetchval("SELECT count(*) FROM requests") == 1


async def test_pool_taken_by_slow_queries_is_a_503_and_heals(database: Database) -> None:
    pool = await open_pool(database.dsn, size=POOL_SIZE)
    loop = asyncio.get_running_loop()
    async with serving(pool) as running:
        api = running.api
        await api.customer()
        await api.grant("100")
        assert (await api.get("/readyz")).status == 200
        slow = [asyncio.create_task(_sleep_in(pool)) for _ in range(SLOW)]
        await _all_taken(pool)
        began = loop.time()
        body = {"customer_id": "acme", "amount": "1"}
        refused, alive, ready = await asyncio.gather(
            api.post("/v1/consume", body, key="during"),
            api.get("/livez"),
            api.get("/readyz"),
        )
        waited = loop.time() - began
        assert (refused.status, refused.body["retryable"]) == (503, True)
        assert "retry-after" in refused.headers
        assert (alive.status, ready.status) == (200, 503)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        began = loop.time()
        again = await api.post("/v1/consume", body, key="during")
        healed = loop.time() - began
        assert (again.status, again.is_replayed) == (201, False)
        assert (await api.get("/readyz")).status == 200
        assert (await api.posted())[0] == "99"
    await pool.close()
    if IS_LONG:
        assert waited <= HEARD_SECONDS_MAX
        assert healed <= HEALED_SECONDS_MAX


async def _sleep_in(pool: Pool) -> None:
    async with transaction(pool, acquire_seconds_max=60) as conn:
        await conn.execute("SELECT pg_sleep(30)")


async def _all_taken(pool: Pool) -> None:
    async with asyncio.timeout(20):
        while pool.get_size() < POOL_SIZE or pool.get_idle_size() > 0:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0)
