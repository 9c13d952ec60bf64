"""Lines of the past priced again: what is summed, what is only counted, what has no price."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from meter.rerate import PastLine, Rerated, Rerating, begins
from tests.rating import ONE, compiled

START = datetime(2030, 5, 10, tzinfo=UTC)


def line(
    quantity: float, amount: int = 0, *, day: int = 15, meter: str = "tokens", dims: str = "{}"
) -> PastLine:
    at = datetime(2030, 5, day, 12, tzinfo=UTC)
    return PastLine(meter, dims, int(quantity * ONE), amount, at)


def rerated(
    *lines: PastLine,
    rates: list[dict[str, Any]],
    scale: int = 0,
    zone: str = "UTC",
    grouped: frozenset[str] = frozenset(),
) -> Rerated:
    made = Rerating(
        compiled(*rates), scale=scale, zone=ZoneInfo(zone), start=START, grouped=grouped
    )
    for one in lines:
        made.add(one)
    return made.done()


def test_plain_prices_are_rounded_line_by_line() -> None:
    done = rerated(line(1, 5), line(1, 7), rates=[{"unit_price": "0.4"}])
    assert (done.lines, done.old, done.new) == (2, 12, 0)
    counted = rerated(line(1, 5), line(1, 7), rates=[{"unit_price": "0.4", "accumulate": "month"}])
    assert (counted.lines, counted.old, counted.new) == (2, 12, 1)


def test_lines_of_the_period_before_the_window_count_and_are_not_summed() -> None:
    rates = [{"unit_price": "1", "allowance": "10"}]
    done = rerated(line(8, 99, day=9), line(5, 3), rates=rates)
    assert (done.lines, done.old, done.new) == (1, 3, 3)
    plain = rerated(line(8, 99, day=9), line(5, 3), rates=[{"unit_price": "1"}])
    assert (plain.lines, plain.old, plain.new) == (1, 3, 5)


def test_order_of_lines_makes_no_difference() -> None:
    rates = [{"tiers": [{"up_to": "10", "unit_price": "3"}, {"unit_price": "1"}]}]
    lines = [line(8, day=9), line(5), line(7, day=16)]
    for order in (lines, lines[::-1]):
        assert rerated(*order, rates=rates).new == 2 * 3 + 10


def test_line_that_took_another_back_takes_its_price_back() -> None:
    plain = [{"unit_price": "0.5", "rounding": "up"}]
    assert rerated(line(3, 9), line(-3, -9), rates=plain).new == 0
    counted = [{"unit_price": "1", "allowance": "2"}]
    assert rerated(line(3), line(4), line(-3), rates=counted).new == 2
    before = rerated(line(5, day=9), line(-5), rates=counted)
    assert before.new == -3


def test_lines_without_a_rate_are_in_neither_sum() -> None:
    rates = [{"unit_price": "2", "match": {"model": "a*"}}]
    done = rerated(
        line(1, 10, dims='{"model":"ab"}'),
        line(1, 20, dims='{"model":"b"}'),
        line(1, 40, meter="pages"),
        line(1, 80, day=9, meter="pages"),
        rates=rates,
    )
    assert (done.lines, done.old, done.new) == (1, 10, 2)
    assert (done.unrated_lines, done.unrated_old) == (2, 60)
    assert done.unrated == ("tokens", '{"model":"b"}')


def test_groups_of_a_meter_priced_by_windows_have_counters_of_their_own() -> None:
    rates = [{"unit_price": "1", "allowance": "3", "accumulate": "month"}]
    lines = [line(4, dims='{"model":"a"}'), line(4, dims='{"model":"b"}')]
    assert rerated(*lines, rates=rates).new == 5
    assert rerated(*lines, rates=rates, grouped=frozenset({"tokens"})).new == 2


def test_window_reaches_back_to_where_the_longest_period_begins() -> None:
    zone = ZoneInfo("Europe/Berlin")
    plain, day, month = (
        {"unit_price": "1", "accumulate": kind} for kind in ("line", "day", "month")
    )
    assert begins(compiled(plain), START, zone) == START
    assert begins(compiled(plain, day), START, zone) == START - timedelta(hours=2)
    began = datetime(2030, 4, 30, 22, tzinfo=UTC)
    assert begins(compiled(day, month), START, zone) == began


@pytest.mark.parametrize(("zone", "new"), [("UTC", 0), ("Pacific/Auckland", 1)])
def test_periods_are_those_of_the_customers_zone(zone: str, new: int) -> None:
    rates = [{"unit_price": "1", "allowance": "1", "accumulate": "day"}]
    made = [
        PastLine("tokens", "{}", ONE, 0, datetime(2030, 5, 15, 11, tzinfo=UTC)),
        PastLine("tokens", "{}", ONE, 0, datetime(2030, 5, 15, 13, tzinfo=UTC)),
    ]
    # In Auckland midnight lies between them, so each has an allowance of its own.
    assert rerated(*made, rates=rates, zone=zone).new == 1 - new
