"""The service and its database killed in the middle of load, and started again.

What was answered is in the books exactly once; what was not is settled by the same request again.
"""

import asyncio
import random
import signal
import socket
from collections import Counter
from collections.abc import AsyncGenerator
from time import monotonic

import aiohttp
import pytest

from tests.http import Api, session
from tests.load import Load, account_for, fund, prepare, seed_of_run, serve_process
from tests.property.sizes import IS_LONG, size
from tests.servers import Database, Databases, Server

CLIENTS = 32
CUSTOMERS = [f"c{n}" for n in range(8)]
SERVING_SECONDS_MAX = 3.0
HEALED_SECONDS_MAX = 5.0


@pytest.fixture
async def own_server() -> AsyncGenerator[Server]:
    """A PostgreSQL of the test's own, to be killed."""
    server = await asyncio.to_thread(Server, in_memory=not IS_LONG)
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.remove)


@pytest.fixture
async def own_database(own_server: Server) -> Database:
    return await Databases(own_server.url(), prefix="crash").make()


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def unexpected(failures: Counter[str]) -> Counter[str]:
    """Failures other than a 503 that says that it may be sent again."""
    return Counter({name: n for name, n in failures.items() if not name.startswith("503 ")})


async def test_service_killed_under_load_loses_and_doubles_nothing(
    own_database: Database, request: pytest.FixtureRequest
) -> None:
    kills = size(5, 50)
    seed = seed_of_run(request.node.nodeid)
    rng, port = random.Random(seed), free_port()
    secret = await prepare(own_database, CUSTOMERS)
    starts: list[float] = []
    async with session() as client:
        api = Api(client, f"http://127.0.0.1:{port}", secret)
        async with serve_process(own_database, port=port):
            await fund(api, CUSTOMERS)
        load = Load([api], CUSTOMERS, clients=CLIENTS, seed=seed)
        async with load:
            for _ in range(kills):
                began = monotonic()
                async with serve_process(own_database, port=port) as process:
                    starts.append(monotonic() - began)
                    await load.more(rng.randint(50, 300))
                    await process.kill()
            async with serve_process(own_database, port=port):
                await load.more(100)
                await load.stop()
    assert load.failures(), "no request was under way when the service was killed"
    await account_for(load, own_database)
    if IS_LONG:
        assert max(starts) <= SERVING_SECONDS_MAX


async def test_database_killed_under_load_loses_and_doubles_nothing(
    own_server: Server, own_database: Database, request: pytest.FixtureRequest
) -> None:
    kills = size(3, 25)
    seed = seed_of_run(request.node.nodeid)
    rng = random.Random(seed)
    secret = await prepare(own_database, CUSTOMERS)
    healed: list[float] = []
    async with serve_process(own_database) as process, session() as client:
        api = Api(client, process.url, secret)
        await fund(api, CUSTOMERS)
        load = Load([api], CUSTOMERS, clients=CLIENTS, seed=seed)
        async with load:
            for _ in range(kills):
                await load.more(rng.randint(50, 300))
                await asyncio.to_thread(own_server.kill)
                await asyncio.to_thread(own_server.start)
                ready = monotonic()
                await load.more(CLIENTS)
                healed.append(monotonic() - ready)
            await load.stop()
    assert not unexpected(load.failures())
    assert any(name.startswith("503 ") for name in load.failures())
    await account_for(load, own_database)
    if IS_LONG:
        assert max(healed) <= HEALED_SECONDS_MAX


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
async def test_database_restarted_under_load_is_a_503_and_heals(
    own_server: Server,
    own_database: Database,
    number: signal.Signals,
    request: pytest.FixtureRequest,
) -> None:
    seed = seed_of_run(request.node.nodeid)
    secret = await prepare(own_database, CUSTOMERS)
    async with serve_process(own_database) as process, session() as client:
        api = Api(client, process.url, secret)
        await fund(api, CUSTOMERS)
        load = Load([api], CUSTOMERS, clients=CLIENTS, seed=seed)
        async with load:
            await load.more(200)
            await asyncio.to_thread(own_server.stop, number)
            assert (await api.get("/livez")).status == 200
            assert (await api.get("/readyz")).status == 503
            await asyncio.to_thread(own_server.start)
            await load.more(200)
            await load.stop()
        assert (await api.get("/readyz")).status == 200
    assert not unexpected(load.failures())
    await account_for(load, own_database)


async def test_request_at_a_killed_service_is_found_by_its_key(own_database: Database) -> None:
    """The answer is lost, not the effect: the next service, on another port, replays it."""
    secret = await prepare(own_database, CUSTOMERS)
    async with session() as client:
        async with serve_process(own_database) as first:
            api = Api(client, first.url, secret)
            await fund(api, CUSTOMERS)
            body = {"customer_id": "c0", "amount": "7"}
            told = await api.post("/v1/consume", body, key="once")
            assert told.status == 201
        with pytest.raises(aiohttp.ClientConnectorError):
            await api.post("/v1/consume", body, key="once")
        async with serve_process(own_database) as second:
            api = Api(client, second.url, secret)
            again = await api.post("/v1/consume", body, key="once")
            assert (again.status, again.raw, again.is_replayed) == (201, told.raw, True)
            assert (await api.posted("c0"))[0] == "999993"
