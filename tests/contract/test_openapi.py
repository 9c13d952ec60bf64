"""The OpenAPI document: whole, the same as its snapshot, and every example in it works.

Renew the snapshot after a wanted change: `.venv/bin/python -m tests.contract.test_openapi`.
"""

import re
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema_rs
import msgspec
import pytest

from meter.http import ROUTES
from meter.openapi import document
from meter.problems import CODES
from meter.reports.files import FORMS
from meter.scopes import SCOPES
from sql.pool import Pool
from tests.http import Api, Described, fresh_key
from tests.prices import furnish_prices
from tests.shop import Shop, furnish_all, leave, shop

SNAPSHOT = Path(__file__).with_name("openapi.json")
AUTHENTICATION = {"401", "403", "429"}
ANYTHING = {"500", "503"}
BODY = {"400", "408", "413", "415", "422"}


def as_text() -> str:
    """The document, as the snapshot has it."""
    return msgspec.json.format(msgspec.json.encode(document(ROUTES)), indent=1).decode() + "\n"


DOCUMENT: Any = msgspec.json.decode(as_text())
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
EXAMPLES = [
    pytest.param(method, path, example["value"], id=f"{operation['operationId']}-{name}")
    for method, path, operation in OPERATIONS
    for content in operation.get("requestBody", {}).get("content", {}).values()
    for name, example in content.get("examples", {}).items()
]


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        yield made


def test_document_is_its_snapshot() -> None:
    assert SNAPSHOT.read_text() == as_text(), "see the top of this file"


async def test_served_document_is_the_one_that_is_tested(sale: Shop) -> None:
    answer = await sale.api.of(None).get("/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.body == DOCUMENT


def references(value: Any) -> Iterator[str]:
    """Every `$ref` in the document."""
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        if "$ref" in members:
            yield members["$ref"]
        for member in members.values():
            yield from references(member)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from references(item)


def test_every_reference_leads_somewhere() -> None:
    targets = set(references(DOCUMENT))
    assert targets
    for target in targets:
        at = DOCUMENT
        for step in target.removeprefix("#/").split("/"):
            at = at[step]


def test_every_schema_is_a_schema() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema)
        assert schema, name


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=lambda v: str(v)[:60])
def test_operation_declares_all_that_can_happen(method: str, path: str, operation: Any) -> None:
    declared = set(operation["responses"])
    assert any(status.startswith("2") for status in declared)
    assert declared >= {"500"}
    if (scope := operation["x-scope"]) is not None:
        assert scope in SCOPES
        assert declared >= AUTHENTICATION | ANYTHING
        assert "security" not in operation
    else:
        assert operation["security"] == []
    if "requestBody" in operation:
        assert method in ("POST", "PUT", "PATCH")
        assert declared >= BODY
        if path != "/v1/stripe/webhook":  # only Stripe can send what works
            assert operation["requestBody"]["content"]["application/json"]["examples"]
    parameters = {p["name"]: p for p in operation["parameters"]}
    in_path = {name for name, p in parameters.items() if p["in"] == "path"}
    assert in_path == set(re.findall(r"{(\w+)}", path))
    assert all(parameters[name]["required"] for name in in_path)
    if in_path:
        assert "404" in declared or path == "/v1/assets/{code}" or method == "PUT"
    if {"limit", "cursor"} & set(parameters):
        assert {"limit", "cursor"} <= set(parameters)
        assert "400" in declared
    for status, response in operation["responses"].items():
        assert response["description"]
        kinds = set(response["content"])
        if status.startswith("2"):
            files = {form.media_type for form in FORMS.values()}
            is_file = path == "/v1/reports/{report}" or path.endswith("/export")
            other = files if is_file else {"text/html", "text/plain"}
            assert kinds <= {"application/json"} | other
        else:
            assert kinds == {"application/problem+json"}
            codes = re.findall(r"`(\w+)`", response["description"])
            assert codes
            assert all(int(status) in CODES[code].statuses for code in codes)


@pytest.mark.parametrize(("method", "path", "example"), EXAMPLES)
async def test_example_runs(sale: Shop, method: str, path: str, example: Any) -> None:
    """As it stands in the document, for a customer who has one of everything."""
    api = sale.api
    await furnish_prices(sale.running)
    leaves = path.endswith("/erase")
    world = await furnish_all(sale, subscribes=not leaves)
    if leaves:
        await leave(sale, world)
    described = await Described.of(api)
    answer = await api.send(method, world.path(path), example, key=fresh_key())
    assert answer.status in (200, 201, 202), answer
    described.check(method, path, answer)


async def test_every_read_answers_as_described(sale: Shop) -> None:
    api = sale.api
    await furnish_prices(sale.running)
    world = await furnish_all(sale)
    await api.post(world.path("/v1/holds/{hold_id}/capture"), {"amount": "10", "final": False})
    await api.post(world.path("/v1/charges/{charge_id}/reverse"), {"amount": "1"})
    await api.post("/v1/consume", {"customer_id": "acme", "amount": "999999"})
    await api.put("/v1/customers/acme", {"overage": {"policy": "owe", "limit": "5"}})
    described = await Described.of(api)
    for method, path, operation in described.operations():
        if method != "GET":
            continue
        lists = {p["name"] for p in operation["parameters"] if p["in"] == "query"}
        target = world.path(path) + ("?customer_id=acme" if "customer_id" in lists else "")
        answer = await api.get(target)
        assert answer.status == 200, (path, answer)
        described.check("GET", path, answer)
        if "cursor" in lists:
            await follow(described, api, path, target)


async def follow(described: Described, api: Api, path: str, target: str) -> None:
    """Read the list by short pages and by long ones: the same items, none twice."""
    members = "lines" if path.endswith("/statement") else "data"
    short = await pages(described, api, path, target, members, limit=3 if "asset" in path else 1)
    named = [name_of(item) for item in short]
    whole = await pages(described, api, path, target, members, limit=100)
    assert named == [name_of(item) for item in whole]
    assert len(set(named)) == len(named)
    glue = "&" if "?" in target else "?"
    other = await api.get(f"{target}{glue}limit=1&cursor=Zm9v")
    assert (other.status, other.code) == (400, "invalid_cursor"), path


def name_of(item: Any) -> str:
    """What an item is known by: other members may change while a list is read."""
    if "version" in item and "key" in item:
        return f"{item['key']}@{item['version']}"
    names = ("id", "journal_id", "code", "customer_id", "name", "key")
    return next(item[name] for name in names if name in item)


async def pages(
    described: Described, api: Api, path: str, target: str, members: str, *, limit: int
) -> list[Any]:
    items: list[Any] = []
    page = await api.get(f"{target}{'&' if '?' in target else '?'}limit={limit}")
    while True:
        described.check("GET", path, page)
        assert len(page.body[members]) <= limit
        items += page.body[members]
        assert page.body["has_more"] == (page.body["next_cursor"] is not None)
        assert page.body["has_more"] == ("link" in page.headers)
        if not page.body["has_more"]:
            return items
        link = re.fullmatch(r'<(.*)>; rel="next"', page.headers["link"])
        assert link is not None
        assert page.body["next_cursor"] in link[1]
        page = await api.get(target.partition("?")[0] + "?" + link[1].partition("?")[2])


if __name__ == "__main__":
    SNAPSHOT.write_text(as_text())
