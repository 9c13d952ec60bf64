"""A process that is killed while it tells of usage, at any statement: all is counted once."""

from datetime import timedelta

import pytest

from sql.pool import transaction
from tests import metering
from tests.faults import faulty_pool, no_faults
from tests.metering import event, send
from tests.servers import Database
from tests.shop import Shop, shop

TELL, COMPARE = "/v1/jobs/report_usage/run", "/v1/jobs/confirm_usage/run"


async def told(sale: Shop, event_name: str) -> str:
    return (await sale.look(f"meters/{event_name}/total"))["total"]


@pytest.mark.parametrize("lost", ["", "reset_after"])
async def test_killed_between_any_two_statements_tells_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    async with (
        faulty_pool(database.dsn, monkeypatch, size=10) as (pool, faults),
        shop(pool, has_one_clock=True) as sale,
    ):
        await metering.meter(sale.api, "calls")
        overage = {"policy": "bill", "event_name": "extra", "unit_price": "0.01"}
        item = {"meter": "calls", "event_name": "api_calls", "unit_price": "0.002"}
        await sale.plan(credits=None, metered=[item], overage=overage)
        await sale.subscribe()
        last, killed = 0, 1
        while killed:
            last += 1
            await send(sale.api, event(f"e{last}"))
            await sale.api.consume("1")
            await sale.sleep(timedelta(hours=2))
            if lost:
                asked = {"method": "POST", "path": "/v1/billing/meter_events", "kind": lost}
                await sale.control("faults", **asked, count=1, skip=last % 2)
            faults.start(lambda number, _, last=last: "cut" if number > last else None)
            await sale.api.post(TELL, key=None)
            await sale.api.post(COMPARE, key=None)
            killed = faults.injected
            faults.start(no_faults)
            await sale.lift_faults()
            async with transaction(pool) as conn:  # its lease is over
                await conn.execute("UPDATE job_leases SET expires_at = clock_timestamp()")
            await sale.sleep(timedelta(minutes=10))
            await sale.job("report_usage")
            assert (await told(sale, "api_calls"), await told(sale, "extra")) == (f"{last}",) * 2
            await sale.sleep(timedelta(minutes=10))
            await sale.job("confirm_usage")
            shown = (await sale.api.get("/v1/usage-reports?limit=100")).body["data"]
            assert {one["status"] for one in shown} == {"confirmed"}
        assert last > 20, "it was killed in the middle of the job"
