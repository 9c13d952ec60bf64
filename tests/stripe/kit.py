"""Words for the tests of the stand-in: clients, a receiver of webhooks, things to sell."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp
import msgspec
import stripe
from aiohttp import web

from sandbox import routing, schema
from sandbox.server import Sandbox
from sandbox.world import World

START: Final = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)


def promised(operation: str) -> dict[str, Any] | None:
    """The schema of what an operation answers."""
    described = schema.OPERATIONS[operation]
    if "returns" in described:
        return {"$ref": described["returns"]}
    inner = described.get("lists") or described.get("searches")
    if inner is None:
        return None
    return {
        "type": "object",
        "properties": {
            "object": {"type": "string"},
            "data": {"type": "array", "items": {"$ref": inner}},
            "has_more": {"type": "boolean"},
            "url": {"type": "string"},
            "next_page": {"type": "string", "nullable": True},
            "next_page_url": {"type": "string", "nullable": True},
            "previous_page_url": {"type": "string", "nullable": True},
        },
        "required": ["data"],
    }


THIN: Final = (".data: unknown", ".related_object: unknown")
"""Members of thin events that the library reads from their own classes."""


class CheckedClient(stripe.AIOHTTPClient):
    """The library's transport; holds each good answer against the description, as it was sent."""

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        raw, status, found = await super().request_async(  # pyright: ignore[reportUnknownMemberType]
            method, url, headers, post_data
        )
        path = "/" + url.split("/", 3)[3].partition("?")[0]
        route = routing.find(method.upper(), path)
        if status == 200 and route is not None:
            node = promised(f"{method.upper()} {route[0]}")
            if node is not None:
                wrong = [*schema.differences(node, msgspec.json.decode(raw))]
                wrong = [one for one in wrong if not one.endswith(THIN)]
                assert wrong == [], (method, path)
        return raw, status, found


def check_world(world: World) -> None:
    """Hold every object, and every event with what it tells, against the description."""
    wrong: list[str] = []
    for kind, table in world.tables.items():
        if kind in ("billing.meter_event", "v2.core.event") or kind.startswith("standin."):
            continue
        for obj in table.values():
            if world.notes.get(obj["id"], {}).get("is_invented"):
                continue
            wrong += schema.differences(schema.of(kind), obj, obj["id"])
            if kind == "event":
                told = obj["data"]["object"]
                wrong += schema.differences(schema.of(told["object"]), told, obj["type"])
                assert obj["type"] in schema.SNAPSHOT_EVENTS
    assert wrong == [], wrong[:5]


@dataclass
class Receiver:
    """An endpoint for webhooks."""

    url: str
    seen: list[tuple[bytes, str]] = field(default_factory=list[tuple[bytes, str]])
    statuses: list[int] = field(default_factory=list[int])
    """Of the next answers; then 200."""

    def events(self) -> list[Any]:
        return [msgspec.json.decode(body) for body, _ in self.seen]

    def types(self) -> list[str]:
        return [event["type"] for event in self.events()]


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver]:
    """Take webhooks on a free port."""
    made = Receiver("")

    async def take(request: web.BaseRequest) -> web.Response:
        made.seen.append((await request.read(), request.headers["Stripe-Signature"]))
        return web.Response(status=made.statuses.pop(0) if made.statuses else 200)

    async with serving(take) as made.url:
        yield made


@asynccontextmanager
async def serving(
    take: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
) -> AsyncGenerator[str]:
    """Answer requests on a free port; its address."""
    runner = web.ServerRunner(web.Server(take, access_log=None), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address: Any = runner.addresses[0]
    try:
        yield f"http://127.0.0.1:{address[1]}/webhook"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def session() -> AsyncGenerator[aiohttp.ClientSession]:
    """A client that follows no redirects and keeps no cookies."""
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=20), cookie_jar=aiohttp.DummyCookieJar()
    ) as made:
        yield made


class Kit:
    """One stand-in and who talks to it."""

    def __init__(self, sandbox: Sandbox, http: stripe.HTTPClient, web: aiohttp.ClientSession):
        self.sandbox, self.http, self.web = sandbox, http, web
        self.client = self.client_of(sandbox.secret_key)
        self.v1: Any = self.client.v1
        self.v2: Any = self.client.v2

    def client_of(self, key: str, retries: int = 0) -> stripe.StripeClient:
        """The library with another key, or with retries."""
        url = self.sandbox.url
        return stripe.StripeClient(
            key,
            http_client=self.http,
            max_network_retries=retries,
            base_addresses={"api": url, "files": url, "connect": url, "meter_events": url},
        )

    # The control plane

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.sandbox.token}"}
        async with self.web.request(
            method, f"{self.sandbox.url}/_sandbox/{path}", json=body, headers=headers
        ) as answer:
            return answer.status, await answer.json()

    async def do(self, path: str, /, **body: Any) -> Any:
        """POST to the control plane; a good answer."""
        status, answer = await self.ask("POST", path, body)
        assert status == 200, answer
        return answer

    async def look(self, path: str) -> Any:
        status, answer = await self.ask("GET", path)
        assert status == 200, answer
        return answer

    async def state(self, kind: str) -> list[Any]:
        return (await self.look("state")).get(kind, [])

    async def events(self) -> list[str]:
        """The types of all events, oldest first."""
        return [event["type"] for event in await self.state("event")]

    async def raw(self, method: str, path: str, **how: Any) -> tuple[int, Any, Mapping[str, str]]:
        """A request to the API past the library."""
        headers = {"Authorization": f"Bearer {self.sandbox.secret_key}", **how.pop("headers", {})}
        async with self.web.request(
            method, self.sandbox.url + path, headers=headers, allow_redirects=False, **how
        ) as answer:
            body = await answer.read()
            return answer.status, msgspec.json.decode(body), answer.headers

    # Time

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.sandbox.account.clock.now(), UTC)

    async def clock(self, to: datetime | timedelta) -> Any:
        """Go to a time, or on by a span."""
        at = to if isinstance(to, datetime) else self.now + to
        return await self.do("clock", to=at.isoformat())

    # Things

    async def customer(self, card: str | None = None, **more: Any) -> Any:
        """A customer, with a card that is charged by default if one is named."""
        made = await self.v1.customers.create_async({"email": "jenny@example.com", **more})
        if card is not None:
            method = await self.v1.payment_methods.attach_async(card, {"customer": made.id})
            await self.v1.customers.update_async(
                made.id, {"invoice_settings": {"default_payment_method": method.id}}
            )
        return made

    async def price(self, amount: int = 1000, interval: str | None = None, **more: Any) -> Any:
        """A price of a new product; recurring if an interval is given."""
        product = await self.v1.products.create_async({"name": "Credits"})
        recurring = {} if interval is None else {"recurring": {"interval": interval}}
        given = {"currency": "usd", "unit_amount": amount, "product": product.id}
        return await self.v1.prices.create_async({**given, **recurring, **more})

    async def subscription(self, customer: Any, price: Any, **more: Any) -> Any:
        items = [{"price": price.id}]
        return await self.v1.subscriptions.create_async(
            {"customer": customer.id, "items": items, **more}
        )

    async def checkout(self, price: Any, mode: str = "payment", **more: Any) -> Any:
        """A checkout session for one of a price."""
        lines = [] if price is None else [{"price": price.id, "quantity": 1}]
        return await self.v1.checkout.sessions.create_async(
            {
                "mode": mode,
                "success_url": "https://example.com/done?id={CHECKOUT_SESSION_ID}",
                "cancel_url": "https://example.com/back",
                **({"line_items": lines} if lines else {"currency": "usd"}),
                **more,
            }
        )

    async def paid_intent(self, amount: int = 1000, card: str = "pm_card_visa", **more: Any) -> Any:
        """A payment intent that has been tried with a card."""
        return await self.v1.payment_intents.create_async(
            {
                "amount": amount,
                "currency": "usd",
                "payment_method": card,
                "confirm": True,
                "return_url": "https://example.com",
                **more,
            }
        )


def told(error: Any) -> Any:
    """The error that a failed call was answered with."""
    return error.value.error


def code_of(error: Any) -> str | None:
    """Its code, whatever its class."""
    return told(error).code


def headers_of(error: Any) -> Mapping[str, str]:
    """The headers of the answer."""
    return error.value.headers


def at(moment: int) -> datetime:
    return datetime.fromtimestamp(moment, UTC)
