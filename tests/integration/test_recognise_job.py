"""Recognition beside itself, and cut off: every lot is earned once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from meter import recognition
from meter.recognition import recognise_all
from sql.pool import Connection, Pool, transaction
from tests.http import Running, serving

NAMES = [f"c{n}" for n in range(6)]
EARNED = "SELECT count(*) FROM journals WHERE kind = 'recognition'"


async def use_what_was_sold(running: Running) -> None:
    for name in NAMES:
        await running.api.customer(name)
        cost = {"amount": "10", "currency": "USD"}
        await running.api.grant("10", name, category="paid", cost=cost)
        await running.api.consume("4", name)


async def test_two_workers_earn_each_lot_once(pool: Pool) -> None:
    async with serving(pool) as running:
        await use_what_was_sold(running)
        counts = await asyncio.gather(
            *(recognise_all(running.service, lambda: transaction(pool)) for _ in range(2))
        )
    assert sum(count["journals"] for count in counts) == len(NAMES)
    assert await pool.fetchval(EARNED) == len(NAMES)


async def test_run_that_is_cut_off_loses_nothing(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognition, "CUSTOMERS_MAX", 2)
    begun = 0

    @asynccontextmanager
    async def dying() -> AsyncGenerator[Connection]:
        nonlocal begun
        begun += 1
        async with transaction(pool) as conn:
            yield conn
            if begun == 2:
                raise KeyError("killed before it commits")

    async with serving(pool) as running:
        await use_what_was_sold(running)
        with pytest.raises(KeyError):
            await recognise_all(running.service, dying)
        assert await pool.fetchval(EARNED) == 2
        await recognise_all(running.service, lambda: transaction(pool))
    assert await pool.fetchval(EARNED) == len(NAMES)
