"""The list of problem codes is whole, and its page is current."""

import ast
from collections.abc import Iterator
from pathlib import Path

from drawdown.problems_page import problems_page
from meter.codes import CODES

ROOT = Path(__file__).parents[2]
MAKERS = {"refuse": 1, "Problem": 0, "ProblemError": 1, "FieldError": 1, "AmountError": 0}
"""Calls that name a code, and which of their arguments it is."""


def test_problems_page_is_current() -> None:
    page = (ROOT / "docs" / "reference" / "problems.md").read_text()
    assert page == problems_page(), (
        "renew with `.venv/bin/python -m drawdown.problems_page >docs/reference/problems.md`"
    )


def named_codes() -> Iterator[tuple[str, int | None, str]]:
    """Each code that a call in the packages names: (code, status if it is there, place)."""
    for package in ("ledger", "meter", "jobs", "drawdown"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                    continue
                at = MAKERS.get(node.func.id)
                if at is None or len(node.args) <= at:
                    continue
                code, first = node.args[at], node.args[0]
                if not (isinstance(code, ast.Constant) and isinstance(code.value, str)):
                    continue
                status = first.value if isinstance(first, ast.Constant) else None
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                yield code.value, status if isinstance(status, int) else None, place


def test_every_code_in_the_packages_is_on_the_list_with_its_status() -> None:
    found = list(named_codes())
    assert len(found) > 30
    unlisted = [
        f"{place}: {status or ''} {code}"
        for code, status, place in found
        if code not in CODES or (status is not None and status not in CODES[code].statuses)
    ]
    assert unlisted == []
