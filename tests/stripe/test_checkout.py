"""Checkout sessions: by the control plane and by clicks, with all the ways they can end."""

import re
from datetime import timedelta
from typing import Any

import pytest
import stripe

from tests.stripe.kit import Kit, code_of


async def complete(kit: Kit, session: Any, **how: Any) -> Any:
    await kit.do(f"checkout/{session.id}/complete", **how)
    return await kit.v1.checkout.sessions.retrieve_async(
        session.id, {"expand": ["payment_intent", "subscription", "invoice", "setup_intent"]}
    )


async def test_payment_ends_paid_with_all_metadata(kit: Kit) -> None:
    customer = await kit.customer()
    session = await kit.checkout(
        await kit.price(1000),
        customer=customer.id,
        client_reference_id="ref",
        metadata={"purchase": "pur_1"},
        payment_intent_data={"metadata": {"purchase": "pur_1"}},
    )
    assert (session.status, session.payment_status, session.payment_intent) == (
        *("open", "unpaid"),
        None,
    )
    assert session.url == f"{kit.sandbox.url}/pay/{session.id}"
    done = await complete(kit, session)
    assert (done.status, done.payment_status, done.url) == ("complete", "paid", None)
    assert (done.amount_total, done.client_reference_id) == (1000, "ref")
    assert done.payment_intent.metadata.purchase == "pur_1"
    assert (await kit.events())[-2:] == ["payment_intent.succeeded", "checkout.session.completed"]
    status, answer = await kit.ask("POST", f"checkout/{session.id}/complete", {})
    assert (status, answer["error"]["code"]) == (400, "checkout_session_unexpected_state")
    items = await kit.v1.checkout.sessions.line_items.list_async(session.id)
    assert [(one.quantity, one.amount_total) for one in items.data] == [(1, 1000)]


async def test_declined_try_leaves_the_session_open(kit: Kit) -> None:
    session = await kit.checkout(await kit.price(1000))
    status, answer = await kit.ask(
        "POST", f"checkout/{session.id}/complete", {"payment_method": "pm_card_chargeDeclined"}
    )
    assert (status, answer["error"]["code"]) == (402, "card_declined")
    found = await kit.v1.checkout.sessions.retrieve_async(session.id)
    assert (found.status, found.payment_status) == ("open", "unpaid")
    done = await complete(kit, session)
    assert done.payment_status == "paid"
    assert done.payment_intent.id == found.payment_intent


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
async def test_delayed_payment_completes_unpaid_first(kit: Kit, outcome: str) -> None:
    session = await kit.checkout(await kit.price(1000))
    done = await complete(kit, session, delayed=True)
    assert (done.status, done.payment_status) == ("complete", "unpaid")
    assert done.payment_intent.status == "processing"
    await kit.do(f"checkout/{session.id}/settle", outcome=outcome)
    found = await kit.v1.checkout.sessions.retrieve_async(session.id)
    assert found.payment_status == ("paid" if outcome == "succeeded" else "unpaid")
    assert (await kit.events())[-1] == f"checkout.session.async_payment_{outcome}"


async def test_delayed_payment_settles_by_the_clock(kit: Kit) -> None:
    session = await kit.checkout(await kit.price(1000))
    await complete(kit, session, payment_method="pm_usBankAccount_insufficientFunds")
    await kit.clock(timedelta(days=4))
    assert (await kit.events())[-1] == "checkout.session.async_payment_failed"


@pytest.mark.parametrize("authentication", ["failed", "pending"])
async def test_bank_question_holds_the_session_open(kit: Kit, authentication: str) -> None:
    session = await kit.checkout(await kit.price(1000))
    how = {"payment_method": "pm_card_authenticationRequired", "authentication": authentication}
    status, _ = await kit.ask("POST", f"checkout/{session.id}/complete", how)
    assert status == (402 if authentication == "failed" else 200)
    found = await kit.v1.checkout.sessions.retrieve_async(
        session.id, {"expand": ["payment_intent"]}
    )
    assert found.status == "open"
    if authentication == "pending":
        await kit.do(f"payment-intents/{found.payment_intent.id}/authenticate")
        found = await kit.v1.checkout.sessions.retrieve_async(session.id)
        assert found.payment_status == "paid"


async def test_session_expires_by_the_clock_and_by_request(kit: Kit) -> None:
    price = await kit.price(1000)
    first, second = await kit.checkout(price), await kit.checkout(price)
    await kit.v1.checkout.sessions.expire_async(first.id)
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.checkout.sessions.expire_async(first.id)
    await kit.clock(timedelta(days=1))
    found = await kit.v1.checkout.sessions.retrieve_async(second.id)
    assert (found.status, found.url) == ("expired", None)
    assert (await kit.events()).count("checkout.session.expired") == 2


async def test_hundred_percent_coupon_needs_no_payment(kit: Kit) -> None:
    coupon = await kit.v1.coupons.create_async({"percent_off": 100, "duration": "once"})
    session = await kit.checkout(await kit.price(1000), discounts=[{"coupon": coupon.id}])
    assert session.amount_total == 0
    done = await complete(kit, session)
    assert (done.payment_status, done.payment_intent) == ("no_payment_required", None)
    assert done.total_details.amount_discount == 1000


async def test_promotion_code_is_typed_in(kit: Kit) -> None:
    coupon = await kit.v1.coupons.create_async(
        {"amount_off": 300, "currency": "usd", "duration": "once"}
    )
    code = await kit.v1.promotion_codes.create_async(
        {
            "promotion": {"type": "coupon", "coupon": coupon.id},
            "code": "HELLO",
            "max_redemptions": 1,
        }
    )
    price = await kit.price(1000)
    session = await kit.checkout(price, allow_promotion_codes=True)
    done = await complete(kit, session, promotion_code="HELLO")
    assert (done.amount_total, done.payment_intent.amount_received) == (700, 700)
    assert (await kit.v1.promotion_codes.retrieve_async(code.id)).times_redeemed == 1
    again = await kit.checkout(price, allow_promotion_codes=True)
    status, _ = await kit.ask("POST", f"checkout/{again.id}/complete", {"promotion_code": "HELLO"})
    assert status == 400


async def test_automatic_tax_is_added_and_told(kit: Kit) -> None:
    session = await kit.checkout(
        await kit.price(1000),
        automatic_tax={"enabled": True},
        invoice_creation={"enabled": True, "invoice_data": {"metadata": {"purchase": "p"}}},
        customer=(await kit.customer()).id,
    )
    assert (session.amount_subtotal, session.amount_total) == (1000, 1200)
    done = await complete(kit, session)
    assert done.total_details.amount_tax == 200
    assert (done.invoice.status, done.invoice.total) == ("paid", 1200)
    assert done.invoice.metadata.purchase == "p"
    payments = await kit.v1.invoice_payments.list_async(
        {"payment": {"type": "payment_intent", "payment_intent": done.payment_intent.id}}
    )
    assert [one.invoice for one in payments.data] == [done.invoice.id]


async def test_subscription_begins_with_its_payment(kit: Kit) -> None:
    session = await kit.checkout(
        await kit.price(2000, "month"),
        "subscription",
        subscription_data={"metadata": {"purchase": "pur_2"}},
    )
    status, _ = await kit.ask(
        "POST", f"checkout/{session.id}/complete", {"payment_method": "pm_card_chargeDeclined"}
    )
    assert status == 402
    assert await kit.state("subscription") == []
    done = await complete(kit, session)
    assert (done.subscription.status, done.invoice.status) == ("active", "paid")
    assert (done.payment_status, done.amount_total) == ("paid", 2000)
    assert done.subscription.metadata.purchase == "pur_2"
    assert done.subscription.default_payment_method is not None
    assert (await kit.v1.customers.retrieve_async(done.customer)).email == "customer@example.com"


async def test_trial_needs_no_payment_and_no_card_if_not_required(kit: Kit) -> None:
    session = await kit.checkout(
        await kit.price(2000, "month"),
        "subscription",
        payment_method_collection="if_required",
        subscription_data={
            "trial_period_days": 7,
            "trial_settings": {"end_behavior": {"missing_payment_method": "cancel"}},
        },
    )
    done = await complete(kit, session)
    assert (done.payment_status, done.amount_total) == ("no_payment_required", 0)
    assert done.subscription.status == "trialing"
    await kit.clock(timedelta(days=7))
    found = await kit.v1.subscriptions.retrieve_async(done.subscription.id)
    assert found.status == "canceled"


async def test_subscription_with_a_late_debit(kit: Kit) -> None:
    session = await kit.checkout(await kit.price(2000, "month"), "subscription")
    done = await complete(kit, session, payment_method="pm_usBankAccount_success", delayed=True)
    assert (done.payment_status, done.subscription.status) == ("unpaid", "active")
    await kit.do(f"checkout/{session.id}/settle", outcome="succeeded")
    found = await kit.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["invoice"]})
    assert (found.payment_status, found.invoice.status) == ("paid", "paid")


async def test_setup_mode_saves_the_card(kit: Kit) -> None:
    customer = await kit.customer()
    session = await kit.checkout(None, "setup", customer=customer.id)
    done = await complete(kit, session)
    assert done.setup_intent.status == "succeeded"
    listed = await kit.v1.customers.payment_methods.list_async(customer.id)
    assert [one.id for one in listed.data] == [done.setup_intent.payment_method]


async def test_saved_card_of_a_payment_can_be_charged_later(kit: Kit) -> None:
    customer = await kit.customer()
    session = await kit.checkout(
        await kit.price(1000),
        customer=customer.id,
        payment_intent_data={"setup_future_usage": "off_session"},
    )
    done = await complete(kit, session, payment_method="pm_card_authenticationRequired")
    card = done.payment_intent.payment_method
    paid = await kit.paid_intent(card=card, customer=customer.id, off_session=True)
    assert paid.status == "succeeded"


async def test_price_data_makes_its_own_price(kit: Kit) -> None:
    data = {"currency": "jpy", "unit_amount": 80, "product_data": {"name": "Eighty yen"}}
    session = await kit.checkout(None, line_items=[{"price_data": data, "quantity": 2}])
    done = await complete(kit, session)
    assert (done.amount_total, done.currency) == (160, "jpy")
    plan = {**data, "recurring": {"interval": "month"}}
    session = await kit.checkout(
        None,
        "subscription",
        line_items=[{"price_data": plan, "quantity": 1}, {"price_data": data, "quantity": 1}],
    )
    done = await complete(kit, session)
    assert (done.amount_total, done.invoice.total) == (160, 160)


@pytest.mark.parametrize(
    "given",
    [
        {"mode": "payment"},
        {"mode": "payment", "line_items": [], "success_url": "https://x"},
        {"expires_at": 1},
        {"subscription_data": {"trial_period_days": 3}},
        {"customer_email": "a@b", "customer": "x"},
        {"allow_promotion_codes": True, "discounts": [{"coupon": "x"}]},
    ],
)
async def test_sessions_that_make_no_sense(kit: Kit, given: dict[str, Any]) -> None:
    price = await kit.price(1000)
    line = {"line_items": [{"price": price.id, "quantity": 1}], "success_url": "https://x"}
    whole = given if "mode" in given else {"mode": "payment", **line, **given}
    with pytest.raises(stripe.InvalidRequestError) as error:
        await kit.v1.checkout.sessions.create_async(whole)
    assert error.value.http_status == 400
    assert code_of(error) != "parameter_unknown"


# The page


async def click(kit: Kit, url: str, action: str | None = None, **fields: str) -> tuple[int, Any]:
    """Open a page, or press one of its buttons; the status, and where to or what is shown."""
    method = "GET" if action is None else "POST"
    data = None if action is None else {"action": action, **fields}
    async with kit.web.request(method, url, data=data, allow_redirects=False) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        shown = await answer.text()
        return answer.status, answer.headers.get("Location", shown)


async def test_page_shows_what_is_bought_without_scripts(kit: Kit) -> None:
    product = await kit.v1.products.create_async({"name": "<b>1,000</b> credits"})
    price = await kit.v1.prices.create_async(
        {"currency": "usd", "unit_amount": 1000, "product": product.id}
    )
    session = await kit.checkout(price)
    status, shown = await click(kit, session.url)
    assert status == 200
    assert "&lt;b&gt;1,000&lt;/b&gt; credits" in shown
    assert "10.00 USD" in shown
    assert re.search(r"<script|<b>|https?://", shown) is None


async def test_clicks_pay_decline_and_cancel(kit: Kit) -> None:
    session = await kit.checkout(await kit.price(1000))
    status, shown = await click(kit, session.url, "pay", payment_method="pm_card_chargeDeclined")
    assert status == 402
    assert "Your card was declined." in shown
    assert await click(kit, session.url, "cancel") == (303, "https://example.com/back")
    status, shown = await click(kit, session.url, "pay", number="4242 4242 4242 4242")
    assert (status, shown) == (303, f"https://example.com/done?id={session.id}")
    assert "complete" in (await click(kit, session.url))[1]


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
async def test_clicks_through_the_bank_question(kit: Kit, outcome: str) -> None:
    session = await kit.checkout(await kit.price(1000))
    status, url = await click(
        kit, session.url, "pay", payment_method="pm_card_authenticationRequired"
    )
    assert (status, url.startswith(f"{kit.sandbox.url}/3ds/pi_")) == (303, True)
    assert "Your bank wants to know" in (await click(kit, url))[1]
    status, url = await click(kit, url, outcome)
    done = f"https://example.com/done?id={session.id}"
    assert (status, url) == (303, done if outcome == "succeeded" else session.url)


async def test_pages_that_are_not_there(kit: Kit) -> None:
    for path in ("/", "/pay/cs_none", "/portal/x", "/nothing/x"):
        status, _ = await click(kit, kit.sandbox.url + path)
        assert status == 404, path
