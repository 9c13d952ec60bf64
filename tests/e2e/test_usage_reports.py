"""Usage that a plan bills: counted here, told to Stripe in pieces, and billed there."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from jobs import report_usage
from sql.pool import Pool, open_pool
from tests import metering
from tests.http import wire_time
from tests.metering import event, send
from tests.servers import Databases
from tests.shop import START, WEBHOOK, Shop, shop

HOUR = timedelta(hours=1)
FIRST = "subscription_create"
METERED: list[dict[str, Any]] = [
    {"meter": "calls", "event_name": "api_calls", "unit_price": "0.002"}
]
OVERAGE: dict[str, Any] = {
    "policy": "bill",
    "event_name": "extra_credits",
    "unit_price": "0.01",
    "report_unit": "10",
}


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool, has_one_clock=True) as made:
        await metering.meter(made.api, "calls")
        yield made


async def reports(sale: Shop, query: str = "") -> list[Any]:
    """The pieces, the first window first."""
    answer = await sale.api.get(f"/v1/usage-reports?limit=100{query}")
    assert answer.status == 200, answer
    return answer.body["data"][::-1]


async def total(sale: Shop, event_name: str) -> Any:
    """What Stripe has counted of the only customer."""
    [customer] = await sale.state("customer")
    answer = await sale.look(f"meters/{event_name}/total?customer={customer['id']}")
    return answer["total"]


async def test_metered_usage_is_told_once_its_hour_is_over_and_billed(sale: Shop) -> None:
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, *(event(f"e{n}") for n in range(3)))
    await sale.job("report_usage")
    assert await reports(sale) == []
    await sale.sleep(2 * HOUR)
    counts = await sale.job("report_usage")
    assert (counts["pieces"], counts["told"]) == (1, 1)
    [piece] = await reports(sale)
    assert (piece["value"], piece["status"], piece["meter"]) == ("3", "sent", "calls")
    assert await total(sale, "api_calls") == "3"
    assert (await sale.job("report_usage"))["pieces"] == 0
    await sale.sleep(timedelta(minutes=10))
    assert (await sale.job("confirm_usage"))["confirmed"] == 1
    await sale.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
    [first, second] = sorted(await sale.state("invoice"), key=lambda one: one["created"])
    assert second["total"] == first["total"] + 1  # 3 × 0.2 cents, rounded
    await sale.job("confirm_usage")
    [piece] = await reports(sale)
    assert (piece["status"], piece["invoice_id"]) == ("billed", second["id"])


async def bill(sale: Shop, **members: Any) -> None:
    """A plan whose usage beyond the wallet is billed, subscribed to, with an empty wallet."""
    await sale.plan(credits=None, overage={**OVERAGE, **members})
    await sale.subscribe()


async def test_usage_beyond_the_wallet_is_told_in_whole_units_and_the_rest_at_the_end(
    sale: Shop,
) -> None:
    await bill(sale)
    assert (await sale.api.consume("25"))["overage"] == "25"
    await sale.sleep(HOUR)
    await sale.api.consume("8")
    await sale.sleep(2 * HOUR)
    await sale.job("report_usage")
    assert [one["value"] for one in await reports(sale)] == ["2", "1"]
    assert await total(sale, "extra_credits") == "3"
    await sale.walk(datetime(2030, 2, 1, 12, 30, tzinfo=UTC))
    await sale.job("report_usage")
    assert await total(sale, "extra_credits") == "3.3"
    await sale.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
    [first, second] = sorted(await sale.state("invoice"), key=lambda one: one["created"])
    assert second["total"] == first["total"] + 3  # 3.3 × 1 cent
    await sale.job("confirm_usage")
    assert {one["status"] for one in await reports(sale)} == {"billed"}


async def test_reversal_of_billed_usage_takes_back_what_was_told(sale: Shop) -> None:
    await bill(sale)
    charge = await sale.api.consume("40")
    await sale.sleep(2 * HOUR)
    await sale.job("report_usage")
    undone = await sale.api.post(f"/v1/charges/{charge['id']}/reverse", {"amount": "15"})
    assert undone.status == 201, undone
    await sale.job("report_usage")
    assert [one["value"] for one in await reports(sale)] == ["4", "-2"]
    assert await total(sale, "extra_credits") == "2"


async def test_bill_is_in_force_only_while_a_subscription_passes_it_on(sale: Shop) -> None:
    await sale.api.put("/v1/customers/acme", {"overage": {"policy": "bill"}})
    refused = await sale.api.post("/v1/consume", {"customer_id": "acme", "amount": "5"})
    assert (refused.status, refused.body["overage_reason"]) == (402, "no_subscription")
    await bill(sale)
    await sale.api.consume("5")
    await sale.act("cancel", when="now")
    refused = await sale.api.post("/v1/consume", {"customer_id": "acme", "amount": "5"})
    assert (refused.status, refused.body["overage_reason"]) == (402, "no_subscription")
    assert (await sale.api.balance())["billed"] == "5"


async def test_plan_gives_its_policy_to_who_has_no_own(sale: Shop) -> None:
    await bill(sale, limit="50")
    shown = (await sale.api.get("/v1/customers/acme")).body["overage"]
    assert shown == {"policy": "bill", "limit": "50"}
    await sale.api.consume("50")
    refused = await sale.api.post("/v1/consume", {"customer_id": "acme", "amount": "1"})
    assert (refused.status, refused.body["overage_reason"]) == (402, "limit_reached")
    # The limit is of a billing period.
    await sale.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
    assert (await sale.api.balance())["overage"]["used"] == "0"
    await sale.api.consume("50")
    await sale.act("cancel", when="now")
    shown = (await sale.api.get("/v1/customers/acme")).body["overage"]
    assert shown == {"policy": "deny", "limit": None}


async def test_own_policy_stays_whatever_the_plan_says(sale: Shop) -> None:
    await sale.api.put("/v1/customers/acme", {"overage": {"policy": "owe", "limit": "7"}})
    await bill(sale)
    shown = (await sale.api.get("/v1/customers/acme")).body["overage"]
    assert shown == {"policy": "owe", "limit": "7"}


@pytest.mark.parametrize("kind", ["500_before", "500_after", "reset_before", "reset_after"])
async def test_lost_answer_is_told_again_and_counted_once(sale: Shop, kind: str) -> None:
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, event("e1"))
    await sale.sleep(2 * HOUR)
    asked = {"method": "POST", "path": "/v1/billing/meter_events", "kind": kind, "count": 3}
    await sale.control("faults", **asked)
    counts = await sale.job("report_usage")
    assert (counts["told"], counts["waiting"]) == (0, 1)
    [piece] = await reports(sale)
    assert piece["status"] == "unknown"
    await sale.lift_faults()
    await sale.sleep(HOUR)
    assert (await sale.job("report_usage"))["told"] == 1
    assert await total(sale, "api_calls") == "1"
    await sale.sleep(HOUR)
    await sale.job("confirm_usage")
    assert [one["status"] for one in await reports(sale)] == ["confirmed"]


@pytest.mark.parametrize("kind", ["reset_before", "reset_after"])
async def test_fate_unknown_for_a_day_is_told_by_the_sum(sale: Shop, kind: str) -> None:
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, event("e1"))
    await sale.sleep(2 * HOUR)
    asked = {"method": "POST", "path": "/v1/billing/meter_events", "kind": kind, "count": 3}
    await sale.control("faults", **asked)
    await sale.job("report_usage")
    await sale.sleep(timedelta(hours=25))
    await sale.job("report_usage")
    assert [one["status"] for one in await reports(sale)] == ["unknown"]
    await sale.job("confirm_usage")
    states = {"reset_after": ["confirmed"], "reset_before": ["superseded"]}[kind]
    assert [one["status"] for one in await reports(sale)] == states
    await sale.job("report_usage")
    assert await total(sale, "api_calls") == "1"
    told = [one["identifier"] for one in await reports(sale) if one["status"] != "superseded"]
    assert len(set(told)) == 1


async def test_late_events_and_corrections_are_told_as_further_pieces(sale: Shop) -> None:
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, event("e1"), event("e2"))
    await sale.sleep(2 * HOUR)
    await sale.job("report_usage")
    at = (await reports(sale))[0]["window_start"]
    await send(sale.api, event("e3", time=at))
    await sale.job("report_usage")
    for id_ in ("e1", "e2"):
        body = {"customer_id": "acme", "source": "app", "id": id_, "action": "cancel"}
        done = await sale.api.post("/v1/events/correct", {**body, "correction_id": id_}, key=None)
        assert done.status == 201, done
    await sale.job("report_usage")
    assert [one["value"] for one in await reports(sale)] == ["2", "1", "-2"]
    assert await total(sale, "api_calls") == "1"


async def test_piece_that_stripe_rejects_is_not_counted_and_a_change_is_told_whole(
    sale: Shop,
) -> None:
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, event("e1"))
    await sale.sleep(2 * HOUR)
    [meter] = await sale.state("billing.meter")
    await sale.stripe.v1.billing.meters.deactivate_async(meter["id"])
    counts = await sale.job("report_usage")
    assert counts["refused"] == 1
    [piece] = await reports(sale)
    assert piece["status"] == "rejected"
    assert "archived" in piece["error"]
    await sale.stripe.v1.billing.meters.reactivate_async(meter["id"])
    await send(sale.api, event("e2", time=piece["window_start"]))
    await sale.job("report_usage")
    assert [(one["value"], one["status"]) for one in await reports(sale)] == [
        ("1", "rejected"),
        ("2", "sent"),
    ]
    assert await total(sale, "api_calls") == "2"


async def test_sum_that_differs_for_long_is_settled_by_telling_what_lacks(sale: Shop) -> None:
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, event("e1"))
    await sale.sleep(2 * HOUR)
    await sale.job("report_usage")
    [piece] = await reports(sale)
    await send(sale.api, event("e2", time=piece["window_start"]))
    await sale.job("report_usage")
    # Stripe takes one back in the end, and names it nowhere.
    await sale.control(
        "meters/api_calls/reject",
        identifier=piece["identifier"],
        code="meter_event_invalid_value",
        sampled=False,
    )
    await sale.sleep(HOUR)
    assert (await sale.job("confirm_usage"))["waiting"] == 1
    await sale.sleep(timedelta(hours=7))
    assert (await sale.job("confirm_usage"))["disputed"] == 2
    await sale.job("report_usage")
    assert await total(sale, "api_calls") == "2"
    await sale.sleep(HOUR)
    await sale.job("confirm_usage")
    assert [(one["value"], one["status"]) for one in await reports(sale)] == [
        ("1", "disputed"),
        ("1", "disputed"),
        ("1", "confirmed"),
    ]


async def test_usage_after_its_invoice_is_final_is_listed_and_not_told(sale: Shop) -> None:
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, event("e1"))
    await sale.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
    await sale.job("report_usage")
    await sale.job("confirm_usage")
    [piece] = await reports(sale)
    await send(sale.api, event("e2", time=piece["window_start"]))
    await sale.sleep(HOUR)
    await sale.job("report_usage")
    await sale.job("confirm_usage")
    assert [(one["value"], one["status"]) for one in await reports(sale)] == [
        ("1", "billed"),
        ("1", "missed_invoice"),
    ]
    assert await total(sale, "api_calls") == "1"


async def test_piece_told_after_its_invoice_was_final_is_found_to_have_missed_it(
    sale: Shop,
) -> None:
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, event("e1"))
    end = datetime(2030, 2, 1, 14, tzinfo=UTC)
    await sale.sleep(end - await sale.api.now())  # nothing of ours ran meanwhile
    await sale.apply()
    await sale.job("report_usage")
    assert [one["status"] for one in await reports(sale)] == ["sent"]
    await sale.job("confirm_usage")
    assert [one["status"] for one in await reports(sale)] == ["missed_invoice"]


async def test_period_that_begins_within_an_hour_cuts_its_window(sale: Shop) -> None:
    await sale.sleep(timedelta(minutes=7))
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, event("e1"))
    end = datetime(2030, 2, 1, 12, 7, tzinfo=UTC)
    await sale.sleep(end - await sale.api.now() - timedelta(minutes=1))
    await send(sale.api, event("e2"))
    await sale.walk(end + timedelta(minutes=1))
    await send(sale.api, event("e3"))
    await sale.sleep(2 * HOUR)
    await sale.job("report_usage")
    found = [(one["window_start"][:16], one["value"]) for one in await reports(sale)]
    assert found == [
        ("2030-01-01T12:07", "1"),
        ("2030-02-01T12:00", "1"),
        ("2030-02-01T12:07", "1"),
    ]


async def test_change_of_plan_ends_what_the_new_one_does_not_bill(sale: Shop) -> None:
    await sale.plan(metered=METERED)
    await sale.plan("flat", tier="flat", price={"amount": "90.00", "currency": "USD"})
    await sale.subscribe()
    await send(sale.api, event("e1"))
    await sale.sleep(timedelta(minutes=30))
    await sale.act("change", plan="flat", when="now")
    await sale.sleep(timedelta(minutes=1))
    await send(sale.api, event("e2"))
    await sale.sleep(2 * HOUR)
    await sale.job("report_usage")
    assert [one["value"] for one in await reports(sale)] == ["1"]
    [sub] = await sale.state("subscription")
    assert len(sub["items"]["data"]) == 1


async def test_meter_of_stripe_that_does_not_add_up_is_refused(sale: Shop) -> None:
    await sale.stripe.v1.billing.meters.create_async(
        {
            "display_name": "Last",
            "event_name": "api_calls",
            "default_aggregation": {"formula": "last"},
        }
    )
    answer = await sale.api.put(
        "/v1/plans/pro",
        {
            "name": "Pro",
            "tier": "pro",
            "price": {"amount": "20.00", "currency": "USD"},
            "interval": "month",
            "metered": METERED,
        },
    )
    assert (answer.status, answer.code) == (422, "stripe_refused")
    assert "formula last" in answer.body["detail"]


PUT: dict[str, Any] = {
    "name": "Pro",
    "tier": "pro",
    "price": {"amount": "20.00", "currency": "USD"},
    "interval": "month",
}


BAD_ITEMS: list[tuple[dict[str, Any], str]] = [
    ({"metered": [{**METERED[0], "meter": "nope"}]}, "/metered/0/meter"),
    ({"metered": [{**METERED[0], "meter": "charged"}]}, "/metered/0/meter"),
    ({"metered": [{**METERED[0], "tiers": [{}]}]}, "/metered/0/unit_price"),
    ({"metered": [{"meter": "calls", "event_name": "x"}]}, "/metered/0/unit_price"),
    ({"metered": METERED * 2}, "/metered/1/event_name"),
    (
        {"metered": [{**METERED[0], "unit_price": "0." + "0" * 15 + "1"}]},
        "/metered/0/unit_price",
    ),
    ({"metered": [{**METERED[0], "event_name": " x"}]}, "/metered/0/event_name"),
    (
        {"metered": [{"meter": "calls", "event_name": "x", "tiers": [{"up_to": 5}]}]},
        "/metered/0/tiers",
    ),
    ({"overage": {"policy": "bill"}}, "/overage/event_name"),
    ({"overage": {"policy": "owe"}}, "/overage/limit"),
    ({"overage": {"policy": "deny", "limit": "1"}}, "/overage/limit"),
    ({"overage": {"policy": "owe", "limit": "1", "unit_price": "1"}}, "/overage/policy"),
    (
        {"metered": METERED, "overage": {**OVERAGE, "event_name": "api_calls"}},
        "/overage/event_name",
    ),
]


@pytest.mark.parametrize(("members", "pointer"), BAD_ITEMS)
async def test_plan_whose_items_make_no_sense_is_refused(
    sale: Shop, members: dict[str, Any], pointer: str
) -> None:
    await metering.meter(sale.api, "charged", charge="calls")
    answer = await sale.api.put("/v1/plans/pro", {**PUT, **members})
    assert answer.status == 422, answer
    assert answer.body["errors"][0]["pointer"] == pointer
    assert (await sale.api.get("/v1/plans")).body["data"] == []


async def test_name_means_one_thing_in_all_plans(sale: Shop) -> None:
    await sale.plan(overage=OVERAGE)
    other = {**OVERAGE, "report_unit": "1"}
    answer = await sale.api.put("/v1/plans/mega", {**PUT, "overage": other})
    assert (answer.status, answer.code) == (422, "invalid_value")
    answer = await sale.api.put("/v1/plans/mega", {**PUT, "overage": OVERAGE})
    assert answer.status == 201


async def test_meter_that_a_plan_bills_by_can_not_be_charged_in_credits(sale: Shop) -> None:
    shown = await sale.plan(metered=METERED, overage=OVERAGE)
    assert shown["metered"][0]["unit_price"] == "0.002"
    assert shown["overage"] == {**OVERAGE, "limit": None}
    body = {"event_type": "call", "aggregation": "count", "charge": "events"}
    answer = await sale.api.put("/v1/meters/calls", body)
    assert (answer.status, answer.code) == (422, "invalid_value")
    assert answer.body["errors"][0]["pointer"] == "/charge"


async def test_meter_that_does_not_add_up_can_not_be_billed_by_a_plan(sale: Shop) -> None:
    await metering.meter(sale.api, "peak", aggregation="max", value_property="n")
    item = {"meter": "peak", "event_name": "peak", "unit_price": "1"}
    answer = await sale.api.put("/v1/plans/mega", {**PUT, "metered": [item]})
    assert (answer.status, answer.code) == (422, "invalid_value")
    assert answer.body["errors"][0]["pointer"] == "/metered/0/meter"


async def test_tiers_are_billed_as_they_are_told(sale: Shop) -> None:
    tiers = [{"up_to": 2, "unit_price": "1"}, {"unit_price": "0.5", "flat_price": "3"}]
    item = {"meter": "calls", "event_name": "api_calls", "tiers": tiers}
    await sale.plan(metered=[item])
    await sale.subscribe()
    await send(sale.api, *(event(f"e{n}") for n in range(5)))
    await sale.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
    [first, second] = sorted(await sale.state("invoice"), key=lambda one: one["created"])
    assert second["total"] - first["total"] == 200 + 300 + 150


async def test_values_of_more_than_fifteen_digits_are_told_in_parts(sale: Shop) -> None:
    await metering.meter(sale.api, "tokens", aggregation="sum", value_property="n")
    await sale.plan(metered=[{**METERED[0], "meter": "tokens"}])
    await sale.subscribe()
    await send(sale.api, event("e1", data={"n": 1234567890123456}))
    await sale.sleep(2 * HOUR)
    await sale.job("report_usage")
    assert [one["value"] for one in await reports(sale)] == ["999999999999999", "234567890123457"]
    assert await total(sale, "api_calls") == "1234567890123456"


async def test_key_of_one_customer_sees_nothing_of_others(sale: Shop) -> None:
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, event("e1"))
    await sale.sleep(2 * HOUR)
    await sale.job("report_usage")
    assert len(await reports(sale, "&customer_id=acme")) == 1
    await sale.api.customer("other")
    assert await reports(sale, "&customer_id=other") == []
    assert await reports(sale, "&status=due") == []
    answer = await sale.api.get("/v1/usage-reports?status=lost")
    assert (answer.status, answer.code) == (422, "invalid_query")


async def test_usage_is_told_before_its_subscription_is_ended_at_once(sale: Shop) -> None:
    await sale.plan(metered=METERED, credits=None, overage=OVERAGE)
    await sale.subscribe()
    await send(sale.api, *(event(f"e{n}") for n in range(1_000)))
    await sale.api.consume("25")
    await sale.sleep(timedelta(minutes=20))
    await sale.act("cancel", when="now")
    assert await total(sale, "api_calls") == "1000"
    assert await total(sale, "extra_credits") == "2.5"
    await sale.sleep(timedelta(minutes=10))
    assert (await sale.job("report_usage"))["pieces"] == 0
    await sale.walk(datetime(2030, 1, 1, 14, tzinfo=UTC))
    [last] = [one for one in await sale.state("invoice") if one["billing_reason"] != FIRST]
    assert (last["status"], last["total"]) == ("paid", 203)  # 2.00, and 2.5 cents
    await sale.job("confirm_usage")
    assert {one["status"] for one in await reports(sale)} == {"billed"}


async def test_usage_that_stripe_does_not_take_keeps_its_subscription(sale: Shop) -> None:
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, event("e1"))
    asked = {"method": "POST", "path": "/v1/billing/meter_events", "kind": "500_before"}
    await sale.control("faults", **asked, count=3)
    place = "/v1/customers/acme/subscription/cancel"
    refused = await sale.api.post(place, {"when": "now"}, key="stop")
    assert (refused.status, refused.code) == (409, "usage_flush_pending")
    [sub] = await sale.state("subscription")
    assert sub["status"] == "active"
    await sale.lift_faults()
    await sale.sleep(timedelta(minutes=5))
    done = await sale.api.post(place, {"when": "now"}, key="stop")
    assert done.status == 200, done
    assert await total(sale, "api_calls") == "1"


async def reconciled(sale: Shop) -> Any:
    answer = await sale.api.get("/v1/reconciliation")
    assert answer.status == 200, answer
    return answer.body


def reasons(found: Any) -> list[dict[str, str]]:
    return [{one["name"]: one["value"] for one in row["reasons"]} for row in found["data"]]


async def test_reconciliation_names_every_difference(sale: Shop) -> None:
    await sale.plan(metered=METERED, credits=None, overage=OVERAGE)
    await sale.subscribe()
    await send(sale.api, event("e1"), event("e2"))
    await sale.api.consume("25")
    await sale.sleep(2 * HOUR)
    await sale.job("report_usage")
    found = await reconciled(sale)
    assert reasons(found) == [{"in_flight": "2"}, {"in_flight": "2", "carried": "0.5"}]
    await sale.sleep(HOUR)
    await sale.job("confirm_usage")
    found = await reconciled(sale)
    assert (found["rows"], found["agreed"], found["explained"]) == (2, 1, 1)
    assert reasons(found) == [{"carried": "0.5"}, {}]
    at = (await reports(sale))[0]["window_start"]
    await send(sale.api, event("e3", time=at))
    await sale.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
    await send(sale.api, event("e4", time=at))
    await sale.sleep(HOUR)
    await sale.job("report_usage")
    found = (
        await sale.api.get("/v1/reconciliation?from=2030-01-01T00:00:00Z&to=2030-02-01T00:00:00Z")
    ).body
    assert reasons(found)[0] == {"late": "1"}
    assert (found["unexplained"], found["score"]) == (0, "1.000000")
    [row] = [one for one in found["data"] if one["meter"] == "calls"]
    assert (row["used"], row["told"], row["stripe"], row["difference"]) == ("4", "3", "3", "1")


async def test_reconciliation_finds_what_stripe_has_and_nobody_told(sale: Shop) -> None:
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, event("e1"))
    [customer] = await sale.state("customer")
    await sale.stripe.v1.billing.meter_events.create_async(
        {
            "event_name": "api_calls",
            "payload": {"stripe_customer_id": customer["id"], "value": "5"},
            "identifier": "by-hand",
        }
    )
    await sale.sleep(2 * HOUR)
    await sale.job("report_usage")
    await sale.sleep(HOUR)
    await sale.job("confirm_usage")
    found = await reconciled(sale)
    assert reasons(found) == [{"duplicate": "-5"}]
    assert (found["unexplained"], found["score"]) == (1, "0.000000")


@pytest.mark.parametrize(
    "query", ["from=2030-02-01T00:00:00Z&to=2030-01-01T00:00:00Z", "from=2029-01-01T00:00:00Z"]
)
async def test_reconciliation_of_no_range_or_too_long_a_one_is_refused(
    sale: Shop, query: str
) -> None:
    answer = await sale.api.get(f"/v1/reconciliation?{query}")
    assert (answer.status, answer.code) == (422, "invalid_query")


async def test_usage_that_an_error_report_names_is_rejected_and_told_again(pool: Pool) -> None:
    async with shop(pool, has_one_clock=True) as sale:
        await metering.meter(sale.api, "calls")
        made = await sale.stripe.v2.core.event_destinations.create_async(
            {
                "name": "meters",
                "type": "webhook_endpoint",
                "event_payload": "thin",
                "enabled_events": ["v1.billing.meter.error_report_triggered"],
                "webhook_endpoint": {"url": sale.api.url + WEBHOOK},
                "include": ["webhook_endpoint.signing_secret"],
            }
        )
        assert made.webhook_endpoint is not None
        sale.trust(str(made.webhook_endpoint.signing_secret))
        await sale.plan(metered=METERED)
        await sale.subscribe()
        await send(sale.api, *(event(f"e{n}") for n in range(10)))
        await sale.sleep(2 * HOUR)
        await sale.job("report_usage")
        [piece] = await reports(sale)
        order = {"identifier": piece["identifier"], "code": "meter_event_invalid_value"}
        await sale.control("meters/api_calls/reject", **order)
        await sale.sleep(timedelta(minutes=1))
        await sale.events()
        await sale.apply()
        [piece] = await reports(sale)
        assert (piece["status"], piece["error"]) == ("rejected", "meter_event_invalid_value")
        await send(sale.api, *(event(f"f{n}", time=piece["window_start"]) for n in range(2)))
        await sale.job("report_usage")
        assert [(one["value"], one["status"]) for one in await reports(sale)] == [
            ("10", "rejected"),
            ("12", "sent"),
        ]
        assert await total(sale, "api_calls") == "12"


async def test_rejected_usage_is_told_again_after_some_hours(sale: Shop) -> None:
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, event("e1"))
    await sale.sleep(2 * HOUR)
    [meter] = await sale.state("billing.meter")
    await sale.stripe.v1.billing.meters.deactivate_async(meter["id"])
    await sale.job("report_usage")
    await sale.stripe.v1.billing.meters.reactivate_async(meter["id"])
    await sale.job("report_usage")
    assert [one["status"] for one in await reports(sale)] == ["rejected"]
    await sale.sleep(7 * HOUR)
    assert (await sale.job("confirm_usage"))["again"] == 1
    await sale.job("report_usage")
    assert [one["status"] for one in await reports(sale)] == ["rejected", "sent"]
    assert (await sale.job("confirm_usage"))["again"] == 0
    assert await total(sale, "api_calls") == "1"


async def test_month_of_usage_comes_to_its_invoice_to_the_cent(sale: Shop) -> None:
    """Calls and credits every day, some late, some undone, some that Stripe forgets or rejects; the
    clock goes from instant to instant, and the jobs tell and compare by themselves.
    """
    await sale.plan(metered=METERED, credits="100", overage={**OVERAGE, "report_unit": "7"})
    await sale.subscribe()
    counted, used = 0, 0
    charges: list[str] = []
    for day in range(31):
        await sale.walk(START + timedelta(days=day, hours=day % 5, minutes=10))
        calls = 3 * day + 1
        at = START + timedelta(days=day // 2 if day % 4 == 3 else day, minutes=5)
        await send(sale.api, *(event(f"d{day}-{n}", time=wire_time(at)) for n in range(calls)))
        counted += calls
        charges.append((await sale.api.consume(str(20 + day)))["id"])
        used += 20 + day
        if day % 6 == 5:
            undone = await sale.api.post(f"/v1/charges/{charges[-2]}/reverse", {"amount": "9"})
            assert undone.status == 201, undone
            used -= 9
        if day % 7 == 2:
            kind = ["500_before", "reset_after"][day % 2]
            asked = {"method": "POST", "path": "/v1/billing/meter_events", "kind": kind}
            await sale.control("faults", **asked, count=4)
        if day % 9 == 4:
            order = {"code": "meter_event_invalid_value", "sampled": False}
            await sale.control("meters/api_calls/reject", **order)
    await sale.walk(datetime(2030, 2, 2, 14, tzinfo=UTC))
    billed = Decimal((await sale.api.balance())["billed"])
    assert billed == used - 100
    assert Decimal(await total(sale, "api_calls")) == counted
    assert abs(Decimal(await total(sale, "extra_credits")) - billed / 7) < Decimal("1e-11")
    [first, second] = sorted(await sale.state("invoice"), key=lambda one: one["created"])
    cents = (Decimal(counted) / 5).quantize(Decimal(1)) + (billed / 7).quantize(Decimal(1))
    assert second["total"] == first["total"] + cents
    found = await sale.api.get(
        "/v1/reconciliation?from=2030-01-01T00:00:00Z&to=2030-02-01T00:00:00Z"
    )
    assert found.body["unexplained"] == 0
    assert {name for one in reasons(found.body) for name in one} == {"carried"}
    differences = [Decimal(one["difference"]) for one in found.body["data"]]
    assert abs(sum(differences)) < Decimal("1e-9")


async def pieces_of_six_hours(databases: Databases) -> list[tuple[str, ...]]:
    """Sums of many sizes, two to an hour, in a database of their own: what is to be told."""
    database = await databases.make()
    pool = await open_pool(database.dsn, size=5)
    async with shop(pool, has_one_clock=True) as sale:
        await metering.meter(sale.api, "calls")
        await metering.meter(sale.api, "units", aggregation="sum", value_property="n")
        item = {"meter": "units", "event_name": "units", "unit_price": "0.01"}
        await sale.plan(metered=[*METERED, item])
        await sale.subscribe()
        amounts = ["0.1", "1000", "1234567890123456", "0.0000000000004", "7", "0"]
        for number, amount in enumerate(amounts):
            data = {"n": amount}
            await send(sale.api, *(event(f"e{number}{n}", data=data) for n in range(2)))
            await sale.sleep(HOUR)
        await sale.sleep(2 * HOUR)
        await sale.job("report_usage")
        found = await reports(sale)
    await pool.close()
    await databases.drop(database)
    members = ("event_name", "window_start", "window_end", "value", "status")
    return sorted(
        (*(str(one[name]) for name in members), one["identifier"].split("_", 3)[3]) for one in found
    )


async def test_plain_hours_made_at_once_are_as_those_made_one_by_one(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = await pieces_of_six_hours(databases)

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(report_usage, "_measure_plain", nothing)
    assert await pieces_of_six_hours(databases) == at_once
    assert len(at_once) == 6 + 7  # 0 is not told, and the long one is in three parts
