"""The command line: errors are one line on stderr, exit codes 1 and 2."""

import json

import pytest

from drawdown.cli import run


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("DRAWDOWN_DRAIN_SECONDS", "7")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "No such command 'nope'; see `drawdown --help`"),
        (["config", "--yaml"], "No such option '--yaml'; see `drawdown config --help`"),
        (["config", "x"], "Got unexpected extra argument (x); see `drawdown config --help`"),
    ],
)
def test_run_wrong_usage_is_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr() == ("", f"drawdown: {message}\n")


def test_run_without_arguments_shows_the_commands_and_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: drawdown" in err


@pytest.mark.parametrize("arguments", [["--help"], ["config", "--help"], ["--version"]])
def test_run_help_and_version_are_code_0(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 0
    assert capsys.readouterr().err == ""


def test_run_wrong_settings_are_a_line_each_and_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAWDOWN_QUEUE_MAX", "0")
    monkeypatch.setenv("DRAWDOWN_QUEUE_MAXX", "1")
    assert run(["config"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "drawdown: DRAWDOWN_QUEUE_MAXX: unknown setting; did you mean DRAWDOWN_QUEUE_MAX?",
        "drawdown: DRAWDOWN_QUEUE_MAX: must be 1 to 100000, not '0'",
    ]


def test_config_json_and_table_tell_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:hunter2@db/books")
    assert run(["config", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert run(["config"]) == 0
    table = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert table == [[row["name"], row["source"], row["value"] or "(not set)"] for row in rows]
    assert table[0] == ["DATABASE_URL", "environment", "postgresql://app:***@db/books"]
    assert ["DRAWDOWN_DRAIN_SECONDS", "environment", "7"] in table
