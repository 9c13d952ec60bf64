"""Disputes and fraud warnings: frozen while they are open, taken when lost, back when won."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from jobs import stripe_gateway
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


async def money(sale: Shop) -> dict[str, str]:
    """The balances of the business's accounts in USD, by the trial balance of journals."""
    sums: dict[str, int] = {}
    for journal in (await sale.api.get("/v1/journals?customer_id=acme&limit=100")).body["data"]:
        for one in journal["transfers"]:
            if one["asset"] == "USD":
                amount = round(float(one["amount"]) * 100)
                sums[one["debit"]] = sums.get(one["debit"], 0) + amount
                sums[one["credit"]] = sums.get(one["credit"], 0) - amount
    return {name: f"{amount / 100:.2f}" for name, amount in sums.items() if amount}


async def test_money_of_a_dispute_is_withdrawn_and_comes_back_less_the_fee(sale: Shop) -> None:
    bought = await sale.buy()
    assert await money(sale) == {"cash": "9.41", "deferred_revenue": "-10.00", "fees": "0.59"}
    made = await dispute(sale, bought)
    assert await money(sale) == {
        "cash": "-15.59",
        "deferred_revenue": "-10.00",
        "disputed": "10.00",
        "fees": "15.59",
    }
    await decide(sale, made, "win")
    assert await money(sale) == {"cash": "-5.59", "deferred_revenue": "-10.00", "fees": "15.59"}
    await sale.api.consume("1000")


async def test_money_of_a_lost_dispute_is_gone(sale: Shop) -> None:
    bought = await sale.buy()
    made = await dispute(sale, bought)
    await decide(sale, made, "lose")
    assert await money(sale) == {"cash": "-15.59", "fees": "15.59"}


@pytest.mark.parametrize("outcome", ["win", "lose"])
@pytest.mark.parametrize("order", ["created", "reverse", "shuffle"])
async def test_news_of_a_dispute_may_come_in_any_order_and_twice(
    sale: Shop, outcome: str, order: str
) -> None:
    """B-40: opened, withdrawn, decided, reinstated: the last state counts."""
    bought = await sale.buy()
    await sale.control("webhooks", mode="hold")
    made = await dispute(sale, bought)
    await decide(sale, made, outcome)
    assert await sale.api.posted() == ("1000", "0", "1000"), "nobody has told"
    await sale.control("webhooks", mode="duplicate")
    await sale.control("webhooks/release", order=order)
    await sale.apply()
    kept = "1000" if outcome == "win" else "0"
    assert await sale.api.posted() == (kept, "0", kept)
    for event in await sale.state("event"):
        if event["type"] == "charge.dispute.created":
            await sale.control(f"webhooks/resend/{event['id']}")
    await sale.apply()
    assert await sale.api.posted() == (kept, "0", kept)


async def test_frozen_and_released_credit_moves_no_unit(sale: Shop) -> None:
    """B-39, B-40: posted stays the same throughout, and no journal moves credits."""
    bought = await sale.buy()
    before = (await sale.api.get("/v1/journals?customer_id=acme&limit=100")).body["data"]
    made = await dispute(sale, bought)
    await decide(sale, made, "win")
    after = (await sale.api.get("/v1/journals?customer_id=acme&limit=100")).body["data"]
    for journal in after[: len(after) - len(before)]:
        assert {one["asset"] for one in journal["transfers"]} <= {"USD"}, journal
    shown = await sale.purchase(bought)
    assert (shown["lots"][0]["frozen"], shown["lots"][0]["remaining"]) == ("0", "1000")


async def test_dispute_of_a_part_freezes_and_takes_its_share(sale: Shop) -> None:
    bought = await sale.buy()
    made = await dispute(sale, bought, amount=400)
    assert await sale.api.posted() == ("1000", "400", "600")
    await sale.api.consume("600")
    await decide(sale, made, "lose")
    assert await sale.api.posted() == ("0", "0", "0")
    assert (await sale.api.balance())["owed"] == "0", "no more was used than the target"


@pytest.mark.parametrize(("clawback", "owed"), [("owe", "700"), ("zero", "0")])
async def test_lost_after_spending_is_owed_or_written_off(
    pool: Pool, clawback: str, owed: str
) -> None:
    async with shop(pool, clawback=clawback) as sale:
        await sale.pack()
        bought = await sale.buy()
        await sale.api.consume("700")
        made = await dispute(sale, bought)
        await decide(sale, made, "lose")
        assert (await sale.api.balance())["owed"] == owed
        later = await sale.buy()
        free = str(1000 - int(owed))
        assert await sale.api.posted() == (free, "0", free)
        assert later["status"] == "credited"


async def test_refund_of_ours_that_a_dispute_forestalls_leaves_all_frozen(sale: Shop) -> None:
    """Its freeze ends as Stripe refuses; the dispute's takes over what that had pinned."""
    bought = await sale.buy()
    assert (await sale.refund(bought)).status == 202
    await dispute(sale, bought)
    assert (await sale.job("stripe_outbox"))["parked"] == 1
    await sale.apply()
    assert await sale.api.posted() == ("1000", "1000", "0")
    shown = await sale.purchase(bought)
    [call] = [one for one in shown["story"]["calls"] if one["kind"] == "refund"]
    assert (call["status"], shown["refunded"]) == ("parked", "0")
    assert "charged back" in call["error"]


async def test_rest_of_a_lost_purchase_is_not_refunded(sale: Shop) -> None:
    bought = await sale.buy()
    made = await dispute(sale, bought, amount=400)
    await decide(sale, made, "lose")
    assert (await sale.refund(bought, amount="6.00")).status == 202
    assert await sale.api.posted() == ("600", "600", "0")
    assert (await sale.job("stripe_outbox"))["parked"] == 1
    await sale.apply()
    assert await sale.api.posted() == ("600", "0", "600"), "Stripe refuses: free again"
    assert await sale.state("refund") == []


async def test_inquiry_leaves_a_refund_possible(sale: Shop) -> None:
    bought = await sale.buy()
    made = await dispute(sale, bought, inquiry=True)
    assert (await sale.refund(bought)).status == 202
    await sale.job("stripe_outbox")
    await sale.apply()
    await decide(sale, made, "close_inquiry")
    assert await sale.api.posted() == ("0", "0", "0")
    shown = await sale.purchase(bought)
    assert (shown["refunded"], shown["disputed"], shown["lost"]) == ("10", "0", "0")


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("pm_card_createDispute", ("1000", "1000", "0")),
        ("pm_card_createDisputeInquiry", ("1000", "0", "1000")),
        ("pm_card_createIssuerFraudRecord", ("1000", "1000", "0")),
    ],
)
async def test_payment_that_is_disputed_at_once(
    pool: Pool, card: str, expected: tuple[str, str, str]
) -> None:
    async with shop(pool, freeze_on_fraud_warning=True) as sale:
        await sale.pack()
        opened = await sale.checkout()
        await sale.pay(opened, payment_method=card)
        await sale.apply()
        assert await sale.api.posted() == expected


def is_over(_: Any) -> bool:
    return False


async def test_warning_that_ends_leaves_the_dispute_frozen(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning had frozen everything, so nothing was left for the dispute to freeze."""
    async with shop(pool, freeze_on_fraud_warning=True) as sale:
        await sale.pack()
        bought = await sale.buy()
        await sale.control("early-fraud-warnings", payment_intent=await sale.intent_of(bought))
        await sale.apply()
        # Stripe says so once the charge is disputed.
        monkeypatch.setattr(stripe_gateway, "is_open_warning", is_over)
        made = await dispute(sale, bought, amount=600)
        assert await sale.api.posted() == ("1000", "600", "400")
        await decide(sale, made, "win")
        assert await sale.api.posted() == ("1000", "0", "1000")


async def test_fraud_warning_whose_charge_is_refunded_takes_the_credits(pool: Pool) -> None:
    async with shop(pool, freeze_on_fraud_warning=True) as sale:
        await sale.pack()
        bought = await sale.buy()
        await sale.control("early-fraud-warnings", payment_intent=await sale.intent_of(bought))
        await sale.apply()
        nothing = await sale.refund(bought)
        assert nothing.code == "nothing_refundable", "all is frozen, so nothing counts as unspent"
        assert (await sale.refund(bought, amount="10.00")).status == 202
        await sale.job("stripe_outbox")
        await sale.apply()
        assert await sale.api.posted() == ("0", "0", "0")
        shown = await sale.purchase(bought)
        assert (shown["refunded"], shown["lots"][0]["frozen"]) == ("10", "0")
