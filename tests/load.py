"""Load whose every request is accounted for: what was sent, what came back, what the books say.

Bounded and on the loopback only. A client sends one request at a time and sends it again, under the
same key, until it is answered; so at the end nothing is unknown.
"""

import asyncio
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from os import environ
from time import monotonic
from typing import IO, Any, Final

import aiohttp

from drawdown.sandbox_process import own_environment
from ledger import customers
from ledger.proofs import prove
from meter.auth import create_key
from tests.http import Answer, Api
from tests.servers import Database, connected

READY: Final = b"drawdown ready on "
READY_SECONDS_MAX: Final = 60
ANSWER_SECONDS_MAX: Final = 60
"""For one request, over all its tries."""
PAUSE_SECONDS: Final = 0.1
"""Between two tries; a client never hammers."""
UNIT: Final = 10**9


def seed_of_run(name: str) -> int:
    """A fresh seed, printed so that a failure can be played again: SEED=… pytest …"""
    seed = int(environ.get("SEED", random.SystemRandom().randrange(2**32)))
    sys.stdout.write(f"replay: SEED={seed} ./dev test {name}\n")
    return seed


@dataclass(eq=False)
class Op:
    """One request under one key."""

    path: str
    body: dict[str, Any]
    key: str
    customer_id: str
    amount: int = 0
    """What it burns if it succeeds, in whole credits."""
    failures: list[str] = field(default_factory=list[str])
    """What came of the tries before the answer: `503 code`, or the name of an error."""
    answer: Answer | None = None
    seconds: float = 0.0
    """From the first try to the answer."""


class Load:
    """Clients that reserve, capture, void and consume for a few customers until told to stop."""

    def __init__(
        self, apis: Sequence[Api], customer_ids: Sequence[str], *, clients: int, seed: int
    ) -> None:
        """Client n uses service n, in turn, and every customer."""
        self.apis, self.customer_ids = apis, customer_ids
        self.seed, self.clients = seed, clients
        self.ops: list[Op] = []
        self.acked = 0
        self._stopped = False
        self._moved = asyncio.Condition()

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._client(n)) for n in range(self.clients)]
        return self

    async def __aexit__(self, *failed: object) -> None:
        if failed[0] is not None:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self) -> None:
        """Begin nothing new and wait until every request that was begun has its answer."""
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def more(self, count: int) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.acked + count
        async with asyncio.timeout(ANSWER_SECONDS_MAX), self._moved:
            await self._moved.wait_for(lambda: self.acked >= wanted or any(self._broken()))
        for task in self._broken():
            task.result()

    def _broken(self) -> list[asyncio.Task[None]]:
        return [task for task in self._tasks if task.done()]

    async def _client(self, number: int) -> None:
        rng = random.Random(self.seed * 1_000 + number)
        api = self.apis[number % len(self.apis)]
        while not self._stopped:
            who = rng.choice(self.customer_ids)
            amount = rng.randint(1, 5)
            common = {"customer_id": who, "amount": str(amount)}
            if rng.random() < 0.4:
                await self._ask(api, Op("/v1/consume", common, self._key(), who, amount))
                continue
            hold = await self._ask(api, Op("/v1/reserve", common, self._key(), who))
            path = f"/v1/holds/{hold.body['id']}"
            if rng.random() < 0.2:
                await self._ask(api, Op(f"{path}/void", {}, self._key(), who))
                continue
            taken = rng.randint(1, amount)
            body = {"amount": str(taken)}
            await self._ask(api, Op(f"{path}/capture", body, self._key(), who, taken))

    def _key(self) -> str:
        return f"load-{self.seed}-{len(self.ops)}"

    async def _ask(self, api: Api, op: Op) -> Answer:
        self.ops.append(op)
        began = monotonic()
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            while (answer := await try_once(api, op)) is None:  # noqa: ASYNC110 (a caller's pause)
                await asyncio.sleep(PAUSE_SECONDS)
        op.answer, op.seconds = answer, monotonic() - began
        self.acked += 1
        async with self._moved:
            self._moved.notify_all()
        assert answer.status in {200, 201}, (op, answer)
        return answer

    # What it came to

    def failures(self) -> Counter[str]:
        return Counter(failure for op in self.ops for failure in op.failures)

    def found_applied(self) -> int:
        """Requests whose first answer was lost and that had been applied all the same."""
        return sum(op.answer is not None and op.answer.is_replayed for op in self.ops)


async def try_once(api: Api, op: Op) -> Answer | None:
    """One try. None if there is no final answer: `op.failures` says why."""
    try:
        answer = await api.send("POST", op.path, op.body, key=op.key)
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        op.failures.append(type(error).__name__)
        return None
    if answer.status == 503:
        assert answer.body["retryable"] is True, answer
        assert "retry-after" in answer.headers, answer
        op.failures.append(f"503 {answer.code}")
        return None
    return answer


async def account_for(load: Load, database: Database) -> None:
    """Assert that the books hold every answered request exactly once, and nothing else."""
    async with connected(database.superuser_dsn) as conn:
        stored = {
            row["key"]: (row["status"], bytes(row["body"]))
            for row in await conn.fetch(
                "SELECT key, status, body FROM requests WHERE key LIKE 'load-%'"
            )
        }
        charged = Counter(
            row[0]
            for row in await conn.fetch(
                "SELECT request_key FROM journals"
                " WHERE kind = 'charge' AND request_key LIKE 'load-%'"
            )
        )
        holds = await conn.fetchval("SELECT count(*) FROM holds")
        burned = {
            row[0]: int(row[1])
            for row in await conn.fetch(
                "SELECT customer_id, sum(burned_credits - burned_debits)"
                " FROM accounts JOIN customers USING (customer_no) GROUP BY 1"
            )
        }
        assert await prove(conn, chain=True) == []
    assert stored.keys() == {op.key for op in load.ops}
    wanted: Counter[str] = Counter()
    for op in load.ops:
        assert op.answer is not None
        assert stored[op.key] == (op.answer.status, op.answer.raw), op
        wanted[op.customer_id] += op.amount * UNIT
    assert charged == Counter({op.key: 1 for op in load.ops if op.amount})
    assert holds == sum(op.path == "/v1/reserve" for op in load.ops)
    assert {who: amount for who, amount in burned.items() if amount} == {
        who: amount for who, amount in wanted.items() if amount
    }


# Processes


class Process:
    """A running `drawdown serve`."""

    def __init__(self, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        self._process, self._log = process, log
        self.url = ""

    async def ready(self) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(READY_SECONDS_MAX):
            line = await self._process.stdout.readline()
        assert line.startswith(READY), (line, self.log())
        self.url = line.removeprefix(READY).decode().strip()

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode()[-4_000:]


@asynccontextmanager
async def serve_process(
    database: Database, *, port: int = 0, settings: Mapping[str, str] | None = None
) -> AsyncGenerator[Process]:
    """The service on a database, killed at the end if it still runs."""
    with tempfile.TemporaryFile() as log:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "drawdown", "serve", "--port", str(port)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env={**own_environment(environ), "DATABASE_URL": database.dsn, **(settings or {})},
        )
        process = Process(child, log)
        try:
            await process.ready()
            yield process
        finally:
            await process.kill()


async def prepare(database: Database, customer_ids: Sequence[str]) -> str:
    """An installation, customers who have nothing yet, and an API key for everything."""
    async with connected(database.superuser_dsn) as conn, conn.transaction():
        await customers.make_installation(conn, mode=None, books_time_zone="UTC")
        _, secret = await create_key(conn, name="load", scopes=["admin"])
    async with connected(database.superuser_dsn) as conn, conn.transaction():
        await customers.make(conn, list(customer_ids), signup_due=False)
    return secret


async def fund(api: Api, customer_ids: Sequence[str], amount: int = 1_000_000) -> None:
    """Give each customer credit enough for any load here."""
    for who in customer_ids:
        await api.grant(str(amount), who)
