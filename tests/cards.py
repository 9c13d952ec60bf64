"""The words of saved cards, and of automatic top-up."""

from typing import Any

from tests.shop import Shop

PLACE = "/v1/customers/acme/auto-top-up"
CARDS = "/v1/customers/acme/payment-methods"


async def save(sale: Shop, card: str = "pm_card_visa", customer_id: str = "acme") -> Any:
    """A card, saved in a page of the caller's; the list of acme's cards."""
    opened = await sale.api.post("/v1/setup", {"customer_id": customer_id, "mode": "elements"})
    assert opened.status == 201, opened
    name = opened.body["id"]
    tried = await sale.control(f"setup-intents/{name}/confirm", payment_method=card)
    if tried["status"] == "requires_action":
        await sale.control(f"setup-intents/{name}/authenticate", outcome="succeeded")
    await sale.apply()
    return await cards(sale)


async def cards(sale: Shop) -> Any:
    answer = await sale.api.get(CARDS)
    assert answer.status == 200, answer
    return answer.body["data"]


async def top_up(sale: Shop, **members: Any) -> Any:
    body = {"enabled": True, "threshold": "500", "pack": "starter", **members}
    answer = await sale.api.put(PLACE, body)
    assert answer.status == 200, answer
    return answer.body


async def state(sale: Shop) -> Any:
    return (await sale.api.get(PLACE)).body


async def run(sale: Shop) -> dict[str, int]:
    """The job, what Stripe tells of it, and the job again."""
    counts = await sale.job("auto_top_up")
    await sale.events()  # answers when the deliveries are through
    await sale.apply()
    after = await sale.job("auto_top_up")
    return {name: counts[name] + after[name] for name in ("started", "paid", "declined")}


async def charges(sale: Shop) -> list[int]:
    """The money of every intent that was paid at Stripe."""
    found = await sale.state("payment_intent")
    return [one["amount"] for one in found if one["status"] == "succeeded"]
