"""Every call that money in and out makes, lost once: in the end all is there, and there once.

One story is told twice: with nothing in its way, and with a fault at the first call of each kind.
What it leaves at Stripe and in our books is the same.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest

from jobs import stripe_gateway, stripe_pace
from sandbox import routing
from sql.pool import STATEMENT_CACHE, Pool, open_pool
from tests.conftest import POOL_SIZE
from tests.http import Answer, fresh_key
from tests.servers import Databases
from tests.shop import PACK, PAGES, PLAN, Shop, shop

FAULTS: Final[dict[str, dict[str, Any]]] = {
    "429": {"kind": "429"},
    "429_with_retry_after": {"kind": "429", "retry_after": 0},
    "429_of_one_object": {"kind": "429", "reason": "resource-specific"},
    "lock_timeout": {"kind": "lock_timeout"},
    "500_before": {"kind": "500_before"},
    "500_after": {"kind": "500_after"},
    "reset_before": {"kind": "reset_before"},
    "reset_after": {"kind": "reset_after"},
    "stall": {"kind": "stall", "seconds": 30},
}
ONLY_LONG: Final = frozenset({"429_of_one_object", "lock_timeout", "500_before", "stall"})
MADE: Final = (
    *("customer", "product", "price", "checkout.session", "payment_intent", "charge", "refund"),
    *("setup_intent", "payment_method", "subscription", "subscription_schedule"),
    *("invoice", "billing_portal.configuration"),
)
"""What would be there twice."""
CALLS_MIN: Final = 30
"""Kinds of calls that the story makes."""
TRIES_MAX: Final = 60
JOBS: Final = ("stripe_outbox", "stripe_sweep", "stripe_inbox")


@pytest.fixture(autouse=True)
def no_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripe's library tries nothing again: each loss is ours to make up for. Waits are short."""
    monkeypatch.setattr(stripe_gateway, "RETRIES", 0)
    monkeypatch.setattr(stripe_gateway, "SECONDS_MAX", 0.5)
    monkeypatch.setattr(stripe_gateway, "LIVE_RATE", 10_000.0)
    monkeypatch.setattr(stripe_pace, "PAUSE_SECONDS_FIRST", 0.02)


class Story:
    """A customer who buys, gives back, saves cards and subscribes; whoever asks asks until told."""

    def __init__(self, sale: Shop, pool: Pool) -> None:
        self.sale, self.pool, self.lost = sale, pool, 0

    async def until_told(
        self, ask: Callable[[], Awaitable[Answer]], *, done: str | None = None
    ) -> Any:
        """The same request again and again, until it is answered; `done` says that it was."""
        for _ in range(TRIES_MAX):
            answer = await ask()
            if answer.status < 400:
                return answer.body
            if self.lost and answer.code == done:
                return None
            assert answer.code in ("stripe_unavailable", "request_in_progress"), answer
            self.lost += 1
        raise AssertionError("never answered")

    async def get(self, path: str) -> Any:
        return await self.until_told(lambda: self.sale.api.get(path))

    async def put(self, path: str, body: Any) -> Any:
        return await self.until_told(lambda: self.sale.api.put(path, body))

    async def forget(self, path: str) -> None:
        await self.until_told(lambda: self.sale.api.delete(path), done="payment_method_not_found")

    async def post(self, path: str, **body: Any) -> Any:
        key = fresh_key()
        return await self.until_told(lambda: self.sale.api.post(path, body, key=key))

    async def work(self) -> None:
        """Run the jobs until nothing waits. What they wait for is real time."""
        for _ in range(TRIES_MAX):
            errors = list[Any]()
            for job in JOBS:
                ran = await self.sale.api.post(f"/v1/jobs/{job}/run", key=None)
                assert ran.status == 200, ran
                errors.append(ran.body["error"])
            self.lost += sum(error is not None for error in errors)
            waits = await self.pool.fetch(
                "UPDATE stripe_objects SET not_before = NULL WHERE is_open RETURNING error"
            ) + await self.pool.fetch(
                "UPDATE stripe_calls SET not_before = NULL"
                " WHERE is_queued AND object_id IS NULL RETURNING error"
            )
            if not waits and errors == [None] * len(JOBS):
                return
        raise AssertionError("never done")

    async def tell(self) -> None:
        await self.put("/v1/packs/starter", PACK)
        await self.put("/v1/plans/pro", PLAN)
        await self.put("/v1/plans/mega", {**PLAN, "name": "Mega", "tier": "mega"})
        await self.buy()
        await self.keep_cards()
        await self.subscribe()
        asked = {"customer_id": "acme", "return_url": "https://app.example/credits"}
        assert (await self.post("/v1/portal", **asked))["url"]
        assert (await self.get("/v1/invoices?customer_id=acme"))["data"]

    async def buy(self) -> None:
        opened = await self.post("/v1/checkout", **self.sale.asked())
        await self.sale.pay(opened)
        await self.work()
        path = f"/v1/purchases/{opened['purchase_id']}/refund"
        await self.post(path, amount="3.00")
        await self.work()
        intent = await self.post("/v1/payment-intents", customer_id="acme", pack="starter")
        await self.sale.control(
            f"payment-intents/{intent['id']}/confirm", payment_method="pm_card_visa"
        )
        await self.work()

    async def keep_cards(self) -> None:
        for card in ("pm_card_visa", "pm_card_mastercard"):
            setup = await self.post("/v1/setup", customer_id="acme", mode="elements")
            await self.sale.control(f"setup-intents/{setup['id']}/confirm", payment_method=card)
        place = "/v1/customers/acme/payment-methods"
        [first, second] = (await self.get(place))["data"]
        await self.post(f"{place}/{first['id']}/default")
        await self.forget(f"{place}/{second['id']}")
        await self.work()

    async def subscribe(self) -> None:
        opened = await self.post("/v1/checkout", customer_id="acme", plan="pro", **PAGES)
        await self.sale.pay(opened)
        await self.work()
        place = "/v1/customers/acme/subscription"
        for act, body in (
            ("preview", {"plan": "mega"}),
            ("change", {"plan": "mega"}),
            ("cancel", {}),
            ("resume", {}),
            ("pause", {}),
            ("resume", {}),
            ("change", {"plan": "pro", "when": "period_end"}),
            ("resume", {}),
            ("cancel", {"when": "now"}),
        ):
            await self.post(f"{place}/{act}", **body)
            await self.work()

    async def end(self) -> dict[str, Any]:
        """What there is at Stripe and with us, without names and times."""
        shown = (await self.sale.api.get("/v1/purchases")).body["data"]
        members = ("status", "captured", "refunded", "credits")
        return {
            "made": {kind: len(await self.sale.state(kind)) for kind in MADE},
            "paid": sorted(one["amount"] for one in await self.sale.state("charge")),
            "purchases": sorted(tuple(one[name] for name in members) for one in shown),
            "posted": await self.sale.api.posted(),
            "parked": await self.pool.fetchval(
                "SELECT count(*) FROM stripe_objects WHERE is_parked"
            ),
        }


def kind_of(row: Any) -> tuple[str, str]:
    """Method and path template of a request."""
    found = routing.find(row["method"], row["path"])
    assert found is not None, row
    return row["method"], found[0]


@dataclass(frozen=True)
class Told:
    """How the story ends with nothing in its way, and the kinds of calls in it."""

    end: dict[str, Any]
    calls: set[tuple[str, str]]


@pytest.fixture(scope="module")
async def plain(databases: Databases) -> Told:
    database = await databases.make()
    pool = await open_pool(database.dsn, size=POOL_SIZE, statement_cache=STATEMENT_CACHE)
    try:
        async with shop(pool, has_one_clock=True) as sale:
            story = Story(sale, pool)
            await story.tell()
            assert story.lost == 0
            return Told(await story.end(), {kind_of(row) for row in await sale.requests()})
    finally:
        await pool.close()
        await databases.drop(database)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=name, marks=[pytest.mark.long] if name in ONLY_LONG else [])
        for name, fault in FAULTS.items()
    ],
)
async def test_fault_at_each_kind_of_call_changes_nothing_in_the_end(
    pool: Pool, plain: Told, fault: dict[str, Any]
) -> None:
    assert len(plain.calls) >= CALLS_MIN
    async with shop(pool, has_one_clock=True) as sale:
        story = Story(sale, pool)
        for method, path in sorted(plain.calls):
            await sale.control("faults", method=method, path=path, **fault)
        await story.tell()
        assert await story.end() == plain.end
        assert story.lost
        lost = [row for row in await sale.requests() if row["fault"] == fault["kind"]]
        assert Counter(map(kind_of, lost)) == Counter(plain.calls), "each kind, once"
