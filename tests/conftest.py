"""Fixtures of the database tests: one server a run, a fresh migrated database a test.

Every test that used a database ends with the books proved. `DRAWDOWN_TEST_DATABASE_URL` names an
existing server instead, with a login that may create roles and databases; two roles stay behind
there, with a password made for the run.
"""

import logging
import os
import secrets
from collections.abc import AsyncGenerator, Generator
from importlib.util import find_spec

import pytest
import structlog

from sql.pool import STATEMENT_CACHE, Connection, Pool, open_pool
from tests.servers import PG15, Database, Databases, Server, connected

TEST_URL = "DRAWDOWN_TEST_DATABASE_URL"
POOL_SIZE = 10


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pg15", action="store_true", help="on PostgreSQL 15 instead of the wheel's")
    parser.addoption("--long", action="store_true", help="also the tests that take minutes")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "breaks_books: leaves books behind that are wrong on purpose; not proved"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        skip = pytest.mark.skip(reason="takes minutes: --long")
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
async def databases(request: pytest.FixtureRequest) -> AsyncGenerator[Databases]:
    """Where databases come from. With pytest-xdist every worker has a server of its own."""
    prefix = f"test_{os.getpid()}"
    if url := os.environ.get(TEST_URL):
        made = Databases(url, prefix=prefix, password=secrets.token_hex())
        yield made
        await made.close()
        return
    server = Server(
        binaries=PG15 if request.config.getoption("--pg15") else None,
        in_memory=not request.config.getoption("--long"),
    )
    try:
        server.start()
        yield Databases(server.url(), prefix=prefix)
    finally:
        server.remove()


@pytest.fixture
async def database(
    databases: Databases, request: pytest.FixtureRequest
) -> AsyncGenerator[Database]:
    """A database of the test's own. At the end its books are proved, then it is dropped."""
    made = await databases.make()
    yield made
    try:
        if request.node.get_closest_marker("breaks_books") is None:
            # Not in a transaction: the proofs bring their own settings (time, plans).
            async with connected(made.dsn) as conn:
                await prove_books(conn)
    finally:
        await databases.drop(made)


@pytest.fixture
async def pool(database: Database) -> AsyncGenerator[Pool]:
    """Connections of the service's login to the test's own database."""
    cache = None if os.environ.get(TEST_URL) else STATEMENT_CACHE
    opened = await open_pool(database.dsn, size=POOL_SIZE, statement_cache=cache)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
async def shared_database(databases: Databases) -> AsyncGenerator[Database]:
    """One database for all tests that leave nothing behind."""
    made = await databases.make()
    yield made
    await databases.drop(made)


@pytest.fixture
def database_of_conn(request: pytest.FixtureRequest) -> Database:
    """The test's own database if it has one, else the shared one."""
    own = "database" in request.fixturenames
    return request.getfixturevalue("database" if own else "shared_database")


@pytest.fixture(autouse=True)
def logging_as_before() -> Generator[None]:
    """A command in this process sets logging up, on a stream that is gone after its test."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


@pytest.fixture
async def conn(
    database_of_conn: Database, request: pytest.FixtureRequest
) -> AsyncGenerator[Connection]:
    """The service's login in a transaction that is proved and rolled back.

    On the test's own database if it has one, else on one that is shared: the fastest way to test
    what needs no second connection. A statement that fails on purpose belongs in a nested
    `conn.transaction()`.
    """
    async with connected(database_of_conn.dsn) as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            yield connection
            if request.node.get_closest_marker("breaks_books") is None:
                await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                await prove_books(connection)
        finally:
            await transaction.rollback()


async def prove_books(conn: Connection) -> None:
    """Assert every invariant of the books, as `drawdown verify` does."""
    if find_spec("ledger.proofs") is None:
        return
    from ledger.proofs import prove

    assert await prove(conn) == []
