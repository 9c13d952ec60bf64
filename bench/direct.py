"""Bulk: the batch route against naive direct calls, and the books against a raw COPY."""

import asyncio
import secrets
import time
from itertools import count
from random import randint
from typing import Any

import aiohttp
import msgspec

from bench.gate import Gate
from bench.place import CUSTOMERS, SETTINGS, Child, Place, median
from ledger.requests import Consume, Reserve
from ledger.transact import transact
from meter.service import render
from sql.pool import Pool, connect, open_pool, transaction

BULK = 256
NAIVE_CONNECTIONS = 16
BULK_CONNECTIONS = 2
COPY_ROWS = 20_000


async def measure(place: Place, runs: int, seconds: int) -> list[Gate]:
    ours = Child("drawdown", place.dsn)
    pool = await open_pool(place.dsn, size=NAIVE_CONNECTIONS)
    gates: list[Gate] = []
    try:
        for name, customers, target in (("spread", CUSTOMERS, 3.0), ("hot", 1, 12.0)):
            rates: list[list[float]] = [[], []]
            for _ in range(runs):
                rates[0].append(await _bulk(ours, place, customers, seconds))
                rates[1].append(await _naive(pool, customers, seconds))
            gates.append(
                Gate(
                    f"bulk (batch route of {BULK}, consume), {name}, against naive direct calls",
                    [mine / its for mine, its in zip(*rates, strict=True)],
                    at_least=target,
                    notes=[f"{median(rates[0]):,.0f}/s against {median(rates[1]):,.0f}/s"],
                )
            )
        gates.append(await _against_copy(place, pool, runs, seconds))
    finally:
        ours.stop()
        await pool.close()
    return gates


async def _bulk(child: Child, place: Place, customers: int, seconds: int) -> float:
    """Operations a second through `POST /v1/batch`."""
    run, numbers, done = secrets.token_hex(6), count(), 0
    stop = time.perf_counter() + seconds
    headers = {"Authorization": f"Bearer {place.api_key}", "Content-Type": "application/json"}

    async def worker(session: aiohttp.ClientSession) -> None:
        nonlocal done
        while time.perf_counter() < stop:
            operations = [
                {
                    "op": "consume",
                    "key": f"{run}-{next(numbers)}",
                    "customer_id": f"c{randint(1, customers)}",
                    "amount": "0.000001",
                }
                for _ in range(BULK)
            ]
            body = msgspec.json.encode({"operations": operations})
            async with session.post("/v1/batch", data=body) as answer:
                results = msgspec.json.decode(await answer.read())["results"]
            assert all(result["status"] == 201 for result in results), results[0]
            done += BULK

    base = f"http://127.0.0.1:{child.port}"
    async with aiohttp.ClientSession(base, headers=headers) as session:
        started = time.perf_counter()
        await asyncio.gather(*(worker(session) for _ in range(BULK_CONNECTIONS)))
        return done / (time.perf_counter() - started)


async def _naive(pool: Pool, customers: int, seconds: int) -> float:
    """Calls a second of the naive function, each its own transaction."""
    run, numbers, done = secrets.token_hex(6), count(), 0
    stop = time.perf_counter() + seconds

    async def worker() -> None:
        nonlocal done
        async with pool.acquire() as conn:
            while time.perf_counter() < stop:
                key = f"{run}-{next(numbers)}"
                row = await conn.fetchrow(
                    "SELECT * FROM naive_consume($1, $2, $3, $4)",
                    randint(1, customers),
                    key,
                    key.encode(),
                    1_000,
                )
                assert row is not None
                assert row[0] == 201
                done += 1

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(NAIVE_CONNECTIONS)))
    return done / (time.perf_counter() - started)


async def _against_copy(place: Place, pool: Pool, runs: int, seconds: int) -> Gate:
    """Bulk reserve through the books against COPY of the same rows into the same shape."""
    owner = await connect(place.owner_dsn)
    for table in ("holds", "requests"):
        await owner.execute(f"CREATE TABLE copy_{table} (LIKE {table} INCLUDING ALL)")
        await owner.execute(f"GRANT ALL ON copy_{table} TO drawdown_app")
    rates: list[list[float]] = [[], []]
    for _ in range(runs):
        rates[0].append(await _reserves(pool, seconds))
        rates[1].append(await _copies(owner))
    await owner.close()
    return Gate(
        f"bulk reserve (batches of {BULK}, no HTTP) against COPY of the same rows, {COPY_ROWS:,} a "
        "transaction",
        [mine / its for mine, its in zip(*rates, strict=True)],
        at_least=0.30,
        notes=[f"{median(rates[0]):,.0f}/s against {median(rates[1]):,.0f}/s"],
    )


async def _reserves(pool: Pool, seconds: int) -> float:
    run, numbers, done = secrets.token_hex(6), count(), 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        requests = [
            Reserve(
                customer_no=randint(1, CUSTOMERS),
                key=f"{run}-{next(numbers)}",
                operation="reserve",
                fingerprint=bytes(32),
                asset="credits",
                amount=1_000,
            )
            for _ in range(BULK)
        ]
        async with transaction(pool) as conn:
            results = await transact(conn, requests, SETTINGS, render, wait=False)
        assert all(result is not None and result.status == 201 for result in results)
        done += BULK
    return done / (time.perf_counter() - started)


async def _copies(owner: Any) -> float:
    """Operations a second of raw COPY: the rows that the last reserves wrote, once more."""
    tables: dict[str, tuple[list[str], list[tuple[Any, ...]]]] = {}
    for table in ("holds", "requests"):
        columns = [
            row[0]
            for row in await owner.fetch(
                "SELECT column_name FROM information_schema.columns "
                "WHERE table_name = $1 AND is_generated = 'NEVER' ORDER BY ordinal_position",
                table,
            )
        ]
        rows = await owner.fetch(
            f"SELECT {', '.join(columns)} FROM {table} "  # noqa: S608 (names of our own tables)
            f"ORDER BY created_at DESC LIMIT {COPY_ROWS}"
        )
        await owner.execute(f"TRUNCATE copy_{table}")
        tables[table] = columns, [tuple(row) for row in rows]
    operations = min(len(rows) for _, rows in tables.values())
    started = time.perf_counter()
    async with owner.transaction():
        for table, (columns, rows) in tables.items():
            await owner.copy_records_to_table(
                f"copy_{table}", records=rows[:operations], columns=columns
            )
    return operations / (time.perf_counter() - started)


async def wal(place: Place, _runs: int, _seconds: int) -> list[Gate]:
    """Rows and bytes of WAL per operation, at batches of one and of 256."""
    pool = await open_pool(place.dsn, size=1)
    owner = await connect(place.owner_dsn)
    gates: list[Gate] = []
    for name, size, make in (
        ("reserve, alone", 1, _reserve),
        (f"reserve, {BULK} a batch", BULK, _reserve),
        ("consume, alone", 1, _consume),
        (f"consume, {BULK} a batch", BULK, _consume),
    ):
        batches = 200 // size + 2
        before = await owner.fetchval("SELECT pg_current_wal_insert_lsn()")
        for _ in range(batches):
            async with transaction(pool) as conn:
                await transact(conn, [make() for _ in range(size)], SETTINGS, render, wait=True)
        written = await owner.fetchval(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)::float8", before
        )
        gates.append(Gate(f"WAL bytes per {name}", [written / (batches * size)]))
    await pool.close()
    await owner.close()
    return gates


def _reserve() -> Reserve:
    return Reserve(
        customer_no=randint(1, CUSTOMERS),
        key=secrets.token_hex(12),
        operation="reserve",
        fingerprint=bytes(32),
        asset="credits",
        amount=1_000,
    )


def _consume() -> Consume:
    return Consume(
        customer_no=randint(1, CUSTOMERS),
        key=secrets.token_hex(12),
        operation="consume",
        fingerprint=bytes(32),
        asset="credits",
        amount=1_000,
    )
