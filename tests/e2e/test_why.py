"""Why something is, or is not, in the books."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from sql.pool import Pool
from tests.http import METER
from tests.shop import Shop, shop

WHY = "/v1/customers/acme/why"


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        await made.pack()
        yield made


async def why(sale: Shop, query: str) -> Any:
    answer = await sale.api.get(f"{WHY}?{query}")
    assert answer.status == 200, answer
    return answer.body


async def test_purchase_is_followed_from_order_to_books(sale: Shop) -> None:
    opened = await sale.checkout()
    asked = f"purchase={opened['purchase_id']}"
    assert "nobody has paid" in (await why(sale, asked))["verdict"]
    await sale.pay(opened)
    found = await why(sale, asked)
    assert "is not applied yet" in found["verdict"]
    await sale.apply()
    found = await why(sale, asked)
    assert found["verdict"].startswith("it was paid and credited")
    kinds = [line.split()[0] for line in found["steps"][1:]]
    assert kinds == sorted(kinds, key=["asked", "told", "fetched", "booked"].index)
    assert set(kinds) == {"asked", "told", "fetched", "booked"}


async def test_event_is_followed_to_its_charge_or_its_stop(sale: Shop) -> None:
    api = sale.api
    meter: dict[str, Any] = {**(METER or {}), "charge": "events"}
    await api.put("/v1/meters/tokens", meter)
    await api.grant("100")
    event = {"source": "app", "type": meter["event_type"], "subject": "acme"}
    data = {"model": "m", "billable": {"input_tokens": 5}}
    await api.post("/v1/events", {**event, "id": "e-1", "data": data}, key=None)
    await api.post("/v1/events", {**event, "id": "e-3", "type": "other"}, key=None)
    found = await why(sale, "event=e-1&source=app")
    assert "the job rate_usage charges it" in found["verdict"]
    await sale.job("rate_usage")
    assert "it has no price" in (await why(sale, "event=e-1&source=app"))["verdict"]
    assert "no meter charges" in (await why(sale, "event=e-3&source=app"))["verdict"]
    gone = await api.get(f"{WHY}?event=e-9&source=app")
    assert (gone.status, gone.code) == (404, "event_not_found")


async def test_without_a_question_it_is_the_latest_purchase(sale: Shop) -> None:
    assert (await why(sale, ""))["steps"] == []
    await sale.checkout()
    opened = await sale.checkout()
    assert (await why(sale, ""))["steps"][0].startswith(opened["purchase_id"])


@pytest.mark.parametrize("query", ["purchase=a&event=b", "event=e-1", "window=now"])
async def test_question_that_says_too_little_is_refused(sale: Shop, query: str) -> None:
    answer = await sale.api.get(f"{WHY}?{query}")
    assert (answer.status, answer.code) == (422, "invalid_query")


async def test_purchase_of_another_customer_is_not_told(sale: Shop) -> None:
    await sale.api.customer("bolt")
    opened = await sale.checkout("bolt")
    gone = await sale.api.get(f"{WHY}?purchase={opened['purchase_id']}")
    assert (gone.status, gone.code) == (404, "purchase_not_found")
    theirs = await sale.api.key("billing:read", customer_id="bolt")
    assert (await theirs.get(f"{WHY}?purchase={opened['purchase_id']}")).status == 404
