"""All that is kept of one customer, for that customer: a line of JSON for each record.

Read out of one snapshot, some rows at a time. What is left out is not about the customer: hashes of
keys, counters that other records add up to, and the state of jobs.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Final

import msgspec
from asyncpg import Record

from ledger import reports
from sql import queries
from sql.pool import Pool, transaction

MEDIA_TYPE: Final = "application/jsonl"
RECORDS: Final[Mapping[str, str]] = {
    "customer": queries.own_profile,
    "account": queries.own_accounts,
    "grant": queries.own_grants,
    "lot": queries.own_lots,
    "hold": queries.own_holds,
    "journal": queries.own_journals,
    "charge_line": queries.own_charge_lines,
    "request": queries.own_requests,
    "event": queries.own_events,
    "correction": queries.own_corrections,
    "purchase": queries.own_purchases,
    "subscription": queries.own_subscriptions,
    "stripe_delivery": queries.own_deliveries,
}
"""Each kind of record, and the statement that reads it, in the order of the file."""
_JSON: Final = frozenset({"metadata", "data", "extensions", "dimensions", "body", "transfers"})
"""Members that are JSON already."""

_encode = msgspec.json.Encoder().encode


async def stream(pool: Pool, customer_no: int) -> AsyncGenerator[bytes]:
    """The lines, some thousand at a time. Numbers are exact strings, times RFC 3339 in UTC."""
    async with transaction(pool, snapshot=True, acquire_seconds_max=5.0) as conn:
        await reports.prepare(conn)
        for record, statement in RECORDS.items():
            cursor = await conn.cursor(statement, customer_no, timeout=reports.SECONDS_MAX)
            while rows := await cursor.fetch(reports.ROWS_AT_ONCE, timeout=reports.SECONDS_MAX):
                yield b"".join(_line(record, row) for row in rows)


def _line(record: str, row: Record) -> bytes:
    members = {
        name: msgspec.Raw(value.encode()) if name in _JSON and value is not None else value
        for name, value in row.items()
    }
    return _encode({"record": record, **members}) + b"\n"
