"""Price lists as files: exact numbers, places of mistakes, and what an export brings back."""

from typing import Any

import msgspec
import pytest

from drawdown.price_files import Format, PriceFileError, format_of, read, write
from drawdown.price_text import diff
from meter.problems import ProblemError
from meter.rate_cards import RateBody, compile_rates

YAML = """\
# What a token costs.
key: gold
asset: credits
rates:
  - meter: tokens
    match: {model: gpt-4*, cache: null*}
    unit_price: 0.00000015
  - meter: tokens
    unit_price: 2.50
    per: 1000000
    minimum: 1e3
  - meter: pages
    tiers:
      - {up_to: 10, unit_price: 5}
      - {up_to: 20, unit_price: 3, flat_price: 7}
      - unit_price: 1
        up_to:
"""
CSV = """\
key,asset,meter,match.model,match.cache,unit_price,per,tiers,minimum
gold,credits,tokens,gpt-4*,null*,0.00000015,,,
gold,credits,tokens,,,2.50,1000000,,1e3

gold,credits,pages,,,,,10: 5; 20: 3 + 7; rest: 1,
"""


def bodies(*rates: dict[str, Any]) -> tuple[RateBody, ...]:
    return msgspec.convert([{"meter": "tokens", **rate} for rate in rates], tuple[RateBody, ...])


@pytest.mark.parametrize(("text", "form"), [(YAML, "yaml"), (CSV, "csv")])
def test_file_reads_as_the_body_of_a_request_with_every_number_as_it_stands(
    text: str, form: Format
) -> None:
    prices = read(text.encode(), form).prices
    assert (prices.key, prices.asset, prices.effective_at) == ("gold", "credits", None)
    tiers = [
        {"up_to": "10", "unit_price": "5"},
        {"up_to": "20", "unit_price": "3", "flat_price": "7"},
        {"unit_price": "1"},
    ]
    assert tuple(prices.rates) == bodies(
        {"match": {"model": "gpt-4*", "cache": "null*"}, "unit_price": "0.00000015"},
        {"unit_price": "2.50", "per": 1_000_000, "minimum": "1e3"},
        {"meter": "pages", "tiers": tiers},
    )


def test_spreadsheets_mark_and_semicolons_are_read() -> None:
    text = "\ufeffmeter;unit_price;tiers\r\ntokens;0.1;\r\npages;;rest: 2\r\n"
    rates = read(text.encode(), "csv").prices.rates
    assert [rate.meter for rate in rates] == ["tokens", "pages"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("rates: [", "line 1, column 9: "),
        ("- a", "a price list has the members key, asset and rates"),
        ("", "a price list has the members"),
        ("rates: []", "line 1, column 8: rates "),
        ("key: a", "line 1, column 1: rates is missing"),
        ("rates:\n- meter: a\n  unit_prise: 1", "line 3, column 15: This member is not known"),
        ("rates:\n- meter: a\n  meter: b", "line 3, column 3: meter stands here twice"),
        ("rates:\n- unit_price: 1", "line 2, column 3: meter is missing"),
        ("rates:\n- meter: a\n  unit_price: 1\n  per: 1.5", "line 4, column 8: per must be"),
        ("rates:\n- meter: a\n  unit_price: 1\n  rounding: off", "line 4, column 13: rounding"),
        ("rates:\n- meter: a\n  unit_price:\n    - 1", "line 4, column 5: unit_price must be"),
        ("rates: &a [*a]", "line 1, column 12: aliases are not read"),
        ("a: 1\n---\nb: 1", "line 2, column 1: but found another document"),
        ("rates: " + "[" * 50 + "]" * 50, "line 1, column 18: it is nested too deep"),
        ("? [a]\n: 1", "line 1, column 3: a member's name is a text"),
        ("a: \x01", "this is no YAML: "),
    ],
)
def test_mistake_in_yaml_is_told_with_its_line_and_column(text: str, place: str) -> None:
    with pytest.raises(PriceFileError) as wrong:
        read(text.encode(), "yaml")
    assert str(wrong.value).startswith(place)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "the first row names the columns"),
        ("meter,unit_prise\n", "row 1: unit_prise is no column"),
        ("meter,,unit_price\n", "row 1: an empty name is no column"),
        ("meter,match.\n", "row 1: match. is no column"),
        ("meter,meter\n", "row 1: the column meter stands here twice"),
        ("meter,unit_price\n", "row 1: rates "),
        ("meter,unit_price\na,1\nb,1,2\n", "row 3: there are more cells than columns"),
        ("meter,unit_price\na,1\n,1\n", "row 3: meter is missing"),
        ("key,meter,unit_price\nx,a,1\ny,b,1\n", "row 3, column key: it is x in the rows above"),
        ("meter,unit_price,per\na,1,many\n", "row 2, column per: per must be a whole number"),
        ("meter,tiers\na,5\n", "row 2, column tiers: tiers are written"),
        ('meter,unit_price\na,"1\n', "this is no CSV: "),
        ("meter,unit_price,rounding\na,1,off\n", "row 2, column rounding: rounding must be one"),
    ],
)
def test_mistake_in_csv_is_told_with_its_row_and_column(text: str, place: str) -> None:
    with pytest.raises(PriceFileError) as wrong:
        read(text.encode(), "csv")
    assert str(wrong.value).startswith(place)


@pytest.mark.parametrize(
    ("text", "form", "place"),
    [
        (
            "rates:\n- meter: a\n  tiers:\n  - {up_to: 1}\n  - unit_price: 1e-7\n",
            "yaml",
            "line 5, column 17: A price is a plain",
        ),
        ("meter,unit_price\na,1\n\nb,1.5E-07\n", "csv", "row 4, column unit_price: A price is a"),
        ("meter,tiers\na,1: x; rest: 2\n", "csv", "row 2, column tiers: A price is a"),
        ("meter,package_size,package_price\na,0,1\n", "csv", "row 2, column package_size: "),
    ],
)
def test_price_that_is_none_is_told_at_its_place(text: str, form: Format, place: str) -> None:
    made = read(text.encode(), form)
    with pytest.raises(ProblemError) as problem:
        compile_rates(made.prices.rates)
    assert str(made.error(problem.value)).startswith(place)


def test_bytes_that_are_no_text_or_too_many_are_refused() -> None:
    for data, words in ((b"a\xff", "it is not UTF-8 at byte 1"), (b" " * 2**21, "over 1 MiB")):
        for form in ("yaml", "csv"):
            with pytest.raises(PriceFileError, match=words):
                read(data, form)  # type: ignore[arg-type]


def test_ending_says_the_format() -> None:
    found = [format_of(name) for name in ("a.YAML", "b.yml", "c.csv", "d.txt", "yaml", "-")]
    assert found == ["yaml", "yaml", "csv", None, "yaml", None]


def test_cell_that_a_spreadsheet_would_run_is_text() -> None:
    rates = bodies(
        *({"match": {"model": text}, "unit_price": "1"} for text in ('=HYPERLINK("x")', "'a", "-1"))
    )
    text = write("default", "credits", rates, "csv", "")
    for cell in ('"\'=HYPERLINK(""x"")"', "''a", "'-1"):
        assert cell in text
    assert tuple(read(text.encode(), "csv").prices.rates) == rates


def test_diff_tells_what_comes_goes_and_changes() -> None:
    old = bodies(
        {"unit_price": "1"},
        {"unit_price": "2", "match": {"b": "x", "a": "y"}},
        {"unit_price": "3", "match": {"a": "z"}, "minimum": "5"},
    )
    new = bodies(
        {"unit_price": "2", "match": {"a": "y", "b": "x"}},
        {
            "match": {"a": "z"},
            "tiers": [{"up_to": "10", "unit_price": "1"}, {"flat_price": "4"}],
            "allowance": "7",
            "accumulate": "day",
            "rounding": "up",
        },
        {"meter": "pages", "package": {"size": "100", "price": "0.5"}},
    )
    found = diff(old, new)
    assert found.unchanged == 1
    assert found.lines() == [
        "- tokens: 1",
        "+ pages: 0.5 for each 100",
        "~ tokens a=z: 3, at least 5 → graduated 10: 1; rest: 0 + 4, 7 free, by day, rounded up",
    ]
    assert diff(old, old[::-1]).is_empty
    assert diff((), new).lines()[0].startswith("+ tokens a=y b=x: 2")
