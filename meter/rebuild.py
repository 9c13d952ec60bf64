"""Rebuilding: rollups counted again from raw events, or compared with what that gives.

Safe on a live service: each piece is a short transaction that holds the catalog alone, so nothing
is taken in while a few thousand events are counted. Also how a meter comes to count events that
were received before it was defined.
"""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, time, timedelta
from typing import Final

from msgspec import Struct

from meter import catalog, raw
from meter.catalog import Meter
from meter.events import add_up, mark_used
from meter.paths import decimal_text
from meter.tally import shown
from sql import queries
from sql.pool import Connection, Pool, transaction

PIECE_EVENTS_MAX: Final = 5_000
"""Events counted in one transaction, some 50 ms in which nothing is taken in."""
CUSTOMERS_MAX: Final = 1_000
"""Looked up at once."""


class Piece(Struct, frozen=True):
    """What is counted in one transaction."""

    customer_no: int
    meter: Meter
    from_: datetime
    to: datetime


Told = Callable[[Piece], None]


async def rebuild(
    pool: Pool, meter: Meter, *, customer_no: int | None = None, told: Told | None = None
) -> int:
    """Count a meter's rollups again from all raw events that are kept; how many pieces that took.

    Months whose raw events were dropped keep what was counted.
    """
    count = 0
    async for one in _customers(pool, meter, customer_no):
        for piece in await _pieces(pool, meter, one):
            await _count(pool, piece)
            count += 1
            if told is not None:
                told(piece)
    return count


async def differences(pool: Pool, meter: Meter, *, customer_no: int | None = None) -> list[str]:
    """Where the rollups of a meter are not what its raw events give; a sentence each."""
    found: list[str] = []
    async for one in _customers(pool, meter, customer_no):
        for piece in await _pieces(pool, meter, one):
            async with transaction(pool, snapshot=True) as conn:
                found += await compare(conn, piece)
    return found


async def _customers(pool: Pool, meter: Meter, only: int | None) -> AsyncIterator[int]:
    if only is not None:
        yield only
        return
    first = 0
    while True:
        async with transaction(pool) as conn:
            await conn.execute(queries.usage_settings, f"{raw.SECONDS_MAX}s")
            rows = await conn.fetch(
                queries.customers_of_meter,
                meter.meter_no,
                meter.event_type,
                first,
                CUSTOMERS_MAX,
                timeout=raw.SECONDS_MAX,
            )
        for row in rows:
            yield row["customer_no"]
        if len(rows) < CUSTOMERS_MAX:
            return
        first = rows[-1]["customer_no"] + 1


async def _pieces(pool: Pool, meter: Meter, customer_no: int) -> list[Piece]:
    """The months whose raw events are kept, cut at grains so that no piece is large."""
    pieces: list[Piece] = []
    async with transaction(pool) as conn:
        months = [row["month"] for row in await conn.fetch(queries.event_months_read)]
        for month in months:
            first = datetime.combine(month, time(), UTC)
            last = (first + timedelta(days=31)).replace(day=1)
            rows = await conn.fetch(
                queries.events_per_grain, customer_no, meter.event_type, first, last
            )
            from_, events = first, 0
            for row in rows:
                if events and events + row["events"] > PIECE_EVENTS_MAX:
                    pieces.append(Piece(customer_no, meter, from_, row["grain"]))
                    from_, events = row["grain"], 0
                events += row["events"]
            pieces.append(Piece(customer_no, meter, from_, last))
    return pieces


async def _count(pool: Pool, piece: Piece) -> None:
    async with transaction(pool) as conn:
        # Alone, but no new version: what the catalog says stays the same.
        await catalog.alone(conn)
        known = await catalog.read(conn)
        meter = known.by_no[piece.meter.meter_no]
        place = piece.customer_no, meter.meter_no
        await conn.execute(queries.rollups_clear, *place, piece.from_, piece.to)
        tally = await raw.count_again(
            conn, piece.customer_no, meter, piece.from_, piece.to, piece.to
        )
        await add_up(conn, tally)
        await mark_used(conn, known, tally.meter_nos())
        await conn.execute(queries.meter_rebuilt, *place, piece.to)


async def compare(conn: Connection, piece: Piece) -> list[str]:
    """Where the rollups of a piece are not what its raw events give; a sentence each."""
    meter = piece.meter
    through = (await raw.rebuilt_through(conn, piece.customer_no)).get(meter.meter_no)
    tally = await raw.count_again(conn, piece.customer_no, meter, piece.from_, piece.to, through)
    place = piece.customer_no, meter.meter_no
    rolled = await conn.fetch(queries.rollups_between, *place, piece.from_, piece.to)
    valued = await conn.fetch(queries.rollup_values_between, *place, piece.from_, piece.to)
    found: dict[tuple[datetime, str], str] = {}
    for row in rolled:
        numbers = [None if n is None else decimal_text(n) for n in (row[3], row[4], row[5], row[9])]
        latest = tuple(row)[6:9]
        found[row["grain"], row["dims"]] = _words(row["events"], numbers, latest)
    wanted = {
        (key[2], key[3]): _words(
            sums.events,
            [shown(n) for n in (sums.total, sums.least, sums.greatest, sums.latest_value)],
            sums.latest or (None, None, None),
        )
        for key, sums in tally.rollups.items()
    }
    for row in valued:
        found[row["grain"], f"{row['dims']} {row['value']}"] = str(row["events"])
    for key, events in tally.values.items():
        wanted[key[2], f"{key[3]} {key[4]}"] = str(events)
    return [
        f"{meter.key}, customer no. {piece.customer_no}, {grain:%Y-%m-%d %H:%M} {dims}: raw events "
        f"give {wanted.get((grain, dims), 'nothing')}, counted is "
        f"{found.get((grain, dims), 'nothing')}"
        for grain, dims in sorted({*wanted, *found})
        if wanted.get((grain, dims)) != found.get((grain, dims))
    ]


def _words(events: int, numbers: list[str | None], latest: tuple[object, ...]) -> str:
    told = [str(n) for n in (*numbers, *latest) if n is not None]
    return " ".join([f"{events} events", *told])
