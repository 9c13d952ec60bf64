"""Disputes and fraud warnings: frozen while they are open, taken when lost, back when won."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from sql.pool import Pool
from tests.shop import Shop, shop


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        await made.pack()
        yield made


async def dispute(sale: Shop, bought: Any, **how: Any) -> Any:
    """A cardholder disputes a purchase; the news is applied."""
    made = await sale.control("disputes", payment_intent=await sale.intent_of(bought), **how)
    await sale.apply()
    return made


async def decide(sale: Shop, made: Any, outcome: str) -> None:
    await sale.control(f"disputes/{made['id']}/{outcome}")
    await sale.apply()


async def test_open_dispute_freezes_and_withdraws(sale: Shop) -> None:
    bought = await sale.buy()
    await sale.api.consume("100")
    await dispute(sale, bought)
    assert await sale.api.posted() == ("900", "900", "0")
    shown = await sale.purchase(bought)
    assert (shown["disputed"], shown["lost"]) == ("10", "0")
    assert float(shown["fees"]) > float(bought["fees"]), "Stripe's fee for it is booked"
    refused = await sale.api.post("/v1/consume", {"customer_id": "acme", "amount": "1"})
    assert refused.code == "insufficient_credits"


async def test_dispute_that_is_won_gives_all_back(sale: Shop) -> None:
    bought = await sale.buy()
    made = await dispute(sale, bought)
    await decide(sale, made, "win")
    assert await sale.api.posted() == ("1000", "0", "1000")
    shown = await sale.purchase(bought)
    assert (shown["disputed"], shown["lost"], shown["status"]) == ("0", "0", "credited")


async def test_dispute_that_is_lost_takes_what_is_left_and_the_rest_is_owed(sale: Shop) -> None:
    bought = await sale.buy()
    await sale.api.consume("100")
    made = await dispute(sale, bought)
    await decide(sale, made, "lose")
    balance = await sale.api.balance()
    assert (balance["posted"], balance["held"], balance["owed"]) == ("0", "0", "100")
    shown = await sale.purchase(bought)
    assert (shown["disputed"], shown["lost"]) == ("0", "10")
    asked = await sale.refund(bought)
    assert (asked.status, asked.code) == (409, "nothing_refundable")


async def test_inquiry_moves_nothing_until_it_is_escalated(sale: Shop) -> None:
    bought = await sale.buy()
    made = await dispute(sale, bought, inquiry=True)
    assert await sale.api.posted() == ("1000", "0", "1000")
    await decide(sale, made, "escalate")
    assert await sale.api.posted() == ("1000", "1000", "0")
    other = await sale.buy()
    asked = await dispute(sale, other, inquiry=True)
    await decide(sale, asked, "close_inquiry")
    assert await sale.api.posted() == ("2000", "1000", "1000")


async def test_dispute_after_a_partial_refund_is_of_what_is_left(sale: Shop) -> None:
    bought = await sale.buy()
    await sale.refund(bought, amount="4.00")
    await sale.job("stripe_outbox")
    await sale.apply()
    assert await sale.api.posted() == ("600", "0", "600")
    made = await dispute(sale, bought, amount=600)
    assert await sale.api.posted() == ("600", "600", "0")
    await decide(sale, made, "lose")
    assert await sale.api.posted() == ("0", "0", "0")
    shown = await sale.purchase(bought)
    assert (shown["refunded"], shown["lost"]) == ("4", "6")


async def test_fraud_warning_freezes_only_where_that_is_set(pool: Pool, sale: Shop) -> None:
    bought = await sale.buy()
    await sale.control("early-fraud-warnings", payment_intent=await sale.intent_of(bought))
    await sale.apply()
    assert await sale.api.posted() == ("1000", "0", "1000")


async def test_fraud_warning_freezes_what_is_left(pool: Pool) -> None:
    async with shop(pool, freeze_on_fraud_warning=True) as sale:
        await sale.pack()
        bought = await sale.buy()
        await sale.control("early-fraud-warnings", payment_intent=await sale.intent_of(bought))
        await sale.apply()
        assert await sale.api.posted() == ("1000", "1000", "0")
