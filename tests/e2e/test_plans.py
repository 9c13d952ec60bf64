"""Plans: subscribed to on Stripe's page, credited by the lines of paid invoices."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import pytest

from sql.pool import Pool
from tests.shop import PAGES, Shop, shop

PRO: dict[str, Any] = {
    "name": "Pro",
    "tier": "pro",
    "price": {"amount": "20.00", "currency": "USD"},
    "interval": "month",
    "credits": "3000",
}


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool, has_one_clock=True) as made:
        answer = await made.api.put("/v1/plans/pro", PRO)
        assert answer.status == 201, answer
        yield made


async def subscribe(sale: Shop, plan: str = "pro", **members: Any) -> Any:
    body = {"customer_id": "acme", "plan": plan, **PAGES, **members}
    answer = await sale.api.post("/v1/checkout", body)
    assert answer.status == 201, answer
    await sale.pay(answer.body)
    await sale.apply()
    return answer.body


async def test_plan_is_credited_when_its_first_invoice_is_paid(sale: Shop) -> None:
    opened = await subscribe(sale)
    bought = await sale.purchase(opened)
    assert (bought["status"], bought["captured"], bought["credits"]) == (
        "credited",
        "20",
        "3000",
    )
    assert await sale.api.posted() == ("3000", "0", "3000")
    shown = (await sale.api.get("/v1/customers/acme")).body
    assert (shown["subscription_status"], shown["plan_tier"]) == ("active", "pro")
    print((await sale.api.get("/v1/customers/acme/subscription")).body)
