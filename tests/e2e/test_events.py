"""Usage through HTTP: events are recorded once, counted by every meter that reads them."""

import asyncio
import gzip
from collections.abc import AsyncGenerator
from datetime import timedelta
from io import BytesIO
from typing import Any

import msgspec
import pytest

from meter.service import Config
from sql.pool import Pool
from tests.http import Answer, Api, Running, serving, wire_time
from tests.metering import SENT, event, meter, send, usage
from tests.servers import Database, connected


@pytest.fixture
async def running(pool: Pool) -> AsyncGenerator[Running]:
    async with serving(pool) as made:
        await made.api.customer("acme")
        yield made


@pytest.fixture
def api(running: Running) -> Api:
    return running.api


async def test_event_sent_again_is_a_duplicate_and_counts_once(api: Api) -> None:
    await meter(api, "calls")
    first = await api.post("/v1/events", event("e1"), key=None)
    again = await api.post("/v1/events", event("e1"), key=None)
    other = await api.post("/v1/events", event("e1", data={"x": 1}), key=None)
    assert (first.status, first.body["duplicate"]) == (202, False), first
    assert (again.status, again.body["duplicate"]) == (200, True)
    assert (other.status, other.code) == (409, "event_conflict")
    found = await usage(api, "calls")
    assert (found["value"], found["events"]) == ("1", 1)


# What is sent


async def test_failed_write_claims_nothing_and_the_retry_counts(
    running: Running, database: Database
) -> None:
    """The identity is claimed in the transaction of the write: nothing is told "done" too early."""
    api = running.api
    await meter(api, "calls")
    async with connected(database.owner_dsn) as conn:
        guards = "SELECT count(*) FROM event_guards"
        blocker = conn.transaction()
        await blocker.start()
        await conn.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        failed = await api.post("/v1/events", event("e1"), key=None)
        batch = await api.post("/v1/events", [event("e1")], key=None)
        assert await conn.fetchval(guards) == 0
        await blocker.rollback()
    assert (failed.status, failed.code) == (503, "busy")
    assert (batch.status, batch.code) == (503, "busy")
    assert (await api.post("/v1/events", event("e1"), key=None)).status == 202
    assert (await api.post("/v1/events", event("e1"), key=None)).status == 200
    assert (await usage(api, "calls"))["value"] == "1"


@pytest.mark.parametrize("flaw", ['"\\u0000"', '"\\ud800"'])
async def test_bad_text_in_one_event_leaves_its_neighbours(api: Api, flaw: str) -> None:
    one, three = (msgspec.json.encode(event(name)).decode() for name in ("one", "three"))
    two = one.replace('"one"', '"two"')[:-1] + ',"data":{"note":' + flaw + "}}"
    answer = await api.send("POST", "/v1/events", raw=f"[{one},{two},{three}]".encode())
    results = [(one["status"], one.get("code")) for one in answer.body["results"]]
    assert results == [(202, None), (422, "invalid_text"), (202, None)]
    [error] = answer.body["results"][1]["errors"]
    assert error["pointer"] == "/1/data/note"
    alone = await api.send("POST", "/v1/events", raw=two.encode())
    assert (alone.status, alone.code) == (422, "invalid_text")


async def test_ids_that_look_alike_are_different_ids(api: Api) -> None:
    await meter(api, "calls")
    ids = ["é", "e\u0301", "👩‍👩‍👧", "שלום", "a b", " a b", "A", "a", '"', "\\", "{NULL}", "NULL"]
    assert await send(api, *map(event, ids)) == [(202, None)] * len(ids)
    assert await send(api, *map(event, ids)) == [(200, None)] * len(ids)
    assert (await usage(api, "calls"))["value"] == str(len(ids))


@pytest.mark.parametrize(
    "value",
    ["NaN", "Infinity", "-1", -1, -0.5, True, "", None, " ", "1e3", "-0", [], {}, "0x1", "٣"],
    ids=repr,
)
async def test_value_that_is_no_quantity_is_refused_and_leaves_no_row(
    api: Api, pool: Pool, value: Any
) -> None:
    await meter(api, "tokens", aggregation="sum", value_property="n")
    bad, good = event("bad", data={"n": value}), event("good", data={"n": 3})
    alone = await api.post("/v1/events", bad, key=None)
    assert (alone.status, alone.code) == (422, "unreadable_event"), alone
    assert await send(api, good, bad) == [(202, None), (422, "unreadable_event")]
    assert await pool.fetchval("SELECT count(*) FROM events") == 1
    assert await pool.fetchval("SELECT count(*) FROM event_guards") == 1
    assert (await usage(api, "tokens"))["value"] == "3"
    assert await send(api, event("bad", data={"n": 4})) == [(202, None)], "the id is still free"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "1e999999999", "9" * 5000])
async def test_number_that_is_no_json_or_too_long_is_refused(api: Api, number: str) -> None:
    await meter(api, "tokens", aggregation="sum", value_property="n")
    raw = msgspec.json.encode(event("e", data={"n": 1})).replace(
        b'"n":1', b'"n":' + number.encode()
    )
    answer = await api.send("POST", "/v1/events", raw=raw)
    assert answer.status in (400, 422), answer
    assert (await usage(api, "tokens"))["events"] == 0


async def test_missing_and_null_are_one_group_and_the_empty_string_another(api: Api) -> None:
    await meter(api, "by_model", group_by={"model": "model"})
    data: list[dict[str, Any]] = [{}, {"model": None}, {"model": ""}, {"model": "a"}]
    await send(api, *(event(f"e{i}", data=one) for i, one in enumerate(data)))
    found = await usage(api, "by_model", group_by="model")
    groups = {one["dimensions"]["model"]: one["value"] for one in found["groups"]}
    assert groups == {None: "2", "": "1", "a": "1"}
    assert sum(map(int, groups.values())) == int(found["value"]) == 4
    assert (await usage(api, "by_model", **{"filter[model]": ""}))["value"] == "1"
    assert (await usage(api, "by_model", **{"filter[model]": "a"}))["value"] == "1"


async def test_meter_that_can_not_read_an_event_does_not_drop_it_for_others(api: Api) -> None:
    await meter(api, "calls")
    await meter(api, "tokens", aggregation="sum", value_property="n")
    assert await send(api, event("e1", data={"n": "many"})) == [(202, None)]
    assert (await usage(api, "calls"))["value"] == "1"
    assert (await usage(api, "tokens"))["value"] == "0"
    listed = {one["key"]: one for one in (await api.get("/v1/meters")).body["data"]}
    assert (listed["calls"]["rejected"], listed["tokens"]["rejected"]) == (0, 1)
    [reject] = listed["tokens"]["rejects"]
    assert (reject["customer_id"], reject["source"], reject["id"]) == ("acme", "app", "e1")
    assert reject["reason"].startswith("n must be a number")


async def test_customers_of_one_business_have_their_own_identities(api: Api) -> None:
    await meter(api, "calls")
    await api.customer("other")
    ours, theirs = event("e1"), event("e1", subject="other")
    assert await send(api, ours, theirs) == [(202, None)] * 2
    assert await send(api, ours, theirs) == [(200, None)] * 2
    assert (await usage(api, "calls", customer_id="other"))["value"] == "1"


async def test_same_identity_twice_in_a_batch_is_judged_in_order(api: Api) -> None:
    await meter(api, "tokens", aggregation="sum", value_property="n")
    good, bad = event("e", data={"n": 1}), event("e", data={"n": "x"})
    assert await send(api, bad, good, good, event("e", data={"n": 2}), bad) == [
        (422, "unreadable_event"),
        (202, None),
        (200, None),
        (409, "event_conflict"),
        (422, "unreadable_event"),
    ]
    assert (await usage(api, "tokens"))["value"] == "1"


async def test_time_belongs_to_the_content_only_if_it_was_sent(api: Api) -> None:
    at = wire_time((await api.now()) - timedelta(days=1))
    assert await send(api, event("e1"), event("e1")) == [(202, None), (200, None)]
    assert await send(api, event("e1", time=at)) == [(409, "event_conflict")]
    assert await send(api, event("e2", time=at), event("e2", time=at)) == [(202, None), (200, None)]
    assert await send(api, event("e2")) == [(409, "event_conflict")]


async def test_event_too_old_or_ahead_is_refused(api: Api) -> None:
    now = await api.now()
    times = {
        "old": now - timedelta(days=35, seconds=5),
        "late": now - timedelta(days=35) + timedelta(minutes=1),
        "soon": now + timedelta(minutes=59),
        "ahead": now + timedelta(hours=1, minutes=1),
    }
    assert await send(api, *(event(i, time=wire_time(at)) for i, at in times.items())) == [
        (422, "invalid_time"),
        (202, None),
        (202, None),
        (422, "invalid_time"),
    ]


async def test_duplicate_is_found_after_a_month(api: Api) -> None:
    """As long as an event may come, its identity is known."""
    at = (await api.now()) - timedelta(days=1)
    await send(api, event("e1", time=wire_time(at)))
    await api.clock(at + timedelta(days=35) - timedelta(minutes=1))
    await api.post("/v1/jobs/forget_guards/run", {}, key=None)
    assert await send(api, event("e1", time=wire_time(at))) == [(200, None)]
    await api.clock(at + timedelta(days=35, minutes=1))
    assert await send(api, event("e1", time=wire_time(at))) == [(422, "invalid_time")]


# Ways to send


def headers_of(id_: str, **more: str) -> dict[str, str]:
    attributes = {"specversion": "1.0", "id": id_, **SENT, **more}
    return {f"ce-{name}": value for name, value in attributes.items()}


async def test_every_mode_of_cloudevents_is_the_same_event(api: Api) -> None:
    await meter(api, "tokens", aggregation="sum", value_property="n", group_by={"m": "m"})
    data = {"n": "1.50", "m": "é"}
    whole = {"specversion": "1.0", **event("e1", data=data, trace="t1")}
    raw, text = msgspec.json.encode(whole), msgspec.json.encode(data)
    first = await api.send("POST", "/v1/events", whole)
    assert first.status == 202, first
    ways: list[tuple[bytes, dict[str, str]]] = [
        (raw, {"Content-Type": "application/cloudevents+json; charset=utf-8"}),
        (b"[" + raw + b"]", {"Content-Type": "application/cloudevents-batch+json"}),
        (b"[" + raw + b"]", {}),
        (text, headers_of("e1", trace="t1")),
        (gzip.compress(raw), {"Content-Encoding": "gzip"}),
        (raw.replace("é".encode(), b"\\u00e9"), {}),
        (msgspec.json.format(raw, indent=4), {}),
    ]
    for body, headers in ways:
        answer = await api.send("POST", "/v1/events", raw=body, headers=headers)
        assert answer.status == 200, (body, answer)
        told = answer.body.get("duplicate", answer.body.get("duplicates"))
        assert told == 1, (body, answer)
    found = await usage(api, "tokens", group_by="m")
    assert (found["value"], found["groups"][0]["dimensions"]) == ("1.5", {"m": "é"})


async def test_binary_mode_decodes_percent_encoded_headers(api: Api, pool: Pool) -> None:
    sent = headers_of("caf%C3%A9%20%22x%22", note="a%25b")
    answer = await api.send("POST", "/v1/events", raw=b"", headers=sent)
    assert (answer.status, answer.body["id"]) == (202, 'café "x"')
    assert await pool.fetchval("SELECT extensions FROM events") == '{"note":"a%b"}'


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({"id": None}, "/id", "missing_member"),
        ({"id": ""}, "/id", "invalid_value"),
        ({"id": 5}, "/id", "invalid_value"),
        ({"id": "x" * 256}, "/id", "invalid_value"),
        ({"id": "a\nb"}, "/id", "invalid_value"),
        ({"source": "drawdown"}, "/source", "invalid_value"),
        ({"type": "t" * 256}, "/type", "invalid_value"),
        ({"subject": None}, "/subject", "missing_member"),
        ({"subject": "a/b"}, "/subject", "invalid_customer_id"),
        ({"subject": 7}, "/subject", "invalid_value"),
        ({"specversion": "0.3"}, "/specversion", "invalid_value"),
        ({"time": "yesterday"}, "/time", "invalid_timestamp"),
        ({"time": "2026-02-30T00:00:00Z"}, "/time", "invalid_timestamp"),
        ({"time": 5}, "/time", "invalid_value"),
        ({"data": []}, "/data", "invalid_value"),
        ({"data": {str(i): i for i in range(51)}}, "/data", "invalid_value"),
        ({"data": {"x": "y" * 65_536}}, "/data", "invalid_value"),
        ({"datacontenttype": "text/plain"}, "/datacontenttype", "invalid_value"),
        ({"data_base64": "AAAA"}, "/data_base64", "unknown_member"),
        ({"Trace": "x"}, "/Trace", "unknown_member"),
        ({"a" * 21: "x"}, "/" + "a" * 21, "unknown_member"),
        ({"trace": "x" * 1_025}, "/trace", "invalid_value"),
        ({"trace": {}}, "/trace", "invalid_value"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_bad_member_is_told_with_its_place(
    api: Api, members: dict[str, Any], pointer: str, code: str
) -> None:
    whole = {**event("e"), **members}
    answer = await api.post("/v1/events", whole, key=None)
    assert (answer.status, answer.code) == (422, code), answer
    assert answer.body["errors"][0]["pointer"] == pointer
    assert await send(api, whole, event("ok")) == [(422, code), (202, None)]


async def test_deep_data_is_refused_alone(api: Api) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = {"a": deep}
    statuses = [status for status, _ in await send(api, event("e", data=deep), event("ok"))]
    assert statuses == [422, 202]


async def test_batch_over_its_limits_is_refused_whole(api: Api) -> None:
    many = await api.post("/v1/events", [event(str(i)) for i in range(10_001)], key=None)
    assert (many.status, many.code) == (422, "invalid_value")
    assert "10000" in many.body["detail"]
    spaces = b"[" + b" " * (10 * 1024 * 1024) + b"]"
    bomb = gzip.compress(b"[" + b" " * (50 * 1024 * 1024) + b"]")
    for raw, encoding in ((spaces, "identity"), (bomb, "gzip")):
        headers = {"Authorization": f"Bearer {api.secret}", "Content-Encoding": encoding}
        async with api.session.post(
            f"{api.url}/v1/events", data=BytesIO(raw), headers=headers
        ) as response:
            assert response.status == 413, await response.read()
    assert (await api.post("/v1/events", [], key=None)).body["results"] == []


@pytest.mark.parametrize(
    ("raw", "headers", "status", "code"),
    [
        (b"", {}, 400, "malformed"),
        (b"7", {}, 400, "malformed"),
        (b"{", {}, 400, "malformed"),
        (b"[{]", {}, 400, "malformed"),
        (b"[]", {"Content-Type": "application/cloudevents+json"}, 400, "malformed"),
        (b"{}", {"Content-Type": "application/cloudevents-batch+json"}, 400, "malformed"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": "text/plain", "ce-id": "1"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Encoding": "br"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Encoding": "gzip"}, 400, "malformed"),
        (gzip.compress(b"[]", mtime=0)[:-3], {"Content-Encoding": "gzip"}, 400, "malformed"),
    ],
    ids=str,
)
async def test_unreadable_body_is_refused(
    api: Api, raw: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await api.send("POST", "/v1/events", raw=raw, headers=headers)
    assert (answer.status, answer.code) == (status, code), answer


# Whose


async def test_unknown_customer_is_refused_at_its_index(api: Api) -> None:
    assert await send(api, event("e1", subject="nobody"), event("e2")) == [
        (404, "customer_not_found"),
        (202, None),
    ]
    alone = await api.post("/v1/events", event("e1", subject="nobody"), key=None)
    assert (alone.status, alone.code) == (404, "customer_not_found")


async def test_unknown_customer_is_created_where_that_is_set(pool: Pool) -> None:
    async with serving(pool, Config(is_sandbox=True, create_customers=True)) as run:
        await meter(run.api, "calls")
        assert await send(run.api, event("e1", subject="new")) == [(202, None)]
        assert (await usage(run.api, "calls", customer_id="new"))["value"] == "1"


async def test_key_of_one_customer_sees_others_as_unknown(api: Api) -> None:
    await meter(api, "calls")
    await api.customer("other")
    bound = await api.key("usage:write", "usage:read", customer_id="acme")
    assert await send(bound, event("e1", subject="other"), event("e1")) == [
        (404, "customer_not_found"),
        (202, None),
    ]
    assert (await bound.get("/v1/meters/calls/usage")).body["value"] == "1"
    foreign = await bound.get("/v1/meters/calls/usage?customer_id=other")
    assert (foreign.status, foreign.code) == (404, "customer_not_found")


async def test_eight_senders_of_the_same_events_count_each_once(pool: Pool) -> None:
    """Through two processes, batches and single events, in different orders."""
    ids = [f"e{i}" for i in range(40)]

    async def sender(api: Api, turn: int) -> list[Answer]:
        turned = ids[turn * 5 :] + ids[: turn * 5]
        if turn % 2:
            return [await api.post("/v1/events", [event(i) for i in turned], key=None)]
        return await asyncio.gather(*(api.post("/v1/events", event(i), key=None) for i in turned))

    async with serving(pool) as one, serving(pool) as two:
        await one.api.customer("acme")
        await meter(one.api, "calls")
        found = await asyncio.gather(
            *(sender((one, two)[turn // 4].api, turn) for turn in range(8))
        )
        answers = [answer for group in found for answer in group]
        assert {answer.status for answer in answers} <= {200, 202}
        new = sum(answer.status == 202 for answer in answers)
        new += sum(answer.body.get("accepted", 0) for answer in answers)
        assert new == len(ids)
        assert (await usage(one.api, "calls"))["value"] == str(len(ids))
