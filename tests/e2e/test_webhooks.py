"""Deliveries: verified on their bytes, kept once, applied once, whatever their order."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncGenerator
from datetime import timedelta
from io import BytesIO
from typing import Any

import msgspec
import pytest

from jobs.runner import Runner
from jobs.schedule import TIMETABLE
from jobs.stripe_gateway import Gateway
from meter.service import Service
from sql.pool import Pool
from tests.http import Answer
from tests.shop import WEBHOOK, Shop, shop

EVENT: dict[str, Any] = {
    "id": "evt_test",
    "object": "event",
    "type": "payment_intent.succeeded",
    "created": 1_893_499_200,
    "livemode": False,
    "data": {"object": {"id": "pi_test", "object": "payment_intent"}},
}


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        await made.pack()
        yield made


def signed(secret: str, body: bytes, at: int) -> str:
    digest = hmac.new(secret.encode(), b"%d.%s" % (at, body), hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


async def deliver(sale: Shop, body: bytes, header: str | None) -> Answer:
    headers = {} if header is None else {"Stripe-Signature": header}
    return await sale.api.of(None).send("POST", WEBHOOK, raw=body, headers=headers)


async def now(sale: Shop) -> int:
    return int((await sale.api.now()).timestamp())


async def kept(pool: Pool) -> list[tuple[str, str]]:
    """What a test has sent itself."""
    rows = await pool.fetch(
        "SELECT type, outcome FROM stripe_events WHERE event_id = any($1) ORDER BY event_id",
        ["evt_test", "evt_live", "evt_new", "evt_thin"],
    )
    return [(row[0], row[1]) for row in rows]


async def test_delivery_signed_by_any_of_the_secrets_is_kept_once(pool: Pool) -> None:
    async with shop(pool) as sale:
        config = sale.running.service.config
        assert config.stripe is not None
        both = msgspec.structs.replace(config.stripe, webhook_secrets=("whsec_old", "whsec_new"))
        sale.running.service.config = msgspec.structs.replace(config, stripe=both)
        body, at = msgspec.json.encode(EVENT), await now(sale)
        for secret in ("whsec_old", "whsec_new", "whsec_old"):
            answer = await deliver(sale, body, signed(secret, body, at))
            assert (answer.status, answer.body["outcome"]) == (200, "marked")
        assert await kept(pool) == [("payment_intent.succeeded", "marked")]


async def test_what_is_not_signed_by_stripe_is_refused_and_changes_nothing(
    sale: Shop, pool: Pool
) -> None:
    secret, at = sale.standin.webhook_secret, await now(sale)
    body = msgspec.json.encode(EVENT)
    good = signed(secret, body, at)
    wrong: list[tuple[bytes, str | None]] = [
        (body, None),
        (body, ""),
        (body, "t=,v1="),
        (body, f"v1={good.partition('v1=')[2]}"),
        (body, signed("whsec_other", body, at)),
        (body, good.replace("v1=", "v0=")),
        (body, signed(secret, body, at - 301)),
        (body, signed(secret, body, at + 310)),
        (body.replace(b"pi_test", b"pi_tesu"), good),
        (b"\xff\xfe", signed(secret, b"\xff\xfe", at)),
    ]
    for raw, header in wrong:
        answer = await deliver(sale, raw, header)
        assert (answer.status, answer.code) == (400, "invalid_signature"), header
    for raw in (b"not json", b"[]", b"{}"):
        answer = await deliver(sale, raw, signed(secret, raw, at))
        assert (answer.status, answer.code) == (400, "malformed"), raw
    huge = b" " * (1024 * 1024 + 1)
    async with sale.web.post(
        sale.api.url + WEBHOOK,
        data=BytesIO(huge),
        headers={"Stripe-Signature": signed(secret, huge, at)},
    ) as response:
        assert response.status == 413
    assert await kept(pool) == []
    assert await pool.fetchval("SELECT count(*) FROM stripe_objects") == 0


async def test_other_mode_thin_and_unknown_events_are_kept_and_ignored(
    sale: Shop, pool: Pool
) -> None:
    secret, at = sale.standin.webhook_secret, await now(sale)
    thin = {
        "id": "evt_thin",
        "object": "v2.core.event",
        "type": "v1.billing.meter.no_meter_found",
        "created": "2030-01-01T12:00:00.000Z",
        "livemode": False,
        "related_object": None,
    }
    for event in (
        {**EVENT, "id": "evt_live", "livemode": True},
        {**EVENT, "id": "evt_new", "type": "something.new"},
        thin,
    ):
        body = msgspec.json.encode(event)
        assert (await deliver(sale, body, signed(secret, body, at))).status == 200
    assert [outcome for _, outcome in await kept(pool)] == ["other_mode", "ignored", "ignored"]
    assert await sale.apply() == {"applied": 0, "foreign": 0, "failed": 0, "parked": 0}


@pytest.mark.parametrize("mode", ["duplicate", "shuffle", "hold", "drop"])
async def test_any_order_and_number_of_deliveries_credits_once(sale: Shop, mode: str) -> None:
    opened = await sale.checkout()
    await sale.control("webhooks", mode=mode)
    await sale.pay(opened)
    if mode == "hold":
        await sale.control("webhooks", mode="deliver")
        await sale.control("webhooks/release", order="reverse")
    if mode == "drop":
        await sale.apply()
        assert (await sale.purchase(opened))["status"] == "open"
        swept = await sale.job("stripe_sweep")
        assert swept["events"] > 0
        assert (await sale.job("stripe_sweep"))["events"] == 0
    await sale.apply()
    assert (await sale.purchase(opened))["status"] == "credited"
    assert await sale.api.posted() == ("1000", "0", "1000")


async def test_purchase_whose_news_is_lost_for_ever_is_looked_at_by_itself(
    sale: Shop, pool: Pool
) -> None:
    opened = await sale.checkout()
    await sale.control("webhooks", mode="drop")
    await sale.pay(opened)
    await sale.control("clock", to="2030-01-02T12:00:00Z")
    await sale.api.clock(await sale.api.now() + timedelta(days=1))
    await pool.execute("INSERT INTO stripe_cursors VALUES ('events', '2030-01-02T11:59:59Z')")
    assert (await sale.job("stripe_sweep"))["open_purchases"] == 1
    await sale.apply()
    assert (await sale.purchase(opened))["status"] == "credited"


async def test_two_processes_at_once_credit_once(sale: Shop, pool: Pool) -> None:
    opened = [await sale.checkout() for _ in range(5)]
    for one in opened:
        await sale.pay(one)
    config = sale.running.service.config
    other = await Service.start(pool, config)
    assert config.stripe is not None
    other.stripe = gateway = Gateway(config.stripe)
    runner = Runner(other, TIMETABLE)
    await asyncio.gather(sale.apply(), runner.run_now("stripe_inbox"), sale.apply())
    await sale.apply()
    assert await sale.api.posted() == ("5000", "0", "5000")
    await gateway.close()
    await other.close()


async def test_news_that_comes_while_an_object_is_fetched_leaves_it_marked(
    sale: Shop, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bought = await sale.buy()
    intent = await sale.intent_of(bought)
    stripe = sale.running.service.stripe
    assert stripe is not None
    fetch, is_first = stripe.payment, True

    async def late(kind: Any, object_id: str) -> Any:
        nonlocal is_first
        found = await fetch(kind, object_id)
        if is_first:  # after it was fetched, and before it is applied
            is_first = False
            await sale.control("refunds", payment_intent=intent, amount=500)
        return found

    monkeypatch.setattr(stripe, "payment", late)
    await sale.control("refunds", payment_intent=intent, amount=100)
    await sale.apply()
    assert await sale.api.posted() == ("400", "0", "400")


async def test_worker_that_was_overtaken_applies_nothing(
    sale: Shop, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await sale.checkout()
    await sale.pay(opened)
    stripe = sale.running.service.stripe
    assert stripe is not None
    fetch = stripe.payment

    async def overtaken(kind: Any, object_id: str) -> Any:
        found = await fetch(kind, object_id)
        await pool.execute("UPDATE stripe_objects SET fence = fence + 1")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(stripe, "payment", overtaken)
        ran = await sale.api.post("/v1/jobs/stripe_inbox/run", key=None)
    assert ran.body["counts"]["applied"] == 0
    assert (await sale.purchase(opened))["status"] == "open"
    await pool.execute("UPDATE stripe_objects SET lease_until = NULL")
    await sale.apply()
    assert (await sale.purchase(opened))["status"] == "credited"


async def test_no_client_secret_is_kept(sale: Shop, pool: Pool) -> None:
    made = await sale.api.post("/v1/payment-intents", {"customer_id": "acme", "pack": "starter"})
    secret = made.body["client_secret"]
    await sale.control(f"payment-intents/{made.body['id']}/confirm", payment_method="pm_card_visa")
    await sale.apply()
    assert (await sale.purchase(made.body))["status"] == "credited"
    tables = await pool.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    for row in tables:
        found = await pool.fetchval(
            f"SELECT count(*) FROM {row[0]} AS t WHERE position($1 IN t::text) > 0"  # noqa: S608 (from the catalog)
            f" OR position(encode($1::bytea, 'hex') IN t::text) > 0",
            secret,
        )
        assert found == 0, row[0]
