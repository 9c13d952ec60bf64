"""Real faults of systems like this one, each as its whole kind, through HTTP."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from meter.service import Config
from sql.pool import STATEMENT_CACHE, Pool, open_pool
from tests.http import Answer, Api, FrozenClock, Running, serving, set_clock
from tests.servers import Database, Databases, connected

LARGEST = 2**63 - 1
UNIT = 10**9


@pytest.fixture
async def api(pool: Pool) -> AsyncGenerator[Api]:
    """A sandbox with the customer `acme`, who has nothing."""
    async with serving(pool) as running:
        await running.api.customer("acme")
        yield running.api


async def journal_count(api: Api, customer_id: str = "acme") -> int:
    answer = await api.get(f"/v1/journals?customer_id={customer_id}&limit=1")
    assert answer.status == 200, answer
    return answer.body["data"][0]["seq"] if answer.body["data"] else 0


# B-02: the same top-up sent twice


async def test_grant_sent_twice_with_one_key_is_one_grant(api: Api) -> None:
    body = {
        "customer_id": "acme",
        "amount": "100",
        "category": "paid",
        "cost": {"amount": "9.50", "currency": "USD"},
    }
    first = await api.post("/v1/grants", body, key="top-up")
    second = await api.post("/v1/grants", body, key="top-up")
    assert (first.status, first.is_replayed) == (201, False)
    assert (second.status, second.is_replayed) == (201, True)
    assert second.raw == first.raw
    assert await api.posted() == ("100", "0", "100")
    listed = await api.get("/v1/grants?customer_id=acme")
    assert [grant["id"] for grant in listed.body["data"]] == [first.body["id"]]


async def test_every_route_that_changes_books_needs_a_key(api: Api) -> None:
    """Whatever the document says needs a key: without one 400, before anything is looked up."""
    document = await api.openapi()
    keyed = [
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for parameter in operation.get("parameters", [])
        if parameter["name"] == "Idempotency-Key" and parameter["required"]
    ]
    assert {path for _, path in keyed} >= {
        "/v1/reserve",
        "/v1/consume",
        "/v1/grants",
        "/v1/grants/{grant_id}/void",
        "/v1/holds/{hold_id}/capture",
        "/v1/holds/{hold_id}/void",
        "/v1/charges/{charge_id}/reverse",
        "/v1/customers/{customer_id}/close",
    }
    for method, path in keyed:
        answer = await api.send(method, path.replace("{", "").replace("}", ""), {})
        assert (answer.status, answer.code) == (400, "idempotency_key_missing"), path
    assert await journal_count(api) == 0


# B-03: one place rounded, another floored


async def test_amounts_add_up_to_the_last_digit(api: Api) -> None:
    await api.grant("100")
    await api.consume("14.28444999")
    assert (await api.balance())["posted"] == "85.71555001"


async def test_amounts_of_an_asset_with_two_places_add_up(api: Api) -> None:
    await api.put("/v1/assets/cents", {"scale": 2})
    await api.grant("100", asset="cents")
    charge = await api.consume("14.28", asset="cents")
    left = await api.balance(asset="cents")
    assert left["posted"] == "85.72"
    assert Decimal(charge["amount"]) + Decimal(left["posted"]) == 100
    finer = await api.post(
        "/v1/consume", {"customer_id": "acme", "amount": "14.284", "asset": "cents"}
    )
    assert (finer.status, finer.code) == (422, "amount_out_of_range")
    assert (await api.balance(asset="cents"))["posted"] == "85.72"


async def test_many_odd_amounts_leave_exactly_the_rest(api: Api) -> None:
    await api.grant("1000")
    amounts = [f"{n}.{n * 7_654_321 % UNIT:09}" for n in range(1, 30)]
    operations = [
        {"op": "consume", "key": f"odd-{n}", "customer_id": "acme", "amount": amount}
        for n, amount in enumerate(amounts)
    ]
    answer = await api.post("/v1/batch", {"operations": operations}, key=None)
    assert {result["status"] for result in answer.body["results"]} == {201}
    spent = sum(map(Decimal, amounts))
    assert Decimal((await api.balance())["posted"]) == 1000 - spent
    statement = (await api.get("/v1/customers/acme/statement?limit=100")).body
    moved = sum(Decimal(line["amount"]) for line in statement["lines"])
    assert Decimal(statement["opening"]) + moved == Decimal(statement["closing"]) == 1000 - spent


# B-05: holds not counted


async def test_parallel_reserves_never_hold_more_than_there_is(api: Api) -> None:
    await api.grant("5000")
    body = {"customer_id": "acme", "amount": "1000"}
    answers = await asyncio.gather(*(api.post("/v1/reserve", body) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [201] * 5 + [402]
    assert await api.posted() == ("5000", "5000", "0")


async def test_parallel_requests_of_every_kind_count_what_is_held(api: Api) -> None:
    """Ten of each kind at once want 100 each; there is 1,000."""
    await api.grant("1000")
    body = {"customer_id": "acme", "amount": "100"}
    operation = {"op": "reserve", "customer_id": "acme", "amount": "100"}
    answers = await asyncio.gather(
        *(api.post("/v1/reserve", body) for _ in range(10)),
        *(api.post("/v1/consume", body) for _ in range(10)),
        api.post(
            "/v1/batch",
            {"operations": [{**operation, "key": f"item-{n}"} for n in range(10)]},
            key=None,
        ),
    )
    batch = [result["status"] for result in answers.pop().body["results"]]
    statuses = [answer.status for answer in answers] + batch
    assert sorted(statuses) == [201] * 10 + [402] * 20
    posted, held, available = map(int, await api.posted())
    assert available == posted - held == 0
    reserved = sum(a.status == 201 for a in answers[:10]) + batch.count(201)
    assert held == 100 * reserved


# B-06: voiding twice


@pytest.mark.parametrize("end", ["void", "capture"])
async def test_second_end_of_a_hold_is_refused_and_changes_nothing(api: Api, end: str) -> None:
    await api.grant("50")
    hold = await api.reserve("20")
    ended = await api.post(f"/v1/holds/{hold['id']}/{end}", key="k1")
    assert ended.status == 200
    balance = await api.posted()
    for again in ("void", "capture"):
        refused = await api.post(f"/v1/holds/{hold['id']}/{again}", key=f"k2-{again}")
        expected = {"void": "hold_already_voided", "capture": "hold_already_captured"}[end]
        assert (refused.status, refused.code) == (409, expected)
    replay = await api.post(f"/v1/holds/{hold['id']}/{end}", key="k1")
    assert (replay.status, replay.is_replayed, replay.raw) == (200, True, ended.raw)
    assert await api.posted() == balance


async def test_refused_void_tells_the_real_amounts(api: Api) -> None:
    await api.grant("50")
    hold = await api.reserve("20")
    await api.post(f"/v1/holds/{hold['id']}/capture", {"amount": "5", "final": False})
    await api.post(f"/v1/holds/{hold['id']}/void")
    refused = await api.post(f"/v1/holds/{hold['id']}/void")
    assert refused.code == "hold_already_voided"
    assert refused.body["captured"] == "5"
    assert refused.body["amount"] == "20"
    assert refused.body["remaining"] == "0"


# B-07: a refused reservation


async def test_refused_reserve_can_not_be_captured_and_stays_refused(api: Api) -> None:
    await api.grant("100")
    body = {"customer_id": "acme", "amount": "200"}
    refused = await api.post("/v1/reserve", body, key="r")
    assert (refused.status, refused.code) == (402, "insufficient_credits")
    assert "id" not in refused.body
    held = await api.reserve("1")
    for made_up in ("r", "hld_r", held["id"][:-15] + "f" * 15, held["id"].replace("hld", "lot")):
        answer = await api.post(f"/v1/holds/{made_up}/capture")
        assert (answer.status, answer.code) == (404, "hold_not_found")
    await api.grant("500")
    again = await api.post("/v1/reserve", body, key="r")
    assert (again.status, again.is_replayed, again.raw) == (402, True, refused.raw)
    assert again.headers["content-type"] == "application/problem+json"
    assert (await api.post("/v1/reserve", body, key="r2")).status == 201


# B-08: more than was held


async def test_capture_above_the_hold_follows_what_the_caller_chose(api: Api) -> None:
    await api.grant("150")
    hold = await api.reserve("100")
    path = f"/v1/holds/{hold['id']}/capture"
    denied = await api.post(path, {"amount": "130"})
    assert (denied.status, denied.code) == (409, "capture_exceeds_hold")
    too_much = await api.post(path, {"amount": "160", "above_hold": "take"})
    assert (too_much.status, too_much.code) == (402, "insufficient_credits")
    facts = {name: too_much.body[name] for name in ("required", "available", "shortfall")}
    assert facts == {"required": "60", "available": "50", "shortfall": "10"}
    open_hold = (await api.get(f"/v1/holds/{hold['id']}")).body
    assert (open_hold["status"], open_hold["remaining"]) == ("open", "100")
    taken = await api.post(path, {"amount": "130", "above_hold": "take"})
    assert taken.status == 200
    assert (taken.body["captured"], taken.body["charge"]["amount"]) == ("130", "130")
    assert await api.posted() == ("20", "0", "20")


# B-09: an expired hold that nothing has swept


async def test_expired_hold_is_gone_without_any_sweeper(pool: Pool, database: Database) -> None:
    clock, start = FrozenClock(database), datetime(2026, 5, 4, 9, tzinfo=UTC)
    async with clock.stopped_at(start), serving(pool) as running:
        api = running.api
        await api.customer()
        await api.grant("10")
        hold = await api.reserve("10", expires_in=5)
        assert await api.posted() == ("10", "10", "0")
        await clock.set(start + timedelta(seconds=6))
        assert await api.posted() == ("10", "0", "10")
        seen = (await api.get(f"/v1/holds/{hold['id']}")).body
        assert (seen["status"], seen["remaining"]) == ("expired", "0")
        listed = await api.get("/v1/holds?customer_id=acme&status=expired")
        assert [one["id"] for one in listed.body["data"]] == [hold["id"]]
        listed = await api.get("/v1/holds?customer_id=acme&status=open")
        assert listed.body["data"] == []
        assert "10" in (await api.get("/v1/customers/acme/explain")).raw.decode()
        again = await api.reserve("10")
        assert again["balance"]["available"] == "0"


# B-10: a key used again


async def test_key_with_another_body_is_422_and_books_nothing(api: Api) -> None:
    await api.grant("50")
    first = await api.post("/v1/consume", {"customer_id": "acme", "amount": "5"}, key="K")
    other = await api.post("/v1/consume", {"customer_id": "acme", "amount": "6"}, key="K")
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    assert await api.posted() == ("45", "0", "45")
    spaced = b'\n{ "amount" : "\\u0035",\t"customer_id": "ac\\u006de" }  '
    replay = await api.send("POST", "/v1/consume", raw=spaced, key="K")
    assert (replay.status, replay.is_replayed, replay.raw) == (201, True, first.raw)
    await api.customer("other")
    await api.grant("50", "other")
    elsewhere = await api.post("/v1/consume", {"customer_id": "other", "amount": "5"}, key="K")
    assert (elsewhere.status, elsewhere.is_replayed) == (201, False)


# B-11: check and record apart, for a customer never seen before

SIGN_UP = Config(is_sandbox=True, create_customers=True, signup_amount=UNIT)


async def both(pool: Pool, send: Any) -> list[Answer]:
    """Eight first requests at once, over two processes of the service."""
    async with serving(pool, SIGN_UP) as one, serving(pool, SIGN_UP) as two:
        return await asyncio.gather(*(send((one, two)[n % 2].api, n) for n in range(8)))


async def test_first_parallel_reserves_get_one_sign_up_grant(pool: Pool) -> None:
    async def send(api: Api, n: int) -> Answer:
        return await api.post(
            "/v1/reserve", {"customer_id": "new", "amount": "1"}, key=f"first-{n}"
        )

    answers = await both(pool, send)
    assert sorted(answer.status for answer in answers) == [201] + [402] * 7
    async with serving(pool, SIGN_UP) as running:
        assert await running.api.posted("new") == ("1", "1", "0")
        grants = (await running.api.get("/v1/grants?customer_id=new")).body["data"]
        assert [grant["amount"] for grant in grants] == ["1"]


async def test_first_parallel_requests_of_each_kind_get_one_sign_up_grant(pool: Pool) -> None:
    async def send(api: Api, n: int) -> Answer:
        body = {"customer_id": "new", "amount": "1"}
        match n % 4:
            case 0:
                return await api.post("/v1/consume", body, key=f"first-{n}")
            case 1:
                return await api.put("/v1/customers/new", {"name": "New"})
            case 2:
                body["category"] = "promotional"
                return await api.post("/v1/grants", body, key=f"first-{n}")
            case _:
                item = {"op": "consume", "key": f"first-{n}", **body}
                return await api.post("/v1/batch", {"operations": [item]}, key=None)

    answers = await both(pool, send)
    assert all(answer.status < 300 or answer.status == 402 for answer in answers)
    async with serving(pool, SIGN_UP) as running:
        grants = (await running.api.get("/v1/grants?customer_id=new")).body["data"]
        assert sorted(grant["origin"] for grant in grants).count("signup") == 1
        assert len(grants) == 3


# B-15, B-16: cycles


async def test_cycle_reset_keeps_what_was_bought(pool: Pool, database: Database) -> None:
    clock, start = FrozenClock(database), datetime(2026, 5, 4, 9, tzinfo=UTC)
    async with clock.stopped_at(start), serving(pool) as running:
        api = running.api
        await api.customer()
        await api.grant("50", priority=10, recurrence={"interval": "month"})
        await api.grant("25", priority=20, category="paid", cost={"amount": "5", "currency": "USD"})
        await api.consume("10")
        await clock.set(datetime(2026, 6, 4, 9, tzinfo=UTC))
        assert await api.posted() == ("75", "0", "75")
        lots = [(lot["remaining"], lot["priority"]) for lot in (await api.balance())["lots"]]
        assert lots == [("50", 10), ("25", 20)]
        await api.consume("1")
        before = await journal_count(api)
        await api.customer(name="Acme Inc", metadata={"plan": "new words"}, time_zone="Asia/Tokyo")
        assert await journal_count(api) == before
        assert await api.posted() == ("74", "0", "74")


@pytest.mark.parametrize(
    ("recurrence", "start", "expected"),
    [
        (
            {"interval": "month"},
            "2026-01-31",
            ["2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"],
        ),
        ({"interval": "month"}, "2027-12-31", ["2028-01-31", "2028-02-29", "2028-03-31"]),
        ({"interval": "month"}, "2026-12-30", ["2027-01-30", "2027-02-28", "2027-03-30"]),
        ({"interval": "month", "count": 3}, "2026-11-30", ["2027-02-28", "2027-05-30"]),
        ({"interval": "year"}, "2028-02-29", ["2029-02-28", "2030-02-28", "2031-02-28"]),
        ({"interval": "week"}, "2026-02-27", ["2026-03-06", "2026-03-13"]),
        ({"interval": "day", "count": 2}, "2026-02-27", ["2026-03-01", "2026-03-03"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_cycles_start_from_the_anchor(
    pool: Pool, database: Database, recurrence: Any, start: str, expected: list[str]
) -> None:
    clock, begins = FrozenClock(database), datetime.fromisoformat(f"{start}T00:00:00+00:00")
    async with clock.stopped_at(begins), serving(pool) as running:
        api = running.api
        await api.customer()
        grant = await api.grant("10", recurrence=recurrence)
        for day in expected:
            at = datetime.fromisoformat(f"{day}T00:00:00+00:00")
            await clock.set(at - timedelta(microseconds=1))
            seen = (await api.get(f"/v1/grants/{grant['id']}")).body
            assert seen["recurrence"]["next_start_at"] == f"{day}T00:00:00Z"
            await clock.set(at)
            await api.consume("10")
            assert await api.posted() == ("0", "0", "0")


async def test_anchor_of_another_year_reaches_the_29th_of_february(pool: Pool) -> None:
    """From 2026-01-31 on: computed from the anchor, never from the last date."""
    await set_clock(pool, datetime(2028, 2, 28, 23, 0, tzinfo=UTC))
    async with serving(pool) as running:
        await running.api.customer()
        recurrence = {"interval": "month", "anchor": "2026-01-31T00:00:00Z"}
        grant = await running.api.grant("10", recurrence=recurrence)
        assert grant["recurrence"]["next_start_at"] == "2028-02-29T00:00:00Z"
        await running.api.clock(datetime(2028, 2, 29, 1, tzinfo=UTC))
        seen = (await running.api.get(f"/v1/grants/{grant['id']}")).body
        assert seen["recurrence"]["next_start_at"] == "2028-03-31T00:00:00Z"


# B-28: large whole numbers


async def test_large_amounts_keep_every_digit(api: Api) -> None:
    await api.put("/v1/assets/points", {"scale": 0})
    grant = await api.grant("9007199254740993", asset="points")
    assert grant["amount"] == "9007199254740993"
    assert (await api.balance(asset="points"))["posted"] == "9007199254740993"
    charge = await api.consume("9007199254740993", asset="points")
    assert charge["amount"] == "9007199254740993"


async def test_largest_amount_is_taken_and_one_more_is_refused(api: Api) -> None:
    await api.put("/v1/assets/points", {"scale": 0})
    for n, asset in enumerate(("points", "points", "points")):
        grant = await api.grant(str(LARGEST), asset=asset)
        assert grant["amount"] == str(LARGEST)
        assert (await api.balance(asset="points"))["posted"] == str((n + 1) * LARGEST)
    for over in (LARGEST + 1, 2**64, 10**25, 10**26 - 1):
        body = {"customer_id": "acme", "amount": str(over), "asset": "points"}
        for path in ("/v1/reserve", "/v1/consume", "/v1/grants"):
            extra = {"category": "promotional"} if path == "/v1/grants" else {}
            answer = await api.post(path, {**body, **extra})
            assert (answer.status, answer.code) == (422, "amount_out_of_range"), answer
            assert str(LARGEST) in answer.body["detail"]
    hold = await api.reserve(str(LARGEST), asset="points")
    added = await api.post(f"/v1/holds/{hold['id']}/extend", {"add": {"amount": "1"}})
    assert (added.status, added.code) == (422, "amount_out_of_range")
    assert (await api.balance(asset="points"))["held"] == str(LARGEST)
    captured = await api.post(f"/v1/holds/{hold['id']}/capture")
    assert captured.body["charge"]["amount"] == str(LARGEST)
    over_all = await api.post(
        f"/v1/charges/{captured.body['charge']['id']}/reverse", {"amount": str(LARGEST + 1)}
    )
    assert over_all.status == 422
    assert (await api.post(f"/v1/charges/{captured.body['charge']['id']}/reverse")).status == 201
    assert (await api.balance(asset="points"))["posted"] == str(3 * LARGEST)


async def test_largest_amount_of_the_default_asset_has_its_decimals(api: Api) -> None:
    largest = f"{LARGEST // UNIT}.{LARGEST % UNIT:09}"
    assert (await api.grant(largest))["amount"] == largest
    over = f"{LARGEST // UNIT}.{LARGEST % UNIT + 1:09}"
    answer = await api.post("/v1/consume", {"customer_id": "acme", "amount": over})
    assert (answer.status, answer.code) == (422, "amount_out_of_range")
    assert largest in answer.body["detail"]


async def test_large_json_numbers_in_free_objects_keep_every_digit(api: Api) -> None:
    raw = (
        b'{"customer_id":"acme","amount":"1","category":"promotional","metadata":'
        b'{"n":9007199254740993,"f":0.1000000000000000055511151231257827,"e":1E+30}}'
    )
    made = await api.send("POST", "/v1/grants", raw=raw, key="digits")
    assert made.status == 201, made
    for answer in (made, await api.get(f"/v1/grants/{made.body['id']}")):
        assert b"9007199254740993" in answer.raw
        assert b"0.1000000000000000055511151231257827" in answer.raw


# B-32: what is no amount

NO_AMOUNTS: tuple[Any, ...] = (
    "NaN",
    "nan",
    "Infinity",
    "-Infinity",
    "inf",
    "1e400",
    "1e5",
    "1E-2",
    "0x10",
    "1_000",
    "1,000",
    "1.",
    ".5",
    "01",
    "00",
    "+1",
    "-1",
    "-0",
    "--1",
    "",
    " ",
    "1 ",
    " 1",
    "\t1",
    "1\n",
    "1\u00a0",
    "\u0661",
    "\uff11",
    "1\u200b",
    "\u221e",
    "\u00bd",
    "\u2212" + "1",
    "1.5.5",
    "1.0000000000001",
    "0." + "0" * 12 + "1",
    "1" + "0" * 26,
    "true",
    "null",
    "one",
    "$5",
    "5 credits",
    "5%",
)
NO_STRINGS: tuple[Any, ...] = (
    1,
    0,
    -1,
    1.5,
    -0.0,
    True,
    False,
    None,
    [],
    ["5"],
    {},
    {"amount": "5"},
    2**53 + 1,
    2**70,
)
RAW_NUMBERS = (b"1e400", b"-0", b"1.0", b"1e5", b"-1e400", b"0e0", b"9" * 400)
NOT_JSON = (b"NaN", b"Infinity", b"-Infinity", b"+1", b"01", b".5", b"1.", b"0x1", b"nil")


class Field:
    """A place where an amount goes: the route, and the body around it."""

    def __init__(self, path: str, *place: str, **body: Any) -> None:
        self.path, self.place, self.body = path, place, body

    def __repr__(self) -> str:
        return f"{self.path} {'.'.join(self.place)}"

    def raw(self, value: bytes) -> bytes:
        body: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self.body))
        at = body
        for step in self.place[:-1]:
            at = at.setdefault(step, {})
        at[self.place[-1]] = msgspec.Raw(value)
        return msgspec.json.encode(body)


async def amount_fields(api: Api) -> list[Field]:
    """Every member of every body that is an amount."""
    await api.grant("100")
    hold = (await api.reserve("10"))["id"]
    charge = (await api.consume("10"))["id"]
    acme: dict[str, Any] = {"customer_id": "acme"}
    grant = {**acme, "amount": "1", "category": "promotional"}
    cost = {"currency": "USD"}
    return [
        Field("/v1/reserve", "amount", **acme),
        Field("/v1/reserve", "minimum", **acme, amount="1"),
        Field("/v1/consume", "amount", **acme),
        Field(f"/v1/holds/{hold}/capture", "amount"),
        Field(f"/v1/holds/{hold}/capture", "amount", above_hold="take", final=False),
        Field(f"/v1/holds/{hold}/extend", "add", "amount"),
        Field(f"/v1/charges/{charge}/reverse", "amount"),
        Field("/v1/grants", "amount", **acme, category="promotional"),
        Field("/v1/grants", "cost", "amount", **{**grant, "category": "paid", "cost": cost}),
        Field(
            "/v1/grants",
            "recurrence",
            "rollover",
            "max",
            **{**grant, "recurrence": {"interval": "day"}},
        ),
    ]


async def test_what_is_no_amount_is_422_in_every_field_and_leaves_no_row(api: Api) -> None:
    fields = await amount_fields(api)
    rows, balance = await journal_count(api), await api.posted()
    values = [msgspec.json.encode(value) for value in (*NO_AMOUNTS, *NO_STRINGS)]
    for field in fields:
        for value in (*values, *RAW_NUMBERS):
            answer = await api.send("POST", field.path, raw=field.raw(value), key="never-taken")
            told = (field, value, answer)
            assert answer.status == 422, told
            assert answer.code in {
                "invalid_amount",
                "amount_out_of_range",
                "invalid_value",
                "invalid_number",
                "missing_member",
            }, told
            pointer = "/" + "/".join(field.place)
            assert any(e["pointer"].startswith(pointer) for e in answer.body["errors"]), told
    assert (await journal_count(api), await api.posted()) == (rows, balance)


async def test_what_is_no_json_number_is_400_in_every_field(api: Api) -> None:
    fields = await amount_fields(api)
    rows = await journal_count(api)
    for field in fields:
        for value in NOT_JSON:
            whole = field.raw(b'"@"').replace(b'"@"', value)
            answer = await api.send("POST", field.path, raw=whole, key="never-taken")
            assert (answer.status, answer.code) == (400, "malformed"), (field, value, answer)
    assert await journal_count(api) == rows


async def test_zero_is_refused_where_it_means_nothing(api: Api) -> None:
    """`capture "0"` ends a hold, a cost may be 0; everywhere else 422."""
    fields = await amount_fields(api)
    for field in fields:
        is_meant = field.path.endswith("/capture") or field.place[0] == "cost"
        for zero in (b'"0"', b'"0.0"', b'"0.000000000"'):
            if is_meant:
                continue
            answer = await api.send("POST", field.path, raw=field.raw(zero), key="never-taken")
            assert (answer.status, answer.code) == (422, "amount_out_of_range"), (field, answer)
    free = await api.grant("1", category="paid", cost={"amount": "0", "currency": "USD"})
    assert free["cost"] == {"amount": "0", "currency": "USD"}


async def test_wrong_amount_in_a_batch_is_422_at_its_index_alone(api: Api) -> None:
    await api.grant("100")
    values = [msgspec.json.encode(value) for value in (*NO_AMOUNTS, *NO_STRINGS)]
    wrong = [
        b'{"op":"consume","key":"wrong-%d","customer_id":"acme","amount":%b}' % pair
        for pair in enumerate((*values, *RAW_NUMBERS))
    ]
    right = b'{"op":"consume","key":"right-%d","customer_id":"acme","amount":"1"}'
    items = [item for n, w in enumerate(wrong[:50]) for item in (w, right % n)]
    raw = b'{"operations":[' + b",".join(items + wrong[50:]) + b"]}"
    answer = await api.send("POST", "/v1/batch", raw=raw)
    assert answer.status == 200, answer
    statuses = [result["status"] for result in answer.body["results"]]
    assert statuses == [422, 201] * 50 + [422] * len(wrong[50:])
    assert await api.posted() == ("50", "0", "50")


@pytest.mark.parametrize("limit", [*NO_AMOUNTS, *NO_STRINGS], ids=repr)
async def test_what_is_no_amount_is_no_overage_limit(class_api: Running, limit: Any) -> None:
    answer = await class_api.api.put(
        "/v1/customers/acme", {"overage": {"policy": "owe", "limit": limit}}
    )
    assert answer.status == 422, answer
    seen = (await class_api.api.get("/v1/customers/acme")).body
    assert seen["overage"] == {"policy": "deny", "limit": None}


@pytest.fixture(scope="module")
async def class_api(databases: Databases) -> AsyncGenerator[Running]:
    """One service for tests that change nothing."""
    database = await databases.make()
    pool = await open_pool(database.dsn, size=5, statement_cache=STATEMENT_CACHE)
    async with serving(pool) as running:
        await running.api.customer("acme")
        yield running
    await pool.close()
    await databases.drop(database)


NO_UNITS = ("", " ", "credits ", " credits", "CREDITS", "credit", "USD", "usd", "\u0441redits")


@pytest.mark.parametrize("unit", [*NO_UNITS, None, 1, True, []], ids=repr)
async def test_what_is_no_unit_is_422(class_api: Running, unit: Any) -> None:
    for path in ("/v1/consume", "/v1/reserve", "/v1/grants"):
        body = {"customer_id": "acme", "amount": "1", "asset": unit}
        if path == "/v1/grants":
            body["category"] = "promotional"
        answer = await class_api.api.post(path, body)
        assert answer.status == 422, answer


# B-34: keys belong to one customer of one business


async def test_same_key_of_two_customers_stands_alone_on_every_route(api: Api) -> None:
    answers: dict[str, list[Any]] = {}
    for who in ("left", "right"):
        await api.customer(who)
        body = {"customer_id": who, "amount": "10"}
        granted = await api.post("/v1/grants", {**body, "category": "promotional"}, key="same-g")
        hold = await api.post("/v1/reserve", {**body, "amount": "2"}, key="same-r")
        charge = await api.post("/v1/consume", {**body, "amount": "3"}, key="same-c")
        captured = await api.post(f"/v1/holds/{hold.body['id']}/capture", key="same")
        reversed_ = await api.post(f"/v1/charges/{charge.body['id']}/reverse", key="same-u")
        voided = await api.post(f"/v1/grants/{granted.body['id']}/void", key="same-v")
        closed = await api.post(f"/v1/customers/{who}/close", key="same-x")
        answers[who] = [granted, hold, charge, captured, reversed_, voided, closed]
    for left, right in zip(*answers.values(), strict=True):
        assert left.status == right.status < 300
        assert not left.is_replayed
        assert not right.is_replayed
        assert left.body != right.body


async def test_same_key_in_two_businesses_stands_alone(api: Api, databases: Databases) -> None:
    """Two databases: the same customer, key and body in both."""
    database = await databases.make()
    pool = await open_pool(database.dsn, size=5, statement_cache=STATEMENT_CACHE)
    try:
        async with serving(pool) as other:
            await other.api.customer("acme")
            body = {"customer_id": "acme", "amount": "7", "category": "promotional"}
            answers = [await one.post("/v1/grants", body, key="K") for one in (api, other.api)]
            assert [(a.status, a.is_replayed) for a in answers] == [(201, False)] * 2
            refused = await other.api.of(api.secret).get("/v1/customers/acme")
            assert (refused.status, refused.code) == (401, "unauthenticated")
            assert await api.posted() == await other.api.posted() == ("7", "0", "7")
    finally:
        await pool.close()
        await databases.drop(database)


async def test_key_of_one_operation_is_not_free_for_another(api: Api) -> None:
    """One name, one request: of whatever route, for the same customer."""
    await api.grant("50")
    body = {"customer_id": "acme", "amount": "5"}
    assert (await api.post("/v1/consume", body, key="one")).status == 201
    hold = await api.reserve("5")
    for path, other in (
        ("/v1/reserve", body),
        ("/v1/grants", {**body, "category": "promotional"}),
        (f"/v1/holds/{hold['id']}/void", {}),
        (f"/v1/holds/{hold['id']}/capture", {}),
        ("/v1/customers/acme/close", {}),
    ):
        answer = await api.post(path, other, key="one")
        assert (answer.status, answer.code) == (422, "idempotency_key_reused"), path
    assert await api.posted() == ("45", "5", "40")


async def test_connection_of_the_helpers_sees_only_what_was_committed(
    api: Api, database: Database
) -> None:
    """An answer is sent after its commit: another connection sees all of it at once."""
    await api.grant("5")
    async with connected(database.dsn) as conn:
        for n in range(1, 6):
            await api.consume("1")
            assert await conn.fetchval("SELECT count(*) FROM journals") == 1 + n
