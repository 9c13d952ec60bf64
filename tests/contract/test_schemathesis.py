"""Generated requests on every route, good and bad, against the running service.

Every answer must be declared with its status and type, have its declared form, and never be a 5xx
that the document does not know.
"""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import positive_data_acceptance

from meter.http import ROUTES
from meter.openapi import document
from sql.pool import STATEMENT_CACHE, open_pool, transaction
from tests.conftest import prove_books
from tests.http import World
from tests.prices import furnish_prices
from tests.servers import Database, Databases
from tests.shop import furnish_all, shop

CASES = 20
CASES_LONG = 200


@dataclass
class Served:
    url: str
    secret: str
    world: World


class Thread:
    """The service on a loop of its own: schemathesis blocks its thread while it waits."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.served: Served | None = None
        self.error: BaseException | None = None
        self._is_up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run)

    def start(self) -> Served:
        self._thread.start()
        self._is_up.wait(60)
        assert self.served is not None, self.error
        return self.served

    def stop(self) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert self.error is None

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.error = error
            self._is_up.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        pool = await open_pool(self.database.dsn, size=5, statement_cache=STATEMENT_CACHE)
        async with shop(pool, has_one_clock=True) as sale:
            secret = sale.api.secret
            assert secret is not None
            await furnish_prices(sale.running)
            self.served = Served(sale.api.url, secret, await furnish_all(sale))
            self._is_up.set()
            await self._stop.wait()
        async with transaction(pool) as conn:
            await prove_books(conn)
        await pool.close()


@pytest.fixture(scope="module")
async def database_of_module(databases: Databases) -> Any:
    made = await databases.make()
    yield made
    await databases.drop(made)


@pytest.fixture(scope="module")
def served(database_of_module: Database) -> Iterator[Served]:
    thread = Thread(database_of_module)
    yield thread.start()
    thread.stop()


# Its types are open at the edges, so they are left out here and below.
schema: Any = schemathesis.openapi.from_dict(document(ROUTES))

LEFT_OUT = [
    # Schemas say what a body looks like. Whether a request is right is up to the books, the clock,
    # signatures of cursors, and what exists: those refusals are 4xx with a declared code.
    positive_data_acceptance,
]


def send(case: Any, served: Served) -> None:
    """Every other request is about things that exist."""
    case.headers["Authorization"] = f"Bearer {served.secret}"
    if len(repr(case.body)) % 2:
        for name, value in served.world.ids.items():
            if name in case.path_parameters:
                case.path_parameters[name] = value
    case.call_and_validate(base_url=served.url, excluded_checks=LEFT_OUT, timeout=30)


def generated(cases: int) -> settings:
    return settings(
        max_examples=cases,
        deadline=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.data_too_large,
        ],
    )


@schema.parametrize()
@generated(CASES)
def test_generated_requests_get_declared_answers(case: Any, served: Served) -> None:
    send(case, served)


@pytest.mark.long
@schema.parametrize()
@generated(CASES_LONG)
def test_many_generated_requests_get_declared_answers(case: Any, served: Served) -> None:
    send(case, served)
