"""Checkout: one purchase and one session for each request, whatever is lost on the way."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest
import stripe

from jobs import stripe_gateway
from sql.pool import Pool
from tests.http import Answer
from tests.shop import PACK, PAGES, Shop, shop

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
    answers = await asyncio.gather(*(ask(sale, "k1") for _ in range(20)))
    assert {one.status for one in answers} == {201}, answers
    assert len({one.raw for one in answers}) == 1
    assert len(await sessions(sale)) == 1
    assert len((await sale.api.get("/v1/purchases")).body["data"]) == 1
    other = await ask(sale, "k1", quantity=2)
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    again = await ask(sale, "k1")
    assert (again.body, again.is_replayed) == (answers[0].body, True)


async def test_key_of_another_customer_is_another_purchase(sale: Shop) -> None:
    await sale.api.customer("other")
    first, second = await ask(sale, "k1"), await ask(sale, "k1", customer_id="other")
    assert first.body["purchase_id"] != second.body["purchase_id"]
    assert not second.is_replayed


@pytest.mark.parametrize("fault", [None, "429", "500_after", "reset_after", "lock_timeout", "409"])
async def test_first_checkouts_at_once_make_one_customer(sale: Shop, fault: str | None) -> None:
    if fault is not None:
        await sale.control("faults", method="POST", path="/v1/customers", kind=fault)
    answers = await asyncio.gather(*(ask(sale, f"k{n}") for n in range(20)))
    for number, one in enumerate(answers):
        if one.status != 201:
            assert one.code == "stripe_unavailable", one
            assert (await ask(sale, f"k{number}")).status == 201
    [customer] = await sale.state("customer")
    assert customer["metadata"]["user_id"] == "acme"
    made = await sessions(sale)
    assert (len(made), {one["customer"] for one in made}) == (20, {customer["id"]})


async def test_twin_of_a_request_that_stripe_is_busy_with_waits_for_it(sale: Shop) -> None:
    path = "/v1/checkout/sessions"
    await sale.control("faults", method="POST", path=path, kind="stall", seconds=3)
    first, second = await asyncio.gather(ask(sale, "k1"), ask(sale, "k1"))
    assert (first.status, second.status) == (201, 201), (first, second)
    assert first.raw == second.raw
    assert len(await sessions(sale)) == 1


async def test_stripe_that_does_not_answer_in_time_makes_one_page(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe_gateway, "SECONDS_MAX", 0.3)
    async with shop(pool) as sale:
        await sale.pack()
        path = "/v1/checkout/sessions"
        await sale.control("faults", method="POST", path=path, kind="stall", count=3, seconds=20)
        away = await ask(sale, "k1")
        assert away.status == 201 or away.code == "stripe_unavailable", away
        async with sale.web.delete(
            f"{sale.standin.url}/_sandbox/faults",
            headers={"Authorization": f"Bearer {sale.standin.token}"},
        ):
            pass
        assert (await ask(sale, "k1")).status == 201
        assert len(await sessions(sale)) == 1


@pytest.mark.parametrize("kind", ["customer", "product", "price", "session", "intent"])
@pytest.mark.parametrize("is_made", [True, False])
async def test_process_that_ends_around_a_call_leaves_one_object(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, kind: str, is_made: bool
) -> None:
    """What was noted is sent again, by another process, under the same key."""

    class Died(Exception):
        pass

    async with shop(pool) as sale:
        port = sale.running.service.stripe
        assert port is not None
        make, is_first = port.make, True

        async def die(its_kind: Any, params: Any, key: str) -> Any:
            nonlocal is_first
            if its_kind != kind or not is_first:
                return await make(its_kind, params, key)
            is_first = False
            if is_made:
                await make(its_kind, params, key)
            raise Died

        monkeypatch.setattr(port, "make", die)
        asked = {"customer_id": "acme", "pack": "starter"}
        put = await sale.api.put("/v1/packs/starter", PACK)
        assert put.status == (500 if kind in ("product", "price") else 201)
        if kind == "intent":
            first = await sale.api.post("/v1/payment-intents", asked, key="k1")
            again = await sale.api.post("/v1/payment-intents", asked, key="k1")
        else:
            first, again = await ask(sale, "k1"), await ask(sale, "k1")
        died = kind in ("customer", "session", "intent")
        assert (first.status, again.status) == (500 if died else 201, 201)
        names = {"session": "checkout.session", "intent": "payment_intent"}
        assert len(await sale.state(names.get(kind, kind))) == 1
        assert len((await sale.api.get("/v1/purchases")).body["data"]) == 1


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


@pytest.mark.parametrize("kind", ["reset_after", "reset_before"])
@pytest.mark.parametrize("path", ["customers", "checkout/sessions", "payment_intents"])
async def test_unknown_outcome_is_looked_for_after_a_day(pool: Pool, path: str, kind: str) -> None:
    table = path.removesuffix("s").replace("/", ".")
    asked = {"customer_id": "acme", "pack": "starter"}
    async with shop(pool, has_one_clock=True) as sale:
        await sale.pack()
        await sale.api.customer("other")

        async def buy(key: str, customer: str = "acme") -> Answer:
            if path == "payment_intents":
                body = {**asked, "customer_id": customer}
                return await sale.api.post("/v1/payment-intents", body, key=key)
            return await ask(sale, key, customer_id=customer)

        assert (await buy("k0", "other")).status == 201, "somebody else's is never adopted"
        await sale.control("faults", method="POST", path=f"/v1/{path}", kind=kind, count=3)
        lost = await buy("k1")
        assert (lost.status, lost.code) == (503, "stripe_unavailable")
        made = len(await sale.state(table))
        assert made == (2 if kind == "reset_after" else 1)
        await sale.api.clock(await sale.api.now() + timedelta(hours=23, minutes=30))
        found = await buy("k1")
        assert found.status == 201, found
        assert len(await sale.state(table)) == 2
        keys = [one["idempotency_key"] for one in await requests(sale, f"/v1/{path}")]
        assert len(set(keys)) == (2 if kind == "reset_after" else 3), "forgotten: a new key"


async def requests(sale: Shop, path: str) -> list[Any]:
    """Every POST that Stripe was sent to a path."""
    async with sale.web.get(
        f"{sale.standin.url}/_sandbox/requests?path={path}&method=POST",
        headers={"Authorization": f"Bearer {sale.standin.token}"},
    ) as answer:
        return (await answer.json())["data"]


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


async def test_bank_that_asks_is_paid_once_it_is_answered(sale: Shop) -> None:
    card = "pm_card_threeDSecure2Required"
    waits, fails = await sale.checkout(), await sale.checkout()
    await sale.pay(waits, payment_method=card, authentication="pending")
    await sale.declined(
        f"checkout/{fails['id']}/complete", payment_method=card, authentication="failed"
    )
    await sale.apply()
    assert [await status_of(sale, one) for one in (waits, fails)] == ["open", "open"]
    [asking] = [
        one for one in await sale.state("payment_intent") if one["status"] == "requires_action"
    ]
    await sale.control(f"payment-intents/{asking['id']}/authenticate", outcome="succeeded")
    await sale.pay(fails)  # the page is still open: with another card
    await sale.apply()
    assert [await status_of(sale, one) for one in (waits, fails)] == ["credited", "credited"]
    assert await sale.api.posted() == ("2000", "0", "2000")


async def test_saved_card_invoice_and_tax_are_asked_of_stripe(sale: Shop) -> None:
    opened = await sale.checkout(save_card=True, invoice=True, tax="automatic")
    await sale.pay(opened)
    await sale.apply()
    bought = await sale.purchase(opened)
    assert (bought["status"], bought["captured"], bought["tax"]) == ("credited", "12", "2")
    [intent] = await sale.state("payment_intent")
    assert intent["setup_future_usage"] == "off_session"
    [invoice] = await sale.state("invoice")
    assert (invoice["status"], invoice["metadata"]["purchase_id"]) == ("paid", bought["id"])
    assert bought["lots"][0]["amount"] == "1000", "tax buys nothing"
    plain = await sale.checkout()
    await sale.pay(plain)
    [other] = [one for one in await sale.state("payment_intent") if one["id"] != intent["id"]]
    assert other["setup_future_usage"] is None


@pytest.mark.parametrize("change", [{"amount": 900}, {"currency": "eur"}, {"amount": 1100}])
async def test_other_amount_or_currency_than_expected_waits_for_a_person(
    sale: Shop, change: Any
) -> None:
    made = await sale.api.post("/v1/payment-intents", {"customer_id": "acme", "pack": "starter"})
    intent = made.body["id"]
    await sale.stripe.v1.payment_intents.update_async(intent, change)
    await sale.control(f"payment-intents/{intent}/confirm", payment_method="pm_card_visa")
    await sale.control("refunds", payment_intent=intent, amount=100)
    await sale.apply()
    await sale.apply()
    parked = await sale.purchase(made.body)
    assert (parked["status"], parked["captured"], parked["lots"]) == ("parked", "0", [])
    listed = await sale.api.get("/v1/purchases?status=parked")
    assert [one["id"] for one in listed.body["data"]] == [parked["id"]]
    refused = await sale.refund(parked, amount="1.00")
    assert (refused.status, refused.code) == (409, "purchase_not_credited")
    assert await sale.api.posted() == ("0", "0", "0")


async def test_copy_of_our_marks_moves_nothing_and_is_shown_to_a_person(sale: Shop) -> None:
    bought = await sale.buy()
    ours = await sale.stripe.v1.payment_intents.retrieve_async(await sale.intent_of(bought))
    assert ours.metadata is not None
    copy: Any = await sale.stripe.v1.payment_intents.create_async(
        {
            "amount": 1000,
            "currency": "usd",
            "payment_method": "pm_card_visa",
            "confirm": True,
            "return_url": "https://app.example",
            "metadata": ours.metadata.to_dict(),
        }
    )
    await sale.control("refunds", payment_intent=ours.id, amount=400)
    await sale.control("refunds", payment_intent=copy.id, amount=1000)
    counts = await sale.apply()
    assert counts["parked"] == 1, counts
    await sale.control("webhooks/release")
    await sale.apply()
    assert await sale.api.posted() == ("600", "0", "600"), "only what was ours went back"
    assert (await sale.purchase(bought))["refunded"] == "4"


async def test_answer_is_given_again_though_pack_and_customer_are_gone(sale: Shop) -> None:
    first = await ask(sale, "k1")
    await sale.pack(active=False)
    again = await ask(sale, "k1")
    assert (again.status, again.body, again.is_replayed) == (201, first.body, True)
    assert (await ask(sale, "k2")).code == "pack_not_found"
    assert (await ask(sale, "k1", quantity=2)).code == "idempotency_key_reused"
    closed = await sale.api.post("/v1/customers/acme/close")
    assert closed.status == 200, closed
    again = await ask(sale, "k1")
    assert (again.status, again.body, again.is_replayed) == (201, first.body, True)


async def test_customer_that_was_deleted_at_stripe_is_made_again(sale: Shop) -> None:
    await sale.buy()
    [customer] = await sale.state("customer")
    await sale.control("webhooks", mode="drop")
    await sale.control(f"customers/{customer['id']}/delete")
    refused = await ask(sale, "k1")
    assert (refused.status, refused.code) == (422, "stripe_refused"), refused
    await sale.control("webhooks", mode="deliver")
    await sale.job("stripe_sweep")
    await sale.apply()
    again = await ask(sale, "k1")
    assert again.status == 201, again
    await sale.pay(again.body)
    await sale.apply()
    assert await sale.api.posted() == ("2000", "0", "2000")
    [session] = [one for one in await sessions(sale) if one["id"] == again.body["id"]]
    assert session["customer"] != customer["id"]


async def test_client_secret_is_answered_each_time_and_is_in_no_log(
    sale: Shop, pool: Pool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    asked = {"customer_id": "acme", "pack": "starter"}
    first = await sale.api.post("/v1/payment-intents", asked, key="k1")
    again = await sale.api.post("/v1/payment-intents", asked, key="k1")
    secret = first.body["client_secret"]
    assert (again.body, again.is_replayed) == (first.body, True)
    stored = await sale.api.get("/v1/customers/acme/requests/k1")
    assert stored.status == 200
    assert secret not in stored.raw.decode()
    story = await sale.api.get(f"/v1/purchases/{first.body['purchase_id']}")
    assert secret not in story.raw.decode()
    await sale.control("faults", path="/v1/payment_intents/{id}", kind="500_before", count=9)
    away = await sale.api.post("/v1/payment-intents", asked, key="k1")
    assert (away.status, away.code) == (503, "stripe_unavailable")
    out = capfd.readouterr()
    for text in (caplog.text, out.out, out.err):
        assert secret not in text


async def test_purchases_are_listed_newest_first_for_whom_they_concern(sale: Shop) -> None:
    await sale.api.customer("other")
    made = [await sale.checkout() for _ in range(3)]
    theirs = await sale.checkout("other")
    await sale.pay(made[1])
    await sale.apply()

    def ids(answer: Answer) -> list[str]:
        return [one["id"] for one in answer.body["data"]]

    first = await sale.api.get("/v1/purchases?limit=2")
    assert ids(first) == [theirs["purchase_id"], made[2]["purchase_id"]]
    rest = await sale.api.get(f"/v1/purchases?limit=2&cursor={first.body['next_cursor']}")
    assert ids(rest) == [made[1]["purchase_id"], made[0]["purchase_id"]]
    assert not rest.body["has_more"]
    paid = await sale.api.get("/v1/purchases?status=credited&customer_id=acme")
    assert ids(paid) == [made[1]["purchase_id"]]
    assert (await sale.api.get("/v1/purchases?status=paid")).status == 422
    token = await sale.api.token("other", "billing:read")
    assert ids(await token.get("/v1/purchases")) == [theirs["purchase_id"]]
    hidden = await token.get(f"/v1/purchases/{made[0]['purchase_id']}")
    assert (hidden.status, hidden.code) == (404, "purchase_not_found")
    assert (await token.get("/v1/purchases?customer_id=acme")).status == 404


async def test_nobody_asks_stripe_while_it_takes_no_calls(sale: Shop) -> None:
    await sale.control("faults", path="*", kind="429", retry_after=30)
    first = await sale.api.post("/v1/checkout", sale.asked())
    assert (first.status, first.code) == (503, "stripe_unavailable")
    asked = len(await sale.requests())
    again = await sale.api.post("/v1/checkout", sale.asked())
    assert (again.status, again.code) == (503, "stripe_unavailable")
    assert len(await sale.requests()) == asked
