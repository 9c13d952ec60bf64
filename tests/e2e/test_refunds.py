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
