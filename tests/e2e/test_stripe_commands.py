"""`drawdown why` and `drawdown stripe replay`."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable

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

    async def play(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert await asyncio.to_thread(run, list(arguments)) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

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
    assert "there is no customer bolt" in await drawdown("why", "bolt", *noon, code=1)
    for wrong in ("2030-01-01T12:01:00Z", "2031-01-01T12:00:00Z", "noon"):
        assert "window" in await drawdown("why", "acme", "--window", wrong, code=2)
    assert "a CUSTOMER needs --window" in await drawdown("why", "acme", code=2)
    assert "goes with --window" in await drawdown("why", "acme", "--event-name", "x", code=2)
