"""House rules that a tool can hold: one lock, one page of settings, imports that point down."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from drawdown.cli import COMMANDS
from drawdown.settings_page import settings_page
from tests.cli_page import commands

ROOT = Path(__file__).parents[2]
PACKAGES = ("drawdown", "jobs", "meter", "ledger", "sql", "sandbox")
LINES_MAX = 440  # the aim is 400; a tenth more is no reason to split
FUNCTION_LINES_MAX = 66
UNDOCUMENTED_LINES_MAX = 12


def toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text())


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


# The two locks


def canonical(requirement: str) -> tuple[str, frozenset[str]]:
    """A requirement without its marker as (name in its one spelling, bounds in any order)."""
    match = re.fullmatch(r"([A-Za-z0-9._-]+)(.*)", requirement.replace(" ", ""))
    assert match is not None, requirement
    return re.sub(r"[-_.]+", "-", match[1]).lower(), frozenset(match[2].split(","))


def locked_by_uv() -> dict[str, tuple[str, set[str]]]:
    """Each package of uv.lock but ours: its version and the hashes of its files."""
    packages: dict[str, tuple[str, set[str]]] = {}
    for package in toml("uv.lock")["package"]:
        if "registry" in package["source"]:
            files = [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
            packages[package["name"]] = (package["version"], {file["hash"] for file in files})
    return packages


def locked_by_pip() -> dict[str, tuple[str, set[str]]]:
    """The same, read from requirements.lock."""
    packages: dict[str, tuple[str, set[str]]] = {}
    for entry in (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", entry)
        assert match is not None, entry
        hashes = set(re.findall(r"--hash=(sha256:[0-9a-f]{64})", entry))
        assert match[1] not in packages
        packages[match[1]] = (match[2], hashes)
    return packages


def test_locks_hold_the_same_packages_versions_and_hashes() -> None:
    assert locked_by_pip() == locked_by_uv(), "renew both with `./dev lock`"


def test_lock_every_file_has_a_hash() -> None:
    assert [name for name, (_, hashes) in locked_by_pip().items() if not hashes] == []


def test_lock_is_made_from_the_project_file() -> None:
    project = toml("pyproject.toml")
    [ours] = [p for p in toml("uv.lock")["package"] if p["name"] == "drawdown"]
    asked = {
        "": project["project"]["dependencies"],
        **project["dependency-groups"],
    }
    metadata = ours["metadata"]
    ordinary = [
        entry for entry in metadata["requires-dist"] if "extra ==" not in entry.get("marker", "")
    ]
    locked = {"": ordinary, **metadata["requires-dev"]}
    assert asked.keys() == locked.keys()
    for group, requirements in asked.items():
        # Name and bounds; uv writes markers in a form of its own.
        wanted = {canonical(requirement.partition(";")[0]) for requirement in requirements}
        found = {canonical(entry["name"] + entry.get("specifier", "")) for entry in locked[group]}
        assert wanted == found, "renew the lock with `./dev lock`"


def test_lock_has_the_build_backend_and_not_the_squatted_name() -> None:
    names = locked_by_pip().keys()
    assert {"hatchling", "editables"} <= names
    # A research package that squats on the name Litestar users would guess.
    assert "opentelemetry-instrumentation-litestar" not in names


# Settings and commands


def test_settings_page_is_current() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert page == settings_page(), (
        "renew with `.venv/bin/python -m drawdown.settings_page >docs/reference/settings.md`"
    )


@pytest.mark.parametrize("context", [*commands()], ids=lambda context: context.command_path)
def test_command_help_has_a_summary_and_an_example(context: click.Context) -> None:
    assert context.command.get_short_help_str()
    assert f"Example: {context.command_path}" in " ".join(context.get_help().split())


# The scripts


@pytest.mark.parametrize("shell", ["sh", "dash"])
def test_dev_script_is_clean_for_a_plain_shell(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    for script in ("dev", ".ci/run"):
        subprocess.run([shell, "-n", ROOT / script], check=True)
        assert "[[" not in (ROOT / script).read_text()


# The image and the compose file


def test_compose_and_image_name_commands_that_exist() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    ours = [service for service in compose["services"].values() if "build" in service]
    named = [service["command"][0] for service in ours]
    [default] = re.findall(r'^CMD \["(\w+)"', (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {default, *named} <= COMMANDS.keys()


def test_compose_takes_every_password_from_outside() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    outside = "${POSTGRES_PASSWORD:?set it in .env}"
    assert f'POSTGRES_PASSWORD: "{outside}"' in text
    assert re.findall(r"postgresql://(.*)@", text) == [f"drawdown:{outside}"]


# Imports


def test_import_contracts_bite(tmp_path: Path) -> None:
    """Each contract breaks on a copy of the packages with one wrong import for each."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "sql" / "stray.py").write_text("import ledger.stray\n")
    (tmp_path / "ledger" / "stray.py").write_text("import stripe, time\n")
    (tmp_path / "jobs" / "stray.py").write_text("import apscheduler.job\nimport sandbox.stray\n")
    (tmp_path / "sandbox" / "stray.py").write_text("import stripe\n")
    with (tmp_path / "ledger" / "amounts.py").open("a") as module:
        module.write("import ledger.stray\n")
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    broken = re.findall(r"^(.*) BROKEN(?: \(.*\))?$", done.stdout, re.MULTILINE)
    contracts = [c["name"] for c in toml("pyproject.toml")["tool"]["importlinter"]["contracts"]]
    assert broken == contracts, done.stdout


# Tidiness


def lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_modules_and_functions_stay_small() -> None:
    long: list[str] = []
    for path in sources():
        text = path.read_text()
        name = path.relative_to(ROOT)
        if (count := len(text.splitlines())) > LINES_MAX:
            long.append(f"{name}: {count} lines")
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and (count := lines_of(node)) > FUNCTION_LINES_MAX
            ):
                long.append(f"{name}: {node.name} has {count} lines")
    assert long == []


def test_modules_and_longer_functions_say_what_they_promise() -> None:
    bare: list[str] = []
    for path in sources():
        tree = ast.parse(path.read_text())
        if ast.get_docstring(tree) is None:
            bare.append(str(path.relative_to(ROOT)))
        for node in tree.body:
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and not node.name.startswith("_")
                and lines_of(node) > UNDOCUMENTED_LINES_MAX
                and ast.get_docstring(node) is None
            ):
                bare.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert bare == []


def test_code_has_no_leftovers() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError", line)
    ]
    assert found == []


def test_ledger_never_reads_a_clock() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "ledger").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in {"now", "today", "utcnow"}
        and isinstance(node.value, ast.Name)
        and node.value.id in {"date", "datetime"}
    ]
    assert found == []


SQL_TEXT = re.compile(
    r"\s*(SELECT\s.+\sFROM\s|INSERT\s+INTO\s|UPDATE\s.+\sSET\s|DELETE\s+FROM\s|WITH\s.+\sAS\s*\()",
    re.DOTALL,
)


def test_sql_text_is_under_sql_only() -> None:
    found: list[str] = []
    for path in sources():
        if path.relative_to(ROOT).parts[0] == "sql":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and SQL_TEXT.match(node.value)
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []
