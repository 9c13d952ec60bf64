"""Plans: subscribed to on Stripe's page, credited by the lines of paid invoices."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sql.pool import Pool
from tests.shop import START, Shop, shop

PRO: dict[str, Any] = {
    "name": "Pro",
    "tier": "pro",
    "price": {"amount": "20.00", "currency": "USD"},
    "interval": "month",
    "credits": "3000",
}
PLACE = "/v1/customers/acme/subscription"


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool, has_one_clock=True) as made:
        await made.plan()
        yield made


async def customer(sale: Shop) -> Any:
    return (await sale.api.get("/v1/customers/acme")).body


async def credits_of(sale: Shop) -> list[tuple[str, str]]:
    """The customer's open lots: what remains, and when it ends."""
    balance = (await sale.api.get("/v1/customers/acme/balance")).body
    return [(lot["remaining"], lot["expires_at"]) for lot in balance["lots"]]


async def test_plan_is_made_in_versions_with_a_price_of_its_own_each(sale: Shop) -> None:
    same = await sale.api.put("/v1/plans/pro", PRO)
    assert (same.status, same.body["version"]) == (200, 1)
    dearer = {**PRO, "price": {"amount": "25.00", "currency": "USD"}}
    changed = await sale.api.put("/v1/plans/pro", dearer)
    assert (changed.status, changed.body["version"]) == (200, 2)
    listed = await sale.api.get("/v1/plans")
    assert [(one["key"], one["version"]) for one in listed.body["data"]] == [("pro", 2)]
    prices = [one for one in await sale.state("price") if one["recurring"]]
    assert sorted(one["unit_amount"] for one in prices) == [2000, 2500]


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"interval": "week"}, "/interval"),
        ({"price": {"amount": "0", "currency": "USD"}}, "/price/amount"),
        ({"price": {"amount": "20.001", "currency": "USD"}}, "/price/amount"),
        ({"trial_credits": "5"}, "/trial_credits"),
        ({"rate_card": "none"}, "/rate_card"),
        ({"credits": "-1"}, "/credits"),
        ({"trial_days": 731}, "/trial_days"),
        ({"overage": {"policy": "bill"}}, "/overage/event_name"),
    ],
)
async def test_plan_that_makes_no_sense_is_refused(
    sale: Shop, members: dict[str, Any], pointer: str
) -> None:
    refused = await sale.api.put("/v1/plans/other", {**PRO, **members})
    assert refused.status == 422
    assert refused.body["errors"][0]["pointer"] == pointer
    assert [one["key"] for one in (await sale.api.get("/v1/plans")).body["data"]] == ["pro"]


async def test_plan_is_credited_when_its_first_invoice_is_paid(sale: Shop) -> None:
    opened = await sale.subscribe()
    bought = await sale.purchase(opened)
    assert (bought["status"], bought["captured"], bought["credits"], bought["kind"]) == (
        *("credited", "20", "3000"),
        "plan",
    )
    assert await sale.api.posted() == ("3000", "0", "3000")
    shown = await customer(sale)
    assert (shown["subscription_status"], shown["plan_tier"]) == ("active", "pro")
    found = (await sale.api.get(PLACE)).body
    assert (found["id"], found["period_end"]) == (
        shown["stripe_subscription_id"],
        "2030-02-01T12:00:00Z",
    )
    assert await credits_of(sale) == [("3000", "2030-02-01T12:00:00Z")]


async def test_order_gives_nothing_until_it_is_paid(sale: Shop) -> None:
    opened = await sale.order()
    await sale.apply()
    assert (await sale.purchase(opened))["status"] == "open"
    code = await sale.declined(
        f"checkout/{opened['id']}/complete", payment_method="pm_card_chargeDeclined"
    )
    assert code == "card_declined"
    await sale.control(f"checkout/{opened['id']}/expire")
    await sale.apply()
    assert (await sale.purchase(opened))["status"] == "failed"
    assert await sale.api.posted() == ("0", "0", "0")


async def test_renewals_credit_each_period_and_leave_bought_packs(sale: Shop) -> None:
    # Anchor on the 31st: it never drifts. What is bought stays, what the plan gave ends.
    await sale.walk(datetime(2030, 1, 31, 12, tzinfo=UTC))
    await sale.pack(credits="25")
    await sale.subscribe()
    await sale.buy()
    await sale.api.consume("10")
    ends: list[str] = []
    for month, day in ((2, 28), (3, 31), (4, 30), (5, 31)):
        await sale.walk(datetime(2030, month, day, 14, tzinfo=UTC))
        lots = await credits_of(sale)
        assert [remaining for remaining, _ in lots] == ["3000", "25"]
        ends.append(lots[0][1])
    assert [one[:10] for one in ends] == ["2030-03-31", "2030-04-30", "2030-05-31", "2030-06-30"]
    listed = (await sale.api.get("/v1/purchases?customer_id=acme")).body["data"]
    assert sorted(one["kind"] for one in listed) == ["pack", *["plan"] * 5]


async def test_news_in_any_order_and_any_number_credits_once(sale: Shop) -> None:
    await sale.control("webhooks", mode="hold")
    opened = await sale.order()
    await sale.pay(opened)
    await sale.control("webhooks/release", order="reverse")
    for event in await sale.events():
        await sale.control(f"webhooks/resend/{event}")
        await sale.apply()
    assert await sale.api.posted() == ("3000", "0", "3000")
    assert (await customer(sale))["subscription_status"] == "active"


async def test_trial_gives_its_own_credits_then_the_plan(sale: Shop) -> None:
    await sale.plan("try", trial_days=14, trial_credits="50")
    opened = await sale.subscribe("try")
    assert await credits_of(sale) == [("50", "2030-01-15T12:00:00Z")]
    assert (await customer(sale))["subscription_status"] == "trialing"
    assert (await sale.purchase(opened))["captured"] == "0"
    await sale.give_card()
    await sale.walk(START + timedelta(days=14, hours=2))
    assert await credits_of(sale) == [("3000", "2030-02-15T12:00:00Z")]
    assert (await customer(sale))["subscription_status"] == "active"
    # Only once: who comes back pays from the first day.
    await sale.act("cancel", when="now")
    await sale.subscribe("try")
    assert (await customer(sale))["subscription_status"] == "active"


async def test_trial_without_credits_of_its_own_waits_for_the_first_payment(sale: Shop) -> None:
    await sale.plan("try", trial_days=7)
    opened = await sale.subscribe("try")
    assert await sale.api.posted() == ("0", "0", "0")
    assert (await sale.purchase(opened))["status"] == "open"
    await sale.give_card()
    await sale.walk(START + timedelta(days=7, hours=2))
    assert (await sale.purchase(opened))["status"] == "credited"
    assert await sale.api.posted() == ("3000", "0", "3000")


async def test_trial_without_a_card_ends_with_it(sale: Shop) -> None:
    await sale.plan("try", trial_days=7, trial_credits="50")
    await sale.subscribe("try")
    await sale.walk(START + timedelta(days=7, hours=2))
    assert (await customer(sale))["subscription_status"] == "canceled"
    assert await sale.api.posted() == ("0", "0", "0")


async def test_seats_multiply_credits(sale: Shop) -> None:
    await sale.subscribe(quantity=3)
    assert await sale.api.posted() == ("9000", "0", "9000")
    assert (await sale.api.get(PLACE)).body["quantity"] == 3


async def test_plan_without_credits_has_no_purchase(sale: Shop) -> None:
    await sale.plan("gate", credits=None)
    opened = await sale.subscribe("gate")
    assert opened["purchase_id"] is None
    assert (await sale.api.get("/v1/purchases")).body["data"] == []
    assert (await sale.api.get("/v1/customers/acme/access")).body["active"] is True


async def test_one_live_subscription_by_our_routes(sale: Shop) -> None:
    await sale.subscribe()
    again = await sale.api.post("/v1/checkout", sale.asked_plan())
    assert (again.status, again.code) == (409, "subscription_exists")


async def test_same_order_twice_is_one(sale: Shop) -> None:
    body, keys = sale.asked_plan(), ["order-1"] * 4
    made = await asyncio.gather(*(sale.api.post("/v1/checkout", body, key=k) for k in keys))
    assert {one.status for one in made} == {201}
    assert len({one.body["id"] for one in made}) == 1
    await sale.pay(made[0].body)
    await sale.apply()
    later = await sale.api.post("/v1/checkout", body, key="order-1")
    assert later.body == made[0].body
    other = await sale.api.post("/v1/checkout", {**body, "quantity": 2}, key="order-1")
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    assert len(await sale.state("subscription")) == 1


async def test_second_one_made_elsewhere_is_a_duplicate_that_grants_too(sale: Shop) -> None:
    await sale.subscribe()
    shown = await customer(sale)
    [price] = [one for one in await sale.state("price") if one["recurring"]]
    first = (await sale.api.get(PLACE)).body["id"]
    await sale.give_card()
    await sale.stripe.v1.subscriptions.create_async(
        {"customer": shown["stripe_customer_id"], "items": [{"price": price["id"]}]}
    )
    await sale.job("stripe_sweep")
    await sale.apply()
    listed = (await sale.api.get("/v1/customers/acme/subscriptions")).body["data"]
    assert [one["duplicate"] for one in listed] == [False, True]
    assert (await customer(sale))["stripe_subscription_id"] == first
    assert await sale.api.posted() == ("6000", "0", "6000")
    metrics = await sale.api.get("/metrics")
    assert b"drawdown_duplicate_subscriptions_total 0.0" not in metrics.raw
    assert b"drawdown_duplicate_subscriptions_total " in metrics.raw


async def test_refund_and_dispute_of_a_plan_move_its_credits(sale: Shop) -> None:
    opened = await sale.subscribe()
    bought = await sale.purchase(opened)
    await sale.api.consume("1000")
    answer = await sale.refund(bought)
    assert answer.status == 202, answer
    await sale.job("stripe_outbox")
    await sale.apply()
    bought = await sale.purchase(opened)
    assert (bought["refunded"], bought["lots"][0]["taken_back"]) == ("13.33", "1999.5")
    assert await sale.api.posted() == ("0.5", "0", "0.5")
    intent = await sale.intent_of(bought)
    dispute = await sale.control("disputes", payment_intent=intent, amount=667)
    await sale.apply()
    await sale.control(f"disputes/{dispute['id']}/lose")
    await sale.apply()
    bought = await sale.purchase(opened)
    assert bought["lost"] == "6.67"
    balance = (await sale.api.get("/v1/customers/acme/balance")).body
    assert balance["owed"] == "1000"


async def test_coupon_of_everything_gives_credits_that_cost_nothing(sale: Shop) -> None:
    coupon = await sale.stripe.v1.coupons.create_async({"percent_off": 100, "duration": "once"})
    await sale.stripe.v1.promotion_codes.create_async(
        {"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "FREE"}
    )
    opened = await sale.order(allow_promotion_codes=True)
    await sale.pay(opened, promotion_code="FREE")
    await sale.apply()
    bought = await sale.purchase(opened)
    assert (bought["status"], bought["captured"], bought["credits"]) == ("credited", "0", "3000")


async def test_subscription_of_no_plan_of_ours_is_foreign(sale: Shop) -> None:
    await sale.buy_nothing_of_ours()
    await sale.job("stripe_sweep")
    counts = await sale.apply()
    assert counts["foreign"] >= 1
    assert (await sale.api.get(PLACE)).code == "subscription_not_found"
    assert await sale.api.posted() == ("0", "0", "0")
