"""Events and usage: batches against COPY, single events against a no-op, a month of daily usage."""

import asyncio
import os
import secrets
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import msgspec

from bench.client import Client
from bench.gate import Gate
from bench.place import CUSTOMERS, Child, Place, median, wrk
from ledger import customers
from meter import meters
from meter.json_body import canonical
from sql.pool import Connection, connect

BATCH = 1_000
BATCHES = 40
CONNECTIONS = 2
USAGE_EVENTS = int(os.environ.get("BENCH_USAGE_EVENTS", "1000000"))
"""Events of the smaller month; the larger one has ten times as many."""
USAGE_QUESTIONS = 100


async def define(conn: Connection) -> None:
    """What an LLM gateway would count: requests by model, and input tokens by model."""
    for key, aggregation, value in (
        ("requests", "count", None),
        ("input", "sum", "input_tokens"),
    ):
        async with conn.transaction():
            await meters.put(
                conn,
                meters.Wanted(
                    key=key,
                    event_type="request",
                    aggregation=aggregation,  # type: ignore[arg-type]
                    value_property=value,
                    group_by={"model": "model"},
                    filters=None,
                    unit=None,
                    charge="none",
                ),
            )


def _batch(run: str, number: int, now: datetime) -> list[dict[str, Any]]:
    return [
        {
            "specversion": "1.0",
            "id": f"{run}-{number}-{place}",
            "source": "gateway",
            "type": "request",
            "subject": f"c{(number * BATCH + place) % CUSTOMERS + 1}",
            "time": (now - timedelta(seconds=place)).isoformat().replace("+00:00", "Z"),
            "data": {"model": "large", "region": "eu", "input_tokens": 900, "output_tokens": 120},
        }
        for place in range(BATCH)
    ]


async def intake(place: Place, runs: int, seconds: int) -> list[Gate]:
    """Through HTTP: batches of 1,000 against COPY, single events against a no-op."""
    conn = await connect(place.dsn)
    await define(conn)
    now = await customers.now(conn)
    names = [f"c{number}" for number in range(1, CUSTOMERS + 1)]
    numbers = await customers.find(conn, names)
    await conn.close()
    ours, nothing = Child("drawdown", place.dsn), Child("noop", place.dsn)
    rates: list[list[float]] = [[], [], [], []]
    try:
        for _ in range(runs):
            run = secrets.token_hex(4)
            batches = [_batch(run, number, now) for number in range(BATCHES)]
            rates[0].append(await _send(ours, place, batches))
            copied = [_batch(f"{run}-copy", number, now) for number in range(BATCHES)]
            rates[1].append(await _copy(place, copied, numbers, now))
            for rate, child in ((rates[2], ours), (rates[3], nothing)):
                rate.append(
                    wrk(
                        child,
                        place,
                        "events",
                        connections=64,
                        seconds=seconds,
                        customers=CUSTOMERS,
                    )
                )
    finally:
        ours.stop()
        nothing.stop()
    return [
        Gate(
            f"events in batches of {BATCH:,}, {CONNECTIONS} connections, against COPY",
            [mine / its for mine, its in zip(rates[0], rates[1], strict=True)],
            at_least=0.5,
            notes=[f"{median(rates[0]):,.0f}/s against {median(rates[1]):,.0f}/s (medians)"],
        ),
        Gate(
            "single events, 64 connections, against no-op",
            [mine / its for mine, its in zip(rates[2], rates[3], strict=True)],
            at_least=0.5,
            notes=[f"{median(rates[2]):,.0f}/s against {median(rates[3]):,.0f}/s (medians)"],
        ),
    ]


async def _send(child: Child, place: Place, batches: Sequence[list[dict[str, Any]]]) -> float:
    """Events a second of batches over a few connections."""
    bodies = [msgspec.json.encode(batch) for batch in batches]

    async def sender(share: list[bytes]) -> None:
        client = await Client.connect(child.port, place.api_key)
        for body in share:
            assert await client.post("/v1/events", body, "-") == 200
        client.close()

    began = time.perf_counter()
    await asyncio.gather(*(sender(bodies[n::CONNECTIONS]) for n in range(CONNECTIONS)))
    return len(batches) * BATCH / (time.perf_counter() - began)


async def _copy(
    place: Place,
    batches: Sequence[list[dict[str, Any]]],
    numbers: dict[str, int],
    now: datetime,
) -> float:
    """Rows a second of COPY, as text that is ready, into the same two tables, committed alike."""
    texts: list[tuple[bytes, bytes]] = []
    for batch in batches:
        guards, events = list[str](), list[str]()
        for event in batch:
            no, source, id_ = numbers[event["subject"]], event["source"], event["id"]
            digest = secrets.token_hex(16)
            guards.append(f"{no}\t{source}\t{id_}\t\\\\x{digest}\t{event['time']}\t{now}\n")
            data = canonical(event["data"]).decode()
            events.append(
                f"{no}\t{event['time']}\t{source}\t{id_}\t{event['type']}\t{data}\t\\N\t\\N\t{now}\n"
            )
        texts.append(("".join(guards).encode(), "".join(events).encode()))

    async def copier(share: list[tuple[bytes, bytes]]) -> None:
        conn = await connect(place.dsn)
        for guards, events in share:
            async with conn.transaction():
                await conn.copy_to_table("event_guards", source=BytesIO(guards))
                await conn.copy_to_table("events", source=BytesIO(events))
        await conn.close()

    began = time.perf_counter()
    await asyncio.gather(*(copier(texts[n::CONNECTIONS]) for n in range(CONNECTIONS)))
    return len(batches) * BATCH / (time.perf_counter() - began)


# A month of daily usage

SEED = """
INSERT INTO events (customer_no, time, source, id, type, data, received_at)
SELECT
    1 + n % 1000, $1::timestamptz + (n % 2592000) * interval '1 second', 'seed',
    $3 || n, 'request', '{"input_tokens":900,"model":"large"}', now()
FROM generate_series(0, $2::integer - 1) AS n
"""
ROLL_UP = """
INSERT INTO rollups (customer_no, meter_no, grain, dims, events, total)
SELECT
    e.customer_no, m.meter_no, date_bin('15 minutes', e.time, 'epoch'), '["large"]', count(*),
    CASE WHEN m.aggregation = 'sum' THEN sum(900) END
FROM events AS e CROSS JOIN meters AS m
WHERE e.time >= $1::timestamptz AND e.time < $1::timestamptz + interval '30 days'
GROUP BY 1, 2, 3, m.aggregation
"""


async def usage(place: Place, runs: int, _seconds: int) -> list[Gate]:
    """Daily windows of one customer among 1,000, with ten times the events."""
    months = datetime(2025, 3, 1, tzinfo=UTC), datetime(2025, 5, 1, tzinfo=UTC)
    conn = await connect(place.owner_dsn)
    await define(conn)
    await conn.execute("SET statement_timeout = 0")
    await conn.execute("SET enable_seqscan = on")
    for month, events in zip(months, (USAGE_EVENTS, 10 * USAGE_EVENTS), strict=True):
        await conn.fetchval("SELECT event_months_make_v1(ARRAY[$1::date])", month.date())
        await conn.execute(SEED, month, events, f"{month:%m}-", timeout=3_600)
        await conn.execute(ROLL_UP, month, timeout=3_600)
    await conn.close()
    child = Child("drawdown", place.dsn)
    ratios: list[float] = []
    notes: list[str] = []
    try:
        for _ in range(runs):
            small, large = [await _questions(child, place, month) for month in months]
            ratios.append(large / small)
            notes.append(f"p50 {small * 1e3:.2f} ms, {large * 1e3:.2f} ms")
    finally:
        child.stop()
    return [
        Gate(
            f"a month of daily usage among {10 * USAGE_EVENTS:,} events against {USAGE_EVENTS:,}",
            ratios,
            at_most=2.0,
            notes=[notes[len(notes) // 2]],
        )
    ]


async def _questions(child: Child, place: Place, month: datetime) -> float:
    """The median time of an answer."""
    last = (month + timedelta(days=30)).strftime("%Y-%m-%dT00:00:00Z")
    client = await Client.connect(child.port, place.api_key)
    times: list[float] = []
    for number in range(USAGE_QUESTIONS):
        path = (
            f"/v1/meters/input/usage?customer_id=c{number % CUSTOMERS + 1}&window=day"
            f"&from={month:%Y-%m-%dT00:00:00Z}&to={last}&time_zone=Europe/Budapest"
        )
        began = time.perf_counter()
        assert await client.get(path) == 200
        times.append(time.perf_counter() - began)
    client.close()
    return statistics.median(times)
