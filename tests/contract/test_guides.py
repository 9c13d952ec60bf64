"""The Python of the guides, taken from the pages and run against the service."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sql.pool import Pool
from tests import metering
from tests.http import Running, serving, set_clock
from tests.pages import ROOT, blocks
from tests.shop import shop


@pytest.fixture
async def running(pool: Pool) -> AsyncGenerator[Running]:
    async with serving(pool) as made:
        yield made


def code_of(page: str) -> dict[str, Any]:
    """The names that the Python of a page defines."""
    names: dict[str, Any] = {}
    for block in blocks((ROOT / "docs" / "guides" / page).read_text(), "python"):
        exec(compile(block, page, "exec"), names)
    return names


class LostAnswers:
    """A proxy that passes requests on and loses the first answers: each loss is one of `kinds`."""

    def __init__(self, port: int, kinds: list[str]) -> None:
        self.port, self.kinds, self.seen = port, kinds, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen += 1
        kind = self.kinds.pop(0) if self.kinds else "whole"
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
        body = await reader.readexactly(size)
        if kind != "early":
            inner_reader, inner = await asyncio.open_connection("127.0.0.1", self.port)
            inner.write(head + body)
            answer = await inner_reader.read()
            inner.close()
            if kind == "half":
                answer = answer[:-5]
            elif kind == "503":
                answer = b"HTTP/1.1 503 Gone\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
            writer.write(b"" if kind == "late" else answer)
        writer.close()


@asynccontextmanager
async def losing(port: int, kinds: list[str]) -> AsyncGenerator[tuple[LostAnswers, str]]:
    proxy = LostAnswers(port, kinds)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield proxy, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def test_retry_function_charges_once_whatever_is_lost(running: Running) -> None:
    await running.api.customer("acme")
    await running.api.grant("10")
    code = code_of("retry-safely.md")
    waits: list[float] = []
    body = {"customer_id": "acme", "amount": "3"}
    async with losing(running.port, ["early", "late", "half", "503"]) as (proxy, url):

        def call(key: str, body: Any) -> Any:
            secret = running.api.secret
            return code["post"](url, secret, "/v1/consume", body, key=key, sleep=waits.append)

        charged = await asyncio.to_thread(call, "job-1", body)
        assert (charged["amount"], proxy.seen, len(waits)) == ("3", 5, 4)
        assert max(waits) == 7, "as long as the service asked for"
        assert await asyncio.to_thread(call, "job-1", body) == charged
        with pytest.raises(code["Refused"]) as refused:
            await asyncio.to_thread(call, "job-2", {**body, "amount": "8"})
        assert (refused.value.status, refused.value.code) == (402, "insufficient_credits")
        proxy.kinds = ["late"] * code["ATTEMPTS_MAX"]
        with pytest.raises(code["Unsettled"]):
            await asyncio.to_thread(call, "job-3", {**body, "amount": "1"})
        assert (await asyncio.to_thread(call, "job-3", {**body, "amount": "1"}))["amount"] == "1"
    assert (await running.api.posted())[0] == "6"


def posting(running: Running, loop: asyncio.AbstractEventLoop) -> Any:
    """`post` as the guides use it, from a thread."""

    def post(path: str, body: Any, *, key: str | None) -> Any:
        sent = asyncio.run_coroutine_threadsafe(running.api.post(path, body, key=key), loop)
        answer = sent.result()
        assert answer.status < 300, answer
        return answer.body

    return post


async def test_llm_guide_charges_what_was_used(running: Running) -> None:
    await running.api.customer("acme")
    await running.api.grant("10")
    code = code_of("llm-request.md")
    post = posting(running, asyncio.get_running_loop())
    clock = iter(range(0, 1000, 20))

    def run(job: str, pieces: list[tuple[str, int]], stop_after: int | None = None) -> list[str]:
        given = code["answer"](
            post, job, "acme", 1000, 100_000, lambda: iter(pieces), clock=lambda: next(clock)
        )
        told = [next(given) for _ in range(stop_after)] if stop_after else list(given)
        given.close()
        return told

    pieces = [("a", 10), ("b", 20), ("c", 30)]
    assert await asyncio.to_thread(run, "job-1", pieces) == ["a", "b", "c"]
    assert await running.api.posted() == ("9.99655", "0", "9.99655")
    await asyncio.to_thread(run, "job-2", pieces, 2)  # the user went away after two pieces
    assert await running.api.posted() == ("9.99325", "0", "9.99325")
    await asyncio.to_thread(run, "job-3", [])
    assert await running.api.posted() == ("9.99325", "0", "9.99325")


async def test_migration_guide_grants_opening_balances_once(running: Running) -> None:
    code = code_of("migrate-balance.md")
    post = posting(running, asyncio.get_running_loop())
    await running.api.customer("a")
    await running.api.customer("b")
    rows = [("a", "10.5"), ("b", "0"), ("gone", "1")]
    for _ in range(2):
        refused = await asyncio.to_thread(code["send_opening"], post, rows, "2030-01-01")
        assert {who: problem["code"] for who, problem in refused.items()} == {
            "gone": "customer_not_found"
        }
    assert (await running.api.posted("a"), await running.api.posted("b")) == (
        ("10.5", "0", "10.5"),
        ("0", "0", "0"),
    )


async def test_close_guide_closes_a_month_whose_hash_can_be_kept(running: Running) -> None:
    code = code_of("close-a-month.md")
    loop = asyncio.get_running_loop()
    post = posting(running, loop)

    def get(path: str) -> Any:
        return asyncio.run_coroutine_threadsafe(running.api.get(path), loop).result().body

    await running.api.customer("acme")
    month, known = await asyncio.to_thread(code["close"], post, "2020-01")
    assert await asyncio.to_thread(code["unchanged"], get, {month: known})
    assert not await asyncio.to_thread(code["unchanged"], get, {month: "0" * 64})


async def test_export_guide_reads_balances_that_add_up_to_nothing(running: Running) -> None:
    code = code_of("export-books.md")
    await running.api.customer("acme")
    cost = {"amount": "10", "currency": "USD"}
    await running.api.grant("5", category="paid", cost=cost)
    await running.api.consume("2")
    loop = asyncio.get_running_loop()

    def get_text(path: str) -> str:
        asked = running.api.get(path)
        return asyncio.run_coroutine_threadsafe(asked, loop).result().raw.decode()

    found = await asyncio.to_thread(code["balances"], get_text, "2000-01", "2200-01")
    assert found == {
        ("USD", "cash"): "10.00",
        ("USD", "deferred_revenue"): "-10.00",
        ("credits", "burned"): "-2.000000000",
        ("credits", "purchased"): "5.000000000",
        ("credits", "wallet"): "-3.000000000",
    }


def masked(text: str) -> str:
    """A text without what differs from run to run: ids, and the minutes of times."""
    text = re.sub(r"\b(chg|dd|in|sub)_\w+", r"\1_", text)
    return re.sub(r"( \d\d):\d\d:\d\d", r"\1", text)


async def test_billing_guide_shows_where_an_hour_stopped(pool: Pool) -> None:
    async with shop(pool, has_one_clock=True) as sale:
        await metering.meter(sale.api, "calls")
        item = {"meter": "calls", "event_name": "api_calls", "unit_price": "0.002"}
        overage = {"policy": "bill", "event_name": "extra_credits", "unit_price": "0.50"}
        overage["report_unit"] = "10"
        await sale.plan(credits=None, metered=[item], overage=overage)
        await sale.subscribe()
        await metering.send(sale.api, *(metering.event(f"e{n}") for n in range(3)))
        await sale.api.consume("25")
        await sale.walk(datetime(2030, 2, 1, 14, tzinfo=UTC))
        late = metering.event("late", time="2030-01-01T12:30:00Z")
        await metering.send(sale.api, late)
        await sale.sleep(timedelta(hours=1))
        for job in ("report_usage", "confirm_usage"):
            await sale.job(job)
        asked = "/v1/customers/acme/why?window=2030-01-01T12:00:00Z"
        found = (await sale.api.get(asked)).body
    shown = [*found["steps"], f"so       {found['verdict']}", ""]
    [block] = blocks((ROOT / "docs" / "guides" / "bill-usage.md").read_text(), "text")
    assert masked(block) == masked("\n".join(shown)), "\n".join(shown)


async def test_worked_month_ends_with_the_journal_that_the_guide_shows(pool: Pool) -> None:
    march = datetime(2030, 3, 5, 12, tzinfo=UTC)
    await set_clock(pool, march)
    async with serving(pool) as running:
        api = running.api
        await api.customer("acme")
        cost = {"amount": "100", "currency": "USD"}
        ends = "2030-03-25T00:00:00Z"
        await api.grant("1000", category="paid", cost=cost, expires_at=ends)
        await api.clock(march + timedelta(days=5))
        charge = await api.consume("400")
        await api.clock(march + timedelta(days=7))
        undone = await api.post(f"/v1/charges/{charge['id']}/reverse", {"amount": "100"})
        assert undone.status == 201
        await api.clock(march + timedelta(days=30))
        closed = await api.post("/v1/periods/2030-03/close", {}, key=None)
        assert (closed.status, closed.body["status"]) == (200, "closed")
        span = "from=2030-03&to=2030-04"
        written = await api.get(f"/v1/reports/journal?format=hledger&{span}")
        forward = await api.get(f"/v1/reports/deferred-revenue?format=csv&{span}")
    page = (ROOT / "docs" / "guides" / "close-a-month.md").read_text()
    assert blocks(page, "ledger") == [written.raw.decode()]
    assert blocks(page, "csv") == [forward.raw.decode().replace("\r\n", "\n")]
