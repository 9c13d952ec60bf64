"""The demo's sales at Stripe's stand-in: a pack, with deliveries that go wrong, and a plan."""

from collections.abc import Awaitable, Sequence
from decimal import Decimal
from typing import Any, Final, Protocol

import aiohttp
import msgspec

from drawdown.sandbox_process import Sandbox
from meter.http.purchases import PurchaseShown
from meter.http.why import lines_of, verdict

BUYER: Final = "demo-buyer"
PACK: Final = "demo"
CREDITS: Final = 100_000
BONUS: Final = 5_000
PRICE: Final = Decimal(100)
USED: Final = 400
REFUND: Final = Decimal(25)
SUBSCRIBER: Final = "demo-subscriber"
PLAN: Final = "demo"
PLAN_CREDITS: Final = 30_000
PLAN_PRICE: Final = Decimal(20)
METER: Final = "demo_calls"
CALLS: Final = 40
CALL_PRICE: Final = "0.002"
HOURS: Final = 2
PAGES: Final = {"success_url": "https://example.com/ok", "cancel_url": "https://example.com/no"}


class Call(Protocol):
    """One request to the service that must succeed."""

    def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        good: Sequence[int] = (200,),
        key: str | None = None,
    ) -> Awaitable[bytes]: ...


class Sale:
    """Sells one pack, has it paid, spends of it, gives a part of the money back; starts a plan."""

    def __init__(
        self, call: Call, session: aiohttp.ClientSession, sandbox: Sandbox, run: str
    ) -> None:
        self.call, self.session, self.sandbox, self.run_name = call, session, sandbox, run

    async def run(self) -> tuple[list[str], list[str]]:
        """What to tell, and what is not as it should be."""
        await self.call("PUT", f"/v1/customers/{BUYER}", {"name": "Demo"}, (200, 201))
        before = await self._available()
        purchase_id = await self._buy()
        usage = {"customer_id": BUYER, "amount": str(USED)}
        await self.call("POST", "/v1/consume", usage, (201,), f"{self.run_name}/use")
        path = f"/v1/purchases/{purchase_id}"
        asked = {"amount": str(REFUND)}
        await self.call("POST", f"{path}/refund", asked, (202,), f"{self.run_name}/refund")
        await self._job("stripe_outbox")
        await self._job("stripe_inbox")
        shown = msgspec.json.decode(await self.call("GET", path), type=PurchaseShown)
        after = await self._available()
        told, wrong = self._told(shown, after - before), self._wrong(shown, after - before)
        told_of_plan, wrong_of_plan = await self._subscribe()
        told_of_usage, wrong_of_usage = await self._use()
        return told + told_of_plan + told_of_usage, wrong + wrong_of_plan + wrong_of_usage

    async def _subscribe(self) -> tuple[list[str], list[str]]:
        """Start a plan, unless an earlier run has; what to tell, and what is wrong."""
        place = f"/v1/customers/{SUBSCRIBER}"
        await self.call("PUT", place, {"name": "Demo"}, (200, 201))
        meter = {"event_type": METER, "aggregation": "count"}
        await self.call("PUT", f"/v1/meters/{METER}", meter, (200, 201))
        plan = {
            "name": "Demo plan",
            "tier": "demo",
            "price": {"amount": str(PLAN_PRICE), "currency": "USD"},
            "interval": "month",
            "credits": str(PLAN_CREDITS),
            "requires_subscription": True,
            "metered": [{"meter": METER, "event_name": METER, "unit_price": CALL_PRICE}],
        }
        await self.call("PUT", f"/v1/plans/{PLAN}", plan, (200, 201))
        shown = await self._seen(f"{place}/access")
        if not shown["active"]:
            asked = {"customer_id": SUBSCRIBER, "plan": PLAN, **PAGES}
            opened: dict[str, Any] = msgspec.json.decode(
                await self.call("POST", "/v1/checkout", asked, (201,), f"{self.run_name}/plan")
            )
            await self._control(f"checkout/{opened['id']}/complete", {})
            await self._job("stripe_inbox")
            shown = await self._seen(f"{place}/access?require=1")
        has = Decimal((await self._seen(f"{place}/balance"))["available"])
        told = [
            f"plan       {SUBSCRIBER} is {shown['status']} on the plan {shown['plan']} until "
            f"{shown['period_end']}: {has:,f} credits for {PLAN_PRICE} USD a month"
        ]
        wrong = [] if has == PLAN_CREDITS else [f"{SUBSCRIBER} has {has:,f}, not {PLAN_CREDITS:,}"]
        return told, wrong

    async def _use(self) -> tuple[list[str], list[str]]:
        """Use what the plan bills, let the hour pass, and compare what Stripe was told with what it
        has; what to tell, and what is wrong.
        """
        about = {"source": "demo", "type": METER, "subject": SUBSCRIBER}
        calls = [{"id": f"{self.run_name}/{number}", **about} for number in range(CALLS)]
        await self.call("POST", "/v1/events", calls)
        await self.call("POST", "/v1/test-clock", {"advance": HOURS * 3_600})
        await self._job("confirm_usage")
        pieces: list[dict[str, Any]] = (
            await self._seen(f"/v1/usage-reports?customer_id={SUBSCRIBER}")
        )["data"]
        compared = await self._seen(f"/v1/reconciliation?customer_id={SUBSCRIBER}")
        rows: list[dict[str, Any]] = compared["data"]
        told = [
            f"usage      {CALLS} calls at {CALL_PRICE} USD, told to Stripe after {HOURS} hours of"
            " the sandbox's clock:",
            *(
                f"  {one['window_start']}  {one['value']:>6}  {one['status']}  {one['identifier']}"
                for one in pieces
            ),
            "           day          used    told  Stripe  differs by",
            *(
                f"           {one['date']} {one['used']:>6}  {one['told']:>6}  {one['stripe']:>6}"
                f"  {one['difference']}"
                for one in rows
            ),
        ]
        wrong: list[str] = []
        if not pieces or pieces[0]["status"] not in {"confirmed", "billed"}:
            wrong.append("Stripe was not told of what was used, or has not confirmed it")
        if compared["unexplained"] or any(one["difference"] != "0" for one in rows):
            wrong.append(f"what Stripe has differs: {rows}")
        return told, wrong

    async def _seen(self, path: str) -> dict[str, Any]:
        return msgspec.json.decode(await self.call("GET", path))

    async def _buy(self) -> str:
        """Buy a pack: deliveries come last one first, and one of them twice. The purchase's id."""
        await self.call(
            "PUT",
            f"/v1/packs/{PACK}",
            {
                "name": "Demo pack",
                "credits": str(CREDITS),
                "bonus": {"credits": str(BONUS)},
                "price": {"amount": str(PRICE), "currency": "USD"},
            },
            (200, 201),
        )
        asked = {"customer_id": BUYER, "pack": PACK, **PAGES}
        opened: dict[str, Any] = msgspec.json.decode(
            await self.call("POST", "/v1/checkout", asked, (201,), f"{self.run_name}/buy")
        )
        await self._control("webhooks", {"mode": "hold"})
        await self._control(f"checkout/{opened['id']}/complete", {})
        await self._control("webhooks", {"mode": "deliver"})
        await self._control("webhooks/release", {"order": "reverse"})
        await self._job("stripe_inbox")
        shown = msgspec.json.decode(
            await self.call("GET", f"/v1/purchases/{opened['purchase_id']}"), type=PurchaseShown
        )
        paid = [one for one in shown.story.news if one.type == "checkout.session.completed"]
        for one in paid:
            await self._control(f"webhooks/resend/{one.event_id}", {})
        await self._job("stripe_inbox")
        return shown.id

    async def _job(self, name: str) -> None:
        await self.call("POST", f"/v1/jobs/{name}/run")

    async def _available(self) -> Decimal:
        found = msgspec.json.decode(await self.call("GET", f"/v1/customers/{BUYER}/balance"))
        return Decimal(found["available"])

    async def _control(self, path: str, body: object) -> None:
        """Order something of the stand-in; it answers when that is done."""
        headers = {"Authorization": f"Bearer {self.sandbox.sandbox_token}"}
        async with self.session.post(
            f"{self.sandbox.stripe_url}/_sandbox/{path}",
            data=msgspec.json.encode(body),
            headers=headers,
        ) as answer:
            answer.raise_for_status()

    def _told(self, shown: PurchaseShown, change: Decimal) -> list[str]:
        return [
            f"sale       {BUYER} bought {CREDITS:,} credits and {BONUS:,} of bonus for {PRICE} USD"
            " at the stand-in for Stripe;",
            "           its deliveries came last one first, one of them twice;"
            f" {USED} used, {REFUND} USD refunded: {change:,f} left",
            *(f"  {line}" for line in lines_of(shown)),
            f"  so       {verdict(shown)}",
        ]

    def _wrong(self, shown: PurchaseShown, change: Decimal) -> list[str]:
        """Beside sums by hand: of both lots the refunded share of the money goes back."""
        share = REFUND / PRICE
        left = (CREDITS + BONUS) * (1 - share) - USED
        wrong: list[str] = []
        if (shown.status, Decimal(shown.refunded)) != ("credited", REFUND):
            wrong.append(f"the purchase is {shown.status}, {shown.refunded} of it are refunded")
        if change != left:
            wrong.append(f"{BUYER} has {change:,f} credits more, not {left:,f}")
        return wrong
