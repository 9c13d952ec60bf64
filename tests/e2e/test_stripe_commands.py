"""`drawdown why`, `drawdown reconcile` and `drawdown stripe replay`."""

import asyncio
import csv
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta

import pytest

from drawdown.cli import run
from sql.pool import Pool
from tests import metering
from tests.servers import Database
from tests.shop import Shop, shop


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        yield made


@pytest.fixture
def drawdown(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Awaitable[str]]:
    """A command on the database of the shop: what it prints."""
    monkeypatch.setenv("DATABASE_URL", database.dsn)

    async def play(*arguments: str, code: int = 0, reads: str | None = None) -> str:
        capsys.readouterr()
        assert await asyncio.to_thread(run, list(arguments)) == code
        printed = capsys.readouterr()
        return printed.err if code and reads is None else printed.out

    return play


async def test_commands_tell_a_purchase_and_apply_a_delivery_again(
    sale: Shop, drawdown: Callable[..., Awaitable[str]]
) -> None:
    await sale.pack()
    opened = await sale.checkout()
    told = await drawdown("why", opened["purchase_id"])
    assert told.splitlines()[0].endswith("starter@1 x 1, 10 USD, open")
    assert "nobody has paid, or no delivery arrives" in told
    await sale.pay(opened)
    assert "the job stripe_inbox does that" in await drawdown("why", opened["purchase_id"])
    await sale.apply()
    told = await drawdown("why", opened["purchase_id"])
    assert told.endswith("so       it was paid and credited; what came back of it is above\n")
    assert [line.split()[3] for line in told.splitlines() if line[:6] == "booked"] == [
        "grant",
        "fee",
    ]
    story = (await sale.purchase(opened))["story"]
    [paid] = [one for one in story["news"] if one["type"] == "checkout.session.completed"]
    assert opened["id"] in await drawdown("stripe", "replay", paid["event_id"])
    assert (await sale.apply())["applied"] == 1
    assert await sale.api.posted() == ("1000", "0", "1000")
    assert "no delivery evt_none" in await drawdown("stripe", "replay", "evt_none", code=1)


async def test_command_tells_an_hour_of_usage_as_the_route_does(
    sale: Shop, drawdown: Callable[..., Awaitable[str]]
) -> None:
    await metering.meter(sale.api, "calls")
    await metering.send(sale.api, metering.event("e1"))
    noon = ("--window", "2030-01-01T12:00:00Z")
    answer = await sale.api.get("/v1/customers/acme/why?window=2030-01-01T12:00:00Z")
    assert json.loads(await drawdown("why", "acme", *noon, "--json")) == answer.body
    told = (await drawdown("why", "acme", *noon)).splitlines()
    assert told == [*answer.body["steps"], f"so       {answer.body['verdict']}"]
    item = {"meter": "calls", "event_name": "api_calls", "unit_price": "0.002"}
    await sale.plan(metered=[item])
    await sale.subscribe()
    assert "so       api_calls: " in await drawdown("why", "acme", *noon)
    other = await drawdown("why", "acme", *noon, "--event-name", "other")
    assert "so       nothing is reported as other." in other
    assert "there is no customer bolt" in await drawdown("why", "bolt", *noon, code=1)
    for wrong in ("2030-01-01T12:01:00Z", "2031-01-01T12:00:00Z", "noon"):
        assert "window" in await drawdown("why", "acme", "--window", wrong, code=2)
    assert "a CUSTOMER needs --window" in await drawdown("why", "acme", code=2)
    assert "goes with --window" in await drawdown("why", "acme", "--event-name", "x", code=2)


async def use_more_than_is_told(sale: Shop) -> None:
    """Two calls and 25 credits beyond the wallet, told and compared; Stripe has 5 calls by hand."""
    await metering.meter(sale.api, "calls")
    await sale.plan(
        credits=None,
        metered=[{"meter": "calls", "event_name": "api_calls", "unit_price": "0.002"}],
        overage={
            "policy": "bill",
            "event_name": "extra_credits",
            "unit_price": "0.01",
            "report_unit": "10",
        },
    )
    await sale.subscribe()
    await metering.send(sale.api, metering.event("e1"), metering.event("e2"))
    await sale.api.consume("25")
    [customer] = await sale.state("customer")
    await sale.stripe.v1.billing.meter_events.create_async(
        {
            "event_name": "api_calls",
            "payload": {"stripe_customer_id": customer["id"], "value": "5"},
            "identifier": "by-hand",
        }
    )
    for job in ("report_usage", "confirm_usage"):
        await sale.sleep(timedelta(hours=2))
        await sale.job(job)


async def test_command_reconciles_as_table_csv_and_json(
    pool: Pool, drawdown: Callable[..., Awaitable[str]]
) -> None:
    async with shop(pool, has_one_clock=True) as sale:
        assert (await drawdown("reconcile")).endswith(": 0 agree, 0 explained, 0 unexplained\n")
        await use_more_than_is_told(sale)
        january = ("--from", "2030-01-01", "--to", "2030-02-01")
        answer = await sale.api.get(
            "/v1/reconciliation?from=2030-01-01T00:00:00Z&to=2030-02-01T00:00:00Z"
        )
        rows = answer.body["data"]
        assert "there is no customer bolt" in await drawdown(
            "reconcile", "--customer", "bolt", code=1
        )
        assert "at most 31 days" in await drawdown("reconcile", "--from", "2029-01-01", code=2)
        assert "ask for one" in await drawdown("reconcile", "--csv", "--json", code=2)
        shown = await drawdown("reconcile", *january, code=1, reads="out")
        whole = json.loads(await drawdown("reconcile", *january, "--json", code=1, reads="out"))
        written = await drawdown("reconcile", *january, "--csv", code=1, reads="out")
    for row in [*whole["data"], *rows]:
        row.pop("age_seconds")  # time goes on between the two
    assert whole == answer.body
    assert [line.split() for line in shown.splitlines()[1:3]] == [
        ["2030-01-01", "acme", "api_calls", "2", "2", "7", "-5", "-5", "duplicate"],
        ["2030-01-01", "acme", "extra_credits", "2.5", "2", "2", "0.5", "0.5", "carried"],
    ]
    assert shown.splitlines()[3] == (
        "2 rows from 2030-01-01 00:00 to 2030-02-01 00:00: 0 agree, 1 explained, 1 unexplained"
    )
    found = list(csv.DictReader(written.splitlines()))
    assert [one["reasons"] for one in found] == ["duplicate=-5", "carried=0.5"]
    for name in ("date", "customer_id", "used", "told", "stripe", "difference", "event_name"):
        assert [one[name] for one in found] == [row[name] for row in rows]
    assert set(found[0]) == {*rows[0], "age_seconds"}
