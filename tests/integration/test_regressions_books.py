"""What once went wrong in the books: time caught up on in part, loads by the square, a race."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from ledger import customers
from ledger import transact as transact_module
from ledger.requests import Consume, GrantCredit, Recurrence, Rollover, VoidHold
from ledger.settle import STEPS_MAX
from ledger.transact import transact
from sql import queries
from sql.pool import Connection, Pool, transaction
from tests.integration.player import SETTINGS, UNIT, Player, render


@pytest.mark.parametrize(("rollover", "most"), [(None, STEPS_MAX // 3), (10, STEPS_MAX // 6)])
async def test_series_from_the_past_is_caught_up_whole_or_refused(
    conn: Connection, rollover: int | None, most: int
) -> None:
    """What follows it in the same batch draws on the lot of now, never on one that has ended."""
    kept = None if rollover is None else Rollover(rollover * UNIT, 3_600)
    for periods, status in ((most, 201), (most + 1, 422)):
        player = await Player.enter(conn)
        now = await player.now()
        series = GrantCredit(
            **player.common(),
            asset="credits",
            amount=100 * UNIT,
            category="promotional",
            effective_at=now - timedelta(days=periods) + timedelta(minutes=5),
            recurrence=Recurrence("day", rollover=kept),
        )
        use = Consume(**player.common(), asset="credits", amount=UNIT)
        given, used = await transact(conn, [series, use], SETTINGS, render, wait=True)
        assert given is not None
        assert used is not None
        assert (given.status, used.status) == (status, 201 if status == 201 else 402)
        if status == 201:
            [drawn] = msgspec.json.decode(used.body)["lots"]
            assert drawn["lot_id"] == msgspec.json.decode(given.body)["lot_id"]


async def test_batch_in_which_all_need_more_lots_is_loaded_twice(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    players = [await Player.enter(conn) for _ in range(20)]
    for player in players:
        for _ in range(4):
            await player.grant(1)
    loads = 0
    real = transact_module.load

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal loads
        loads += 1
        return await real(*args, **kwargs)

    monkeypatch.setattr(transact_module, "load", counted)
    uses = [Consume(**player.common(), asset="credits", amount=3 * UNIT) for player in players]
    results = await transact(conn, uses, SETTINGS, render, wait=True)
    assert {result.status for result in results if result is not None} == {201}
    assert loads == 2


async def test_twin_that_is_the_same_object_is_remembered_once(conn: Connection) -> None:
    player = await Player.enter(conn)
    await player.grant(5)
    use = Consume(**player.common(), asset="credits", amount=UNIT)
    for _ in range(2):
        results = await transact(conn, [use, use], SETTINGS, render, wait=True)
        assert [result and result.status for result in results] == [201, 201]
    assert await conn.fetchval("SELECT count(*) FROM journals WHERE kind = 'charge'") == 1


@pytest.mark.parametrize("wait", [False, True])
async def test_id_of_nobody_is_404_and_leaves_the_others_alone(
    conn: Connection, wait: bool
) -> None:
    player = await Player.enter(conn)
    await player.grant(1)
    requests = [
        VoidHold(customer_no=player.no + 1_000, hold_no=1, key="k"),
        Consume(**player.common(), asset="credits", amount=UNIT),
    ]
    results = await transact(conn, requests, SETTINGS, render, wait=wait)
    assert [result and result.status for result in results] == [404, 201]


async def test_asset_in_its_first_use_keeps_its_scale(pool: Pool) -> None:
    async with transaction(pool) as conn:
        player = await Player.enter(conn)

    async def change() -> object:
        async with transaction(pool) as conn:
            return await customers.put_asset(conn, "points", 3)

    async with transaction(pool) as conn:
        await conn.fetch(queries.accounts_open, [player.no], ["points"], [0])
        changed = asyncio.create_task(change())
        async with transaction(pool) as other:
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            while not changed.done() and await other.fetchval(waits) == 0:
                pass
    assert await changed is None
