"""The daily proof: quiet over true books, loud over broken ones."""

from collections.abc import AsyncGenerator

import pytest

from jobs.runner import Runner
from jobs.schedule import TIMETABLE
from ledger import customers
from meter.service import Config, Service
from sql.pool import Pool, transaction
from tests.integration.player import Player
from tests.servers import Database, connected

BROKEN = "drawdown_invariant_failures_total"


@pytest.fixture
async def service(pool: Pool) -> AsyncGenerator[Service]:
    """The books of a sandbox, without HTTP."""
    async with transaction(pool) as conn:
        await customers.make_installation(conn, mode="sandbox", books_time_zone="UTC")
    started = await Service.start(pool, Config(is_sandbox=True))
    yield started
    await started.close()


@pytest.mark.breaks_books
async def test_daily_proof_fails_and_counts_over_broken_books(
    service: Service, database: Database
) -> None:
    async with connected(database.dsn) as conn:
        player = await Player.enter(conn)
        await player.grant(10)
    runner = Runner(service, TIMETABLE)
    good = await runner.run_now("prove_books")
    assert good is not None
    assert good.error is None
    assert good.counts["checks"] > 20
    registry = service.metrics.registry
    assert registry.get_sample_value(BROKEN) == 0
    async with connected(database.superuser_dsn) as superuser:
        await superuser.execute("UPDATE accounts SET wallet_debits = wallet_debits + 1")
    bad = await runner.run_now("prove_books")
    assert bad is not None
    assert bad.error is not None
    assert bad.error.endswith(": run `drawdown verify`")
    assert "wallet" in bad.error
    assert (registry.get_sample_value(BROKEN) or 0) >= 1
