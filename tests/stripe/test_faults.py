"""Faults on order, and what the library and a repetition make of them."""

import asyncio
from typing import Any

import pytest
import stripe

from tests.stripe.kit import Kit, code_of, headers_of

PATH = "/v1/customers"


async def order(kit: Kit, kind: str, count: int = 1, **more: Any) -> None:
    await kit.do("faults", method="POST", path=PATH, kind=kind, count=count, **more)


async def create(kit: Kit, key: str = "k") -> Any:
    return await kit.v1.customers.create_async({}, {"idempotency_key": key})


async def customers(kit: Kit) -> int:
    return len(await kit.state("customer"))


@pytest.mark.parametrize("retry_after", [None, 7])
async def test_429_with_and_without_retry_after(kit: Kit, retry_after: int | None) -> None:
    await order(kit, "429", **({} if retry_after is None else {"retry_after": retry_after}))
    with pytest.raises(stripe.RateLimitError) as error:
        await create(kit)
    headers = headers_of(error)
    assert headers.get("Retry-After") == (None if retry_after is None else "7")
    assert headers["Stripe-Rate-Limited-Reason"] == "global-rate"
    assert await customers(kit) == 0
    await create(kit)


async def test_lock_timeout_has_no_reason(kit: Kit) -> None:
    await order(kit, "lock_timeout")
    with pytest.raises(stripe.RateLimitError) as error:
        await create(kit)
    assert code_of(error) == "lock_timeout"
    assert "Stripe-Rate-Limited-Reason" not in headers_of(error)


async def test_409_says_the_key_is_in_use(kit: Kit) -> None:
    await order(kit, "409")
    with pytest.raises(stripe.APIError) as error:
        await create(kit)
    assert (error.value.http_status, code_of(error)) == (409, "idempotency_key_in_use")
    assert await customers(kit) == 0


async def test_500_before_acts_on_the_repetition(kit: Kit) -> None:
    await order(kit, "500_before")
    with pytest.raises(stripe.APIError):
        await create(kit)
    assert await customers(kit) == 0
    await create(kit)
    assert await customers(kit) == 1


async def test_500_after_has_acted_and_is_replayed(kit: Kit) -> None:
    await order(kit, "500_after")
    with pytest.raises(stripe.APIError):
        await create(kit)
    with pytest.raises(stripe.APIError) as error:
        await create(kit)
    assert error.value.http_status == 500
    assert headers_of(error)["Idempotent-Replayed"] == "true"
    assert headers_of(error)["Stripe-Should-Retry"] == "false"
    assert await customers(kit) == 1


async def test_reset_before_has_not_acted(kit: Kit) -> None:
    await order(kit, "reset_before")
    with pytest.raises(stripe.APIConnectionError):
        await create(kit)
    assert await customers(kit) == 0


async def test_reset_after_has_acted_and_the_repetition_finds_it(kit: Kit) -> None:
    await order(kit, "reset_after")
    with pytest.raises(stripe.APIConnectionError):
        await create(kit)
    assert await customers(kit) == 1
    made = await create(kit)
    assert made.last_response.headers["Idempotent-Replayed"] == "true"
    assert await customers(kit) == 1


async def test_library_repeats_over_a_reset_with_the_same_key(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(seconds: float) -> None:
        del seconds

    monkeypatch.setattr(kit.http, "sleep_async", at_once)
    await order(kit, "reset_after")
    client = kit.client_of(kit.sandbox.secret_key, retries=2)
    made: Any = await client.v1.customers.create_async({})
    assert [one["id"] for one in await kit.state("customer")] == [made.id]
    rows = (await kit.look("requests?path=/v1/customers"))["data"]
    assert [row["fault"] for row in rows] == ["reset_after", None]
    assert len({row["idempotency_key"] for row in rows}) == 1


async def test_stall_keeps_the_key_in_use_until_the_client_goes(kit: Kit) -> None:
    await order(kit, "stall")
    slow = asyncio.create_task(create(kit))
    while not await customers(kit):
        pass  # asking gives it its turn
    with pytest.raises(stripe.APIError) as error:
        await create(kit)
    assert error.value.http_status == 409
    await kit.ask("DELETE", "faults", {})
    made = await slow
    assert (await create(kit)).id == made.id
    assert await customers(kit) == 1


async def test_client_that_gives_up_finds_its_answer_later(kit: Kit) -> None:
    await order(kit, "stall")
    slow = asyncio.create_task(create(kit))
    while not await customers(kit):
        pass  # asking gives it its turn
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    while True:
        try:
            made = await create(kit)
        except stripe.APIError:
            await asyncio.sleep(0)
        else:
            break
    assert made.last_response.headers["Idempotent-Replayed"] == "true"
    assert await customers(kit) == 1


async def test_skip_count_and_templates(kit: Kit) -> None:
    customer = await kit.customer()
    await kit.do("faults", method="GET", path="/v1/customers/{id}", kind="429", count=2, skip=1)
    outcomes = list[str]()
    for _ in range(4):
        try:
            await kit.v1.customers.retrieve_async(customer.id)
            outcomes.append("ok")
        except stripe.RateLimitError:
            outcomes.append("429")
    assert outcomes == ["ok", "429", "429", "ok"]
    assert (await kit.look("faults"))["faults"] == []


async def test_orders_are_cleared(kit: Kit) -> None:
    await kit.do("faults", method="*", path="/v1/*", kind="500_before", count=100)
    assert (await kit.ask("DELETE", "faults"))[1] == {"faults": []}
    await create(kit)


@pytest.mark.parametrize(
    "body", [{}, {"path": "/x", "kind": "flood"}, {"path": "/x", "kind": "429", "count": 0}]
)
async def test_orders_without_sense_are_refused(kit: Kit, body: Any) -> None:
    status, answer = await kit.ask("POST", "faults", body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
