"""Checkout: one purchase and one session for each request, whatever is lost on the way."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest
import stripe

from sql.pool import Pool
from tests.http import Answer
from tests.shop import PAGES, Shop, shop

ASKED: dict[str, Any] = {"customer_id": "acme", "pack": "starter", **PAGES}


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        await made.pack()
        yield made


async def ask(sale: Shop, key: str, **members: Any) -> Answer:
    return await sale.api.post("/v1/checkout", {**ASKED, **members}, key=key)


async def sessions(sale: Shop) -> list[Any]:
    return await sale.state("checkout.session")


async def status_of(sale: Shop, opened: Any) -> str:
    return (await sale.purchase(opened))["status"]


async def test_same_key_at_once_is_one_purchase_and_one_page(sale: Shop) -> None:
    answers = await asyncio.gather(*(ask(sale, "k1") for _ in range(10)))
    good = [one for one in answers if one.status == 201]
    busy = [one for one in answers if one.status == 409]
    assert len(good) + len(busy) == 10, answers
    assert {one.code for one in busy} <= {"request_in_progress"}
    assert len({one.raw for one in good}) == 1
    assert len(await sessions(sale)) == 1
    other = await ask(sale, "k1", quantity=2)
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    again = await ask(sale, "k1")
    assert (again.body, again.is_replayed) == (good[0].body, True)


@pytest.mark.parametrize("fault", ["429", "500_before", "500_after", "reset_before", "reset_after"])
async def test_lost_answers_of_stripe_cost_one_page(sale: Shop, fault: str) -> None:
    path = "/v1/checkout/sessions"
    await sale.control("faults", method="POST", path=path, kind=fault, count=3)
    first = await ask(sale, "k1")
    if first.status != 201:
        assert (first.status, first.code) == (503, "stripe_unavailable"), first
        assert first.headers["retry-after"]
        [purchase] = (await sale.api.get("/v1/purchases?customer_id=acme")).body["data"]
        assert purchase["status"] == "open", "it is ours, and kept"
    for _ in range(4):
        first = await ask(sale, "k1")
    assert first.status == 201, first
    assert len(await sessions(sale)) == 1
    await sale.pay(first.body)
    await sale.apply()
    assert await sale.api.posted() == ("1000", "0", "1000")


async def test_page_of_unknown_outcome_is_looked_for_after_a_day(pool: Pool) -> None:
    async with shop(pool, has_one_clock=True) as sale:
        await sale.pack()
        path = "/v1/checkout/sessions"
        await sale.control("faults", method="POST", path=path, kind="reset_after", count=3)
        lost = await ask(sale, "k1")
        assert (lost.status, lost.code) == (503, "stripe_unavailable")
        [made] = await sessions(sale)
        await sale.api.clock(await sale.api.now() + timedelta(hours=23, minutes=30))
        found = await ask(sale, "k1")
        assert found.body["id"] == made["id"]
        assert len(await sessions(sale)) == 1


async def test_unpaid_failed_and_expired_give_nothing(sale: Shop) -> None:
    paths = {"succeeded": "credited", "failed": "failed"}
    for outcome, status in paths.items():
        opened = await sale.checkout()
        await sale.pay(opened, payment_method="pm_usBankAccount_success", delayed=True)
        await sale.apply()
        assert await status_of(sale, opened) == "open", "a bank debit takes days"
        await sale.control(f"checkout/{opened['id']}/settle", outcome=outcome)
        await sale.apply()
        assert await status_of(sale, opened) == status
    expired = await sale.checkout()
    await sale.control(f"checkout/{expired['id']}/expire")
    await sale.apply()
    assert await status_of(sale, expired) == "failed"
    assert await sale.api.posted() == ("1000", "0", "1000")


async def test_quantity_bonus_and_end_of_a_pack(sale: Shop) -> None:
    await sale.pack("big", expires_in=86_400, bonus={"credits": "50", "expires_in": 3_600})
    bought = await sale.buy(pack="big", quantity=3)
    assert (bought["credits"], bought["bonus"], bought["captured"]) == ("3000", "150", "30")
    paid, bonus = bought["lots"]
    assert (paid["category"], bonus["category"]) == ("paid", "promotional")
    assert paid["expires_at"] > bonus["expires_at"]


async def test_currency_of_the_customer_counts_where_the_pack_has_it(sale: Shop) -> None:
    await sale.pack(
        prices=[{"amount": "1500", "currency": "JPY"}, {"amount": "3.500", "currency": "KWD"}]
    )
    for customer, currency, price in (
        ("yuki", "JPY", "1500"),
        ("noor", "KWD", "3.5"),
        ("emma", "EUR", "10"),
    ):
        await sale.api.customer(customer, currency=currency)
        bought = await sale.buy(customer)
        assert bought["captured"] == price, customer
    assert (await sale.buy("emma"))["currency"] == "USD", "the pack's first"


async def test_what_can_not_be_sold_is_refused_and_makes_nothing(sale: Shop) -> None:
    await sale.pack("old", active=False)
    await sale.api.customer("gone")
    closed = await sale.api.post("/v1/customers/gone/close")
    assert closed.status == 200, closed
    for members, status, code in (
        ({"pack": "none"}, 404, "pack_not_found"),
        ({"pack": "old"}, 404, "pack_not_found"),
        ({"customer_id": "nobody"}, 404, "customer_not_found"),
        ({"customer_id": "gone"}, 409, "customer_closed"),
        ({"quantity": 0}, 422, "invalid_value"),
        ({"success_url": "http://app.example/ok"}, 422, "invalid_value"),
        ({"amount": "0.01"}, 422, "unknown_member"),
    ):
        answer = await ask(sale, f"k-{code}-{status}", **members)
        assert (answer.status, answer.code) == (status, code), members
    assert await sessions(sale) == []
    assert (await sale.api.get("/v1/purchases")).body["data"] == []


async def test_card_of_the_elements_is_declined_and_then_paid(sale: Shop) -> None:
    made = await sale.api.post("/v1/payment-intents", {"customer_id": "acme", "pack": "starter"})
    assert made.status == 201, made
    assert made.body["publishable_key"] == sale.standin.publishable_key
    path = f"payment-intents/{made.body['id']}/confirm"
    assert await sale.declined(path, payment_method="pm_card_chargeDeclined") == "card_declined"
    await sale.apply()
    assert await status_of(sale, made.body) == "open"
    await sale.control(path, payment_method="pm_card_visa")
    await sale.apply()
    assert await status_of(sale, made.body) == "credited"


async def test_objects_that_are_not_ours_are_never_credited(sale: Shop, pool: Pool) -> None:
    url = sale.standin.url
    client = stripe.StripeClient(
        sale.standin.secret_key,
        http_client=stripe.AIOHTTPClient(session=sale.web),
        base_addresses={"api": url, "files": url, "connect": url, "meter_events": url},
    )
    opened = await sale.checkout()
    ours = sale.running.service.installation_id
    marks: list[dict[str, str]] = [
        {},
        {"purchase_id": opened["purchase_id"]},
        {"purchase_id": opened["purchase_id"], "drawdown": "another"},
        {"purchase_id": opened["purchase_id"], "drawdown": ours, "drawdown_call": "session-x"},
        {"purchase_id": "pur_1", "drawdown": ours},
    ]
    for metadata in marks:
        intent: Any = await client.v1.payment_intents.create_async(
            {
                "amount": 1000,
                "currency": "usd",
                "payment_method": "pm_card_visa",
                "confirm": True,
                "return_url": "https://app.example",
                "metadata": metadata,
            }
        )
        assert intent.status == "succeeded"
    await sale.control("webhooks/release")  # answers after deliveries were tried
    counts = await sale.apply()
    assert (counts["foreign"], counts["applied"]) == (len(marks), 0)
    assert await status_of(sale, opened) == "open"
    assert await sale.api.posted() == ("0", "0", "0")


async def test_coupon_of_all_makes_paid_credit_that_cost_nothing(sale: Shop) -> None:
    url = sale.standin.url
    client = stripe.StripeClient(
        sale.standin.secret_key,
        http_client=stripe.AIOHTTPClient(session=sale.web),
        base_addresses={"api": url, "files": url, "connect": url, "meter_events": url},
    )
    for percent, paid in ((100, "0"), (25, "7.5")):
        coupon: Any = await client.v1.coupons.create_async({"percent_off": percent})
        code: Any = await client.v1.promotion_codes.create_async(
            {"promotion": {"type": "coupon", "coupon": coupon.id}, "code": f"OFF{percent}"}
        )
        opened = await sale.checkout(allow_promotion_codes=True)
        await sale.pay(opened, promotion_code=code.code)
        await sale.apply()
        bought = await sale.purchase(opened)
        assert (bought["status"], bought["captured"]) == ("credited", paid), percent
        assert bought["lots"][0]["category"] == "paid"
    assert await sale.api.posted() == ("2000", "0", "2000")


async def test_books_go_on_while_stripe_is_away(sale: Shop) -> None:
    await sale.buy()
    for method in ("GET", "POST"):
        await sale.control("faults", method=method, path="/v1/*", kind="500_before", count=500)
    away = await ask(sale, "k1")
    assert (away.status, away.code) == (503, "stripe_unavailable")
    assert (await sale.api.consume("10"))["amount"] == "10"
    async with sale.web.delete(
        f"{sale.standin.url}/_sandbox/faults",
        headers={"Authorization": f"Bearer {sale.standin.token}"},
    ) as answer:
        assert answer.status == 200
    assert (await ask(sale, "k1")).status == 201
