"""Who a customer is at Stripe: made once, adopted when told, made anew after a deletion."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from sql.pool import Pool
from tests.shop import Shop, shop


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        await made.pack()
        yield made


async def test_first_purchases_at_once_make_one_customer_at_stripe(sale: Shop) -> None:
    await asyncio.gather(*(sale.checkout() for _ in range(8)))
    [made] = await sale.state("customer")
    assert made["metadata"]["user_id"] == "acme"
    shown = (await sale.api.get("/v1/customers/acme")).body
    assert shown["stripe_customer_id"] == made["id"]


async def test_customer_is_adopted_only_by_an_explicit_id(sale: Shop) -> None:
    answer = await sale.api.put("/v1/customers/acme", {"stripe_customer_id": "cus_known"})
    assert answer.body["stripe_customer_id"] == "cus_known"
    taken = await sale.api.put("/v1/customers/bolt", {"stripe_customer_id": "cus_known"})
    assert (taken.status, taken.code) == (409, "stripe_customer_taken")
    wrong = await sale.api.put("/v1/customers/bolt", {"stripe_customer_id": "acct_1"})
    assert wrong.status == 422
    bound = await sale.api.key("customers:write", customer_id="acme")
    refused = await bound.put("/v1/customers/acme", {"stripe_customer_id": "cus_other"})
    assert refused.code == "scope_missing"


async def test_after_a_deletion_at_stripe_the_books_stay_and_a_new_customer_is_made(
    sale: Shop,
) -> None:
    await sale.buy()
    [old] = await sale.state("customer")
    await sale.control(f"customers/{old['id']}/delete")
    await sale.apply()
    shown = (await sale.api.get("/v1/customers/acme")).body
    assert shown["stripe_customer_id"] is None
    assert await sale.api.posted() == ("1000", "0", "1000")
    await sale.buy()
    shown = (await sale.api.get("/v1/customers/acme")).body
    assert shown["stripe_customer_id"] not in {None, old["id"]}
    assert await sale.api.posted() == ("2000", "0", "2000")
