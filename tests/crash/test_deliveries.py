"""The service killed while Stripe delivers: shuffled, three times each, many at once.

Each purchase is credited once and refunded once, and what there is in the end depends neither on
the order nor on where the service was killed.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any, cast

import aiohttp
import msgspec
import pytest

from sandbox.postman import signature
from sandbox.server import Sandbox
from sandbox.server import running as standing_in
from tests.conftest import prove_books
from tests.crash.test_kill import free_port
from tests.http import Api, Running, session
from tests.load import PAUSE_SECONDS, prepare, seed_of_run, serve_process
from tests.property.sizes import size
from tests.servers import Database, Databases, Server, connected
from tests.shop import WEBHOOK, Shop

CUSTOMERS = [f"c{n}" for n in range(5)]
PURCHASES = size(72, 720)
TIMES = 3
DELIVERIES_MIN = size(1_000, 10_000)
SENDERS = 16
KILLS = size(3, 12)
APPLY_SECONDS_MAX = size(60, 600)
INBOX = "/v1/jobs/stripe_inbox/run"


@pytest.fixture
async def own_database() -> AsyncGenerator[Database]:
    server = await asyncio.to_thread(Server, in_memory=True)
    await asyncio.to_thread(server.start)
    yield await Databases(server.url(), prefix="crash").make()
    await asyncio.to_thread(server.remove)


def settings_of(standin: Sandbox) -> dict[str, str]:
    return {
        "STRIPE_SECRET_KEY": standin.secret_key,
        "STRIPE_PUBLISHABLE_KEY": standin.publishable_key,
        "STRIPE_WEBHOOK_SECRET": standin.webhook_secret,
        "STRIPE_API_BASE": standin.url,
    }


class Deliveries:
    """Everything that there is to deliver; each until it is taken."""

    def __init__(self, sale: Shop, rng: random.Random) -> None:
        self.sale, self.rng, self.left = sale, rng, deque[bytes]()
        self.known = set[str]()
        self.lost = self.done = self.total = 0
        self._moved = asyncio.Condition()

    async def add_new(self) -> None:
        """Whatever has happened at Stripe since, three times and in any order."""
        new = [one for one in await self.sale.state("event") if one["id"] not in self.known]
        self.known |= {one["id"] for one in new}
        left = [*self.left, *[msgspec.json.encode(one) for one in new] * TIMES]
        self.rng.shuffle(left)
        self.left = deque(left)
        self.total += len(new) * TIMES

    async def run(self) -> None:
        """Deliver all that there is now, and what comes meanwhile."""
        await asyncio.gather(*(self._sender() for _ in range(SENDERS)))

    async def more(self, count: int) -> None:
        """Wait until so many more are taken, or there is none left."""
        goal = self.done + count
        async with self._moved:
            await self._moved.wait_for(lambda: self.done >= goal or not self.left)

    async def _sender(self) -> None:
        while self.left:
            body = self.left.popleft()
            while not await self._is_taken(body):
                self.lost += 1
                await asyncio.sleep(PAUSE_SECONDS)
            async with self._moved:
                self.done += 1
                self._moved.notify_all()

    async def _is_taken(self, body: bytes) -> bool:
        header = signature(self.sale.standin.webhook_secret, body.decode(), int(time.time()))
        try:
            answer = await self.sale.api.of(None).send(
                "POST", WEBHOOK, raw=body, headers={"Stripe-Signature": header}
            )
        except aiohttp.ClientError:
            return False
        assert answer.status in (200, 503), answer
        return answer.status == 200


async def apply_some(api: Api) -> None:
    """Run the job, whoever is killed meanwhile; a run may outlast its request."""
    try:
        await api.post(INBOX, key=None)
    except (aiohttp.ClientError, TimeoutError):
        await asyncio.sleep(PAUSE_SECONDS)


async def apply_until(api: Api, ended: asyncio.Event) -> None:
    while not ended.is_set():
        await apply_some(api)


async def apply_all(api: Api, database: Database) -> None:
    """Run the job until no news waits."""
    waiting = "SELECT count(*) FROM stripe_objects WHERE is_open"
    async with asyncio.timeout(APPLY_SECONDS_MAX), connected(database.superuser_dsn) as conn:
        while await conn.fetchval(waiting):
            await apply_some(api)


async def let_leases_end(database: Database) -> None:
    """What the passing of time does to what a killed process had taken."""
    async with connected(database.superuser_dsn) as conn:
        await conn.execute("UPDATE job_leases SET expires_at = clock_timestamp()")
        await conn.execute("UPDATE stripe_objects SET lease_until = NULL, not_before = NULL")


async def sell(sale: Shop) -> list[str]:
    """Purchases of every customer, all paid; the intents of each third."""
    await sale.pack()
    third: list[str] = []
    for number in range(PURCHASES):
        opened = await sale.checkout(CUSTOMERS[number % len(CUSTOMERS)])
        done = await sale.pay(opened)
        if number % 3 == 0:
            third.append(done["payment_intent"])
    return third


async def give_back(sale: Shop, intents: list[str]) -> None:
    """One half of each goes back, by Stripe's dashboard."""
    for intent in intents:
        await sale.control("refunds", payment_intent=intent, amount=500)


async def purchases(api: Api) -> list[Any]:
    found, cursor = list[Any](), ""
    while True:
        answer = await api.get(f"/v1/purchases?limit=100{cursor}")
        found += answer.body["data"]
        if not answer.body["has_more"]:
            return found
        cursor = f"&cursor={answer.body['next_cursor']}"


async def assert_settled(api: Api, database: Database, events: int) -> None:
    """Everything is kept and applied, and each purchase is what Stripe has of it."""
    async with connected(database.superuser_dsn) as conn:
        kept = await conn.fetchval("SELECT count(*) FROM stripe_events")
        waiting = await conn.fetch("SELECT object_id FROM stripe_objects WHERE marked > done")
        await prove_books(conn)
    assert (kept, waiting) == (events, [])
    found = await purchases(api)
    assert {one["status"] for one in found} == {"credited"}
    assert sorted(one["refunded"] for one in found) == sorted(
        "0" if number % 3 else "5" for number in range(PURCHASES)
    )
    for place, who in enumerate(CUSTOMERS):
        mine = range(place, PURCHASES, len(CUSTOMERS))
        wanted = str(sum(1000 if number % 3 else 500 for number in mine))
        assert await api.posted(who) == (wanted, "0", wanted), who


async def test_service_killed_while_news_is_delivered_credits_each_purchase_once(
    own_database: Database, request: pytest.FixtureRequest
) -> None:
    seed = seed_of_run(request.node.nodeid)
    rng, port = random.Random(seed), free_port()
    secret = await prepare(own_database, CUSTOMERS)
    async with standing_in(is_ticking=False, seed="test") as standin, session() as client:
        settings = settings_of(standin)
        api = Api(client, f"http://127.0.0.1:{port}", secret)
        # The service is a process of its own.
        far = Running(cast("Any", None), cast("Any", None), api)
        sale = Shop(far, standin, client)
        async with serve_process(own_database, port=port, settings=settings):
            third = await sell(sale)
        deliveries, ended = Deliveries(sale, rng), asyncio.Event()
        await deliveries.add_new()
        most = deliveries.total // (KILLS + 1)
        sending = asyncio.create_task(deliveries.run())
        applying = asyncio.create_task(apply_until(api, ended))
        for number in range(KILLS):
            async with serve_process(own_database, port=port, settings=settings) as process:
                await give_back(sale, third[number :: KILLS + 1])
                await deliveries.add_new()
                await deliveries.more(rng.randint(20, most))
                await process.kill()
            await let_leases_end(own_database)
        async with serve_process(own_database, port=port, settings=settings):
            await sending
            ended.set()
            await applying
            await let_leases_end(own_database)
            await apply_all(api, own_database)
            await give_back(sale, third[KILLS :: KILLS + 1])
            await deliveries.add_new()
            await deliveries.run()
            await apply_all(api, own_database)
            await assert_settled(api, own_database, len(deliveries.known))
    assert deliveries.total >= DELIVERIES_MIN
    assert deliveries.lost, "nothing was under way when the service was killed"
