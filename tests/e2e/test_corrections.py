"""Corrections through HTTP: usage follows, the event stays, and whoever charged it is asked."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from meter.corrections import Correction
from meter.events import Fact
from meter.problems import ProblemError
from sql.pool import Connection, Pool
from tests.http import Answer, Api, Running, serving, wire_time
from tests.metering import event, meter, send, usage


@pytest.fixture
async def running(pool: Pool) -> AsyncGenerator[Running]:
    async with serving(pool) as made:
        await made.api.customer("acme")
        yield made


@pytest.fixture
def api(running: Running) -> Api:
    return running.api


async def correct(api: Api, id_: str, name: str, action: str, **members: Any) -> Answer:
    body = {"customer_id": "acme", "source": "app", "id": id_, "correction_id": name}
    return await api.post("/v1/events/correct", {**body, "action": action, **members}, key=None)


AGGREGATIONS = ("sum", "min", "max", "avg", "latest", "unique")


async def values(api: Api) -> dict[str, str | None]:
    return {key: (await usage(api, key))["value"] for key in ("count", *AGGREGATIONS)}


async def define_all(api: Api) -> None:
    await meter(api, "count")
    for aggregation in AGGREGATIONS:
        await meter(api, aggregation, aggregation=aggregation, value_property="n")


async def test_cancel_and_replace_repair_every_aggregation(api: Api) -> None:
    await define_all(api)
    await send(api, *(event(f"e{n}", data={"n": n}) for n in (5, 1, 9)))
    assert await values(api) == {
        "count": "3", "sum": "15", "min": "1", "max": "9", "avg": "5", "latest": "9", "unique": "3"
    }  # fmt: skip
    assert (await correct(api, "e9", "c1", "cancel")).status == 201
    assert (await correct(api, "e1", "c2", "replace", data={"n": 5})).status == 201
    assert await values(api) == {
        "count": "2", "sum": "10", "min": "5", "max": "5", "avg": "5", "latest": "5", "unique": "1"
    }  # fmt: skip
    assert (await correct(api, "e1", "c3", "cancel")).status == 201
    assert (await correct(api, "e5", "c4", "cancel")).status == 201
    nothing = dict.fromkeys(("min", "max", "avg", "latest"))
    assert await values(api) == {"count": "0", "sum": "0", "unique": "0", **nothing}


async def test_correction_sent_again_is_a_duplicate_and_other_content_a_conflict(
    api: Api,
) -> None:
    await meter(api, "sum", aggregation="sum", value_property="n")
    await send(api, event("e1", data={"n": 5}), event("e2", data={"n": 1}))
    first = await correct(api, "e1", "c1", "replace", data={"n": 7})
    again = await correct(api, "e1", "c1", "replace", data={"n": 7})
    assert (first.status, first.body["duplicate"]) == (201, False)
    assert (again.status, again.body["duplicate"]) == (200, True)
    assert first.body["created_at"] == again.body["created_at"]
    for other in (
        await correct(api, "e1", "c1", "replace", data={"n": 8}),
        await correct(api, "e1", "c1", "cancel"),
        await correct(api, "e2", "c1", "replace", data={"n": 7}),
    ):
        assert (other.status, other.code) == (409, "event_conflict")
    assert (await usage(api, "sum"))["value"] == "8"


async def test_cancelled_event_is_not_corrected_again(api: Api) -> None:
    await send(api, event("e1"))
    assert (await correct(api, "e1", "c1", "cancel")).status == 201
    for name, action in (("c2", "cancel"), ("c3", "replace")):
        more: dict[str, Any] = {} if action == "cancel" else {"data": {}}
        answer = await correct(api, "e1", name, action, **more)
        assert (answer.status, answer.code) == (409, "event_cancelled")
    assert (await correct(api, "e1", "c1", "cancel")).status == 200
    assert await send(api, event("e1")) == [(200, None)], "as it was sent, it is known for ever"


async def test_event_that_is_not_there_is_not_found(api: Api) -> None:
    answer = await correct(api, "nothing", "c1", "cancel")
    assert (answer.status, answer.code) == (404, "event_not_found")
    foreign = await api.key("usage:write", customer_id="acme")
    await api.customer("other")
    await send(api, event("e1", subject="other"))
    hidden = await correct(foreign, "e1", "c1", "cancel")
    assert (hidden.status, hidden.code) == (404, "event_not_found")


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({"action": "replace"}, "/data", "invalid_value"),
        ({"action": "cancel", "data": {}}, "/data", "invalid_value"),
        ({"action": "replace", "data": {"n": -1}}, "/data", "invalid_value"),
        ({"action": "replace", "data": {"n": "x" * 65_536}}, "/data", "invalid_value"),
        ({"action": "undo"}, "/action", "invalid_value"),
        ({"action": "cancel", "correction_id": "a\nb"}, "/correction_id", "invalid_value"),
        ({"action": "cancel", "time": "now"}, "/time", "invalid_timestamp"),
        ({"action": "cancel", "other": 1}, "/other", "unknown_member"),
    ],
    ids=str,
)
async def test_bad_correction_is_refused_and_changes_nothing(
    api: Api, members: dict[str, Any], pointer: str, code: str
) -> None:
    await meter(api, "sum", aggregation="sum", value_property="n")
    await send(api, event("e1", data={"n": 5}))
    body = {"customer_id": "acme", "source": "app", "id": "e1", "correction_id": "c", **members}
    answer = await api.post("/v1/events/correct", body, key=None)
    assert (answer.status, answer.code) == (422, code), answer
    assert answer.body["errors"][0]["pointer"] == pointer
    assert (await usage(api, "sum"))["value"] == "5"


async def test_replaced_event_may_be_read_after_all_or_no_more(api: Api) -> None:
    await meter(api, "count")
    await meter(api, "sum", aggregation="sum", value_property="n")
    await send(api, event("e1", data={"n": "?"}), event("e2", data={"n": 2}))
    await correct(api, "e1", "c1", "replace", data={"n": 3})
    await correct(api, "e2", "c2", "replace", data={"n": "?"})
    assert (await usage(api, "count"))["value"] == "2"
    assert (await usage(api, "sum"))["value"] == "3"
    listed = {one["key"]: one for one in (await api.get("/v1/meters")).body["data"]}
    assert [one["id"] for one in listed["sum"]["rejects"]] == ["e2"]


async def test_meter_that_counts_first_through_a_correction_is_used(api: Api) -> None:
    await meter(api, "some", filters={"property": "m", "eq": "a"})
    await send(api, event("e1"))
    await correct(api, "e1", "c1", "replace", data={"m": "a"})
    changed = {"event_type": "other", "aggregation": "count"}
    answer = await api.put("/v1/meters/some", changed)
    assert (answer.status, answer.code) == (409, "meter_in_use")


async def test_event_moves_to_the_group_of_its_new_data(api: Api) -> None:
    await meter(api, "sum", aggregation="sum", value_property="n", group_by={"model": "m"})
    await send(api, event("e1", data={"n": 2, "m": "a"}), event("e2", data={"n": 3, "m": "a"}))
    await correct(api, "e1", "c1", "replace", data={"n": 2, "m": "b"})
    found = await usage(api, "sum", group_by="model")
    assert {g["dimensions"]["model"]: g["value"] for g in found["groups"]} == {"a": "3", "b": "2"}


async def test_event_is_found_by_its_time_when_its_identity_is_forgotten(api: Api) -> None:
    await meter(api, "count")
    at = await api.now()
    await send(api, event("e1", time=wire_time(at)))
    await api.clock(at.replace(year=at.year + 1))
    await api.post("/v1/jobs/forget_guards/run", {}, key=None)
    lost = await correct(api, "e1", "c1", "cancel")
    assert (lost.status, lost.code) == (404, "event_not_found")
    assert (await correct(api, "e1", "c1", "cancel", time=wire_time(at))).status == 201
    whole = {"from": wire_time(at.replace(minute=0, second=0, microsecond=0))}
    assert (await usage(api, "count", **whole))["value"] == "0"


async def test_who_charged_the_event_follows_in_the_same_transaction(
    running: Running, pool: Pool
) -> None:
    told: list[tuple[Correction, Fact]] = []

    async def follow(conn: Connection, correction: Correction, event: Fact) -> None:
        assert conn.is_in_transaction()
        told.append((correction, event))
        if correction.after is None:
            raise ProblemError(409, "charge_not_found", "It can't be undone.")

    running.service.follow = follow
    api = running.api
    await meter(api, "sum", aggregation="sum", value_property="n")
    await send(api, event("e1", data={"n": 5}))
    await correct(api, "e1", "c1", "replace", data={"n": 7})
    await correct(api, "e1", "c2", "replace", data={"n": 8})
    refused = await correct(api, "e1", "c3", "cancel")
    assert refused.status == 409
    assert [(c.before, c.after, c.number) for c, _ in told] == [
        ({"n": 5}, {"n": 7}, 1),
        ({"n": 7}, {"n": 8}, 2),
        ({"n": 8}, None, 3),
    ]
    assert {fact.id for _, fact in told} == {"e1"}
    assert {fact.text for _, fact in told} == {'{"n":5}'}, "as it was sent"
    assert (await usage(api, "sum"))["value"] == "8", "what was refused changed nothing"
    assert await pool.fetchval("SELECT count(*) FROM corrections") == 2


async def test_corrections_beside_events_of_the_same_grain_lose_nothing(api: Api) -> None:
    await define_all(api)
    await send(api, *(event(f"a{n}", data={"n": n}) for n in range(20)))
    answers = await asyncio.gather(
        *(correct(api, f"a{n}", f"c{n}", "cancel") for n in range(20)),
        *(api.post("/v1/events", event(f"b{n}", data={"n": n}), key=None) for n in range(10)),
        *(send(api, *(event(f"d{k}-{n}", data={"n": n}) for n in range(10))) for k in range(4)),
    )
    assert {a.status for a in answers if isinstance(a, Answer)} <= {201, 202}
    found = await values(api)
    assert (found["count"], found["sum"], found["unique"]) == ("50", "225", "10")
    assert (found["min"], found["max"], found["avg"]) == ("0", "9", "4.5")
