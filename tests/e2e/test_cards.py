"""Saved cards, and automatic top-up by them."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest

from sql.pool import Pool
from tests.cards import CARDS, PLACE, cards, charges, run, save, state, top_up
from tests.shop import PAGES, START, Shop, shop


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool, has_one_clock=True) as made:
        await made.pack()
        yield made


async def test_card_is_saved_in_a_page_of_yours(sale: Shop) -> None:
    body = {"customer_id": "acme", "mode": "elements"}
    made = [await sale.api.post("/v1/setup", body, key="setup-1") for _ in range(2)]
    assert made[0].body == made[1].body
    assert made[0].body["client_secret"].startswith(made[0].body["id"])
    assert made[0].body["publishable_key"].startswith("pk_test_")
    await sale.control(f"setup-intents/{made[0].body['id']}/confirm", payment_method="pm_card_visa")
    [card] = await cards(sale)
    assert (card["brand"], card["last4"], card["default"]) == ("visa", "4242", False)
    assert "fingerprint" not in card


async def test_card_is_saved_on_stripes_page(sale: Shop) -> None:
    opened = await sale.api.post("/v1/setup", {"customer_id": "acme", "mode": "hosted", **PAGES})
    assert opened.status == 201, opened
    assert opened.body["url"].startswith("http")
    await sale.pay(opened.body)
    await sale.apply()
    [card] = await cards(sale)
    assert card["last4"] == "4242"
    assert (await sale.api.get("/v1/purchases")).body["data"] == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"mode": "hosted"}, "/success_url"),
        ({"mode": "hosted", **PAGES, "cancel_url": "http://elsewhere"}, "/cancel_url"),
        ({"mode": "phone"}, "/mode"),
    ],
)
async def test_setup_that_makes_no_sense_is_refused(
    sale: Shop, body: dict[str, Any], pointer: str
) -> None:
    refused = await sale.api.post("/v1/setup", {"customer_id": "acme", **body})
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, pointer)
    assert await sale.state("setup_intent") == []


async def test_default_card_and_forgetting_one(sale: Shop) -> None:
    await save(sale)
    found = await save(sale, "pm_card_mastercard")
    [master, visa] = [one["id"] for one in sorted(found, key=lambda one: one["brand"])]
    changed = await sale.api.post(f"{CARDS}/{visa}/default", None, key=None)
    assert [(one["id"], one["default"]) for one in changed.body["data"]] == [
        (visa, True),
        (master, False),
    ]
    left = await sale.api.delete(f"{CARDS}/{visa}")
    assert [one["id"] for one in left.body["data"]] == [master]
    gone = await sale.api.delete(f"{CARDS}/{visa}")
    assert (gone.status, gone.code) == (404, "payment_method_not_found")


async def test_card_of_another_customer_is_out_of_reach(sale: Shop) -> None:
    [card] = await save(sale)
    await sale.api.customer("bolt")
    await sale.api.post("/v1/setup", {"customer_id": "bolt", "mode": "elements"})
    for answer in (
        await sale.api.post(f"/v1/customers/bolt/payment-methods/{card['id']}/default", None),
        await sale.api.delete(f"/v1/customers/bolt/payment-methods/{card['id']}"),
        await sale.api.delete(f"{CARDS}/pm_none"),
    ):
        assert (answer.status, answer.code) == (404, "payment_method_not_found")
    theirs = await sale.api.key("billing:read", "billing:write", customer_id="bolt")
    assert (await theirs.get(CARDS)).status == 404
    assert (await theirs.put(PLACE, {"enabled": True, "threshold": "1", "pack": "x"})).status == 404
    assert len(await cards(sale)) == 1


async def test_many_spends_at_once_buy_once(sale: Shop) -> None:
    """B-04."""
    await save(sale)
    await sale.api.grant("510")
    await top_up(sale)
    assert (await run(sale))["started"] == 0
    await asyncio.gather(*(sale.api.consume("5") for _ in range(20)))
    ran = await asyncio.gather(
        *(sale.api.post("/v1/jobs/auto_top_up/run", key=None) for _ in range(3))
    )
    assert {one.status for one in ran} <= {200, 409}
    assert (await state(sale))["state"] == "in_flight"
    await run(sale)
    assert await charges(sale) == [1000]
    assert await sale.api.posted() == ("1410", "0", "1410")
    assert (await state(sale))["state"] == "ready"
    [bought] = (await sale.api.get("/v1/purchases")).body["data"]
    assert (bought["status"], bought["captured"]) == ("credited", "10")


async def test_one_charge_covers_the_debt_in_whole_packs(sale: Shop) -> None:
    """B-04."""
    await save(sale)
    await sale.api.put("/v1/customers/acme", {"overage": {"policy": "owe", "limit": "5000"}})
    await sale.api.consume("2300")
    await top_up(sale, threshold="0")
    await run(sale)
    assert await charges(sale) == [3000]
    assert await sale.api.posted() == ("700", "0", "700")


async def test_target_and_caps_bound_what_is_bought(sale: Shop) -> None:
    await save(sale)
    caps = {"count_day": 2, "amount_month": "65.00"}
    shown = await top_up(sale, target="4000", caps=caps)
    assert (shown["target"], shown["caps"]) == ("4000", {"count_day": 2, "amount_month": "65"})
    await run(sale)
    assert await sale.api.posted() == ("4000", "0", "4000")
    await sale.api.consume("3900")
    await run(sale)  # money for two packs of four is left
    assert await sale.api.posted() == ("2100", "0", "2100")
    await sale.api.consume("2000")
    await run(sale)  # two a day
    await sale.walk(START + timedelta(days=1))
    await run(sale)  # no money this month
    assert await charges(sale) == [4000, 2000]
    await sale.walk(START + timedelta(days=32))
    await run(sale)
    assert sorted(await charges(sale)) == [2000, 4000, 4000]


async def test_declined_card_is_left_alone_until_there_is_another(sale: Shop) -> None:
    """B-04."""
    await save(sale, "pm_card_chargeCustomerFail")
    await top_up(sale)
    assert await run(sale) == {"started": 1, "paid": 0, "declined": 0}
    shown = await state(sale)
    assert (shown["state"], shown["declines"]) == ("backoff", 1)
    assert shown["retry_at"] is not None
    assert (await run(sale))["started"] == 0
    for hours in (1, 24):
        now = await sale.api.now()
        await sale.walk(now + timedelta(hours=hours, minutes=1))
        await run(sale)
    shown = await state(sale)
    assert (shown["state"], shown["declines"]) == ("suspended", 3)
    assert (await sale.api.get("/v1/customers/acme")).body["top_up_trouble"] == "declined"
    await sale.walk(await sale.api.now() + timedelta(days=90))
    await top_up(sale)
    await run(sale)
    assert (await state(sale))["state"] == "suspended"
    tried = await sale.state("payment_intent")
    assert [one["status"] for one in tried] == ["canceled"] * 3
    purchases = (await sale.api.get("/v1/purchases")).body["data"]
    assert [one["status"] for one in purchases] == ["failed"] * 3
    await sale.give_card()
    await sale.apply()
    assert (await state(sale))["state"] == "ready"
    await run(sale)
    assert await sale.api.posted() == ("1000", "0", "1000")


async def test_bank_that_asks_the_customer_is_said(sale: Shop) -> None:
    await save(sale, "pm_card_authenticationRequiredAlways")
    await top_up(sale)
    await run(sale)
    assert (await state(sale))["state"] == "needs_authentication"
    assert (await sale.api.get("/v1/customers/acme")).body["top_up_trouble"] == "authentication"
    assert [one["status"] for one in await sale.state("payment_intent")] == ["canceled"]
    assert (await run(sale))["started"] == 0
    await sale.give_card()
    await sale.apply()
    await run(sale)
    assert await sale.api.posted() == ("1000", "0", "1000")


async def test_without_a_card_it_waits_for_one(sale: Shop) -> None:
    await top_up(sale)
    assert (await run(sale))["started"] == 0
    shown = await state(sale)
    assert shown["state"] == "suspended"
    assert "/v1/setup" in shown["reason"]
    assert (await sale.api.get("/v1/purchases")).body["data"] == []
    await save(sale)
    await run(sale)
    assert await sale.api.posted() == ("1000", "0", "1000")


@pytest.mark.parametrize(("outcome", "posted"), [("succeeded", "1000"), ("failed", "0")])
async def test_slow_payment_stays_the_only_one(sale: Shop, outcome: str, posted: str) -> None:
    await save(sale, "pm_usBankAccount_success")
    await top_up(sale)
    await run(sale)
    await run(sale)
    shown = await state(sale)
    assert (shown["state"], len(await sale.state("payment_intent"))) == ("in_flight", 1)
    [intent] = await sale.state("payment_intent")
    assert intent["status"] == "processing"
    await sale.control(f"payment-intents/{intent['id']}/settle", outcome=outcome)
    await sale.sleep(timedelta(hours=1))
    await run(sale)
    assert (await sale.api.posted())[0] == posted
    assert (await state(sale))["state"] == ("ready" if posted == "1000" else "backoff")


@pytest.mark.parametrize("kind", ["429", "reset_before", "reset_after", "500_before", "500_after"])
async def test_answer_that_was_lost_charges_once(sale: Shop, kind: str) -> None:
    await save(sale)
    await top_up(sale)
    order = {"method": "POST", "path": "/v1/payment_intents", "kind": kind, "count": 3}
    await sale.control("faults", **order)
    for _ in range(3):
        await run(sale)
    assert await charges(sale) == [1000]
    assert await sale.api.posted() == ("1000", "0", "1000")
    assert (await state(sale))["state"] == "ready"


async def test_refund_of_a_top_up_is_found_by_its_intent(sale: Shop) -> None:
    """B-47."""
    await save(sale)
    await top_up(sale)
    await run(sale)
    await sale.api.put(PLACE, {"enabled": False, "threshold": "500", "pack": "starter"})
    [intent] = await sale.state("payment_intent")
    await sale.control("refunds", payment_intent=intent["id"], amount=400)
    await sale.apply()
    assert await sale.api.posted() == ("600", "0", "600")
    assert (await state(sale))["state"] == "off"


@pytest.mark.parametrize(
    ("members", "status", "code"),
    [
        ({"pack": "none"}, 404, "pack_not_found"),
        ({"target": "500"}, 422, "invalid_value"),
        ({"threshold": "-1"}, 422, "invalid_amount"),
        ({"threshold": 5}, 422, "invalid_value"),
        ({"caps": {"count_day": 0}}, 422, "invalid_value"),
        ({"caps": {"amount_month": "1.001"}}, 422, "amount_out_of_range"),
        ({"caps": {"weekly": 1}}, 422, "unknown_member"),
    ],
)
async def test_top_up_that_makes_no_sense_is_refused(
    sale: Shop, members: dict[str, Any], status: int, code: str
) -> None:
    body = {"enabled": True, "threshold": "500", "pack": "starter", **members}
    refused = await sale.api.put(PLACE, body)
    assert (refused.status, refused.code) == (status, code)
    assert (await state(sale))["state"] == "off"
