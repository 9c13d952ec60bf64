"""Corrections: an event is cancelled, or its data replaced, as a new fact that points at it.

The event stays as it was sent. Its rollups follow in the same transaction: what it added is taken
out, what it says now is added; extremes that it may have set are counted anew from raw events.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NoReturn

from msgspec import Struct

from ledger import customers, load
from ledger.burn_down import LATE_MAX
from meter import genai
from meter.catalog import PER_EVENT, Catalog, Meter
from meter.events import (
    OUR_SOURCE,
    Fact,
    add_up,
    decode_data,
    mark_used,
    meters_of,
    read_fact,
    reader_for,
    sums_row,
    unreadable,
)
from meter.json_body import canonical
from meter.problems import ProblemError
from meter.raw import count_again, has_counted, rebuilt_through
from meter.readings import Reading, Unreadable, read_all
from meter.tally import GRAIN, Key, Tally, grain_of, shown
from sql import queries
from sql.columns import columns
from sql.pool import Connection

Action = Literal["cancel", "replace"]

GUARDS_KEPT: Final = LATE_MAX + timedelta(days=1)
"""How long an identity is remembered from receipt: longer than an event may be late."""
EXTREMES: Final = frozenset({"min", "max", "latest"})
"""Aggregations that nothing can be taken out of."""


class Correction(Struct, frozen=True, kw_only=True):
    """A new fact about an event."""

    customer_no: int
    correction_id: str
    source: str
    id: str
    action: Action
    number: int
    """Of its event: 1, 2, …"""
    before: Mapping[str, Any]
    """The data that counted until now."""
    after: Mapping[str, Any] | None
    """The data that counts from now on; None: cancelled."""
    created_at: datetime


Follow = Callable[[Connection, Correction, Fact], Awaitable[None]]
"""What else follows a correction, in its transaction, under the customer's lock, after the rollups:
whoever charged the event. The fact is the event as it was sent. May raise ProblemError."""


async def follow_nothing(conn: Connection, correction: Correction, event: Fact) -> None:
    """Nobody charged the event."""


class Asked(Struct, frozen=True, kw_only=True):
    """A correction as it is asked for."""

    customer_no: int
    correction_id: str
    source: str
    id: str
    action: Action
    data: Mapping[str, Any] | None
    """Of `replace`."""
    time: datetime | None
    """The event's time, where its identity is not remembered any more."""


class Corrected(Struct, frozen=True):
    """What became of it."""

    is_new: bool
    created_at: datetime


async def correct(conn: Connection, asked: Asked, catalog: Catalog, follow: Follow) -> Corrected:
    """Correct an event. The caller holds the catalog, and ends the transaction.

    Locks the customer. Raises ProblemError: 404 `event_not_found`, 409 `event_conflict` (the
    correction_id is another's), 409 `event_cancelled`, 422.
    """
    await load.lock(conn, [asked.customer_no], wait=True)
    text = None if asked.data is None else canonical(asked.data).decode()
    row = await conn.fetchrow(queries.correction_read, asked.customer_no, asked.correction_id)
    if row is not None:
        if tuple(row)[:4] != (asked.source, asked.id, asked.action, text):
            raise ProblemError(
                409,
                "event_conflict",
                "This correction_id was used for another correction. Nothing changed.",
                pointer="/correction_id",
            )
        return Corrected(False, row["created_at"])
    now = await customers.now(conn)
    event = await _event(conn, asked, now)
    if asked.data is not None and event.type == genai.EVENT_TYPE and event.meters is None:
        try:
            genai.billable(asked.data)
        except genai.TokensError as error:
            _refuse_data(str(error))
    correction = await _write(conn, asked, event, text, now)
    await _repair(conn, correction, event, catalog)
    await follow(conn, correction, event)
    return Corrected(True, now)


async def _event(conn: Connection, asked: Asked, now: datetime) -> Fact:
    identity = asked.customer_no, asked.source, asked.id
    times = [asked.time] if asked.time is not None else []
    if not times:
        guards = await conn.fetch(queries.event_guards_read, *columns([identity], "iqq"))
        times = [row["time"] for row in guards]
    if times:
        place = *identity, times[0]
        rows = await conn.fetch(queries.events_find, *columns([place], "iqq."))
    elif asked.source == OUR_SOURCE:
        rows = await conn.fetch(queries.events_search, *identity, now - GUARDS_KEPT, now)
    else:
        rows = []
    if not rows:
        raise ProblemError(
            404,
            "event_not_found",
            "No event of this customer has this source and id. Of one that came more than "
            f"{GUARDS_KEPT.days} days ago, send its time too.",
        )
    return read_fact(rows[0])


async def _write(
    conn: Connection, asked: Asked, event: Fact, text: str | None, now: datetime
) -> Correction:
    place = event.customer_no, event.time, event.source, event.id
    latest = await conn.fetchrow(queries.correction_latest, *place)
    number, before = 1, event.data
    if latest is not None:
        if latest["action"] == "cancel":
            raise ProblemError(
                409, "event_cancelled", "This event was cancelled: it can't be corrected again."
            )
        number, before = latest["number"] + 1, decode_data(latest["data"])
        await conn.execute(queries.correction_outdate, *place)
    await conn.execute(
        queries.correction_add,
        event.customer_no,
        asked.correction_id,
        event.source,
        event.id,
        event.time,
        number,
        asked.action,
        text,
        now,
    )
    return Correction(
        customer_no=event.customer_no,
        correction_id=asked.correction_id,
        source=event.source,
        id=event.id,
        action=asked.action,
        number=number,
        before=before,
        after=asked.data,
        created_at=now,
    )


# The rollups


async def _repair(conn: Connection, correction: Correction, event: Fact, catalog: Catalog) -> None:
    rebuilt = await rebuilt_through(conn, event.customer_no)
    meters = [
        meter
        for meter in meters_of(catalog, event)
        if has_counted(meter, event, rebuilt.get(meter.meter_no))
    ]
    readers = [reader_for(meter) for meter in meters]
    by_call = event.meters is not None
    old = read_all(readers, correction.before, by_call=by_call)
    new: list[Reading | Unreadable | None] = [None] * len(meters)
    if correction.after is not None:
        new = read_all(readers, correction.after, by_call=by_call)
        if (words := unreadable(new)) is not None:
            _refuse_data(words)
    moved = [
        (meter, was, now) for meter, was, now in zip(meters, old, new, strict=True) if was != now
    ]
    tally, grain = Tally(), grain_of(event.time)
    for meter, was, now in moved:
        if isinstance(was, Unreadable):
            place = event.customer_no, meter.meter_no, event.time, event.source, event.id
            await conn.execute(queries.meter_reject_drop, *place)
        tally.add(event, [meter], [now])
        if meter.charge == "events" and not by_call:
            if meter.aggregation not in PER_EVENT:
                tally.unrated_windows.add((event.customer_no, meter.meter_no, grain))
            elif isinstance(now, Reading) and not isinstance(was, Reading):
                tally.note_unrated(event, meter)
    counting = tally.meter_nos()
    await _move(conn, event, grain, moved, tally)
    await mark_used(conn, catalog, counting)


def _refuse_data(words: str) -> NoReturn:
    raise ProblemError(422, "invalid_value", f"data: {words}.", pointer="/data")


async def _move(
    conn: Connection,
    event: Fact,
    grain: datetime,
    moved: list[tuple[Meter, Any, Any]],
    tally: Tally,
) -> None:
    """Take the old readings out and bring the new ones in, each row in the order of its key."""
    taken = {
        (event.customer_no, meter.meter_no, grain, was.dims): (meter, was)
        for meter, was, _ in moved
        if isinstance(was, Reading)
    }
    added, tally.rollups = tally.rollups, {}
    for key in sorted({*taken, *added}):
        if key in taken:
            await _take(conn, key, *taken[key], event)
        if key in added:
            await add_up(conn, Tally(rollups={key: added[key]}))
    values = {
        (*key, was.value): -1 for key, (_, was) in taken.items() if isinstance(was.value, str)
    }
    brought, tally.values = tally.values, {}
    for key in sorted({*values, *brought}):
        if key in values and key not in brought:
            left = await conn.fetchval(queries.rollup_value_lock, *key)
            is_last = left == 1
            statement = queries.rollup_value_drop if is_last else queries.rollup_value_take
            await conn.execute(statement, *key)
        elif key not in values:
            await add_up(conn, Tally(values={key: 1}))
    await add_up(conn, tally)


async def _take(conn: Connection, key: Key, meter: Meter, was: Reading, event: Fact) -> None:
    left = await conn.fetchval(queries.rollup_lock, *key)
    if left == 1:
        await conn.execute(queries.rollup_drop, *key)
        return
    number = None if isinstance(was.value, str) else shown(was.value)
    await conn.execute(queries.rollup_take, *key, number)
    if meter.aggregation in EXTREMES:
        # A statement of its own, after the lock: it sees all that was counted into the row.
        through = (await rebuilt_through(conn, event.customer_no)).get(meter.meter_no)
        tally = await count_again(conn, event.customer_no, meter, key[2], key[2] + GRAIN, through)
        if (sums := tally.rollups.get(key)) is not None:
            await conn.execute(queries.rollup_extremes, *key, *sums_row(sums)[2:])
