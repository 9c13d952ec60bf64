"""Latencies: one request at a time, an open loop, and customers with a long past or many lots."""

import asyncio
import secrets
import statistics
import time
from random import expovariate, randint

from bench.client import Client
from bench.gate import Gate
from bench.place import CUSTOMERS, SETTINGS, Child, Place, wrk
from ledger.requests import GrantCredit
from ledger.transact import transact
from meter.service import render
from sql.pool import connect, open_pool, transaction

OPEN_SECONDS = 10
OPEN_SHARE = 0.7
OPEN_CONNECTIONS = 256
IDLE_REQUESTS = 400
PAST_CHARGES = 1_000_000
MANY_LOTS = 10_000


def _body(customer: str) -> bytes:
    return b'{"customer_id":"%s","amount":"0.000001"}' % customer.encode()


async def idle(place: Place, runs: int, _seconds: int) -> list[Gate]:
    """An idle service, one request at a time."""
    ours, naive = Child("drawdown", place.dsn), Child("naive", place.dsn)
    medians: list[list[float]] = [[], []]
    try:
        for _ in range(runs):
            for index, child in enumerate((ours, naive)):
                times = await _one_by_one(child, place, "c1", IDLE_REQUESTS)
                medians[index].append(statistics.median(times))
    finally:
        ours.stop()
        naive.stop()
    return [
        Gate(
            "idle service, one reserve at a time, p50 against naive",
            [mine / its for mine, its in zip(*medians, strict=True)],
            at_most=1.5,
            notes=[
                f"p50 {statistics.median(medians[0]) * 1e3:.2f} ms against "
                f"{statistics.median(medians[1]) * 1e3:.2f} ms"
            ],
        )
    ]


async def _one_by_one(
    child: Child, place: Place, customer: str, requests: int, path: str = "/v1/reserve"
) -> list[float]:
    run = secrets.token_hex(6)
    times: list[float] = []
    client = await Client.connect(child.port, place.api_key)
    try:
        for number in range(requests):
            started = time.perf_counter()
            status = await client.post(path, _body(customer), f"{run}-{number}")
            times.append(time.perf_counter() - started)
            assert status == 201, status
    finally:
        client.close()
    return times


async def open_loop(place: Place, runs: int, seconds: int) -> list[Gate]:
    """Arrivals at 70 % of the closed loop's rate; each latency counts from its intended start."""
    child = Child("drawdown", place.dsn)
    ratios: list[float] = []
    notes: list[str] = []
    try:
        for _ in range(runs):
            closed = wrk(
                child, place, "reserve", connections=128, seconds=seconds, customers=CUSTOMERS
            )
            times = await _arrivals(child, place, closed * OPEN_SHARE)
            p50, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
            ratios.append(p99 / p50)
            notes.append(
                f"{closed * OPEN_SHARE:,.0f}/s: p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms"
            )
    finally:
        child.stop()
    return [Gate("open loop at 70 %, p99 against p50", ratios, at_most=6.0, notes=notes)]


async def _arrivals(child: Child, place: Place, rate: float) -> list[float]:
    run = secrets.token_hex(6)
    free: asyncio.Queue[Client] = asyncio.Queue()
    for _ in range(OPEN_CONNECTIONS):
        free.put_nowait(await Client.connect(child.port, place.api_key))
    times: list[float] = []
    clock = time.perf_counter
    intended = clock()
    stop = intended + OPEN_SECONDS
    tasks: set[asyncio.Task[None]] = set()

    async def one(number: int, intended: float) -> None:
        client = await free.get()
        body = _body(f"c{randint(1, CUSTOMERS)}")
        status = await client.post("/v1/reserve", body, f"{run}-{number}")
        times.append(clock() - intended)
        free.put_nowait(client)
        assert status == 201, status

    number = 0
    while intended < stop:
        intended += expovariate(rate)
        if (wait := intended - clock()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(number, intended))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    await asyncio.gather(*tasks)
    while not free.empty():
        free.get_nowait().close()
    return times


async def history(place: Place, runs: int, _seconds: int) -> list[Gate]:
    """A customer with a million past charges, one with ten thousand open lots, and an empty one."""
    await _grow_past(place, 2)
    await _grow_lots(place, 3)
    child = Child("drawdown", place.dsn)
    p99: dict[str, list[float]] = {"c1": [], "c2": [], "c3": []}
    try:
        for _ in range(runs):
            for customer, found in p99.items():
                times = await _one_by_one(child, place, customer, IDLE_REQUESTS, "/v1/consume")
                found.append(statistics.quantiles(times, n=100)[98])
    finally:
        child.stop()
    return [
        Gate(
            f"consume, p99 with {PAST_CHARGES:,} past charges against none",
            [long / empty for long, empty in zip(p99["c2"], p99["c1"], strict=True)],
            at_most=1.3,
        ),
        Gate(
            f"consume, p99 with {MANY_LOTS:,} open lots against three",
            [many / few for many, few in zip(p99["c3"], p99["c1"], strict=True)],
        ),
    ]


async def _grow_past(place: Place, customer_no: int) -> None:
    """Charges as they would have been written, with their transfers, for one customer."""
    owner = await connect(place.owner_dsn)
    last = await owner.fetchrow(
        "SELECT last_seq, last_created_at, last_hash FROM customers WHERE customer_no = $1",
        customer_no,
    )
    assert last is not None
    async with owner.transaction():
        await owner.execute(
            """INSERT INTO journals (customer_no, seq, kind, effective_at, created_at, book_date,
                is_late, origin, request_key, prev_hash, hash)
            SELECT $1, $2 + n, 'charge', $3::timestamptz + n * interval '1 microsecond',
                $3::timestamptz + n * interval '1 microsecond', current_date, false, 'api',
                'past-' || n, $4, $4
            FROM generate_series(1, $5::bigint) AS n""",
            customer_no,
            last[0],
            last[1],
            last[2],
            PAST_CHARGES,
        )
        await owner.execute(
            """INSERT INTO transfers (customer_no, seq, line, asset, debit, credit, amount, lot_no)
            SELECT $1, $2 + n, 1, 'credits', 'wallet', 'burned', 1, 2
            FROM generate_series(1, $3::bigint) AS n""",
            customer_no,
            last[0],
            PAST_CHARGES,
        )
        await owner.execute(
            """INSERT INTO requests (customer_no, key, operation, fingerprint, status, body,
                created_at)
            SELECT $1, 'past-' || n, 'consume', '\\x00', 201, '\\x7b7d', clock_timestamp()
            FROM generate_series(1, $2::bigint) AS n""",
            customer_no,
            PAST_CHARGES,
        )
        await owner.execute(
            """UPDATE customers SET last_seq = last_seq + $2,
                last_created_at = last_created_at + $2 * interval '1 microsecond'
            WHERE customer_no = $1""",
            customer_no,
            PAST_CHARGES,
        )
    await owner.close()


async def _grow_lots(place: Place, customer_no: int) -> None:
    pool = await open_pool(place.dsn, size=1)
    for first in range(0, MANY_LOTS, 250):
        requests = [
            GrantCredit(
                customer_no=customer_no,
                asset="credits",
                amount=500,  # half of one request: each draws on two or three lots
                category="promotional",
                priority=0,
            )
            for _ in range(first, first + 250)
        ]
        async with transaction(pool) as conn:
            await transact(conn, requests, SETTINGS, render, wait=True)
    await pool.close()
