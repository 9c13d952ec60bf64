"""Any request that the description allows is answered, and leaves a world that is described."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any, Final

import pytest
from aiohttp import ClientSession

from sandbox import routing, schema
from sandbox.shapes import as_list, as_obj
from sandbox.world import World
from tests.stripe.kit import Kit

REQUESTS: Final = 1_200
NAMED: Final = {
    "default_payment_method": "payment_method",
    "default_price": "price",
    "from_subscription": "subscription",
    "meter": "billing.meter",
    "test_clock": "test_helpers.test_clock",
}
WORDS: Final = {
    "currency": "usd",
    "event_name": "tokens",
    "query": "metadata['a']:'1'",
    "url": "http://127.0.0.1:9/x",
}
NOT_HERE: Final = frozenset({"expand", "customer_account", "source", "enabled_events"})


class Asker:
    """Makes parameters by the description, with ids of what is there."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.random = world, Random(seed)

    def some_id(self, kind: str) -> str:
        ids = [*self.world.tables.get(kind, {})]
        return self.random.choice(ids) if ids else "none"

    def value(self, node: Any, name: str, depth: int = 0) -> Any:
        node = schema.resolve(node)
        if "anyOf" in node:
            return self.value(self.random.choice(node["anyOf"]), name, depth)
        if "enum" in node:
            return self.random.choice(node["enum"])
        match node.get("type"):
            case "object":
                return self.members(node, depth)
            case "array":
                return [self.value(node["items"], name, depth + 1)]
            case "boolean":
                return self.random.choice(["true", "false"])
            case "integer":
                return self.number(name)
            case "number":
                return self.random.choice([10, 100])
            case _:
                return self.text(name)

    def members(self, node: Any, depth: int) -> dict[str, Any]:
        if "properties" not in node:
            return {"stripe_customer_id": self.some_id("customer"), "value": "3"}
        chance = 0.3 if depth == 0 else 0.15
        return {
            name: self.value(inner, name, depth + 1)
            for name, inner in node["properties"].items()
            if name not in NOT_HERE
            and (name in node.get("required", []) or self.random.random() < chance)
        }

    def number(self, name: str) -> int:
        if name.endswith(("_at", "_time", "_date", "_end", "anchor", "by", "stamp", "start")):
            return self.world.now + self.random.choice([-86_400, 0, 3_600, 400_000])
        return self.random.choice([0, 1, 2, 10, 100, 1_000, -5])

    def text(self, name: str) -> str:
        kind = NAMED.get(name, name)
        if kind in self.world.tables:
            return self.some_id(kind)
        return WORDS.get(name, self.random.choice(["1", "abc"]))


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested parameters as a form has them."""
    rows = as_list(value)
    inside = as_obj(value) if rows is None else dict(enumerate(rows))
    if inside is None:
        yield name, str(value)
        return
    for key, inner in inside.items():
        yield from flat(inner, f"{name}[{key}]" if name else str(key))


def path_of(asker: Asker, template: str) -> str:
    """A path with ids of the right kind, as far as the part before them tells it."""
    parts = template.split("/")
    for place, part in enumerate(parts):
        if part.startswith("{"):
            parts[place] = asker.some_id(parts[place - 1].removesuffix("s"))
    return "/".join(parts)


async def ask(kit: Kit, web: ClientSession, asker: Asker, operation: str) -> int:
    method, _, template = operation.partition(" ")
    name = schema.OPERATIONS[operation].get("params")
    given = {} if name is None else asker.members(schema.SCHEMAS[name], 0)
    how: dict[str, Any] = {"params": dict(flat(given))}
    if method == "POST":
        how = {"json": given} if template.startswith("/v2") else {"data": dict(flat(given))}
    headers = {"Authorization": f"Bearer {kit.sandbox.secret_key}"}
    url = kit.sandbox.url + path_of(asker, template)
    async with web.request(method, url, headers=headers, **how) as answer:
        await answer.read()
        return answer.status


@pytest.mark.parametrize("seed", [1, 14])
async def test_random_requests_never_break_it(
    kit: Kit, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        customer = await kit.customer("pm_card_visa")
        await kit.subscription(customer, await kit.price(2000, "month"))
        await kit.paid_intent(customer=customer.id)
    asker = Asker(kit.sandbox.account.world, seed)
    operations = sorted(one for one in routing.ROUTES if not one.startswith("DELETE"))
    with caplog.at_level(logging.ERROR):
        statuses = {
            await ask(kit, kit.web, asker, asker.random.choice(operations)) for _ in range(REQUESTS)
        }
        await kit.clock(timedelta(days=40))
    assert caplog.records == []
    assert statuses <= {200, 400, 401, 402, 404, 429}
    assert {200, 400} <= statuses
