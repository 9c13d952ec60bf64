"""The job `report_usage`: what subscriptions bill by use, told to Stripe in pieces.

First hours in which something changed are measured again, and what they come to beside what was
told already becomes pieces (rows that never change), in one transaction for many hours. Then pieces
are told: taken, sent without a transaction, and settled. A piece whose fate is not known is told
again under the same identifier, which Stripe counts once.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Final

import msgspec
import structlog
from asyncpg import Record
from msgspec import Struct

from jobs.runner import Counts, Run, together
from ledger import customers
from meter import raw, report_pieces
from meter.catalog import Catalog, Meter
from meter.readings import Reading
from meter.report_pieces import DIGITS_MAX, EXACT, PAST_MAX, SLACK, Piece
from meter.service import Service
from meter.stripe_port import StripeFault, StripePort, UsageEvent
from meter.tally import GRAIN
from sql import queries
from sql.columns import columns
from sql.pool import Connection, transaction

HOURS_MAX: Final = 5_000
"""Measured in one transaction: some hundred milliseconds."""
PLAIN_MAX: Final = 20_000
"""The same, where one statement does it."""
ROUNDS_MAX: Final = 400
TAKEN_MAX: Final = 500
"""Pieces told at a time: seconds, at what Stripe lets pass."""
STREAMED_MAX: Final = 5_000
"""The same by Stripe's stream."""
STREAM_MAX: Final = 100
"""Pieces in one call of the stream: Stripe's limit."""
TOGETHER_MAX: Final = 8
"""Calls at once, each of another customer or meter: Stripe takes one at a time of the same."""
SAME_KEY: Final = timedelta(hours=23)
"""Stripe knows an identifier again for a day."""
EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
WAIT_FIRST: Final = timedelta(seconds=30)
WAIT_MAX: Final = timedelta(hours=1)
AHEAD_WAIT: Final = timedelta(minutes=5)
TOO_OLD: Final = frozenset({"timestamp_too_far_in_past", "event_timestamp_out_of_range"})

log = structlog.get_logger()


class Hour(Struct, frozen=True):
    """A mark: in this hour something changed of what a meter counted (0: beyond the wallet)."""

    hour: datetime
    customer_no: int
    meter_no: int
    version: int


class Window(Struct, frozen=True):
    """A piece of an hour that lies in one period of one item, and what was used in it."""

    customer_no: int
    item_no: int
    starts_at: datetime
    ends_at: datetime
    period_start: datetime
    amount: Decimal


async def report_usage(run: Run) -> Counts:
    """Measure what changed, then tell it. In bounded rounds."""
    counts = {"hours": 0, "pieces": 0, "told": 0, "refused": 0, "waiting": 0}
    if run.service.stripe is None:
        return counts
    await measure_all(run, counts)
    await _tell_all(run, run.service.stripe, counts)
    return counts


# Measuring


async def measure_all(run: Run, counts: dict[str, int]) -> None:
    """Make pieces of everything that has changed and is over, in bounded transactions."""
    await _measure_plain(run, counts)
    at: tuple[datetime, int, int] = (EPOCH, 0, 0)
    for _ in range(ROUNDS_MAX):
        if run.stopping.is_set():
            return
        async with run.transaction() as conn:
            now = await customers.now(conn)
            rows = await conn.fetch(
                queries.report_marks, now, run.service.config.late_grace, HOURS_MAX, *at
            )
            hours = [Hour(*row) for row in rows]
            if hours:
                counts["hours"] += len(hours)
                counts["pieces"] += await _measure(run.service, conn, hours, now)
        if len(hours) < HOURS_MAX:
            break
        at = hours[-1].hour, hours[-1].customer_no, hours[-1].meter_no
    for _ in range(ROUNDS_MAX):
        async with run.transaction() as conn:
            now = await customers.now(conn)
            ended = await conn.fetch(queries.report_periods_ended, now, HOURS_MAX)
            periods = [(row[0], row[1], row[2]) for row in ended]
            if periods:
                counts["pieces"] += await _cut(run.service, conn, [], periods, now)
                await conn.execute(queries.report_periods_final, *zip(*periods, strict=True))
        if len(periods) < HOURS_MAX:
            return


async def _measure_plain(run: Run, counts: dict[str, int]) -> None:
    """Most hours lie in one period and were never told: one statement makes all of it for many."""
    service = run.service
    for _ in range(ROUNDS_MAX):
        if run.stopping.is_set():
            return
        async with run.transaction() as conn:
            epoch: int = await conn.fetchval(queries.stripe_epoch)
            made: int = await conn.fetchval(
                queries.report_fresh,
                *(await customers.now(conn), service.config.late_grace, PLAIN_MAX),
                f"dd_{service.installation_id}_{epoch}",
                *(PAST_MAX - SLACK, DIGITS_MAX),
            )
        counts["hours"] += made
        counts["pieces"] += made
        if made < PLAIN_MAX // 2:
            return  # what is left is not plain, or waits


async def _measure(service: Service, conn: Connection, hours: Sequence[Hour], now: datetime) -> int:
    """Measure hours and make the pieces that they come to; how many those were.

    An hour that can't be told of yet stays marked: its period is not known, or the fate of a piece
    of it is not.
    """
    marks = [(one.customer_no, one.meter_no, one.hour) for one in hours]
    rows = await conn.fetch(queries.report_pieces, *columns(marks, "iit"))
    waits: set[tuple[int, int, datetime]] = set()
    windows: list[Window] = []
    beyond: set[tuple[int, int, datetime]] = set()
    for row in rows:
        if row["item_no"] is None:
            continue  # nothing bills it
        if row["starts_at"] is None or row["is_busy"] or not _is_due(service, row, now):
            waits.add((row["customer_no"], row["meter_no"], row["hour"]))
            continue
        windows.append(await _window(service.catalog, conn, row))
        if row["meter_no"] == 0:
            beyond.add((row["customer_no"], row["item_no"], row["period_start"]))
    if windows:
        measured = [msgspec.structs.astuple(one) for one in windows]
        await conn.execute(queries.report_windows_put, *columns(measured, "iittts"))
    of_meters = [
        (one.customer_no, one.item_no, one.starts_at)
        for one in windows
        if (one.customer_no, one.item_no, one.period_start) not in beyond
    ]
    made = await _cut(service, conn, of_meters, sorted(beyond), now)
    done = [
        (*mark, one.version) for mark, one in zip(marks, hours, strict=True) if mark not in waits
    ]
    await conn.execute(queries.report_marks_done, *columns(done, "iiti"))
    return made


def _is_due(service: Service, row: Record, now: datetime) -> bool:
    """Whether a window is over, with its grace or with its period; or is to be told at once."""
    ends: datetime = row["ends_at"]
    if row["is_flushed"]:
        return True
    return ends <= now and (row["period_end"] <= now or ends + service.config.late_grace <= now)


async def _window(catalog: Catalog, conn: Connection, row: Record) -> Window:
    starts, ends = row["starts_at"], row["ends_at"]
    amount: Decimal = row["amount"]
    if row["meter_no"] and (_is_cut(starts) or _is_cut(ends)):
        meter = catalog.by_no[row["meter_no"]]
        amount = await _counted(conn, meter, row["customer_no"], starts, ends)
    return Window(row["customer_no"], row["item_no"], starts, ends, row["period_start"], amount)


def _is_cut(at: datetime) -> bool:
    """Whether a moment lies within a grain of the rollups."""
    return bool((at - EPOCH) % GRAIN)


async def _counted(
    conn: Connection, meter: Meter, customer_no: int, from_: datetime, to: datetime
) -> Decimal:
    """What a meter of count or sum counted in a time that cuts a grain: from raw events."""
    through = (await raw.rebuilt_through(conn, customer_no)).get(meter.meter_no)
    total = Decimal(0)
    async for fact in raw.events(conn, customer_no, meter.event_type, from_, to):
        if not raw.has_counted(meter, fact, through):
            continue
        for reading in raw.readings_by(meter, fact):
            if isinstance(reading, Reading):
                value = reading.value if meter.aggregation == "sum" else 1
                total = EXACT.add(total, Decimal(str(value)))
    return total


async def _cut(
    service: Service,
    conn: Connection,
    windows: Sequence[tuple[int, int, datetime]],
    periods: Sequence[tuple[int, int, datetime]],
    now: datetime,
) -> int:
    """Make pieces of what windows of meters, and periods beyond the wallet, have still to tell."""
    found: list[Record] = []
    if windows:
        found += await conn.fetch(queries.report_deltas, *columns(windows, "iit"))
    if periods:
        rows = await conn.fetch(queries.report_overage_deltas, *zip(*periods, strict=True), now)
        found += [row for row in rows if not row["is_busy"]]
        await _mark(conn, [row for row in rows if row["is_busy"]])
    if not found:
        return 0
    places = [(row["customer_no"], row["item_no"], row["starts_at"]) for row in found]
    if any(row["has_due"] for row in found):
        await conn.execute(queries.report_rows_supersede, *zip(*places, strict=True))
    epoch: int = await conn.fetchval(queries.stripe_epoch)
    pieces: list[Piece] = []
    for row in found:
        if row["delta"]:
            pieces += report_pieces.pieces_of(
                prefix=f"dd_{service.installation_id}_{epoch}",
                customer_no=row["customer_no"],
                item_no=row["item_no"],
                window_at=row["starts_at"],
                seq=row["last_seq"] + 1,
                delta=row["delta"],
                is_closed=row["is_closed"],
                now=now,
            )
    if pieces:
        told = {"due"}
        if service.config.late_usage == "next_invoice":
            told.add("missed_invoice")  # what becomes of it is told when that is settled
        lost = [one for one in pieces if one.status not in told]
        if lost:
            log.error("usage_not_reportable", pieces=len(lost), first=lost[0].identifier)
        rows = [
            (
                one.customer_no,
                one.item_no,
                one.window_at,
                one.seq,
                one.part,
                str(one.value),
                one.identifier,
                one.status,
            )
            for one in pieces
        ]
        await conn.execute(queries.report_rows_add, *columns(rows, "iitiisss"))
    return len(pieces)


async def _mark(conn: Connection, rows: Iterable[Record]) -> None:
    """These hours are looked at again."""
    places = [(row["customer_no"], row["item_no"], row["starts_at"]) for row in rows]
    if places:
        await conn.execute(queries.report_mark, *zip(*places, strict=True))


# Telling


Fate = tuple[str, str | None, datetime | None]
"""The state of a piece after it was told, why, and when it is tried again."""


async def _tell_all(run: Run, stripe: StripePort, counts: dict[str, int]) -> None:
    for _ in range(ROUNDS_MAX):
        if run.stopping.is_set():
            return
        async with run.transaction() as conn:
            now = await customers.now(conn)
            most = STREAMED_MAX if run.service.config.usage_stream else TAKEN_MAX
            taken = await conn.fetch(queries.report_rows_take, now, most, SAME_KEY)
        if not taken:
            return
        gate = asyncio.Semaphore(TOGETHER_MAX)
        pause = asyncio.Event()
        if run.service.config.usage_stream:
            parts = [taken[at : at + STREAM_MAX] for at in range(0, len(taken), STREAM_MAX)]
            tell = _stream_part
        else:
            taken.sort(key=_line)
            parts = [list(rows) for _, rows in groupby(taken, _line)]
            tell = _tell_line
        await together(tell(run, stripe, gate, pause, rows, counts) for rows in parts)
        if pause.is_set():
            return


def _line(row: Record) -> tuple[str, str]:
    """Pieces of one customer and meter are told one after the other."""
    return row["stripe_customer_id"], row["event_name"]


async def _tell_line(
    run: Run,
    stripe: StripePort,
    gate: asyncio.Semaphore,
    pause: asyncio.Event,
    rows: Sequence[Record],
    counts: dict[str, int],
) -> None:
    for row in rows:
        async with gate:
            if pause.is_set():  # it was taken and not told: the next run does
                status, error, not_before = _untold(row), None, None
            else:
                status, error, not_before = await _tell(run.service, stripe, row, pause)
        await _settle(run, [(row, (status, error, not_before))], counts)


async def _stream_part(
    run: Run,
    stripe: StripePort,
    gate: asyncio.Semaphore,
    pause: asyncio.Event,
    rows: Sequence[Record],
    counts: dict[str, int],
) -> None:
    """Tell up to STREAM_MAX pieces in one call. If Stripe refuses the call, piece by piece: then
    it says which of them it can't take.
    """
    fates: list[Fate] = [(_untold(row), None, None) for row in rows]
    async with gate:
        if not pause.is_set():
            try:
                await stripe.stream_usage([_event(row) for row in rows])
                fates = [("sent", None, None)] * len(rows)
            except StripeFault as fault:
                if fault.is_final:
                    fates = [await _tell(run.service, stripe, row, pause) for row in rows]
                else:
                    fates = [await _missed(run.service, row, fault, pause) for row in rows]
    await _settle(run, list(zip(rows, fates, strict=True)), counts)


async def _settle(run: Run, told: Sequence[tuple[Record, Fate]], counts: dict[str, int]) -> None:
    """Write what became of pieces."""
    async with run.transaction() as conn:
        await conn.executemany(
            queries.report_row_settle,
            [
                (
                    *(row["customer_no"], row["item_no"], row["window_at"], row["seq"]),
                    *(row["part"], *fate),
                )
                for row, fate in told
            ],
        )
    for _, (status, _, _) in told:
        kind = "told" if status == "sent" else "refused"
        counts["waiting" if status in {"due", "unknown"} else kind] += 1


def _event(row: Record) -> UsageEvent:
    return UsageEvent(
        identifier=row["identifier"],
        event_name=row["event_name"],
        customer_id=row["stripe_customer_id"],
        value=report_pieces.value_text(row["value"]),
        at=row["window_at"],
        attempt=row["attempts"],
    )


async def _tell(service: Service, stripe: StripePort, row: Record, pause: asyncio.Event) -> Fate:
    """Tell one piece."""
    try:
        await stripe.tell_usage(_event(row))
    except StripeFault as fault:
        return await _missed(service, row, fault, pause)
    return "sent", None, None


async def _missed(service: Service, row: Record, fault: StripeFault, pause: asyncio.Event) -> Fate:
    """What becomes of a piece that could not be told."""
    async with transaction(service.pool) as conn:
        now = await customers.now(conn)
    wait = min(WAIT_MAX, WAIT_FIRST * 2 ** min(row["attempts"], 10))
    log.warning("usage_not_told", identifier=row["identifier"], error=str(fault), code=fault.code)
    if fault.code == "timestamp_in_future":
        return _untold(row), str(fault), now + AHEAD_WAIT
    if fault.code in TOO_OLD or row["window_at"] < now - PAST_MAX:
        return "unreportable", str(fault), None
    if fault.is_final:
        return "rejected", f"{fault.code}: {fault}", None
    if fault.kind in {"limited", "unauthorized"}:
        pause.set()
        return _untold(row), str(fault), None
    return "unknown", str(fault), now + wait


def _untold(row: Record) -> str:
    """The state of a piece that was not told this time; an earlier time may have told it."""
    return "due" if row["is_first"] else "unknown"
