"""`drawdown why` and `drawdown stripe replay`."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from drawdown.cli import run
from sql.pool import Pool
from tests.servers import Database
from tests.shop import Shop, shop


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        yield made


async def test_commands_tell_a_purchase_and_apply_a_delivery_again(
    sale: Shop,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.dsn)

    async def drawdown(*arguments: str) -> str:
        capsys.readouterr()
        assert await asyncio.to_thread(run, list(arguments)) == 0
        return capsys.readouterr().out

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
    assert await asyncio.to_thread(run, ["stripe", "replay", "evt_none"]) == 1
