"""Packs: made with their prices at Stripe, bought, credited once."""

from collections.abc import AsyncGenerator

import pytest

from sql.pool import Pool
from tests.shop import Shop, shop


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        yield made


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
