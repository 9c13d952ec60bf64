"""One customer under many clients, through HTTP at two services: every history has an order."""

import asyncio
import random
from itertools import count
from typing import Any

import pytest
from structlog.testing import capture_logs

import ledger.load
import ledger.transact
from ledger.load import Loaded
from ledger.state import Books
from sql.pool import Connection, Pool
from tests.http import Answer, Api, serving
from tests.load import seed_of_run
from tests.property.linear import Call, Seen, Verb, explain
from tests.property.sizes import IS_LONG, IS_MUTANT, size

CLIENTS = 12
OPERATIONS_MAX = 40 if IS_LONG else 6
"""Of one client in one history."""
OPERATIONS_BROKEN = 12


class History:
    """Clients of one customer at once, and what each of them asked and saw."""

    def __init__(self, apis: list[Api], name: str, seed: int, *, is_broken: bool) -> None:
        """`is_broken`: the service may fail, having written nothing; it is crowded all the time."""
        self.apis, self.name, self.is_broken = apis, name, is_broken
        self.rng = random.Random(seed)
        self.ticks = count()
        self.calls: list[Call] = []
        self.holds: list[str] = []
        self.keys = count()

    async def run(self) -> list[Call]:
        await self.apis[0].customer(self.name)
        await self.call(self.apis[0], "grant", 20)
        clients = CLIENTS if self.is_broken else self.rng.randint(2, CLIENTS)
        await asyncio.gather(*[self.client(n, self.rng.random()) for n in range(clients)])
        return self.calls

    async def client(self, number: int, seed: float) -> None:
        rng = random.Random(seed)
        api = self.apis[number % len(self.apis)]
        operations = rng.randint(2, OPERATIONS_MAX)
        for _ in range(OPERATIONS_BROKEN if self.is_broken else operations):
            verb: Verb = rng.choices(
                ("grant", "reserve", "capture", "void", "read", "read hold"), (1, 4, 4, 2, 2, 1)
            )[0]
            if not self.holds and verb in {"capture", "void", "read hold"}:
                verb = "reserve"
            # The latest holds are those that others are at, too.
            hold = rng.choice(self.holds[-3:]) if self.holds else ""
            amount = rng.randint(1, 9)
            if verb == "capture":
                amount = rng.choice([None, 0, 1, 2, 9])
            final = rng.random() < 0.5
            if rng.random() < 0.15:
                key, other = self.key(), rng.choice(self.apis)
                await asyncio.gather(
                    self.call(api, verb, amount, hold, final, key),
                    self.call(other, verb, amount, hold, final, key),
                )
            else:
                await self.call(api, verb, amount, hold, final)

    def key(self) -> str:
        return f"{self.name}-{next(self.keys)}"

    async def call(
        self,
        api: Api,
        verb: Verb,
        amount: int | None = None,
        hold: str = "",
        final: bool = True,
        key: str | None = None,
    ) -> None:
        key = key or self.key()
        started = next(self.ticks)
        answer = await self.ask(api, verb, amount, hold, final, key)
        returned = next(self.ticks)
        if answer.status == 500 and self.is_broken:
            return
        assert answer.status < 500, answer
        seen = read_answer(answer)
        if verb == "reserve" and seen.hold is not None and seen.hold not in self.holds:
            self.holds.append(seen.hold)
        self.calls.append(Call(verb, key, started, returned, seen, amount, hold, final))

    async def ask(
        self, api: Api, verb: Verb, amount: int | None, hold: str, final: bool, key: str
    ) -> Answer:
        who = {"customer_id": self.name}
        match verb:
            case "grant":
                body = {**who, "amount": str(amount), "category": "promotional"}
                return await api.send("POST", "/v1/grants", body, key=key)
            case "reserve":
                return await api.send(
                    "POST", "/v1/reserve", {**who, "amount": str(amount)}, key=key
                )
            case "capture":
                sent: dict[str, Any] = {} if amount is None else {"amount": str(amount)}
                path = f"/v1/holds/{hold}/capture"
                return await api.send("POST", path, {**sent, "final": final}, key=key)
            case "void":
                return await api.send("POST", f"/v1/holds/{hold}/void", {}, key=key)
            case "read":
                return await api.get(f"/v1/customers/{self.name}/balance")
            case "read hold":
                return await api.get(f"/v1/holds/{hold}")


def read_answer(answer: Answer) -> Seen:
    body = answer.body
    shown = body.get("balance", body)
    balance = None
    if "posted" in shown:
        balance = int(shown["posted"]), int(shown["held"]), int(shown["available"])
    state = None
    is_hold = "captured" in body and answer.status < 300  # a refusal tells its amounts too
    if is_hold:
        state = body["status"], int(body["captured"]), int(body["remaining"])
    return Seen(
        answer.status,
        answer.code,
        body["id"] if is_hold else None,
        state,
        balance,
        answer.is_replayed,
        answer.raw,
    )


async def histories(
    pool: Pool, seed: int, runs: int, *, is_broken: bool = False
) -> list[str | None]:
    """What the checker says of each of so many histories, at two services on one database."""
    verdicts: list[str | None] = []
    async with serving(pool) as one, serving(pool) as other:
        for run in range(runs):
            apis = [one.api, other.api]
            history = History(apis, f"h-{run}", seed + run, is_broken=is_broken)
            verdicts.append(explain(await history.run()))
    return verdicts


async def test_every_history_is_linearizable(pool: Pool, request: pytest.FixtureRequest) -> None:
    seed = seed_of_run(request.node.nodeid)
    runs = 10 if IS_MUTANT else size(100, 2_000)
    for run, verdict in enumerate(await histories(pool, seed, runs)):
        assert verdict is None, f"seed {seed}, history {run}: {verdict}"


@pytest.mark.breaks_books
async def test_reading_before_the_lock_is_caught(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The same check of a service with a bug: it reads what it decides on, then locks.

    The database's constraints refuse some of what comes of it; what they let pass is found here.
    """

    async def look_only(conn: Connection, numbers: list[int], *, wait: bool) -> dict[int, Books]:
        return await ledger.load.look(conn, numbers)

    async def load_then_lock(
        conn: Connection, found: dict[int, Books], *rest: Any, **options: Any
    ) -> Loaded:
        loaded = await ledger.load.load(conn, found, *rest, **options)
        for no, locked in (await ledger.load.lock(conn, sorted(found), wait=True)).items():
            found[no].last_no, found[no].last_seq = locked.last_no, locked.last_seq
            found[no].last_hash, found[no].last_created_at = (
                locked.last_hash,
                locked.last_created_at,
            )
        return loaded

    monkeypatch.setattr(ledger.transact, "lock", look_only)
    monkeypatch.setattr(ledger.transact, "load", load_then_lock)
    seed, runs = seed_of_run(request.node.nodeid), size(20, 200)
    with capture_logs():  # a 500 has a long trace
        verdicts = await histories(pool, seed, runs, is_broken=True)
    caught = sum(verdict is not None for verdict in verdicts)
    assert caught >= 0.95 * runs, f"seed {seed}: {caught} of {runs}"
