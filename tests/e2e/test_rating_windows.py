"""Windows that are priced once, after they have closed; what comes late moves the difference."""

from collections.abc import AsyncGenerator
from datetime import datetime, timedelta

import pytest

from sql.pool import Pool
from tests.http import Api, serving, set_clock, wire_time
from tests.prices import make_meter, publish

DAY = timedelta(days=1)
START = datetime.fromisoformat("2030-05-02T06:00:00+00:00")
RATE = {"meter": "seats", "unit_price": "1", "accumulate": "day"}
METERS = {"max": "30", "min": "10", "avg": "20", "latest": "20", "unique": "3"}
"""What each comes to of 10, 30 and 20, in that order."""


@pytest.fixture
async def api(pool: Pool) -> AsyncGenerator[Api]:
    """A sandbox in May 2030; `acme` has 1,000."""
    await set_clock(pool, START - DAY)
    async with serving(pool) as running:
        await running.api.customer("acme")
        await running.api.grant("1000")
        yield running.api


async def priced(api: Api, aggregation: str) -> None:
    """A meter that prices a day by its value, grouped by model."""
    await make_meter(api, "seats", aggregation=aggregation, charge="events")
    await publish(api, [RATE])
    await api.clock(START)  # a day that begins under this price


async def send(api: Api, id_: str, quantity: int, at: datetime, model: str = "a") -> None:
    body = {
        **{"id": id_, "source": "app", "subject": "acme", "type": "seats"},
        "time": wire_time(at),
        "data": {"quantity": quantity, "model": model},
    }
    answer = await api.post("/v1/events", body, key=None)
    assert answer.status in (200, 202), answer


async def rate(api: Api) -> dict[str, int]:
    ran = await api.post("/v1/jobs/rate_usage/run", key=None)
    assert (ran.status, ran.body["error"]) == (200, None), ran
    return ran.body["counts"]


async def left(api: Api) -> str:
    return (await api.posted())[0]


@pytest.mark.parametrize("aggregation", METERS)
async def test_day_is_priced_once_after_it_has_closed(api: Api, aggregation: str) -> None:
    await priced(api, aggregation)
    for number, quantity in enumerate((10, 30, 20)):
        await send(api, f"e{number}", quantity, START + timedelta(minutes=number))
    await rate(api)
    assert await left(api) == "1000", "the day is not over"
    await api.clock(START.replace(hour=0) + DAY + timedelta(minutes=4))
    await rate(api)
    assert await left(api) == "1000", "events may still be late"
    await api.clock(START.replace(hour=0) + DAY + timedelta(minutes=6))
    await rate(api)
    assert await left(api) == str(1000 - int(METERS[aggregation]))
    assert (await rate(api))["windows"] == 0
    assert await left(api) == str(1000 - int(METERS[aggregation]))


async def test_each_group_of_a_window_has_its_own_line(api: Api) -> None:
    await priced(api, "max")
    await send(api, "e1", 10, START, "a")
    await send(api, "e2", 4, START, "a")
    await send(api, "e3", 7, START, "b")
    await api.clock(START + DAY)
    await rate(api)
    assert await left(api) == "983"


async def test_late_event_and_correction_move_the_difference(api: Api) -> None:
    await priced(api, "max")
    await send(api, "e1", 10, START)
    await api.clock(START + DAY)
    await rate(api)
    assert await left(api) == "990"
    await send(api, "late", 25, START + timedelta(hours=1))
    await api.clock(START + DAY + timedelta(minutes=10))
    await rate(api)
    assert await left(api) == "975"
    for id_, correction in (("late", "c1"), ("e1", "c2")):
        body = {
            **{"customer_id": "acme", "source": "app", "id": id_},
            **{"correction_id": correction, "action": "cancel"},
        }
        answer = await api.post("/v1/events/correct", body, key=None)
        assert answer.status == 201, answer
        await api.clock(await api.now() + timedelta(minutes=10))
        await rate(api)
    assert await left(api) == "1000", "nothing of the day is left"


async def test_windows_are_days_of_the_customers_zone(api: Api) -> None:
    await priced(api, "max")
    await api.customer("acme", time_zone="Asia/Tokyo")
    await send(api, "e1", 10, START)  # 15:00 in Tokyo
    await api.clock(datetime.fromisoformat("2030-05-02T15:06:00+00:00"))
    await rate(api)
    assert await left(api) == "990"


async def test_window_stays_with_the_card_that_priced_it(api: Api) -> None:
    await priced(api, "max")
    await api.post("/v1/rate-cards", {"key": "vip", "rates": [RATE]})
    await send(api, "e1", 10, START)
    await api.clock(START + DAY)
    await rate(api)
    await api.customer("acme", rate_card="vip")
    await send(api, "late", 12, START + timedelta(hours=1))
    await api.clock(START + DAY + timedelta(minutes=10))
    await rate(api)
    assert await left(api) == "988", "the difference, not the whole day again"
