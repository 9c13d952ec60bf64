"""Events: recorded once each, counted by every meter that reads them, in one transaction.

Both ways in end here: the event route, and charges that record their usage. An event is known by
(customer, source, id); its identity is claimed in the transaction that stores and counts it, so
what fails claims nothing, and what is sent again finds itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from hashlib import sha256
from typing import Any, Final, Literal

import msgspec
from asyncpg import Record
from msgspec import Struct

from meter.catalog import Catalog, Meter
from meter.json_body import Number, canonical
from meter.readings import Definition, Reader, Reading, Unreadable, read_all, reader_of
from meter.tally import Sums, Tally, shown
from sql import queries
from sql.columns import columns
from sql.errors import TransactionConflict
from sql.pool import Connection

OUR_SOURCE: Final = "drawdown"
"""Source of events that charges record without one of the caller's: nobody else may use it."""

Identity = tuple[int, str, str]
"""Customer, source, id."""
Fate = Literal["new", "duplicate", "conflict", "unreadable"]

_encode = msgspec.json.Encoder().encode
decode_data = msgspec.json.Decoder(dict[str, Any], float_hook=Number).decode
"""An event's stored data, numbers exact."""


class Fact(Struct, frozen=True):
    """One event. Made by `fact_of`, or read back."""

    customer_no: int
    source: str
    id: str
    type: str
    time: datetime
    received_at: datetime
    data: Mapping[str, Any]
    text: str
    """The data as canonical JSON."""
    content_hash: bytes
    extensions: str | None = None
    """Further attributes of the CloudEvent, as canonical JSON."""
    meters: tuple[int, ...] | None = None
    """The only meters that read it, where a charge recorded it. None: all of its type."""

    @property
    def identity(self) -> Identity:
        return (self.customer_no, self.source, self.id)


class Recorded(Struct, frozen=True):
    """What became of one fact.

    `duplicate`: it was recorded before, with the same content. `conflict`: with other content.
    `unreadable`: no meter that reads its type could read it, so it was not recorded; `reason` says
    what they expected.
    """

    fate: Fate
    reason: str | None = None


NEW: Final = Recorded("new")
DUPLICATE: Final = Recorded("duplicate")
CONFLICT: Final = Recorded("conflict")


def fact_of(
    *,
    customer_no: int,
    source: str,
    id: str,
    type: str,
    time: datetime,
    received_at: datetime,
    data: Mapping[str, Any],
    extensions: str | None = None,
    meters: tuple[int, ...] | None = None,
    has_time: bool = True,
) -> Fact:
    """An event to record. `has_time`: the sender gave the time, so it belongs to the content."""
    raw = canonical(data)
    return Fact(
        customer_no=customer_no,
        source=source,
        id=id,
        type=type,
        time=time,
        received_at=received_at,
        data=data,
        text=raw.decode(),
        content_hash=content_hash(type, raw, extensions, time if has_time else None),
        extensions=extensions,
        meters=meters,
    )


def content_hash(type_: str, text: bytes, extensions: str | None, time: datetime | None) -> bytes:
    """What is compared of two events with one identity: 16 bytes. `text`: the canonical data."""
    at = b"" if time is None else _encode(time)
    # U+0000 is in none of them, so no two different contents run into the same bytes.
    content = b"\0".join((type_.encode(), text, (extensions or "").encode(), at))
    return sha256(content).digest()[:16]


# Recording


class Plan(Struct):
    """Facts as they were read, before the database is asked. Made by `plan_of`."""

    facts: Sequence[Fact]
    meters: list[tuple[Meter, ...]]
    readings: list[list[Reading | Unreadable | None]]
    unreadable: dict[int, str]
    first: dict[Identity, int]
    """Identity → the first fact that can be recorded under it."""


def plan_of(facts: Sequence[Fact], catalog: Catalog) -> Plan:
    """Read every fact by its meters. Pure, and all that takes long: it may run in a thread."""
    plan = Plan(facts, [], [], {}, {})
    known: dict[Any, tuple[tuple[Meter, ...], tuple[Reader, ...]]] = {}
    for index, fact in enumerate(facts):
        by_call = fact.meters is not None
        kind = fact.meters if by_call else fact.type
        if (found := known.get(kind)) is None:
            meters = meters_of(catalog, fact)
            found = known[kind] = meters, tuple(map(reader_for, meters))
        meters, readers = found
        readings = read_all(readers, fact.data, by_call=by_call) if readers else []
        plan.meters.append(meters)
        plan.readings.append(readings)
        is_read = not readings or type(readings[0]) is Reading
        words = None if is_read else unreadable(readings)
        if words is not None:
            plan.unreadable[index] = words
        elif fact.source != OUR_SOURCE:
            plan.first.setdefault((fact.customer_no, fact.source, fact.id), index)
    return plan


def unreadable(readings: Iterable[Reading | Unreadable | None]) -> str | None:
    """Why an event is refused that meters would read and none can; None for all others."""
    words = None
    for reading in readings:
        if isinstance(reading, Reading):
            return None
        if isinstance(reading, Unreadable) and words is None:
            words = str(reading)
    return words


def meters_of(catalog: Catalog, fact: Fact) -> tuple[Meter, ...]:
    """The meters that read an event."""
    if fact.meters is None:
        return catalog.by_type.get(fact.type, ())
    return tuple(catalog.by_no[number] for number in fact.meters)


def reader_for(meter: Meter) -> Reader:
    """How a meter reads events. Made once for each definition."""
    return reader_of(definition_of(meter))


def definition_of(meter: Meter) -> Definition:
    """What of a meter decides its readings."""
    return Definition(
        meter.event_type,
        meter.aggregation,
        meter.value_property,
        tuple(meter.group_by.items()),
        meter.filters,
    )


async def record(
    conn: Connection, facts: Sequence[Fact], catalog: Catalog, *, plan: Plan | None = None
) -> list[Recorded]:
    """Record facts that are new and count them; say of each what became of it.

    The caller holds the catalog (`catalog.hold`), and ends the transaction. No customer is locked:
    two writers of one identity queue at its guard. Facts of the source `drawdown` have no guard:
    who makes them gives each its own id. All facts of one call were received at one time.
    """
    if not facts:
        return []
    plan = plan_of(facts, catalog) if plan is None else plan
    claimed = await _claim(conn, [facts[index] for index in plan.first.values()])
    if claimed is None and len(plan.first) == len(facts):
        # Most times all are new: nothing to compare.
        await _count(conn, plan, range(len(facts)), catalog)
        return [NEW] * len(facts)
    if claimed is None:
        claimed = set(plan.first)
    lost = {
        identity
        for index, fact in enumerate(facts)
        if (identity := fact.identity) not in claimed
        and (index in plan.unreadable or fact.source != OUR_SOURCE)
    }
    stored = await _known(conn, lost) if lost else {}
    fates: list[Recorded] = []
    fresh: list[int] = []
    for index, fact in enumerate(facts):
        if fact.source == OUR_SOURCE:
            is_new = index not in plan.unreadable
        else:
            is_new = fact.identity in claimed and plan.first[fact.identity] == index
        if is_new:
            fresh.append(index)
            fates.append(NEW)
        else:
            fates.append(await _meeting(conn, plan, index, claimed, stored, catalog))
    if fresh:
        await _count(conn, plan, fresh, catalog)
    return fates


async def _claim(conn: Connection, facts: Sequence[Fact]) -> set[Identity] | None:
    """Claim identities, each named once: those that nobody had; None if that is all of them."""
    if not facts:
        return None
    rows = sorted((f.customer_no, f.source, f.id, f.content_hash, f.time) for f in facts)
    claimed = await conn.fetchrow(
        queries.event_guards_claim, *columns(rows, "iqq.."), facts[0].received_at, len(rows)
    )
    assert claimed is not None, "an aggregate has a row"
    if claimed["claimed"] == len(rows):
        return None
    parts = (claimed[name] or () for name in ("nos", "sources", "ids"))
    return set(zip(*parts, strict=True))


async def _count(conn: Connection, plan: Plan, fresh: Sequence[int], catalog: Catalog) -> None:
    """Store what is new, and bring it into the rollups."""
    facts = plan.facts
    await _store(conn, [facts[index] for index in fresh], catalog)
    tally = Tally()
    for index in fresh:
        fact = facts[index]
        tally.add(fact, plan.meters[index], plan.readings[index], rates=fact.meters is None)
    await add_up(conn, tally)
    await mark_used(conn, catalog, tally.meter_nos())


async def _known(
    conn: Connection, identities: Iterable[Identity]
) -> dict[Identity, tuple[bytes, datetime]]:
    """Content hash and time of identities that are claimed already."""
    rows = await conn.fetch(queries.event_guards_read, *columns(sorted(identities), "iqq"))
    return {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}


async def _meeting(
    conn: Connection,
    plan: Plan,
    index: int,
    claimed: set[Identity],
    stored: Mapping[Identity, tuple[bytes, datetime]],
    catalog: Catalog,
) -> Recorded:
    """What a fact is that meets another under its identity."""
    fact = plan.facts[index]
    if fact.identity in claimed:
        first = plan.facts[plan.first[fact.identity]]
        if first.content_hash == fact.content_hash or same_usage(first, fact, catalog):
            return DUPLICATE
        words = plan.unreadable.get(index)
        return CONFLICT if words is None else Recorded("unreadable", words)
    known = stored.get(fact.identity)
    if known is None:
        if index in plan.unreadable:
            return Recorded("unreadable", plan.unreadable[index])
        # Forgotten between the two statements: run again, it can be claimed.
        raise TransactionConflict("an identity was forgotten meanwhile")
    if known[0] == fact.content_hash:
        return DUPLICATE
    found = await _find(conn, [(*fact.identity, known[1])])
    return DUPLICATE if found and same_usage(found[0], fact, catalog) else CONFLICT


def same_usage(one: Fact, other: Fact, catalog: Catalog) -> bool:
    """Whether two facts, of which a charge recorded at least one, tell the same usage.

    They do if the meters that the charge was for read the same value and dimensions of both.
    """
    meters = one.meters if one.meters is not None else other.meters
    if meters is None or (other.meters is not None and other.meters != meters):
        return False
    readers = [reader_for(catalog.by_no[number]) for number in meters]
    readings = [
        read_all(readers, fact.data, by_call=fact.meters is not None) for fact in (one, other)
    ]
    return readings[0] == readings[1] and all(isinstance(r, Reading) for r in readings[0])


async def _store(conn: Connection, facts: Sequence[Fact], catalog: Catalog) -> None:
    months = {date(fact.time.year, fact.time.month, 1) for fact in facts}
    if not months <= catalog.months:
        opened = await conn.fetchrow(queries.events_open, sorted(months))
        # What still gets events is younger than what is dropped, so a month stays known; but not
        # one that this transaction makes, and may undo.
        if opened is not None and opened[1] == 0:
            catalog.months.update(months)
    # A clock that steps back must not make an event older than the meters that count it.
    received_at = facts[0].received_at
    if (least := catalog.defined_at()) is not None:
        received_at = max(received_at, least)
    rows = [
        (
            fact.customer_no,
            fact.source,
            fact.id,
            fact.time,
            fact.type,
            fact.text,
            fact.extensions,
            None if fact.meters is None else f"{{{','.join(map(str, fact.meters))}}}",
        )
        for fact in facts
    ]
    await conn.execute(queries.events_store, *columns(rows, "iqqtqqqs"), received_at)


# Counting


async def add_up(conn: Connection, tally: Tally) -> None:
    """Add a tally to the rollups, and note what is rejected and what is to be priced."""
    if tally.rollups:
        rollups = sorted(tally.rollups.items(), key=lambda item: item[0])
        rows = [(*key, *sums_row(sums)) for key, sums in rollups]
        await conn.execute(queries.rollups_add, *columns(rows, "iitqinnntqqn"))
    for statement, rows, kinds in (
        (queries.rollup_values_add, [(*k, n) for k, n in tally.values.items()], "ii.qqi"),
        (queries.meter_rejects_add, tally.rejects, "ii.qqq."),
        (queries.unrated_events_add, tally.unrated_events, "iiqq.."),
        (queries.unrated_windows_add, list(tally.unrated_windows), "ii."),
    ):
        if rows:
            await conn.execute(statement, *columns(sorted(rows), kinds))


def sums_row(sums: Sums) -> tuple[Any, ...]:
    """The numbers of a rollup, as its row has them."""
    at, id_, source = sums.latest or (None, None, None)
    return (
        sums.events,
        shown(sums.total),
        shown(sums.least),
        shown(sums.greatest),
        at,
        id_,
        source,
        shown(sums.latest_value),
    )


async def mark_used(conn: Connection, catalog: Catalog, meter_nos: Iterable[int]) -> None:
    """From now on the definitions of these meters, which counted or rejected, are fixed."""
    if unknown := sorted(set(meter_nos) - catalog.used):
        rows = await conn.fetch(queries.meters_used, unknown)
        # Only what was marked by a transaction that has ended is known for good.
        catalog.used.update(set(unknown) - {row[0] for row in rows})


# Reading back


async def look_up(conn: Connection, identities: Sequence[Identity]) -> dict[Identity, Fact]:
    """The stored events of identities whose guard still lives, as they were sent."""
    known = await _known(conn, set(identities))
    found = await _find(conn, [(*identity, at) for identity, (_, at) in known.items()])
    return {fact.identity: fact for fact in found}


async def _find(conn: Connection, places: Sequence[tuple[int, str, str, datetime]]) -> list[Fact]:
    rows = await conn.fetch(queries.events_find, *columns(places, "iqq."))
    return [read_fact(row) for row in rows]


def read_fact(row: Record) -> Fact:
    """A row of `events` as the fact it stores."""
    text: str = row["data"]
    meters: list[int] | None = row["meters"]
    return Fact(
        customer_no=row["customer_no"],
        source=row["source"],
        id=row["id"],
        type=row["type"],
        time=row["time"],
        received_at=row["received_at"],
        data=decode_data(text),
        text=text,
        content_hash=content_hash(row["type"], text.encode(), row["extensions"], row["time"]),
        extensions=row["extensions"],
        meters=None if meters is None else tuple(meters),
    )
