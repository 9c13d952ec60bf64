"""Reports through HTTP, over books with every kind of fact: they tie, and other programs read
them.
"""

import asyncio
import csv
import gzip
import io
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import aiohttp
import openpyxl
import pytest

from drawdown.cli import run
from ledger.chart import JOURNAL_KINDS
from ledger.reports import REPORTS
from meter.reports import files, letter, workbook
from sql.pool import Pool, open_pool
from tests.http import Api, Running, serving
from tests.integration.whole_books import close_the_first_month, play
from tests.servers import Database

ALL = list(REPORTS)
TABLES = ["json", "jsonl", "csv", "parquet", "xlsx"]


@pytest.fixture
async def running(database: Database, pool: Pool) -> AsyncGenerator[Running]:
    """A service over whole books, with a customer whose name is a formula."""
    await play(database, rounds=2)
    async with serving(pool) as made:
        await made.api.customer('=1+1, "so"')
        await made.api.grant("7", '=1+1, "so"')
        await let_a_lot_expire(made.api)
        ran = await made.api.post("/v1/jobs/recognise/run", key=None)
        assert ran.body["error"] is None
        yield made


async def let_a_lot_expire(api: Api) -> None:
    await api.customer("waster")
    now = datetime.fromisoformat((await api.get("/v1/customers/waster/balance")).body["as_of"])
    cost = {"amount": "10", "currency": "USD"}
    ends = (now + timedelta(days=1)).isoformat()
    await api.grant("3", "waster", category="paid", cost=cost, expires_at=ends)
    await api.consume("1", "waster")
    await api.clock(now + timedelta(days=40))


async def fetch(api: Api, report: str, form: str, **query: str) -> Any:
    """The answer; its body is bytes."""
    if report == "statement":
        query = {"customer_id": await somebody(api), **query}
    glue = "".join(f"&{name}={value}" for name, value in query.items())
    answer = await api.get(f"/v1/reports/{report}?format={form}{glue}")
    assert answer.status == 200, answer
    return answer


async def somebody(api: Api) -> str:
    found = await api.get("/v1/customers?query=player")
    return found.body["data"][0]["customer_id"]


async def rows(api: Api, report: str, **query: str) -> list[dict[str, Any]]:
    return (await fetch(api, report, "json", **query)).body["rows"]


def total(found: list[dict[str, Any]], column: str, **where: str) -> Decimal:
    return sum(
        (Decimal(row[column]) for row in found if where.items() <= row.items()), start=Decimal(0)
    )


async def test_reports_tie_to_each_other(running: Running, pool: Pool) -> None:
    api = running.api
    balance = await rows(api, "trial-balance")
    journal = await rows(api, "journal")
    closing = {(row["asset"], row["account"]): Decimal(row["closing"]) for row in balance}

    sides: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for row in journal:
        sides[row["asset"], row["debit"]] += Decimal(row["amount"])
        sides[row["asset"], row["credit"]] -= Decimal(row["amount"])
    assert sides == closing
    of_asset: Counter[str] = Counter()
    for row in balance:
        moved = Decimal(row["debits"]) - Decimal(row["credits"])
        assert Decimal(row["opening"]) + moved == Decimal(row["closing"])
        of_asset[row["asset"]] += 1
        assert total(balance, "closing", asset=row["asset"]) == 0
    assert set(of_asset) == {"credits", "points", "USD"}
    counters = await pool.fetch(
        "SELECT asset, account, sum(debits - credits) AS amount FROM account_balances"
        " GROUP BY asset, account HAVING sum(debits) + sum(credits) > 0"
    )
    scale = {"credits": Decimal("1e-9"), "points": 1, "USD": Decimal("1e-2")}
    assert closing == {(r[0], r[1]): r["amount"] * scale[r["asset"]] for r in counters}

    forward = await rows(api, "deferred-revenue")
    for before, after in pairwise(forward):
        assert before["closing"] == after["opening"]
    for row in forward:
        amount = {name: Decimal(row[name]) for name in list(row)[2:]}
        moved = (
            amount["imported"]
            + amount["sold"]
            - amount["recognised"]
            - amount["breakage"]
            - amount["refunded"]
        )
        assert amount["opening"] + moved == amount["closing"]
    assert Decimal(forward[0]["opening"]) == 0
    assert Decimal(forward[-1]["closing"]) == -closing["USD", "deferred_revenue"]
    assert total(forward, "breakage") == -closing["USD", "breakage_revenue"]
    assert total(forward, "recognised") == -closing["USD", "revenue"]

    assert total(await rows(api, "breakage"), "breakage") == -closing["USD", "breakage_revenue"]
    lots = await rows(api, "lots")
    left = total(lots, "remaining", asset="credits")
    assert left == -sum(closing.get(("credits", name), 0) for name in ("wallet", "upcoming"))
    used = await rows(api, "usage")
    assert {row["what"] for row in used} == {"usage", "amount", "reversal"}
    for asset in ("credits", "points"):
        burned = -closing.get((asset, "burned"), Decimal(0))
        assert total(used, "amount", asset=asset) == burned

    sales = await rows(api, "purchases")
    for account in ("cash", "fees", "disputed", "refunds"):
        assert total(sales, account) == closing.get(("USD", account), 0)
    assert total(sales, "tax") == -closing.get(("USD", "tax"), Decimal(0))
    gross, refunded = total(sales, "gross"), total(sales, "refunds")
    assert gross > 0
    assert refunded >= 0
    earned = total(forward, "recognised") + total(forward, "breakage")
    assert total(sales, "deferred_revenue") - earned == Decimal(forward[-1]["closing"])

    customer_id = await somebody(api)
    statement = await rows(api, "statement", customer_id=customer_id)
    shown = await api.get(f"/v1/customers/{customer_id}/balance")
    assert Decimal(statement[-1]["balance"]) == Decimal(shown.body["posted"])
    lines = [row for row in statement if row["kind"] not in ("opening", "closing")]
    assert total(lines, "amount") == Decimal(shown.body["posted"])


async def test_months_of_a_report_add_up_to_the_whole(running: Running) -> None:
    api = running.api
    days = sorted({row["book_date"][:7] for row in await rows(api, "journal")})
    assert len(days) > 1, "the books go over months"
    middle = f"{days[1]}"
    early = await rows(api, "journal", to=middle)
    late = await rows(api, "journal", **{"from": middle})
    whole = await rows(api, "journal")
    assert early
    assert late
    key = [row["journal_id"] + str(row["line"]) for row in whole]
    assert sorted(key) == sorted(row["journal_id"] + str(row["line"]) for row in early + late)
    before = {(r["asset"], r["account"]): r for r in await rows(api, "trial-balance", to=middle)}
    after = await rows(api, "trial-balance", **{"from": middle})
    for row in after:
        closed = before.get((row["asset"], row["account"]))
        assert Decimal(row["opening"]) == (Decimal(closed["closing"]) if closed else 0)


def read(form: str, report: str, body: bytes) -> list[list[Any]]:
    """The cells of a file, as Python has them."""
    if form == "csv":
        return [
            [cell or None for cell in row]
            for row in csv.reader(io.StringIO(body.decode(), newline=""), strict=True)
        ][1:]
    if form == "parquet":
        parquet: Any = import_module("pyarrow.parquet")  # has no types
        table = parquet.read_table(io.BytesIO(body))
        return [list(row.values()) for row in table.to_pylist()]
    book = openpyxl.load_workbook(io.BytesIO(body))
    page: Any = book.worksheets[0]
    assert page.freeze_panes == "A2"
    return [list(row) for row in page.iter_rows(min_row=2, values_only=True)]


def same(kind: str, form: str, cell: Any, value: Any) -> bool:
    """Whether a cell of a file is what JSON says."""
    if value is None or cell is None:
        return cell is None and value in (None, "")
    if kind in ("amount", "quantity"):
        return Decimal(str(cell)) == Decimal(value)
    if kind == "integer":
        return int(cell) == value
    if kind == "date":
        found = cell.date() if isinstance(cell, datetime) else cell
        return str(found) == value
    if kind == "time":
        at = datetime.fromisoformat(value)
        if form == "csv":
            return datetime.fromisoformat(cell) == at
        given = cell.replace(tzinfo=UTC) if cell.tzinfo is None else cell
        return abs((given - at).total_seconds()) < (0.001 if form == "xlsx" else 1e-9)
    if form == "csv" and kind == "text":
        return re.sub(r"^'([=+@\t\r-])", r"\1", cell) == value
    return cell == value


@pytest.mark.parametrize("report", ALL)
async def test_every_form_says_the_same(running: Running, report: str) -> None:
    expected = await rows(running.api, report)
    kinds = [column.kind for column in REPORTS[report].columns]
    lines = (await fetch(running.api, report, "jsonl")).raw.splitlines()
    assert len(lines) == len(expected)
    for form in ("csv", "parquet", "xlsx"):
        cells = read(form, report, (await fetch(running.api, report, form)).raw)
        assert len(cells) == len(expected), form
        for row, wanted in zip(cells, expected, strict=True):
            for kind, cell, value in zip(kinds, row, wanted.values(), strict=True):
                assert same(kind, form, cell, value), (form, kind, cell, value)


async def test_csv_is_rfc_4180_and_no_cell_is_a_formula(running: Running) -> None:
    text = (await fetch(running.api, "journal", "csv")).raw.decode()
    assert text.endswith("\r\n")
    assert "\n" not in text.replace("\r\n", "")
    assert ',"\'=1+1, ""so""",' in text
    [column] = {place for place, c in enumerate(REPORTS["journal"].columns) if c.kind == "text"}
    for row in csv.reader(io.StringIO(text, newline="")):
        assert row[column][:1] not in tuple("=+-@\t\r")


async def test_totals_of_a_workbook_are_formulas(running: Running) -> None:
    expected = await rows(running.api, "trial-balance")
    body = (await fetch(running.api, "trial-balance", "xlsx")).raw
    page: Any = openpyxl.load_workbook(io.BytesIO(body))["Totals"]
    shown: Any = openpyxl.load_workbook(io.BytesIO(body), data_only=True)["Totals"]
    assert [cell.value for cell in page[1]] == ["asset", "opening", "debits", "credits", "closing"]
    for formulas, values in zip(page.iter_rows(min_row=2), shown.iter_rows(min_row=2), strict=True):
        assert all(str(cell.value).startswith("=SUMIF(") for cell in formulas[1:])
        asset = cast("str", values[0].value)
        debits = total(expected, "debits", asset=asset)
        assert Decimal(str(values[2].value)) == debits
    assert [page.cell(row, 1).value for row in (2, 3)] == ["USD", "credits"]


async def test_workbook_goes_on_in_a_second_sheet(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbook, "ROWS_MAX", 20)
    expected = await rows(running.api, "journal")
    book = openpyxl.load_workbook(io.BytesIO((await fetch(running.api, "journal", "xlsx")).raw))
    pages = [page for page in book.worksheets if page.title != "Totals"]
    assert [page.title for page in pages[:2]] == ["Journal", "Journal 2"]
    assert sum(page.max_row - 1 for page in pages) == len(expected)
    formula: Any = book["Totals"]["B2"].value
    assert formula.count("SUMIF") == len(pages)


def accepts(form: str, file: Path) -> tuple[bool, str]:
    """Whether the program that a form is for takes a file, and what it says."""
    command = (
        ["hledger", "-f", str(file), "check", "--strict"]
        if form == "hledger"
        else ["bean-check", "--no-cache", str(file)]
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("form", ["hledger", "beancount"])
async def test_programs_of_accountants_take_the_journal_and_hold_its_balances(
    running: Running, form: str, tmp_path: Path
) -> None:
    if shutil.which({"hledger": "hledger", "beancount": "bean-check"}[form]) is None:
        pytest.skip(f"{form} is not installed here")
    months = sorted({row["book_date"][:7] for row in await rows(running.api, "journal")})
    for query in ({}, {"from": months[1]}, {"to": months[1]}):
        text = (await fetch(running.api, "journal", form, **query)).raw.decode()
        file = tmp_path / "books"
        file.write_text(text)
        is_accepted, said = accepts(form, file)
        assert is_accepted, said
        # A smallest unit more on both sides: the balances that are asserted differ.
        moved = re.search(
            r"\n  Liabilities:Credits:Wallet  (\S+) \S+\n  Equity:Credits:Burned  -\S+ ", text
        )
        assert moved is not None
        more = f"{Decimal(moved[1]) + Decimal('1e-9'):f}"
        start, end = moved.span()
        wrong = moved[0].replace(moved[1], more)
        file.write_text(text[:start] + wrong + text[end:])
        assert not accepts(form, file)[0], "an assertion that can't fail"


@pytest.mark.parametrize("form", [*TABLES, "hledger", "beancount"])
async def test_closed_month_is_the_same_bytes_for_ever(
    running: Running, database: Database, form: str
) -> None:
    await close_the_first_month(database)
    [period] = (await running.api.get("/v1/periods")).body["data"]
    end = str(date.fromisoformat(period["ends_on"]).replace(day=28))[:7]
    year, month = map(int, end.split("-"))
    to = f"{year + month // 12}-{month % 12 + 1:02}"
    reports = ["journal"] if form in ("hledger", "beancount") else ALL
    before = {name: (await fetch(running.api, name, form, to=to)).raw for name in reports}
    for customer in (await running.api.get("/v1/customers?limit=100")).body["data"]:
        await running.api.grant("3", customer["customer_id"])
        await running.api.consume("1", customer["customer_id"])
    await running.api.post("/v1/jobs/recognise/run", key=None)
    after = {name: (await fetch(running.api, name, form, to=to)).raw for name in reports}
    assert before == after


async def test_form_is_asked_for_by_accept_and_packed_on_demand(running: Running) -> None:
    api = running.api
    by_accept = await api.send(
        "GET", "/v1/reports/breakage", headers={"Accept": "text/html, text/csv;q=0.9"}
    )
    assert by_accept.headers["Content-Type"].startswith("text/csv")
    assert by_accept.headers["Content-Disposition"] == 'attachment; filename="breakage.csv"'
    refused = await api.send("GET", "/v1/reports/breakage", headers={"Accept": "image/png"})
    assert (refused.status, refused.code) == (406, "not_acceptable")
    url = f"{api.url}/v1/reports/journal?format=jsonl"
    sent = {"Authorization": f"Bearer {api.secret}", "Accept-Encoding": "gzip"}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(url, headers=sent) as packed,
    ):
        assert packed.headers["Content-Encoding"] == "gzip"
        body = await packed.read()
    assert gzip.decompress(body) == (await fetch(api, "journal", "jsonl")).raw


@pytest.mark.parametrize(
    ("path", "status", "code", "told"),
    [
        ("balance-sheet", 404, "report_not_found", "trial-balance"),
        ("lots?format=pdf", 422, "invalid_query", "can be had as json"),
        ("lots?format=hledger", 422, "invalid_query", "can be had as json"),
        ("journal?from=2030-02-30", 422, "invalid_query", "from"),
        ("journal?from=2030-13", 422, "invalid_query", "from"),
        ("journal?to=1969-12-31", 422, "invalid_query", "to"),
        ("journal?from=2030-02&to=2030-02-01", 422, "invalid_query", "before"),
        ("journal?from=2030-01-01T00:00:00Z", 422, "invalid_query", "book day"),
        ("statement", 422, "invalid_query", "customer_id"),
        ("statement?customer_id=nobody", 404, "customer_not_found", ""),
        ("statement?customer_id=player-1&asset=USD", 422, "invalid_asset", ""),
        ("journal?customer_id=player-1", 404, "customer_not_found", ""),
        ("journal?asset=credits", 422, "invalid_query", "all assets"),
        ("journal?month=2030-01", 422, "invalid_query", "month"),
    ],
)
async def test_what_can_not_be_given_is_a_problem(
    pool: Pool, path: str, status: int, code: str, told: str
) -> None:
    async with serving(pool) as running:
        if "player-1&" in path:
            await running.api.customer("player-1")
        answer = await running.api.get(f"/v1/reports/{path}")
    assert (answer.status, answer.code) == (status, code), answer
    assert told in answer.body["detail"]


async def test_books_that_are_empty_are_reported(pool: Pool) -> None:
    async with serving(pool) as running:
        await running.api.customer("acme")
        for report in ALL:
            for form in files.forms_of(REPORTS[report]):
                glue = "&customer_id=acme" if report == "statement" else ""
                answer = await running.api.get(f"/v1/reports/{report}?format={form}{glue}")
                assert answer.status == 200, (report, form, answer)


async def test_file_that_fails_half_way_is_visibly_cut_and_frees_its_place(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.reports.ROWS_AT_ONCE", 5)

    async def failing(sheet: Any) -> AsyncGenerator[bytes]:
        yield b"first"
        async for _ in sheet.batches:
            raise ConnectionError("the disk is full")

    form = files.Form("application/jsonl", "jsonl", failing)
    monkeypatch.setitem(files.FORMS, "jsonl", form)
    for _ in range(3):  # more often than there are places
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
            await running.api.get("/v1/reports/journal?format=jsonl")
    assert not running.service.report_slots.locked()
    assert (await running.api.get("/v1/reports/journal?format=csv")).status == 200


async def test_more_reports_at_once_than_may_be_are_asked_to_come_again(running: Running) -> None:
    for _ in range(2):
        await running.service.report_slots.acquire()
    answer = await running.api.get("/v1/reports/journal")
    assert (answer.status, answer.code) == (503, "busy")
    assert "Retry-After" in answer.headers
    running.service.report_slots.release()
    assert (await running.api.get("/v1/reports/journal")).status == 200


async def test_reader_that_leaves_ends_its_report(running: Running) -> None:
    url = f"{running.api.url}/v1/reports/journal?format=csv"
    sent = {"Authorization": f"Bearer {running.api.secret}"}
    for _ in range(4):
        async with aiohttp.ClientSession() as session, session.get(url, headers=sent) as answer:
            assert answer.status == 200
            answer.close()
    assert (await running.api.get("/v1/reports/journal")).status == 200


async def test_command_writes_what_the_route_answers(
    running: Running, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.dsn)

    async def export(*arguments: str) -> int:
        return await asyncio.to_thread(run, ["export", *arguments])

    file = tmp_path / "lots.csv"
    assert await export("lots", "--output", str(file)) == 0
    expected = (await fetch(running.api, "lots", "csv")).raw
    assert file.read_bytes() == expected
    assert await export("lots", "--output", str(file)) == 1, "a file is never replaced"
    assert file.read_bytes() == expected
    one = await somebody(running.api)
    statement = tmp_path / "statement.json"
    asked = ("--customer", one, "--format", "json", "--output", str(statement))
    assert await export("statement", *asked) == 0
    assert statement.read_bytes() == (await fetch(running.api, "statement", "json")).raw
    failed = tmp_path / "failed"
    for wrong in (
        ("statement", "--customer", "nobody"),
        ("lots", "--format", "hledger"),
        ("journal", "--from", "2030-02", "--to", "2030-01"),
    ):
        assert await export(*wrong, "--output", str(failed)) == 1
        assert not failed.exists(), "a file that could not be finished is removed"


async def test_reports_can_be_read_from_a_copy_and_do_without_it(
    running: Running, database: Database
) -> None:
    before = (await fetch(running.api, "journal", "csv")).raw
    copy = await open_pool(database.owner_dsn, size=1, statement_cache=0, is_eager=False)
    running.service.reports_pool = copy
    assert (await fetch(running.api, "journal", "csv")).raw == before
    copy.terminate()
    answer = await running.api.get("/v1/reports/journal")
    assert (answer.status, answer.code) == (503, "database_unavailable")
    assert (await running.api.get("/v1/customers")).status == 200


async def test_statement_is_a_page_to_send_that_says_the_same(running: Running) -> None:
    api, whose = running.api, '=1+1, "so"'
    await api.customer(whose, name="<Zoë & Söhne>")
    await api.consume("2.5", whose)
    answer = await api.get(f"/v1/reports/statement?format=html&customer_id={quote(whose)}")
    page = answer.raw.decode()

    assert answer.headers["content-type"].startswith("text/html")
    assert "&lt;Zoë &amp; Söhne&gt;" in page
    assert not re.search("<script|<link|<img|https?:", page)
    cells = [re.findall(r"<td(?: class=n)?>([^<\n]*)", line) for line in page.splitlines()]
    lines = [line for line in cells if len(line) == 4]
    told = await rows(api, "statement", customer_id=quote(whose))
    shown = [(row["amount"], Decimal(row["balance"])) for row in told]
    assert [Decimal(line[3].replace(",", "")) for line in lines] == [b for _, b in shown]
    assert [line[1] for line in lines] == [letter.WORDS[row["kind"]] for row in told]
    assert [line for line in cells if len(line) == 2] == [
        ["Credits added", "7"],
        ["Used", "\u22122.5"],
    ]
    refused = await api.get("/v1/reports/journal?format=html")
    assert (refused.status, refused.code) == (422, "invalid_query")


def test_statement_has_words_for_every_kind_of_journal() -> None:
    money_only = {"dispute", "fee", "recognition"}
    assert {"opening", "closing", *JOURNAL_KINDS} - money_only == letter.WORDS.keys()
