"""Load what the price of usage depends on, of locked customers, where a request states usage."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from msgspec import Struct

from ledger.columns import array_text
from ledger.rated import (
    CardVersion,
    CatalogChanged,
    Counted,
    CounterKey,
    Identity,
    Line,
    Readings,
    Usage,
    UsageState,
)
from ledger.requests import Capture, Consume, Extend, Request, Reserve
from ledger.state import Books
from sql import queries
from sql.pool import Connection

CHARGES_MAX: Final = 200
"""Charges of a counter that one request gives back on; what is left is carried to the next."""


class Stated(Struct, frozen=True):
    """Usage that a request states: of what time, and whether it becomes facts."""

    usage: Usage
    at: datetime | None
    is_final: bool


def stated(request: Request) -> Stated | None:
    """The usage that a request states; None for one that states none."""
    match request:
        case Consume(usage=Usage() as usage, effective_at=at):
            return Stated(usage, at, is_final=True)
        case Capture(usage=Usage() as usage, effective_at=at):
            return Stated(usage, at, is_final=True)
        case Reserve(usage=Usage() as usage) | Extend(add_usage=Usage() as usage):
            return Stated(usage, None, is_final=False)
        case _:
            return None


class Facts(Protocol):
    """The rows of usage events, as far as charging by a call needs them."""

    async def find(
        self, conn: Connection, wanted: Collection[tuple[int, Identity]]
    ) -> Mapping[tuple[int, Identity], Readings]:
        """Of these identities, by customer, the facts that are stored: what meters read in them."""
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
) -> None:
    """Fill `Books.usage` of customers with a request that states usage.

    Raises CatalogChanged if the catalog is not of `version` any more.
    """
    found = [(r.customer_no, one) for r in requests if (one := stated(r)) is not None]
    if not found:
        return
    times = {(no, one.at or now) for no, one in found}
    named = {
        (no, (item.source, item.event_id))
        for no, one in found
        if one.is_final
        for item in one.usage.items
        if item.source is not None and item.event_id is not None
    }
    await load_pricing(conn, customers, {no for no, _ in found}, times, named, version=version)
    if named:
        for (no, identity), fact in (await facts.find(conn, named)).items():
            usage = customers[no].usage
            assert usage is not None
            usage.events[identity] = fact


async def load_pricing(
    conn: Connection,
    customers: dict[int, Books],
    customer_nos: set[int],
    times: set[tuple[int, datetime]],
    named: set[tuple[int, Identity]],
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
    for no, counter, period_start, quantity, carry in row["counters"] or ():
        _usage(customers, no).counters[counter, period_start] = Counted(int(quantity), carry)
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
