"""Many clients at once: one hot customer, two processes on one database, twins of one request."""

import asyncio
import random
from time import monotonic

import pytest

from sql.pool import Pool
from tests.http import Answer, Api, serving, session
from tests.load import Load, account_for, fund, prepare, seed_of_run, serve_process
from tests.property.sizes import IS_LONG, size
from tests.servers import Database, connected

HOT_CLIENTS = 64
PACE_MIN = 300  # operations a second
P99_SECONDS_MAX = 0.25


async def deadlocks(database: Database) -> int:
    """How many this database has seen. The counters of a backend are flushed when it ends."""
    async with connected(database.superuser_dsn) as conn:
        return await conn.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )


async def test_hot_customer_has_no_deadlock_and_no_server_error(
    database: Database, pool: Pool, request: pytest.FixtureRequest
) -> None:
    seed, count = seed_of_run(request.node.nodeid), size(1_500, 20_000)
    async with serving(pool) as running:
        await running.api.customer("hot")
        await fund(running.api, ["hot"])
        load = Load([running.api], ["hot"], clients=HOT_CLIENTS, seed=seed)
        began = monotonic()
        async with load:
            await load.more(count)
            seconds = monotonic() - began
            await load.stop()
    assert not load.failures()
    assert not any(op.answer is None or op.answer.is_replayed for op in load.ops)
    await account_for(load, database)
    assert await deadlocks(database) == 0
    if IS_LONG:
        assert load.acked / seconds >= PACE_MIN
        waits = sorted(op.seconds for op in load.ops)
        assert waits[int(len(waits) * 0.99)] <= P99_SECONDS_MAX


async def test_two_processes_share_customers_without_deadlock_loss_or_double(
    database: Database, request: pytest.FixtureRequest
) -> None:
    seed = seed_of_run(request.node.nodeid)
    names = [f"c{n}" for n in range(4)]
    secret = await prepare(database, names)
    async with (
        serve_process(database) as one,
        serve_process(database) as other,
        session() as client,
    ):
        apis = [Api(client, process.url, secret) for process in (one, other)]
        await fund(apis[0], names)
        load = Load(apis, names, clients=24, seed=seed)
        async with load:
            await load.more(size(800, 10_000))
            await load.stop()
        assert not load.failures()
        await account_for(load, database)
        assert await deadlocks(database) == 0
        await _twins_across_processes(apis, seed)


async def _twins_across_processes(apis: list[Api], seed: int) -> None:
    """The same request at both processes at once: one effect, one answer."""
    rng = random.Random(seed)
    before = int((await apis[0].posted("c0"))[0])
    rounds = size(15, 300)
    for turn in range(rounds):
        body = {"customer_id": "c0", "amount": "1"}
        asked = [
            api.send("POST", "/v1/consume", body, key=f"twin-{turn}")
            for api in rng.sample(apis * 3, 6)
        ]
        _assert_one_effect(await asyncio.gather(*asked))
    assert int((await apis[1].posted("c0"))[0]) == before - rounds


def _assert_one_effect(answers: list[Answer]) -> None:
    assert {answer.status for answer in answers} == {201}
    assert len({answer.raw for answer in answers}) == 1
    assert sum(not answer.is_replayed for answer in answers) == 1


async def test_twenty_twins_in_one_process_are_one_effect(pool: Pool) -> None:
    async with serving(pool) as running:
        api = running.api
        await api.customer()
        await api.grant("100")
        body = {"customer_id": "acme", "amount": "30"}
        asked = [api.send("POST", "/v1/reserve", body, key="twin") for _ in range(20)]
        answers = await asyncio.gather(*asked)
        _assert_one_effect(answers)
        assert await api.posted() == ("100", "30", "70")
        other = await api.post("/v1/reserve", {**body, "amount": "31"}, key="twin")
        assert (other.status, other.code) == (422, "idempotency_key_reused")


async def test_one_key_of_two_customers_is_two_requests(pool: Pool) -> None:
    async with serving(pool) as running:
        api = running.api
        for who in ("a", "b"):
            await api.customer(who)
            await api.grant("10", who)
        asked = [
            api.send("POST", "/v1/consume", {"customer_id": who, "amount": "1"}, key="same")
            for who in ("a", "b")
        ]
        answers = await asyncio.gather(*asked)
        assert [answer.status for answer in answers] == [201, 201]
        assert not any(answer.is_replayed for answer in answers)
        assert await api.posted("a") == await api.posted("b") == ("9", "0", "9")


async def test_clients_racing_for_the_last_credit_get_it_once(pool: Pool) -> None:
    async with serving(pool) as one, serving(pool) as other:
        api = one.api
        await api.customer()
        await api.grant("10")
        body = {"customer_id": "acme", "amount": "1"}
        asked = [(one, other)[n % 2].api.post("/v1/consume", body) for n in range(40)]
        statuses = [answer.status for answer in await asyncio.gather(*asked)]
        assert (statuses.count(201), statuses.count(402)) == (10, 30)
        assert await api.posted() == ("0", "0", "0")
        held = await api.grant("5")
        assert held["status"] == "active"
        asked = [
            (one, other)[n % 2].api.post("/v1/reserve", {**body, "amount": "2"}) for n in range(9)
        ]
        statuses = [answer.status for answer in await asyncio.gather(*asked)]
        assert (statuses.count(201), statuses.count(402)) == (2, 7)


async def test_one_hold_resolved_by_many_is_resolved_once(pool: Pool) -> None:
    async with serving(pool) as one, serving(pool) as other:
        api = one.api
        await api.customer()
        await api.grant("100")
        for _ in range(size(10, 200)):
            hold = await api.reserve("5")
            path = f"/v1/holds/{hold['id']}"
            answers = await asyncio.gather(
                *[
                    (one, other)[n % 2].api.post(f"{path}/{('capture', 'void')[n // 2 % 2]}", {})
                    for n in range(8)
                ]
            )
            assert sorted(answer.status for answer in answers) == [200] + [409] * 7
            await api.grant("5")
