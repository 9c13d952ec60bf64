"""The command `rate-cards`: a price list from a file to the service and back."""

import asyncio
import io
import json
import sys
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest

from drawdown.cli import run
from sql.pool import Pool
from tests.http import Api, serving, wire_time
from tests.prices import consume, make_meter, publish, use
from tests.servers import Database

PRICES = """\
rates:
  - {meter: tokens, unit_price: 0.00000015}
  - {meter: tokens, match: {model: "gpt-*"}, unit_price: 2.50, per: 1000000}
"""


@pytest.fixture
async def api(
    pool: Pool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Api]:
    """A service with a meter, and the command on its database."""
    monkeypatch.setenv("DATABASE_URL", database.dsn)
    monkeypatch.delenv("DRAWDOWN_OWNER_DATABASE_URL", raising=False)
    async with serving(pool) as running:
        await make_meter(running.api, "tokens")
        await running.api.customer("acme")
        await running.api.grant("100")
        yield running.api


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    file = tmp_path / "prices.yaml"
    file.write_text(PRICES)
    return file


async def command(*arguments: str | Path) -> int:
    """A command line, which has an event loop of its own."""
    return await asyncio.to_thread(run, ["rate-cards", *map(str, arguments)])


async def versions(api: Api, key: str = "default") -> list[Any]:
    return (await api.get(f"/v1/rate-cards?key={key}")).body["data"]


async def test_import_publishes_what_the_service_prices_by_at_once(
    api: Api, prices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await command("import", prices, "--yes") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:4] == [
        "default is new, in credits, at once:",
        "+ tokens: 0.00000015",
        "+ tokens model=gpt-*: 2.50 per 1000000",
        "= 0 rates stay as they are",
    ]
    assert told[4].startswith("published default@1, in force from ")
    answer = await consume(api, use("tokens", 1), use("tokens", 1_000_000, model="gpt-4o"))
    assert answer.body["amount"] == "2.50000015"
    [card] = await versions(api)
    assert card["rates"][0] == {
        "meter": "tokens",
        "unit_price": "0.00000015",
        "rounding": "half_even",
    }


async def test_import_of_the_same_prices_publishes_nothing(
    api: Api, prices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert await command("import", prices, "--yes") == 0
    told = capsys.readouterr().out
    assert told.endswith("= 2 rates stay as they are\nnothing changes: nothing is published\n")
    assert len(await versions(api)) == 1


async def test_dry_run_shows_the_changes_and_publishes_nothing(
    api: Api, prices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = [{"meter": "tokens", "unit_price": "1"}]
    await publish(api, rates)
    assert await command("import", prices, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        "default against default@1, in credits, at once:",
        "+ tokens model=gpt-*: 2.50 per 1000000",
        "~ tokens: 1 → 0.00000015",
        "= 0 rates stay as they are",
        "a dry run: nothing is published",
    ]
    assert await command("import", prices, "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["key"], told["base_version"], told["version"]) == ("default", 1, None)
    assert [change["new"] for change in told["diff"]["changed"]] == ["0.00000015"]
    assert len(await versions(api)) == 1


async def test_import_takes_effect_when_it_is_told_to(
    api: Api, prices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tomorrow = wire_time(await api.now() + timedelta(days=1))
    await publish(api, [{"meter": "tokens", "unit_price": "7"}], effective_at=tomorrow)
    day_after = wire_time(await api.now() + timedelta(days=2))
    assert await command("import", prices, "--effective-at", day_after, "--yes", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["base_version"], told["version"]) == (1, 2)
    assert told["effective_at"] == day_after
    assert await command("import", prices, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "! default@1 takes its place from " in out
    past = wire_time(await api.now() - timedelta(hours=1))
    assert await command("import", prices, "--effective-at", past, "--yes") == 1
    assert "A version takes effect now or later" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["yaml", "csv"])
async def test_export_and_import_changes_nothing(
    api: Api, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await api.put("/v1/assets/pages", {"scale": 2})
    tiers = [{"up_to": "10.5", "unit_price": "2"}, {"unit_price": "1", "flat_price": "0.10"}]
    rates = [
        {"meter": "tokens", "tiers": tiers, "tier_mode": "volume", "allowance": "3"},
        {"meter": "tokens", "match": {"model": "=a*"}, "unit_price": "0.00000015", "per": 3},
        {"meter": "tokens", "match": {"model": "b"}, "package": {"size": "9", "price": "1"}},
    ]
    await publish(api, rates, key="gold", asset="pages")
    file = tmp_path / f"gold.{ending}"
    assert await command("export", file, "--key", "gold") == 0
    assert "gold@1, 3 rates" in capsys.readouterr().err
    assert await command("import", file, "--yes") == 0
    assert "nothing is published" in capsys.readouterr().out
    assert await command("import", file, "--key", "copy", "--yes") == 0
    [copy], [gold] = await versions(api, "copy"), await versions(api, "gold")
    assert (copy["rates"], copy["asset"]) == (gold["rates"], "pages")


async def test_export_of_a_version_goes_to_stdout(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for price in ("1", "2"):
        await publish(api, [{"meter": "tokens", "unit_price": price}])
    assert await command("export", "-", "--version", "1", "--format", "csv") == 0
    out = capsys.readouterr().out
    assert out == "key,asset,meter,unit_price\ndefault,credits,tokens,1\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(out.encode())))
    assert await command("import", "-", "--format", "csv", "--yes") == 0
    assert capsys.readouterr().out.splitlines()[1] == "~ tokens: 2 → 1"
    assert await command("export", "-") == 0
    assert capsys.readouterr().out.startswith("# default@3, in force from ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rates: [{meter: tokens, unit_price: 1e-7}]", "line 1, column 37: A price is a plain"),
        ("rates: [{meter: nothing, unit_price: 1}]", "line 1, column 17: There is no meter nothin"),
        (
            "asset: USD\nrates: [{meter: tokens, unit_price: 1}]",
            "line 1, column 8: USD is no asset",
        ),
        (
            "key: a b\nrates: [{meter: tokens, unit_price: 1}]",
            "line 1, column 6: A rate card's key",
        ),
        (
            "rates:\n- {meter: tokens, unit_price: 1}\n- {meter: tokens, unit_price: 2}",
            "line 3, column 3: Rates 0 and 1 of the meter tokens can both match",
        ),
        ("effective_at: soon\nrates: [{meter: tokens, unit_price: 1}]", "effective_at must be"),
    ],
)
async def test_mistake_in_a_file_is_one_line_with_its_place(
    api: Api,
    text: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert await command("import", "-", "--yes") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert await versions(api) == []
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["import", "FILE"], 1, "say --yes, or --dry-run"),
        (["import", "absent.yaml"], 2, "absent.yaml"),
        (["import", "FILE", "--effective-at", "soon"], 1, "effective_at must be"),
        (["export", "prices.txt"], 2, "say --format"),
        (["export", "-"], 1, "there is no rate card default; there are: gold"),
        (["export", "-", "--key", "gold"], 1, "no version of gold is in force yet"),
        (["export", "-", "--key", "gold", "--version", "2"], 1, "gold has versions 1 to 1, not 2"),
        (["export", "/nowhere/prices.csv", "--key", "gold", "--version", "1"], 1, "No such file"),
    ],
)
async def test_what_can_not_be_done_is_one_line(
    api: Api,
    prices: Path,
    arguments: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    later = wire_time(await api.now() + timedelta(days=1))
    await publish(api, [{"meter": "tokens", "unit_price": "1"}], key="gold", effective_at=later)
    given = [str(prices) if word == "FILE" else word for word in arguments]
    assert await command(*given) == code
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1
    assert await versions(api) == []


async def test_on_a_terminal_it_asks_and_sees_what_came_meanwhile(
    api: Api, prices: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    loop = asyncio.get_running_loop()
    answers = iter([False, True, True])

    def confirm(*_: object, **__: object) -> bool:
        said = next(answers)
        if said and not published:
            rates = [{"meter": "tokens", "unit_price": "3"}]
            asyncio.run_coroutine_threadsafe(publish(api, rates), loop).result()
            published.append(True)
        return said

    published: list[bool] = []
    monkeypatch.setattr(click, "confirm", confirm)
    assert await command("import", prices) == 1
    assert "nothing is published" in capsys.readouterr().err
    assert await command("import", prices) == 1
    assert "somebody else has published a version of default" in capsys.readouterr().err
    assert len(await versions(api)) == 1
    assert await command("import", prices) == 0
    assert len(await versions(api)) == 2
