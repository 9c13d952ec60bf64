"""The service killed while events come in: each is counted once, answered or sent again.

Batches and single events from several senders, the same events from more than one of them.
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest

from meter import catalog, rebuild
from sql.pool import open_pool
from tests.conftest import prove_books
from tests.crash.test_kill import free_port
from tests.http import Api, session
from tests.load import PAUSE_SECONDS, prepare, seed_of_run, serve_process
from tests.metering import event, meter, usage
from tests.property.sizes import size
from tests.servers import Database, Databases, Server, connected

SENDERS = 8
EVENTS = 400


@pytest.fixture
async def own_database() -> AsyncGenerator[Database]:
    server = await asyncio.to_thread(Server, in_memory=True)
    await asyncio.to_thread(server.start)
    yield await Databases(server.url(), prefix="crash").make()
    await asyncio.to_thread(server.remove)


def step_of(number: int) -> int:
    """How many events a sender puts into one request."""
    return 1 if number % 4 == 3 else 25


class Senders:
    """Eight senders that have every event to deliver, each in an order of its own."""

    def __init__(self, api: Api, seed: int) -> None:
        self.api, self.rng = api, random.Random(seed)
        self.new: dict[str, int] = {}
        self.lost = 0
        self.delivered = 0
        self._moved = asyncio.Condition()

    async def more(self, count: int) -> None:
        """Wait until so many more requests are answered, or all of them."""
        goal = min(self.delivered + count, self.total)
        async with self._moved:
            await self._moved.wait_for(lambda: self.delivered >= goal)

    @property
    def total(self) -> int:
        return sum(EVENTS // step_of(number) for number in range(SENDERS))

    async def run(self) -> None:
        await asyncio.gather(*(self._sender(n) for n in range(SENDERS)))

    async def _sender(self, number: int) -> None:
        ids = [f"e{n}" for n in range(EVENTS)]
        random.Random(number).shuffle(ids)
        step = step_of(number)
        for first in range(0, EVENTS, step):
            await self._deliver(ids[first : first + step])
            async with self._moved:
                self.delivered += 1
                self._moved.notify_all()

    async def _deliver(self, ids: list[str]) -> None:
        events = [event(one, data={"n": int(one[1:])}) for one in ids]
        body: Any = events if len(events) > 1 else events[0]
        while True:
            try:
                answer = await self.api.post("/v1/events", body, key=None)
            except aiohttp.ClientError:
                answer = None
            if answer is None or answer.status == 503:
                self.lost += 1
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            assert answer.status in (200, 202), answer
            results = answer.body.get("results", [{"status": answer.status}])
            for one, result in zip(ids, results, strict=True):
                assert result["status"] in (200, 202), result
                if result["status"] == 202:
                    self.new[one] = self.new.get(one, 0) + 1
            return


async def test_service_killed_during_intake_counts_each_event_once(
    own_database: Database, request: pytest.FixtureRequest
) -> None:
    seed = seed_of_run(request.node.nodeid)
    rng, port = random.Random(seed), free_port()
    secret = await prepare(own_database, ["acme"])
    async with session() as client:
        api = Api(client, f"http://127.0.0.1:{port}", secret)
        async with serve_process(own_database, port=port):
            await meter(api, "calls")
            await meter(api, "sum", aggregation="sum", value_property="n")
            await meter(api, "unique", aggregation="unique", value_property="n")
        senders = Senders(api, seed)
        sending = asyncio.create_task(senders.run())
        for _ in range(size(3, 20)):
            async with serve_process(own_database, port=port) as process:
                await senders.more(rng.randint(5, 60))
                await process.kill()
        async with serve_process(own_database, port=port):
            await sending
            found = {key: (await usage(api, key))["value"] for key in ("calls", "sum", "unique")}
    assert senders.lost, "nothing was under way when the service was killed"
    assert found == {
        "calls": str(EVENTS),
        "sum": str(sum(range(EVENTS))),
        "unique": str(EVENTS),
    }
    # An answer may have been lost with its process, but none was given twice.
    assert set(senders.new.values()) == {1}
    async with connected(own_database.dsn) as conn:
        await prove_books(conn)
        known = await catalog.read(conn)
    pool = await open_pool(own_database.dsn, size=2)
    for one in known.meters.values():
        assert await rebuild.differences(pool, one) == []
    await pool.close()
