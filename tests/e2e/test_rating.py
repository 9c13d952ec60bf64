"""Events that the job charges: once, by their own time; and what follows their corrections."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from typing import Any

import pytest

from jobs import rate_usage
from sql.pool import Pool
from tests.http import Answer, Api, serving, wire_time
from tests.prices import consume, make_meter, publish, use

MINUTE = timedelta(minutes=1)
SENT = {"source": "app", "subject": "acme"}
FLAT = {"meter": "tokens", "unit_price": "0.5"}


@pytest.fixture
async def api(pool: Pool) -> AsyncGenerator[Api]:
    """A sandbox with a meter that charges events, its price, and `acme`, who has 100."""
    async with serving(pool) as running:
        await make_meter(running.api, "tokens", charge="events")
        await running.api.customer("acme")
        await running.api.grant("100")
        await publish(running.api, [FLAT])
        yield running.api


async def send(api: Api, id_: str, quantity: int | str, **members: Any) -> Answer:
    body = {**SENT, "id": id_, "type": "tokens", "data": {"quantity": quantity}, **members}
    answer = await api.post("/v1/events", body, key=None)
    assert answer.status in (200, 202), answer
    return answer


async def rate(api: Api) -> dict[str, int]:
    ran = await api.post("/v1/jobs/rate_usage/run", key=None)
    assert (ran.status, ran.body["error"]) == (200, None), ran
    return ran.body["counts"]


async def correct(api: Api, id_: str, correction: str, quantity: int | None = None) -> Answer:
    body: dict[str, Any] = {
        "customer_id": "acme",
        "source": "app",
        "id": id_,
        "correction_id": correction,
        "action": "cancel" if quantity is None else "replace",
    }
    if quantity is not None:
        body["data"] = {"quantity": quantity}
    return await api.post("/v1/events/correct", body, key=None)


async def posted(api: Api) -> str:
    return (await api.posted())[0]


async def charges(api: Api) -> list[str]:
    """The amounts of all charges, the oldest first."""
    found = (await api.get("/v1/charges?customer_id=acme&limit=100")).body["data"]
    return [one["amount"] for one in reversed(found)]


async def waiting(pool: Pool) -> list[str | None]:
    return [row[0] for row in await pool.fetch("SELECT refusal FROM unrated_events ORDER BY id")]


async def test_events_are_charged_once_each(api: Api, pool: Pool) -> None:
    for number in range(4):
        await send(api, f"e{number}", 10)
    await send(api, "e0", 10)
    assert await posted(api) == "100", "nothing is charged at the door"
    assert (await rate(api))["events"] == 4
    assert await posted(api) == "80"
    assert (await rate(api))["events"] == 0
    assert await charges(api) == ["5"] * 4
    assert await waiting(pool) == []


async def test_event_is_priced_by_the_version_and_the_lots_of_its_own_time(api: Api) -> None:
    before = await api.now()
    await api.clock(before + 60 * MINUTE)
    await publish(api, [{"meter": "tokens", "unit_price": "1"}])
    await api.clock(before + 120 * MINUTE)
    await send(api, "late", 10, time=wire_time(before + 30 * MINUTE))
    await send(api, "now", 10)
    await rate(api)
    assert sorted(await charges(api)) == ["10", "5"]


async def test_what_lots_do_not_cover_is_owed_and_told(api: Api) -> None:
    await send(api, "e1", 250)
    await rate(api)
    balance = await api.balance()
    assert (balance["posted"], balance["owed"]) == ("0", "25")
    assert (await api.get("/v1/customers/acme")).body["over_limit"] is True
    await api.grant("40")
    balance = await api.balance()
    assert (balance["posted"], balance["owed"]) == ("15", "0")
    assert (await api.get("/v1/customers/acme")).body["over_limit"] is False


async def test_event_without_a_price_waits_until_there_is_one(api: Api, pool: Pool) -> None:
    await make_meter(api, "pages", charge="events")
    await send(api, "p1", 3, type="pages")
    assert (await rate(api))["unpriced_events"] == 1
    assert await waiting(pool) == ["no_rate"]
    shown = {one["key"]: one["waiting"] for one in (await api.get("/v1/meters")).body["data"]}
    assert shown == {
        "pages": {"count": 1, "refusals": [{"code": "no_rate", "count": 1}]},
        "tokens": {"count": 0, "refusals": []},
    }
    await publish(api, [FLAT, {"meter": "pages", "unit_price": "2"}])
    await rate(api)
    assert await posted(api) == "100", "a moment ago there was no price: that is not asked at once"
    await api.clock(await api.now() + 6 * MINUTE)
    await rate(api)
    # By the version in force at its own time, which still has none.
    assert await posted(api) == "100"
    await send(api, "p2", 3, type="pages")
    await rate(api)
    assert await posted(api) == "94"


async def test_event_dated_ahead_is_charged_when_its_time_has_come(api: Api) -> None:
    now = await api.now()
    await send(api, "soon", 10, time=wire_time(now + 30 * MINUTE))
    await rate(api)
    assert await posted(api) == "100"
    await api.clock(now + 31 * MINUTE)
    await rate(api)
    assert await posted(api) == "95"


async def test_allowance_and_tiers_count_events_of_a_period_once(api: Api) -> None:
    tiers = [{"up_to": "10", "unit_price": "1"}, {"unit_price": "0.1"}]
    await publish(
        api, [{"meter": "tokens", "allowance": "5", "tiers": tiers, "tier_mode": "graduated"}]
    )
    for number in range(4):
        await send(api, f"e{number}", 5)
    await rate(api)
    assert sum(map(float, await charges(api))) == pytest.approx(0 + 5 + 5 + 0.5)


@pytest.mark.parametrize("quantity", [None, 4, 30])
async def test_correction_of_a_charged_event_moves_its_charge(
    api: Api, pool: Pool, quantity: int | None
) -> None:
    await send(api, "e1", 10)
    await send(api, "e2", 10)
    await rate(api)
    first = await correct(api, "e1", "c1", quantity)
    assert first.status == 201, first
    again = await correct(api, "e1", "c1", quantity)
    assert again.status == 200, again
    left = 100 - 5 - (quantity or 0) / 2
    assert float(await posted(api)) == left
    await rate(api)
    assert float(await posted(api)) == left
    assert await waiting(pool) == []


async def test_correction_before_charging_charges_what_it_says_then(api: Api) -> None:
    await send(api, "e1", 10)
    await send(api, "e2", 10)
    assert (await correct(api, "e1", "c1", 20)).status == 201
    assert (await correct(api, "e2", "c2")).status == 201
    await rate(api)
    assert await charges(api) == ["10"]
    assert await posted(api) == "90"


async def test_corrections_keep_the_counter_of_tiers(api: Api) -> None:
    tiers = [{"up_to": "10", "unit_price": "1"}, {"unit_price": "0.1"}]
    await publish(api, [{"meter": "tokens", "tiers": tiers, "tier_mode": "graduated"}])
    await send(api, "e1", 10)
    await send(api, "e2", 10)
    await rate(api)
    assert await posted(api) == "89"
    assert (await correct(api, "e1", "c1")).status == 201
    # What e1 had taken of the first tier is free again for what comes next.
    await send(api, "e3", 10)
    await rate(api)
    left = float(await posted(api))
    assert left in (89.0, 98.0), left


async def test_fact_that_a_call_charged_is_not_charged_by_its_event(api: Api) -> None:
    item = {**use("tokens", 10), "source": "app", "event_id": "e1"}
    charged = await consume(api, item)
    assert charged.status == 201, charged
    sent = await api.post(
        "/v1/events", {**SENT, "id": "e1", "type": "tokens", "data": {"quantity": 10}}, key=None
    )
    assert sent.status == 200, "the same fact is known"
    await rate(api)
    assert await posted(api) == "95"
    again = await consume(api, item)
    assert (again.status, again.code) == (409, "event_already_charged")
    assert again.body["charge_id"] == charged.body["id"]
    other = await api.post(
        "/v1/events", {**SENT, "id": "e1", "type": "tokens", "data": {"quantity": 11}}, key=None
    )
    assert (other.status, other.code) == (409, "event_conflict")


async def test_fact_that_its_event_charged_is_not_charged_by_a_call(api: Api) -> None:
    await send(api, "e1", 10)
    item = {**use("tokens", 10), "source": "app", "event_id": "e1"}
    before = await consume(api, item)
    assert before.status == 201, before
    assert (await rate(api))["events"] == 0, "a call has charged it meanwhile"
    assert await posted(api) == "95"
    await send(api, "e2", 10)
    await rate(api)
    after = await consume(api, {**use("tokens", 10), "source": "app", "event_id": "e2"})
    assert (after.status, after.code) == (409, "event_already_charged")
    wrong = await consume(api, {**use("tokens", 9), "source": "app", "event_id": "e3"})
    assert wrong.status == 201, wrong
    conflict = await consume(api, {**use("tokens", 10), "source": "app", "event_id": "e3"})
    assert conflict.status == 409, conflict
    assert await posted(api) == "85.5"


async def test_same_facts_by_both_ways_at_once_are_charged_once(api: Api) -> None:
    async def call(number: int) -> None:
        item = {**use("tokens", 2), "source": "app", "event_id": f"e{number}"}
        answer = await consume(api, item)
        assert answer.status in (201, 409), answer

    work = [send(api, f"e{n}", 2) for n in range(20)] + [call(n) for n in range(20)]
    await asyncio.gather(*work, rate(api))
    await rate(api)
    assert await posted(api) == "80"
    assert sorted(await charges(api)) == ["1"] * 20


async def test_run_that_is_cut_off_before_its_note_doubles_nothing(
    api: Api, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await send(api, f"e{number}", 10)
    with monkeypatch.context() as patch:
        patch.setattr(rate_usage.queries, "unrated_events_done", "SELECT 1 / 0")
        ran = await api.post("/v1/jobs/rate_usage/run", key=None)
        assert ran.body["error"] is not None
    assert len(await waiting(pool)) == 3
    assert await posted(api) == "85", "charged, and not noted"
    await rate(api)
    assert await posted(api) == "85"
    assert await waiting(pool) == []


async def test_many_customers_are_charged_in_one_run(api: Api) -> None:
    names = [f"c{number}" for number in range(12)]
    for name in names:
        await api.customer(name)
        await api.grant("10", name)
    events = [
        {**SENT, "subject": name, "id": f"{name}-{n}", "type": "tokens", "data": {"quantity": 2}}
        for name in names
        for n in range(3)
    ]
    sent = await api.post("/v1/events", events, key=None)
    assert sent.body["accepted"] == 36
    assert (await rate(api))["events"] == 36
    for name in names:
        balance = (await api.get(f"/v1/customers/{name}/balance")).body
        assert balance["posted"] == "7", name


async def test_late_event_of_a_closed_month_books_in_the_open_one(api: Api, pool: Pool) -> None:
    now = await api.now()
    await api.clock(now.replace(day=1, hour=12) + timedelta(days=33))
    month = (await api.now()).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last = month - timedelta(days=1)
    await pool.execute("UPDATE installation SET closed_through = $1", last.date())
    await send(api, "late", 10, time=wire_time(last))
    await rate(api)
    [charge] = (await api.get("/v1/journals?customer_id=acme&kind=charge")).body["data"]
    assert datetime.fromisoformat(charge["effective_at"]) == last
    assert charge["book_date"] == month.date().isoformat()
    assert charge["late_for"] == f"{last:%Y-%m}"
