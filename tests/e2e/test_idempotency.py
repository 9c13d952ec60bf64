"""One key, one effect: twins at once, lost answers, other bodies, other customers, batches."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from sql.pool import Pool
from tests.http import Answer, Api, Described, Running, fresh_key, serving

TWINS = 20
CREDITS = "1000"


@pytest.fixture
async def running(pool: Pool) -> AsyncGenerator[Running]:
    """A sandbox in which `acme` has 1,000 credits, a hold of 100 and a charge of 50."""
    async with serving(pool) as made:
        await made.api.customer("acme")
        await made.api.customer("other")
        yield made


class Operation:
    """One way to change books: its route and body, and what tells how often it took effect."""

    def __init__(self, name: str, path: str, body: dict[str, Any], changed: dict[str, Any]) -> None:
        self.name, self.path, self.body, self.changed = name, path, body, changed
        """`changed`: the body of another request under the same key."""

    def item(self, **ids: str) -> dict[str, Any]:
        """The same as an operation of a batch."""
        return {"op": self.name, **ids, **self.body}


ACME = {"customer_id": "acme", "amount": "10"}
GRANT = {**ACME, "category": "promotional"}
OPERATIONS = [
    Operation("reserve", "/v1/reserve", ACME, {**ACME, "amount": "10.0"}),
    Operation("consume", "/v1/consume", ACME, {**ACME, "reference": "x"}),
    Operation("grant", "/v1/grants", GRANT, {**GRANT, "priority": 50}),
    Operation("capture", "/v1/holds/{hold_id}/capture", {"amount": "10"}, {}),
    Operation("void", "/v1/holds/{hold_id}/void", {}, {}),
    Operation(
        "extend",
        "/v1/holds/{hold_id}/extend",
        {"add": {"amount": "10"}},
        {"add": {"amount": "10"}, "expires_in": 600},
    ),
    Operation("reverse", "/v1/charges/{charge_id}/reverse", {"amount": "10"}, {"amount": "11"}),
]
VOID_GRANT = Operation("void_grant", "/v1/grants/{grant_id}/void", {}, {"reason": "x"})
CLOSE = Operation("close", "/v1/customers/acme/close", {}, {})
ALL = [*OPERATIONS, VOID_GRANT, CLOSE]


async def ids_of(api: Api) -> dict[str, str]:
    """A grant of 1,000, a hold of 100 and a charge of 50 to work on."""
    grant = await api.grant(CREDITS)
    hold = await api.reserve("100")
    charge = await api.consume("50")
    return {"grant_id": grant["id"], "hold_id": hold["id"], "charge_id": charge["id"]}


async def effects(api: Api) -> tuple[Any, ...]:
    """Everything that a second effect would change."""
    journals = await api.get("/v1/journals?customer_id=acme&limit=1")
    holds = await api.get("/v1/holds?customer_id=acme&limit=100")
    balance = await api.balance()
    return (
        journals.body["data"][0]["seq"] if journals.body["data"] else 0,
        [(h["id"], h["status"], h["amount"], h["captured"]) for h in holds.body["data"]],
        balance["posted"],
        balance["held"],
    )


def by_name(operation: Operation) -> str:
    return operation.name


@pytest.mark.parametrize("operation", ALL, ids=by_name)
async def test_twenty_twins_at_once_are_one_effect(
    running: Running, pool: Pool, operation: Operation
) -> None:
    """Over two processes of the service; each has a key in its header, half of them quoted."""
    api = running.api
    path = operation.path.format(**await ids_of(api))
    before = await effects(api)
    async with serving(pool) as second:
        answers = await asyncio.gather(
            *(
                (api, second.api)[n % 2].post(
                    path, operation.body, key=('"twin"', "twin")[n // 2 % 2]
                )
                for n in range(TWINS)
            )
        )
    assert {answer.status for answer in answers} <= {200, 201}
    assert len({answer.raw for answer in answers}) == 1
    assert sum(not answer.is_replayed for answer in answers) == 1
    after = await effects(api)
    late = await api.post(path, operation.body, key="twin")
    assert (late.is_replayed, late.raw) == (True, answers[0].raw)
    assert await effects(api) == after
    if operation is not CLOSE:
        assert after != before
        assert after[0] <= before[0] + 1


@pytest.mark.parametrize("operation", ALL, ids=by_name)
async def test_other_body_under_the_key_is_422_and_changes_nothing(
    running: Running, operation: Operation
) -> None:
    api = running.api
    ids = await ids_of(api)
    path = operation.path.format(**ids)
    first = await api.post(path, operation.body, key="K")
    assert first.status in (200, 201)
    after = await effects(api)
    if operation.changed != operation.body:
        other = await api.post(path, operation.changed, key="K")
        assert (other.status, other.code) == (422, "idempotency_key_reused")
    for another in OPERATIONS:
        if another.path == operation.path:
            continue
        wrong = await api.post(another.path.format(**ids), another.body, key="K")
        assert (wrong.status, wrong.code) == (422, "idempotency_key_reused"), another.name
    if "{hold_id}" in operation.path and operation.name != "close":
        another_hold = (await api.reserve("1"))["id"]
        after = await effects(api)
        wrong = await api.post(operation.path.format(hold_id=another_hold), operation.body, key="K")
        assert (wrong.status, wrong.code) == (422, "idempotency_key_reused")
    again = await api.post(path, operation.body, key="K")
    assert (again.is_replayed, again.raw) == (True, first.raw)
    assert await effects(api) == after


async def test_what_is_compared_is_the_json_as_parsed(running: Running) -> None:
    api = running.api
    await api.grant(CREDITS)
    first = b'{"customer_id":"acme","amount":"5","metadata":{"a":1,"b":[1.50,"\xc3\xa9"]}}'
    same = (
        b' { "amount" : "5", "customer_id":"acme", "metadata":{"b":[1.5,"\\u00e9"],"a":1} } ',
        b'{"metadata":{"a":1e0,"b":[15e-1,"\xc3\xa9"]},"amount":"\\u0035","customer_id":"acme"}',
    )
    different = (
        first.replace(b'"5"', b'"5.0"'),
        first.replace(b'"5"', b'"5.00"'),
        first.replace(b'"a":1', b'"a":"1"'),
        first.replace(b'"a":1', b'"a":true'),
        first.replace(b'[1.50,"\xc3\xa9"]', b'["\xc3\xa9",1.50]'),
        first.replace(b"\xc3\xa9", b"e\xcc\x81"),
        first.replace(b"}}", b'},"reference":null}'),
        first.replace(b"}}", b'},"asset":"credits"}'),
        b'{"customer_id":"acme","amount":"5"}',
        b'{"customer_id":"acme","amount":"5","metadata":{}}',
    )
    answer = await api.send("POST", "/v1/consume", raw=first, key="J")
    assert answer.status == 201, answer
    for raw in same:
        again = await api.send("POST", "/v1/consume", raw=raw, key="J")
        assert (again.is_replayed, again.raw) == (True, answer.raw), raw
    for raw in different:
        other = await api.send("POST", "/v1/consume", raw=raw, key="J")
        assert (other.status, other.code) == (422, "idempotency_key_reused"), raw
    twice = first.replace(b'"amount":"5"', b'"amount":"5","amount":"5"')
    doubled = await api.send("POST", "/v1/consume", raw=twice, key="J")
    assert (doubled.status, doubled.code) == (422, "duplicate_member")
    assert await api.posted() == ("995", "0", "995")


async def test_other_customer_with_the_same_key_is_independent(running: Running) -> None:
    api = running.api
    await api.grant(CREDITS, "acme")
    await api.grant(CREDITS, "other")
    answers = [
        await api.post("/v1/consume", {"customer_id": who, "amount": "5"}, key="same")
        for who in ("acme", "other")
    ]
    assert [(a.status, a.is_replayed) for a in answers] == [(201, False)] * 2
    assert await api.posted("acme") == await api.posted("other") == ("995", "0", "995")


async def test_refusals_are_remembered_only_where_the_books_decided(running: Running) -> None:
    """402 and 409 are replayed; 400, 401, 403, 404, 413, 415 and 422 are forgotten."""
    api = running.api
    body = {"customer_id": "acme", "amount": "5"}
    reader = await api.key("usage:read")
    for wrong, status in (
        (await api.of("ddk_no").post("/v1/consume", body, key="R"), 401),
        (await reader.post("/v1/consume", body, key="R"), 403),
        (await api.post("/v1/consume", {**body, "customer_id": "nobody"}, key="R"), 404),
        (await api.post("/v1/consume", {**body, "amount": "x"}, key="R"), 422),
        (await api.send("POST", "/v1/consume", raw=b"{", key="R"), 400),
        (await api.post("/v1/consume?x=1", body, key="R"), 422),
    ):
        assert wrong.status == status
    first = await api.post("/v1/consume", body, key="R")
    assert (first.status, first.is_replayed) == (402, False)
    await api.grant(CREDITS)
    again = await api.post("/v1/consume", body, key="R")
    assert (again.status, again.is_replayed, again.raw) == (402, True, first.raw)
    hold = await api.reserve("1")
    await api.post(f"/v1/holds/{hold['id']}/void")
    ended = [await api.post(f"/v1/holds/{hold['id']}/void", key="V") for _ in range(2)]
    assert [(a.status, a.is_replayed) for a in ended] == [(409, False), (409, True)]
    described = await Described.of(api)
    described.check("POST", "/v1/holds/{hold_id}/void", ended[1])
    described.check("POST", "/v1/consume", again)


async def test_key_with_something_wrong_is_checked_after_the_body(running: Running) -> None:
    """The body is validated first; the key is compared only for a valid request."""
    api = running.api
    await api.grant(CREDITS)
    body = {"customer_id": "acme", "amount": "5"}
    assert (await api.post("/v1/consume", body, key="first")).status == 201
    wrong = await api.post("/v1/consume", {**body, "amount": "-5"}, key="first")
    assert (wrong.status, wrong.code) == (422, "invalid_amount")


@pytest.mark.parametrize("operation", ALL, ids=by_name)
async def test_lost_answer_is_answered_again(running: Running, operation: Operation) -> None:
    """The caller hangs up right after sending, and asks again with the same key."""
    api = running.api
    path = operation.path.format(**await ids_of(api))
    before = await effects(api)
    key = fresh_key()
    for _ in range(3):
        await send_and_hang_up(running, path, operation.body, key)
    answer = await api.post(path, operation.body, key=key)
    assert answer.status in (200, 201), answer
    after = await effects(api)
    assert after[0] <= before[0] + 1
    again = await api.post(path, operation.body, key=key)
    assert (again.is_replayed, again.raw) == (True, answer.raw)
    assert await effects(api) == after


async def send_and_hang_up(running: Running, path: str, body: Any, key: str) -> None:
    """Send a whole request and reset the connection without reading a byte."""
    raw = msgspec.json.encode(body)
    head = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {running.api.secret}",
        f"Idempotency-Key: {key}",
        f"Content-Length: {len(raw)}",
    ]
    _, writer = await asyncio.open_connection("127.0.0.1", running.port)
    plug: socket.socket = writer.get_extra_info("socket")
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.write("\r\n".join([*head, "", ""]).encode() + raw)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def test_lost_answer_can_be_asked_for(running: Running) -> None:
    api = running.api
    await api.grant(CREDITS)
    await send_and_hang_up(running, "/v1/consume", {"customer_id": "acme", "amount": "5"}, "lost")
    answer = await api.post("/v1/consume", {"customer_id": "acme", "amount": "5"}, key="lost")
    found = await api.get("/v1/customers/acme/requests/lost")
    assert found.status == 200
    assert (found.body["operation"], found.body["status"]) == ("consume", 201)
    assert found.body["body"] == answer.body
    absent = await api.get("/v1/customers/acme/requests/never")
    assert (absent.status, absent.code) == (404, "request_not_found")


# Batches


async def batch(api: Api, operations: list[Any]) -> list[Any]:
    answer = await api.post("/v1/batch", {"operations": operations}, key=None)
    assert answer.status == 200, answer
    assert len(answer.body["results"]) == len(operations)
    return answer.body["results"]


@pytest.mark.parametrize("operation", OPERATIONS, ids=by_name)
async def test_item_of_a_batch_and_its_route_share_keys(
    running: Running, operation: Operation
) -> None:
    """The same request either way is a replay of the other; another one is 422."""
    api = running.api
    ids = await ids_of(api)
    path = operation.path.format(**ids)
    named = {
        name: ids[name] for name in ("hold_id", "charge_id") if f"{{{name}}}" in operation.path
    }
    item = {"key": "shared", **operation.item(**named)}
    alone = await api.post(path, operation.body, key="shared")
    after = await effects(api)
    [result] = await batch(api, [item])
    assert (result["status"], result["replayed"]) == (alone.status, True)
    assert result["body"] == alone.body
    [other] = await batch(
        api, [{"key": "shared", "op": operation.name, **named, **operation.changed}]
    )
    if operation.changed != operation.body:
        assert (other["status"], other["body"]["code"]) == (422, "idempotency_key_reused")
    assert await effects(api) == after
    # And the other way round.
    ids = await ids_of(api)
    named = {name: ids[name] for name in named}
    [result] = await batch(api, [{"key": "back", **operation.item(**named)}])
    alone = await api.post(operation.path.format(**ids), operation.body, key="back")
    assert (alone.status, alone.is_replayed, alone.body) == (result["status"], True, result["body"])


async def test_same_key_twice_in_one_batch(running: Running) -> None:
    api = running.api
    await api.grant(CREDITS)
    consume = {"op": "consume", "customer_id": "acme", "amount": "5"}
    results = await batch(
        api,
        [
            {**consume, "key": "a"},
            {**consume, "key": "b"},
            {"amount": "5", "customer_id": "acme", "key": "a", "op": "consume"},
            {**consume, "key": "a", "amount": "6"},
            {**consume, "key": "a", "op": "reserve"},
            {**consume, "key": "a", "customer_id": "other"},
            {**consume, "key": "a"},
        ],
    )
    assert [(r["status"], r["replayed"]) for r in results] == [
        (201, False),
        (201, False),
        (201, True),
        (422, False),
        (422, False),
        (402, False),
        (201, True),
    ]
    assert results[2]["body"] == results[6]["body"] == results[0]["body"]
    assert await api.posted() == ("990", "0", "990")


async def test_same_batch_at_once_is_one_effect(running: Running) -> None:
    api = running.api
    await api.grant(CREDITS)
    operations = [
        {"op": "consume", "customer_id": "acme", "amount": "1", "key": f"k{n % 10}"}
        for n in range(30)
    ]
    answers = await asyncio.gather(*(batch(api, operations) for _ in range(TWINS)))
    firsts = [r for results in answers for r in results if not r["replayed"]]
    assert len(firsts) == 10
    assert len({msgspec.json.encode([r["body"] for r in results]) for results in answers}) == 1
    assert await api.posted() == ("990", "0", "990")


async def test_items_without_a_good_key_are_refused_at_their_index(running: Running) -> None:
    api = running.api
    await api.grant(CREDITS)
    consume = {"op": "consume", "customer_id": "acme", "amount": "5"}
    keys: list[Any] = ["", "k" * 256, "\u00e9", "a\nb", 1, True, [], {}, '"open']
    results = await batch(
        api,
        [consume, {**consume, "key": None}, *({**consume, "key": key} for key in keys)],
    )
    codes = [(r["status"], r["body"]["code"]) for r in results]
    assert codes[:2] == [(400, "idempotency_key_missing")] * 2
    assert codes[2:] == [(422, "invalid_idempotency_key")] * len(keys)
    assert await api.posted() == (CREDITS, "0", CREDITS)
    with_header = await api.post("/v1/batch", {"operations": [{**consume, "key": "x"}]}, key="h")
    assert with_header.status in (200, 422)


async def test_key_goes_with_its_customer_not_with_the_api_key(running: Running) -> None:
    """Two API keys, one caller's name for a request: one effect."""
    api = running.api
    await api.grant(CREDITS)
    body = {"customer_id": "acme", "amount": "5"}
    one = await api.key("usage:write")
    two = await api.key("usage:write", customer_id="acme")
    answers: list[Answer] = [
        await each.post("/v1/consume", body, key="shared") for each in (one, two, api)
    ]
    assert [a.is_replayed for a in answers] == [False, True, True]
    assert await api.posted() == ("995", "0", "995")


async def test_callers_can_not_reach_internal_keys(running: Running) -> None:
    """What the service itself does has names of its own: any printable key is the caller's."""
    api = running.api
    await api.grant(CREDITS)
    body = {"customer_id": "acme", "amount": "1"}
    for key in ("signup", "settle", "sweep", "system:1", "internal", "drawdown/1", "~"):
        answer = await api.post("/v1/consume", body, key=key)
        assert (answer.status, answer.is_replayed) == (201, False), key
