"""The query loader: names become attributes, mistakes are errors at load."""

import ast
from pathlib import Path

import pytest

from sql import QUERIES, Queries, QueryFileError, queries

ROOT = Path(__file__).parents[2]

LOTS = """\
-- What is left of this file is about lots.

-- lots_load_open --
-- Lots with something left. The caller holds the lock.
SELECT id, remaining -- in burn order
  FROM lots
 WHERE customer_no = $1;

-- lots_close --
-- End a lot.
UPDATE lots SET is_open = false WHERE id = $1
"""


def folder_with(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / f"{name}.sql").write_text(text, "utf-8")
    return path


def test_load_two_statements_gives_their_text_without_comment_and_semicolon(tmp_path: Path) -> None:
    loaded = Queries(folder_with(tmp_path, lots=LOTS))

    assert list(loaded) == ["lots_close", "lots_load_open"]
    assert loaded.lots_close == "UPDATE lots SET is_open = false WHERE id = $1"
    assert loaded.lots_load_open == (
        "SELECT id, remaining -- in burn order\n  FROM lots\n WHERE customer_no = $1"
    )


def test_unknown_name_is_an_attribute_error(tmp_path: Path) -> None:
    loaded = Queries(folder_with(tmp_path, lots=LOTS))

    with pytest.raises(AttributeError, match="lots_lode_open"):
        _ = loaded.lots_lode_open


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": LOTS, "b": LOTS}, r"b\.sql: a second statement is named 'lots_load_open'"),
        ({"a": "SELECT 1;\n-- one --\n-- x\nSELECT 1"}, r"a\.sql:1: text before the first"),
        (
            {"a": "-- one --\n-- says what\n\n-- two --\n-- x\nSELECT 2"},
            r"statement 'one' is empty",
        ),
        ({"a": "-- one --\n-- x\nSELECT 1;\n-- Two --\nSELECT 2"}, r"a\.sql:4: not a statement's"),
    ],
)
def test_load_of_a_bad_file_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(QueryFileError, match=message):
        Queries(folder_with(tmp_path, **files))


def test_every_statement_has_a_comment_that_says_what_it_does() -> None:
    for path in sorted(QUERIES.glob("*.sql")):
        lines = path.read_text("utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if line.startswith("-- ") and line.endswith(" --"):
                follows = lines[number] if number < len(lines) else ""
                assert follows.startswith("-- "), f"{path.name}:{number}"


def test_every_name_used_in_the_code_is_a_statement() -> None:
    known = set(queries)
    for package in ("sql", "ledger", "meter", "jobs", "drawdown"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "queries"
                ):
                    assert node.attr in known, f"{path.relative_to(ROOT)}:{node.lineno}"
