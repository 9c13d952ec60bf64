"""Usage told by Stripe's meter event stream: many pieces a call, faults told later."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest

from sql.pool import Pool
from tests import metering
from tests.http import wire_time
from tests.metering import event, send
from tests.shop import Shop, shop

STREAM = "/v2/billing/meter_event_stream"
METERED: list[dict[str, Any]] = [
    {"meter": "calls", "event_name": "api_calls", "unit_price": "0.002"}
]


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool, has_one_clock=True, usage_stream=True) as made:
        await metering.meter(made.api, "calls")
        await made.plan(metered=METERED)
        await made.subscribe()
        yield made


async def use(sale: Shop, hours: int, name: str = "e") -> None:
    """An event in each of so many hours; then they are over."""
    await sale.sleep(timedelta(hours=hours + 1))
    now = await sale.api.now()
    at = [wire_time(now - timedelta(hours=n + 1)) for n in range(hours)]
    await send(sale.api, *(event(f"{name}{n}", time=time) for n, time in enumerate(at)))
    await sale.sleep(timedelta(hours=2))


async def total(sale: Shop) -> str:
    return (await sale.look("meters/api_calls/total"))["total"]


async def calls(sale: Shop) -> int:
    return len([one for one in await sale.requests() if one["path"] == STREAM])


async def statuses(sale: Shop) -> set[str]:
    found = (await sale.api.get("/v1/usage-reports?limit=100")).body["data"]
    return {one["status"] for one in found}


async def test_hundred_pieces_are_one_call_and_each_is_counted_once(sale: Shop) -> None:
    await use(sale, 120)

    counts = await sale.job("report_usage")

    assert (counts["pieces"], counts["told"], await calls(sale)) == (120, 120, 2)
    assert await total(sale) == "120"
    paths = {one["path"] for one in await sale.requests()}
    assert "/v1/billing/meter_events" not in paths
    await sale.sleep(timedelta(minutes=10))
    for _ in range(2):  # a hundred hours of one customer at a time
        await sale.job("confirm_usage")
    assert await statuses(sale) == {"confirmed"}


@pytest.mark.parametrize("kind", ["reset_after", "500_after", "reset_before", "429"])
async def test_lost_answer_is_told_again_and_counted_once(sale: Shop, kind: str) -> None:
    await use(sale, 3)
    await sale.control("faults", method="POST", path=STREAM, kind=kind, count=6)
    assert (await sale.job("report_usage"))["waiting"] == 3
    assert await statuses(sale) <= {"unknown", "due"}
    await sale.lift_faults()
    await sale.sleep(timedelta(minutes=5))

    assert (await sale.job("report_usage"))["told"] == 3

    assert await total(sale) == "3"
    assert await statuses(sale) == {"sent"}


async def test_session_that_has_ended_is_opened_again(sale: Shop) -> None:
    await use(sale, 1)
    await sale.job("report_usage")
    await use(sale, 2, "later")  # hours later: a session lives for minutes

    assert (await sale.job("report_usage"))["told"] == 2

    assert await total(sale) == "3"
    sessions = [one for one in await sale.requests() if one["path"].endswith("event_session")]
    assert len(sessions) == 2
    ready = await sale.api.get("/readyz")
    assert ready.status == 200, ready


async def test_what_stripe_can_not_count_is_found_and_told_again(sale: Shop) -> None:
    await use(sale, 2)
    code = "meter_event_customer_not_found"
    await sale.control("meters/api_calls/reject", code=code, sampled=False)
    await sale.job("report_usage")
    assert await statuses(sale) == {"sent"}
    lost = 2 - int(await total(sale))
    assert lost == 1

    # Nobody named it: the sums of its hour do.
    await sale.sleep(timedelta(days=3))
    await sale.job("confirm_usage")
    await sale.job("report_usage")

    assert await total(sale) == "2"
