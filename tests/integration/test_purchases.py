"""Purchases on a real database: once under concurrency, whose an object is, what was held."""

import asyncio
from typing import Any

import pytest

from ledger import history, load_purchases
from ledger.load_purchases import ForeignPurchase, PurchaseRef
from ledger.proofs import prove
from ledger.requests import MarkPurchase
from sql.pool import Connection
from tests.integration.player import SETTINGS, UNIT, Player
from tests.servers import Database, connected

DAY = 86_400


async def test_paid_purchase_asked_for_in_parallel_is_credited_once(database: Database) -> None:
    async with connected(database.dsn) as conn:
        player = await Player.enter(conn)
        no = await player.open_purchase(bonus=UNIT)

    async def ask() -> Any:
        async with connected(database.dsn) as other, other.transaction():
            return await Player(other, player.no).pay(no)

    answers = await asyncio.gather(*(ask() for _ in range(6)))

    assert {answer["balance"]["posted"] for answer in answers} == {"501"}
    async with connected(database.dsn) as conn:
        lots = await conn.fetchval("SELECT count(*) FROM lots WHERE purchase_no = $1", no)
        assert lots == 2


async def test_line_of_an_invoice_opened_in_parallel_is_one_purchase(database: Database) -> None:
    async with connected(database.dsn) as conn:
        player = await Player.enter(conn)
        starts = await player.now()
        ends = starts.replace(year=starts.year + 1)

    async def ask(line: str) -> int:
        async with connected(database.dsn) as other, other.transaction():
            period: Any = {"effective_at": starts, "expires_at": ends}
            return await Player(other, player.no).open_purchase(
                kind="plan", invoice_id="in_1", line_id=line, **period
            )

    first = await asyncio.gather(*(ask("il_1") for _ in range(5)))
    assert len(set(first)) == 1
    assert await ask("il_2") not in first


async def test_object_belongs_to_one_purchase_for_ever(conn: Connection) -> None:
    player = await Player.enter(conn)
    mine = PurchaseRef(player.no, await player.open_purchase())
    other = PurchaseRef(player.no, await player.open_purchase())

    assert await load_purchases.find(conn, "pi_1") is None
    for _ in range(2):
        await load_purchases.link(conn, "pi_1", mine)
    await load_purchases.link(conn, "ch_1", mine)
    with pytest.raises(ForeignPurchase, match="pi_1 belongs to purchase") as refused:
        await load_purchases.link(conn, "pi_1", other)

    assert refused.value.owner == mine
    assert await load_purchases.find(conn, "pi_1") == mine
    assert await load_purchases.objects(conn, mine) == ["pi_1", "ch_1"]
    assert await load_purchases.objects(conn, other) == []


async def test_object_linked_in_parallel_has_one_owner(database: Database) -> None:
    async with connected(database.dsn) as conn:
        player = await Player.enter(conn)
        owners = [PurchaseRef(player.no, await player.open_purchase()) for _ in range(4)]

    async def claim(owner: PurchaseRef) -> bool:
        async with connected(database.dsn) as other, other.transaction():
            try:
                await load_purchases.link(other, "cs_1", owner)
            except ForeignPurchase:
                return False
            return True

    assert sorted(await asyncio.gather(*map(claim, owners))) == [False, False, False, True]


async def test_frozen_credit_was_held_at_past_moments(database: Database) -> None:
    async with connected(database.dsn) as conn:
        player = await Player.enter(conn)
        no = await player.buy()
        moments = [await player.now()]
        await player.wait(10)
        body = await player.freeze(no)
        assert body["balance"]["held"] == "500"
        await player.wait(10)
        moments.append(await player.now())
        await player.wait(10)
        body = await player.told(no, refunded=400)
        assert body["balance"]["held"] == "300"
        await player.wait(10)
        moments.append(await player.now())
        await player.wait(10)
        await player.told(no, "du_1", refunded=400)
        await player.wait(10)
        moments.append(await player.now())

        for axis in ("effective", "created"):
            held: list[tuple[str, str]] = []
            for at in moments:
                async with conn.transaction():
                    answer = await history.balance_at(
                        *(conn, player.no, "credits", at, axis, SETTINGS)  # type: ignore[arg-type]
                    )
                held.append((answer.posted, answer.held))
            assert held == [("500", "0"), ("500", "500"), ("300", "300"), ("300", "0")]


async def test_debt_of_a_clawback_is_loaded_with_who_paid_it(conn: Connection) -> None:
    player = await Player.enter(conn)
    first = await player.buy()
    await player.consume(500)
    second = await player.buy(expires_in=DAY)
    await player.told(first, refunded=800)
    body = await player.told(first, refunded=200)

    assert body["balance"] == {"posted": "400", "held": "0", "available": "400", "owed": "0"}
    assert await lot_left(conn, second) == 400 * UNIT
    await player.wait(2 * DAY)
    body = await player.told(first)
    assert body["balance"]["posted"] == "0", "what the ended lot had paid has run out"
    assert await prove(conn) == []


async def lot_left(conn: Connection, purchase_no: int) -> int:
    return await conn.fetchval("SELECT remaining FROM lots WHERE purchase_no = $1", purchase_no)


async def test_unknown_customer_of_a_purchase_is_a_purchase_not_found(conn: Connection) -> None:
    player = await Player.enter(conn)
    nobody = Player(conn, player.no + 1_000)

    status, body = await nobody.send(
        MarkPurchase(customer_no=nobody.no, purchase_no=1, mark="failed")
    )

    assert (status, body["code"]) == (404, "purchase_not_found")
