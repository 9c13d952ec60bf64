"""Every route × every scope × another customer's key and ids, generated from the document."""

from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from meter.http import ROUTES
from meter.openapi import document
from meter.scopes import SCOPES, TOKEN_SCOPES, UNBOUND_ONLY
from sql.pool import STATEMENT_CACHE, open_pool, transaction
from tests.conftest import prove_books
from tests.http import Answer, Api, Described, World, fresh_key
from tests.prices import furnish_prices
from tests.servers import Databases
from tests.shop import Shop, furnish_all, leave, shop

DOCUMENT: Any = document(ROUTES)
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
SCOPED = [operation for operation in OPERATIONS if operation[2]["x-scope"] is not None]
OPEN = [operation for operation in OPERATIONS if operation[2]["x-scope"] is None]
BOUND = [operation for operation in SCOPED if operation[2]["x-scope"] not in UNBOUND_ONLY]
ABSENT_CUSTOMER = "nobody"
CODES_OF_IDS = {
    "customer_id": "customer_not_found",
    "report": "report_not_found",
    "hold_id": "hold_not_found",
    "charge_id": "charge_not_found",
    "grant_id": "grant_not_found",
    "journal_id": "journal_not_found",
    "key_id": "key_not_found",
    "key": "request_not_found",
    "name": "job_not_found",
    "period": "period_not_found",
    "meter": "meter_not_found",
    "rate_card": "rate_card_not_found",
    "purchase_id": "purchase_not_found",
    "payment_method": "payment_method_not_found",
}


def named(operation: tuple[str, str, Any]) -> str:
    return operation[2]["operationId"]


class Keys:
    """A key for each scope: of the whole business, and of the customer `acme`."""

    def __init__(self, sale: Shop) -> None:
        self.sale = sale
        self.running = sale.running
        self.admin = sale.api
        self.unbound: dict[str, Api] = {}
        self.bound: dict[str, Api] = {}

    async def furnish(self, customer_id: str = "acme") -> World:
        return await furnish_all(self.sale, customer_id)

    async def furnish_for(self, operation: tuple[str, str, Any]) -> World:
        """A new customer, who subscribes, or has left, only where that matters."""
        subscribes = any(word in operation[1] for word in ("subscription", "payment-methods"))
        world = await furnish_all(self.sale, fresh_key(), subscribes=subscribes)
        if operation[1].endswith("/erase"):
            await leave(self.sale, world)
        return world

    async def make(self) -> None:
        await furnish_prices(self.running)
        await self.admin.customer("acme")
        await self.admin.customer("other")
        for scope in SCOPES:
            self.unbound[scope] = await self.admin.key(scope)
            if scope not in UNBOUND_ONLY:
                self.bound[scope] = await self.admin.key(scope, customer_id="acme")


@pytest.fixture(scope="module")
async def keys(databases: Databases) -> AsyncGenerator[Keys]:
    database = await databases.make()
    pool = await open_pool(database.dsn, size=5, statement_cache=STATEMENT_CACHE)
    async with shop(pool, has_one_clock=True) as sale:
        made = Keys(sale)
        await made.make()
        yield made
    async with transaction(pool) as conn:
        await prove_books(conn)
    await pool.close()
    await databases.drop(database)


def example_of(operation: Any, customer_id: str) -> dict[str, Any] | None:
    """The example body of an operation, for one customer."""
    body = operation.get("requestBody")
    if body is None:
        return None
    [example] = body["content"]["application/json"]["examples"].values()
    text = msgspec.json.encode(example["value"]).decode()
    return msgspec.json.decode(text.replace('"acme"', f'"{customer_id}"'))


def is_asked_for(operation: Any, name: str) -> bool:
    return any(p["name"] == name and p["in"] == "query" for p in operation["parameters"])


async def call(api: Api, operation: tuple[str, str, Any], world: World, **other: str) -> Answer:
    """A request that works for a key that may; `other` names other things in its path."""
    method, template, described = operation
    customer_id = other.get("customer_id", world.customer_id)
    path = world.path(template, **other)
    if is_asked_for(described, "customer_id"):
        path += f"?customer_id={quote(customer_id)}"
    body = example_of(described, customer_id)
    if other and described["operationId"] == "put_customer":
        body = {"name": "Changed"}  # its example changes the overage, which such a key never may
    headers = {"X-Request-Id": "the-same"}
    return await api.send(method, path, body, key=fresh_key(), headers=headers)


def test_every_route_has_a_scope_or_is_open_on_purpose() -> None:
    assert len(SCOPED) + len(OPEN) == len(ROUTES)
    opened = {path for _, path, _ in OPEN}
    assert opened == {
        *("/livez", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"),
        "/v1/stripe/webhook",  # by signature
    }
    assert {operation["x-scope"] for _, _, operation in SCOPED} <= SCOPES.keys()


@pytest.mark.parametrize("operation", OPEN, ids=named)
async def test_open_route_needs_no_key(keys: Keys, operation: tuple[str, str, Any]) -> None:
    for api in (keys.admin.of(None), keys.admin.of("ddk_wrong")):
        if operation[0] == "GET":
            assert (await api.get(operation[1])).status == 200
        else:
            assert (await api.post(operation[1], key=None)).code == "invalid_signature"


@pytest.mark.parametrize("operation", SCOPED, ids=named)
async def test_route_without_a_good_key_is_401(keys: Keys, operation: tuple[str, str, Any]) -> None:
    described = Described(DOCUMENT)
    world = await keys.furnish()
    before = await keys.admin.balance()
    for secret in (None, "", "ddk_", "ddk_" + "a" * 43, "ddt_" + "a" * 43):
        answer = await call(keys.admin.of(secret), operation, world)
        assert (answer.status, answer.code) == (401, "unauthenticated")
        described.check(operation[0], operation[1], answer)
    after = await keys.admin.balance()
    assert {**after, "as_of": 0} == {**before, "as_of": 0}


@pytest.mark.parametrize("operation", SCOPED, ids=named)
async def test_route_opens_for_its_scope_and_for_no_other(
    keys: Keys, operation: tuple[str, str, Any]
) -> None:
    described = Described(DOCUMENT)
    world = await keys.furnish()
    before = await keys.admin.balance()
    needed = operation[2]["x-scope"]
    for scope, api in keys.unbound.items():
        if scope in (needed, "admin"):
            continue
        answer = await call(api, operation, world)
        assert (answer.status, answer.code) == (403, "scope_missing"), scope
        assert needed in answer.body["detail"]
        described.check(operation[0], operation[1], answer)
    after = await keys.admin.balance()
    assert {**after, "as_of": 0} == {**before, "as_of": 0}
    for scope in {needed, "admin"}:
        fresh = await keys.furnish_for(operation)  # one of these closes its customer
        answer = await call(keys.unbound[scope], operation, fresh)
        if gives_away_more(operation, scope):
            assert (answer.status, answer.code) == (422, "invalid_scopes")
            continue
        assert answer.status in (200, 201, 202), (scope, answer)
        described.check(operation[0], operation[1], answer)


def gives_away_more(operation: tuple[str, str, Any], scope: str) -> bool:
    """Whether the example asks for a token that may more than a key with this one scope."""
    return operation[2]["operationId"] == "make_token" and scope != "admin"


@pytest.mark.parametrize("operation", SCOPED, ids=named)
async def test_key_of_one_customer_opens_only_with_the_scope(
    keys: Keys, operation: tuple[str, str, Any]
) -> None:
    needed = operation[2]["x-scope"]
    world = await keys.furnish()
    for scope, api in keys.bound.items():
        if scope == needed:
            continue
        answer = await call(api, operation, world)
        assert (answer.status, answer.code) == (403, "scope_missing"), scope
    if needed in keys.bound:
        world = await keys.furnish_for(operation)
        api = await keys.admin.key(needed, customer_id=world.customer_id)
        answer = await call(api, operation, world)
        if operation[2]["operationId"] == "put_customer":  # its example changes the overage
            assert (answer.status, answer.code) == (403, "scope_missing")
            answer = await api.put(world.path("/v1/customers/{customer_id}"), {"name": "Acme"})
        if gives_away_more(operation, needed):
            assert (answer.status, answer.code) == (422, "invalid_scopes")
            return
        assert answer.status in (200, 201, 202), answer


@pytest.mark.parametrize("operation", BOUND, ids=named)
async def test_another_customers_things_are_404_as_if_absent(
    keys: Keys, operation: tuple[str, str, Any]
) -> None:
    """To a key of `acme`: what is `other`'s, what nobody has, and what is no id at all."""
    described = Described(DOCUMENT)
    method, template, spec = operation
    api = keys.bound[spec["x-scope"]]
    own, foreign = await keys.furnish(), await keys.furnish("other")
    before = await keys.admin.balance("other")
    answers: list[Answer] = []
    [parameter, *_] = [p["name"] for p in spec["parameters"] if p["in"] == "path"] or [""]
    if parameter in ("hold_id", "charge_id", "grant_id", "purchase_id"):
        theirs, mine = foreign.ids[parameter], own.ids[parameter]
        for absent in (theirs, mine[:-8] + "ffffffff", mine[:4] + "f" * 32, "x", mine.upper()):
            answers.append(await call(api, operation, own, **{parameter: absent}))
        code = CODES_OF_IDS[parameter]
    elif parameter == "customer_id" or is_asked_for(spec, "customer_id") or names_customer(spec):
        for absent in ("other", ABSENT_CUSTOMER):
            answers.append(await call(api, operation, own, customer_id=absent))
        code = "customer_not_found"
    else:
        assert spec["operationId"] in {"list_customers"}, "not covered"
        listed = await api.get("/v1/customers?query=o&limit=100")
        assert {one["customer_id"] for one in listed.body["data"]} <= {"acme"}
        return
    if spec["operationId"] == "batch":
        for answer in answers:
            [result] = answer.body["results"]
            assert (result["status"], result["body"]["code"]) == (404, code)
    else:
        for answer in answers:
            assert (answer.status, answer.code) == (404, code)
            described.check(method, template, answer)
    assert len({answer.raw for answer in answers}) == 1
    after = await keys.admin.balance("other")
    assert {**after, "as_of": 0} == {**before, "as_of": 0}


def names_customer(spec: Any) -> bool:
    return '"acme"' in msgspec.json.encode(example_of(spec, "acme")).decode()


@pytest.mark.parametrize("operation", SCOPED, ids=named)
async def test_absent_things_are_404_to_everyone(
    keys: Keys, operation: tuple[str, str, Any]
) -> None:
    method, template, spec = operation
    names = [p["name"] for p in spec["parameters"] if p["in"] == "path"]
    if not names or method == "PUT":
        pytest.skip("names nothing that must exist")
    world = await keys.furnish()
    name = names[-1]
    own = world.ids[name]
    for absent in (own[:-8] + "ffffffff", "x", "\u00e9", "a b", "%"):
        answer = await call(keys.admin, operation, world, **{name: absent})
        if answer.code == "invalid_idempotency_key":
            assert name == "key"
            continue
        assert (answer.status, answer.code) == (404, CODES_OF_IDS[name]), absent
        Described(DOCUMENT).check(method, template, answer)


async def test_items_of_a_batch_need_their_own_scope_and_their_own_customer(keys: Keys) -> None:
    own, foreign = await keys.furnish(), await keys.furnish("other")
    acme = {"customer_id": "acme", "amount": "1"}
    operations: list[dict[str, Any]] = [
        {"op": "grant", **acme, "category": "promotional"},
        {"op": "reserve", **acme},
        {"op": "reserve", **acme, "customer_id": "other"},
        {"op": "consume", **acme, "customer_id": ABSENT_CUSTOMER},
        {"op": "capture", "hold_id": foreign.ids["hold_id"]},
        {"op": "void", "hold_id": foreign.ids["hold_id"]},
        {"op": "extend", "hold_id": foreign.ids["hold_id"], "expires_in": 60},
        {"op": "reverse", "charge_id": foreign.ids["charge_id"]},
        {"op": "capture", "hold_id": own.ids["hold_id"]},
    ]
    body = {"operations": [{"key": fresh_key(), **one} for one in operations]}
    answer = await keys.bound["usage:write"].post("/v1/batch", body, key=None)
    results = [(one["status"], one["body"].get("code")) for one in answer.body["results"]]
    assert results == [
        (403, "scope_missing"),
        (201, None),
        (404, "customer_not_found"),
        (404, "customer_not_found"),
        (404, "hold_not_found"),
        (404, "hold_not_found"),
        (404, "hold_not_found"),
        (404, "charge_not_found"),
        (200, None),
    ]


async def test_lists_show_a_key_of_one_customer_its_own_only(keys: Keys) -> None:
    await keys.furnish()
    await keys.furnish("other")
    foreign_hold = (await keys.admin.get("/v1/holds?customer_id=other")).body["data"][0]["id"]
    for operation in BOUND:
        method, path, spec = operation
        if method != "GET" or not is_asked_for(spec, "limit") or "{" in path:
            continue
        if path == "/v1/invoices":
            continue  # Stripe's, and these customers have none
        api = keys.bound[spec["x-scope"]]
        whose = "" if path == "/v1/customers" else "&customer_id=acme"
        alone, asked = await api.get(path), await api.get(f"{path}?limit=25{whose}")
        assert alone.status == asked.status == 200, path
        assert alone.body["data"] == asked.body["data"] != []
        assert {one["customer_id"] for one in alone.body["data"]} == {"acme"}
    charges = keys.bound["usage:read"]
    hidden = await charges.get(f"/v1/charges?hold_id={foreign_hold}")
    absent = await charges.get(f"/v1/charges?hold_id={foreign_hold[:-8]}ffffffff")
    assert (hidden.status, hidden.code) == (absent.status, absent.code) == (404, "hold_not_found")


async def test_cursor_of_a_wider_key_is_no_use_to_a_key_of_one_customer(keys: Keys) -> None:
    await keys.admin.customer("third")
    page = await keys.admin.get("/v1/customers?limit=1")
    cursor = quote(page.body["next_cursor"])
    stolen = await keys.bound["customers:read"].get(f"/v1/customers?limit=1&cursor={cursor}")
    assert (stolen.status, stolen.code) == (400, "invalid_cursor")


async def test_key_of_one_customer_can_not_change_overage(keys: Keys) -> None:
    api = keys.bound["customers:write"]
    for overage in ({"policy": "bill"}, {"policy": "owe", "limit": "1"}, {"policy": "deny"}):
        answer = await api.put("/v1/customers/acme", {"overage": overage, "name": "Mine"})
        assert (answer.status, answer.code) == (403, "scope_missing")
    assert (await api.put("/v1/customers/acme", {"name": "Acme"})).status == 200
    made = await api.put("/v1/customers/brand-new", {"name": "New"})
    assert (made.status, made.code) == (404, "customer_not_found")
    assert (await keys.admin.get("/v1/customers/brand-new")).status == 404


@pytest.mark.parametrize("scope", SCOPES)
async def test_bound_keys_hold_only_scopes_of_one_customer(keys: Keys, scope: str) -> None:
    body = {"name": "x", "scopes": [scope], "customer_id": "acme"}
    answer = await keys.admin.post("/v1/keys", body, key=None)
    if scope in UNBOUND_ONLY:
        assert (answer.status, answer.code) == (422, "invalid_scopes")
    else:
        assert answer.status == 201


@pytest.mark.parametrize("scope", SCOPES)
async def test_tokens_hold_only_reads_that_their_parent_may(keys: Keys, scope: str) -> None:
    body = {"scopes": [scope], "expires_in": 60}
    path = "/v1/customers/acme/tokens"
    by_admin = await keys.admin.post(path, body, key=None)
    assert by_admin.status == (201 if scope in TOKEN_SCOPES else 422), by_admin
    by_writer = await keys.unbound["customers:write"].post(path, body, key=None)
    assert by_writer.status == 422, by_writer


@pytest.mark.parametrize("operation", SCOPED, ids=named)
async def test_token_reads_its_customer_and_no_more(
    keys: Keys, operation: tuple[str, str, Any]
) -> None:
    world, foreign = await keys.furnish(), await keys.furnish("other")
    token = await keys.admin.token("acme", *sorted(TOKEN_SCOPES))
    if operation[2]["x-scope"] not in TOKEN_SCOPES:
        answer = await call(token, operation, world)
        assert (answer.status, answer.code) == (403, "scope_missing")
        return
    assert (await call(token, operation, world)).status == 200
    answer = await call(token, operation, foreign)
    if operation[2]["operationId"] == "list_customers":
        assert [one["customer_id"] for one in answer.body["data"]] == ["acme"]
    else:
        assert answer.status == 404


async def test_token_and_keys_end_with_what_they_came_from(keys: Keys) -> None:
    parent = await keys.admin.key("customers:write", "customers:read")
    key_id = (await keys.admin.get("/v1/keys?limit=1")).body["data"][0]["id"]
    token = await parent.token("acme", "customers:read")
    assert (await token.get("/v1/customers/acme")).status == 200
    assert (await keys.admin.delete(f"/v1/keys/{key_id}")).status == 200
    for api in (parent, token):
        answer = await api.get("/v1/customers/acme")
        assert (answer.status, answer.code) == (401, "key_revoked")


async def test_secrets_of_keys_are_shown_once(keys: Keys) -> None:
    made = await keys.admin.post("/v1/keys", {"name": "n", "scopes": ["admin"]}, key=None)
    secret = made.body["key"]
    assert len(secret) >= 4 + 43
    listed = await keys.admin.get("/v1/keys?limit=100")
    revoked = await keys.admin.delete(f"/v1/keys/{made.body['id']}")
    assert secret not in listed.raw.decode() + revoked.raw.decode()
    assert "key" not in revoked.body
