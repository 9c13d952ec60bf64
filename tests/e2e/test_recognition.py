"""Recognition through HTTP: what was paid for is earned on the day it was used or ran out."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sql.pool import Pool
from tests.http import Api, serving, set_clock, wire_time

BEGIN = datetime(2030, 1, 5, 12, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@pytest.fixture
async def api(pool: Pool) -> AsyncGenerator[Api]:
    """A sandbox on the 5th of January 2030, with `acme`."""
    await set_clock(pool, BEGIN)
    async with serving(pool) as running:
        await running.api.customer("acme")
        yield running.api


async def sell(api: Api, amount: str, cost: str, currency: str = "USD", **members: Any) -> Any:
    paid = {"category": "paid", "cost": {"amount": cost, "currency": currency}}
    return await api.grant(amount, **paid, **members)


async def recognise(api: Api) -> dict[str, int]:
    ran = await api.post("/v1/jobs/recognise/run", key=None)
    assert (ran.status, ran.body["error"]) == (200, None), ran
    return ran.body["counts"]


async def earned(api: Api) -> list[str]:
    """The journals of recognition, oldest first: `day debit credit amount`."""
    found = await api.get("/v1/journals?customer_id=acme&kind=recognition")
    return [
        f"{j['book_date']} {t['debit']} {t['credit']} {t['amount']}"
        for j in reversed(found.body["data"])
        for t in j["transfers"]
    ]


async def test_month_of_one_lot_is_earned_day_by_day(api: Api) -> None:
    await sell(api, "3", "1", expires_at=wire_time(BEGIN + 20 * DAY))
    await api.consume("1")
    assert await recognise(api) == {"customers": 1, "journals": 1}
    await api.clock(BEGIN + DAY)
    await api.consume("0.5")
    await api.consume("0.5")
    await recognise(api)
    await api.clock(BEGIN + 21 * DAY)
    await recognise(api)
    assert await earned(api) == [
        "2030-01-05 deferred_revenue revenue 0.33",
        "2030-01-06 deferred_revenue revenue 0.34",
        "2030-01-25 deferred_revenue breakage_revenue 0.33",
    ]
    assert await recognise(api) == {"customers": 0, "journals": 0}


async def test_days_that_were_missed_are_earned_as_if_they_had_not_been(api: Api) -> None:
    await sell(api, "3", "1", expires_at=wire_time(BEGIN + 20 * DAY))
    await api.consume("1")
    await api.clock(BEGIN + DAY)
    await api.consume("1")
    await api.clock(BEGIN + 21 * DAY)
    assert await recognise(api) == {"customers": 1, "journals": 3}
    assert await earned(api) == [
        "2030-01-05 deferred_revenue revenue 0.33",
        "2030-01-06 deferred_revenue revenue 0.34",
        "2030-01-25 deferred_revenue breakage_revenue 0.33",
    ]


async def test_promotional_credit_is_never_revenue(api: Api) -> None:
    await api.grant("10")
    await sell(api, "10", "0")
    await api.consume("15")
    assert await recognise(api) == {"customers": 1, "journals": 0}
    assert await earned(api) == []


async def test_reversal_takes_revenue_back_on_its_own_day(api: Api) -> None:
    await sell(api, "10", "10")
    charge = await api.consume("4")
    await recognise(api)
    await api.clock(BEGIN + DAY)
    await api.post(f"/v1/charges/{charge['id']}/reverse", {"amount": "1"})
    await recognise(api)
    assert await earned(api) == [
        "2030-01-05 deferred_revenue revenue 4",
        "2030-01-06 revenue deferred_revenue 1",
    ]


async def test_debt_repaid_is_revenue_of_the_lot_that_paid(api: Api) -> None:
    await api.customer("acme", overage={"policy": "owe", "limit": "100"})
    await api.consume("4")
    await recognise(api)
    assert await earned(api) == []
    await api.clock(BEGIN + DAY)
    await sell(api, "10", "10")
    await recognise(api)
    assert await earned(api) == ["2030-01-06 deferred_revenue revenue 4"]


async def test_late_usage_is_earned_by_its_book_date(api: Api) -> None:
    await sell(api, "10", "10", expires_at=wire_time(BEGIN + DAY))
    await api.clock(BEGIN + 2 * DAY)
    await recognise(api)
    await api.consume("4", effective_at=wire_time(BEGIN + HOUR))
    await recognise(api)
    assert await earned(api) == [
        "2030-01-06 deferred_revenue breakage_revenue 10",
        "2030-01-05 deferred_revenue revenue 4",
        "2030-01-05 breakage_revenue deferred_revenue 4",
    ]


@pytest.mark.parametrize(
    ("money", "account"), [("refunded", "cash"), ("breakage", "breakage_revenue")]
)
async def test_what_returns_to_a_voided_lot_goes_where_the_void_said(
    api: Api, money: str, account: str
) -> None:
    grant = await sell(api, "10", "10")
    charge = await api.consume("3")
    hold = await api.reserve("2")
    await recognise(api)
    await api.post(f"/v1/grants/{grant['id']}/void", {"money": money})
    await api.post(f"/v1/holds/{hold['id']}/void")
    await recognise(api)
    assert (await earned(api))[1:] == [f"2030-01-05 deferred_revenue {account} 2"]
    await api.post(f"/v1/charges/{charge['id']}/reverse", {"amount": "1"})
    await recognise(api)
    assert sorted((await earned(api))[2:]) == [
        f"2030-01-05 deferred_revenue {account} 1",
        "2030-01-05 revenue deferred_revenue 1",
    ]


async def test_each_currency_is_earned_by_itself(api: Api) -> None:
    await sell(api, "10", "1000", "JPY")
    await sell(api, "10", "1.5", "KWD")
    await api.consume("15")
    await recognise(api)
    assert await earned(api) == [
        "2030-01-05 deferred_revenue revenue 1000",
        "2030-01-05 deferred_revenue revenue 0.75",
    ]


async def test_rolled_over_credit_is_earned_in_its_new_lot(api: Api) -> None:
    recurrence = {"interval": "day", "rollover": {"max": "4"}}
    grant = await sell(api, "10", "10", recurrence=recurrence)
    charge = await api.consume("5")
    await api.clock(BEGIN + DAY + HOUR)
    await api.post(f"/v1/grants/{grant['id']}/void", {"money": "refunded"})
    await recognise(api)
    assert await earned(api) == [
        "2030-01-05 deferred_revenue revenue 5",
        "2030-01-06 deferred_revenue breakage_revenue 1",
    ]
    await api.post(f"/v1/charges/{charge['id']}/reverse", {"amount": "1"})
    await recognise(api)
    assert sorted((await earned(api))[2:]) == [
        "2030-01-06 deferred_revenue breakage_revenue 1",
        "2030-01-06 revenue deferred_revenue 1",
    ]
