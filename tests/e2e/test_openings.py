"""Opening balances: a file is taken over whole and once, or nothing of it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from drawdown.cli import run
from meter import openings
from meter.openings import Imported, take_over
from sql.pool import Pool
from tests.http import Running, serving
from tests.servers import Database

HEAD = "customer_id,amount,category,cost,currency,expires_at,priority,reference\r\n"
GOOD = HEAD + (
    "acme,1000.5,paid,100.10,USD,,,\r\n"
    'acme,20,promotional,,,2199-01-01T00:00:00Z,10,"welcome, 2025"\r\n'
    '"=1+1 ""x""",0.000000001,promotional,,,,0,\r\n'
    "müller,7,paid,0,JPY,,,\r\n"
    "\r\n"
)


@pytest.fixture
async def running(pool: Pool) -> AsyncGenerator[Running]:
    async with serving(pool) as made:
        yield made


async def imported(running: Running, text: str | bytes, *, is_dry_run: bool = False) -> Imported:
    raw = text if isinstance(text, bytes) else text.encode()
    return await take_over(running.service, raw, is_dry_run=is_dry_run)


async def journals(pool: Pool) -> int:
    return await pool.fetchval("SELECT count(*) FROM journals")


async def test_file_is_taken_over_and_its_totals_are_those_of_the_books(
    running: Running, pool: Pool
) -> None:
    await running.api.customer("acme")
    done = await imported(running, b"\xef\xbb\xbf" + GOOD.encode())
    assert done.problems == []
    assert (done.rows, done.customers, done.customers_made) == (4, 3, 2)
    assert (done.granted, done.already_granted) == (4, 0)
    assert [(t.asset, t.category, t.rows, t.amount, t.currency, t.cost) for t in done.totals] == [
        ("credits", "paid", 1, "7", "JPY", "0"),
        ("credits", "paid", 1, "1000.5", "USD", "100.1"),
        ("credits", "promotional", 2, "20.000000001", None, None),
    ]
    shown = (await running.api.get("/v1/customers/acme/balance")).body
    assert shown["posted"] == "1020.5"
    assert [(lot["category"], lot["priority"]) for lot in shown["lots"]] == [
        ("promotional", 10),
        ("paid", 50),
    ]
    trial = (await running.api.get("/v1/reports/trial-balance")).body["rows"]
    assert {(r["asset"], r["account"]): r["closing"] for r in trial} == {
        ("USD", "deferred_revenue"): "-100.10",
        ("USD", "opening"): "100.10",
        ("credits", "granted"): "20.000000001",
        ("credits", "purchased"): "1007.500000000",
        ("credits", "wallet"): "-1027.500000001",
    }
    [forward] = (await running.api.get("/v1/reports/deferred-revenue")).body["rows"]
    assert (forward["imported"], forward["sold"]) == ("100.10", "0.00")
    assert (await running.api.get("/v1/reports/purchases")).body["rows"] == []


async def test_same_file_again_grants_nothing_and_another_row_is_new(
    running: Running, pool: Pool
) -> None:
    await imported(running, GOOD)
    before = await journals(pool)
    again = await imported(running, GOOD)
    assert (again.granted, again.already_granted, again.problems) == (0, 4, [])
    assert await journals(pool) == before
    more = await imported(running, GOOD.replace("\r\n\r\n", "\r\nlate,1,promotional,,,,,\r\n"))
    assert (more.granted, more.already_granted) == (1, 4)
    changed = await imported(running, GOOD.replace("1000.5", "1000.6"))
    [trouble] = changed.problems
    assert (trouble.row, trouble.column) == (2, "reference")
    assert "imported before with other numbers" in trouble.detail
    assert await journals(pool) == before + 1


async def test_dry_run_tells_the_same_and_leaves_nothing(running: Running, pool: Pool) -> None:
    dry = await imported(running, GOOD, is_dry_run=True)
    assert (dry.is_dry_run, dry.granted, dry.problems) == (True, 4, [])
    assert await journals(pool) == 0
    assert (await running.api.get("/v1/customers")).body["data"] == []
    wet = await imported(running, GOOD)
    assert (wet.granted, wet.totals) == (4, dry.totals)


@pytest.mark.parametrize(
    ("row", "column", "told"),
    [
        (",1,promotional,,,,,", "customer_id", "customer_id"),
        ("a,,promotional,,,,,", "amount", "amount"),
        ("a,-1,promotional,,,,,", "amount", "amount"),
        ("a,0,promotional,,,,,", "amount", "amount"),
        ("a,1e3,promotional,,,,,", "amount", "amount"),
        ('a,"1,000",promotional,,,,,', "amount", "amount"),
        ("a,0.0000000001,promotional,,,,,", "amount", "decimals"),
        ("a,99999999999999999999,promotional,,,,,", "amount", "9223372036"),
        ("a,1,gift,,,,,", "category", "paid or promotional"),
        ("a,1,paid,,USD,,,", "cost", "what was paid"),
        ("a,1,paid,5,,,,", "currency", "is needed"),
        ("a,1,paid,5.001,USD,,,", "cost", "decimals"),
        ("a,1,paid,5,usd,,,", "currency", "ISO 4217"),
        ("a,1,paid,5,credits,,,", "currency", "ISO 4217"),
        ("a,1,promotional,5,USD,,,", "cost", "paid rows only"),
        ("a,1,promotional,,,2199-01-01,,", "expires_at", "RFC 3339"),
        ("a,1,promotional,,,2199-01-01T00:00:00,,", "expires_at", "RFC 3339"),
        ("a,1,promotional,,,2001-01-01T00:00:00Z,,", "expires_at", ""),
        ("a,1,promotional,,,,101,", "priority", "0 to 100"),
        ("a,1,promotional,,,,-1,", "priority", "0 to 100"),
        (f"a,1,promotional,,,,{'9' * 5_000},", "priority", "0 to 100"),
        ("a,1,promotional,,,,,é", "reference", "ASCII"),
        ("good,1,promotional,,,,,1", "reference", "Row 2"),
        ("a,1,promotional", "", "3 cells"),
    ],
)
async def test_wrong_row_is_told_and_nothing_is_imported(
    running: Running, pool: Pool, row: str, column: str, told: str
) -> None:
    text = HEAD + f"good,1,promotional,,,,,\r\n{row}\r\nalso,2,promotional,,,,,\r\n"
    for is_dry_run in (True, False):
        done = await imported(running, text, is_dry_run=is_dry_run)
        [trouble] = done.problems
        assert (trouble.row, trouble.column) == (3, column), trouble
        assert told in trouble.detail
        assert done.granted in (0, 2), "2: decided and taken back"
        assert await journals(pool) == 0
        assert (await running.api.get("/v1/customers")).body["data"] == []


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "missing: customer_id, amount, category"),
        (b"customer_id,amount\r\n", "missing: category"),
        (b"customer_id,amount,category,colour\r\n", "Unknown columns: 'colour'"),
        (b"customer_id,amount,category,amount\r\n", "twice"),
        (b"customer_id,amount,category\r\nm\xfcller,1,promotional\r\n", "not UTF-8: byte 30"),
        (b'customer_id,amount,category\r\n"a,1,promotional\r\n', "not CSV"),
    ],
)
async def test_file_that_is_no_such_file_is_told(running: Running, raw: bytes, told: str) -> None:
    [trouble] = (await imported(running, raw)).problems
    assert told in trouble.detail


async def test_every_wrong_row_is_told(running: Running) -> None:
    rows = "".join(f"c{n},{'x' if n % 2 else n + 1},promotional,,,,,\r\n" for n in range(600))
    done = await imported(running, HEAD + rows)
    assert [trouble.row for trouble in done.problems] == [n + 2 for n in range(600) if n % 2]


async def test_import_that_dies_half_way_leaves_nothing_and_goes_through_again(
    running: Running, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"c{n},{n + 1},promotional,,,,,\r\n" for n in range(600))
    real: Callable[..., Any] = openings.transact
    batches = 0

    async def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 3:
            raise KeyboardInterrupt
        return await real(*arguments, **named)

    monkeypatch.setattr(openings, "transact", dying)
    with pytest.raises(KeyboardInterrupt):
        await imported(running, HEAD + rows)
    assert await journals(pool) == 0
    done = await imported(running, HEAD + rows)
    assert (done.granted, done.problems) == (600, [])
    amounts = await pool.fetchval("SELECT sum(wallet_credits) FROM accounts")
    assert amounts == sum(range(1, 601)) * 10**9


async def test_what_was_taken_over_is_earned_as_it_is_used(running: Running) -> None:
    await imported(running, HEAD + "acme,3,paid,1,USD,,,\r\n")
    await running.api.consume("1")
    await running.api.post("/v1/jobs/recognise/run", key=None)
    trial = (await running.api.get("/v1/reports/trial-balance")).body["rows"]
    money = {row["account"]: row["closing"] for row in trial if row["asset"] == "USD"}
    assert money == {"opening": "1.00", "deferred_revenue": "-0.67", "revenue": "-0.33"}


async def test_command_imports_and_tells(
    running: Running,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.dsn)
    file = tmp_path / "balances.csv"
    file.write_text(GOOD, encoding="utf-8", newline="")

    async def drawdown(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(run, ["import", str(file), *arguments])
        return code, capsys.readouterr().out

    code, told = await drawdown("--dry-run")
    assert (code, told.splitlines()[-1]) == (
        0,
        "4 rows of 3 customers would be granted; 0 were before",
    )
    code, told = await drawdown("--json")
    assert code == 0
    assert json.loads(told)["granted"] == 4
    file.write_text(GOOD.replace("müller,7", "müller,-7"), encoding="utf-8", newline="")
    code, told = await drawdown()
    assert code == 1
    assert told.splitlines()[0].startswith("row 5, amount: ")
    assert told.splitlines()[-1] == "nothing was imported: 1 rows to mend"
