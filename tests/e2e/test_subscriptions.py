"""Subscriptions: changes with previews, endings, pauses, access, and the gate of usage."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sql.pool import Pool
from tests.shop import START, Shop, shop

PLACE = "/v1/customers/acme/subscription"
MEGA: dict[str, Any] = {
    "name": "Mega",
    "tier": "mega",
    "price": {"amount": "50.00", "currency": "USD"},
    "credits": "7500",
}
HALF = START + timedelta(days=15, hours=12)
"""Half of January has gone since the subscription began."""


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool, has_one_clock=True) as made:
        await made.plan()
        await made.plan("mega", **MEGA)
        yield made


@pytest.fixture
async def half(sale: Shop) -> Shop:
    """A subscriber of pro, in the middle of the period, who has used 60."""
    await sale.subscribe()
    await sale.api.consume("60")
    await sale.walk(HALF)
    return sale


async def state(sale: Shop) -> Any:
    answer = await sale.api.get(PLACE)
    assert answer.status == 200, answer
    return answer.body


async def preview(sale: Shop, **members: Any) -> Any:
    answer = await sale.api.post(f"{PLACE}/preview", members, key=None)
    assert answer.status == 200, answer
    return answer.body


async def access(sale: Shop, query: str = "") -> Any:
    return (await sale.api.get(f"/v1/customers/acme/access{query}")).body


async def test_upgrade_costs_and_gives_what_its_preview_says(half: Shop) -> None:
    shown = await preview(half, plan="mega")
    assert (shown["amount_due_now"], shown["credits_delta"]) == ("15", "2250")
    assert [line["amount"] for line in shown["lines"]] == ["-10", "25"]
    assert shown["next_invoice"] == {"at": "2030-02-01T12:00:00Z", "amount": "50"}
    changed = await half.act(
        "change",
        plan="mega",
        proration_date=shown["proration_date"],
        expected_amount=shown["amount_due_now"],
    )
    assert (changed["payment_status"], changed["subscription"]["plan"]) == ("paid", "mega")
    assert await half.api.posted() == ("5190", "0", "5190")
    [_, bought] = sorted(
        (await half.api.get("/v1/purchases?customer_id=acme")).body["data"],
        key=lambda one: float(one["captured"]),
        reverse=True,
    )
    assert (bought["captured"], bought["credits"], bought["product"]) == ("15", "2250", "mega@1")
    await half.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
    assert await half.api.posted() == ("7500", "0", "7500")


async def test_preview_changes_nothing(half: Shop) -> None:
    before = await state(half)
    await preview(half, plan="mega", quantity=4)
    await half.apply()
    assert {**await state(half), "fetched_at": ""} == {**before, "fetched_at": ""}
    assert await half.api.posted() == ("2940", "0", "2940")


async def test_change_that_costs_something_else_is_refused(half: Shop) -> None:
    refused = await half.api.post(f"{PLACE}/change", {"plan": "mega", "expected_amount": "14.99"})
    assert (refused.status, refused.code) == (409, "preview_changed")
    assert refused.body["amount_due_now"] == "15"
    assert (await state(half))["plan"] == "pro"


async def test_refused_change_is_refused_again_until_it_costs_that(half: Shop) -> None:
    body = {"plan": "mega", "expected_amount": "14.99"}
    for _ in range(2):
        refused = await half.api.post(f"{PLACE}/change", body, key="up-1")
        assert (refused.status, refused.code) == (409, "preview_changed")
    assert await half.api.posted() == ("2940", "0", "2940")


@pytest.mark.parametrize("what", ["cancel", "pause", "resume"])
async def test_same_request_has_the_first_answer_also_when_all_is_over(
    half: Shop, what: str
) -> None:
    body = {"when": "now"} if what == "cancel" else {}
    first = await half.api.post(f"{PLACE}/{what}", body, key="act-1")
    assert first.status == 200, first
    await half.apply()
    if what != "cancel":
        await half.act("cancel", when="now")
    again = await half.api.post(f"{PLACE}/{what}", body, key="act-1")
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_customer_that_was_deleted_at_stripe_is_not_linked_again(half: Shop) -> None:
    [theirs] = await half.state("customer")
    await half.control(f"customers/{theirs['id']}/delete")
    await half.job("stripe_sweep")
    await half.apply()
    shown = (await half.api.get("/v1/customers/acme")).body
    assert (shown["stripe_customer_id"], shown["subscription_status"]) == (None, "canceled")
    assert await half.api.posted() == ("2940", "0", "2940")
    await half.subscribe()
    assert (await half.api.get("/v1/customers/acme/access")).body["active"] is True


async def test_same_change_many_times_is_one(half: Shop) -> None:
    body = {"plan": "mega"}
    made = await asyncio.gather(
        *(half.api.post(f"{PLACE}/change", body, key="up-1") for _ in range(4))
    )
    assert {one.status for one in made} == {200}
    await half.apply()
    later = await half.api.post(f"{PLACE}/change", body, key="up-1")
    assert later.headers["Idempotent-Replayed"] == "true"
    other = await half.api.post(f"{PLACE}/change", {"plan": "pro"}, key="up-1")
    assert other.code == "idempotency_key_reused"
    assert await half.api.posted() == ("5190", "0", "5190")


@pytest.mark.parametrize("kind", ["reset_before", "reset_after", "500_before", "500_after"])
async def test_answer_that_was_lost_changes_once(half: Shop, kind: str) -> None:
    sub_id = (await state(half))["id"]
    await half.control(
        "faults", method="POST", path=f"/v1/subscriptions/{sub_id}", kind=kind, count=3
    )
    body = {"plan": "mega"}
    first = await half.api.post(f"{PLACE}/change", body, key="up-1")
    if first.status != 200:
        assert first.code == "stripe_unavailable"
        again = await half.api.post(f"{PLACE}/change", body, key="up-1")
        assert again.status == 200, again
    await half.job("stripe_sweep")  # the delivery may still be on its way
    await half.apply()
    assert await half.api.posted() == ("5190", "0", "5190")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", ["reset_before", "reset_after", "500_before", "500_after"])
async def test_ending_whose_answer_was_lost_is_told_as_done(
    half: Shop, kind: str, count: int
) -> None:
    """Stripe keeps no answer to a deletion: the next try finds nothing left to delete."""
    order = {"method": "DELETE", "path": "/v1/subscriptions/*", "kind": kind, "count": count}
    await half.control("faults", **order)
    first = await half.api.post(f"{PLACE}/cancel", {"when": "now"}, key="end-1")
    if first.status != 200:
        assert first.code == "stripe_unavailable", first
        first = await half.api.post(f"{PLACE}/cancel", {"when": "now"}, key="end-1")
    assert (first.status, first.body["subscription"]["status"]) == (200, "canceled"), first
    again = await half.api.post(f"{PLACE}/cancel", {"when": "now"}, key="end-1")
    assert (again.status, again.body) == (200, first.body)


async def test_unpaid_upgrade_leaves_plan_and_credits_until_it_is_paid(half: Shop) -> None:
    await half.give_card("pm_card_chargeCustomerFail")
    changed = await half.act("change", plan="mega")
    assert changed["payment_status"] == "open"
    assert changed["subscription"]["pending_until"] is not None
    assert changed["client_secret"].startswith("pi_")
    assert (await state(half))["plan"] == "pro"
    assert await half.api.posted() == ("2940", "0", "2940")
    opened = (await state(half))["open_invoice"]
    assert (opened["amount_due"], opened["attempts"]) == ("15", 1)
    [intent] = [one for one in await half.state("payment_intent") if one["amount"] == 1500]
    await half.control(f"payment-intents/{intent['id']}/confirm", payment_method="pm_card_visa")
    await half.apply()
    assert (await state(half))["plan"] == "mega"
    assert await half.api.posted() == ("5190", "0", "5190")


async def test_upgrade_that_is_never_paid_is_forgotten(half: Shop) -> None:
    await half.give_card("pm_card_chargeCustomerFail")
    await half.act("change", plan="mega")
    await half.walk(HALF + timedelta(hours=24))
    assert (await state(half))["pending_until"] is None
    assert (await state(half))["plan"] == "pro"
    assert await half.api.posted() == ("2940", "0", "2940")


@pytest.mark.parametrize(("when", "left"), [("renewal", "300"), ("full", "840")])
async def test_upgrade_without_proration_follows_the_plan(sale: Shop, when: str, left: str) -> None:
    # Mid-cycle, never the whole new amount on top.
    await sale.plan("lite", credits="360")
    await sale.plan("big", **{**MEGA, "credits": "900", "upgrade_credits": when})
    await sale.subscribe("lite")
    await sale.api.consume("60")
    await sale.walk(HALF)
    shown = await preview(sale, plan="big", proration="none")
    assert shown["amount_due_now"] == "0"
    await sale.act("change", plan="big", proration="none")
    assert await sale.api.posted() == (left, "0", left)
    await sale.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
    assert await sale.api.posted() == ("900", "0", "900")


async def test_downgrade_takes_nothing_and_is_credited_by_the_renewal(half: Shop) -> None:
    await half.plan("mini", name="Mini", price={"amount": "5.00", "currency": "USD"}, credits="100")
    shown = await preview(half, plan="mini", when="period_end")
    assert (shown["amount_due_now"], shown["credits_delta"]) == ("0", "0")
    changed = await half.act("change", plan="mini", when="period_end")
    assert changed["subscription"]["has_scheduled_change"] is True
    assert (await state(half))["plan"] == "pro"
    assert await half.api.posted() == ("2940", "0", "2940")
    await half.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
    assert (await state(half))["plan"] == "mini"
    assert await half.api.posted() == ("100", "0", "100")
    await half.walk(datetime(2030, 3, 1, 14, tzinfo=UTC))
    assert (await state(half))["has_scheduled_change"] is False


async def test_downgrade_at_once_takes_nothing(half: Shop) -> None:
    await half.plan("mini", name="Mini", price={"amount": "5.00", "currency": "USD"}, credits="100")
    await half.act("change", plan="mini")
    assert (await state(half))["plan"] == "mini"
    assert await half.api.posted() == ("2940", "0", "2940")


async def test_scheduled_change_can_be_moved_and_taken_back(half: Shop) -> None:
    await half.act("change", plan="mega", when="period_end")
    await half.act("change", plan="mega", quantity=2, when="period_end")
    back = await half.act("resume")
    assert back["subscription"]["has_scheduled_change"] is False
    await half.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
    assert await half.api.posted() == ("3000", "0", "3000")


async def test_more_seats_are_prorated_like_a_plan(half: Shop) -> None:
    shown = await preview(half, plan="pro", quantity=3)
    assert (shown["amount_due_now"], shown["credits_delta"]) == ("20", "3000")
    await half.act("change", plan="pro", quantity=3)
    assert await half.api.posted() == ("5940", "0", "5940")


async def test_new_version_of_a_plan_leaves_who_has_subscribed(half: Shop) -> None:
    await half.plan(credits="1", price={"amount": "99.00", "currency": "USD"})
    await half.act("change", plan="pro", quantity=2)
    found = await state(half)
    assert (found["version"], found["quantity"]) == (1, 2)
    assert await half.api.posted() == ("4440", "0", "4440")


async def test_change_to_a_year_begins_a_new_period(half: Shop) -> None:
    await half.plan("year", **{**MEGA, "interval": "year"})
    shown = await preview(half, plan="year")
    assert (shown["amount_due_now"], shown["credits_delta"]) == ("40", "7500")
    await half.act("change", plan="year")
    assert (await state(half))["period_end"] == "2031-01-17T00:00:00Z"
    assert await half.api.posted() == ("10440", "0", "10440")


async def test_cancelled_at_the_end_it_lasts_until_then(half: Shop) -> None:
    ended = await half.act("cancel")
    assert ended["subscription"]["cancel_at"] == "2030-02-01T12:00:00Z"
    assert (await access(half))["active"] is True
    back = await half.act("resume")
    assert back["subscription"]["cancel_at"] is None
    await half.act("cancel", when="period_end")
    await half.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
    found = await access(half)
    assert (found["active"], found["status"]) == (False, "canceled")
    assert await half.api.posted() == ("0", "0", "0")


async def test_cancelled_now_it_keeps_what_was_paid(half: Shop) -> None:
    await half.pack()
    await half.buy()
    await half.act("cancel", when="now")
    assert (await state(half))["status"] == "canceled"
    assert await half.api.posted() == ("3940", "0", "3940")
    assert await half.state("refund") == []
    gone = await half.api.post(f"{PLACE}/cancel", {})
    assert (gone.status, gone.code) == (404, "subscription_not_found")
    # News that comes late never brings it back.
    for event in await half.events():
        await half.control(f"webhooks/resend/{event}")
    await half.apply()
    assert (await state(half))["status"] == "canceled"
    assert await half.api.posted() == ("3940", "0", "3940")


async def test_pause_has_no_access_and_resume_begins_anew(half: Shop) -> None:
    paused = await half.act("pause")
    assert paused["subscription"]["status"] == "paused"
    assert (await access(half))["active"] is False
    await half.walk(datetime(2030, 3, 10, tzinfo=UTC))
    assert await half.api.posted() == ("0", "0", "0")
    resumed = await half.act("resume")
    assert resumed["subscription"]["status"] == "active"
    assert await half.api.posted() == ("3000", "0", "3000")
    assert (await state(half))["period_end"] == "2030-04-10T00:00:00Z"


@pytest.mark.parametrize(
    ("what", "body", "status", "code"),
    [
        ("change", {"plan": "none"}, 404, "plan_not_found"),
        ("change", {"plan": "euro"}, 409, "currency_mismatch"),
        ("change", {"plan": "mega", "when": "later"}, 422, "invalid_value"),
        (
            "change",
            {"plan": "mega", "proration_date": "2029-01-01T00:00:00Z"},
            422,
            "invalid_value",
        ),
        ("change", {"plan": "mega", "quantity": 0}, 422, "invalid_value"),
        ("cancel", {"when": "never"}, 422, "invalid_value"),
        ("pause", {"until": "then"}, 422, "unknown_member"),
    ],
)
async def test_what_makes_no_sense_changes_nothing(
    half: Shop, what: str, body: dict[str, Any], status: int, code: str
) -> None:
    await half.plan("euro", price={"amount": "20.00", "currency": "EUR"})
    refused = await half.api.post(f"{PLACE}/{what}", body)
    assert (refused.status, refused.code) == (status, code)
    assert (await state(half))["plan"] == "pro"
    assert await half.api.posted() == ("2940", "0", "2940")


async def test_nothing_can_be_done_without_a_subscription(sale: Shop) -> None:
    for what in ("change", "preview"):
        refused = await sale.api.post(f"{PLACE}/{what}", {"plan": "pro"})
        assert (refused.status, refused.code) == (404, "subscription_not_found")
    for what in ("cancel", "resume", "pause"):
        assert (await sale.api.post(f"{PLACE}/{what}", {})).code == "subscription_not_found"
    found = await access(sale)
    assert (found["active"], found["status"]) == (False, "none")
    refused = await sale.api.get("/v1/customers/acme/access?require=1")
    assert (refused.status, refused.code) == (403, "subscription_required")
    assert "checkout" in refused.body["detail"]


async def test_access_can_be_asked_for_a_plan(half: Shop) -> None:
    assert (await access(half, "?plan=pro"))["active"] is True
    other = await access(half, "?plan=mega")
    assert (other["active"], other["plan"]) == (False, "pro")
    refused = await half.api.get("/v1/customers/acme/access?plan=mega&require=1")
    assert refused.status == 403
    wrong = await half.api.get("/v1/customers/acme/access?require=yes")
    assert (wrong.status, wrong.code) == (422, "invalid_query")


async def test_unpaid_renewal_has_the_grace_and_is_said(pool: Pool) -> None:
    grace = timedelta(days=3)
    async with shop(pool, has_one_clock=True, past_due_grace=grace) as sale:
        await sale.plan(requires_subscription=True)
        await sale.subscribe()
        await sale.give_card("pm_card_chargeCustomerFail")
        await sale.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
        found = await access(sale)
        assert (found["active"], found["status"]) == (True, "past_due")
        assert found["grace_until"] == "2030-02-04T12:00:00Z"
        assert (await state(sale))["open_invoice"]["amount_due"] == "20"
        await sale.api.grant("100")
        await sale.api.consume("1")
        await sale.walk(datetime(2030, 2, 4, 12, tzinfo=UTC))
        assert (await access(sale))["active"] is False
        refused = await sale.api.post("/v1/consume", {"customer_id": "acme", "amount": "1"})
        assert (refused.status, refused.code) == (403, "subscription_required")
        await sale.give_card()
        await sale.walk(datetime(2030, 2, 12, tzinfo=UTC))
        assert (await access(sale))["status"] == "active"
        await sale.api.consume("1")


async def test_plan_can_ask_for_a_subscription_before_usage(sale: Shop) -> None:
    await sale.plan("gate", requires_subscription=True, credits="100")
    await sale.api.grant("50")
    await sale.api.consume("1")  # nobody has asked for one yet
    await sale.subscribe("gate")
    hold = await sale.api.reserve("10")
    await sale.act("cancel", when="now")
    body = {"customer_id": "acme", "amount": "1"}
    for path in ("/v1/reserve", "/v1/consume"):
        refused = await sale.api.post(path, body, key=f"once{path}")
        assert (refused.status, refused.code) == (403, "subscription_required")
    both = await sale.api.post(
        "/v1/batch", {"operations": [{"op": "consume", "key": "b-1", **body}]}, key=None
    )
    assert both.body["results"][0]["status"] == 403
    # What was held may be finished, and what was refused may be asked again.
    captured = await sale.api.post(f"/v1/holds/{hold['id']}/capture", {})
    assert captured.status == 200
    await sale.subscribe("gate")
    passed = await sale.api.post("/v1/consume", body, key="once/v1/consume")
    assert passed.status == 201


async def test_late_news_is_fetched_and_stale_if_stripe_is_away(half: Shop) -> None:
    await half.control("webhooks", mode="drop")
    await half.control("faults", method="GET", path="/v1/events", kind="500_before", count=10_000)
    await half.control(
        "faults", method="GET", path="/v1/subscriptions/*", kind="500_before", count=10_000
    )
    await half.walk(datetime(2030, 2, 5, tzinfo=UTC))
    found = await access(half)
    assert (found["active"], found["stale"], found["period_end"]) == (
        *(True, True),
        "2030-02-01T12:00:00Z",
    )
    await half.lift_faults()
    found = await access(half)
    assert (found["stale"], found["period_end"]) == (False, "2030-03-01T12:00:00Z")


async def test_renewals_are_found_after_months_without_news(half: Shop) -> None:
    # Nothing ran here, and Stripe keeps its list of events for 30 days only.
    await half.api.grant("1", expires_at="2031-01-01T00:00:00Z")
    await half.control("webhooks", mode="drop")
    await half.sleep(timedelta(days=85))
    await half.job("stripe_sweep")
    await half.apply()
    listed = (await half.api.get("/v1/purchases?customer_id=acme")).body["data"]
    assert [one["status"] for one in listed] == ["credited"] * 4
    assert await half.api.posted() == ("3001", "0", "3001")


async def test_customer_can_act_in_the_portal(half: Shop) -> None:
    answer = await half.api.post(
        "/v1/portal", {"customer_id": "acme", "return_url": "https://app.example/back"}
    )
    [session] = await half.state("billing_portal.session")
    assert answer.body["url"].endswith(session["id"])
    await half.control(f"portal/{session['id']}/act", action="cancel")
    await half.apply()
    assert (await state(half))["cancel_at"] == "2030-02-01T12:00:00Z"


async def test_key_of_another_customer_sees_and_does_nothing(half: Shop) -> None:
    await half.api.customer("bolt")
    theirs = await half.api.key(
        "billing:read", "billing:write", "customers:read", customer_id="bolt"
    )
    for path in ("subscription", "subscriptions", "access"):
        assert (await theirs.get(f"/v1/customers/acme/{path}")).status == 404
    for what, body in (("change", {"plan": "mega"}), ("cancel", {}), ("pause", {})):
        assert (await theirs.post(f"{PLACE}/{what}", body)).status == 404
    reader = await half.api.key("billing:read", "customers:read")
    assert (await reader.post(f"{PLACE}/cancel", {})).code == "scope_missing"
    assert (await state(half))["cancel_at"] is None


async def test_each_purchase_of_an_invoice_can_be_refunded(sale: Shop) -> None:
    await sale.subscribe()
    await sale.walk(START + timedelta(days=14))
    await sale.act("change", plan="mega", proration="next_invoice")
    await sale.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
    listed = (await sale.api.get("/v1/purchases?customer_id=acme")).body["data"]
    renewal, change = sorted(
        (one for one in listed if one["product"].startswith("mega")),
        key=lambda one: -float(one["credits"]),
    )
    story = (await sale.purchase(renewal))["story"]["objects"]
    assert [one["kind"] for one in story] == ["intent"]
    answer = await sale.refund(renewal, amount=renewal["captured"])
    assert answer.status == 202, answer
    await sale.job("stripe_outbox")
    await sale.apply()
    assert (await sale.purchase(renewal))["refunded"] == renewal["captured"]
    assert (await sale.purchase(change))["refunded"] == "0"
    # What is refunded at Stripe is of what is left.
    intent = await sale.intent_of(await sale.purchase(renewal))
    await sale.control("refunds", payment_intent=intent)
    await sale.apply()
    assert (await sale.purchase(change))["refunded"] == change["captured"]
    assert (await sale.purchase(renewal))["refunded"] == renewal["captured"]
    assert await sale.api.posted() == ("0", "0", "0")
