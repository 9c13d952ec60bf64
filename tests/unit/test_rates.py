"""Rates: what a quantity costs, which rate is meant, and when its period begins and ends."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from meter.rates import Accumulate, ambiguous, find, overlap, period, price
from tests.rating import ONE, compiled, rate


def cost(quantity: int, *, scale: int = 0, **body: Any) -> int:
    return price(rate(**body), quantity * ONE, scale)


@pytest.mark.parametrize(
    ("quantity", "expected"), [(0, 0), (1, 150), (1_000_000, 150_000_000), (3, 450)]
)
def test_unit_price_of_a_tiny_price_is_exact(quantity: int, expected: int) -> None:
    assert cost(quantity, scale=9, unit_price="0.00000015") == expected


def test_unit_price_per_many_is_divided_once() -> None:
    assert cost(1, scale=9, unit_price="1", per=3) == 333_333_333
    assert cost(3, scale=9, unit_price="1", per=3) == 10**9


@pytest.mark.parametrize(
    ("quantity", "mode", "expected"),
    [
        *((1, "half_even", 0), (2, "half_even", 1), (3, "half_even", 2), (5, "half_even", 2)),
        *((1, "up", 1), (2, "up", 1), (3, "up", 2), (1, "down", 0), (3, "down", 1)),
    ],
)
def test_rounding_is_by_the_named_mode(quantity: int, mode: str, expected: int) -> None:
    assert cost(quantity, unit_price="0.5", rounding=mode) == expected


TIERS = [
    {"up_to": "10", "unit_price": "5"},
    {"up_to": "20", "unit_price": "3", "flat_price": "7"},
    {"unit_price": "1"},
]


@pytest.mark.parametrize(
    ("quantity", "graduated", "volume"),
    [
        (0, 0, 0),
        (1, 5, 5),
        (10, 50, 50),
        (11, 50 + 3 + 7, 33 + 7),
        (20, 50 + 30 + 7, 60 + 7),
        (21, 50 + 30 + 7 + 1, 21),
        (120, 50 + 30 + 7 + 100, 120),
    ],
)
def test_tiers_end_with_their_last_quantity(quantity: int, graduated: int, volume: int) -> None:
    assert cost(quantity, tiers=TIERS) == graduated
    assert cost(quantity, tiers=TIERS, tier_mode="volume") == volume


@pytest.mark.parametrize(
    ("quantity", "expected"), [(0, 0), (1, 3), (1000, 3), (1001, 6), (2000, 6)]
)
def test_package_begun_is_taken_whole(quantity: int, expected: int) -> None:
    assert cost(quantity, package={"size": "1000", "price": "3"}) == expected


def test_package_of_a_fraction_is_counted_exactly() -> None:
    one = rate(package={"size": "0.1", "price": "1"})
    assert price(one, 3 * ONE // 10, 0) == 3
    assert price(one, 3 * ONE // 10 + 1, 0) == 4


def test_allowance_is_free_and_the_rest_begins_at_the_first_tier() -> None:
    assert cost(100, unit_price="2", allowance="100") == 0
    assert cost(101, unit_price="2", allowance="100") == 2
    assert cost(110, tiers=TIERS, allowance="100") == 50
    assert cost(1100, package={"size": "1000", "price": "3"}, allowance="100") == 3


def test_minimum_is_owed_as_soon_as_anything_was_used() -> None:
    assert cost(0, unit_price="2", minimum="50") == 0
    assert cost(1, unit_price="2", minimum="50") == 50
    assert cost(26, unit_price="2", minimum="50") == 52
    assert cost(1, unit_price="2", minimum="50", allowance="10") == 50


def test_zero_prices_are_prices() -> None:
    assert cost(10**6, unit_price="0") == 0
    assert cost(10**6, package={"size": "1", "price": "0"}) == 0


# Which rate


def match(dimensions: Mapping[str, str | None], *matches: dict[str, str]) -> dict[str, str] | None:
    rates = compiled(*({"match": one, "unit_price": "1"} for one in matches))["tokens"]
    found = find(rates, dimensions)
    return None if found is None else dict(found.match)


@pytest.mark.parametrize(
    ("dimensions", "expected"),
    [
        ({"model": "gpt-4o"}, {"model": "gpt-4o"}),
        ({"model": "gpt-4o-mini"}, {"model": "gpt-4o-*"}),
        ({"model": "gpt-4.1"}, {"model": "gpt-*"}),
        ({"model": "claude"}, {}),
        ({"model": ""}, {}),
        ({"model": None}, {}),
        ({}, {}),
    ],
)
def test_narrowest_match_wins(dimensions: dict[str, str | None], expected: dict[str, str]) -> None:
    matches = [{}, {"model": "gpt-*"}, {"model": "gpt-4o-*"}, {"model": "gpt-4o"}]
    assert match(dimensions, *matches) == expected
    assert match(dimensions, *reversed(matches)) == expected


def test_star_alone_matches_what_is_there_and_nothing_that_is_missing() -> None:
    assert match({"model": ""}, {"model": "*"}) == {"model": "*"}
    assert match({"model": "x"}, {}, {"model": "*"}) == {"model": "*"}
    assert match({}, {"model": "*"}) is None
    assert match({"model": None}, {"model": "*"}) is None


def test_more_dimensions_are_narrower_than_a_longer_prefix_of_one() -> None:
    both = {"model": "gpt-4o-2024*", "region": "e*"}
    given = {"model": "gpt-4o-2024-08", "region": "eu"}
    assert match(given, {"model": "gpt-4o-2024*"}, both) == both


def pair(*matches: dict[str, str]) -> tuple[int, int] | None:
    found = ambiguous(compiled(*({"match": m, "unit_price": "1"} for m in matches))["tokens"])
    if found is None:
        return None
    first, second = sorted(one.rate_no for one in found)
    return first, second


ANY: dict[str, str] = {}


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        ([ANY, ANY], (0, 1)),
        ([{"model": "a"}, {"model": "b"}], None),
        ([{"model": "a*"}, {"model": "ab*"}], None),
        ([{"model": "a"}, {"region": "eu"}], (0, 1)),
        ([{"model": "a"}, {"region": "eu"}, {"model": "a", "region": "eu"}], None),
        ([{"model": "a*", "region": "eu"}, {"model": "ab", "region": "e*"}], (0, 1)),
        ([{"model": "a*", "region": "eu"}, {"model": "b", "region": "e*"}], None),
        (
            [
                {"model": "a*", "region": "eu"},
                {"model": "ab", "region": "e*"},
                {"model": "ab", "region": "eu"},
            ],
            None,
        ),
        ([{"model": "*"}, ANY], None),
    ],
)
def test_ambiguous_where_neither_of_two_is_the_narrower(
    matches: list[dict[str, str]], expected: tuple[int, int] | None
) -> None:
    assert pair(*matches) == expected


def test_overlap_is_what_both_match() -> None:
    first, second = (
        rate(match=m, unit_price="1")
        for m in ({"model": "gpt-*", "tier": "x"}, {"model": "gpt-4o", "region": "e*"})
    )
    both = (("model", "gpt-4o"), ("region", "e*"), ("tier", "x"))
    assert overlap(first, second) == overlap(second, first) == both


# Periods


def hours(accumulate: Accumulate, at: datetime, zone: str) -> tuple[str, float]:
    """Where the period of `at` begins, by the wall, and how long it is."""
    start, end = period(accumulate, at, ZoneInfo(zone))
    assert start <= at < end
    assert start.tzinfo is end.tzinfo is UTC
    local = start.astimezone(ZoneInfo(zone))
    return f"{local:%Y-%m-%d %H:%M}", (end - start) / timedelta(hours=1)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("at", "zone", "expected"),
    [
        (utc(2030, 5, 15, 12), "UTC", ("2030-05-15 00:00", 24)),
        (utc(2030, 5, 14, 23), "Europe/Berlin", ("2030-05-15 00:00", 24)),
        (utc(2030, 3, 31, 12), "Europe/Berlin", ("2030-03-31 00:00", 23)),
        (utc(2030, 10, 27, 12), "Europe/Berlin", ("2030-10-27 00:00", 25)),
        (utc(2030, 10, 27, 0, 30), "Europe/Berlin", ("2030-10-27 00:00", 25)),
        (utc(2030, 10, 27, 1, 30), "Europe/Berlin", ("2030-10-27 00:00", 25)),
        # Midnight does not exist there: the day begins an hour later by the wall.
        (utc(2024, 4, 26, 12), "Africa/Cairo", ("2024-04-26 01:00", 23)),
        # The whole 30th was left out.
        (utc(2011, 12, 30, 9, 59), "Pacific/Apia", ("2011-12-29 00:00", 24)),
        (utc(2011, 12, 30, 10), "Pacific/Apia", ("2011-12-31 00:00", 24)),
        (utc(2030, 5, 15, 0, 10), "Asia/Kathmandu", ("2030-05-15 00:00", 24)),
    ],
)
def test_day_is_the_calendar_day_of_the_zone(
    at: datetime, zone: str, expected: tuple[str, float]
) -> None:
    assert hours("day", at, zone) == expected


@pytest.mark.parametrize(
    ("at", "zone", "expected"),
    [
        (utc(2030, 12, 31, 23), "Europe/Berlin", ("2031-01-01 00:00", 31 * 24)),
        (utc(2030, 3, 1), "America/New_York", ("2030-02-01 00:00", 28 * 24)),
        (utc(2030, 3, 15), "America/New_York", ("2030-03-01 00:00", 31 * 24 - 1)),
        (utc(2028, 2, 29), "UTC", ("2028-02-01 00:00", 29 * 24)),
    ],
)
def test_month_is_the_calendar_month_of_the_zone(
    at: datetime, zone: str, expected: tuple[str, float]
) -> None:
    assert hours("month", at, zone) == expected
    assert hours("billing_period", at, zone) == expected
