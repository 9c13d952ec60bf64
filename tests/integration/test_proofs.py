"""The proofs: clean after a rich life, and each of them fails on the corruption that it is for.

Two customers live the same life. Each corruption is done to the first, as a superuser past every
trigger, and rolled back: exactly the checks named must fail, and none for the second.
"""

import itertools
import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from ledger import customers, proofs
from ledger.ids import parse_id
from ledger.outcome import Outcome
from ledger.proofs import CHAIN_CHECKS, CHECKS, Failure, prove
from ledger.requests import (
    Capture,
    Consume,
    Cost,
    Extend,
    GrantCredit,
    Notes,
    Recurrence,
    Request,
    Reserve,
    Reverse,
    Rollover,
    SetOverage,
    VoidGrant,
    VoidHold,
)
from ledger.state import Settings
from ledger.transact import Result, transact
from sql.pool import Connection
from tests.servers import Database, Databases, connected

UNIT = 10**9
TEXT = 'Ω "quoted" \\ back, tab\t, bell\x07, del\x7f, line\u2028 and 😀'


def render(_: Request, outcome: Outcome) -> bytes:
    return msgspec.json.encode(outcome.answer)


class Life:
    """Two customers who do the same, each request in a transaction of its own."""

    def __init__(self, conn: Connection, settings: Settings, customer_nos: list[int]) -> None:
        self.conn, self.settings, self.customer_nos = conn, settings, customer_nos
        self.keys = itertools.count()

    async def do(self, kind: type[Request], *, status: int = 200, **members: Any) -> int:
        """The request for both. The number in the first one's answer, which is the second's too."""
        key = f"key-{next(self.keys)}"
        results: list[Result | None] = []
        async with self.conn.transaction():
            requests = [
                kind(customer_no=no, key=key, operation=kind.__name__, **members)
                for no in self.customer_nos
            ]
            results = await transact(self.conn, requests, self.settings, render, wait=True)
            assert await prove(self.conn) == [], (kind, members)
        bodies: list[bytes] = []
        for result in results:
            assert result is not None
            assert result.status == status, result.body
            bodies.append(result.body)
        answer = msgspec.json.decode(bodies[0])
        if not isinstance(answer, dict) or "id" not in answer:
            return 0
        name: str = (answer.get("charge") or answer)["id"]
        parsed = parse_id(name.partition("_")[0], name)
        assert parsed is not None
        return parsed[1]

    async def now(self) -> datetime:
        return await customers.now(self.conn)

    async def later(self, **time: float) -> None:
        await customers.advance_clock(self.conn, timedelta(**time))


async def grants_of_all_kinds(life: Life) -> dict[str, int]:
    now = await life.now()
    day = timedelta(days=1)
    common = {"asset": "credits", "status": 201}
    made = {
        "short": await life.do(
            GrantCredit,
            amount=40 * UNIT,
            category="promotional",
            expires_at=now + 10 * day,
            notes=Notes(b"salt-1", reason=TEXT, metadata='{"a":"' + "ü" + '"}'),
            **common,
        ),
        "paid": await life.do(
            GrantCredit,
            amount=50 * UNIT + 1,
            category="paid",
            cost=Cost(1_000, "USD"),
            priority=60,
            **common,
        ),
        "soon": await life.do(
            GrantCredit,
            amount=5 * UNIT,
            category="promotional",
            effective_at=now + 5 * day,
            **common,
        ),
        "far": await life.do(
            GrantCredit,
            amount=7 * UNIT,
            category="paid",
            cost=Cost(0, "JPY"),
            effective_at=now + 300 * day,
            expires_at=now + 400 * day,
            **common,
        ),
        "series": await life.do(
            GrantCredit,
            amount=9 * UNIT,
            category="paid",
            cost=Cost(333, "USD"),
            recurrence=Recurrence("day", rollover=Rollover(4 * UNIT, 3 * 86_400)),
            **common,
        ),
        "voided": await life.do(
            GrantCredit, amount=8 * UNIT, category="promotional", priority=0, **common
        ),
        "refunded": await life.do(
            GrantCredit, amount=10, category="paid", cost=Cost(99, "KWD"), priority=100, **common
        ),
        "tokens": await life.do(
            GrantCredit, asset="tokens", amount=77, category="promotional", status=201
        ),
    }
    return made


async def holds_of_all_kinds(life: Life, grants: dict[str, int]) -> None:
    reserve = {"asset": "credits", "status": 201}
    # From the grant that is voided while a hold has some of it pinned.
    pinned = await life.do(Reserve, amount=3 * UNIT, **reserve)
    await life.do(VoidGrant, grant_no=grants["voided"])
    await life.do(VoidHold, hold_no=pinned)
    await life.do(VoidGrant, grant_no=grants["refunded"], money="refunded")
    steps = await life.do(Reserve, amount=20 * UNIT, notes=Notes(b"s", reference="job 7"), **reserve)
    await life.do(Capture, hold_no=steps, amount="6.5", final=False)
    await life.do(Extend, hold_no=steps, add="1.25", expires_in=900)
    await life.do(Capture, hold_no=steps, amount="2")
    late = await life.do(Reserve, amount=4 * UNIT, expires_in=60, **reserve)
    await life.later(minutes=2)
    await life.do(Capture, hold_no=late, amount="1", above_hold="take")
    await life.do(Capture, hold_no=late, amount="1", status=409)
    await life.do(Consume, asset="credits", amount=10_000 * UNIT, status=402)


async def time_passes(life: Life) -> None:
    """Activation, periods, rollover, expiry; then usage dated back draws on what has expired."""
    for _ in range(6):
        await life.later(days=2, hours=1)
        await life.do(Consume, asset="credits", amount=UNIT // 3, status=201)
    back = await life.now() - timedelta(days=4)
    late = await life.do(
        Consume, asset="credits", amount=15 * UNIT, effective_at=back, status=201
    )
    await life.do(Reverse, charge_seq=late, amount="3", status=201, notes=Notes(b"x", reason="?"))


async def beyond_the_wallet(life: Life) -> None:
    """Owed, repaid, cancelled and returned; billed and taken back; holds that promise both."""
    await life.do(SetOverage, policy="owe", limit=500 * UNIT)
    owing = await life.do(Consume, asset="credits", amount=120 * UNIT, status=201)
    granted = {"asset": "credits", "category": "promotional", "status": 201}
    await life.do(GrantCredit, amount=11 * UNIT, **granted)
    await life.do(Reverse, charge_seq=owing, amount="20", status=201)
    await life.do(GrantCredit, amount=500 * UNIT, **granted)
    await life.do(Reverse, charge_seq=owing, amount="35.5", status=201)
    await life.do(SetOverage, policy="bill")
    billed = await life.do(Consume, asset="credits", amount=700 * UNIT, status=201)
    await life.do(Reverse, charge_seq=billed, amount="2", status=201)
    week = {"asset": "credits", "expires_in": 600_000, "status": 201}
    await life.do(GrantCredit, amount=6 * UNIT, **granted)
    await life.do(Reserve, amount=13 * UNIT, **week)
    await life.do(SetOverage, policy="owe", limit=500 * UNIT)
    await life.do(Reserve, amount=5 * UNIT, **week)
    await life.do(Consume, asset="credits", amount=9 * UNIT, status=201)


async def tokens_above_a_hold(life: Life) -> None:
    """After a capture above an open hold and an addition, it has more left than the difference."""
    above = await life.do(Reserve, asset="tokens", amount=5, expires_in=600_000, status=201)
    await life.do(Capture, hold_no=above, amount="7", final=False, above_hold="take")
    await life.do(Extend, hold_no=above, add="3")


@pytest.fixture(scope="module")
async def lived(databases: Databases) -> AsyncGenerator[Database]:
    """A database in which alice and bob (customers 1 and 2) have lived."""
    made = await databases.make()
    async with connected(made.dsn) as conn:
        await customers.make_installation(conn, mode="sandbox", books_time_zone="UTC")
        await customers.put_asset(conn, "tokens", 0)
        numbers = await customers.make(conn, ["alice", "bob"], signup_due=False)
        assert numbers == {"alice": 1, "bob": 2}
        scales = {asset.code: asset.scale for asset in await customers.assets(conn)}
        life = Life(conn, Settings(scales=scales, books_time_zone=UTC), [1, 2])
        grants = await grants_of_all_kinds(life)
        await holds_of_all_kinds(life, grants)
        await time_passes(life)
        await beyond_the_wallet(life)
        await tokens_above_a_hold(life)
    yield made
    await databases.drop(made)


async def test_prove_after_a_rich_life_finds_nothing(lived: Database) -> None:
    async with connected(lived.dsn) as conn:
        assert await prove(conn, chain=True) == []
        async with conn.transaction():
            assert await prove(conn, chain=True) == []
