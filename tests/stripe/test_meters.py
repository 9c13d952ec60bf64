"""Meters: events by both versions, sums, error reports, and what they cost."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe

from sandbox.calendar import iso
from tests.stripe.kit import START, Kit, Receiver, code_of, headers_of

HOUR = 3600


@pytest.fixture
async def customer(kit: Kit) -> Any:
    return await kit.customer("pm_card_visa")


async def meter(kit: Kit, formula: str = "sum", **more: Any) -> Any:
    return await kit.v1.billing.meters.create_async(
        {
            "display_name": "Tokens",
            "event_name": "tokens",
            "default_aggregation": {"formula": formula},
            "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
            "value_settings": {"event_payload_key": "value"},
            **more,
        }
    )


def event(customer: Any, value: str, identifier: str, at: datetime | None = None) -> Any:
    made: dict[str, Any] = {
        "event_name": "tokens",
        "identifier": identifier,
        "payload": {"stripe_customer_id": customer.id, "value": value},
    }
    return made if at is None else {**made, "timestamp": int(at.timestamp())}


async def send(kit: Kit, *rest: Any) -> Any:
    return await kit.v1.billing.meter_events.create_async(event(*rest))


async def total(kit: Kit, customer: Any) -> str:
    return (await kit.look(f"meters/tokens/total?customer={customer.id}"))["total"]


@pytest.mark.parametrize(("formula", "value"), [("sum", "12.5"), ("count", "3"), ("last", "0.5")])
async def test_formulas(kit: Kit, customer: Any, formula: str, value: str) -> None:
    await meter(kit, formula)
    for number, amount in enumerate(("2", "10", "0.5")):
        await send(kit, customer, amount, str(number), START + timedelta(seconds=number))
    assert await total(kit, customer) == value


async def test_same_identifier_is_refused_for_a_day(kit: Kit, customer: Any) -> None:
    await meter(kit)
    await send(kit, customer, "1", "a")
    with pytest.raises(stripe.InvalidRequestError) as error:
        await send(kit, customer, "1", "a")
    assert "already exists with identifier a" in str(error.value)
    assert headers_of(error)["Stripe-Should-Retry"] == "false"
    await kit.clock(timedelta(days=1))
    await send(kit, customer, "1", "a")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"event_name": "other"}, "no_meter"),
        ({"payload": {"value": "1"}}, "meter_event_no_customer_defined"),
        (
            {"payload": {"stripe_customer_id": "cus_none", "value": "1"}},
            "meter_event_customer_not_found",
        ),
        ({"timestamp": int((START + timedelta(minutes=6)).timestamp())}, "timestamp_in_future"),
        (
            {"timestamp": int((START - timedelta(days=35, seconds=1)).timestamp())},
            "timestamp_too_far_in_past",
        ),
    ],
)
async def test_wrong_events_are_refused_at_once(
    kit: Kit, customer: Any, change: Any, code: str
) -> None:
    await meter(kit)
    with pytest.raises(stripe.InvalidRequestError) as error:
        await kit.v1.billing.meter_events.create_async({**event(customer, "1", "a"), **change})
    assert code_of(error) == code


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("1.2e15", "meter_event_invalid_value"),
        ("NaN", "meter_event_invalid_value"),
        ("1234567890123456", "meter_event_value_too_many_digits"),
        ("0.1234567890123", "meter_event_value_too_many_digits"),
    ],
)
async def test_values_are_plain_and_short(kit: Kit, customer: Any, value: str, code: str) -> None:
    await meter(kit)
    with pytest.raises(stripe.InvalidRequestError) as error:
        await send(kit, customer, value, "a")
    assert code_of(error) == code
    await send(kit, customer, "123456789012345", "b")
    await send(kit, customer, "-5", "c")
    assert await total(kit, customer) == "123456789012340"


async def test_adjustment_takes_an_event_back(kit: Kit, customer: Any) -> None:
    await meter(kit)
    await send(kit, customer, "5", "a")
    await send(kit, customer, "7", "b")
    cancel = {"event_name": "tokens", "type": "cancel", "cancel": {"identifier": "a"}}
    made = await kit.v1.billing.meter_event_adjustments.create_async(cancel)
    assert made.status == "pending"
    assert await total(kit, customer) == "7"
    made = await kit.v2.billing.meter_event_adjustments.create_async(
        {**cancel, "cancel": {"identifier": "b"}}
    )
    assert await total(kit, customer) == "0"
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.billing.meter_event_adjustments.create_async(
            {**cancel, "cancel": {"identifier": "none"}}
        )


async def test_archived_meter_counts_no_more(kit: Kit, customer: Any) -> None:
    made = await meter(kit)
    with pytest.raises(stripe.InvalidRequestError):
        await meter(kit)
    assert (await kit.v1.billing.meters.deactivate_async(made.id)).status == "inactive"
    with pytest.raises(stripe.InvalidRequestError) as error:
        await send(kit, customer, "1", "a")
    assert code_of(error) == "archived_meter"
    assert (await kit.v1.billing.meters.reactivate_async(made.id)).status == "active"


async def test_window_keeps_the_newest_event(kit: Kit, customer: Any) -> None:
    await meter(kit, event_time_window="hour")
    await send(kit, customer, "5", "a", START)
    await send(kit, customer, "7", "b", START + timedelta(minutes=4))
    assert await total(kit, customer) == "7"


async def test_summaries_add_up_and_lag(kit: Kit, customer: Any) -> None:
    made = await meter(kit)
    await send(kit, customer, "5", "a", START - timedelta(hours=2))
    await send(kit, customer, "7", "b", START)
    start = int(START.timestamp()) - 3 * HOUR
    asked = {"customer": customer.id, "start_time": start, "end_time": start + 4 * HOUR}
    whole = await kit.v1.billing.meters.event_summaries.list_async(made.id, asked)
    assert [one.aggregated_value for one in whole.data] == [12]
    hourly = await kit.v1.billing.meters.event_summaries.list_async(
        made.id, {**asked, "value_grouping_window": "hour"}
    )
    assert [one.aggregated_value for one in hourly.data] == [7, 5]
    await kit.do("meters/tokens/lag", seconds=60)
    late = await kit.v1.billing.meters.event_summaries.list_async(made.id, asked)
    assert [one.aggregated_value for one in late.data] == [0]
    await kit.clock(timedelta(minutes=1))
    late = await kit.v1.billing.meters.event_summaries.list_async(made.id, asked)
    assert [one.aggregated_value for one in late.data] == [12]
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.billing.meters.event_summaries.list_async(
            made.id, {**asked, "start_time": start + 1}
        )


async def stream(kit: Kit, *events: Any) -> stripe.StripeClient:
    session = await kit.v2.billing.meter_event_session.create_async()
    client = kit.client_of(session.authentication_token)
    await client.v2.billing.meter_event_stream.create_async({"events": [*events]})
    return client


async def test_single_event_of_version_two(kit: Kit, customer: Any) -> None:
    await meter(kit)
    given = {**event(customer, "3", "a"), "timestamp": iso(START.timestamp())}
    made = await kit.v2.billing.meter_events.create_async(given)
    assert made.identifier == "a"
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v2.billing.meter_events.create_async(given)
    assert await total(kit, customer) == "3"


async def test_stream_takes_all_and_tells_faults_later(
    kit: Kit, customer: Any, receiver: Receiver
) -> None:
    made = await meter(kit)
    destination = await kit.v2.core.event_destinations.create_async(
        {
            "name": "meters",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": ["v1.billing.meter.error_report_triggered"],
            "webhook_endpoint": {"url": receiver.url},
            "include": ["webhook_endpoint.signing_secret"],
        }
    )
    await stream(kit, event(customer, "4", "good"), event(customer, "four", "bad"))
    assert await total(kit, customer) == "4"
    assert receiver.seen == []
    await kit.clock(timedelta(seconds=10))
    [(body, header)] = receiver.seen
    told = kit.client.parse_event_notification(
        body, header, destination.webhook_endpoint.signing_secret, tolerance=0
    )
    assert told.type == "v1.billing.meter.error_report_triggered"
    fetched: Any = await told.fetch_event_async()  # type: ignore[union-attr]
    assert fetched.related_object.id == made.id
    [kind] = fetched.data.reason.error_types
    assert (kind.code, kind.error_count) == ("meter_event_invalid_value", 1)
    assert kind.sample_errors[0].request.identifier == "bad"
    assert (await kit.v2.core.events.list_async({"object_id": made.id})).data[0].id == fetched.id


async def test_stream_session_ends_after_a_quarter_of_an_hour(kit: Kit, customer: Any) -> None:
    await meter(kit)
    client = await stream(kit, event(customer, "1", "a"))
    await kit.clock(timedelta(minutes=15))
    with pytest.raises(stripe.TemporarySessionExpiredError) as error:
        await client.v2.billing.meter_event_stream.create_async(
            {"events": [event(customer, "1", "b")]}
        )
    assert code_of(error) == "billing_meter_event_session_expired"


@pytest.mark.parametrize("sampled", [True, False])
async def test_event_is_rejected_on_order(kit: Kit, customer: Any, sampled: bool) -> None:
    await meter(kit)
    await send(kit, customer, "5", "a")
    code = "meter_event_customer_not_found"
    answer = await kit.do("meters/tokens/reject", identifier="a", code=code, sampled=sampled)
    assert answer == {"rejected": 1, "ordered": 0}
    await kit.do("meters/tokens/reject", code=code, sampled=sampled)
    await send(kit, customer, "6", "b")
    await send(kit, customer, "7", "c")
    assert await total(kit, customer) == "7"
    await kit.clock(timedelta(seconds=10))
    [told] = await kit.state("v2.core.event")
    [kind] = told["data"]["reason"]["error_types"]
    assert kind["error_count"] == 2
    assert len(kind["sample_errors"]) == (2 if sampled else 0)


async def test_two_at_once_for_one_customer_and_meter_meet(kit: Kit, customer: Any) -> None:
    await meter(kit)
    other = await kit.customer()
    sent = [
        send(kit, who, "1", str(number)) for number, who in enumerate([customer, customer, other])
    ]
    outcomes = await asyncio.gather(*sent, return_exceptions=True)
    lost = [one for one in outcomes if isinstance(one, stripe.RateLimitError)]
    assert len(lost) == 1
    assert (await kit.look("meters/tokens/total"))["total"] == "2"


# What usage costs


async def metered(kit: Kit, customer: Any, **price: Any) -> Any:
    made = await meter(kit)
    recurring = {"interval": "month", "usage_type": "metered", "meter": made.id}
    found = await kit.price(10, recurring=recurring, **price)
    return await kit.subscription(customer, found)


async def renewed(kit: Kit, sub: Any) -> Any:
    await kit.clock(datetime(2026, 2, 28, 13, tzinfo=UTC))
    return (await kit.v1.invoices.list_async({"subscription": sub.id})).data[0]


async def test_usage_is_billed_after_its_period(kit: Kit, customer: Any) -> None:
    sub = await metered(kit, customer)
    await send(kit, customer, "5", "a")
    preview = await kit.v1.invoices.create_preview_async({"subscription": sub.id})
    assert preview.total == 50
    await kit.clock(datetime(2026, 2, 28, 12, tzinfo=UTC))
    # Late usage of the period still counts until the invoice is final.
    await send(kit, customer, "2", "b", datetime(2026, 2, 28, 11, 59, tzinfo=UTC))
    await send(kit, customer, "100", "c", datetime(2026, 2, 28, 12, tzinfo=UTC))
    invoice = await renewed(kit, sub)
    [line] = invoice.lines.data
    assert (invoice.status, line.quantity, line.amount) == ("paid", 7, 70)
    assert line.period.end == int(datetime(2026, 2, 28, 12, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("price", "used", "amount"),
    [
        (
            {
                "tiers_mode": "graduated",
                "tiers": [
                    {"up_to": 10, "unit_amount": 5},
                    {"up_to": "inf", "unit_amount": 2, "flat_amount": 100},
                ],
            },
            "15",
            50 + 10 + 100,
        ),
        (
            {
                "tiers_mode": "volume",
                "tiers": [
                    {"up_to": 10, "unit_amount": 5},
                    {"up_to": "inf", "unit_amount_decimal": "1.5"},
                ],
            },
            "15",
            23,
        ),
        ({"transform_quantity": {"divide_by": 10, "round": "up"}}, "11", 20),
        ({"transform_quantity": {"divide_by": 10, "round": "down"}}, "19", 10),
        ({}, "-4", 0),
    ],
)
async def test_prices_of_usage(kit: Kit, customer: Any, price: Any, used: str, amount: int) -> None:
    made = await meter(kit)
    recurring = {"interval": "month", "usage_type": "metered", "meter": made.id}
    product = await kit.v1.products.create_async({"name": "Tokens"})
    scheme = {"billing_scheme": "tiered"} if "tiers" in price else {"unit_amount": 10}
    given = {"currency": "usd", "product": product.id, "recurring": recurring}
    found = await kit.v1.prices.create_async({**given, **scheme, **price})
    sub = await kit.subscription(customer, found)
    await send(kit, customer, used, "a")
    assert (await renewed(kit, sub)).total == amount


async def test_usage_so_far_is_billed_when_the_interval_changes(kit: Kit, customer: Any) -> None:
    sub = await metered(kit, customer)
    await send(kit, customer, "5", "a")
    await kit.clock(timedelta(days=3))
    year = await kit.price(9000, "year")
    found = await kit.v1.subscriptions.update_async(
        sub.id,
        {
            "items": [{"id": sub["items"].data[0].id, "price": year.id}],
            "expand": ["latest_invoice"],
        },
    )
    assert [line.amount for line in found.latest_invoice.lines.data] == [50, 9000]


async def test_last_usage_is_billed_when_the_subscription_ends(kit: Kit, customer: Any) -> None:
    sub = await metered(kit, customer)
    await send(kit, customer, "5", "a")
    await kit.v1.subscriptions.update_async(sub.id, {"cancel_at_period_end": True})
    invoice = await renewed(kit, sub)
    assert (invoice.total, invoice.status) == (50, "paid")
    assert (await kit.v1.subscriptions.retrieve_async(sub.id)).status == "canceled"
