"""Subscriptions: how they begin, change, wait and end."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe

from tests.stripe.kit import DAY, HOUR, START, Kit, at, code_of


def item_of(sub: Any) -> Any:
    return sub["items"].data[0]


async def invoices_of(kit: Kit, sub: Any) -> list[Any]:
    """Oldest first."""
    listed = await kit.v1.invoices.list_async({"subscription": sub.id})
    return listed.data[::-1]


def amounts(invoice: Any) -> list[int]:
    return [line.amount for line in invoice.lines.data]


# Beginning


async def test_paid_at_once_is_active(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(
        customer, await kit.price(2000, "month"), expand=["latest_invoice.payments"]
    )
    assert sub.status == "active"
    assert at(item_of(sub).current_period_end) == datetime(2026, 2, 28, 12, tzinfo=UTC)
    invoice = sub.latest_invoice
    assert (invoice.status, invoice.billing_reason) == ("paid", "subscription_create")
    assert invoice.parent.subscription_details.subscription == sub.id
    line = invoice.lines.data[0]
    assert line.parent.subscription_item_details.subscription_item == item_of(sub).id
    assert line.pricing.price_details.price == item_of(sub).price.id
    assert (line.period.start, line.period.end) == (
        item_of(sub).current_period_start,
        item_of(sub).current_period_end,
    )
    assert invoice.payments.data[0].payment.payment_intent.startswith("pi_")


async def test_without_a_card_it_is_refused_and_nothing_is_left(kit: Kit) -> None:
    with pytest.raises(stripe.InvalidRequestError) as error:
        await kit.subscription(await kit.customer(), await kit.price(2000, "month"))
    assert code_of(error) == "resource_missing"
    assert await kit.state("subscription") == await kit.state("invoice") == []


async def test_default_incomplete_waits_for_its_payment(kit: Kit) -> None:
    sub = await kit.subscription(
        await kit.customer(),
        await kit.price(2000, "month"),
        payment_behavior="default_incomplete",
        payment_settings={"save_default_payment_method": "on_subscription"},
        expand=["latest_invoice.confirmation_secret", "latest_invoice.payments"],
    )
    assert (sub.status, sub.latest_invoice.status) == ("incomplete", "open")
    secret = sub.latest_invoice.confirmation_secret.client_secret
    intent = sub.latest_invoice.payments.data[0].payment.payment_intent
    assert secret.startswith(intent)
    await kit.do(f"payment-intents/{intent}/confirm", payment_method="pm_card_visa")
    found = await kit.v1.subscriptions.retrieve_async(sub.id)
    assert found.status == "active"
    assert found.default_payment_method is not None


async def test_incomplete_expires_after_a_day(kit: Kit) -> None:
    customer = await kit.customer("pm_card_chargeCustomerFail")
    sub = await kit.subscription(customer, await kit.price(2000, "month"))
    assert sub.status == "incomplete"
    await kit.clock(timedelta(hours=23))
    found = await kit.v1.subscriptions.retrieve_async(sub.id, {"expand": ["latest_invoice"]})
    assert (found.status, found.latest_invoice.status) == ("incomplete_expired", "void")


async def test_error_if_incomplete_leaves_nothing(kit: Kit) -> None:
    customer = await kit.customer("pm_card_chargeCustomerFail")
    price = await kit.price(2000, "month")
    with pytest.raises(stripe.CardError):
        await kit.subscription(customer, price, payment_behavior="error_if_incomplete")
    assert await kit.state("subscription") == []


async def test_trial_gives_notice_and_turns_into_a_paid_period(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(customer, await kit.price(2000, "month"), trial_period_days=14)
    assert sub.status == "trialing"
    [first] = await invoices_of(kit, sub)
    assert (first.status, first.total, amounts(first)) == ("paid", 0, [0])
    await kit.clock(START + timedelta(days=11))
    assert (await kit.events())[-1] == "customer.subscription.trial_will_end"
    await kit.clock(START + timedelta(days=14))
    found = await kit.v1.subscriptions.retrieve_async(sub.id, {"expand": ["latest_invoice"]})
    assert (found.status, found.latest_invoice.status) == ("active", "draft")
    await kit.clock(HOUR)
    [_, second] = await invoices_of(kit, sub)
    assert (second.status, second.total, second.billing_reason) == (
        *("paid", 2000),
        "subscription_cycle",
    )
    assert at(item_of(found).current_period_end) == datetime(2026, 3, 14, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("behavior", "status"),
    [("cancel", "canceled"), ("pause", "paused"), ("create_invoice", "past_due")],
)
async def test_trial_without_a_card_ends_as_set(kit: Kit, behavior: str, status: str) -> None:
    sub = await kit.subscription(
        await kit.customer(),
        await kit.price(2000, "month"),
        trial_period_days=3,
        trial_settings={"end_behavior": {"missing_payment_method": behavior}},
    )
    assert sub.pending_setup_intent is not None
    await kit.clock(timedelta(days=3, hours=2))
    found = await kit.v1.subscriptions.retrieve_async(sub.id)
    assert found.status == status
    if status == "paused":
        why = found.status_details.paused.subscription.type
        assert why == "trial_end_without_payment_method"


async def test_later_anchor_prorates_the_first_days(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    anchor = int((START + timedelta(days=14)).timestamp())  # of 31 days from 14 January
    sub = await kit.subscription(
        customer, await kit.price(3100, "month"), billing_cycle_anchor=anchor
    )
    [first] = await invoices_of(kit, sub)
    assert (first.total, item_of(sub).current_period_end) == (1400, anchor)


# Time


async def test_periods_are_counted_from_the_31st(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(customer, await kit.price(2000, "month"))
    ends = list[str]()
    for _ in range(5):
        found = await kit.v1.subscriptions.retrieve_async(sub.id)
        end = at(item_of(found).current_period_end)
        ends.append(f"{end:%m-%d}")
        await kit.clock(end + 2 * HOUR)
    assert ends == ["02-28", "03-31", "04-30", "05-31", "06-30"]
    bills = await invoices_of(kit, sub)
    assert [one.billing_reason for one in bills] == ["subscription_create"] + (
        ["subscription_cycle"] * 5
    )
    assert {one.status for one in bills} == {"paid"}


async def test_leap_day_comes_back(kit: Kit) -> None:
    await kit.clock(datetime(2028, 1, 31, tzinfo=UTC))
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(customer, await kit.price(2000, "month"))
    assert at(item_of(sub).current_period_end) == datetime(2028, 2, 29, tzinfo=UTC)


async def test_walk_of_a_year_is_one_call(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(customer, await kit.price(2000, "month"))
    answer = await kit.clock(timedelta(days=365))
    assert answer["steps"] >= 24
    assert (
        len((await kit.v1.invoices.list_async({"subscription": sub.id, "limit": 100})).data) == 13
    )
    told = [e for e in await kit.state("event") if e["type"] == "customer.subscription.updated"]
    assert "items" in told[-1]["data"]["previous_attributes"]


async def test_next_due_instants_lead_through_a_renewal(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    await kit.subscription(customer, await kit.price(2000, "month"))
    seen = list[tuple[str, str]]()
    for _ in range(3):
        due = (await kit.look("clock/next"))["next"]
        await kit.clock(datetime.fromisoformat(due))
        seen.append((due, (await kit.events())[-1]))
    assert seen == [
        ("2026-02-21T12:00:00.000Z", "invoice.upcoming"),
        ("2026-02-28T12:00:00.000Z", "invoice.created"),
        ("2026-02-28T13:00:00.000Z", "invoice.payment_succeeded"),
    ]


async def test_failed_renewal_is_tried_again_until_it_ends(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(customer, await kit.price(2000, "month"))
    await kit.do(
        f"customers/{customer.id}/payment-method", payment_method="pm_card_chargeCustomerFail"
    )
    await kit.clock(datetime(2026, 2, 28, 13, tzinfo=UTC))
    found = await kit.v1.subscriptions.retrieve_async(sub.id, {"expand": ["latest_invoice"]})
    assert (found.status, found.latest_invoice.attempt_count) == ("past_due", 1)
    assert at(found.latest_invoice.next_payment_attempt) == datetime(2026, 3, 3, 13, tzinfo=UTC)
    await kit.clock(timedelta(days=15))
    found = await kit.v1.subscriptions.retrieve_async(sub.id, {"expand": ["latest_invoice"]})
    assert (found.status, found.latest_invoice.attempt_count) == ("canceled", 4)
    assert found.cancellation_details.reason == "payment_failed"
    assert (await kit.events()).count("invoice.payment_failed") == 4


async def test_past_due_recovers_with_another_card(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(customer, await kit.price(2000, "month"))
    path = f"customers/{customer.id}/payment-method"
    await kit.do(path, payment_method="pm_card_chargeCustomerFail")
    await kit.clock(datetime(2026, 2, 28, 13, tzinfo=UTC))
    await kit.do(path, payment_method="pm_card_mastercard")
    await kit.clock(timedelta(days=3))
    assert (await kit.v1.subscriptions.retrieve_async(sub.id)).status == "active"


@pytest.mark.parametrize("end", ["unpaid", "past_due"])
async def test_dunning_ends_as_the_account_is_set(kit: Kit, end: str) -> None:
    await kit.do("reset", settings={"dunning_end": end})
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(customer, await kit.price(2000, "month"))
    await kit.do(
        f"customers/{customer.id}/payment-method", payment_method="pm_card_chargeCustomerFail"
    )
    await kit.clock(datetime(2026, 3, 20, tzinfo=UTC))
    found = await kit.v1.subscriptions.retrieve_async(sub.id)
    assert found.status == end
    paid = await kit.v1.invoices.pay_async(found.latest_invoice, {"payment_method": "pm_card_visa"})
    assert paid.status == "paid"
    assert (await kit.v1.subscriptions.retrieve_async(sub.id)).status == "active"


# Changes


async def upgraded(kit: Kit, sub: Any, price: Any, **more: Any) -> Any:
    change = {"items": [{"id": item_of(sub).id, "price": price.id}], **more}
    return await kit.v1.subscriptions.update_async(sub.id, {**change, "expand": ["latest_invoice"]})


@pytest.fixture
async def half(kit: Kit) -> tuple[Any, Any]:
    """A subscription in the middle of a period of 28 days, and a bigger price."""
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(customer, await kit.price(2000, "month"))
    await kit.clock(START + timedelta(days=14))
    return sub, await kit.price(5000, "month")


async def test_upgrade_is_previewed_and_invoiced_at_once(kit: Kit, half: Any) -> None:
    sub, big = half
    details = {
        "items": [{"id": item_of(sub).id, "price": big.id}],
        "proration_behavior": "always_invoice",
    }
    preview = await kit.v1.invoices.create_preview_async(
        {"subscription": sub.id, "subscription_details": details}
    )
    assert (preview.amount_due, amounts(preview)) == (1500, [-1000, 2500])
    assert preview.id.startswith("upcoming_in_")
    found = await upgraded(
        kit,
        sub,
        big,
        proration_behavior="always_invoice",
        payment_behavior="pending_if_incomplete",
    )
    invoice = found.latest_invoice
    assert (invoice.status, invoice.total, invoice.billing_reason) == (
        *("paid", 1500),
        "subscription_update",
    )
    assert all(line.parent.subscription_item_details.proration for line in invoice.lines.data)
    assert (item_of(found).price.id, item_of(found).id) == (big.id, item_of(sub).id)
    assert item_of(found).current_period_end == item_of(sub).current_period_end


async def test_prorations_wait_for_the_renewal(kit: Kit, half: Any) -> None:
    sub, big = half
    found = await upgraded(kit, sub, big)
    assert found.latest_invoice.billing_reason == "subscription_create"
    preview = await kit.v1.invoices.create_preview_async({"subscription": sub.id})
    assert (preview.total, amounts(preview)) == (6500, [-1000, 2500, 5000])
    await kit.clock(datetime(2026, 2, 28, 13, tzinfo=UTC))
    renewal = (await invoices_of(kit, sub))[-1]
    assert (renewal.total, renewal.status) == (6500, "paid")


async def test_no_proration_changes_the_price_only(kit: Kit, half: Any) -> None:
    sub, big = half
    await upgraded(kit, sub, big, proration_behavior="none")
    assert len(await invoices_of(kit, sub)) == 1
    await kit.clock(datetime(2026, 2, 28, 13, tzinfo=UTC))
    assert (await invoices_of(kit, sub))[-1].total == 5000


async def test_credit_is_what_was_really_charged(kit: Kit, half: Any) -> None:
    sub, big = half
    await upgraded(kit, sub, big, proration_behavior="none")
    again = await upgraded(
        kit, sub, await kit.price(8000, "month"), proration_behavior="always_invoice"
    )
    assert amounts(again.latest_invoice) == [-1000, 4000]


async def test_downgrade_becomes_credit_of_the_customer(kit: Kit, half: Any) -> None:
    sub, _ = half
    small = await kit.price(1000, "month")
    found = await upgraded(kit, sub, small, proration_behavior="always_invoice")
    assert (found.latest_invoice.total, found.latest_invoice.amount_due) == (-500, 0)
    assert (await kit.v1.customers.retrieve_async(sub.customer)).balance == -500
    await kit.clock(datetime(2026, 2, 28, 13, tzinfo=UTC))
    renewal = (await invoices_of(kit, sub))[-1]
    assert (renewal.total, renewal.amount_due, renewal.starting_balance) == (1000, 500, -500)
    assert (await kit.v1.customers.retrieve_async(sub.customer)).balance == 0


async def test_quantity_is_prorated_like_a_price(kit: Kit, half: Any) -> None:
    sub, _ = half
    found = await kit.v1.subscriptions.update_async(
        sub.id,
        {
            "items": [{"id": item_of(sub).id, "quantity": 3}],
            "proration_behavior": "always_invoice",
            "expand": ["latest_invoice"],
        },
    )
    assert amounts(found.latest_invoice) == [-1000, 3000]


async def test_another_interval_starts_a_new_period(kit: Kit, half: Any) -> None:
    sub, _ = half
    found = await upgraded(kit, sub, await kit.price(20000, "year"))
    assert (found.latest_invoice.billing_reason, amounts(found.latest_invoice)) == (
        "subscription_update",
        [-1000, 20000],
    )
    assert at(item_of(found).current_period_end) == datetime(2027, 2, 14, 12, tzinfo=UTC)


async def test_new_anchor_starts_a_new_period_today(kit: Kit, half: Any) -> None:
    sub, _ = half
    found = await kit.v1.subscriptions.update_async(
        sub.id, {"billing_cycle_anchor": {"type": "now"}, "expand": ["latest_invoice"]}
    )
    assert amounts(found.latest_invoice) == [-1000, 2000]
    assert at(item_of(found).current_period_start) == kit.now


async def test_trial_is_ended_by_request(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(customer, await kit.price(2000, "month"), trial_period_days=14)
    await kit.clock(3 * DAY)
    found = await kit.v1.subscriptions.update_async(
        sub.id, {"trial_end": "now", "expand": ["latest_invoice"]}
    )
    assert (found.status, found.latest_invoice.status) == ("active", "paid")
    assert amounts(found.latest_invoice) == [2000]
    assert at(found.billing_cycle_anchor) == kit.now


async def test_change_during_a_trial_costs_nothing(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(customer, await kit.price(2000, "month"), trial_period_days=14)
    found = await upgraded(kit, sub, await kit.price(5000, "month"))
    assert (found.status, len(await invoices_of(kit, sub))) == ("trialing", 1)
    await kit.clock(15 * DAY)
    assert (await invoices_of(kit, sub))[-1].total == 5000


async def test_price_that_is_changed_is_seen_in_items(kit: Kit, half: Any) -> None:
    sub, _ = half
    price = item_of(sub).price
    await kit.v1.prices.update_async(price.id, {"lookup_key": "pro", "metadata": {"plan": "p"}})
    found = await kit.v1.subscriptions.retrieve_async(sub.id)
    assert (item_of(found).price.lookup_key, item_of(found).price.metadata.plan) == ("pro", "p")
    listed = await kit.v1.prices.list_async({"lookup_keys": ["pro"]})
    assert [one.id for one in listed.data] == [price.id]
    other = await kit.price(100)
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.prices.update_async(other.id, {"lookup_key": "pro"})
    moved = {"lookup_key": "pro", "transfer_lookup_key": True}
    assert (await kit.v1.prices.update_async(other.id, moved)).lookup_key == "pro"


async def test_pending_update_waits_for_its_payment(kit: Kit, half: Any) -> None:
    sub, big = half
    await kit.do(
        f"customers/{sub.customer}/payment-method",
        payment_method="pm_card_chargeCustomerFail",
    )
    how = {"proration_behavior": "always_invoice", "payment_behavior": "pending_if_incomplete"}
    found = await upgraded(kit, sub, big, **how)
    assert (found.status, item_of(found).price.id) == ("active", item_of(sub).price.id)
    assert found.pending_update.subscription_items[0].price.id == big.id
    assert (found.latest_invoice.status, found.latest_invoice.total) == ("open", 1500)
    await kit.v1.invoices.pay_async(found.latest_invoice.id, {"payment_method": "pm_card_visa"})
    found = await kit.v1.subscriptions.retrieve_async(sub.id)
    assert (found.pending_update, item_of(found).price.id) == (None, big.id)
    assert "customer.subscription.pending_update_applied" in await kit.events()


async def test_pending_update_expires(kit: Kit, half: Any) -> None:
    sub, big = half
    await kit.do(
        f"customers/{sub.customer}/payment-method",
        payment_method="pm_card_chargeCustomerFail",
    )
    how = {"proration_behavior": "always_invoice", "payment_behavior": "pending_if_incomplete"}
    found = await upgraded(kit, sub, big, **how)
    await kit.clock(timedelta(hours=23))
    invoice = await kit.v1.invoices.retrieve_async(found.latest_invoice.id)
    found = await kit.v1.subscriptions.retrieve_async(sub.id)
    assert (found.pending_update, found.status, invoice.status) == (None, "active", "void")
    assert item_of(found).price.id == item_of(sub).price.id


async def test_error_if_incomplete_keeps_the_old_price(kit: Kit, half: Any) -> None:
    sub, big = half
    await kit.do(
        f"customers/{sub.customer}/payment-method",
        payment_method="pm_card_chargeCustomerFail",
    )
    how = {"proration_behavior": "always_invoice", "payment_behavior": "error_if_incomplete"}
    with pytest.raises(stripe.CardError):
        await upgraded(kit, sub, big, **how)
    found = await kit.v1.subscriptions.retrieve_async(sub.id)
    assert item_of(found).price.id == item_of(sub).price.id


async def test_items_come_and_go_by_their_own_routes(kit: Kit, half: Any) -> None:
    sub, big = half
    added = await kit.v1.subscription_items.create_async(
        {"subscription": sub.id, "price": big.id, "proration_behavior": "none"}
    )
    assert added.current_period_end == item_of(sub).current_period_end
    await kit.v1.subscription_items.update_async(added.id, {"quantity": 2})
    listed = await kit.v1.subscription_items.list_async({"subscription": sub.id})
    assert [one.quantity for one in listed.data] == [1, 2]
    gone = await kit.v1.subscription_items.delete_async(added.id)
    assert gone.deleted is True
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.subscription_items.delete_async(item_of(sub).id)


async def test_mixed_intervals_have_their_own_periods(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    month, year = await kit.price(1000, "month"), await kit.price(9000, "year")
    sub = await kit.v1.subscriptions.create_async(
        {"customer": customer.id, "items": [{"price": month.id}, {"price": year.id}]}
    )
    ends = [f"{at(one.current_period_end):%Y-%m-%d}" for one in sub["items"].data]
    assert ends == ["2026-02-28", "2027-01-31"]
    await kit.clock(datetime(2026, 2, 28, 13, tzinfo=UTC))
    assert amounts((await invoices_of(kit, sub))[-1]) == [1000]


# Ending


async def test_cancel_at_period_end_and_its_undoing(kit: Kit, half: Any) -> None:
    sub, _ = half
    found = await kit.v1.subscriptions.update_async(sub.id, {"cancel_at_period_end": True})
    assert (found.status, found.cancel_at) == ("active", item_of(sub).current_period_end)
    found = await kit.v1.subscriptions.update_async(sub.id, {"cancel_at_period_end": False})
    assert (found.cancel_at, found.canceled_at) == (None, None)
    await kit.v1.subscriptions.update_async(sub.id, {"cancel_at": "min_period_end"})
    await kit.clock(datetime(2026, 2, 28, 13, tzinfo=UTC))
    found = await kit.v1.subscriptions.retrieve_async(sub.id)
    assert (found.status, at(found.ended_at)) == (
        "canceled",
        datetime(2026, 2, 28, 12, tzinfo=UTC),
    )
    assert len(await invoices_of(kit, sub)) == 1
    assert (await kit.v1.subscriptions.list_async()).data == []
    assert len((await kit.v1.subscriptions.list_async({"status": "all"})).data) == 1


async def test_cancel_now_with_proration_gives_credit_and_no_refund(kit: Kit, half: Any) -> None:
    sub, _ = half
    found = await kit.v1.subscriptions.cancel_async(sub.id, {"prorate": True, "invoice_now": True})
    assert found.status == "canceled"
    assert (await kit.v1.customers.retrieve_async(sub.customer)).balance == -1000
    assert await kit.state("refund") == []
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.subscriptions.cancel_async(sub.id)


# Pausing


async def test_pause_makes_no_invoices_and_resume_starts_anew(kit: Kit, half: Any) -> None:
    sub, _ = half
    found = await kit.v1.subscriptions.pause_async(sub.id, {"type": "subscription"})
    assert (found.status, found.status_details.paused.subscription.type) == (
        "paused",
        "pause_requested",
    )
    await kit.clock(timedelta(days=60))
    assert len(await invoices_of(kit, sub)) == 1
    found = await kit.v1.subscriptions.resume_async(
        sub.id, {"billing_cycle_anchor": {"type": "now"}, "expand": ["latest_invoice"]}
    )
    assert (found.status, found.latest_invoice.total) == ("active", 2000)
    assert at(found.billing_cycle_anchor) == kit.now
    assert (await kit.events()).count("customer.subscription.resumed") == 1


@pytest.mark.parametrize(
    ("behavior", "status"),
    [("resume_on_payment_success", "paused"), ("resume_on_payment_attempt", "past_due")],
)
async def test_resume_without_money(kit: Kit, half: Any, behavior: str, status: str) -> None:
    sub, _ = half
    await kit.v1.subscriptions.pause_async(sub.id, {"type": "subscription"})
    await kit.do(
        f"customers/{sub.customer}/payment-method",
        payment_method="pm_card_chargeCustomerFail",
    )
    found = await kit.v1.subscriptions.resume_async(sub.id, {"payment_behavior": behavior})
    assert found.status == status
    await kit.v1.invoices.pay_async(found.latest_invoice, {"payment_method": "pm_card_visa"})
    assert (await kit.v1.subscriptions.retrieve_async(sub.id)).status == "active"


@pytest.mark.parametrize(
    ("behavior", "status"),
    [("void", "void"), ("mark_uncollectible", "uncollectible"), ("keep_as_draft", "draft")],
)
async def test_collection_pause_keeps_the_status(
    kit: Kit, half: Any, behavior: str, status: str
) -> None:
    sub, _ = half
    await kit.v1.subscriptions.update_async(sub.id, {"pause_collection": {"behavior": behavior}})
    await kit.clock(datetime(2026, 2, 28, 13, tzinfo=UTC))
    found = await kit.v1.subscriptions.retrieve_async(sub.id, {"expand": ["latest_invoice"]})
    assert (found.status, found.latest_invoice.status) == ("active", status)
    found = await kit.v1.subscriptions.update_async(sub.id, {"pause_collection": ""})
    assert found.pause_collection is None


# Schedules


async def test_downgrade_at_period_end_by_a_schedule(kit: Kit, half: Any) -> None:
    sub, _ = half
    small = await kit.price(1000, "month")
    made = await kit.v1.subscription_schedules.create_async({"from_subscription": sub.id})
    phase = made.phases[0]
    now_items = [{"price": item_of(sub).price.id, "quantity": 1}]
    await kit.v1.subscription_schedules.update_async(
        made.id,
        {
            "end_behavior": "release",
            "phases": [
                {
                    "items": now_items,
                    "start_date": phase.start_date,
                    "end_date": phase.end_date,
                },
                {
                    "items": [{"price": small.id, "quantity": 1}],
                    "duration": {"interval": "month", "interval_count": 1},
                },
            ],
        },
    )
    found = await kit.v1.subscriptions.retrieve_async(sub.id)
    assert (found.schedule, item_of(found).price.id) == (made.id, item_of(sub).price.id)
    await kit.clock(datetime(2026, 2, 28, 13, tzinfo=UTC))
    renewal = (await invoices_of(kit, sub))[-1]
    assert (renewal.total, renewal.billing_reason) == (1000, "subscription_cycle")
    assert amounts(renewal) == [1000]
    await kit.clock(datetime(2026, 3, 31, 13, tzinfo=UTC))
    schedule = await kit.v1.subscription_schedules.retrieve_async(made.id)
    assert (schedule.status, schedule.released_subscription) == ("released", sub.id)
    assert (await kit.v1.subscriptions.retrieve_async(sub.id)).schedule is None


async def test_schedule_is_released_before_its_time(kit: Kit, half: Any) -> None:
    sub, _ = half
    made = await kit.v1.subscription_schedules.create_async({"from_subscription": sub.id})
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.subscription_schedules.create_async({"from_subscription": sub.id})
    released = await kit.v1.subscription_schedules.release_async(made.id)
    assert (released.status, released.subscription) == ("released", None)


async def test_schedule_ends_with_its_subscription(kit: Kit, half: Any) -> None:
    sub, _ = half
    made = await kit.v1.subscription_schedules.create_async({"from_subscription": sub.id})
    await kit.v1.subscriptions.cancel_async(sub.id)
    found = await kit.v1.subscription_schedules.retrieve_async(made.id)
    assert found.status == "canceled"
    await kit.clock(60 * DAY)
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.subscription_schedules.release_async(made.id)


async def test_schedule_starts_a_subscription_later(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    price = await kit.price(2000, "month")
    made = await kit.v1.subscription_schedules.create_async(
        {
            "customer": customer.id,
            "start_date": int((START + DAY).timestamp()),
            "end_behavior": "cancel",
            "phases": [{"items": [{"price": price.id}]}],
        }
    )
    assert made.status == "not_started"
    await kit.clock(DAY)
    found = await kit.v1.subscription_schedules.retrieve_async(
        made.id, {"expand": ["subscription"]}
    )
    assert (found.status, found.subscription.status) == ("active", "active")
    await kit.clock(timedelta(days=31))
    found = await kit.v1.subscriptions.retrieve_async(found.subscription.id)
    assert found.status == "canceled"


# Discounts


async def test_coupon_once_takes_off_the_first_invoice_only(kit: Kit) -> None:
    coupon = await kit.v1.coupons.create_async({"percent_off": 25, "duration": "once"})
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(
        customer, await kit.price(2000, "month"), discounts=[{"coupon": coupon.id}]
    )
    await kit.clock(datetime(2026, 2, 28, 13, tzinfo=UTC))
    first, second = await invoices_of(kit, sub)
    assert (first.subtotal, first.total, second.total) == (2000, 1500, 2000)
    assert first.total_discount_amounts[0].amount == 500


async def test_repeating_coupon_ends_after_its_months(kit: Kit) -> None:
    coupon = await kit.v1.coupons.create_async(
        {"percent_off": 50, "duration": "repeating", "duration_in_months": 2}
    )
    customer = await kit.customer("pm_card_visa")
    sub = await kit.subscription(
        customer, await kit.price(2000, "month"), discounts=[{"coupon": coupon.id}]
    )
    await kit.clock(datetime(2026, 4, 30, 13, tzinfo=UTC))
    assert [one.total for one in await invoices_of(kit, sub)] == [1000, 1000, 2000, 2000]
