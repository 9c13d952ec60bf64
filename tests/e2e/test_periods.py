"""Closing a month through HTTP: what was booked stays, what comes late books after it."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest

from ledger import periods
from ledger.proofs import prove
from sql.pool import Pool, transaction
from tests.e2e.test_recognition import BEGIN, DAY, earned, sell
from tests.http import Api, serving, set_clock, wire_time

FEBRUARY = BEGIN.replace(month=2, day=3)
CLOSE = "/v1/periods/2030-01/close"


@pytest.fixture
async def api(pool: Pool) -> AsyncGenerator[Api]:
    """A sandbox on the 5th of January 2030, with `acme`."""
    await set_clock(pool, BEGIN)
    async with serving(pool) as running:
        await running.api.customer("acme")
        yield running.api


def totals(period: Any, account: str) -> tuple[str, str]:
    [found] = [t for t in period["totals"] if t["account"] == account]
    return found["debits"], found["credits"]


async def until_begun(pool: Pool) -> None:
    async with asyncio.timeout(20):
        while await pool.fetchval("SELECT closed_through FROM installation") is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_worked_month_is_closed_and_stays_as_it_was(api: Api, pool: Pool) -> None:
    await sell(api, "100", "50", expires_at=wire_time(BEGIN + 20 * DAY))
    charge = await api.consume("30")
    await api.clock(BEGIN + 2 * DAY)
    await api.post(f"/v1/charges/{charge['id']}/reverse", {"amount": "10"})
    await api.clock(FEBRUARY)
    closed = await api.post(CLOSE, key=None)
    assert closed.status == 200, closed
    assert (closed.body["status"], closed.body["starts_on"]) == ("closed", None)
    assert totals(closed.body, "revenue") == ("5", "15")
    assert totals(closed.body, "breakage_revenue") == ("0", "40")
    assert totals(closed.body, "deferred_revenue") == ("55", "55")
    assert totals(closed.body, "burned") == ("10", "30")
    assert (closed.body["customers"], closed.body["journals"]) == (1, 7)
    assert len(closed.body["hash"]) == 64

    await api.consume("5", effective_at=wire_time(BEGIN + 19 * DAY))
    [late, *_] = (await api.get("/v1/journals?customer_id=acme&kind=charge")).body["data"]
    assert (late["book_date"], late["late_for"]) == ("2030-02-01", "2030-01")
    await api.post("/v1/jobs/recognise/run", key=None)
    assert (await earned(api))[-2:] == [
        "2030-02-01 deferred_revenue revenue 2.5",
        "2030-02-01 breakage_revenue deferred_revenue 2.5",
    ]
    again = await api.post(CLOSE, key=None)
    assert again.body == closed.body
    async with pool.acquire() as conn:
        assert await prove(conn, chain=True) == []


async def test_next_month_goes_on_from_the_one_before(api: Api) -> None:
    await sell(api, "100", "50")
    await api.clock(FEBRUARY)
    january = (await api.post(CLOSE, key=None)).body
    await api.consume("10")
    await api.clock(FEBRUARY + 30 * DAY)
    february = (await api.post("/v1/periods/2030-02/close", key=None)).body
    assert (february["starts_on"], february["ends_on"]) == ("2030-02-01", "2030-02-28")
    assert totals(february, "revenue") == ("0", "5")
    assert february["hash"] != january["hash"]
    first = await api.get("/v1/periods?limit=1")
    assert first.body["data"] == [february]
    rest = await api.get(f"/v1/periods?limit=1&cursor={first.body['next_cursor']}")
    assert rest.body["data"] == [january]
    assert rest.body["next_cursor"] is None


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (CLOSE, {}, 409, "period_not_ended"),
        ("/v1/periods/2030-13/close", {}, 404, "period_not_found"),
        ("/v1/periods/january/close", {}, 404, "period_not_found"),
        ("/v1/periods/2029-12/close", {"force": True}, 422, "invalid_value"),
        ("/v1/periods/2029-12/close", {"reason": "why"}, 422, "invalid_value"),
        ("/v1/periods/2029-12/close", {"really": True}, 422, "unknown_member"),
    ],
)
async def test_close_that_is_wrong_changes_nothing(
    api: Api, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    refused = await api.post(path, body, key=None)
    assert (refused.status, refused.code) == (status, code), refused
    assert (await api.get("/v1/periods")).body["data"] == []


async def test_months_are_closed_in_order(api: Api) -> None:
    await api.clock(FEBRUARY + 60 * DAY)
    assert (await api.post(CLOSE, key=None)).status == 200
    refused = await api.post("/v1/periods/2030-03/close", key=None)
    assert refused.code == "period_out_of_order"
    assert "2030-02" in refused.body["detail"]
    refused = await api.post("/v1/periods/2029-12/close", key=None)
    assert refused.code == "period_out_of_order"


async def test_scopes_part_reading_from_closing(api: Api) -> None:
    await api.clock(FEBRUARY)
    reader = await api.key("books:read")
    assert (await reader.post(CLOSE, key=None)).code == "scope_missing"
    assert (await reader.get("/v1/periods")).status == 200
    writer = await api.key("books:write")
    assert (await writer.post(CLOSE, key=None)).status == 200


@pytest.mark.breaks_books
async def test_books_that_are_not_proved_close_by_force_only(api: Api, pool: Pool) -> None:
    await sell(api, "100", "50")
    await api.clock(FEBRUARY)
    async with transaction(pool) as conn:
        await conn.execute("UPDATE accounts SET burned_debits = burned_debits + 1")
    refused = await api.post(CLOSE, key=None)
    assert (refused.status, refused.code) == (409, "books_not_proved")
    assert (await api.get("/v1/periods")).body["data"] == []
    forced = await api.post(CLOSE, {"force": True, "reason": "known, ticket 7"}, key=None)
    assert forced.status == 200, forced
    assert forced.body["reason"] == "known, ticket 7"
    assert forced.body["failures"] > 0


async def test_close_waits_for_a_writer_that_had_read_the_month_as_open(
    api: Api, pool: Pool
) -> None:
    await sell(api, "100", "50")
    await api.clock(FEBRUARY)
    async with transaction(pool) as conn:
        # As a writer does: it has its lock, and so a number, before the month is closed.
        await conn.execute("SELECT FROM customers FOR NO KEY UPDATE")
        closing = asyncio.create_task(api.post(CLOSE, key=None))
        await until_begun(pool)
        done, _ = await asyncio.wait([closing], timeout=0.3)
        assert not done
    assert (await closing).status == 200


async def test_close_while_writers_write_leaves_no_fact_behind(api: Api, pool: Pool) -> None:
    await sell(api, "1000", "50")
    await api.clock(FEBRUARY)
    is_closed = asyncio.Event()

    async def write() -> None:
        while not is_closed.is_set():
            await api.consume("0.1", effective_at=wire_time(BEGIN + timedelta(minutes=5)))

    writers = [asyncio.create_task(write()) for _ in range(4)]
    closed = await asyncio.gather(api.post(CLOSE, key=None), api.post(CLOSE, key=None))
    is_closed.set()
    await asyncio.gather(*writers)
    assert [answer.status for answer in closed] == [200, 200], closed
    assert closed[0].body == closed[1].body
    async with pool.acquire() as conn:
        assert await prove(conn, chain=True) == []
    late = await pool.fetchval("SELECT count(*) FROM journals WHERE late_for = '2030-01'")
    assert late > 0


async def test_close_that_was_cut_off_goes_on_where_it_was(api: Api, pool: Pool) -> None:
    await sell(api, "100", "50")
    await api.consume("10")
    await api.clock(FEBRUARY)
    async with transaction(pool) as conn:
        assert await periods.check(conn, "2030-01") is None
        await periods.begin(conn, "2030-01")
    [found] = (await api.get("/v1/periods")).body["data"]
    assert (found["status"], found["hash"]) == ("closing", None)
    closed = await api.post(CLOSE, key=None)
    assert totals(closed.body, "revenue") == ("0", "5")
