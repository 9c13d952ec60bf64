"""A pool whose connections fail where a test says: a real error from the server, or a cut wire."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import asyncpg
import pytest

import sql.pool
from sql.pool import STATEMENT_CACHE, Pool, open_pool

Fault = Literal["40001", "40P01", "cut", "cut after"]
"""A conflict raised by the server instead of the statement; or the connection cut, before the
statement is sent or after the server has done it."""
Plan = Callable[[int, str], Fault | None]
"""The number of a statement, from 1, and its text → what happens to it."""

_Connection: Any = sql.pool._Connection  # pyright: ignore[reportPrivateUsage]


def no_faults(_number: int, _query: str) -> Fault | None:
    return None


class Faults:
    """What goes wrong on the connections of one pool, and what was sent on them."""

    def __init__(self) -> None:
        self.plan: Plan = no_faults
        self.sent: list[str] = []
        self.injected = 0
        self.on_cut: Callable[[], Awaitable[None]] | None = None
        """Runs before the caller hears of a cut."""

    def start(self, plan: Plan) -> None:
        """Count from 1 again."""
        self.plan, self.sent, self.injected = plan, [], 0

    def next(self, query: str) -> Fault | None:
        if query == "ROLLBACK;":
            return None
        self.sent.append(query)
        fault = self.plan(len(self.sent), query)
        self.injected += fault is not None
        return fault

    @property
    def transactions(self) -> int:
        return sum(query.startswith("BEGIN") for query in self.sent)


def _class_of(faults: Faults) -> type[asyncpg.Connection]:
    class Faulty(_Connection):
        async def _sent(self, query: str, send: Callable[[], Awaitable[Any]]) -> Any:
            fault = faults.next(query)
            if fault in {"40001", "40P01"}:
                raising = f"DO $$ BEGIN RAISE 'injected' USING ERRCODE = '{fault}'; END $$"
                await _Connection.execute(self, raising)
            result = None
            if fault == "cut":
                self.terminate()
            elif fault is None or fault == "cut after":
                result = await send()
            if fault is not None:
                self.terminate()
                if faults.on_cut is not None:
                    await faults.on_cut()
                raise asyncpg.ConnectionDoesNotExistError("the connection was cut by the test")
            return result

        async def execute(self, query: str, *args: Any, **options: Any) -> Any:
            return await self._sent(
                query, lambda: _Connection.execute(self, query, *args, **options)
            )

        async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
            return await self._sent(query, lambda: _Connection.fetch(self, query, *args, **options))

        async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
            return await self._sent(
                query, lambda: _Connection.fetchrow(self, query, *args, **options)
            )

        async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
            return await self._sent(
                query, lambda: _Connection.fetchval(self, query, *args, **options)
            )

    return Faulty


@asynccontextmanager
async def faulty_pool(
    dsn: str, monkeypatch: pytest.MonkeyPatch, *, size: int = 4
) -> AsyncGenerator[tuple[Pool, Faults]]:
    """A pool of the service's own kind, and its faults: none until told."""
    faults = Faults()
    with monkeypatch.context() as patch:
        patch.setattr(sql.pool, "_Connection", _class_of(faults))
        pool = await open_pool(dsn, size=size, statement_cache=STATEMENT_CACHE)
    try:
        yield pool, faults
    finally:
        faults.start(no_faults)
        await pool.close()
