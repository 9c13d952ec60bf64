"""Usage through HTTP: windows of a zone, groups, filters; meters and their definitions."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import pytest

from sql.pool import Pool
from tests.http import Api, serving, set_clock, wire_time
from tests.metering import event, meter, send, usage


@pytest.fixture
async def api(pool: Pool) -> AsyncGenerator[Api]:
    async with serving(pool) as made:
        await made.api.customer("acme")
        yield made.api


async def at_time(pool: Pool, now: datetime) -> None:
    await set_clock(pool, now)


async def test_days_of_a_zone_hold_what_happened_in_them(pool: Pool) -> None:
    await at_time(pool, datetime(2026, 6, 3, tzinfo=UTC))
    async with serving(pool) as run:
        api = run.api
        await api.customer("acme", time_zone="Asia/Kolkata")
        await meter(api, "calls")
        times = ("2026-06-01T18:29:59Z", "2026-06-01T18:30:00Z")
        await send(api, *(event(at, time=at) for at in times))
        # The customer's own zone, and the same zone asked for.
        for more in ({}, {"time_zone": "Asia/Kolkata"}):
            found = await usage(
                api,
                "calls",
                window="day",
                **{"from": "2026-05-31T18:30:00Z", "to": "2026-06-02T18:30:00Z"},
                **more,
            )
            assert found["time_zone"] == "Asia/Kolkata"
            assert [one["value"] for one in found["windows"]] == ["1", "1"]
            assert [one["from"] for one in found["windows"]] == [
                "2026-05-31T18:30:00Z",
                "2026-06-01T18:30:00Z",
            ]
            assert found["value"] == "2"


async def test_month_of_budapest_starts_an_hour_before_that_of_utc(api: Api) -> None:
    await meter(api, "calls")
    found = await usage(
        api,
        "calls",
        window="month",
        time_zone="Europe/Budapest",
        **{"from": "2024-12-01T00:00:00Z", "to": "2025-02-01T00:00:00Z"},
    )
    starts = [one["from"] for one in found["windows"]]
    assert starts == ["2024-12-01T00:00:00Z", "2024-12-31T23:00:00Z", "2025-01-31T23:00:00Z"]


@pytest.mark.parametrize(("day", "hours"), [("11-01", 25), ("03-08", 23), ("07-01", 24)])
async def test_day_has_as_many_hours_as_its_zone_says(api: Api, day: str, hours: int) -> None:
    await meter(api, "calls")
    ask = {
        "11-01": ("2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
        "03-08": ("2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"),
        "07-01": ("2026-07-01T04:00:00Z", "2026-07-02T04:00:00Z"),
    }[day]
    query = {"from": ask[0], "to": ask[1], "time_zone": "America/New_York"}
    by_hour = await usage(api, "calls", window="hour", **query)
    by_day = await usage(api, "calls", window="day", **query)
    assert (len(by_hour["windows"]), len(by_day["windows"])) == (hours, 1)


async def test_minutes_are_read_from_raw_events(api: Api) -> None:
    await meter(api, "sum", aggregation="sum", value_property="n", group_by={"m": "m"})
    now = (await api.now()).replace(second=0, microsecond=0)
    first = now.replace(minute=0)
    times = [first.replace(second=s) for s in (0, 59)] + [first.replace(minute=1)]
    sent = [
        event(f"e{i}", time=wire_time(at), data={"n": i + 1, "m": "x"})
        for i, at in enumerate(times)
    ]
    await send(api, *sent)
    span = {"from": wire_time(first), "to": wire_time(first.replace(minute=3))}
    found = await usage(api, "sum", window="minute", group_by="m", **span)
    assert [(one["value"], one["events"]) for one in found["windows"]] == [
        ("3", 2),
        ("3", 1),
        ("0", 0),
    ]
    assert (found["value"], found["events"]) == ("6", 3)
    assert [one["groups"] for one in found["windows"]][2] == []


@pytest.mark.parametrize(
    "query",
    [
        "",
        "customer_id=acme&window=week",
        "customer_id=acme&from=2026-01-01T00:07:00Z&to=2026-01-02T00:00:00Z&window=day",
        "customer_id=acme&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
        "customer_id=acme&from=2026-01-01T00:00:00Z&to=2026-03-10T00:00:00Z&window=hour",
        "customer_id=acme&from=2026-01-01T00:00:00Z&to=2026-01-02T00:15:00Z&window=minute",
        "customer_id=acme&from=2026-01-01T00:00:01Z&to=2026-01-01T01:00:00Z&window=minute",
        "customer_id=acme&from=1971-06-01T00:00:00Z&to=1971-06-09T00:00:00Z&window=day"
        "&time_zone=Africa/Monrovia",
        "customer_id=acme&group_by=color",
        "customer_id=acme&group_by=model,model",
        "customer_id=acme&filter[color]=x",
        "customer_id=acme&filter=x",
        "customer_id=acme&filter[model]=x&filter[model]=y",
        "customer_id=acme&window[a]=day",
        "customer_id=acme&other=1",
    ],
)
async def test_question_that_can_not_be_answered_is_refused(api: Api, query: str) -> None:
    await meter(api, "calls", group_by={"model": "m"})
    answer = await api.get(f"/v1/meters/calls/usage?{query}")
    assert (answer.status, answer.code) == (422, "invalid_query"), answer
    assert answer.body["detail"]


async def test_unknown_meter_customer_and_zone_are_told(api: Api) -> None:
    absent = await api.get("/v1/meters/nothing/usage?customer_id=acme")
    assert (absent.status, absent.code) == (404, "meter_not_found")
    await meter(api, "calls")
    nobody = await api.get("/v1/meters/calls/usage?customer_id=nobody")
    assert (nobody.status, nobody.code) == (404, "customer_not_found")
    nowhere = await api.get("/v1/meters/calls/usage?customer_id=acme&time_zone=Mars/Base")
    assert (nowhere.status, nowhere.code) == (422, "invalid_time_zone")


# LLM usage


async def test_llm_usage_counts_no_token_twice(api: Api) -> None:
    names = ("input", "cache_read", "cache_write", "output", "reasoning")
    for name in names:
        await meter(
            api,
            name,
            event_type="llm.usage",
            aggregation="sum",
            value_property=f"billable.{name}_tokens",
            group_by={"model": "gen_ai.request.model"},
        )
    plain = {
        "input_tokens": 2000,
        "cache_read_tokens": 500,
        "cache_write_tokens": 300,
        "output_tokens": 100,
        "reasoning_tokens": 40,
    }
    otel = {
        "gen_ai.usage.input_tokens": 2000,
        "gen_ai.usage.cache_read.input_tokens": 500,
        "gen_ai.usage.cache_creation.input_tokens": 300,
        "gen_ai.usage.output_tokens": 100,
        "gen_ai.usage.reasoning.output_tokens": 40,
        "gen_ai.request.model": "large",
    }
    sent = {"type": "llm.usage"}
    assert (
        await send(api, event("a", **sent, data=plain), event("b", **sent, data=otel))
        == [(202, None)] * 2
    )
    found = {name: await usage(api, name) for name in names}
    assert {name: one["value"] for name, one in found.items()} == {
        "input": "2400",
        "cache_read": "1000",
        "cache_write": "600",
        "output": "120",
        "reasoning": "80",
    }
    large = await usage(api, "input", **{"filter[model]": "large"})
    assert large["value"] == "1200"


async def test_llm_usage_that_contradicts_itself_is_refused(api: Api) -> None:
    data = {"input_tokens": 100, "cache_read_tokens": 500}
    sent = event("a", type="llm.usage", data=data)
    answer = await api.post("/v1/events", sent, key=None)
    assert (answer.status, answer.code) == (422, "invalid_value")
    assert "input_includes_cached" in answer.body["detail"]
    beside = event("a", type="llm.usage", data={**data, "input_includes_cached": False})
    assert await send(api, beside) == [(202, None)]


# Meters


async def test_meter_is_made_changed_and_listed(api: Api) -> None:
    body: dict[str, Any] = {
        "event_type": "call",
        "aggregation": "sum",
        "value_property": "usage.n",
        "group_by": {"model": "m"},
        "filters": {"and": [{"property": "m", "in": ["a", "b"]}, {"property": "usage.n", "gt": 0}]},
        "unit": "token",
        "charge": "events",
    }
    made = await api.put("/v1/meters/tokens", body)
    again = await api.put("/v1/meters/tokens", body)
    assert (made.status, again.status) == (201, 200)
    assert made.body == again.body
    assert {name: made.body[name] for name in body} == body
    changed = await api.put("/v1/meters/tokens", {**body, "aggregation": "max"})
    assert (changed.status, changed.body["aggregation"]) == (200, "max")
    listed = await api.get("/v1/meters")
    assert listed.body["data"] == [changed.body]


async def test_filters_choose_the_events_of_a_meter(api: Api) -> None:
    await meter(api, "some", filters={"or": [{"property": "m", "like": "gpt-%"}]})
    data = [{"m": "gpt-4"}, {"m": "claude"}, {}, {"m": 4}]
    await send(api, *(event(f"e{i}", data=one) for i, one in enumerate(data)))
    assert (await usage(api, "some"))["value"] == "1"


async def test_used_meter_keeps_its_definition(api: Api) -> None:
    body = {"event_type": "call", "aggregation": "count"}
    await meter(api, "calls", unit="call")
    await send(api, event("e1"))
    changes: list[dict[str, Any]] = [
        {"event_type": "other"},
        {"group_by": {"m": "m"}},
        {"filters": {"property": "m", "eq": 1}},
    ]
    for change in changes:
        answer = await api.put("/v1/meters/calls", {**body, **change})
        assert (answer.status, answer.code) == (409, "meter_in_use"), answer
    for unit, charge in (("request", "none"), (None, "events"), ("call", "calls")):
        answer = await api.put("/v1/meters/calls", {**body, "unit": unit, "charge": charge})
        assert (answer.status, answer.body["unit"], answer.body["charge"]) == (200, unit, charge)


async def test_meter_that_only_rejected_keeps_its_definition(api: Api) -> None:
    await meter(api, "calls")
    await meter(api, "sum", aggregation="sum", value_property="n")
    await send(api, event("e1", data={"n": "x"}))
    changed = {"event_type": "call", "aggregation": "sum", "value_property": "other"}
    answer = await api.put("/v1/meters/sum", changed)
    assert (answer.status, answer.code) == (409, "meter_in_use")


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"aggregation": "sum"}, "/value_property"),
        ({"value_property": "n"}, "/value_property"),
        ({"aggregation": "median"}, "/aggregation"),
        ({"aggregation": "sum", "value_property": "a..b"}, "/value_property"),
        ({"aggregation": "sum", "value_property": ".".join("abcdefghi")}, "/value_property"),
        ({"group_by": {"m": ""}}, "/group_by/m"),
        ({"group_by": {"m!": "m"}}, "/group_by/m!"),
        ({"group_by": {f"d{i}": "m" for i in range(11)}}, "/group_by"),
        ({"filters": {}}, "/filters"),
        ({"filters": {"and": []}}, "/filters/and"),
        ({"filters": {"and": [{"property": "m"}]}}, "/filters/and/0"),
        ({"filters": {"property": "m", "eq": 1, "ne": 2}}, "/filters"),
        ({"filters": {"property": "m", "eq": {}}}, "/filters/eq"),
        ({"filters": {"property": "m", "gt": "x"}}, "/filters/gt"),
        ({"filters": {"property": "m", "in": []}}, "/filters/in"),
        ({"filters": {"property": "m", "like": 5}}, "/filters/like"),
        ({"filters": {"property": 5, "eq": 5}}, "/filters/property"),
        ({"unit": " "}, "/unit"),
        ({"event_type": " "}, "/event_type"),
        ({"charge": "often"}, "/charge"),
        ({"event_type": "llm.usage", "group_by": {"x": "billable.x"}}, "/group_by/x"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_bad_definition_is_told_with_its_place(
    api: Api, members: dict[str, Any], pointer: str
) -> None:
    body = {"event_type": "call", "aggregation": "count", **members}
    answer = await api.put("/v1/meters/calls", body)
    assert (answer.status, answer.code) == (422, "invalid_value"), answer
    assert answer.body["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("key", ["A", "-a", "a b", "x" * 65])
async def test_bad_key_of_a_meter_is_refused(api: Api, key: str) -> None:
    body = {"event_type": "call", "aggregation": "count"}
    answer = await api.put(f"/v1/meters/{key.replace(' ', '%20')}", body)
    assert (answer.status, answer.code) == (422, "invalid_value"), answer


async def test_meter_made_in_one_process_counts_what_another_takes_in(pool: Pool) -> None:
    async with serving(pool) as one, serving(pool) as two:
        await one.api.customer("acme")
        await meter(one.api, "calls")
        await send(two.api, event("e1"))
        await meter(two.api, "more")
        assert (await one.api.post("/v1/events", event("e2"), key=None)).status == 202
        assert (await usage(one.api, "calls"))["value"] == "2"
        assert (await usage(one.api, "more"))["value"] == "1"
