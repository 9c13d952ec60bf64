"""Strings that break out of careless code: stored as they are or refused, and nothing else happens.

The whole corpus goes over one field of each type, a few of its strings over every field, filter and
cursor that the document has. Schema and rows of others must be the same afterwards.
"""

import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, cast
from urllib.parse import quote

import msgspec
import pytest

from meter.http import ROUTES
from meter.openapi import document
from sql.pool import STATEMENT_CACHE, open_pool, transaction
from tests.conftest import prove_books
from tests.http import Answer, Api, Described, World, fresh_key, furnish
from tests.servers import Database, Databases, connected
from tests.shop import furnish_all, shop

OPENINGS = ("'", '"', "')", '")', "';", "\\'", "$$", "$tag$", "' ", "1", "1)", "%27", "'||", "E'\\")
PAYLOADS = (
    " OR 1=1 --",
    " OR '1'='1",
    "; DROP TABLE customers; --",
    "; TRUNCATE journals CASCADE; --",
    "; UPDATE customers SET overage_policy='bill'; --",
    "; DELETE FROM lots; COMMIT; --",
    " UNION SELECT hash, name FROM api_keys --",
    " UNION ALL SELECT NULL,NULL,NULL,version()--",
    "; SELECT pg_sleep(30); --",
    "||(SELECT pg_sleep(30))||'",
    "; COPY customers TO PROGRAM 'id'; --",
    "; CREATE ROLE intruder SUPERUSER; --",
    " AND 1=CAST((SELECT version()) AS int) --",
    "/**/OR/**/1=1",
    "; SET ROLE postgres; --",
    "); ROLLBACK; --",
)
OTHERS = (
    "$1",
    "$1; SELECT 1",
    "%s",
    "%(name)s",
    "%n%n%n%n",
    "{0}",
    "{{7*7}}",
    "${jndi:ldap://127.0.0.1/a}",
    "#{7*7}",
    "<%= 7*7 %>",
    "`id`",
    "$(id)",
    "| id",
    "; id",
    "&& id",
    "*)(uid=*))(|(uid=*",
    '{"$gt": ""}',
    "[$ne]=1",
    "../../../../etc/passwd",
    "..\\..\\windows",
    "/etc/passwd",
    "file:///etc/passwd",
    "%2e%2e%2f",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "=HYPERLINK(1)",
    "+1",
    "-1+1",
    "@SUM(A1)",
    "%",
    "_",
    "%%",
    "\\",
    "\\\\",
    "\\x00",
    "\\u0000",
    "*",
    "?",
    "~",
    "|",
    "NULL",
    "null",
    "None",
    "undefined",
    "true",
    "NaN",
    "Infinity",
    "0x41",
    "1e400",
    "\u02bc OR 1=1",
    "\u2019; DROP TABLE lots; --",
    "\uff07 OR 1=1",
    "\u202e reversed",
    "\u200b",
    "\ufeff",
    "e\u0301 and \u00e9",
    "\U0001f4b0",
    "\u0130\u0131",
    "\ufffd",
    "\uffff",
    "\U0010ffff",
    "a\tb",
    "a\nb",
    "a\r\nSet-Cookie: x=1",
    "\x1b[31m",
    "\x7f",
    "a\0b",
    "-- ",
    "/* ",
    "*/",
    "#",
    ";",
    " ",
    "",
    "COPY customers FROM stdin;",
    "\\.",
    "\\copy",
)
CORPUS = tuple(dict.fromkeys([o + p for o in OPENINGS for p in PAYLOADS] + list(OTHERS)))
FEW = ("'; DROP TABLE customers; --", '" OR ""="', "$1\\'%s{0}", "\u02bc\U0001f4b0\u202e", "a\0b")
PRINTABLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
NO_CUSTOMER_ID = re.compile(r"[\x00-\x1f\x7f-\x9f/\\]")

STATE = """
    SELECT md5(string_agg(what, E'\\n' ORDER BY what)) FROM (
        SELECT format('%s.%s %s %s', table_name, column_name, data_type, is_nullable) AS what
        FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL
        SELECT format('%s %s', p.oid::regprocedure, md5(p.prosrc)) FROM pg_proc AS p
        WHERE p.pronamespace = 'public'::regnamespace
        UNION ALL
        SELECT format('%s %s %s', rolname, rolsuper, rolcreaterole) FROM pg_roles
        UNION ALL
        SELECT format('%s %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint
        UNION ALL
        SELECT format('%s %s', tgname, tgenabled) FROM pg_trigger
        UNION ALL
        SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
    ) AS everything
"""


class Attacked:
    """A service, a customer `acme` to aim at, and one, `bystander`, that must not change."""

    def __init__(self, database: Database, api: Api, world: World) -> None:
        self.database, self.api, self.world = database, api, world

    async def state(self) -> tuple[str, str]:
        """Digests of the schema with its roles, and of everything of the bystander."""
        async with connected(self.database.superuser_dsn) as conn:
            schema = await conn.fetchval(STATE)
        seen = hashlib.sha256()
        for path in (
            "/v1/customers/bystander",
            "/v1/customers/bystander/statement?limit=100",
            "/v1/grants?customer_id=bystander",
            "/v1/holds?customer_id=bystander",
            "/v1/charges?customer_id=bystander",
            "/v1/journals?customer_id=bystander",
        ):
            answer = await self.api.get(path)
            assert answer.status == 200
            answer.body.pop("to", None)
            seen.update(msgspec.json.encode(answer.body))
        return schema, seen.hexdigest()


@pytest.fixture(scope="module")
async def attacked(databases: Databases) -> AsyncGenerator[Attacked]:
    database = await databases.make()
    pool = await open_pool(database.dsn, size=5, statement_cache=STATEMENT_CACHE)
    async with shop(pool, has_one_clock=True) as sale:
        await furnish(sale.api, "bystander")
        made = Attacked(database, sale.api, await furnish_all(sale))
        before = await made.state()
        yield made
        assert await made.state() == before
    async with transaction(pool) as conn:
        await prove_books(conn)
    await pool.close()
    await databases.drop(database)


def test_corpus_has_at_least_200_strings() -> None:
    assert len(CORPUS) >= 200
    assert len(FEW) == 5


# One field of each type, every string


def sound(text: str) -> bool:
    return "\0" not in text


async def whole_corpus(send: Callable[[str], Any]) -> None:
    for text in CORPUS:
        try:
            await send(text)
        except AssertionError as error:
            raise AssertionError(f"with {text!r}") from error


async def test_texts_are_kept_as_they_are(attacked: Attacked) -> None:
    api = attacked.api

    async def send(text: str) -> None:
        body = {"name": text, "email": text, "metadata": {text: text, "list": [text]}}
        answer = await api.put("/v1/customers/acme", body)
        if not sound(text):
            assert (answer.status, answer.code) == (422, "invalid_text")
            return
        assert answer.status == 200, answer
        kept = (await api.get("/v1/customers/acme")).body
        assert {name: kept[name] for name in body} == body

    await whole_corpus(send)


async def test_references_and_reasons_are_kept_as_they_are(attacked: Attacked) -> None:
    api = attacked.api
    consume = {"op": "consume", "customer_id": "acme", "amount": "0.001"}
    grant = {"op": "grant", "customer_id": "acme", "amount": "1", "category": "promotional"}
    operations: list[Any] = []
    for text in filter(sound, CORPUS):
        operations += [
            {**consume, "key": fresh_key(), "reference": text},
            {**grant, "key": fresh_key(), "reason": text},
        ]
    answer = await api.post("/v1/batch", {"operations": operations}, key=None)
    assert answer.status == 200, answer
    for asked, result in zip(operations, answer.body["results"], strict=True):
        assert result["status"] == 201, (asked, result)
        for member, path in (("reference", "charges"), ("reason", "grants")):
            if member in asked:
                kept = await api.get(f"/v1/{path}/{result['body']['id']}")
                assert kept.body[member] == asked[member]


async def test_customer_ids_are_kept_or_refused(attacked: Attacked) -> None:
    api = attacked.api

    async def send(text: str) -> None:
        path = f"/v1/customers/{quote(text, safe='')}"
        made = await api.put(path, {"name": "x"})
        is_id = text not in ("", ".", "..") and not NO_CUSTOMER_ID.search(text)
        if not is_id:
            assert made.status in (404, 405, 422), made
            body = {"customer_id": text, "amount": "1"}
            refused = await api.post("/v1/consume", body)
            assert refused.status == 422, refused
            return
        assert made.status in (200, 201), made
        assert made.body["customer_id"] == text
        assert (await api.get(path)).body["customer_id"] == text
        assert (await api.get(f"{path}/balance")).body["customer_id"] == text
        listed = await api.get(f"/v1/holds?customer_id={quote(text, safe='')}")
        assert (listed.status, listed.body["data"]) == (200, [])
        consumed = await api.post("/v1/consume", {"customer_id": text, "amount": "1"})
        assert consumed.status == 402

    await whole_corpus(send)


async def test_searches_find_the_string_itself(attacked: Attacked) -> None:
    """No wildcard, no pattern: what is looked for is what is typed, whatever its case."""
    api = attacked.api
    await api.customer("plain", name="nothing special 100%_off")

    async def send(text: str) -> None:
        answer = await api.get(f"/v1/customers?limit=100&query={quote(text, safe='')}")
        if not sound(text):
            assert answer.status == 422
            return
        assert answer.status == 200, answer
        for found in answer.body["data"]:
            texts = [found["customer_id"], found["name"] or "", found["email"] or ""]
            assert any(text.lower() in one.lower() for one in texts) or not text.isascii()

    await whole_corpus(send)
    for wildcard in ("n%l", "n_thing", ".*", "special%", "^nothing"):
        answer = await api.get(f"/v1/customers?query={quote(wildcard)}")
        assert answer.body["data"] == [], wildcard
    literal = await api.get("/v1/customers?query=100%25_OFF")
    assert [one["customer_id"] for one in literal.body["data"]] == ["plain"]


REFUSED_PLACES = {
    "hold": "/v1/holds/{}",
    "grant": "/v1/grants/{}",
    "charge": "/v1/charges/{}",
    "journal": "/v1/journals/{}",
    "job": "/v1/jobs/{}/run",
    "cursor": "/v1/customers?cursor={}",
    "limit": "/v1/customers?limit={}",
    "status": "/v1/holds?customer_id=acme&status={}",
    "kind": "/v1/journals?customer_id=acme&kind={}",
    "time": "/v1/journals?customer_id=acme&from={}",
    "moment": "/v1/customers/acme/balance?at={}",
    "axis": "/v1/customers/acme/balance?axis={}",
    "asset": "/v1/customers/acme/balance?asset={}",
    "hold of charges": "/v1/charges?customer_id=acme&hold_id={}",
    "unknown": "/v1/customers?sort={}",
    "name of a parameter": "/v1/customers?{}=1",
}


@pytest.mark.parametrize("place", REFUSED_PLACES.values(), ids=REFUSED_PLACES.keys())
async def test_places_of_few_values_refuse_everything_else(attacked: Attacked, place: str) -> None:
    async def send(text: str) -> None:
        path = place.format(quote(text, safe=""))
        method = "POST" if place.endswith("/run") else "GET"
        answer = await attacked.api.send(method, path, {} if method == "POST" else None)
        assert 400 <= answer.status < 500, answer

    await whole_corpus(send)


async def test_assets_amounts_and_times_refuse_everything_else(attacked: Attacked) -> None:
    api = attacked.api

    async def send(text: str) -> None:
        for member in ("amount", "asset", "effective_at"):
            body = {"customer_id": "acme", "amount": "1", member: text}
            answer = await api.post("/v1/consume", body)
            assert answer.status == 422, answer
        made = await api.put(f"/v1/assets/{quote(text, safe='')}", {"scale": 2})
        is_code = re.fullmatch("[a-z][a-z0-9_]{0,31}", text) is not None
        assert made.status < 300 if is_code else 400 <= made.status < 500, made

    await whole_corpus(send)


async def test_idempotency_keys_are_names_and_nothing_more(attacked: Attacked) -> None:
    api = attacked.api
    body = {"customer_id": "acme", "amount": "0.001"}

    async def send(text: str) -> None:
        item = {"op": "consume", "key": text, **body}
        answer = await api.post("/v1/batch", {"operations": [item]}, key=None)
        [result] = answer.body["results"]
        if not PRINTABLE.fullmatch(text) or text.startswith('"'):
            assert result["status"] in (201, 422), result
            return
        assert result["status"] == 201, result
        replayed = await api.post("/v1/consume", body, key=text)
        assert (replayed.is_replayed, replayed.body) == (True, result["body"])
        found = await api.get(f"/v1/customers/acme/requests/{quote(text, safe='')}")
        assert found.status == 200, found
        assert found.body["body"] == result["body"]

    await whole_corpus(send)


async def test_headers_are_data_too(attacked: Attacked) -> None:
    api = attacked.api

    async def send(text: str) -> None:
        if any(character in text for character in "\r\n\0\x1b\x7f"):
            return  # no client can send these in a header
        for name in ("Authorization", "X-Request-Id", "traceparent", "Origin", "Accept"):
            value = f"Bearer {text}" if name == "Authorization" else text
            sent = {name: value.encode().decode("latin-1")}
            answer: Answer = await api.send("GET", "/v1/customers/acme", headers=sent)
            assert answer.status == (401 if name == "Authorization" else 200), (name, answer)
            assert answer.headers["x-request-id"].isascii()

    await whole_corpus(send)


# Every field, some strings

DOCUMENT: Any = document(ROUTES)
OPERATIONS = [
    pytest.param(method.upper(), path, operation, id=operation["operationId"])
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if operation["x-scope"] is not None
]


def resolved(schema: Any) -> Any:
    while (target := schema.get("$ref")) is not None:
        schema = DOCUMENT["components"]["schemas"][target.rpartition("/")[2]]
    return schema


def string_places(schema: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where strings stand in values of a schema; `[]` stands for an item of a list."""
    schema = resolved(schema)
    for choice in schema.get("anyOf", [schema]):
        one = resolved(choice)
        if one.get("type") == "string" or "enum" in one:
            yield place
        elif one.get("type") == "array":
            yield from string_places(one["items"], (*place, "[]"))
        elif one.get("type") == "object" and "properties" not in one:
            yield (*place, "member")
        for name, member in one.get("properties", {}).items():
            yield from string_places(member, (*place, name))


def put(body: Any, place: tuple[str, ...], text: str) -> Any:
    """The body with `text` at a place."""
    if not place:
        return text
    step, *rest = place
    if step == "[]":
        return [put({}, tuple(rest), text)]
    members = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    return {**members, step: put(members.get(step), tuple(rest), text)}


def examples_of(operation: Any) -> Any:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return next((example["value"] for example in content.get("examples", {}).values()), None)


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
async def test_every_field_takes_or_refuses_them(
    attacked: Attacked, method: str, path: str, operation: Any
) -> None:
    api, world, described = attacked.api, attacked.world, Described(DOCUMENT)
    example = examples_of(operation)
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    places = list(string_places(content["schema"])) if content else []
    if operation["operationId"] == "close_customer":
        world = await furnish(api, fresh_key())

    async def send(target: str, body: Any) -> None:
        answer = await api.send(method, target, body, key=fresh_key())
        assert answer.status < 500, (target, body, answer)
        if answer.code not in ("not_found", "method_not_allowed"):
            described.check(method, path, answer)

    for text in FEW:
        for parameter in operation["parameters"]:
            name = parameter["name"]
            if parameter["in"] == "query":
                await send(f"{world.path(path)}?{name}={quote(text, safe='')}", example)
            elif parameter["in"] == "path":
                await send(world.path(path, **{name: text}), example)
        for place in places:
            await send(world.path(path), put(example, place, text))
        if operation["operationId"] == "batch":
            for member in ("op", "key", "customer_id", "amount", "hold_id", "charge_id", "x"):
                [item] = example["operations"]
                await send(path, {"operations": [{**item, member: text}]})
