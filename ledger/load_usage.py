"""Load what the price of usage depends on, of locked customers, where a request states usage."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from msgspec import Struct

from ledger.ids import parse_id, public_id
from ledger.rated import (
    CardVersion,
    CatalogChanged,
    Counted,
    CounterKey,
    Identity,
    Line,
    StoredFact,
    Usage,
    UsageState,
    Window,
)
from ledger.requests import (
    Capture,
    ChargeEvents,
    ChargeWindows,
    Consume,
    CorrectEvent,
    Extend,
    Request,
    Reserve,
)
from ledger.state import Books
from sql import queries
from sql.columns import array_text
from sql.pool import Connection

CHARGES_MAX: Final = 200
"""Charges of a counter that one request gives back on; what is left is carried to the next."""


class Needs(Struct, eq=False):
    """What pricing the requests of a batch depends on, by customer."""

    customers: set[int] = set()
    times: set[tuple[int, datetime]] = set()
    """Moments whose periods' counters are needed."""
    named: dict[tuple[int, Identity], datetime | None] = {}
    """Facts that may be stored or charged; the time of those that are known to be stored."""
    corrected: set[tuple[int, Identity]] = set()
    windows: set[tuple[int, int, datetime]] = set()
    """(customer_no, meter_no, a moment of the window)."""


def needs_of(requests: Sequence[Request], now: datetime) -> Needs:
    """What these requests need; no customers if none states usage."""
    needs = Needs()
    for request in requests:
        no = request.customer_no
        match request:
            case Consume(usage=Usage() as usage, effective_at=at):
                _add_usage(needs, no, usage, at or now, is_final=True)
            case Capture(usage=Usage() as usage, effective_at=at):
                _add_usage(needs, no, usage, at or now, is_final=True)
            case Reserve(usage=Usage() as usage) | Extend(add_usage=Usage() as usage):
                _add_usage(needs, no, usage, now, is_final=False)
            case ChargeEvents():
                needs.customers.add(no)
                needs.times.update((no, event.at) for event in request.events)
                needs.named.update({(no, (e.source, e.event_id)): e.at for e in request.events})
            case CorrectEvent():
                identity = request.source, request.event_id
                needs.customers.add(no)
                needs.times.add((no, request.at))
                needs.named[no, identity] = request.at
                needs.corrected.add((no, identity))
            case ChargeWindows():
                needs.customers.add(no)
                needs.times.update((no, at) for _, at in request.windows)
                needs.windows.update((no, meter_no, at) for meter_no, at in request.windows)
            case _:
                pass
    return needs


def _add_usage(needs: Needs, no: int, usage: Usage, at: datetime, *, is_final: bool) -> None:
    needs.customers.add(no)
    needs.times.add((no, at))
    if is_final:
        for item in usage.items:
            if item.source is not None and item.event_id is not None:
                needs.named.setdefault((no, (item.source, item.event_id)), None)


class Facts(Protocol):
    """The rows of usage events, as far as charging by a call needs them."""

    async def find(
        self, conn: Connection, wanted: Mapping[tuple[int, Identity], datetime | None]
    ) -> Mapping[tuple[int, Identity], StoredFact]:
        """Of these identities, by customer, the facts that are stored; with the time if known."""
        ...

    async def measure(
        self, conn: Connection, customer_no: int, meter_no: int, at: datetime, time_zone: str
    ) -> Mapping[Window, Mapping[str, int]]:
        """What a meter comes to in the day and in the month of `at`, by dimensions as JSON."""
        ...

    async def record(
        self, conn: Connection, made: Sequence[tuple[int, int, int, Line]], now: datetime
    ) -> None:
        """Store the events of lines: (customer_no, seq, place of the line, line).

        Raises TransactionConflict if one was stored meanwhile: the batch runs again.
        """
        ...


async def load_usage(
    conn: Connection,
    customers: dict[int, Books],
    requests: Sequence[Request],
    now: datetime,
    *,
    version: int,
    facts: Facts,
) -> set[tuple[int, int]]:
    """Fill `Books.usage` of customers with a request that states usage.

    Returns the charges that corrections may undo, as (customer_no, seq): to be loaded with them.
    Raises CatalogChanged if the catalog is not of `version` any more.
    """
    needs = needs_of(requests, now)
    if not needs.customers:
        return set()
    await load_pricing(conn, customers, needs.customers, needs.times, needs.named, version=version)
    if needs.named:
        for (no, identity), fact in (await facts.find(conn, needs.named)).items():
            _usage(customers, no).events[identity] = fact
    for no, meter_no, at in sorted(needs.windows):
        usage = _usage(customers, no)
        usage.measured.update(await facts.measure(conn, no, meter_no, at, usage.time_zone))
    if not needs.corrected:
        return set()
    return await _load_lines(conn, customers, needs.corrected)


async def _load_lines(
    conn: Connection, customers: dict[int, Books], corrected: set[tuple[int, Identity]]
) -> set[tuple[int, int]]:
    """The charge lines of facts that are corrected, the oldest first, and their charges."""
    charges: set[tuple[int, int]] = set()
    for no, (source, event_id) in corrected:
        seq, place = charge_of(no, source, event_id) or (0, 0)
        rows = await conn.fetch(queries.event_lines_read, no, source, event_id, seq, place)
        lines = [(row["seq"], read_line(row)) for row in rows]
        _usage(customers, no).lines[source, event_id] = lines
        charges.update((no, seq) for seq, line in lines if line.quantity >= 0)
    return charges


OUR_SOURCE: Final = "drawdown"
"""Source of the events that charges make of usage which names no event."""


def event_name(customer_no: int, seq: int, place: int) -> str:
    """The id of the event that the line `place` of the charge `seq` made."""
    return f"{public_id('chg', customer_no, seq)}/{place}"


def charge_of(customer_no: int, source: str, event_id: str) -> tuple[int, int] | None:
    """The (seq, place) of the line that made an event, if a charge did."""
    charge, _, place = event_id.partition("/")
    found = parse_id("chg", charge)
    if source != OUR_SOURCE or found is None or found[0] != customer_no:
        return None
    return (found[1], int(place)) if place.isascii() and place.isdigit() else None


async def load_pricing(
    conn: Connection,
    customers: dict[int, Books],
    customer_nos: set[int],
    times: set[tuple[int, datetime]],
    named: Collection[tuple[int, Identity]],
    *,
    version: int,
) -> None:
    """Zones, rate cards, counters of these times, and which of the facts named are charged."""
    row = await conn.fetchrow(
        queries.usage_load,
        array_text(customer_nos),
        array_text(no for no, _ in times),
        [at for _, at in times],
        array_text(no for no, _ in named),
        [source for _, (source, _) in named],
        [event_id for _, (_, event_id) in named],
    )
    assert row is not None
    if row["catalog_version"] != version:
        raise CatalogChanged
    for no, time_zone, rate_card in row["profiles"]:
        customers[no].usage = UsageState(time_zone=time_zone, rate_card=rate_card)
    for no, counter, period_start, quantity, carry, dimensions in row["counters"] or ():
        counted = Counted(int(quantity), carry, dimensions)
        _usage(customers, no).counters[counter, period_start] = counted
    for no, source, event_id, meter_no, seq in row["charged"] or ():
        _usage(customers, no).charged[source, event_id, meter_no] = seq


def _usage(customers: dict[int, Books], customer_no: int) -> UsageState:
    usage = customers[customer_no].usage
    assert usage is not None
    return usage


async def load_counter_charges(
    conn: Connection, customers: dict[int, Books], wanted: dict[int, set[CounterKey]]
) -> set[tuple[int, int]]:
    """The latest charges of counters, as (customer_no, seq): to be loaded like those undone."""
    keys = [(no, *key) for no, keys in wanted.items() for key in keys]
    for no, counter, period_start in keys:
        _usage(customers, no).charges[counter, period_start] = []
    rows = await conn.fetch(
        queries.counter_charges_load, *map(list, zip(*keys, strict=True)), CHARGES_MAX
    )
    for no, counter, period_start, seq in rows:
        _usage(customers, no).charges[counter, period_start].append(seq)
    return {(row[0], row[3]) for row in rows}


def read_line(row: Any) -> Line:
    """A charge line from a row of `charge_lines_read`."""
    return Line(
        meter_no=row["meter_no"],
        meter=row["meter"],
        quantity=int(row["quantity"]),
        dimensions=row["dimensions"],
        card=CardVersion(row["rate_card"], row["rate_version"]),
        rate_no=row["rate_no"],
        asset=row["asset"],
        amount=row["amount"],
        counter=row["counter"],
        period_start=row["period_start"],
        period_end=row["period_end"],
        total_before=int(row["total_before"]),
        source=row["source"],
        event_id=row["event_id"],
        event_at=row["event_at"],
        revision=row["revision"],
    )
