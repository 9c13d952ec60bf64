"""The report `focus`: FOCUS 1.2 rows that tie to the books, and to what invoices were paid."""

import csv
import io
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ledger.requests import CreditPurchase
from sql.pool import Pool
from tests.e2e.test_reports import let_a_lot_expire
from tests.http import Api, Running, serving
from tests.integration.player import Player
from tests.integration.whole_books import play
from tests.servers import Database, connected
from tests.shop import START, shop

Row = dict[str, Any]
ZERO = Decimal(0)
MANDATORY = {
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency"),
    *("BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass"),
    *("ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost"),
    *("EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit"),
    *("ProviderName", "PublisherName", "ServiceCategory", "ServiceName"),
}
MAY_BE_NULL = {"BillingAccountName", "ChargeClass", "PricingQuantity", "PricingUnit"}
OF_USE = {"usage", "amount", "reversal"}


@pytest.fixture
async def running(database: Database, pool: Pool) -> AsyncGenerator[Running]:
    """Whole books, somebody who never paid, and a sale with tax that is partly lost."""
    await play(database)
    async with connected(database.dsn) as conn:
        player = await Player.enter(conn)
        bought = await player.open_purchase()
        paid: Any = {"purchase_no": bought, "currency": "USD", "captured": 1_200, "tax": 200}
        status, _ = await player.send(CreditPurchase(customer_no=player.no, **paid))
        assert status == 200
        await player.wait(40 * 86_400)
        await player.consume(400)
        await player.told(bought, disputed=600, fees=15)
        await player.told(bought, lost=600, fees=15)
        await player.told(bought, lost=600, fees=15, refunded=120)
        await player.recognise()
    async with serving(pool) as made:
        await made.api.customer('=1+1, "so"')
        await made.api.grant("7", '=1+1, "so"')
        await made.api.consume("2", '=1+1, "so"')
        await made.api.customer("late")
        await made.api.grant("7", "late")
        charge = await made.api.consume("3", "late")
        await let_a_lot_expire(made.api)
        await pay_late(made.api, charge["id"])
        await made.api.post("/v1/jobs/recognise/run", key=None)
        yield made


async def pay_late(api: Api, charge_id: str) -> None:
    """A charge is undone in a later month; its customer pays for the first time, and goes on."""
    undone = await api.post(f"/v1/charges/{charge_id}/reverse", {"amount": "1"})
    assert undone.status in (200, 201), undone
    cost = {"amount": "10", "currency": "USD"}
    await api.grant("3", "late", category="paid", cost=cost)
    await api.consume("2", "late")


async def rows(api: Api, report: str = "focus", **query: str) -> list[Row]:
    glue = "".join(f"&{name}={value}" for name, value in query.items())
    answer = await api.get(f"/v1/reports/{report}?format=json{glue}")
    assert answer.status == 200, answer
    return answer.body["rows"]


def sums(found: Iterable[Row], column: str, *by: str) -> dict[Any, Decimal]:
    """The sums of a column by the values of others (one: by that value), without zeros."""
    made: dict[Any, Decimal] = defaultdict(Decimal)
    for row in found:
        key = [row[name] for name in by]
        made[tuple(key) if len(key) > 1 else key[0]] += Decimal(row[column])
    return {key: amount for key, amount in made.items() if amount}


def of(found: list[Row], *categories: str) -> list[Row]:
    return [row for row in found if row["ChargeCategory"] in categories]


async def test_sums_tie_to_the_books_and_the_other_reports(running: Running) -> None:
    api = running.api
    found = await rows(api)
    closing = {
        (row["asset"], row["account"]): Decimal(row["closing"])
        for row in await rows(api, "trial-balance")
    }

    paid = of(found, "Purchase", "Tax")
    assert {row["x_Kind"] for row in paid} == {"sale", "refund", "dispute"}
    kept = sum(closing["USD", name] for name in ("cash", "fees", "disputed"))
    assert sums(found, "BilledCost", "BillingCurrency") == {"USD": kept}
    sales = await rows(api, "purchases")
    deferred, refunds = (sums(sales, name, "grant_id") for name in ("deferred_revenue", "refunds"))
    assert refunds, "what was earned already was given back too"
    assert sums(of(found, "Purchase"), "BilledCost", "x_GrantId") == {
        key: deferred.get(key, ZERO) - refunds.get(key, ZERO)
        for key in deferred.keys() | refunds.keys()
        if deferred.get(key, ZERO) != refunds.get(key, ZERO)
    }
    tax = sums(sales, "tax", "grant_id")
    assert tax == sums(of(found, "Tax"), "BilledCost", "x_GrantId")
    assert sum(tax.values()) == -closing["USD", "tax"]

    earned = sums(of(found, "Usage"), "EffectiveCost", "BillingCurrency")
    assert earned == {"USD": -closing["USD", "revenue"]}
    wasted = sums(of(found, "Adjustment"), "EffectiveCost", "BillingCurrency")
    assert wasted == {"USD": -closing["USD", "breakage_revenue"]}
    by_month = {
        (f"{row['month']}-01T00:00:00Z", row["currency"]): Decimal(row["recognised"])
        for row in await rows(api, "deferred-revenue")
        if Decimal(row["recognised"])
    }
    of_month = ("BillingPeriodStart", "BillingCurrency")
    assert sums(of(found, "Usage"), "EffectiveCost", *of_month) == by_month

    used = [row for row in found if row["x_Kind"] in OF_USE]
    assert {row["x_Kind"] for row in used} == OF_USE
    burned = {asset: -amount for (asset, name), amount in closing.items() if name == "burned"}
    assert sums(used, "PricingCurrencyEffectiveCost", "PricingCurrency") == burned
    counted = [row for row in await rows(api, "usage") if row["meter"] is not None]
    metered = [row for row in used if row["x_Meter"] is not None]
    assert counted
    for mine, theirs in (
        ("PricingCurrencyEffectiveCost", "amount"),
        ("ConsumedQuantity", "quantity"),
    ):
        assert sums(metered, mine, "BillingAccountId", "x_Meter", "x_Dimensions") == sums(
            counted, theirs, "customer_id", "meter", "dimensions"
        )


async def test_rows_are_as_the_specification_has_them(running: Running) -> None:
    found = await rows(running.api)
    names = list(found[0])
    theirs = [name for name in names if not name.startswith("x_")]
    assert set(theirs) >= MANDATORY
    assert names == [*sorted(theirs), *sorted(set(names) - set(theirs))]
    for row in found:
        assert None not in [row[name] for name in MANDATORY - MAY_BE_NULL]
        assert row["ChargeCategory"] in ("Usage", "Purchase", "Tax", "Adjustment")
        assert row["ChargeClass"] in (None, "Correction")
        assert row["ChargeFrequency"] in ("One-Time", "Recurring", "Usage-Based")
        assert ZERO in (Decimal(row["BilledCost"]), Decimal(row["EffectiveCost"]))
        start, end = (datetime.fromisoformat(row[f"ChargePeriod{x}"]) for x in ("Start", "End"))
        assert end - start == timedelta(days=1)
        month = row["BillingPeriodStart"][:7]
        assert (month, end <= datetime.fromisoformat(row["BillingPeriodEnd"])) == (
            row["ChargePeriodStart"][:7],
            True,
        )
        is_new = row["ChargeClass"] is None and row["x_Kind"] not in ("refund", "dispute")
        if is_new and row["ChargeCategory"] in ("Usage", "Purchase"):
            assert row["PricingQuantity"] is not None
            assert row["PricingUnit"] is not None
        if row["ChargeCategory"] == "Tax":
            assert (row["PricingQuantity"], row["PricingUnit"]) == (None, None)
        is_usage = row["ChargeCategory"] == "Usage"
        assert (row["ConsumedQuantity"] is not None) is is_usage
        assert (row["ConsumedUnit"] is not None) is is_usage
        if is_usage:
            assert Decimal(row["BilledCost"]) == 0


async def test_who_never_paid_has_no_currency_and_others_from_when_they_paid(
    running: Running,
) -> None:
    found = [row for row in await rows(running.api) if row["x_Kind"] in OF_USE]
    of_customer: dict[str, set[str]] = defaultdict(set)
    for row in found:
        of_customer[row["BillingAccountId"]].add(row["BillingCurrency"])
    assert of_customer['=1+1, "so"'] == {"XXX"}
    assert of_customer["waster"] == {"USD"}
    late = [row for row in found if row["BillingAccountId"] == "late"]
    assert [(row["x_Kind"], row["BillingCurrency"], row["ChargeClass"]) for row in late] == [
        ("amount", "XXX", None),
        ("amount", "USD", None),
        ("reversal", "USD", "Correction"),
    ]
    text = (await running.api.get("/v1/reports/focus?format=csv")).raw.decode()
    cells = list(csv.DictReader(io.StringIO(text, newline="")))
    assert '\'=1+1, "so"' in {row["BillingAccountId"] for row in cells}


async def test_months_add_up_and_what_a_month_takes_back_of_another_is_a_correction(
    running: Running,
) -> None:
    api = running.api
    found = await rows(api)
    months = sorted({row["BillingPeriodStart"][:7] for row in found})
    parts = [await rows(api, to=months[1]), await rows(api, **{"from": months[1]})]
    assert all(parts)

    def key(row: Row) -> str:
        return str(list(row.values()))

    assert sorted(map(key, found)) == sorted(key(row) for part in parts for row in part)
    sold = {row["x_GrantId"]: row["BillingPeriodStart"] for row in found if row["x_Kind"] == "sale"}
    back = [row for row in found if row["x_Kind"] in ("refund", "dispute")]
    classes = {
        (row["BillingPeriodStart"] > sold[row["x_GrantId"]], row["ChargeClass"])
        for row in back
        if row["x_GrantId"] in sold
    }
    assert classes <= {(True, "Correction"), (False, None)}
    assert (True, "Correction") in classes
    lost = [row for row in back if row["x_Kind"] == "dispute"]
    assert {row["ChargeCategory"]: Decimal(row["BilledCost"]) for row in lost} == {
        "Purchase": Decimal(-5),
        "Tax": Decimal(-1),
    }
    assert all(row["InvoiceId"] is None for row in back)


async def test_new_unit_of_a_meter_changes_no_row(running: Running) -> None:
    before = await rows(running.api)
    meter = next(row["x_Meter"] for row in before if row["x_Meter"] is not None)
    listed = (await running.api.get("/v1/meters")).body
    [known] = [one for one in listed["data"] if one["key"] == meter]
    names = ("event_type", "aggregation", "value_property", "group_by", "filters", "charge")
    body = {name: known[name] for name in names if known.get(name) is not None}
    changed = await running.api.put(f"/v1/meters/{meter}", {**body, "unit": "=1+1"})
    assert changed.status == 200, changed
    assert await rows(running.api) == before


async def test_billed_cost_of_an_invoice_is_what_it_was_paid(pool: Pool) -> None:
    async with shop(pool, has_one_clock=True) as sale:
        mega = {"price": {"amount": "50.00", "currency": "USD"}, "credits": "7500"}
        await sale.plan()
        await sale.plan("mega", name="Mega", tier="mega", **mega)
        await sale.subscribe()
        await sale.walk(START + timedelta(days=14))
        await sale.act("change", plan="mega", proration="next_invoice")
        await sale.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
        paid = {one["id"]: Decimal(one["amount_paid"]) / 100 for one in await sale.state("invoice")}
        assert len(paid) == 2
        assert sums(await rows(sale.api), "BilledCost", "InvoiceId") == paid

        listed = (await sale.api.get("/v1/purchases?customer_id=acme")).body["data"]
        [first] = [one for one in listed if one["product"].startswith("pro")]
        assert (await sale.refund(first, amount=first["captured"])).status == 202
        await sale.job("stripe_outbox")
        await sale.apply()
        found = await rows(sale.api)
        returned = [row for row in found if row["x_Kind"] == "refund"]
        assert [row["ChargeClass"] for row in returned] == ["Correction"]
        assert {row["InvoiceId"] for row in returned} == {None}
        back = sums(returned, "BilledCost", "x_ReturnedInvoiceId")
        [invoice_id] = back
        assert back == {invoice_id: -paid[invoice_id]}
        of_invoices = [row for row in found if row["InvoiceId"] is not None]
        assert sums(of_invoices, "BilledCost", "InvoiceId") == paid
