"""Where measurements run: a PostgreSQL of its own, seeded, and servers as child processes."""

import contextlib
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from datetime import UTC
from pathlib import Path
from typing import Final

from drawdown.embedded import Embedded
from ledger import customers
from ledger.requests import Cost, GrantCredit
from ledger.state import Settings
from ledger.transact import transact
from meter import auth
from meter.service import render
from sql import migrate
from sql.pool import Pool, connect, open_pool, transaction

CUSTOMERS: Final = 1_000
LOTS: Final = 3
SETTINGS: Final = Settings(scales={"credits": 9, "USD": 2}, books_time_zone=UTC)
HERE: Final = Path(__file__).parent


class Place:
    """A database to measure on: `dsn` as the service's role, and a key for the requests."""

    def __init__(self, dsn: str, owner_dsn: str, api_key: str, version: str) -> None:
        self.dsn, self.owner_dsn, self.api_key, self.version = dsn, owner_dsn, api_key, version


@contextlib.asynccontextmanager
async def place() -> AsyncGenerator[Place]:
    with tempfile.TemporaryDirectory(prefix="drawdown-bench-") as folder:
        # The server runs as another user when this is root.
        os.chmod(folder, 0o755)
        embedded = await Embedded.start(Path(folder) / "data")
        try:
            owner = await connect(embedded.owner_dsn)
            await migrate.migrate(owner)
            async with owner.transaction():
                await customers.make_installation(owner, mode="sandbox", books_time_zone="UTC")
            await owner.execute((HERE / "naive.sql").read_text())
            version = await owner.fetchval("SHOW server_version")
            await owner.close()
            pool = await open_pool(embedded.dsn, size=4)
            api_key = await _seed(pool)
            await pool.close()
            yield Place(embedded.dsn, embedded.owner_dsn, api_key, version)
        finally:
            await embedded.stop()


async def _seed(pool: Pool) -> str:
    """CUSTOMERS customers c1 …, each with LOTS lots (one paid), and a key for everything."""
    async with transaction(pool) as conn:
        names = [f"c{number}" for number in range(1, CUSTOMERS + 1)]
        numbers = await customers.make(conn, names, signup_due=False)
    for rank in range(LOTS):
        everyone = list(numbers.values())
        for first in range(0, len(everyone), 250):
            requests = [
                GrantCredit(
                    customer_no=number,
                    asset="credits",
                    amount=10**17,
                    category="promotional" if rank else "paid",
                    cost=None if rank else Cost(0, "USD"),
                    priority=10 * rank,
                )
                for number in everyone[first : first + 250]
            ]
            async with transaction(pool) as conn:
                await transact(conn, requests, SETTINGS, render, wait=True)
    async with transaction(pool) as conn:
        return (await auth.new_key(conn, name="bench", scopes=["admin"])).key


class Child:
    """A server process on a port of its own; idle until it is loaded."""

    def __init__(self, variant: str, dsn: str, *, pool_size: int = 16) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.server", variant, dsn, str(pool_size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=40)


def wrk(
    child: Child, place: Place, kind: str, *, connections: int, seconds: int, customers: int
) -> float:
    """Requests a second in a closed loop. Fails if any answer is not 2xx."""
    done = subprocess.run(
        [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--latency",
            "-s",
            str(HERE / "load.lua"),
            "-H",
            f"Authorization: Bearer {place.api_key}",
            f"http://127.0.0.1:{child.port}",
            "--",
            kind,
            secrets.token_hex(6),
            str(customers),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(done.stdout)
    for line in done.stdout.splitlines():
        if line.startswith("Requests/sec:"):
            return float(line.split()[1])
    raise RuntimeError(done.stdout)


def median(values: list[float]) -> float:
    return statistics.median(values)
