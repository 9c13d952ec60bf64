"""A database whose clock is a row: the service's time is exactly what the test says."""

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any, TypeVar

from ledger import customers
from ledger.proofs import Failure, prove
from ledger.requests import Request
from ledger.transact import Result, transact
from sql.pool import STATEMENT_CACHE, Connection, connect
from tests.integration.player import render
from tests.property.world import SETTINGS
from tests.servers import Database, connected

T = TypeVar("T")

CLOCK = """
CREATE TABLE test_clock (at timestamptz NOT NULL);
INSERT INTO test_clock VALUES ('2030-01-01Z');
GRANT SELECT, UPDATE ON test_clock TO drawdown_app;
CREATE OR REPLACE FUNCTION service_now_v1() RETURNS timestamptz LANGUAGE sql VOLATILE AS
'SELECT at FROM test_clock';
"""


async def freeze_clock(database: Database) -> None:
    """From now on only `set_clock` moves the service's time in this database."""
    async with connected(database.owner_dsn) as conn:
        await conn.execute(CLOCK)
    async with connected(database.dsn) as conn:
        await customers.make_installation(conn, mode="sandbox", books_time_zone="UTC")


async def set_clock(conn: Connection, at: datetime) -> None:
    await conn.execute("UPDATE test_clock SET at = $1", at)


class Bench:
    """One connection to such a database, used from code that is not asynchronous."""

    def __init__(self, database: Database) -> None:
        self.loop = asyncio.new_event_loop()
        self.run(freeze_clock(database))
        self.conn: Connection = self.run(connect(database.dsn, statement_cache=STATEMENT_CACHE))
        self._made = 0
        self.settings = SETTINGS

    def close(self) -> None:
        self.run(self.conn.close())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def customers(self, count: int) -> dict[str, int]:
        """New customers: their ids and numbers."""
        self._made += 1
        names = [f"c-{self._made}-{n}" for n in range(count)]
        return self.run(customers.make(self.conn, names, signup_due=False))

    def move_clock(self, at: datetime) -> None:
        self.run(set_clock(self.conn, at))

    def send(self, batch: Sequence[Request]) -> list[Result]:
        """A batch as the service runs it: one transaction, committed."""
        return self.run(self._send(batch))

    async def _send(self, batch: Sequence[Request]) -> list[Result]:
        async with self.conn.transaction():
            results = await transact(self.conn, batch, self.settings, render, wait=True)
        return [result for result in results if result is not None]

    def prove(self) -> list[Failure]:
        return self.run(prove(self.conn))

    def rows(self, query: str, *args: object) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.run(self.conn.fetch(query, *args))]
