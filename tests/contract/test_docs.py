"""The pages are true: links, limits and names are right, commands give what is shown."""

import ast
import asyncio
import importlib
import re
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drawdown.cli import run
from drawdown.settings_page import settings_page
from ledger import chart
from ledger.ids import parse_id
from meter.codes import CODES
from meter.http import ROUTES, bodies
from meter.observe import Metrics
from meter.scopes import SCOPES
from sql.pool import Pool
from tests.cli_page import cli_page, command_paths
from tests.http import Running, fresh_key, serving, set_clock
from tests.pages import (
    PAGES,
    PUBLIC_ID,
    ROOT,
    Step,
    Story,
    anchors,
    blocks,
    name_of,
    prose,
    steps,
    table_rows,
)
from tests.prices import make_meter
from tests.servers import Database

DOCS = ROOT / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("0*.md"))


def read(*path: str) -> str:
    return DOCS.joinpath(*path).read_text()


def every_page() -> Any:
    return pytest.mark.parametrize("page", PAGES, ids=name_of)


@pytest.fixture
async def running(pool: Pool) -> AsyncGenerator[Running]:
    """On a day that the pages tell of: one of them asks for its month."""
    await set_clock(pool, datetime(2026, 11, 20, 12, tzinfo=UTC))
    async with serving(pool) as made:
        yield made


# Pages


@every_page()
def test_links_lead_somewhere(page: Path) -> None:
    broken: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (anchor and anchor not in anchors(place.read_text())):
            broken.append(target)
    assert broken == []


@every_page()
def test_page_has_one_title(page: Path) -> None:
    assert len(re.findall(r"^# .", prose(page.read_text()), re.MULTILINE)) == 1


@every_page()
def test_tables_are_even(page: Path) -> None:
    text = prose(page.read_text())
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


@every_page()
def test_python_in_a_page_compiles(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        compile(block, name_of(page), "exec")


@every_page()
def test_ids_in_pages_are_ids(page: Path) -> None:
    for found in PUBLIC_ID.findall(page.read_text()):
        assert parse_id(found[:3], found) is not None, found


# The same commands again


def told() -> Iterator[Any]:
    for page in PAGES:
        if found := steps(page.read_text()):
            yield pytest.param(found, id=name_of(page))


@pytest.mark.parametrize("story", [*told()])
async def test_commands_of_a_page_give_what_is_shown(
    running: Running,
    story: list[Step],
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.dsn)
    monkeypatch.delenv("DRAWDOWN_OWNER_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)

    async def drawdown(arguments: list[str]) -> str:
        capsys.readouterr()
        code = await asyncio.to_thread(run, arguments)  # it has an event loop of its own
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    for meter in ("input_tokens", "output_tokens"):
        await make_meter(running.api, meter, group_by=("model", "cache"))
    played = Story(running.api, tmp_path, drawdown)
    for step in story:
        await played.play(step)


def test_the_pages_that_tell_a_story_are_found() -> None:
    pages = {param.id for param in told()}
    assert {"README.md", "docs/start.md", "docs/guides/read-books.md"} <= pages


# References


def unit_of(words: str) -> tuple[float, str]:
    """The number and the unit of a limit as it is written."""
    match = re.fullmatch(r"([\d,.]+)(?: (.+))?", words)
    assert match is not None, words
    return float(match[1].replace(",", "")), match[2] or ""


FACTORS = {"KiB": 1024, "MiB": 1024 * 1024}


def in_code(value: Any, unit: str) -> float:
    """A constant in the unit of its line."""
    if isinstance(value, timedelta):
        return value / (timedelta(days=1) if unit == "days" else timedelta(seconds=1))
    return value / FACTORS.get(unit, 1)


def limit_rows(columns: int) -> list[list[str]]:
    rows = [cells for cells in table_rows(read("reference", "limits.md")) if cells[0][:1] == "`"]
    return [cells for cells in rows if len(cells) == columns]


def test_limits_page_has_the_numbers_of_the_code() -> None:
    wrong: list[str] = []
    for name, words, _ in limit_rows(3):
        module, _, constant = name.strip("`").rpartition(".")
        number, unit = unit_of(words)
        value = getattr(importlib.import_module(module), constant, None)
        if value is None or float(in_code(value, unit)) != number:
            wrong.append(f"{name} is {value}, the page says {words}")
    assert wrong == []


def test_limits_page_has_every_limit_of_the_service() -> None:
    listed = {cells[0].strip("`") for cells in limit_rows(3)}
    private = {"ledger.reads.NO_MAX"}  # a number above all numbers, no limit
    found: set[str] = set()
    for room in ("ledger", "meter", "jobs", "sql"):
        for path in (ROOT / room).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.parse(path.read_text()).body:
                targets = node.targets if isinstance(node, ast.Assign) else []
                if isinstance(node, ast.AnnAssign):
                    targets = [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                found |= {
                    f"{module}.{name}" for name in names if re.fullmatch(r"[A-Z]\w*_MAX", name)
                }
    assert found - private - listed == set(), "tell it in docs/reference/limits.md"


def test_limits_page_has_the_bounds_of_members() -> None:
    types = [
        kind
        for kind in vars(bodies).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    ]
    _, schemas = msgspec.json.schema_components(types)
    for member, bound, words, _ in limit_rows(4):
        kind, _, name = member.strip("`").partition(".")
        shapes = [schemas[kind]["properties"][name]]
        shapes += shapes[0].get("anyOf", [])
        [limit] = [shape[bound] for shape in shapes if bound in shape]
        assert limit == unit_of(words)[0], member


def test_http_page_has_every_route_with_its_scope() -> None:
    listed = {cells[0]: cells for cells in table_rows(read("reference", "http.md"))}
    for route in ROUTES:
        cells = listed[f"`{route.method} {route.path}`"]
        scope = "none" if route.scope is None else f"`{route.scope}`"
        assert cells[1:3] == [route.summary, scope]
        assert (cells[3] == "yes") == route.needs_key, cells
    shown = {name for name in listed if name[:4] in ("`GET", "`PUT", "`POS", "`DEL")}
    assert len(shown) == len(ROUTES), "a route that is not there"
    assert all(f"`{scope}`" in read("reference", "http.md") for scope in SCOPES)


def test_commands_page_is_current() -> None:
    assert read("reference", "cli.md") == cli_page(), (
        "renew with `.venv/bin/python -m tests.cli_page >docs/reference/cli.md`"
    )
    assert all(f"`{path}`" in cli_page() for path in command_paths())


def test_metrics_page_has_every_metric() -> None:
    shown = {cells[0].strip("`") for cells in table_rows(read("reference", "metrics.md"))}
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name in shown


def test_settings_that_pages_name_exist() -> None:
    known = set(re.findall(r"`(\w+)`", settings_page()))
    for page in PAGES:
        for name in re.findall(r"\bDRAWDOWN_[A-Z][A-Z_]+[A-Z]\b", page.read_text()):
            assert name.removesuffix("_FILE") in known, f"{name_of(page)}: {name}"


def test_schema_page_has_every_table() -> None:
    tables = re.findall(r"^CREATE TABLE (\w+)", (ROOT / "sql" / "schema.sql").read_text(), re.M)
    shown = {cells[0].strip("`") for cells in table_rows(read("reference", "schema.md"))} - {
        "table"
    }
    assert shown == {*tables, "schema_migrations"}


def test_books_page_has_every_account_and_kind() -> None:
    text = read("concepts", "books.md")
    for word in (*chart.CREDIT_ACCOUNTS, *chart.MONEY_ACCOUNTS, *chart.JOURNAL_KINDS):
        assert f"`{word}`" in text, word


def test_codes_that_pages_name_exist() -> None:
    shaped = re.compile(r"\b[45]\d\d `([a-z_]+)`")
    for page in PAGES:
        for code in shaped.findall(page.read_text()):
            assert code in CODES, f"{name_of(page)}: {code}"


# Decisions


@pytest.mark.parametrize("page", DECISIONS, ids=name_of)
def test_decision_is_whole_and_its_tests_exist(page: Path) -> None:
    text = page.read_text()
    heads = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert heads == ["Context", "Decision", "Consequences", "Alternatives", "Enforced by"]
    assert text.startswith(f"# {page.name[:4]}: ")
    decision = text.partition("## Decision\n\n")[2].partition("\n\n##")[0]
    assert len(decision.splitlines()) == 1
    assert f"]({page.name})" in read("decisions", "index.md")
    enforced = text.partition("## Enforced by")[2]
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", enforced)
    assert named or "`./dev check`" in enforced
    for path, test in named:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.M), test


async def test_put_of_a_customer_keeps_what_is_left_out(running: Running) -> None:
    limit = {"policy": "owe", "limit": "20"}
    await running.api.customer("acme", name="Acme", email="a@example.com", overage=limit)
    found = await running.api.customer("acme", email=None)
    assert (found["name"], found["email"], found["overage"]) == ("Acme", None, limit)


async def test_overage_of_other_assets_is_deny(running: Running) -> None:
    api = running.api
    await api.put("/v1/assets/pages", {"scale": 0})
    await api.customer("acme", overage={"policy": "owe", "limit": "20"})
    asked = {"customer_id": "acme", "amount": "1"}
    assert (await api.post("/v1/consume", {**asked, "asset": "pages"})).status == 402
    assert (await api.post("/v1/consume", asked)).status == 201


@pytest.mark.parametrize("path", ["holds", "charges", "grants", "journals"])
async def test_lists_want_a_customer(running: Running, path: str) -> None:
    assert (await running.api.get(f"/v1/{path}")).code == "invalid_query"


async def test_hold_of_the_same_batch_is_not_found(running: Running) -> None:
    api = running.api
    await api.customer("acme")
    await api.grant("10")
    made = await api.reserve("1")
    number = int(made["id"][-16:], 16) + 1
    guessed = f"{made['id'][:-16]}{number:016X}"
    operations = [
        {"op": "reserve", "key": fresh_key(), "customer_id": "acme", "amount": "1"},
        {"op": "capture", "key": fresh_key(), "hold_id": guessed},
    ]
    answer = await api.post("/v1/batch", {"operations": operations}, key=None)
    [reserved, captured] = answer.body["results"]
    assert reserved["body"]["id"] == guessed
    assert (captured["status"], captured["body"]["code"]) == (404, "hold_not_found")
