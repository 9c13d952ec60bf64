"""Money in, and a process that is killed at any statement of it: each purchase is credited once."""

from datetime import timedelta
from typing import Any

import pytest

from jobs import stripe_gateway
from sql.pool import Pool
from tests.faults import Fault, Faults, faulty_pool, no_faults
from tests.property.sizes import size
from tests.servers import Database
from tests.shop import Shop, shop

JOBS = ("stripe_outbox", "stripe_inbox", "stripe_sweep")
LOST = (None, "reset_before", "reset_after")
CALLS = 40
"""More than a run of the jobs makes, so that each is lost in some run."""
STATEMENTS_MIN = 60
"""Of the jobs: they were killed in the middle."""


@pytest.fixture(autouse=True)
def no_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripe's library tries nothing again, so what is lost is ours to make up for."""
    monkeypatch.setattr(stripe_gateway, "RETRIES", 0)
    monkeypatch.setattr(stripe_gateway, "LIVE_RATE", 10_000.0)


async def opened(sale: Shop, number: int) -> Any:
    """A purchase that is paid; whether its news is delivered now depends on its number."""
    made = await sale.checkout()
    await sale.control("webhooks", mode=("deliver", "drop", "duplicate")[number % 3])
    await sale.pay(made)
    await sale.control("webhooks", mode="deliver")
    return made


async def run_all(sale: Shop) -> None:
    """Run the jobs as a clock would: whatever becomes of them."""
    for job in JOBS:
        await sale.api.post(f"/v1/jobs/{job}/run", key=None)


async def begin_again(sale: Shop, pool: Pool) -> None:
    """Another process, later: what the dead one had taken is free again, and all is done."""
    await sale.lift_faults()
    await pool.execute("UPDATE job_leases SET expires_at = clock_timestamp()")
    await pool.execute("UPDATE stripe_objects SET lease_until = NULL, not_before = NULL")
    await sale.sleep(timedelta(hours=1, minutes=1))
    for job in ("stripe_outbox", "stripe_sweep"):
        await sale.job(job)
    await sale.apply()


async def assert_settled(sale: Shop, pool: Pool, bought: list[Any]) -> None:
    """Each purchase is credited, all but the last gave back 3.00, and no news waits."""
    waiting = "SELECT object_id, kind, error FROM stripe_objects WHERE is_open OR is_parked"
    assert await pool.fetch(waiting) == []
    assert await pool.fetch("SELECT name FROM stripe_calls WHERE object_id IS NULL") == []
    left = str(1000 * len(bought) - 300 * (len(bought) - 1))
    assert await sale.api.posted() == (left, "0", left)
    for one, refunded in ((bought[-1], "0"), *((one, "3") for one in bought[-2:-1])):
        shown = await sale.purchase(one)
        told = shown["status"], shown["captured"], shown["refunded"]
        assert told == ("credited", "10", refunded), shown


async def assert_stripe_agrees(sale: Shop, count: int) -> None:
    """Nothing was made there twice."""
    for kind, wanted in (("customer", 1), ("checkout.session", count), ("payment_intent", count)):
        assert len(await sale.state(kind)) == wanted, kind
    back = [(one["amount"], one["status"]) for one in await sale.state("refund")]
    assert back == [(300, "succeeded")] * (count - 1)


async def lives(sale: Shop, pool: Pool, faults: Faults, fault: Fault, lost: str | None) -> int:
    """One purchase and one refund after the other, each with its crash, later and later.

    How many statements there were before the crash of the last, which there was not.
    """
    bought: list[Any] = []
    last, injected, step = 0, 1, size(3 if lost else 2, 1)
    while injected:
        last += step
        bought.append(await opened(sale, len(bought)))
        if len(bought) > 1:
            asked = await sale.refund(await sale.purchase(bought[-2]), amount="3.00")
            assert asked.status == 202, asked
        if lost is not None:
            skip = len(bought) % CALLS
            await sale.control("faults", path="/v1/*", kind=lost, skip=skip)

        def plan(number: int, _: str, last: int = last) -> Fault | None:
            is_hit = number > last if fault == "cut" else number == last
            return fault if is_hit else None

        faults.start(plan)
        await run_all(sale)
        injected = faults.injected
        faults.start(no_faults)
        await begin_again(sale, pool)
        await assert_settled(sale, pool, bought)
    await assert_stripe_agrees(sale, len(bought))
    return last


@pytest.mark.parametrize("lost", LOST)
async def test_killed_between_any_two_statements_credits_and_refunds_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, lost: str | None
) -> None:
    async with (
        faulty_pool(database.dsn, monkeypatch, size=10) as (pool, faults),
        shop(pool, has_one_clock=True) as sale,
    ):
        await sale.pack()
        assert await lives(sale, pool, faults, "cut", lost) > STATEMENTS_MIN


async def test_lost_answer_to_any_statement_credits_and_refunds_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process goes on, and does not know whether what it asked for was done."""
    async with (
        faulty_pool(database.dsn, monkeypatch, size=10) as (pool, faults),
        shop(pool, has_one_clock=True) as sale,
    ):
        await sale.pack()
        assert await lives(sale, pool, faults, "cut after", None) > STATEMENTS_MIN
