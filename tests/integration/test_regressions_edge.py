"""The edge and the batcher where something fails halfway: a body that ends early, assets that
another process changed, a batch that loses its connection or is split, a clock that was set back.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from ledger.history import balance_at
from ledger.load import lock
from ledger.requests import Consume, Request, Reserve
from ledger.state import Settings
from meter import hot_path
from meter.hot_path import Batcher
from meter.observe import Metrics
from sql.errors import DatabaseUnavailable
from sql.pool import Pool, transaction
from tests.faults import Fault, faulty_pool
from tests.http import FrozenClock, Running, serving
from tests.integration.player import SCALES, SETTINGS, UNIT, Player, render
from tests.servers import Database, connected

START: Final = datetime(2030, 1, 1, tzinfo=UTC)
SECONDS_MAX: Final = 20
"""For the answers of one test: a lane that has died gives none."""
CAPTURE: Final = "/v1/holds/{hold_id}/capture"


def consume(player: Player) -> Request:
    """One credit."""
    return Consume(**player.common(), asset="credits", amount=UNIT)


@asynccontextmanager
async def batching(
    pool: Pool, settings: Callable[[], Settings] = lambda: SETTINGS, **options: Any
) -> AsyncGenerator[Batcher]:
    """A batcher; what is submitted to it is answered within SECONDS_MAX."""
    async with asyncio.timeout(SECONDS_MAX):
        batcher = Batcher(
            pool, render, settings, Metrics(), queue_max=100, queue_seconds_max=60, **options
        )
        yield batcher
        await batcher.close()


async def hang_up_before_body(running: Running, path: str) -> None:
    """Send the headers of a request and close, with its body still to come."""
    head = [
        f"POST {path} HTTP/1.1",
        "Host: test",
        f"Authorization: Bearer {running.api.secret}",
        "Idempotency-Key: k",
        "Content-Type: application/json",
        "Content-Length: 14",
    ]
    _, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write("\r\n".join([*head, "", ""]).encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def answered(running: Running, route: str) -> dict[int, float]:
    """Wait until a request on `route` has been handled; the answers on it by status."""
    samples = running.service.metrics.registry.get_sample_value
    async with asyncio.timeout(SECONDS_MAX):
        while not samples("drawdown_http_request_seconds_count", {"route": route}):
            assert (await running.api.get("/livez")).status == 200
    labels = {"route": route, "method": "POST"}
    found = {
        status: samples("drawdown_http_requests_total", {**labels, "status": str(status)})
        for status in (200, 400, 409, 500)
    }
    return {status: count for status, count in found.items() if count}


async def test_capture_whose_body_never_arrives_leaves_the_hold_open(pool: Pool) -> None:
    """No body means "capture all". A body that was announced and did not come means nothing."""
    async with serving(pool) as running:
        api = running.api
        await api.customer()
        await api.grant("100")
        hold = await api.reserve("40")
        await hang_up_before_body(running, CAPTURE.format(hold_id=hold["id"]))
        assert await answered(running, CAPTURE) == {400: 1}
        assert (await api.get(f"/v1/holds/{hold['id']}")).body["status"] == "open"
        assert await api.posted() == ("100", "40", "60")


async def test_consume_beside_an_asset_made_by_another_process_is_201(pool: Pool) -> None:
    """The customer has an account in an asset that this process has never heard of."""
    async with serving(pool) as one, serving(pool) as other:
        await one.api.customer()
        await one.api.grant("5")
        await one.api.put("/v1/assets/points", {"scale": 2})
        await one.api.grant("7", asset="points")
        await other.api.consume("1")
        assert (await one.api.posted())[0] == "4"


async def test_grant_read_with_an_outdated_scale_is_not_posted_to_an_open_account(
    pool: Pool,
) -> None:
    """The account was opened with the new scale, so its scale can't betray the old one."""
    async with serving(pool) as one:
        await one.api.customer()
        await one.api.put("/v1/assets/points", {"scale": 0})
        async with serving(pool) as other:
            await one.api.put("/v1/assets/points", {"scale": 2})
            await one.api.grant("7", asset="points")
            body = {
                "customer_id": "acme",
                "amount": "5",
                "asset": "points",
                "category": "promotional",
            }
            refused = await other.api.post("/v1/grants", body)
            assert (refused.status, refused.code) == (503, "busy")
            assert (await other.api.post("/v1/grants", body)).status == 201
        assert (await one.api.balance(asset="points"))["posted"] == "12"


async def test_batch_whose_refresh_of_assets_fails_is_refused_and_the_next_one_runs(
    pool: Pool,
) -> None:
    async with transaction(pool) as conn:
        player = await Player.enter(conn)
        await player.grant(1)
    known = Settings(scales={**SCALES, "points": SCALES["points"] + 1}, books_time_zone=UTC)
    is_away = True

    async def refresh() -> None:
        nonlocal known
        if is_away:
            raise DatabaseUnavailable("away")
        known = SETTINGS

    async with batching(pool, lambda: known, refresh=refresh) as batcher:
        request = consume(player)
        refused = await batcher.submit(request)
        assert (refused.status, refused.code) == (503, "database_unavailable")
        is_away = False
        again = await batcher.submit(request)
        assert (again.status, again.is_replayed) == (201, False)


async def test_commit_of_unknown_outcome_behind_a_lock_stays_unknown(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lost connection's backend still holds the customer, so nobody can look what was written.

    "Busy, nothing was written" would be a lie.
    """
    monkeypatch.setattr(hot_path, "UNKNOWN_SECONDS_MAX", 0.3)
    async with connected(database.superuser_dsn) as superuser:
        await superuser.execute(
            f"ALTER ROLE drawdown_app IN DATABASE {database.name} SET lock_timeout = '200ms'"
        )
    async with (
        faulty_pool(database.dsn, monkeypatch) as (pool, faults),
        connected(database.dsn) as backend,
    ):
        async with transaction(pool) as conn:
            player = await Player.enter(conn)
            await player.grant(10)
        work = backend.transaction()

        async def hold_on() -> None:
            await work.start()
            await lock(backend, [player.no], wait=True)

        def plan(_number: int, query: str) -> Fault | None:
            return "cut after" if query == "COMMIT;" and faults.injected == 0 else None

        faults.on_cut = hold_on
        faults.start(plan)
        async with batching(pool) as batcher:
            request = consume(player)
            result = await batcher.submit(request)
            assert faults.injected == 1
            assert (result.status, result.code) == (503, "outcome_unknown")
            await work.rollback()
            again = await batcher.submit(request)
            assert (again.status, again.is_replayed) == (201, True)


async def test_batch_split_beside_a_lock_keeps_the_order_of_the_locked_customer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first request is found locked; before the other half runs, the lock is gone.

    There is credit for one. The second half's connection is cut at its start, which is the moment
    to let the lock go.
    """
    async with (
        faulty_pool(database.dsn, monkeypatch) as (pool, faults),
        connected(database.dsn) as holder,
    ):
        async with transaction(pool) as conn:
            locked, free = await Player.enter(conn), await Player.enter(conn)
            await locked.grant(1)
        work = holder.transaction()
        await work.start()
        await lock(holder, [locked.no], wait=True)

        def plan(_number: int, query: str) -> Fault | None:
            # The whole batch, its first half, its second half.
            return "cut" if query.startswith("BEGIN") and faults.transactions == 3 else None

        faults.on_cut = work.rollback
        faults.start(plan)
        # An asset that the settings do not know can't come through the edge.
        bad = Reserve(**free.common(), asset="nonsense", amount=1)
        async with batching(pool) as batcher:
            requests = [consume(locked), consume(free), consume(locked), bad]
            with capture_logs():
                results = await asyncio.gather(*map(batcher.submit, requests))
        assert faults.injected == 1
        assert [result.status for result in results] == [201, 402, 402, 500]


async def test_balance_at_of_a_moment_after_the_clock_was_set_back_never_changes(
    pool: Pool, database: Database
) -> None:
    """A hold is made by a clock that is behind the last journal, and is not committed yet when the
    past is read. Committed, it may not appear in that past.
    """
    clock = FrozenClock(database)
    at = START + timedelta(seconds=1)
    async with clock.stopped_at(START + timedelta(seconds=10)):
        async with transaction(pool) as conn:
            player = await Player.enter(conn)
            await player.grant(100)
        await clock.set(START)
        async with transaction(pool) as conn:
            player.conn = conn
            assert await player.reserve(10) is not None
            await clock.set(at)
            async with transaction(pool) as reader:
                first = await balance_at(reader, player.no, "credits", at, "created", SETTINGS)
        async with transaction(pool) as reader:
            again = await balance_at(reader, player.no, "credits", at, "created", SETTINGS)
        assert first == again
        later = START + timedelta(seconds=20)
        await clock.set(later)
        async with transaction(pool) as reader:
            now = await balance_at(reader, player.no, "credits", later, "created", SETTINGS)
        assert (now.posted, now.held) == ("100", "10")
