"""Prices for tests through HTTP: meters, rate cards, usage."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.http import Answer, Api, Running


async def make_meter(
    api: Api,
    key: str,
    *,
    aggregation: str = "sum",
    group_by: Sequence[str] = ("model",),
    charge: str = "calls",
) -> None:
    """A meter of the type of event of its own name, grouped by members of the same name."""
    body: dict[str, Any] = {
        "event_type": key,
        "aggregation": aggregation,
        "group_by": {name: name for name in group_by},
        "charge": charge,
    }
    if aggregation != "count":
        body["value_property"] = "quantity"
    answer = await api.put(f"/v1/meters/{key}", body)
    assert answer.status in (200, 201), answer


async def furnish_prices(running: Running) -> None:
    """What the reference's examples of prices need: their meters, and a card `default`."""
    for key in ("llm_input_tokens", "llm_output_tokens"):
        await make_meter(running.api, key)
    rates = [
        {"meter": "llm_input_tokens", "unit_price": "1", "per": 1_000_000},
        {"meter": "llm_output_tokens", "unit_price": "4", "per": 1_000_000},
    ]
    await publish(running.api, rates)


async def publish(api: Api, rates: Sequence[Any], **card: Any) -> Any:
    """Publish rates, of the card `default` if it has no other `key`."""
    answer = await api.post("/v1/rate-cards", {"key": "default", "rates": rates, **card})
    assert answer.status == 201, answer
    return answer.body


def use(meter: str, quantity: int | str, **dimensions: Any) -> dict[str, Any]:
    """An item of `usage[]`."""
    item: dict[str, Any] = {"meter": meter, "quantity": quantity}
    return {**item, "dimensions": dimensions} if dimensions else item


async def consume(
    api: Api, *usage: Mapping[str, Any], customer_id: str = "acme", **body: Any
) -> Answer:
    """Consume usage, whatever comes of it."""
    return await api.post("/v1/consume", {"customer_id": customer_id, "usage": list(usage), **body})
