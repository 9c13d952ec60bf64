"""A process that is killed while it puts late usage on the next invoice: each is on it once."""

from datetime import UTC, datetime, timedelta

import pytest

from sql.pool import transaction
from tests import metering
from tests.faults import faulty_pool, no_faults
from tests.metering import event, send
from tests.servers import Database
from tests.shop import shop

COMPARE = "/v1/jobs/confirm_usage/run"
AT = "2030-01-31T12:30:00Z"


@pytest.mark.parametrize("lost", ["", "reset_after"])
async def test_killed_between_any_two_statements_makes_one_item(
    database: Database, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    async with (
        faulty_pool(database.dsn, monkeypatch, size=10) as (pool, faults),
        shop(pool, has_one_clock=True, late_usage="next_invoice") as sale,
    ):
        await metering.meter(sale.api, "calls")
        item = {"meter": "calls", "event_name": "api_calls", "unit_price": "1"}
        await sale.plan(metered=[item])
        await sale.subscribe()
        await sale.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
        await sale.job("confirm_usage")
        last, killed = 0, 1
        while killed:
            last += 1
            await send(sale.api, event(f"e{last}", time=AT))
            await sale.sleep(timedelta(hours=7))
            await sale.job("report_usage")
            if lost:
                asked = {"method": "POST", "path": "/v1/invoiceitems", "kind": lost}
                await sale.control("faults", **asked, count=3)
            faults.start(lambda number, _, last=last: "cut" if number > last else None)
            await sale.api.post(COMPARE, key=None)
            killed = faults.injected
            faults.start(no_faults)
            await sale.lift_faults()
            async with transaction(pool) as conn:  # its lease is over
                await conn.execute("UPDATE job_leases SET expires_at = clock_timestamp()")
            await sale.sleep(timedelta(minutes=10))
            await sale.job("confirm_usage")
            await sale.job("stripe_outbox")
            made = await sale.state("invoiceitem")
            assert [one["amount"] for one in made] == [100] * last
            shown = (await sale.api.get("/v1/usage-reports?limit=100")).body["data"]
            assert {one["status"] for one in shown} == {"next_invoice"}
            assert {one["invoice_item_id"] for one in shown} == {one["id"] for one in made}
        assert last > 20, "it was killed in the middle of the job"
