"""Usage that is known only after its invoice was final: listed, or on the next invoice. Once."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sql.pool import Pool
from tests import metering
from tests.metering import event, send
from tests.shop import Shop, shop

HOUR = timedelta(hours=1)
CLOSED = datetime(2030, 2, 1, 14, tzinfo=UTC)
"""When the first invoice with usage is final."""
NEXT = datetime(2030, 3, 1, 14, tzinfo=UTC)
AT = "2030-01-01T12:30:00Z"
METERED: dict[str, Any] = {"meter": "calls", "event_name": "api_calls"}
PRICE: dict[str, Any] = {"unit_price": "0.125"}


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool, has_one_clock=True, late_usage="next_invoice") as made:
        await metering.meter(made.api, "calls")
        yield made


async def use(sale: Shop, *names: str, at: str = AT) -> None:
    await send(sale.api, *(event(name, time=at) for name in names))


async def closed(sale: Shop, *, price: dict[str, Any] = PRICE, used: int = 3) -> None:
    """A plan, subscribed to, whose first invoice with usage (of so many calls) is final."""
    await sale.plan(metered=[{**METERED, **price}])
    await sale.subscribe()
    await use(sale, *(f"first{n}" for n in range(used)))
    await sale.walk(CLOSED)
    await sale.job("confirm_usage")


async def run(sale: Shop) -> None:
    """What changed is measured, and what missed its invoice is settled."""
    await sale.sleep(timedelta(minutes=10))
    await sale.job("report_usage")
    await sale.job("confirm_usage")


async def late(sale: Shop) -> list[tuple[str, str, str | None]]:
    """The pieces that missed their invoice, the oldest first."""
    shown = (await sale.api.get("/v1/usage-reports?limit=100")).body["data"][::-1]
    return [
        (one["value"], one["status"], one["not_billed"]) for one in shown if one["sent_at"] is None
    ]


async def items(sale: Shop) -> list[Any]:
    return sorted(await sale.state("invoiceitem"), key=lambda one: one["date"])


async def invoices(sale: Shop) -> list[Any]:
    return sorted(await sale.state("invoice"), key=lambda one: one["created"])


async def reconciled(sale: Shop) -> Any:
    place = "/v1/reconciliation?from=2030-01-01T00:00:00Z&to=2030-02-01T00:00:00Z"
    return (await sale.api.get(place)).body


async def cancel_event(sale: Shop, name: str) -> None:
    body = {"customer_id": "acme", "source": "app", "id": name, "action": "cancel"}
    done = await sale.api.post("/v1/events/correct", {**body, "correction_id": name}, key=None)
    assert done.status == 201, done


async def test_late_usage_is_on_the_next_invoice_to_the_cent(sale: Shop) -> None:
    await closed(sale)  # 3 × 12.5 cents: 38
    await use(sale, "late0", "late1")
    await run(sale)
    await run(sale)
    [item] = await items(sale)
    # 5 × 12.5 cents are 62.5, so 63; 38 of them are billed.
    assert (item["amount"], item["currency"]) == (25, "usd")
    assert item["description"] == (
        "calls (api_calls), 2030-01-01 12:00 to 2030-01-01 13:00 UTC: 2 more than was billed"
    )
    assert item["period"] == {"start": 1893499200, "end": 1893502800}
    [piece] = [
        one
        for one in (await sale.api.get("/v1/usage-reports")).body["data"]
        if one["status"] == "next_invoice"
    ]
    marks = item["metadata"]
    assert (marks["user_id"], marks["event_name"]) == ("acme", "api_calls")
    assert (marks["drawdown"], marks["report_rows_1"]) == (
        sale.running.service.installation_id,
        piece["identifier"],
    )
    assert piece["invoice_item_id"] == item["id"]
    why = await sale.api.get("/v1/customers/acme/why?window=2030-01-01T12:00:00Z")
    assert "2 came after its invoice was final: the subscription's next" in why.body["verdict"]
    await sale.walk(NEXT)
    [_, second, third] = await invoices(sale)
    assert second["total"] == 2_000 + 38
    assert (third["total"], third["status"]) == (2_000 + 25, "paid")
    assert [line["amount"] for line in third["lines"]["data"]] == [25, 0, 2_000]
    found = await reconciled(sale)
    assert [one["reasons"] for one in found["data"]] == [[{"name": "next_invoice", "value": "2"}]]
    assert (found["explained"], found["unexplained"]) == (1, 0)
    # The plan's credits came with it all the same.
    assert (await sale.api.balance())["available"] == "3000"


async def test_late_usage_is_written_off_by_default(pool: Pool) -> None:
    async with shop(pool, has_one_clock=True) as sale:
        await metering.meter(sale.api, "calls")
        await closed(sale)
        await use(sale, "late0", "late1")
        await run(sale)
        assert await late(sale) == [("2", "missed_invoice", "written_off")]
        # What was written off stays so.
        config = sale.running.service.config
        sale.running.service.config = msgspec.structs.replace(config, late_usage="next_invoice")
        await run(sale)
        assert await items(sale) == []
        await use(sale, "late2")
        await run(sale)
        assert [one["amount"] for one in await items(sale)] == [12]  # 4 × 12.5 - 38
        found = await reconciled(sale)
        assert [one["reasons"] for one in found["data"]] == [
            [{"name": "late", "value": "2"}, {"name": "next_invoice", "value": "1"}]
        ]


async def test_late_correction_is_a_credit_on_the_next_invoice(sale: Shop) -> None:
    await closed(sale)
    await cancel_event(sale, "first0")
    await run(sale)
    [item] = await items(sale)
    assert item["amount"] == 25 - 38
    assert item["description"].endswith(": 1 less than was billed")
    await sale.walk(NEXT)
    assert (await invoices(sale))[-1]["total"] == 2_000 - 13


async def test_correction_of_what_waits_for_an_item_lowers_it(sale: Shop) -> None:
    await closed(sale)
    await use(sale, "late0")
    await run(sale)
    await use(sale, "late1", "late2")
    await run(sale)
    await cancel_event(sale, "late1")
    await run(sale)
    # Of one period there is one item in six hours.
    assert [one["amount"] for one in await items(sale)] == [50 - 38]
    await sale.sleep(6 * HOUR)
    await run(sale)
    assert [one["amount"] for one in await items(sale)] == [50 - 38, 63 - 50]
    assert await late(sale) == [
        ("1", "next_invoice", None),
        ("2", "next_invoice", None),
        ("-1", "next_invoice", None),
    ]


async def test_less_than_a_cent_waits_until_it_comes_to_one(sale: Shop) -> None:
    await closed(sale, price={"unit_price": "0.002"})  # 0.6 cents: 1
    await use(sale, "late0")
    await run(sale)
    assert await items(sale) == []
    assert await late(sale) == [("1", "missed_invoice", None)]
    await use(sale, *(f"more{n}" for n in range(4)))
    await run(sale)
    assert [one["amount"] for one in await items(sale)] == [1]  # 8 × 0.2 cents are 2


@pytest.mark.parametrize(
    ("mode", "amount"), [("graduated", 300 + 3 * 50), ("volume", 300 + 5 * 50 - 200)]
)
async def test_tiers_are_priced_by_the_whole_period(sale: Shop, mode: str, amount: int) -> None:
    tiers = [{"up_to": 2, "unit_price": "1"}, {"unit_price": "0.5", "flat_price": "3"}]
    await closed(sale, price={"tiers": tiers, "tier_mode": mode}, used=2)
    await use(sale, "late0", "late1", "late2")
    await run(sale)
    assert [one["amount"] for one in await items(sale)] == [amount]


async def test_late_usage_has_the_price_of_its_period(sale: Shop) -> None:
    await closed(sale)
    dearer = [{**METERED, "unit_price": "9"}]
    await sale.plan("mega", tier="mega", metered=dearer)
    await sale.act("change", plan="mega", when="now")
    before = {one["id"] for one in await items(sale)}
    await use(sale, "late0")
    await run(sale)
    assert [one["amount"] for one in await items(sale) if one["id"] not in before] == [50 - 38]


@pytest.mark.parametrize("kind", ["500_before", "500_after", "reset_before", "reset_after"])
@pytest.mark.parametrize("wait", [HOUR, timedelta(hours=26)])
async def test_item_whose_answer_is_lost_is_made_once(
    sale: Shop, kind: str, wait: timedelta
) -> None:
    await closed(sale)
    await use(sale, "late0")
    asked = {"method": "POST", "path": "/v1/invoiceitems", "kind": kind, "count": 3}
    await sale.control("faults", **asked)
    await run(sale)
    assert await late(sale) == [("1", "next_invoice", None)]
    await sale.lift_faults()
    await sale.sleep(wait)
    await sale.job("stripe_outbox")
    await sale.job("confirm_usage")
    assert [one["amount"] for one in await items(sale)] == [12]
    shown = (await sale.api.get("/v1/usage-reports?status=next_invoice")).body["data"]
    assert [one["invoice_item_id"] for one in shown] == [(await items(sale))[0]["id"]]


async def test_item_that_stripe_refuses_is_listed_with_its_words(sale: Shop) -> None:
    await closed(sale)
    [sub] = await sale.state("subscription")
    await sale.stripe.v1.subscriptions.cancel_async(sub["id"])  # the news is not applied yet
    await use(sale, "late0")
    await sale.sleep(timedelta(minutes=10))
    await sale.job("report_usage")
    await sale.job("confirm_usage")
    assert await late(sale) == [("1", "missed_invoice", "refused")]
    assert await items(sale) == []
    shown = (await sale.api.get("/v1/usage-reports?status=missed_invoice")).body["data"]
    assert shown[0]["error"] == "No invoice of this subscription will come."


async def test_late_usage_of_an_ended_subscription_is_listed(sale: Shop) -> None:
    await closed(sale)
    await sale.act("cancel", when="now")
    await use(sale, "late0")
    await run(sale)
    assert await late(sale) == [("1", "missed_invoice", "no_next_invoice")]
    assert await items(sale) == []
    found = await reconciled(sale)
    assert [one["reasons"] for one in found["data"]] == [[{"name": "late", "value": "1"}]]


async def test_late_usage_of_a_subscription_that_will_end_is_on_its_last_invoice(
    sale: Shop,
) -> None:
    await closed(sale)
    await sale.act("cancel", when="period_end")
    await use(sale, "late0")
    await run(sale)
    await sale.walk(NEXT)
    assert (await invoices(sale))[-1]["total"] == 12


async def test_usage_told_after_its_invoice_is_on_the_next_one(sale: Shop) -> None:
    await sale.plan(metered=[{**METERED, **PRICE}])
    await sale.subscribe()
    await use(sale, "first0")
    await sale.sleep(CLOSED - await sale.api.now())  # nothing of ours ran meanwhile
    await sale.apply()
    await sale.job("report_usage")
    await sale.job("confirm_usage")
    assert [one["amount"] for one in await items(sale)] == [13]
    await sale.sleep(HOUR)
    await run(sale)
    assert len(await items(sale)) == 1
    assert [one["reasons"] for one in (await reconciled(sale))["data"]] == [
        [{"name": "next_invoice", "value": "1"}]
    ]


async def test_usage_beyond_the_wallet_is_billed_late_by_what_it_costs(sale: Shop) -> None:
    overage = {
        "policy": "bill",
        "event_name": "extra",
        "unit_price": "0.50",
        "report_unit": "10",
    }
    await sale.plan(credits=None, overage=overage)
    await sale.subscribe()
    charge = await sale.api.consume("25")
    await sale.walk(CLOSED)
    await sale.job("confirm_usage")
    undone = await sale.api.post(f"/v1/charges/{charge['id']}/reverse", {"amount": "12"})
    assert undone.status == 201, undone
    await run(sale)
    assert [one["amount"] for one in await items(sale)] == [65 - 125]


async def test_many_hours_are_several_items_that_name_their_rows(sale: Shop) -> None:
    await closed(sale)
    hours = [datetime(2030, 1, 2, tzinfo=UTC) + n * HOUR for n in range(150)]
    for at in hours:
        await use(sale, f"at{at:%d%H}", at=at.isoformat().replace("+00:00", "Z"))
    await run(sale)
    made = await items(sale)
    assert sorted(one["amount"] for one in made) == [625, 1_250]
    assert sum(one["amount"] for one in made) == (153 * 125 + 5) // 10 - 38
    named = [
        name
        for one in made
        for key, line in one["metadata"].items()
        if key.startswith("report_rows")
        for name in line.split()
    ]
    assert len(set(named)) == len(named) == 150


async def test_usage_that_is_due_when_its_invoice_is_final_is_late(sale: Shop) -> None:
    await sale.plan(metered=[{**METERED, **PRICE}])
    await sale.subscribe()
    await use(sale, "first0")
    await sale.sleep(CLOSED - HOUR - await sale.api.now())
    await sale.apply()
    asked = {"method": "POST", "path": "/v1/billing/meter_events", "kind": "429"}
    await sale.control("faults", **asked, count=3)
    await sale.job("report_usage")
    await sale.lift_faults()
    await sale.sleep(2 * HOUR)
    await sale.job("confirm_usage")
    assert (await sale.job("report_usage"))["told"] == 0
    assert await late(sale) == [("1", "next_invoice", None)]
    assert [one["amount"] for one in await items(sale)] == [13]


@pytest.mark.parametrize("kind", ["reset_before", "reset_after"])
@pytest.mark.parametrize("is_closed_first", [True, False])
async def test_usage_that_may_be_on_its_invoice_is_not_billed_again(
    sale: Shop, kind: str, is_closed_first: bool
) -> None:
    await sale.plan(metered=[{**METERED, **PRICE}])
    await sale.subscribe()
    await use(sale, "first0")
    await sale.sleep(CLOSED - HOUR - timedelta(minutes=10) - await sale.api.now())
    await sale.apply()
    asked = {"method": "POST", "path": "/v1/billing/meter_events", "kind": kind}
    await sale.control("faults", **asked, count=3)
    await sale.job("report_usage")
    await sale.lift_faults()
    await sale.sleep(2 * HOUR)
    if is_closed_first:
        await sale.job("confirm_usage")
    assert (await sale.job("report_usage"))["told"] == 1
    await sale.sleep(timedelta(minutes=10))
    await sale.job("confirm_usage")
    await sale.sleep(7 * HOUR)
    await run(sale)
    [piece] = (await sale.api.get("/v1/usage-reports")).body["data"]
    assert (piece["status"], piece["not_billed"]) == ("missed_invoice", "unsure")
    assert await items(sale) == []
