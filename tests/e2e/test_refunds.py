"""Money that goes back: asked by us or made in the dashboard, in parts, late, or after all not."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest

from sql.pool import Pool
from tests.shop import Shop, shop

HOUR_AND_SOME = timedelta(hours=1, minutes=1)


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    """A pack of 1,000 credits for 10.00 is for sale."""
    async with shop(pool) as made:
        await made.pack()
        yield made


async def settle(sale: Shop) -> None:
    """Everything that the jobs have to do about money."""
    await sale.job("stripe_outbox")
    await sale.apply()


async def refunds(sale: Shop) -> list[tuple[int, str]]:
    return [(one["amount"], one["status"]) for one in await sale.state("refund")]


async def test_default_refund_is_what_is_unspent_and_frozen_at_once(sale: Shop) -> None:
    bought = await sale.buy()
    await sale.api.consume("250")
    asked = await sale.refund(bought)
    assert asked.status == 202, asked
    assert await sale.api.posted() == ("750", "750", "0"), "frozen before Stripe is asked"
    assert await refunds(sale) == []
    await settle(sale)
    assert await refunds(sale) == [(750, "succeeded")]
    assert await sale.api.posted() == ("0", "0", "0")
    shown = await sale.purchase(bought)
    assert (shown["refunded"], shown["lots"][0]["taken_back"]) == ("7.5", "750")
    [call] = [one for one in shown["story"]["calls"] if one["kind"] == "refund"]
    assert call["status"] == "done"


async def test_refund_by_amount_and_by_credits_and_too_much(sale: Shop) -> None:
    bought = await sale.buy()
    assert (await sale.refund(bought, amount="2.50")).status == 202
    await settle(sale)
    assert await sale.api.posted() == ("750", "0", "750")
    assert (await sale.refund(bought, credits="250")).status == 202
    await settle(sale)
    assert await sale.api.posted() == ("500", "0", "500")
    refused = await sale.refund(bought, amount="5.01")
    assert (refused.status, refused.code) == (409, "nothing_refundable")
    both = await sale.refund(bought, amount="1.00", credits="100")
    assert (both.status, both.code) == (422, "invalid_value")
    assert len(await refunds(sale)) == 2


async def test_same_refund_twice_is_one_refund(sale: Shop) -> None:
    bought = await sale.buy()
    path = f"/v1/purchases/{bought['id']}/refund"
    first = await sale.api.post(path, {"amount": "4.00"}, key="r1")
    again = await sale.api.post(path, {"amount": "4.00"}, key="r1")
    assert (first.status, again.status) == (202, 202)
    assert (first.body, again.is_replayed) == (again.body, True)
    other = await sale.api.post(path, {"amount": "5.00"}, key="r1")
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    await settle(sale)
    assert await refunds(sale) == [(400, "succeeded")]
    assert await sale.api.posted() == ("600", "0", "600")


async def test_refund_of_the_dashboard_is_found_in_every_state(sale: Shop) -> None:
    bought = await sale.buy()
    intent = await sale.intent_of(bought)
    made = await sale.control("refunds", payment_intent=intent, amount=400, status="pending")
    await sale.apply()
    assert await sale.api.posted() == ("1000", "400", "600"), "pending freezes"
    await sale.control(f"refunds/{made['id']}/succeed")
    await sale.apply()
    assert await sale.api.posted() == ("600", "0", "600")
    await sale.control(f"refunds/{made['id']}/fail")
    await sale.apply()
    assert await sale.api.posted() == ("1000", "0", "1000"), "restored to its lot"
    lost = await sale.control("refunds", payment_intent=intent, amount=300, status="pending")
    await sale.apply()
    await sale.control(f"refunds/{lost['id']}/cancel")
    await sale.apply()
    assert await sale.api.posted() == ("1000", "0", "1000")


@pytest.mark.parametrize(
    ("clawback", "owed", "written_off"), [("owe", "400", "0"), ("zero", "0", "400")]
)
async def test_refund_after_spending_is_owed_or_written_off(
    pool: Pool, clawback: str, owed: str, written_off: str
) -> None:
    async with shop(pool, clawback=clawback) as sale:
        await sale.pack()
        bought = await sale.buy()
        await sale.api.consume("400")
        await sale.control("refunds", payment_intent=await sale.intent_of(bought), amount=1000)
        await sale.apply()
        balance = await sale.api.balance()
        assert (balance["posted"], balance["owed"]) == ("0", owed)
        assert (await sale.purchase(bought))["lots"][0]["written_off"] == written_off


async def test_refund_waits_for_what_a_hold_has(sale: Shop) -> None:
    bought = await sale.buy()
    hold = await sale.api.reserve("300")
    await sale.control("refunds", payment_intent=await sale.intent_of(bought), amount=1000)
    await sale.apply()
    assert await sale.api.posted() == ("300", "300", "0")
    voided = await sale.api.post(f"/v1/holds/{hold['id']}/void")
    assert voided.status == 200, voided
    assert await sale.api.posted() == ("0", "0", "0")


@pytest.mark.parametrize("fault", ["429", "500_before", "500_after", "reset_before", "reset_after"])
async def test_refund_under_faults_of_stripe_is_one_refund(sale: Shop, fault: str) -> None:
    bought = await sale.buy()
    await sale.refund(bought, amount="3.00")
    # More often than the library tries by itself.
    await sale.control("faults", method="POST", path="/v1/refunds", kind=fault, count=4)
    for _ in range(5):
        await sale.job("stripe_outbox")
        await sale.api.clock(await sale.api.now() + HOUR_AND_SOME)
    await sale.apply()
    assert await refunds(sale) == [(300, "succeeded")]
    assert await sale.api.posted() == ("700", "0", "700")


async def test_refund_that_stripe_refuses_for_good_is_parked_and_free_again(sale: Shop) -> None:
    bought = await sale.buy()
    intent = await sale.intent_of(bought)
    await sale.refund(bought, amount="8.00")
    # Meanwhile most of it went back in the dashboard, and no delivery has come.
    await sale.control("webhooks", mode="drop")
    await sale.control("refunds", payment_intent=intent, amount=900)
    counts = await sale.job("stripe_outbox")
    assert counts["parked"] == 1
    story = (await sale.purchase(bought))["story"]
    [call] = [one for one in story["calls"] if one["kind"] == "refund"]
    assert call["status"] == "parked"
    assert call["error"]
    assert await sale.api.posted() == ("1000", "0", "1000"), "nothing is frozen any more"
    await sale.control("webhooks", mode="deliver")
    await sale.job("stripe_sweep")
    await sale.apply()
    assert await sale.api.posted() == ("100", "0", "100")


async def test_only_what_was_credited_is_refunded(sale: Shop) -> None:
    opened = await sale.checkout()
    path = f"/v1/purchases/{opened['purchase_id']}/refund"
    early = await sale.api.post(path, {})
    assert (early.status, early.code) == (409, "purchase_not_credited")
    nobody: Any = await sale.api.post("/v1/purchases/pur_1/refund", {})
    assert nobody.code == "purchase_not_found"


async def test_refusal_says_what_is_left_and_is_remembered(sale: Shop) -> None:
    bought = await sale.buy()
    path = f"/v1/purchases/{bought['id']}/refund"
    refused = await sale.api.post(path, {"amount": "10.01"}, key="r1")
    assert (refused.status, refused.code, refused.body["left"]) == (409, "nothing_refundable", "10")
    again = await sale.api.post(path, {"amount": "10.01"}, key="r1")
    assert (again.status, again.body["left"], again.is_replayed) == (409, "10", True)
    assert await sale.api.posted() == ("1000", "0", "1000")
    spent = await sale.api.consume("1000")
    nothing = await sale.api.post(path, {}, key="r2")
    assert nothing.code == "nothing_refundable"
    await sale.api.post(f"/v1/charges/{spent['id']}/reverse", {})
    assert (await sale.api.post(path, {}, key="r2")).status == 409, "the first answer counts"
    assert (await sale.api.post(path, {}, key="r3")).status == 202


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"amount": "0"}, "/amount"),
        ({"amount": "-1"}, "/amount"),
        ({"amount": "1.001"}, "/amount"),
        ({"amount": "ten"}, "/amount"),
        ({"amount": 1}, "/amount"),
        ({"amount": None}, "/amount"),
        ({"credits": "0"}, "/credits"),
        ({"credits": "0.0000000001"}, "/credits"),
        ({"credits": "1e3"}, "/credits"),
        ({"reason": "because"}, "/reason"),
        ({"refund": "all"}, "/refund"),
    ],
)
async def test_refund_of_no_amount_is_refused(
    sale: Shop, members: dict[str, Any], pointer: str
) -> None:
    bought = await sale.buy()
    refused = await sale.refund(bought, **members)
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, pointer), refused
    assert await sale.api.posted() == ("1000", "0", "1000")
    assert (await sale.job("stripe_outbox"))["sent"] == 0


async def test_refunds_that_wait_count_as_gone(sale: Shop) -> None:
    bought = await sale.buy()
    assert (await sale.refund(bought, amount="6.00")).status == 202
    more = await sale.refund(bought, amount="4.01")
    assert (more.status, more.body["left"]) == (409, "4")
    assert (await sale.refund(bought, amount="4.00")).status == 202
    assert await sale.api.posted() == ("1000", "1000", "0")
    await settle(sale)
    assert sorted(await refunds(sale)) == [(400, "succeeded"), (600, "succeeded")]
    assert await sale.api.posted() == ("0", "0", "0")


async def test_more_credits_than_are_left_are_not_refunded(sale: Shop) -> None:
    bought = await sale.buy()
    assert (await sale.refund(bought, credits="400")).status == 202
    await settle(sale)
    refused = await sale.refund(bought, credits="600.000000001")
    assert (refused.status, refused.body["left"]) == (409, "6")
    assert (await sale.refund(bought, credits="600")).status == 202
    await settle(sale)
    assert await sale.api.posted() == ("0", "0", "0")


async def test_cumulative_and_late_news_of_refunds_counts_once(sale: Shop) -> None:
    """B-23: 250, 250 more, and the first one again."""
    bought = await sale.buy()
    intent = await sale.intent_of(bought)
    await sale.control("webhooks", mode="hold")
    for _ in range(2):
        await sale.control("refunds", payment_intent=intent, amount=250)
    await sale.control("webhooks", mode="deliver")
    await sale.control("webhooks/release", order="reverse")
    await sale.apply()
    assert await sale.api.posted() == ("500", "0", "500")
    for event in await sale.state("event"):
        if event["type"] in ("charge.refunded", "refund.created"):
            await sale.control(f"webhooks/resend/{event['id']}")
    await sale.apply()
    assert await sale.api.posted() == ("500", "0", "500")


@pytest.mark.parametrize(
    ("currency", "price", "back", "kept"),
    # 1000 x 989 / 9899 = 99.909…; of 1.230 KWD 0.410 are a third.
    [("JPY", "9899", "989", "900.090918275"), ("KWD", "1.230", "0.410", "666.666666667")],
)
async def test_currencies_without_cents_and_with_mills(
    sale: Shop, currency: str, price: str, back: str, kept: str
) -> None:
    """B-24, B-44."""
    await sale.pack(prices=[{"amount": price, "currency": currency}])
    await sale.api.customer("other", currency=currency)
    bought = await sale.buy("other")
    [intent] = await sale.state("payment_intent")
    assert intent["amount"] == int(price.replace(".", ""))
    assert (await sale.refund(bought, amount=back)).status == 202
    await settle(sale)
    [made] = await sale.state("refund")
    assert made["amount"] == int(back.replace(".", ""))
    assert (await sale.api.posted("other"))[0] == kept


async def test_refunds_in_a_currency_with_mills_end_in_0(sale: Shop) -> None:
    await sale.pack(prices=[{"amount": "1.230", "currency": "KWD"}])
    await sale.api.customer("other", currency="KWD")
    bought = await sale.buy("other")
    refused = await sale.refund(bought, amount="0.411")
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, "/amount")
    await sale.api.consume("1", "other")
    assert (await sale.refund(bought)).status == 202  # 999 credits are 1.22877
    await settle(sale)
    [made] = await sale.state("refund")
    assert made["amount"] == 1220
    assert (await sale.refund(bought, amount="0.010")).status == 202
    await settle(sale)
    assert len(await sale.state("refund")) == 2


@pytest.mark.parametrize(
    ("card", "between", "after"),
    [("pm_card_pendingRefund", "1000", "0"), ("pm_card_refundFail", "0", "1000")],
)
async def test_refund_of_ours_has_a_later_fate(
    pool: Pool, card: str, between: str, after: str
) -> None:
    """B-48: pending is no failure, and what succeeded may fail days later."""
    async with shop(pool, has_one_clock=True) as sale:
        await sale.pack()
        opened = await sale.checkout()
        await sale.pay(opened, payment_method=card)
        await sale.apply()
        bought = await sale.purchase(opened)
        assert (await sale.refund(bought)).status == 202
        await settle(sale)
        assert (await sale.api.posted())[0] == between
        assert (await sale.api.posted())[2] == "0"
        await sale.api.clock(await sale.api.now() + timedelta(days=2))
        await settle(sale)
        assert await sale.api.posted() == (after, "0", after)
        shown = await sale.purchase(bought)
        assert shown["refunded"] == ("10" if after == "0" else "0")


async def test_default_leaves_what_holds_have(sale: Shop) -> None:
    bought = await sale.buy()
    hold = await sale.api.reserve("300")
    assert (await sale.refund(bought)).status == 202
    await settle(sale)
    assert await refunds(sale) == [(700, "succeeded")]
    assert await sale.api.posted() == ("300", "300", "0")
    captured = await sale.api.post(f"/v1/holds/{hold['id']}/capture", {"amount": "50"})
    assert captured.status == 200, captured
    assert await sale.api.posted() == ("250", "0", "250")
    assert (await sale.api.balance())["owed"] == "0"


async def test_bonus_goes_back_in_the_same_share(sale: Shop) -> None:
    await sale.pack("more", bonus={"credits": "100"})
    bought = await sale.buy(pack="more")
    assert (await sale.refund(bought, amount="2.50")).status == 202
    assert await sale.api.posted() == ("1100", "275", "825")
    await settle(sale)
    assert await sale.api.posted() == ("825", "0", "825")
    shown = await sale.purchase(bought)
    assert [lot["taken_back"] for lot in shown["lots"]] == ["250", "25"]


async def test_refund_of_what_cost_nothing_is_refused(sale: Shop) -> None:
    coupon: Any = await sale.stripe.v1.coupons.create_async({"percent_off": 100})
    await sale.stripe.v1.promotion_codes.create_async(
        {"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "FREE"}
    )
    opened = await sale.checkout(allow_promotion_codes=True)
    await sale.pay(opened, promotion_code="FREE")
    await sale.apply()
    for body in ({}, {"amount": "1.00"}, {"credits": "1"}):
        refused = await sale.refund(await sale.purchase(opened), **body)
        assert (refused.status, refused.code) == (409, "nothing_refundable")


@pytest.mark.parametrize("kind", ["reset_after", "reset_before"])
async def test_refund_of_unknown_outcome_is_looked_for_after_a_day(pool: Pool, kind: str) -> None:
    """Stripe has forgotten its key by then: sent again blindly it would pay twice."""
    async with shop(pool, has_one_clock=True) as sale:
        await sale.pack()
        bought = await sale.buy()
        other = await sale.buy()
        await sale.refund(other, amount="3.00")
        await settle(sale)
        await sale.refund(bought, amount="3.00")
        await sale.control("faults", method="POST", path="/v1/refunds", kind=kind, count=3)
        assert (await sale.job("stripe_outbox"))["failed"] == 1
        # The test clock would run the job on its way.
        await pool.execute("UPDATE installation SET clock_offset = clock_offset + interval '25 h'")
        await sale.standin.walk(await sale.api.now())
        await settle(sale)
        assert await refunds(sale) == [(300, "succeeded"), (300, "succeeded")]
        assert await sale.api.posted() == ("1400", "0", "1400")


async def test_story_of_a_purchase_tells_everything(sale: Shop) -> None:
    bought = await sale.buy()
    await sale.refund(bought, amount="2.00")
    await settle(sale)
    made = await sale.control(
        "disputes", payment_intent=await sale.intent_of(bought), amount=500, reason="fraudulent"
    )
    await sale.apply()
    await sale.control(f"disputes/{made['id']}/lose")
    await sale.apply()
    shown = await sale.purchase(bought)
    story = shown["story"]
    assert [(one["kind"], one["status"]) for one in story["calls"]] == [
        ("session", "done"),
        ("refund", "done"),
    ]
    assert {(one["kind"], one["status"]) for one in story["objects"]} == {
        ("session", "applied"),
        ("intent", "applied"),
    }
    told = [one["type"] for one in story["news"]]
    for kind in (
        "checkout.session.completed",
        "payment_intent.succeeded",
        "refund.created",
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.closed",
    ):
        assert kind in told, told
    kinds = [one["kind"] for one in story["journals"]]
    assert kinds.count("grant") == 1
    assert kinds.count("clawback") == 2
    assert kinds.count("dispute") == 1
    assert kinds.count("fee") == 2
    assert (shown["refunded"], shown["lost"], shown["disputed"]) == ("2", "5", "0")
    assert shown["fees"] == "15.59", "0.59 for the payment, 15.00 for the dispute"
    assert await sale.api.posted() == ("300", "0", "300")
