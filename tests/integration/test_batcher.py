"""The batcher on a real database: who goes when, who waits for whom, and what a failure costs."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from ledger import customers
from ledger.load import lock
from ledger.requests import Capture, Consume, GrantCredit, Request, Reserve, SetOverage
from ledger.transact import Result
from meter.hot_path import Batcher
from meter.service import Config, Service
from sql.pool import Pool, transaction
from tests.servers import Database, connected

CUSTOMERS = [f"c{n:02}" for n in range(24)]


class Bench:
    """A batcher with small batches, customers with credit, and the order of answers."""

    def __init__(self, service: Service, batcher: Batcher, numbers: dict[str, int]) -> None:
        self.service, self.batcher, self.numbers = service, batcher, numbers
        self.answered: list[str] = []
        self.keys = 0

    def common(self, who: str) -> dict[str, Any]:
        self.keys += 1
        key = f"k{self.keys}"
        return {"customer_no": self.numbers[who], "key": key, "fingerprint": key.encode()}

    def submit(self, who: str, request: Request | None = None) -> asyncio.Future[Result]:
        """Queue a request, by default a consume of 1; note when it is answered."""
        if request is None:
            request = Consume(**self.common(who), asset="credits", amount=1)
        future = self.batcher.submit(request)
        future.add_done_callback(lambda _: self.answered.append(who))
        return future


@asynccontextmanager
async def bench(pool: Pool, **options: Any) -> AsyncGenerator[Bench]:
    async with transaction(pool) as conn:
        await customers.make_installation(conn, mode="sandbox", books_time_zone="UTC")
        made = await customers.make(conn, CUSTOMERS, signup_due=False)
    service = await Service.start(pool, Config(is_sandbox=True))
    limits: dict[str, Any] = {"queue_max": 10_000, "queue_seconds_max": 60, "batch_max": 8}
    limits.update(options)
    batcher = Batcher(
        pool,
        service.batcher.render,
        service.settings,
        service.metrics,
        refresh=service.refresh,
        **limits,
    )
    found = Bench(service, batcher, made)
    try:
        if limits["queue_max"] >= len(CUSTOMERS):
            await asyncio.gather(
                *[
                    batcher.submit(
                        GrantCredit(
                            **found.common(who),
                            asset="credits",
                            amount=1_000_000,
                            category="promotional",
                        )
                    )
                    for who in CUSTOMERS
                ]
            )
        yield found
    finally:
        await batcher.close()
        await service.close()


async def test_long_queue_of_one_customer_does_not_starve_the_others(pool: Pool) -> None:
    async with bench(pool) as made:
        hot = [made.submit("c00") for _ in range(600)]
        others = [made.submit(who) for who in CUSTOMERS[1:]]
        results = await asyncio.gather(*others)
        assert {result.status for result in results} == {201}
        # 23 others at 7 a batch: served within four batches, whatever c00 has waiting.
        assert sum(future.done() for future in hot) <= 4 * 8
        assert {result.status for result in await asyncio.gather(*hot)} == {201}


async def test_requests_of_one_customer_are_decided_in_their_order(pool: Pool) -> None:
    async with bench(pool) as made:
        results = await asyncio.gather(*[made.submit("c00") for _ in range(50)])
        numbers = [msgspec.json.decode(result.body)["id"] for result in results]
        assert numbers == sorted(numbers)
        assert len(set(numbers)) == 50


async def test_customer_locked_by_another_holds_up_nobody_else(
    pool: Pool, database: Database
) -> None:
    async with bench(pool) as made, connected(database.dsn) as conn:
        async with conn.transaction():
            await lock(conn, [made.numbers["c00"]], wait=True)
            waiting = [made.submit("c00") for _ in range(5)]
            for _ in range(3):
                await asyncio.gather(*[made.submit(who) for who in CUSTOMERS[1:]])
            assert not any(future.done() for future in waiting)
        results = await asyncio.gather(*waiting)
        assert [result.status for result in results] == [201] * 5
        numbers = [msgspec.json.decode(result.body)["id"] for result in results]
        assert numbers == sorted(numbers), "in their order, also behind a lock"


async def test_lock_not_had_in_time_is_busy_and_nothing_is_written(
    pool: Pool, database: Database
) -> None:
    async with connected(database.superuser_dsn) as superuser:
        await superuser.execute(
            f"ALTER ROLE drawdown_app IN DATABASE {database.name} SET lock_timeout = '200ms'"
        )
    for conn in [await pool.acquire() for _ in range(pool.get_size())]:
        await conn.close()
        await pool.release(conn)
    async with bench(pool) as made, connected(database.dsn) as conn:
        async with conn.transaction():
            await lock(conn, [made.numbers["c00"]], wait=True)
            request = Consume(**made.common("c00"), asset="credits", amount=1)
            result = await made.submit("c00", request)
            assert (result.status, result.code) == (503, "busy")
        again = await made.submit("c00", request)
        assert (again.status, again.is_replayed) == (201, False)


async def test_request_at_fault_fails_alone(pool: Pool) -> None:
    async with bench(pool) as made:
        # An asset that the settings do not know can't come through the edge.
        bad = Reserve(**made.common("c03"), asset="nonsense", amount=1)
        good = [made.submit(who) for who in CUSTOMERS[:3]]
        with capture_logs() as logs:
            failed = await made.submit("c03", bad)
        good += [made.submit(who) for who in CUSTOMERS[3:8]]
        assert {result.status for result in await asyncio.gather(*good)} == {201}
        assert (failed.status, failed.code) == (500, "internal")
        assert [line["event"] for line in logs] == ["batch_refused"]


async def test_refused_requests_cost_their_neighbours_nothing(pool: Pool) -> None:
    async with bench(pool) as made:
        beyond = Consume(**made.common("c00"), asset="credits", amount=10**12)
        absent = Capture(**made.common("c01"), hold_no=999)
        results = await asyncio.gather(
            made.submit("c00", beyond),
            made.submit("c01", absent),
            made.submit("c00"),
            made.submit("c01"),
            made.submit("c02"),
        )
        assert [result.status for result in results] == [402, 404, 201, 201, 201]


async def test_full_queue_refuses_at_once_and_keeps_what_it_has(pool: Pool) -> None:
    async with bench(pool, queue_max=5) as made:
        overage = SetOverage(customer_no=made.numbers["c00"], policy="bill", limit=None)
        futures = [made.submit("c00", overage) for _ in range(9)]
        refused = futures[5:]
        assert all(future.done() for future in refused)
        assert {future.result().code for future in refused} == {"queue_full"}
        assert {result.status for result in await asyncio.gather(*futures[:5])} == {200}


async def test_request_that_waited_too_long_is_refused_unwritten(
    pool: Pool, database: Database
) -> None:
    async with bench(pool, queue_seconds_max=0) as made:
        result = await made.submit("c00")
        assert (result.status, result.code) == (503, "queue_full")
        async with connected(database.dsn) as conn:
            assert await conn.fetchval("SELECT count(*) FROM journals") == 0


async def test_caller_who_gave_up_leaves_the_rest_alone(pool: Pool) -> None:
    async with bench(pool) as made:
        futures = [made.submit("c00") for _ in range(10)]
        futures[3].cancel()
        rest = [future for future in futures if not future.cancelled()]
        assert {result.status for result in await asyncio.gather(*rest)} == {201}
        with pytest.raises(asyncio.CancelledError):
            await futures[3]


async def test_close_answers_what_is_queued(pool: Pool) -> None:
    async with bench(pool) as made:
        futures = [made.submit(who) for who in CUSTOMERS for _ in range(4)]
        await made.batcher.close()
        assert {future.result().status for future in futures} == {201}
