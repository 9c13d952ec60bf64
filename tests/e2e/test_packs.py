"""Packs: made with their prices at Stripe, changed by versions, listed; bought, credited once."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from sql.pool import Pool
from tests.http import Answer
from tests.shop import PACK, Shop, shop


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        yield made


async def put(sale: Shop, key: str = "starter", **members: Any) -> Answer:
    return await sale.api.put(f"/v1/packs/{key}", {**PACK, **members})


async def prices(sale: Shop) -> list[tuple[str, int]]:
    return sorted((one["currency"], one["unit_amount"]) for one in await sale.state("price"))


def usd(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "USD"}


async def test_bought_pack_is_credited_once_it_is_paid(sale: Shop) -> None:
    await sale.pack(bonus={"credits": "100", "expires_in": 86_400})
    opened = await sale.checkout()
    assert opened["url"].startswith(sale.standin.url)
    assert (await sale.purchase(opened))["status"] == "open"
    assert await sale.api.posted() == ("0", "0", "0")
    await sale.pay(opened)
    counts = await sale.apply()
    assert counts["applied"] > 0
    purchase = await sale.purchase(opened)
    assert (purchase["status"], purchase["captured"], purchase["currency"]) == (
        "credited",
        "10",
        "USD",
    )
    assert await sale.api.posted() == ("1100", "0", "1100")


async def test_pack_is_new_then_the_same_then_another_version(sale: Shop) -> None:
    made = await put(sale)
    assert (made.status, made.body["version"]) == (201, 1)
    same = await put(sale)
    assert (same.status, same.body) == (200, made.body)
    changed = await put(sale, credits="1200")
    assert (changed.status, changed.body["version"]) == (200, 2)
    back = await put(sale)
    assert (back.status, back.body["version"]) == (200, 3), "a version is never taken back"
    assert await prices(sale) == [("usd", 1000)], "what costs the same is the same price"
    assert len(await sale.state("product")) == 1


async def test_purchase_gives_what_its_version_said_when_it_was_opened(sale: Shop) -> None:
    await put(sale)
    opened = await sale.checkout()
    await put(sale, credits="5", price=usd("20.00"))
    await sale.pay(opened)
    await sale.apply()
    bought = await sale.purchase(opened)
    assert (bought["status"], bought["product"]) == ("credited", "starter@1")
    assert (bought["credits"], bought["captured"]) == ("1000", "10")
    newer = await sale.buy()
    assert (newer["product"], newer["credits"], newer["captured"]) == ("starter@2", "5", "20")


async def test_another_name_or_tax_code_is_what_the_page_says(sale: Shop) -> None:
    await put(sale, tax_code="txcd_10000000")
    await put(sale, name="Begin", tax_code="txcd_10000000")
    await put(sale, name="Begin", tax_code="txcd_20000000", tax_behavior="inclusive")
    sold = {(one["name"], one["tax_code"]) for one in await sale.state("product")}
    assert ("Begin", "txcd_20000000") in sold
    await sale.checkout()
    [session] = await sale.state("checkout.session")
    items = await sale.stripe.v1.checkout.sessions.line_items.list_async(session["id"])
    price = items.data[0].price
    assert price is not None
    assert price.tax_behavior == "inclusive"
    product: Any = await sale.stripe.v1.products.retrieve_async(str(price.product))
    assert (product.name, product.tax_code) == ("Begin", "txcd_20000000")


async def test_prices_of_other_currencies_are_in_their_smallest_units(sale: Shop) -> None:
    others = [
        {"amount": "1500", "currency": "JPY"},
        {"amount": "3.210", "currency": "KWD"},
        {"amount": "500.00", "currency": "ISK"},
    ]
    made = await put(sale, prices=others)
    assert made.status == 201, made
    assert [one["amount"] for one in made.body["prices"]] == ["1500", "3.21", "500"]
    assert await prices(sale) == [("isk", 50000), ("jpy", 1500), ("kwd", 3210), ("usd", 1000)]


async def test_inactive_pack_is_listed_and_not_sold(sale: Shop) -> None:
    made = await put(sale, active=False)
    assert made.status == 201, made
    assert await prices(sale) == [], "what is not sold has no price at Stripe"
    [shown] = (await sale.api.get("/v1/packs")).body["data"]
    assert (shown["key"], shown["active"]) == ("starter", False)
    assert (await put(sale)).body["version"] == 2
    await sale.buy()


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"price": usd("0")}, "/price/amount"),
        ({"price": usd("-1")}, "/price/amount"),
        ({"price": usd("1.001")}, "/price/amount"),
        ({"price": usd("1e2")}, "/price/amount"),
        ({"price": usd("NaN")}, "/price/amount"),
        ({"price": usd("")}, "/price/amount"),
        ({"price": usd("1000000.00")}, "/price/amount"),
        ({"price": {"amount": 10, "currency": "USD"}}, "/price/amount"),
        ({"price": {"amount": "10", "currency": "usd"}}, "/price/currency"),
        ({"price": {"amount": "10", "currency": "XXX"}}, "/price/currency"),
        ({"price": {"amount": "1.5", "currency": "JPY"}}, "/price/amount"),
        ({"price": {"amount": "1.234", "currency": "KWD"}}, "/price/amount"),
        ({"prices": [usd("9.00")]}, "/prices/0/currency"),
        ({"prices": [{"amount": "x", "currency": "EUR"}]}, "/prices/0/amount"),
        ({"credits": "0"}, "/credits"),
        ({"credits": "1.0000000001"}, "/credits"),
        ({"credits": "99999999999999"}, "/credits"),
        ({"bonus": {"credits": "0"}}, "/bonus/credits"),
        ({"bonus": {"credits": "1", "expires_in": 0}}, "/bonus/expires_in"),
        ({"expires_in": 0}, "/expires_in"),
        ({"asset": "USD"}, "/asset"),
        ({"priority": 101}, "/priority"),
        ({"name": ""}, "/name"),
        ({"name": "a\x00"}, "/name"),
        ({"tax_code": "txcd_1"}, "/tax_code"),
        ({"color": "red"}, "/color"),
    ],
)
async def test_pack_that_can_not_be_is_refused_and_nothing_is_written(
    sale: Shop, members: dict[str, Any], pointer: str
) -> None:
    refused = await put(sale, **members)
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, pointer), refused
    assert (await sale.api.get("/v1/packs")).body["data"] == []
    assert await sale.state("product") == []


async def test_key_of_a_pack_is_a_plain_word(sale: Shop) -> None:
    for key in ("a.b", "-a", "a%20b", "a" * 64, "%C3%A9", "a%00"):
        refused = await put(sale, key)
        assert refused.status in (400, 404, 422), (key, refused)
    assert (await put(sale, "A" * 63)).status == 201
    assert len((await sale.api.get("/v1/packs")).body["data"]) == 1


async def test_pack_is_there_though_stripe_is_away_and_the_retry_completes_it(sale: Shop) -> None:
    await sale.control("faults", path="/v1/prices", kind="500_before", count=3)
    away = await put(sale, prices=[{"amount": "9.00", "currency": "EUR"}])
    assert (away.status, away.code) == (503, "stripe_unavailable")
    [shown] = (await sale.api.get("/v1/packs")).body["data"]
    assert shown["version"] == 1
    again = await put(sale, prices=[{"amount": "9.00", "currency": "EUR"}])
    assert (again.status, again.body["version"]) == (200, 1)
    assert await prices(sale) == [("eur", 900), ("usd", 1000)]
    await sale.buy()


async def test_price_that_stripe_refuses_is_told_and_can_be_put_right(sale: Shop) -> None:
    """A price below Stripe's least amount is only refused when it is to be paid."""
    await put(sale, price=usd("0.10"))
    asked = {"customer_id": "acme", "pack": "starter"}
    refused = await sale.api.post("/v1/payment-intents", asked)
    assert (refused.status, refused.code) == (422, "stripe_refused"), refused
    await put(sale, price=usd("1.00"))
    assert (await sale.api.post("/v1/payment-intents", asked)).status == 201


async def test_packs_are_listed_by_key_page_by_page(sale: Shop) -> None:
    for key in ("c", "B", "a", "d"):
        assert (await put(sale, key, active=False)).status == 201
    first = (await sale.api.get("/v1/packs?limit=3")).body
    assert ([one["key"] for one in first["data"]], first["has_more"]) == (["B", "a", "c"], True)
    rest = (await sale.api.get(f"/v1/packs?limit=3&cursor={first['next_cursor']}")).body
    assert ([one["key"] for one in rest["data"]], rest["has_more"]) == (["d"], False)
    wrong = await sale.api.get(f"/v1/purchases?limit=3&cursor={first['next_cursor']}")
    assert (wrong.status, wrong.code) == (400, "invalid_cursor")


async def test_credits_of_many_packs_stay_below_the_limit_of_amounts(sale: Shop) -> None:
    """2^63 units is the most that there is: a thousand of a huge pack is refused, not an error."""
    await put(sale, credits="9000000000", price=usd("1.00"))
    refused = await sale.api.post("/v1/checkout", sale.asked(quantity=1000))
    assert (refused.status, refused.code) == (422, "amount_out_of_range"), refused
    assert await sale.state("checkout.session") == []
    dear = await sale.pack("dear", price=usd("900000.00"))
    assert dear["version"] == 1
    refused = await sale.api.post("/v1/checkout", sale.asked(pack="dear", quantity=2))
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, "/quantity")


async def test_putting_a_pack_needs_its_scope_and_two_at_once_make_one_version(sale: Shop) -> None:
    reader = await sale.api.key("catalog:read")
    assert (await reader.put("/v1/packs/starter", PACK)).status == 403
    answers = await asyncio.gather(*(put(sale) for _ in range(10)))
    assert sorted(one.status for one in answers) == [200] * 9 + [201]
    assert {one.body["version"] for one in answers} == {1}
    assert await prices(sale) == [("usd", 1000)]
