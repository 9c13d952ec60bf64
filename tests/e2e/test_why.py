"""Why something is, or is not, in the books, or on an invoice."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sql.pool import Pool
from tests import metering
from tests.http import METER
from tests.metering import event, send
from tests.shop import Shop, shop

WHY = "/v1/customers/acme/why"
HOUR = timedelta(hours=1)
NOON = "window=2030-01-01T12:00:00Z"
END = datetime(2030, 2, 1, 14, tzinfo=UTC)
"""Of the first billing period, and of what its invoice waits for."""
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
    async with shop(pool) as made:
        await made.pack()
        yield made


@pytest.fixture
async def billed(pool: Pool) -> AsyncGenerator[Shop]:
    """A shop whose meter `calls` can be billed, at noon."""
    async with shop(pool, has_one_clock=True) as made:
        await metering.meter(made.api, "calls")
        yield made


async def why(sale: Shop, query: str) -> Any:
    answer = await sale.api.get(f"{WHY}?{query}")
    assert answer.status == 200, answer
    return answer.body


async def test_purchase_is_followed_from_order_to_books(sale: Shop) -> None:
    opened = await sale.checkout()
    asked = f"purchase={opened['purchase_id']}"
    assert "nobody has paid" in (await why(sale, asked))["verdict"]
    await sale.pay(opened)
    found = await why(sale, asked)
    assert "is not applied yet" in found["verdict"]
    await sale.apply()
    found = await why(sale, asked)
    assert found["verdict"].startswith("it was paid and credited")
    kinds = [line.split()[0] for line in found["steps"][1:]]
    assert kinds == sorted(kinds, key=["asked", "told", "fetched", "booked"].index)
    assert set(kinds) == {"asked", "told", "fetched", "booked"}


async def test_event_is_followed_to_its_charge_or_its_stop(sale: Shop) -> None:
    api = sale.api
    meter: dict[str, Any] = {**(METER or {}), "charge": "events"}
    await api.put("/v1/meters/tokens", meter)
    await api.grant("100")
    event = {"source": "app", "type": meter["event_type"], "subject": "acme"}
    data = {"model": "m", "billable": {"input_tokens": 5}}
    await api.post("/v1/events", {**event, "id": "e-1", "data": data}, key=None)
    await api.post("/v1/events", {**event, "id": "e-3", "type": "other"}, key=None)
    found = await why(sale, "event=e-1&source=app")
    assert "the job rate_usage charges it" in found["verdict"]
    await sale.job("rate_usage")
    assert "it has no price" in (await why(sale, "event=e-1&source=app"))["verdict"]
    assert "no meter charges" in (await why(sale, "event=e-3&source=app"))["verdict"]
    gone = await api.get(f"{WHY}?event=e-9&source=app")
    assert (gone.status, gone.code) == (404, "event_not_found")


async def test_without_a_question_it_is_the_latest_purchase(sale: Shop) -> None:
    assert (await why(sale, ""))["steps"] == []
    await sale.checkout()
    opened = await sale.checkout()
    assert (await why(sale, ""))["steps"][0].startswith(opened["purchase_id"])


@pytest.mark.parametrize(
    "query",
    [
        *("purchase=a&event=b", "event=e-1", "event_name=api_calls", f"purchase=a&{NOON}"),
        *("window=2030-01-01T12:15:00Z", "window=2030-01-01T12:30:00%2B05:00"),
        "window=2030-01-01T13:00:00Z",
    ],
)
async def test_question_that_says_too_little_is_refused(sale: Shop, query: str) -> None:
    answer = await sale.api.get(f"{WHY}?{query}")
    assert (answer.status, answer.code) == (422, "invalid_query")


async def test_purchase_of_another_customer_is_not_told(sale: Shop) -> None:
    await sale.api.customer("bolt")
    opened = await sale.checkout("bolt")
    gone = await sale.api.get(f"{WHY}?purchase={opened['purchase_id']}")
    assert (gone.status, gone.code) == (404, "purchase_not_found")
    theirs = await sale.api.key("billing:read", customer_id="bolt")
    assert (await theirs.get(f"{WHY}?purchase={opened['purchase_id']}")).status == 404


# An hour of usage


async def ends(sale: Shop, query: str = "") -> str:
    """Where the usage of the first hour stopped."""
    return (await why(sale, NOON + query))["verdict"]


async def use(sale: Shop, count: int = 3) -> None:
    """A plan that bills calls, subscribed to, and some calls at noon."""
    await sale.plan(metered=METERED)
    await sale.subscribe()
    await send(sale.api, *(event(f"e{n}") for n in range(count)))


async def archive(sale: Shop) -> str:
    """Stripe takes no more of what it is told; the meter's id."""
    [meter] = await sale.state("billing.meter")
    await sale.stripe.v1.billing.meters.deactivate_async(meter["id"])
    return meter["id"]


async def test_hour_is_followed_from_its_events_to_the_invoice(billed: Shop) -> None:
    await use(billed)
    assert "told from 2030-01-01 13:05:00 on" in await ends(billed)
    await billed.sleep(2 * HOUR)
    assert "the job report_usage measures and tells it" in await ends(billed)
    await billed.job("report_usage")
    assert "Stripe has taken it" in await ends(billed)
    await billed.sleep(HOUR)
    await billed.job("confirm_usage")
    assert "the period that ends at 2030-02-01 12:00:00 bills it" in await ends(billed)
    await billed.walk(END)
    await billed.job("confirm_usage")
    found = await why(billed, NOON)
    [_, invoice] = sorted(await billed.state("invoice"), key=lambda one: one["created"])
    assert found["verdict"] == f"api_calls: it is billed by {invoice['id']}"
    [sub] = await billed.state("subscription")
    [piece] = (await billed.api.get("/v1/usage-reports")).body["data"]
    assert [line[:9].strip() for line in found["steps"]] == [
        *("hour", "came", "counted", "billed", "measured", "told", "summed", "invoice")
    ]
    assert found["steps"][:5] == [
        "hour     2030-01-01 12:00:00 to 13:00:00",
        "came     3 events of type call",
        "counted  meter calls: 3, of 3 events",
        f"billed   as api_calls: meter calls, by {sub['id']}, period until 2030-02-01 12:00:00",
        found["steps"][4],
    ]
    assert found["steps"][5].startswith("told     api_calls: 3 billed, 2030-01-01 14:")
    assert found["steps"][5].endswith(piece["identifier"])


async def test_hour_of_a_paused_job_says_how_to_resume_it(billed: Shop) -> None:
    await use(billed)
    await billed.sleep(2 * HOUR)
    assert (await billed.api.post("/v1/jobs/report_usage/pause", key=None)).status == 200
    assert (await ends(billed)).endswith("`drawdown job report_usage --resume`")


async def test_hour_that_stripe_did_not_answer_for_is_told_again(billed: Shop) -> None:
    await use(billed)
    await billed.sleep(2 * HOUR)
    asked = {"method": "POST", "path": "/v1/billing/meter_events", "kind": "500_before"}
    await billed.control("faults", **asked, count=3)
    await billed.job("report_usage")
    found = await ends(billed)
    assert "Stripe gave no answer" in found
    assert "the job report_usage tells it again from 2030-01-01 14:0" in found


async def test_hour_that_stripe_refuses_says_why_until_it_is_told_again(billed: Shop) -> None:
    await use(billed)
    await billed.sleep(2 * HOUR)
    meter = await archive(billed)
    await billed.job("report_usage")
    found = await ends(billed)
    assert "Stripe does not count it" in found
    assert "archived" in found
    await billed.stripe.v1.billing.meters.reactivate_async(meter)
    await billed.sleep(7 * HOUR)
    await billed.job("confirm_usage")
    assert "the job report_usage measures and tells it" in await ends(billed)
    await billed.job("report_usage")
    assert "Stripe has taken it" in await ends(billed)


async def test_hour_that_stripe_counts_otherwise_is_settled_by_its_sum(billed: Shop) -> None:
    await use(billed)
    await billed.sleep(2 * HOUR)
    await billed.job("report_usage")
    [piece] = (await billed.api.get("/v1/usage-reports")).body["data"]
    order = {"identifier": piece["identifier"], "code": "meter_event_invalid_value"}
    await billed.control("meters/api_calls/reject", **order, sampled=False)
    await billed.sleep(HOUR)
    await billed.job("confirm_usage")
    assert "Stripe has taken it" in await ends(billed)
    await billed.sleep(7 * HOUR)
    await billed.job("confirm_usage")
    assert "the job report_usage measures and tells it" in await ends(billed)
    assert " 3 disputed, " in "".join((await why(billed, NOON))["steps"])


async def test_late_usage_of_an_hour_is_found_to_have_missed_its_invoice(billed: Shop) -> None:
    await use(billed)
    await billed.walk(END)
    await send(billed.api, event("late", time="2030-01-01T12:30:00Z"))
    await billed.sleep(HOUR)
    await billed.job("report_usage")
    await billed.job("confirm_usage")
    [_, invoice] = sorted(await billed.state("invoice"), key=lambda one: one["created"])
    found = await ends(billed)
    assert found.startswith(f"api_calls: 1 missed its invoice: {invoice['id']} was final")


async def test_hour_older_than_stripe_takes_is_never_told(billed: Shop) -> None:
    year = {"amount": "20.00", "currency": "USD"}
    await billed.plan(metered=METERED, interval="year", price=year)
    await billed.subscribe()
    await send(billed.api, event("e1"))
    await billed.sleep(timedelta(days=36))
    await billed.job("report_usage")
    assert "1 is older than the 35 days that Stripe takes" in await ends(billed)


async def test_hour_of_charges_beyond_the_wallet_shows_them(billed: Shop) -> None:
    await billed.plan(metered=METERED, credits=None, overage=OVERAGE)
    await billed.subscribe()
    charge = await billed.api.consume("25")
    undone = await billed.api.post(f"/v1/charges/{charge['id']}/reverse", {"amount": "4"})
    assert undone.status == 201, undone
    small = await billed.api.consume("0.5")
    await billed.sleep(2 * HOUR)
    await billed.job("report_usage")
    found = await why(billed, f"{NOON}&event_name=extra_credits")
    told = [line.split(maxsplit=1)[1] for line in found["steps"] if line[:7] == "charged"]
    assert told[0] == "21.5 credits beyond the wallet, by 3 journals"
    assert told[1].endswith(f" 25 by {charge['id']}, charge")
    assert told[2].endswith(f" -4 by {undone.body['id'].replace('rev_', 'jrn_')}, reversal")
    assert told[3].endswith(f" 0.5 by {small['id']}, charge")
    assert "measured extra_credits: 2.15 from 2030-01-01 12:00" in "\n".join(found["steps"])
    assert found["verdict"].startswith("extra_credits: Stripe has taken it")
    both = await ends(billed)
    assert "api_calls: nothing was counted in it" in both
    assert "; extra_credits: Stripe has taken it" in both


async def test_less_than_a_report_unit_is_carried(billed: Shop) -> None:
    await billed.plan(credits=None, overage=OVERAGE)
    await billed.subscribe()
    assert "nothing was used beyond the credits that is billed so far" in await ends(billed)
    await billed.api.consume("9")
    await billed.sleep(2 * HOUR)
    await billed.job("report_usage")
    assert "less than a report unit: it is carried" in await ends(billed)


async def test_hour_that_nothing_bills_says_what_would(billed: Shop) -> None:
    await send(billed.api, event("e1"))
    found = await why(billed, NOON)
    assert found["steps"][1:] == [
        "came     1 event of type call",
        "counted  meter calls: 1, of 1 event",
    ]
    assert found["verdict"].startswith("the customer has no subscription")
    await billed.plan("flat", tier="flat")
    await billed.subscribe("flat")
    assert "(active) has no metered and no overage item" in await ends(billed)
    await billed.sleep(2 * HOUR)
    await billed.plan(metered=METERED)
    await billed.act("change", plan="pro", when="now")
    assert "Reported is api_calls from 2030-01-01 14:" in await ends(billed)
    assert "nothing is reported as other" in await ends(billed, "&event_name=other")


async def test_hour_of_an_event_that_a_meter_can_not_read_says_so(billed: Shop) -> None:
    await metering.meter(billed.api, "tokens", aggregation="sum", value_property="n")
    await billed.plan(metered=[{**METERED[0], "meter": "tokens"}])
    await billed.subscribe()
    await send(billed.api, event("e1", data={"n": "many"}), event("e2", data={"n": 2.5}))
    steps = (await why(billed, f"{NOON}&event_name=api_calls"))["steps"]
    assert steps[2] == "counted  meter tokens: 2.5, of 1 event"
    assert steps[3].startswith("rejected meter tokens: 1 event, such as: ")


async def test_usage_that_was_taken_back_has_nothing_to_tell(billed: Shop) -> None:
    await use(billed, 1)
    await billed.sleep(2 * HOUR)
    await archive(billed)
    await billed.job("report_usage")
    body = {"customer_id": "acme", "source": "app", "id": "e0", "action": "cancel"}
    done = await billed.api.post("/v1/events/correct", {**body, "correction_id": "c"}, key=None)
    assert done.status == 201, done
    await billed.job("report_usage")
    assert (await ends(billed)).endswith("it was taken back, so there is nothing to tell")


async def test_hour_that_a_period_cuts_has_an_end_for_each_part(billed: Shop) -> None:
    await billed.sleep(timedelta(minutes=7))
    await billed.plan(metered=METERED)
    await billed.subscribe()
    end = datetime(2030, 2, 1, 12, 7, tzinfo=UTC)
    await billed.sleep(end - await billed.api.now() - timedelta(minutes=1))
    await send(billed.api, event("e1"))
    await billed.walk(end + timedelta(minutes=1))
    await send(billed.api, event("e2"), event("e3"))
    await billed.sleep(2 * HOUR)
    await billed.job("report_usage")
    found = await why(billed, "window=2030-02-01T12:00:00Z")
    measured = [line.split()[2] for line in found["steps"] if line.startswith("measured")]
    assert measured == ["1", "2"]
    first, second = found["verdict"].split("; ")
    assert first.startswith("api_calls from 12:00:00: Stripe has taken it")
    assert second.startswith("api_calls from 12:07:")
    assert ": Stripe has taken it" in second


async def test_key_of_one_customer_walks_its_own_hours_only(billed: Shop) -> None:
    await billed.api.customer("bolt")
    theirs = await billed.api.key("billing:read", customer_id="bolt")
    assert (await theirs.get(f"{WHY}?{NOON}")).code == "customer_not_found"
    assert (await theirs.get(f"/v1/customers/bolt/why?{NOON}")).status == 200
