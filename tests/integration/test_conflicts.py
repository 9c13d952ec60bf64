"""Conflicts and cut connections at every statement of a batch: the callers never notice.

The same three batches run on databases that start alike, with a stopped clock. However often they
are disturbed, every answer and every row is what it is without.
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledger import customers
from ledger.requests import (
    Capture,
    Consume,
    Cost,
    Extend,
    GrantCredit,
    Notes,
    Request,
    Reserve,
    Reverse,
    SetOverage,
    VoidHold,
)
from ledger.state import Settings
from ledger.transact import Result
from meter.hot_path import RETRIES_MAX, Batcher
from meter.observe import Metrics
from meter.service import render
from sql.pool import Pool, transaction
from tests.faults import Fault, Faults, Plan, faulty_pool
from tests.http import FrozenClock
from tests.load import seed_of_run
from tests.property.sizes import size
from tests.servers import Database, Databases, connected

START = datetime(2030, 1, 1, tzinfo=UTC)
SETTINGS = Settings(scales={"credits": 9, "USD": 2}, books_time_zone=UTC)
TABLES = (
    *("accounts", "customers", "debts", "grants", "hold_steps", "holds", "journals", "lots"),
    *("money_accounts", "notes", "requests", "reversed_charges", "transfers"),
)
State = dict[str, list[str]]


def batches(a: int, b: int) -> list[tuple[timedelta, list[Request]]]:
    """What runs, and how long after the start: every kind of row is made and moved."""

    def of(customer_no: int, key: str, **more: Any) -> dict[str, Any]:
        return {"customer_no": customer_no, "key": key, "fingerprint": key.encode(), **more}

    note = Notes(bytes(16), "ref", None, None)
    grant: dict[str, Any] = {"asset": "credits", "category": "promotional"}
    twin = Consume(**of(a, "a4"), asset="credits", amount=5, notes=note)
    return [
        (
            timedelta(),
            [
                GrantCredit(**of(a, "a1"), **grant, amount=100),
                GrantCredit(
                    **of(a, "a2"), **grant, amount=50, expires_at=START + timedelta(minutes=30)
                ),
                GrantCredit(
                    **of(b, "b1"),
                    asset="credits",
                    category="paid",
                    amount=40,
                    cost=Cost(400, "USD"),
                ),
                SetOverage(customer_no=b, policy="owe", limit=30),
            ],
        ),
        (
            timedelta(minutes=1),
            [
                Reserve(**of(a, "a3"), asset="credits", amount=60, expires_in=7_200),
                twin,
                twin,
                Consume(**of(a, "a5"), asset="credits", amount=10_000),
                Consume(**of(b, "b2"), asset="credits", amount=60),
                Reserve(**of(a, "a6"), asset="credits", amount=10, expires_in=60),
            ],
        ),
        (
            timedelta(hours=1),
            [
                Extend(**of(a, "a7"), hold_no=5, expires_in=600, add="0.000000003"),
                Capture(**of(a, "a8"), hold_no=5, amount="0.00000002", final=False),
                Capture(**of(a, "a9"), hold_no=6),
                VoidHold(**of(a, "a10"), hold_no=5),
                GrantCredit(**of(b, "b3"), **grant, amount=5),
                Reverse(**of(b, "b4"), charge_seq=2, amount="0.00000003"),
            ],
        ),
    ]


class Bench:
    """One database with two customers, its clock, and a batcher whose connections can fail."""

    def __init__(self, pool: Pool, faults: Faults, clock: FrozenClock, numbers: list[int]) -> None:
        self.pool, self.faults, self.clock, self.numbers = pool, faults, clock, numbers
        self.metrics = Metrics()

    async def run(self, plan: Plan) -> tuple[list[list[tuple[int, bytes]]], State]:
        """All batches, disturbed by `plan`: the answers and the rows."""
        batcher = Batcher(
            self.pool,
            render,
            lambda: SETTINGS,
            self.metrics,
            queue_max=100,
            queue_seconds_max=60,
        )
        self.faults.start(plan)
        answers: list[list[tuple[int, bytes]]] = []
        for after, batch in batches(*self.numbers):
            await self.clock.set(START + after)
            results = await send(batcher, batch)
            answers.append([(result.status, result.body) for result in results])
        await batcher.close()
        self.faults.start(lambda _n, _q: None)
        async with transaction(self.pool) as conn:
            state = {
                table: [
                    row[0]
                    for row in await conn.fetch(f"SELECT t::text FROM {table} AS t ORDER BY 1")  # noqa: S608 (our own names)
                ]
                for table in TABLES
            }
        return answers, state

    def retries(self, reason: str) -> float:
        value = self.metrics.registry.get_sample_value("drawdown_retries_total", {"reason": reason})
        return value or 0.0


async def send(batcher: Batcher, batch: list[Request]) -> list[Result]:
    """One batch, sent again as long as it is refused with a 503, as a caller would."""
    while True:
        results = await asyncio.gather(*[batcher.submit(request) for request in batch])
        if not any(result.status == 503 for result in results):
            return results


@asynccontextmanager
async def bench(databases: Databases, patch: pytest.MonkeyPatch) -> AsyncGenerator[Bench]:
    database = await databases.make()
    try:
        async with faulty_pool(database.dsn, patch) as (pool, faults):
            async with transaction(pool) as conn:
                await customers.make_installation(conn, mode="sandbox", books_time_zone="UTC")
            clock = FrozenClock(database)
            async with clock.stopped_at(START):
                async with transaction(pool) as conn:
                    made = await customers.make(conn, ["a", "b"], signup_due=False)
                yield Bench(pool, faults, clock, [made["a"], made["b"]])
    finally:
        await databases.drop(database)


async def undisturbed(
    databases: Databases, patch: pytest.MonkeyPatch
) -> tuple[list[list[tuple[int, bytes]]], State, list[str]]:
    async with bench(databases, patch) as made:
        sent: list[str] = []

        def remember(_number: int, query: str) -> Fault | None:
            sent.append(query)
            return None

        answers, state = await made.run(remember)
    statuses = [[status for status, _ in batch] for batch in answers]
    assert statuses == [
        [201, 201, 201, 200],
        [201, 201, 201, 402, 201, 201],
        [200, 200, 409, 200, 201, 201],
    ]
    return answers, state, sent


def assert_same(
    found: tuple[list[list[tuple[int, bytes]]], State],
    answers: list[list[tuple[int, bytes]]],
    state: State,
    what: str,
) -> None:
    """The answers, batch by batch, and the rows, table by table."""
    for place, (got, wanted) in enumerate(zip(found[0], answers, strict=True)):
        assert got == wanted, f"{what}: batch {place}"
    for table, rows in state.items():
        assert found[1][table] == rows, f"{what}: {table}"


@pytest.mark.parametrize("fault", ["40001", "40P01", "cut"])
async def test_fault_at_any_statement_changes_no_answer_and_no_row(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    answers, state, sent = await undisturbed(databases, monkeypatch)
    assert len(sent) > 20, "a batch has its statements"
    for place in range(1, len(sent) + 1):
        async with bench(databases, monkeypatch) as made:
            found = await made.run(lambda n, _, at=place: fault if n == at else None)
            assert_same(found, answers, state, f"{fault} at {place}: {sent[place - 1]}")
            reasons = {"conflict", "unavailable", "outcome_unknown"}
            assert sum(made.retries(reason) for reason in reasons) == 1
            assert fault == "cut" or made.retries("conflict") == 1


async def test_commit_whose_answer_is_lost_is_found_by_its_keys(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, state, sent = await undisturbed(databases, monkeypatch)
    commits = [place for place, query in enumerate(sent, 1) if query == "COMMIT;"]
    assert len(commits) == 3
    for place in commits:
        async with bench(databases, monkeypatch) as made:
            found = await made.run(lambda n, _, at=place: "cut after" if n == at else None)
            assert_same(found, answers, state, f"answer lost at commit {place}")
            assert made.retries("outcome_unknown") == 1


async def test_conflicts_at_one_in_ten_statements_change_no_answer_and_no_row(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    answers, state, _ = await undisturbed(databases, monkeypatch)
    seed = seed_of_run(request.node.nodeid)
    injected = 0
    for run in range(size(8, 100)):
        rng = random.Random(seed + run)

        def plan(_number: int, _query: str, rng: random.Random = rng) -> Fault | None:
            return rng.choice(["40001", "40P01"]) if rng.random() < 0.1 else None

        async with bench(databases, monkeypatch) as made:
            assert_same(await made.run(plan), answers, state, f"seed {seed}, run {run}")
            injected += int(made.retries("conflict"))
    assert injected > 0


@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_conflict_without_end_is_a_503_after_bounded_retries(
    database: Database, monkeypatch: pytest.MonkeyPatch, code: Fault
) -> None:
    async with faulty_pool(database.dsn, monkeypatch) as (pool, faults):
        async with transaction(pool) as conn:
            await customers.make_installation(conn, mode="sandbox", books_time_zone="UTC")
            made = await customers.make(conn, ["a"], signup_due=False)
        metrics = Metrics()
        batcher = Batcher(
            pool, render, lambda: SETTINGS, metrics, queue_max=10, queue_seconds_max=60
        )
        faults.start(lambda _n, query: code if query == "COMMIT;" else None)
        request = GrantCredit(
            customer_no=made["a"],
            key="k",
            asset="credits",
            amount=5,
            category="promotional",
        )
        result = await batcher.submit(request)
        assert (result.status, result.code) == (503, "busy")
        assert faults.transactions == 1 + RETRIES_MAX == 6
        faults.start(lambda _n, _q: None)
        async with connected(database.dsn) as conn:
            assert await conn.fetchval("SELECT count(*) FROM journals") == 0
        again = await batcher.submit(request)
        assert (again.status, again.is_replayed) == (201, False)
        await batcher.close()
