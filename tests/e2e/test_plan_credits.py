"""A yearly plan whose credits come month by month: one paid line, twelve lots."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from sql.pool import Pool
from tests.shop import START, Shop, shop

YEAR: dict[str, Any] = {
    "price": {"amount": "100.00", "currency": "USD"},
    "interval": "year",
    "credits": "1000",
    "credits_every": "month",
}


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool, has_one_clock=True) as made:
        await made.plan("year", **YEAR)
        yield made


async def months(sale: Shop) -> list[Any]:
    """The purchases of the customer, by when their credits end."""
    found = (await sale.api.get("/v1/purchases?customer_id=acme&limit=100")).body["data"]
    return sorted(found, key=lambda one: one["lots"][0]["expires_at"] if one["lots"] else "")


def money(found: list[Any], member: str) -> Decimal:
    return sum((Decimal(one[member]) for one in found), Decimal(0))


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"interval": "month"}, "/credits_every"),
        ({"credits": None}, "/credits_every"),
        ({"upgrade_credits": "full"}, "/credits_every"),
        ({"credits_every": "week"}, "/credits_every"),
    ],
)
async def test_credits_by_month_that_make_no_sense_are_refused(
    sale: Shop, members: dict[str, Any], pointer: str
) -> None:
    body = {"name": "Y", "tier": "y", **YEAR, **members}
    body = {name: value for name, value in body.items() if value is not None}
    refused = await sale.api.put("/v1/plans/other", body)
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, pointer)


async def test_year_is_paid_once_and_gives_twelve_lots_that_cost_it_exactly(sale: Shop) -> None:
    opened = await sale.subscribe("year")
    found = await months(sale)
    assert [one["credits"] for one in found] == ["1000"] * 12
    assert money(found, "captured") == 100  # 8.33 or 8.34 each
    assert {one["captured"] for one in found} == {"8.33", "8.34"}
    assert found[0]["id"] == opened["purchase_id"]
    ends = [one["lots"][0]["expires_at"] for one in found]
    assert ends == [
        f"{2030 + month // 12}-{month % 12 + 1:02}-01T12:00:00Z" for month in range(1, 13)
    ]
    balance = (await sale.api.get("/v1/customers/acme/balance")).body
    assert (balance["posted"], balance["upcoming"]) == ("1000", "11000")
    # The money is here today, all of it; what it will be earned by lies ahead.
    cash = (await sale.api.get("/v1/journals?customer_id=acme&kind=grant&limit=100")).body["data"]
    assert {one["book_date"] for one in cash} == {"2030-01-01"}


async def test_each_month_starts_once_also_when_nothing_ran_for_months(sale: Shop) -> None:
    await sale.subscribe("year")
    await sale.api.consume("400")
    await sale.walk(datetime(2030, 2, 1, 13, tzinfo=UTC))
    assert await sale.api.posted() == ("1000", "0", "1000")
    await sale.sleep(timedelta(days=120))
    assert await sale.api.posted() == ("1000", "0", "1000")  # June's; what was left of May is gone
    await sale.api.consume("1")
    journals = (await sale.api.get("/v1/journals?customer_id=acme&kind=activation")).body["data"]
    assert len(journals) == 5
    assert len(await months(sale)) == 12


async def test_news_that_came_late_and_twice_gives_what_is_left_of_the_year(sale: Shop) -> None:
    await sale.control("webhooks", mode="hold")
    opened = await sale.order("year")
    await sale.pay(opened)
    await sale.sleep(timedelta(days=100))  # 11 April
    for _ in range(2):
        await sale.control("webhooks/release", order="reverse")
        await sale.apply()
        for event in await sale.events():
            await sale.control(f"webhooks/resend/{event}")
    await sale.apply()
    found = await months(sale)
    assert len(found) == 12
    assert money(found, "captured") == 100
    assert await sale.api.posted() == ("1000", "0", "1000")
    statuses = [Decimal(one["lots"][0]["remaining"]) for one in found]
    assert statuses == [0] * 3 + [1000] * 9


async def test_renewal_gives_twelve_more(sale: Shop) -> None:
    await sale.subscribe("year")
    await sale.walk(datetime(2031, 1, 1, 14, tzinfo=UTC))
    found = await months(sale)
    assert len(found) == 24
    assert money(found, "captured") == 200
    assert await sale.api.posted() == ("1000", "0", "1000")


async def test_refund_at_stripe_takes_the_last_months_first(sale: Shop) -> None:
    opened = await sale.subscribe("year")
    await sale.api.consume("1000")
    bought = await sale.purchase(opened)
    intent = await sale.intent_of(bought)
    await sale.control("refunds", payment_intent=intent, amount=5000)
    await sale.apply()
    found = await months(sale)
    assert money(found, "refunded") == 50
    left = [one["lots"][0]["remaining"] for one in found]
    assert left == ["0", *["1000"] * 5, *["0"] * 6]
    balance = (await sale.api.get("/v1/customers/acme/balance")).body
    assert (balance["owed"], balance["upcoming"]) == ("0", "5000")
    # A part of a month is that part of its credits.
    await sale.control("refunds", payment_intent=intent, amount=417)
    await sale.apply()
    found = await months(sale)
    assert money(found, "refunded") == Decimal("54.17")
    assert found[5]["lots"][0]["remaining"] not in ("0", "1000")
    assert found[4]["lots"][0]["remaining"] == "1000"
    # All of it is all of it: what was used is owed.
    await sale.control("refunds", payment_intent=intent)
    await sale.apply()
    found = await months(sale)
    assert money(found, "refunded") == 100
    balance = (await sale.api.get("/v1/customers/acme/balance")).body
    assert (balance["owed"], balance["upcoming"]) == ("1000", "0")


async def test_refund_that_fails_gives_the_months_back(sale: Shop) -> None:
    opened = await sale.subscribe("year")
    intent = await sale.intent_of(await sale.purchase(opened))
    made = await sale.control("refunds", payment_intent=intent, amount=5000)
    await sale.apply()
    await sale.control(f"refunds/{made['id']}/fail")
    await sale.apply()
    found = await months(sale)
    assert money(found, "refunded") == 0
    assert [one["lots"][0]["remaining"] for one in found] == ["1000"] * 12


async def test_dispute_freezes_every_month_and_lost_takes_them(sale: Shop) -> None:
    opened = await sale.subscribe("year")
    intent = await sale.intent_of(await sale.purchase(opened))
    dispute = await sale.control("disputes", payment_intent=intent)
    await sale.apply()
    assert await sale.api.posted() == ("1000", "1000", "0")
    await sale.walk(datetime(2030, 2, 1, 13, tzinfo=UTC))
    assert (await sale.api.posted())[2] == "0"  # February's are frozen too
    await sale.control(f"disputes/{dispute['id']}/lose")
    await sale.apply()
    found = await months(sale)
    assert money(found, "lost") == 100
    balance = (await sale.api.get("/v1/customers/acme/balance")).body
    assert (balance["posted"], balance["upcoming"]) == ("0", "0")


async def test_month_can_be_refunded_by_our_route(sale: Shop) -> None:
    opened = await sale.subscribe("year")
    found = await months(sale)
    await sale.api.consume("400")
    first = await sale.refund(found[0])  # what is unspent: 600 of 1,000
    third = await sale.refund(found[2])
    assert (first.status, third.status) == (202, 202), (first, third)
    await sale.job("stripe_outbox")
    await sale.apply()
    found = await months(sale)
    assert [one["refunded"] for one in found[:4]] == ["4.99", "0", "8.34", "0"]
    assert found[2]["lots"][0]["remaining"] == "0"
    assert found[1]["lots"][0]["remaining"] == "1000"
    assert (await sale.purchase(opened))["refunded"] == "4.99"


async def test_cancelled_year_keeps_the_months_that_are_paid(sale: Shop) -> None:
    await sale.subscribe("year")
    await sale.act("cancel", when="now")
    await sale.walk(datetime(2030, 3, 1, 13, tzinfo=UTC))
    assert await sale.api.posted() == ("1000", "0", "1000")
    await sale.walk(datetime(2031, 1, 1, 14, tzinfo=UTC))
    assert await sale.api.posted() == ("0", "0", "0")
    assert len(await months(sale)) == 12


async def test_change_in_the_year_is_spread_over_what_is_left_of_it(sale: Shop) -> None:
    await sale.plan(
        "more", **{**YEAR, "credits": "3000", "price": {"amount": "300.00", "currency": "USD"}}
    )
    await sale.subscribe("year")
    await sale.walk(datetime(2030, 7, 2, 12, tzinfo=UTC))  # 183 days are left of 365
    shown = await sale.api.post(
        "/v1/customers/acme/subscription/preview", {"plan": "more"}, key=None
    )
    await sale.act("change", plan="more")
    more = [one for one in await months(sale) if one["product"] == "more@1"]
    credits = money(more, "credits")
    assert abs(credits - Decimal(24_000) * 183 / 365) < Decimal("0.01")
    assert Decimal(shown.body["credits_delta"]) - credits < Decimal("0.01")
    assert [one["lots"][0]["expires_at"][:10] for one in more][:2] == ["2030-08-01", "2030-09-01"]
    assert len(more) == 6
    await sale.walk(datetime(2030, 8, 1, 13, tzinfo=UTC))
    posted = Decimal((await sale.api.posted())[0])
    assert posted == 1000 + Decimal(more[1]["credits"])


async def test_trial_gives_its_own_credits_at_once(sale: Shop) -> None:
    await sale.plan("try", **YEAR, trial_days=14, trial_credits="50")
    await sale.subscribe("try")
    await sale.give_card()
    assert await sale.api.posted() == ("50", "0", "50")
    await sale.walk(START + timedelta(days=14, hours=2))
    assert await sale.api.posted() == ("1000", "0", "1000")
    assert len(await months(sale)) == 13
