"""Rate cards as they are published: what is refused and where, and what is kept."""

from typing import Any

import msgspec
import pytest

from meter.problems import ProblemError
from meter.rate_cards import MeterOfRate, RateBody, compile_rates, rates_json, read_rates
from tests.rating import ONE, compiled, rate

METERS = {
    "tokens": MeterOfRate(frozenset({"model", "a/b"}), is_per_event=True, is_charged=True),
    "seats": MeterOfRate(frozenset(), is_per_event=False, is_charged=True),
    "views": MeterOfRate(frozenset(), is_per_event=True, is_charged=False),
}


def bodies(*rates: dict[str, Any]) -> tuple[RateBody, ...]:
    return msgspec.convert([{"meter": "tokens", **body} for body in rates], tuple[RateBody, ...])


def refusal(*rates: dict[str, Any]) -> tuple[str, str | None]:
    """Code and pointer of what publishing says."""
    with pytest.raises(ProblemError) as refused:
        compile_rates(bodies(*rates), METERS)
    assert refused.value.status == 422
    return refused.value.code, refused.value.pointer


TWO_TIERS = [{"up_to": "10", "unit_price": "2"}, {"unit_price": "1"}]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, ""),
        ({"unit_price": "1", "tiers": TWO_TIERS}, ""),
        ({"unit_price": "1", "package": {"size": "1", "price": "1"}}, ""),
        ({"unit_price": "1", "tier_mode": "volume"}, "/tier_mode"),
        ({"package": {"size": "10", "price": "1"}, "per": 10}, "/per"),
        ({"package": {"size": "0", "price": "1"}}, "/package/size"),
        ({"unit_price": "1", "match": {"model": "a*b"}}, "/match/model"),
        ({"unit_price": "1", "match": {"a/b": "**"}}, "/match/a~1b"),
        ({"unit_price": "1", "match": {"region": "eu"}}, "/match/region"),
        ({"tiers": [{"up_to": "10", "unit_price": "1"}]}, "/tiers/0/up_to"),
        ({"tiers": [{"unit_price": "1"}, {"unit_price": "1"}]}, "/tiers/0/up_to"),
        ({"tiers": [{"up_to": "0", "unit_price": "1"}, {}]}, "/tiers/0/up_to"),
        (
            {"tiers": [{"up_to": "10"}, {"up_to": "10"}, {"unit_price": "1"}]},
            "/tiers/1/up_to",
        ),
        ({"meter": "nothing", "unit_price": "1"}, "/meter"),
        ({"meter": "views", "unit_price": "1"}, "/meter"),
        ({"meter": "seats", "unit_price": "1"}, "/accumulate"),
        ({"meter": "seats", "tiers": TWO_TIERS, "accumulate": "line"}, "/accumulate"),
    ],
)
def test_rate_that_means_nothing_is_refused_at_its_place(body: dict[str, Any], place: str) -> None:
    good = {"unit_price": "1", "match": {"model": "x"}}
    assert refusal(good, body) == ("invalid_rate", f"/rates/1{place}")


NO_DECIMALS = [
    *("", " ", "-1", "+1", "1e3", "NaN", "Infinity", "01", "1.", ".5", "1,5", "1\n"),
    *("\N{ARABIC-INDIC DIGIT ONE}", "1" * 19, "0." + "1" * 19),
]


@pytest.mark.parametrize("text", NO_DECIMALS)
@pytest.mark.parametrize(
    ("place", "body"),
    [
        ("unit_price", {}),
        ("minimum", {"unit_price": "1"}),
        ("allowance", {"unit_price": "1"}),
    ],
)
def test_number_that_is_no_plain_decimal_is_refused(
    place: str, body: dict[str, Any], text: str
) -> None:
    assert refusal({**body, place: text}) == ("invalid_rate", f"/rates/0/{place}")


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"tiers": [{"up_to": "x"}, {}]}, "tiers/0/up_to"),
        ({"tiers": [{"up_to": "1"}, {"unit_price": "x"}]}, "tiers/1/unit_price"),
        ({"tiers": [{"flat_price": "x"}]}, "tiers/0/flat_price"),
        ({"package": {"size": "x", "price": "1"}}, "package/size"),
        ({"package": {"size": "1", "price": "x"}}, "package/price"),
    ],
)
def test_number_inside_a_rate_is_refused_at_its_place(body: dict[str, Any], place: str) -> None:
    assert refusal(body) == ("invalid_rate", f"/rates/0/{place}")


def test_ambiguous_rates_name_both() -> None:
    rates = [{"unit_price": "1", "match": {"model": "a"}}] * 2
    with pytest.raises(ProblemError, match="Rates 1 and 2 of the meter tokens") as refused:
        compile_rates(bodies({"unit_price": "1"}, *rates), METERS)
    assert (refused.value.code, refused.value.pointer) == ("ambiguous_rates", "/rates/2/match")


def test_a_meter_priced_by_windows_takes_day_month_and_billing_period() -> None:
    for accumulate in ("day", "month", "billing_period"):
        compile_rates(
            bodies({"meter": "seats", "unit_price": "1", "accumulate": accumulate}), METERS
        )


@pytest.mark.parametrize(
    ("body", "accumulate"),
    [
        ({"unit_price": "1"}, "line"),
        ({"unit_price": "1", "allowance": "5"}, "month"),
        ({"unit_price": "1", "minimum": "5"}, "month"),
        ({"tiers": TWO_TIERS}, "month"),
        ({"package": {"size": "10", "price": "1"}}, "month"),
        ({"tiers": TWO_TIERS, "accumulate": "line"}, "line"),
        ({"unit_price": "1", "accumulate": "day"}, "day"),
    ],
)
def test_accumulate_defaults_to_line_for_plain_prices_only(
    body: dict[str, Any], accumulate: str
) -> None:
    assert rate(**body).accumulate == accumulate


def test_largest_and_finest_numbers_stay_exact() -> None:
    price = "9" * 18 + "." + "9" * 18
    made = rate(unit_price=price, per=10**9, allowance="0." + "0" * 17 + "1")
    assert made.unit_price == 10**36 - 1
    assert made.allowance == 1
    assert made.denominator == ONE * 10**18 * 10**9


def test_rates_of_a_meter_are_together_and_the_narrowest_first() -> None:
    made = compiled(
        {"unit_price": "1"},
        {"unit_price": "2", "match": {"model": "a*"}},
        {"unit_price": "3", "match": {"model": "ab"}},
        {"unit_price": "4", "meter": "pages"},
    )
    assert [one.rate_no for one in made["tokens"]] == [2, 1, 0]
    assert [one.rate_no for one in made["pages"]] == [3]


def test_stored_rates_are_those_that_were_published() -> None:
    given = [
        {"meter": "tokens", "unit_price": "0.00000015", "rounding": "up"},
        {"meter": "tokens", "match": {"model": "a*"}, "tiers": TWO_TIERS, "tier_mode": "volume"},
        {
            "meter": "tokens",
            "match": {"model": "b"},
            "package": {"size": "1000", "price": "0.10"},
            "allowance": "5",
            "minimum": "1.50",
            "accumulate": "day",
        },
        {"meter": "tokens", "match": {"model": "c"}, "unit_price": "3", "per": 1_000_000},
    ]
    published = msgspec.convert(given, tuple[RateBody, ...])
    assert read_rates(rates_json(published)) == published
    shown = msgspec.json.decode(rates_json(published))
    assert "match" not in shown[0]
    assert "per" not in shown[0]
    assert shown[2]["package"] == {"size": "1000", "price": "0.10"}
