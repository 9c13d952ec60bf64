"""Usage reports: pieces prepared for many customers, against one INSERT of the same rows."""

import asyncio
import os
import time
from datetime import timedelta

from bench.events import define
from bench.gate import Gate
from bench.place import Place, median
from jobs.leases import Lease
from jobs.report_usage import measure_all
from jobs.runner import Run
from ledger import customers
from meter.service import Config, Service
from sql import queries
from sql.pool import Connection, connect, open_pool

CUSTOMERS = int(os.environ.get("BENCH_REPORT_CUSTOMERS", "100000"))
JOB = "report_usage"
ITEMS = """
WITH items AS (
    INSERT INTO report_items (customer_no, item_no, subscription_id, meter_no, event_name,
        stripe_meter_id, stripe_customer_id, starts_at)
    SELECT n, 1, 'sub_' || n, m.meter_no, 'requests', 'mtr', 'cus_' || n, $2::timestamptz
    FROM generate_series(1, $1::bigint) AS n, meters AS m WHERE m.meter = 'requests'
    RETURNING customer_no
)
INSERT INTO report_periods (customer_no, item_no, starts_at, ends_at)
SELECT customer_no, 1, $2::timestamptz, $3::timestamptz FROM items
"""
USAGE = """
INSERT INTO rollups (customer_no, meter_no, grain, dims, events)
SELECT n, m.meter_no, $1::timestamptz, '["large"]', 5
FROM generate_series(1, $3::bigint, $2::integer) AS n, meters AS m WHERE m.meter = 'requests'
"""
COLUMNS = (
    "customer_no, item_no, window_at, seq, part, value, identifier, status, created_at, attempts"
)


async def prepared(place: Place, runs: int, _: int) -> list[Gate]:
    """One hour of one meter, of everybody; then again, where one in a hundred used something."""
    owner = await connect(place.owner_dsn)
    await define(owner)
    now = await customers.now(owner)
    hour = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=40)
    await owner.execute(queries.meters_report, ["requests"])
    await owner.execute(ITEMS, CUSTOMERS, hour - timedelta(days=1), hour + timedelta(days=29))
    await owner.execute("CREATE TABLE copied (LIKE report_rows INCLUDING ALL)")
    pool = await open_pool(place.dsn, size=4)
    service = await Service.start(pool, Config(is_sandbox=True))
    ours: list[float] = []
    plain: list[float] = []
    few: list[float] = []
    try:
        for number in range(runs):
            at = hour + timedelta(hours=2 * number)
            await owner.execute(USAGE, at, 1, CUSTOMERS)
            ours.append(await _measured(service, owner, CUSTOMERS))
            begun = time.perf_counter()
            await owner.execute(
                f"INSERT INTO copied ({COLUMNS}) SELECT {COLUMNS} FROM report_rows"  # noqa: S608
                " WHERE window_at = $1",
                at,
            )
            plain.append(time.perf_counter() - begun)
            await owner.execute(USAGE, at + timedelta(hours=1), 100, CUSTOMERS)
            few.append(await _measured(service, owner, CUSTOMERS // 100))
    finally:
        await service.close()
        await pool.close()
        await owner.close()
    return [
        Gate(
            f"pieces of an hour for {CUSTOMERS:,} customers, against INSERT … SELECT of them",
            [mine / its for mine, its in zip(ours, plain, strict=True)],
            at_most=3.0,
            notes=[f"{median(ours):.2f} s against {median(plain):.2f} s (medians)"],
        ),
        Gate(
            "pieces of one customer in a hundred, against those of all",
            [mine / its for mine, its in zip(few, ours, strict=True)],
            at_most=0.05,
            notes=[f"{median(few):.3f} s (median)"],
        ),
    ]


async def _measured(service: Service, owner: Connection, pieces: int) -> float:
    """Seconds to make the pieces of what is marked; nothing is told."""
    fence: int = await owner.fetchval(queries.lease_take, JOB, "bench", timedelta(hours=1), None)
    counts = {"hours": 0, "pieces": 0}
    begun = time.perf_counter()
    await measure_all(Run(service, Lease(JOB, fence), asyncio.Event()), counts)
    seconds = time.perf_counter() - begun
    await owner.execute(queries.lease_release, JOB, fence)
    if counts["pieces"] != pieces:
        raise RuntimeError(f"{counts['pieces']} pieces, not {pieces}")
    return seconds
