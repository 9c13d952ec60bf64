"""Usage that a plan bills: counted here, told to Stripe in pieces, and billed there."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sql.pool import Pool
from tests import metering
from tests.metering import event, send
from tests.shop import Shop, shop

HOUR = timedelta(hours=1)
METERED: list[dict[str, Any]] = [
    {"meter": "calls", "event_name": "api_calls", "unit_price": "0.002"}
]
OVERAGE: dict[str, Any] = {
    "policy": "bill",
    "event_name": "extra_credits",
    "unit_price": "0.01",
    "report_unit": "10",
}


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool, has_one_clock=True) as made:
        await metering.meter(made.api, "calls")
        yield made


async def reports(sale: Shop, query: str = "") -> list[Any]:
    """The pieces, the first window first."""
    answer = await sale.api.get(f"/v1/usage-reports?limit=100{query}")
    assert answer.status == 200, answer
    return answer.body["data"][::-1]


async def total(sale: Shop, event_name: str) -> Any:
    """What Stripe has counted of the only customer."""
    [customer] = await sale.state("customer")
    answer = await sale.look(f"meters/{event_name}/total?customer={customer['id']}")
    return answer["total"]


async def test_metered_usage_is_told_once_its_hour_is_over_and_billed(sale: Shop) -> None:
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, *(event(f"e{n}") for n in range(3)))
    await sale.job("report_usage")
    assert await reports(sale) == []
    await sale.sleep(2 * HOUR)
    counts = await sale.job("report_usage")
    assert (counts["pieces"], counts["told"]) == (1, 1)
    [piece] = await reports(sale)
    assert (piece["value"], piece["status"], piece["meter"]) == ("3", "sent", "calls")
    assert await total(sale, "api_calls") == "3"
    assert (await sale.job("report_usage"))["pieces"] == 0
    await sale.sleep(timedelta(minutes=10))
    assert (await sale.job("confirm_usage"))["confirmed"] == 1
    await sale.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
    [first, second] = sorted(await sale.state("invoice"), key=lambda one: one["created"])
    assert second["total"] == first["total"] + 1  # 3 × 0.2 cents, rounded
    await sale.job("confirm_usage")
    [piece] = await reports(sale)
    assert (piece["status"], piece["invoice_id"]) == ("billed", second["id"])
