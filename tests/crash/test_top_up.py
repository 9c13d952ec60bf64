"""A top-up whose process is killed, at any statement; then another process looks after it."""

import pytest

from sql.pool import transaction
from tests.cards import charges, run, save, state, top_up
from tests.faults import faulty_pool, no_faults
from tests.servers import Database
from tests.shop import shop

JOB = "/v1/jobs/auto_top_up/run"


@pytest.mark.parametrize("card", ["pm_card_visa", "pm_card_chargeCustomerFail"])
async def test_killed_between_any_two_statements_charges_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, card: str
) -> None:
    async with (
        faulty_pool(database.dsn, monkeypatch, size=10) as (pool, faults),
        shop(pool, has_one_clock=True) as sale,
    ):
        await sale.pack()
        await save(sale, card)
        await top_up(sale)
        is_good = card == "pm_card_visa"
        last, killed = 0, 1
        while killed:
            last += 1
            faults.start(lambda number, _, last=last: "cut" if number > last else None)
            await sale.api.post(JOB, key=None)
            killed = faults.injected
            faults.start(no_faults)
            async with transaction(pool) as conn:  # its lease is over
                await conn.execute("UPDATE job_leases SET expires_at = clock_timestamp()")
            await run(sale)
            shown = await state(sale)
            tried = [one["status"] for one in await sale.state("payment_intent")]
            if is_good:
                assert shown["state"] == "ready"
                assert await charges(sale) == [1000] * last
                assert (await sale.api.posted())[0] == "1000"
                await sale.api.consume("1000")
            else:
                assert (shown["state"], shown["declines"]) == ("backoff", 1)
                assert tried == ["canceled"] * last
                async with transaction(pool) as conn:  # as if nothing had been declined
                    await conn.execute("UPDATE auto_top_ups SET declines = 0, not_before = NULL")
            assert len(tried) == last
        assert last > 25, "it was killed in the middle of the job"
