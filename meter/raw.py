"""Raw reading: events as they count now, each with the data of its latest correction."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import msgspec
from asyncpg import Record
from msgspec import Raw, Struct

from meter.catalog import Meter
from meter.events import Fact, decode_data, read_fact, reader_for
from meter.readings import Reading, Unreadable, read_all
from meter.tally import Tally
from sql import queries
from sql.columns import columns
from sql.pool import Connection

FETCHED_MAX: Final = 1_000
"""Events that are in memory at once."""
SECONDS_MAX: Final = 3_600
"""For one statement of a command that reads whole months."""


class Current(Struct, frozen=True):
    """An event as it counts now. `data` None: cancelled."""

    event: Fact
    data: dict[str, Any] | None
    corrections_count: int


async def current(
    conn: Connection, places: Sequence[tuple[int, str, str, datetime]]
) -> dict[tuple[int, str, str], Current]:
    """Events by (customer, source, id) and time, as they count now. What is gone is left out."""
    rows = await conn.fetch(queries.events_in_force, *columns(places, "iqq."))
    found: dict[tuple[int, str, str], Current] = {}
    for row in rows:
        event = read_fact(row)
        data = None if row["is_cancelled"] else decode_data(row["data"])
        found[event.identity] = Current(event, data, row["corrections_count"])
    return found


async def events(
    conn: Connection, customer_no: int, type_: str, from_: datetime, to: datetime
) -> AsyncIterator[Fact]:
    """A customer's events of a type in [from_, to), in order, with the data that counts now.

    Cancelled ones are left out. Needs an open transaction; a fact's hash is that of its data.
    """
    cursor = conn.cursor(
        queries.events_between, customer_no, type_, from_, to, prefetch=FETCHED_MAX
    )
    row: Record
    async for row in cursor:
        yield read_fact(row)


def readings_by(meter: Meter, fact: Fact) -> list[Reading | Unreadable | None]:
    """What one meter reads of an event: one item; none if the event is for other meters."""
    if fact.meters is None:
        return read_all([reader_for(meter)], fact.data)
    if meter.meter_no not in fact.meters:
        return []
    return read_all([reader_for(meter)], fact.data, by_call=True)


async def export(conn: Connection, month: date) -> AsyncIterator[bytes]:
    """A month's raw events, each as a line of JSON; a corrected one with its latest correction.

    Needs an open transaction; the customers' ids are the callers' own.
    """
    first = datetime(month.year, month.month, 1, tzinfo=UTC)
    last = (first + timedelta(days=31)).replace(day=1)
    await conn.execute(queries.usage_settings, f"{SECONDS_MAX}s")
    row: Record
    cursor = conn.cursor(
        queries.events_of_month, first, last, prefetch=FETCHED_MAX, timeout=SECONDS_MAX
    )
    async for row in cursor:
        line: dict[str, Any] = {
            "subject": row["customer_id"],
            "source": row["source"],
            "id": row["id"],
            "type": row["type"],
            "time": row["time"],
            "received_at": row["received_at"],
            "data": Raw(row["data"].encode()),
        }
        if row["extensions"] is not None:
            line |= msgspec.json.decode(row["extensions"])
        if row["meters"]:
            line["meters"] = row["meters"]
        if row["action"] is not None:
            corrected = None if row["corrected"] is None else Raw(row["corrected"].encode())
            line["correction"] = {
                "correction_id": row["correction_id"],
                "action": row["action"],
                "data": corrected,
            }
        yield msgspec.json.encode(line) + b"\n"


# What a meter has counted


async def rebuilt_through(conn: Connection, customer_no: int) -> dict[int, datetime]:
    """Up to which time each meter counts events of a customer that are older than itself."""
    rows = await conn.fetch(queries.meter_rebuilds_read, customer_no)
    return {row["meter_no"]: row["through"] for row in rows}


def has_counted(meter: Meter, event: Fact, through: datetime | None) -> bool:
    """Whether a meter has counted an event. `through`: up to where it was rebuilt."""
    return event.received_at >= meter.defined_at or (through is not None and event.time < through)


async def count_again(
    conn: Connection,
    customer_no: int,
    meter: Meter,
    from_: datetime,
    to: datetime,
    through: datetime | None,
) -> Tally:
    """What a meter counts of a customer's raw events in [from_, to)."""
    tally = Tally()
    async for fact in events(conn, customer_no, meter.event_type, from_, to):
        if has_counted(meter, fact, through):
            found = readings_by(meter, fact)
            tally.add(fact, [meter] * len(found), found)
    return tally
