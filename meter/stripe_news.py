"""News of Stripe: a delivery is kept as it came, and the object it is about is marked.

What an event says of an object is not used: a worker fetches the object. So news may come late,
twice, in any order, or only through Stripe's list.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from msgspec import Meta, Struct

from sql import queries
from sql.pool import Connection

Outcome = Literal["marked", "ignored", "other_mode"]

OF_INTENT: Final = ("charge.", "refund.", "radar.early_fraud_warning.")
"""Types whose objects name the intent that they belong to."""
OF_CUSTOMER: Final = ("customer.deleted", "customer.updated")
OF_CARD: Final = ("payment_method.", "setup_intent.succeeded")
"""Types whose objects name the customer that saved a card, or lost one."""
REJECTED_USAGE: Final = "v1.billing.meter.error_report_triggered"
OF_NO_INVOICE: Final = ("invoice.upcoming", "invoice.created", "invoice.updated")
"""There is no such invoice, or nothing is paid of it yet."""


_SECRET: Final = re.compile(rb'("client_secret"\s*:\s*")[^"]*(")')

_Word = Annotated[str, Meta(min_length=1, max_length=255, pattern="^[!-~]+$")]
_NAME: Final = re.compile(r"[!-~]{1,255}", re.ASCII)


class Event(Struct, frozen=True):
    """What we read of an event: a snapshot with its object, or a thin one."""

    id: _Word
    type: _Word
    created: int | str = 0
    livemode: bool = False
    data: dict[str, Any] | None = None
    related_object: dict[str, Any] | None = None


class Kept(Struct, frozen=True):
    """What became of a delivery. `is_new`: it had not been kept before."""

    outcome: Outcome
    is_new: bool


def target_of(event: Event) -> tuple[str, str] | None:
    """The object that an event is news of, and its kind; None: nothing that we look at."""
    if event.type == REJECTED_USAGE and event.data is None:
        return _named(event.id, "meter_report")  # a thin event: it is fetched itself
    told = (event.data or {}).get("object")
    if not isinstance(told, dict):
        return None
    found = cast("dict[str, Any]", told)
    if event.type.startswith("checkout.session."):
        return _named(found.get("id"), "session")
    if event.type.startswith("payment_intent."):
        return _named(found.get("id"), "intent")
    if event.type.startswith(OF_INTENT):
        return _named(found.get("payment_intent"), "intent")
    if event.type.startswith("customer.subscription."):
        return _named(found.get("id"), "subscription")
    if event.type.startswith("subscription_schedule."):
        return _named(found.get("subscription"), "subscription")
    if event.type.startswith("invoice.") and event.type not in OF_NO_INVOICE:
        return _named(found.get("id"), "invoice")
    if event.type in OF_CUSTOMER:
        return _named(found.get("id"), "customer")
    if event.type.startswith(OF_CARD):
        return _named(found.get("customer"), "customer")
    return None


def _named(name: object, kind: str) -> tuple[str, str] | None:
    if isinstance(name, dict):  # expanded
        name = name.get("id")  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        return None
    return name, kind


async def keep(
    conn: Connection, body: bytes, event: Event, *, is_live: bool, marks_again: bool = False
) -> Kept:
    """Keep a delivery, once, and mark what it is about; with `marks_again` also a known one."""
    target = target_of(event)
    outcome: Outcome = "ignored" if target is None else "marked"
    if event.livemode != is_live:
        outcome = "other_mode"
    # A client secret lets its holder pay, and read, in the payer's name: it is kept nowhere.
    body = _SECRET.sub(rb"\1***\2", body)
    kept = await conn.fetchval(
        queries.stripe_event_keep,
        event.id,
        event.type,
        None if target is None else target[0],
        outcome,
        body,
        _created(event),
    )
    if outcome == "marked" and (marks_again or kept is not None):
        assert target is not None
        await mark(conn, *target)
    return Kept(outcome, kept is not None)


async def mark(conn: Connection, object_id: str, kind: str) -> None:
    """There is news of an object: a worker will fetch it."""
    await conn.execute(queries.stripe_mark, object_id, kind)


def _created(event: Event) -> datetime:
    if isinstance(event.created, int):
        at = datetime.fromtimestamp(event.created, UTC)
    else:
        at = datetime.fromisoformat(event.created)
    if not 1 < at.year < 9999:  # PostgreSQL counts on, Python's times in other zones don't
        raise ValueError(f"no such time: {event.created}")
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def read_event(body: bytes) -> Event:
    """An event from its bytes. Raises ValueError, also for a time that there is not."""
    try:
        event = msgspec.json.decode(body, type=Event)
        _created(event)
    except (msgspec.DecodeError, RecursionError, OverflowError, OSError) as error:
        raise ValueError(str(error)) from error
    return event
