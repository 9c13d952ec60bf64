"""Statements put together: parameters follow each other, and one alone stays what it is."""

import re

from sql import queries
from sql.together import as_one, as_row


def parameters(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\$(\d+)", text)]


def test_statement_alone_is_sent_as_it_is() -> None:
    assert as_one("lots_move") == queries.lots_move


def test_statements_as_one_have_their_parameters_one_after_the_other() -> None:
    names = ("customers_move", "holds_make", "requests_make")
    counts = [max(parameters(getattr(queries, name))) for name in names]

    found = parameters(as_one(*names))

    first, second, third = counts
    assert found == [
        *parameters(queries.customers_move),
        *(number + first for number in parameters(queries.holds_make)),
        *(number + first + second for number in parameters(queries.requests_make)),
    ]
    assert set(found) == set(range(1, first + second + third + 1))


def test_only_the_last_statement_as_one_is_no_part_of_the_with_clause() -> None:
    text = as_one("lots_move", "holds_make", "requests_make")

    assert text.startswith("WITH part_1 AS (\nUPDATE lots")
    assert text.count(" AS (\n") == 2
    assert "part_2 AS (\nINSERT INTO holds" in text
    assert "\n)\nINSERT INTO requests" in text


def test_statements_as_a_row_stand_side_by_side() -> None:
    text = as_row("books_load", "holds_load")

    assert text.startswith("SELECT *\nFROM (\nSELECT")
    assert text.count("\nCROSS JOIN (\n") == 1
    assert set(parameters(text)) == set(range(1, 9))
