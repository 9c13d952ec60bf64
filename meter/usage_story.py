"""What is known of one hour of a customer's usage, from events to the invoice, read at once."""

from datetime import datetime, timedelta
from typing import Final

from asyncpg import Record

from ledger import customers
from ledger.amounts import format_amount
from ledger.ids import public_id
from meter import subscriptions
from meter.problems import ProblemError
from meter.usage_verdict import (
    HOUR,
    Charged,
    Counted,
    Item,
    Part,
    State,
    Subscribed,
    Told,
    WindowStory,
    named,
)
from sql import queries
from sql.pool import Connection

EVENTS_MAX: Final = 10_000
"""Of an hour that are counted one by one."""
TYPES_SHOWN: Final = 20
METERS_SHOWN: Final = 50
CHARGES_SHOWN: Final = 20
ITEMS_SHOWN: Final = 10
PIECES_SHOWN: Final = 50
EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
JOBS: Final = ("report_usage", "confirm_usage")


async def read(
    conn: Connection,
    customer_no: int,
    hour: datetime,
    event_name: str | None,
    *,
    scale: int,
    grace: timedelta,
) -> WindowStory:
    """The story of the hour that begins at `hour`; of one name if that is given.

    `scale`: of credits. Raises ProblemError 422 for what is no hour of UTC, or has not begun.
    """
    now = await customers.now(conn)
    check(hour, now)
    events = await conn.fetch(queries.why_events_read, customer_no, hour, EVENTS_MAX)
    charges = await conn.fetch(queries.why_charges_read, customer_no, hour, CHARGES_SHOWN)
    items = await conn.fetch(queries.why_items_read, customer_no, ITEMS_SHOWN)
    parts = await _parts(conn, customer_no, hour, event_name)
    counted = await _counted(conn, customer_no, hour)
    if event_name is not None and parts:
        meters = named(parts)
        counted = [one for one in counted if one.meter in meters]
        if meters:
            charges = []
    names = {part.item_no: part.event_name for part in parts}
    told = await conn.fetch(queries.why_pieces_read, customer_no, hour, sorted(names), PIECES_SHOWN)
    return WindowStory(
        hour=hour,
        now=now,
        grace=grace,
        event_name=event_name,
        came=[(row["type"], row["events"]) for row in events[:TYPES_SHOWN]],
        is_cut=sum(row["events"] for row in events) >= EVENTS_MAX,
        counted=counted,
        charged=[_charged(customer_no, row, scale) for row in reversed(charges)],
        charges=charges[0]["charges"] if charges else 0,
        beyond=format_amount(int(charges[0]["total"]), scale) if charges else "0",
        parts=parts,
        told=[_told(row, names[row["item_no"]]) for row in reversed(told)],
        items=[Item(*tuple(row)) for row in items],
        subscribed=await _subscribed(conn, customer_no),
        paused=[row["job"] for row in await conn.fetch(queries.why_paused_read, JOBS)],
    )


def check(hour: datetime, now: datetime) -> None:
    """Raise ProblemError 422 for what is no hour of UTC, or has not begun."""
    if (hour - EPOCH) % HOUR:
        raise ProblemError(
            422,
            "invalid_query",
            "window is the start of a full hour of UTC, such as 2030-01-31T12:00:00Z: usage is "
            "told by the hour.",
        )
    if hour > now:
        raise ProblemError(
            422, "invalid_query", "window has not begun: ask for an hour up to the present one."
        )


async def _parts(
    conn: Connection, customer_no: int, hour: datetime, event_name: str | None
) -> list[Part]:
    rows = await conn.fetch(queries.why_parts_read, customer_no, hour, event_name)
    numbers = sorted({row["item_no"] for row in rows})
    states: dict[tuple[int, datetime], dict[str, State]] = {}
    for row in await conn.fetch(queries.why_states_read, customer_no, hour, numbers):
        state = State(row["value"], row["last_seq"], row["error"], row["not_before"])
        states.setdefault((row["item_no"], row["window_at"]), {})[row["status"]] = state
    return [
        Part(**dict(row), states=states.get((row["item_no"], row["starts_at"]), {})) for row in rows
    ]


async def _counted(conn: Connection, customer_no: int, hour: datetime) -> list[Counted]:
    rows = await conn.fetch(queries.why_meters_read, customer_no, hour, METERS_SHOWN)
    return [
        Counted(row["meter"], int(row["events"]), row["rejects"], row["reason"], row["quantity"])
        for row in rows
    ]


def _charged(customer_no: int, row: Record, scale: int) -> Charged:
    kind = row["kind"]
    prefix = "chg" if kind == "charge" else "jrn"
    return Charged(
        id=public_id(prefix, customer_no, row["seq"]),
        kind=kind,
        amount=format_amount(int(row["amount"]), scale),
        effective_at=row["effective_at"],
    )


def _told(row: Record, event_name: str) -> Told:
    at = row["sent_at"] or row["created_at"]
    return Told(event_name, row["identifier"], row["value"], row["status"], at, row["error"])


async def _subscribed(conn: Connection, customer_no: int) -> Subscribed | None:
    one = await subscriptions.primary(conn, customer_no)
    if one is None:
        return None
    return Subscribed(one.subscription_id, one.plan.product, one.status, [*one.plan.meanings()])
