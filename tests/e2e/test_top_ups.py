"""Automatic top-up over weeks: what waits costs nothing, and holds nobody else up."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest

from meter import top_ups
from meter.top_ups import TopUp
from sql.pool import Connection, Pool
from tests.cards import CARDS, PLACE, charges, run, save, state, top_up
from tests.shop import Shop, shop


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool, has_one_clock=True) as made:
        await made.pack()
        yield made


async def asked(sale: Shop) -> int:
    """How many requests Stripe has had."""
    return len(await sale.requests())


async def retire(sale: Shop) -> None:
    await sale.pack(active=False)


@pytest.mark.parametrize(
    "caps", [{"count_day": 1}, {"amount_month": "10.00"}, {"amount_month": "15.00"}]
)
async def test_cap_that_is_reached_asks_stripe_nothing(sale: Shop, caps: Any) -> None:
    await save(sale)
    await top_up(sale, caps=caps)
    await run(sale)
    await sale.api.consume("900")
    before = await asked(sale)
    assert (await sale.job("auto_top_up"))["started"] == 0
    assert await asked(sale) == before
    shown = await state(sale)
    assert (shown["state"], shown["retry_at"]) == ("ready", "2030-01-01T13:00:00Z")
    assert "cap" in shown["reason"]
    assert await charges(sale) == [1000]
    await top_up(sale)
    await run(sale)
    assert await charges(sale) == [1000, 1000]


async def test_cap_in_another_currency_is_no_cap_in_this_one(sale: Shop) -> None:
    await sale.pack("both", prices=[{"amount": "1500", "currency": "JPY"}])
    await save(sale)
    shown = await top_up(sale, pack="both", caps={"amount_month": "20.00"})
    assert (shown["currency"], shown["caps"]["amount_month"]) == ("USD", "20")
    await run(sale)
    await sale.api.put("/v1/customers/acme", {"currency": "JPY"})
    await sale.api.consume("1000")
    assert (await run(sale))["started"] == 0
    shown = await state(sale)
    assert (shown["currency"], shown["caps"]["amount_month"]) == ("USD", "20")
    assert "currency" in shown["reason"]
    await top_up(sale, pack="both", caps={"amount_month": "1500"})
    await run(sale)
    assert await charges(sale) == [1000, 1500]
    await sale.api.consume("1000")
    assert (await run(sale))["started"] == 0


async def test_pack_that_is_not_for_sale_is_not_bought_and_can_be_switched_off(sale: Shop) -> None:
    await save(sale)
    await top_up(sale)
    await retire(sale)
    before = await asked(sale)
    assert (await sale.job("auto_top_up"))["started"] == 0
    assert await asked(sale) == before
    again = {"enabled": True, "threshold": "500", "pack": "starter"}
    refused = await sale.api.put(PLACE, again)
    assert (refused.status, refused.code) == (404, "pack_not_found")
    off = await sale.api.put(PLACE, {**again, "enabled": False})
    assert (off.status, off.body["state"]) == (200, "off")
    await sale.pack(active=True)
    assert (await run(sale))["started"] == 0


async def test_customer_that_is_closed_is_not_charged(sale: Shop) -> None:
    await save(sale)
    await top_up(sale)
    closed = await sale.api.post("/v1/customers/acme/close")
    assert closed.status == 200, closed
    before = await asked(sale)
    assert (await sale.job("auto_top_up"))["started"] == 0
    assert await asked(sale) == before
    assert await charges(sale) == []


async def test_those_who_can_buy_nothing_hold_nobody_up(
    sale: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.auto_top_up.ROUNDS_MAX", 1)
    monkeypatch.setattr("jobs.auto_top_up.TOGETHER_MAX", 2)
    await sale.pack("retired")
    for number in range(4):
        name = f"early{number}"
        await sale.api.customer(name)
        body = {"enabled": True, "threshold": "500", "pack": "retired"}
        put = await sale.api.put(f"/v1/customers/{name}/auto-top-up", body)
        assert put.status == 200, put
        await save(sale, customer_id=name)
    await sale.pack("retired", active=False)
    await sale.api.customer("later")
    await save(sale, customer_id="later")
    body = {"enabled": True, "threshold": "500", "pack": "starter"}
    await sale.api.put("/v1/customers/later/auto-top-up", body)
    for _ in range(4):
        await run(sale)
    assert await charges(sale) == [1000]


async def test_card_that_came_while_the_last_try_was_under_way_is_charged(sale: Shop) -> None:
    await save(sale, "pm_card_chargeCustomerFail")
    await top_up(sale)
    for hours in (1, 24):
        await run(sale)
        await sale.sleep(timedelta(hours=hours, minutes=1))
    order = {"method": "POST", "path": "/v1/payment_intents", "kind": "reset_after", "count": 3}
    await sale.control("faults", **order)
    assert (await sale.job("auto_top_up"))["started"] == 1
    await sale.give_card()
    await sale.apply()
    await sale.lift_faults()
    assert (await sale.job("auto_top_up"))["declined"] == 1
    await sale.apply()
    assert (await state(sale))["state"] == "ready"
    await run(sale)
    assert await charges(sale) == [1000]


async def test_card_that_is_saved_again_is_still_the_one_that_was_declined(sale: Shop) -> None:
    [card] = await save(sale, "pm_card_chargeCustomerFail")
    await top_up(sale)
    await run(sale)
    waits = await state(sale)
    assert (waits["state"], waits["declines"]) == ("backoff", 1)
    await sale.api.delete(f"{CARDS}/{card['id']}")
    await sale.sleep(timedelta(hours=2))
    await run(sale)
    assert (await state(sale))["state"] == "suspended"
    await save(sale, "pm_card_chargeCustomerFail")
    shown = await state(sale)
    assert (shown["state"], shown["declines"]) == ("ready", 1)
    await run(sale)
    shown = await state(sale)
    assert (shown["state"], shown["declines"]) == ("backoff", 2)


async def test_fault_of_one_customer_is_not_the_end_of_the_run(
    sale: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(sale)
    await top_up(sale)
    await sale.api.customer("later")
    await save(sale, customer_id="later")
    body = {"enabled": True, "threshold": "500", "pack": "starter"}
    await sale.api.put("/v1/customers/later/auto-top-up", body)
    first = await sale.running.service.pool.fetchval("SELECT min(customer_no) FROM auto_top_ups")
    read = top_ups.read

    async def broken(conn: Connection, customer_no: int) -> TopUp | None:
        if customer_no == first:
            raise RuntimeError("injected")
        return await read(conn, customer_no)

    monkeypatch.setattr("jobs.auto_top_up.top_ups.read", broken)
    counts = await sale.job("auto_top_up")
    assert (counts["failed"], counts["started"]) == (1, 1)
    assert await charges(sale) == [1000]


async def test_bank_debit_is_looked_at_seldom(sale: Shop) -> None:
    await save(sale, "pm_usBankAccount_success")
    await top_up(sale)
    await run(sale)
    await sale.sleep(timedelta(days=1))
    await run(sale)
    before = await asked(sale)
    for _ in range(5):
        await sale.sleep(timedelta(minutes=1))
        await sale.job("auto_top_up")
    assert await asked(sale) == before
    assert (await state(sale))["state"] == "in_flight"
