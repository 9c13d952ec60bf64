"""The words of metering, for tests: events of one customer, meters, and what they counted."""

from collections.abc import Sequence
from datetime import UTC
from typing import Any

import msgspec

from ledger import customers
from ledger.outcome import Outcome
from ledger.rated import QUANTITY_SCALE, Usage, UsageItem
from ledger.requests import ChargeEvents, Consume, EventRef, GrantCredit, Request
from ledger.state import Settings
from ledger.transact import transact
from meter import catalog, corrections, meters
from meter.catalog import Aggregation, Catalog, ChargedBy
from meter.charging import Pricer
from meter.corrections import Asked, follow_nothing
from meter.events import OUR_SOURCE, Fact, fact_of, record
from meter.facts import EventFacts
from meter.publishing import publish_version
from meter.rate_cards import RateBody
from sql import queries
from sql.pool import Connection
from tests.http import Api

SENT = {"source": "app", "type": "call", "subject": "acme"}


def event(id_: str, **members: Any) -> dict[str, Any]:
    """A usage event of `acme`; members of data beside those of the event."""
    return {"id": id_, **SENT, **members}


async def meter(api: Api, key: str, **members: Any) -> None:
    body = {"event_type": "call", "aggregation": "count", **members}
    answer = await api.put(f"/v1/meters/{key}", body)
    assert answer.status in (200, 201), answer


async def send(api: Api, *events: Any) -> list[tuple[int, str | None]]:
    """A batch: status and code of each of its events."""
    answer = await api.post("/v1/events", list(events), key=None)
    assert answer.status == 200, answer
    results = [(one["status"], one.get("code")) for one in answer.body["results"]]
    counted = [answer.body[name] for name in ("accepted", "duplicates", "rejected")]
    statuses = [status for status, _ in results]
    accepted, duplicates = statuses.count(202), statuses.count(200)
    assert counted == [accepted, duplicates, len(events) - accepted - duplicates]
    return results


async def usage(api: Api, key: str, **query: str) -> Any:
    glue = "&".join(f"{name}={value}" for name, value in {"customer_id": "acme", **query}.items())
    answer = await api.get(f"/v1/meters/{key}/usage?{glue}")
    assert answer.status == 200, answer
    return answer.body


# Without HTTP


async def define(
    conn: Connection,
    key: str,
    aggregation: Aggregation = "count",
    value_property: str | None = None,
    *,
    event_type: str = "call",
    charge: ChargedBy = "none",
    filters: dict[str, Any] | None = None,
    group_by: dict[str, str] | None = None,
) -> Catalog:
    """Make a meter; the catalog with it."""
    wanted = meters.Wanted(
        key=key,
        event_type=event_type,
        aggregation=aggregation,
        value_property=value_property,
        group_by=group_by or {},
        filters=filters,
        unit=None,
        charge=charge,
    )
    async with conn.transaction():
        await meters.put(conn, wanted)
    return await catalog.read(conn)


async def fact(conn: Connection, customer_no: int, id_: str, **members: Any) -> Fact:
    """An event of the type `call` that happens now."""
    now = await customers.now(conn)
    given: dict[str, Any] = {
        "source": "app",
        "type": "call",
        "time": now,
        "received_at": now,
        "data": {},
    }
    return fact_of(customer_no=customer_no, id=id_, **{**given, **members})


async def take_in(conn: Connection, known: Catalog, facts: Sequence[Fact]) -> list[str]:
    """Record facts in a transaction of their own: their fates."""
    async with conn.transaction():
        await catalog.hold(conn, known=known.version)
        return [one.fate for one in await record(conn, facts, known)]


async def change_event(
    conn: Connection, known: Catalog, customer_no: int, id_: str, data: dict[str, Any] | None
) -> None:
    """Replace an event's data, or cancel it (None)."""
    asked = Asked(
        customer_no=customer_no,
        correction_id=f"fix-{id_}",
        source="app",
        id=id_,
        action="cancel" if data is None else "replace",
        data=data,
        time=None,
    )
    async with conn.transaction():
        await catalog.hold(conn, known=known.version)
        await corrections.correct(conn, asked, known, follow_nothing)


async def use_something(conn: Connection, customer_nos: Sequence[int]) -> Catalog:
    """Meters of several kinds, and for each customer something in every table of usage."""
    await define(conn, "calls", charge="events")
    await define(conn, "tokens", "sum", "n", charge="calls", group_by={"model": "m"})
    await define(conn, "users", "unique", "user")
    await define(conn, "largest", "max", "n", charge="events")
    known = await define(conn, "few", filters={"property": "n", "lt": 3})
    calls = known.meters["calls"].meter_no
    for no in customer_nos:
        facts = [
            await fact(conn, no, "e1", data={"n": 2, "m": "a\ttab", "user": "u1"}),
            await fact(conn, no, "e2", data={"n": "?", "m": "ü", "user": 'u"2'}, extensions="{}"),
            await fact(conn, no, "e3", data={"n": 5, "user": "u1"}),
            await fact(conn, no, "e4", data={"n": 7, "user": "u3"}),
            await fact(conn, no, "c1", source=OUR_SOURCE, meters=(calls,)),
        ]
        assert await take_in(conn, known, facts) == ["new"] * 5
        await conn.execute(queries.meter_rebuilt, no, calls, facts[0].time)
        await change_event(conn, known, no, "e3", None)
        await change_event(conn, known, no, "e4", {"n": "0.5", "m": "b", "user": "u4"})
    return known


async def pay_for_something(conn: Connection, customer_nos: Sequence[int]) -> Catalog:
    """Each customer has used something by `use_something`, and is charged: a call, then one that
    makes the first cheaper, and an event. In points, of a grant of its own."""
    await customers.put_asset(conn, "points", 0)
    tiers = [{"up_to": "10", "unit_price": "1"}, {"unit_price": "0.5"}]
    rates = [
        {"meter": "tokens", "tiers": tiers, "tier_mode": "volume"},
        {"meter": "mails", "unit_price": "3"},
    ]
    await define(conn, "mails", charge="events", event_type="mail")
    known = await catalog.read(conn)
    if "default" not in known.cards:
        async with conn.transaction():
            await catalog.change(conn)
            bodies = msgspec.convert(rates, list[RateBody])
            await publish_version(conn, known, "default", "points", None, bodies)
        known = await catalog.read(conn)
    scales = {asset.code: asset.scale for asset in await customers.assets(conn)}
    settings = Settings(scales=scales, books_time_zone=UTC, pricing=Pricer(known, scales))

    async def ask(request: Request) -> None:
        async with conn.transaction():
            [result] = await transact(
                conn, [request], settings, _render, wait=True, facts=EventFacts(lambda: known)
            )
        assert result is not None
        assert result.status in (200, 201), result.body

    mails = known.meters["mails"].meter_no
    for no in customer_nos:
        amount: dict[str, Any] = {"asset": "points", "amount": 100, "category": "promotional"}
        await ask(GrantCredit(customer_no=no, operation="grant", **amount))
        for quantity in (8, 4):
            used = UsageItem("tokens", quantity * 10**QUANTITY_SCALE, {"model": "x"})
            bought = Usage((used,))
            await ask(Consume(customer_no=no, operation="consume", asset=None, usage=bought))
        event = await fact(conn, no, "m1", type="mail")
        await take_in(conn, known, [event])
        named = EventRef("mails", mails, event.source, event.id, event.time)
        await ask(ChargeEvents(customer_no=no, operation="charge_events", events=(named,)))
        await conn.execute(queries.unrated_events_done, [no], [mails], [event.source], [event.id])
    return known


def _render(_: Request, outcome: Outcome) -> bytes:
    return msgspec.json.encode(outcome.answer)
