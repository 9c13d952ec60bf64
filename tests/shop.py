"""A service with Stripe's stand-in behind it, and the words of selling."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import stripe

from drawdown.standin import StandIn
from meter.service import Config
from meter.stripe_port import StripeConfig
from sandbox.server import Sandbox
from sandbox.server import running as standing_in
from sql.pool import Pool
from tests.http import Answer, Api, Running, World, furnish, serving, session, set_clock

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
WEBHOOK = "/v1/stripe/webhook"
PACK: dict[str, Any] = {
    "name": "Starter",
    "credits": "1000",
    "price": {"amount": "10.00", "currency": "USD"},
}
PLAN: dict[str, Any] = {
    "name": "Pro",
    "tier": "pro",
    "price": {"amount": "20.00", "currency": "USD"},
    "interval": "month",
    "credits": "3000",
}
PAGES = {"success_url": "https://app.example/ok", "cancel_url": "https://app.example/no"}


@dataclass
class Shop:
    """What a test sells with."""

    running: Running
    standin: Sandbox
    web: aiohttp.ClientSession

    @property
    def api(self) -> Api:
        return self.running.api

    async def control(self, path: str, /, **body: Any) -> Any:
        """The stand-in's control plane; answers after deliveries were tried."""
        headers = {"Authorization": f"Bearer {self.standin.token}"}
        url = f"{self.standin.url}/_sandbox/{path}"
        async with self.web.post(url, json=body, headers=headers) as response:
            found = msgspec.json.decode(await response.read())
            assert response.status == 200, (path, found)
            return found

    async def declined(self, path: str, /, **body: Any) -> str:
        """As `control`, of what a bank refuses: the code."""
        headers = {"Authorization": f"Bearer {self.standin.token}"}
        url = f"{self.standin.url}/_sandbox/{path}"
        async with self.web.post(url, json=body, headers=headers) as response:
            found: Any = msgspec.json.decode(await response.read())
            assert response.status == 402, (path, found)
            return found["error"]["code"]

    async def state(self, kind: str) -> list[Any]:
        """Every object of a kind that the stand-in has."""
        headers = {"Authorization": f"Bearer {self.standin.token}"}
        url = f"{self.standin.url}/_sandbox/state?object={kind}"
        async with self.web.get(url, headers=headers) as response:
            found: Any = msgspec.json.decode(await response.read())
        return found.get(kind, [])

    def trust(self, secret: str) -> None:
        """Deliveries that are signed by this secret too are Stripe's."""
        service = self.running.service
        keys = service.config.stripe
        assert keys is not None
        known = msgspec.structs.replace(keys, webhook_secrets=(*keys.webhook_secrets, secret))
        service.config = msgspec.structs.replace(service.config, stripe=known)

    async def look(self, path: str) -> Any:
        """What the stand-in's control plane shows."""
        headers = {"Authorization": f"Bearer {self.standin.token}"}
        url = f"{self.standin.url}/_sandbox/{path}"
        async with self.web.get(url, headers=headers) as response:
            found = msgspec.json.decode(await response.read())
            assert response.status == 200, (path, found)
            return found

    async def requests(self) -> list[Any]:
        """What the stand-in was asked, but for its control plane."""
        headers = {"Authorization": f"Bearer {self.standin.token}"}
        url = f"{self.standin.url}/_sandbox/requests"
        async with self.web.get(url, headers=headers) as response:
            found: Any = msgspec.json.decode(await response.read())
        return found["data"]

    async def apply(self) -> dict[str, int]:
        """Let the job apply all news; its counts."""
        ran = await self.api.post("/v1/jobs/stripe_inbox/run", key=None)
        assert ran.status == 200, ran
        assert ran.body["error"] is None, ran
        return ran.body["counts"]

    async def job(self, name: str) -> dict[str, int]:
        ran = await self.api.post(f"/v1/jobs/{name}/run", key=None)
        assert (ran.status, ran.body["error"]) == (200, None), ran
        return ran.body["counts"]

    async def pack(self, key: str = "starter", **members: Any) -> Any:
        answer = await self.api.put(f"/v1/packs/{key}", {**PACK, **members})
        assert answer.status in (200, 201), answer
        return answer.body

    async def plan(self, key: str = "pro", **members: Any) -> Any:
        """A plan; a member that is None is left out."""
        body = {name: value for name, value in {**PLAN, **members}.items() if value is not None}
        answer = await self.api.put(f"/v1/plans/{key}", body)
        assert answer.status in (200, 201), answer
        return answer.body

    def asked_plan(self, plan: str = "pro", **members: Any) -> dict[str, Any]:
        """The body of a checkout of a plan."""
        return {"customer_id": "acme", "plan": plan, **PAGES, **members}

    async def order(self, plan: str = "pro", **members: Any) -> Any:
        answer = await self.api.post("/v1/checkout", self.asked_plan(plan, **members))
        assert answer.status == 201, answer
        return answer.body

    async def subscribe(self, plan: str = "pro", **members: Any) -> Any:
        """A plan, subscribed to and paid: its checkout."""
        opened = await self.order(plan, **members)
        await self.pay(opened)
        await self.apply()
        return opened

    async def act(self, what: str, **members: Any) -> Any:
        """Do something to the subscription of acme; the answer."""
        answer = await self.api.post(f"/v1/customers/acme/subscription/{what}", members)
        assert answer.status == 200, answer
        await self.apply()
        return answer.body

    async def walk(self, to: datetime) -> None:
        """Both clocks go on, from due instant to due instant."""
        await self.api.clock(to)

    async def lift_faults(self) -> None:
        """The stand-in behaves again."""
        headers = {"Authorization": f"Bearer {self.standin.token}"}
        url = f"{self.standin.url}/_sandbox/faults"
        async with self.web.delete(url, headers=headers) as response:
            assert response.status == 200, await response.text()

    async def give_card(self, name: str = "pm_card_visa") -> None:
        """The customer at Stripe has this card from now on."""
        for one in await self.state("customer"):
            await self.control(f"customers/{one['id']}/payment-method", payment_method=name)

    async def sleep(self, by: timedelta) -> None:
        """Both clocks go on, and nothing of ours runs meanwhile."""
        now = await self.running.service.pool.fetchval(
            "UPDATE installation SET clock_offset = clock_offset + $1 RETURNING "
            "clock_timestamp() + clock_offset",
            by,
        )
        await self.standin.walk(now)

    async def events(self) -> list[str]:
        """The ids of everything that was or is to be delivered."""
        headers = {"Authorization": f"Bearer {self.standin.token}"}
        url = f"{self.standin.url}/_sandbox/webhooks"
        async with self.web.get(url, headers=headers) as response:
            found: Any = msgspec.json.decode(await response.read())
        return [one["event"] for one in found["data"]]

    async def buy_nothing_of_ours(self) -> None:
        """Somebody else's subscription in the same account."""
        v1 = self.stripe.v1
        method = await v1.payment_methods.create_async(
            {"type": "card", "card": {"token": "tok_visa"}}
        )
        customer = await v1.customers.create_async(
            {
                "payment_method": method.id,
                "invoice_settings": {"default_payment_method": method.id},
                "metadata": {"user_id": "acme"},
            }
        )
        product = await v1.products.create_async({"name": "Else"})
        price = await v1.prices.create_async(
            {
                "product": product.id,
                "currency": "usd",
                "unit_amount": 700,
                "recurring": {"interval": "month"},
            }
        )
        await v1.subscriptions.create_async(
            {"customer": customer.id, "items": [{"price": price.id}]}
        )

    @property
    def stripe(self) -> stripe.StripeClient:
        """Stripe's own library, for what people do there by themselves."""
        url = self.standin.url
        return stripe.StripeClient(
            self.standin.secret_key,
            http_client=stripe.AIOHTTPClient(session=self.web),
            base_addresses={"api": url, "files": url, "connect": url, "meter_events": url},
        )

    def asked(self, customer_id: str = "acme", **members: Any) -> dict[str, Any]:
        """The body of a checkout."""
        return {"customer_id": customer_id, "pack": "starter", **PAGES, **members}

    async def checkout(self, customer_id: str = "acme", **members: Any) -> Any:
        answer = await self.api.post("/v1/checkout", self.asked(customer_id, **members))
        assert answer.status == 201, answer
        return answer.body

    async def pay(self, checkout: Any, **how: Any) -> Any:
        return await self.control(f"checkout/{checkout['id']}/complete", **how)

    async def buy(self, customer_id: str = "acme", **members: Any) -> Any:
        """A pack, bought and credited: the purchase."""
        opened = await self.checkout(customer_id, **members)
        await self.pay(opened)
        counts = await self.apply()
        bought = await self.purchase(opened)
        assert bought["status"] == "credited", (counts, bought)
        return bought

    async def purchase(self, opened: Any) -> Any:
        """A purchase as it is now, by its checkout, or by itself."""
        name = opened.get("purchase_id") or opened["id"]
        answer = await self.api.get(f"/v1/purchases/{name}")
        assert answer.status == 200, answer
        return answer.body

    async def refund(self, purchase: Any, **members: Any) -> Answer:
        return await self.api.post(f"/v1/purchases/{purchase['id']}/refund", members)

    async def intent_of(self, purchase: Any) -> str:
        """Stripe's intent that paid a purchase."""
        found = [o["object_id"] for o in purchase["story"]["objects"] if o["kind"] == "intent"]
        return found[0]


async def furnish_all(shop: Shop, customer_id: str = "acme", *, subscribes: bool = True) -> World:
    """As `furnish`, with a pack, a purchase that is credited, a plan and a subscription."""
    world = await furnish(shop.api, customer_id)
    await shop.pack()
    bought = await shop.buy(customer_id)
    await shop.plan()
    ids = {"pack": "starter", "purchase_id": bought["id"], "plan": "pro"}
    if subscribes:
        place = f"/v1/customers/{quote(customer_id, safe='')}"
        if not (await shop.api.get(f"{place}/subscriptions")).body["data"]:
            await shop.subscribe(customer_id=customer_id)
        [card, *_] = (await shop.api.get(f"{place}/payment-methods")).body["data"]
        ids["payment_method"] = card["id"]
    return World(customer_id, {**world.ids, **ids})


async def leave(shop: Shop, world: World) -> None:
    """The customer ends what is open, and is closed."""
    place = f"/v1/customers/{quote(world.customer_id, safe='')}"
    assert (await shop.api.post(f"/v1/holds/{world.ids['hold_id']}/void")).status == 200
    assert (await shop.api.post(f"{place}/close", {})).status == 200


@asynccontextmanager
async def shop(pool: Pool, *, has_one_clock: bool = False, **config: Any) -> AsyncGenerator[Shop]:
    """A sandbox that sells, at START, with a customer `acme`; deliveries reach it.

    `has_one_clock`: the stand-in's time goes on as ours does, and follows the test clock.
    """
    await set_clock(pool, START)
    async with (
        standing_in(is_ticking=has_one_clock, start=START, seed="test") as standin,
        session() as web,
    ):
        keys = StripeConfig(
            secret_key=standin.secret_key,
            publishable_key=standin.publishable_key,
            webhook_secrets=(standin.webhook_secret,),
            api_base=standin.url,
        )
        made = Config(is_sandbox=True, stripe=keys, **config)
        async with serving(pool, made) as running:
            standin.set_webhook(running.api.url + WEBHOOK)
            if has_one_clock:
                running.service.companion = StandIn(standin)
            await running.api.customer("acme")
            yield Shop(running, standin, web)
