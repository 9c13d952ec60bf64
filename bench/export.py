"""The journal as a file, in several forms, against COPY of the same rows; and its memory."""

import os
import resource
import time
from contextlib import aclosing
from datetime import date, timedelta
from typing import Final

from bench.gate import Gate
from bench.place import Place, median
from ledger import customers, reports
from ledger.reports import JOURNAL, Span
from meter.reports.files import FORMS, stream
from sql.pool import Pool, connect, open_pool, transaction

ROWS: Final = int(os.environ.get("BENCH_EXPORT_ROWS", "200000"))
TRANSFERS_EACH: Final = 2
TARGETS: Final[dict[str, float | None]] = {
    "csv": 0.5,
    "jsonl": None,
    "parquet": None,
    "hledger": None,
}
"""Of COPY's speed; the others are only measured."""
GROWTH_MAX: Final = 150 * 2**20
JOURNALS: Final = """
INSERT INTO journals (customer_no, seq, kind, effective_at, created_at, book_date, is_late,
    origin, prev_hash, hash)
SELECT c.customer_no, c.last + n, 'charge', $2::timestamptz, $2::timestamptz, $3::date, false,
    'bench', sha256('a'), sha256('b')
FROM (SELECT c.customer_no,
             coalesce((SELECT max(seq) FROM journals AS j
                       WHERE j.customer_no = c.customer_no), 0) AS last
      FROM customers AS c ORDER BY c.customer_no LIMIT 100) AS c,
     generate_series(1, $1::bigint / 100) AS n
"""
TRANSFERS: Final = """
INSERT INTO transfers (customer_no, seq, line, asset, debit, credit, amount)
SELECT customer_no, seq, line, 'credits', 'wallet', 'burned', 1000000 + seq
FROM journals, generate_series(1, $1::integer) AS line WHERE origin = 'bench'
"""


async def measure(place: Place, runs: int, _: int) -> list[Gate]:
    owner = await connect(place.owner_dsn)
    try:
        now = await customers.now(owner)
        await owner.execute(JOURNALS, ROWS // TRANSFERS_EACH, now, now.date())
        await owner.execute(TRANSFERS, TRANSFERS_EACH)
        await owner.execute("VACUUM ANALYZE journals, transfers")
    finally:
        await owner.close()
    span = Span(first=None, end=now.date() + timedelta(days=2))
    pool = await open_pool(place.dsn, size=2)
    copied: list[float] = []
    ours: dict[str, list[float]] = {form: [] for form in TARGETS}
    growth = dict.fromkeys(TARGETS, 0)
    try:
        await _copied(pool, span.end)
        for _ in range(runs):
            copied.append(await _copied(pool, span.end))
            for form, seconds in ours.items():
                before = _peak_bytes()
                seconds.append(await _exported(pool, span, form))
                growth[form] += _peak_bytes() - before
    finally:
        await pool.close()
    gates = [
        Gate(
            f"journal of {ROWS:,} rows as {form}, against COPY of them: its speed",
            [its / mine for mine, its in zip(ours[form], copied, strict=True)],
            at_least=target,
            notes=[
                f"{median(ours[form]):.2f} s against {median(copied):.2f} s (medians); "
                f"memory grew by {growth[form] / 2**20:.0f} MiB"
            ],
        )
        for form, target in TARGETS.items()
    ]
    grown = [sum(growth.values()) / GROWTH_MAX]
    gates.append(Gate("memory that all of them grew by, of 150 MiB", grown, at_most=1.0))
    return gates


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def _copied(pool: Pool, end: date) -> float:
    async def drop(_: bytes) -> None:
        pass

    begun = time.perf_counter()
    async with transaction(pool, snapshot=True) as conn:
        await reports.prepare(conn)
        await conn.copy_from_query(
            JOURNAL.query, None, end, output=drop, format="csv", header=True, timeout=3_600
        )
    return time.perf_counter() - begun


async def _exported(pool: Pool, span: Span, form: str) -> float:
    """Seconds to make the file."""
    size = 0
    begun = time.perf_counter()
    async with aclosing(stream(pool, JOURNAL, span, FORMS[form])) as parts:
        async for part in parts:
            size += len(part)
    if size < ROWS:  # Parquet packs a row into a few bytes
        raise RuntimeError(f"a file of {size} bytes can't hold {ROWS} rows")
    return time.perf_counter() - begun
