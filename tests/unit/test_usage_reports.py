"""How usage is cut into pieces and periods, and when Stripe's sum is the same. Pure."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.confirm_usage import is_same
from meter.plan_items import decimal_price
from meter.problems import ProblemError
from meter.report_pieces import DIGITS_MAX, EXACT, PAST_MAX, Piece, parts_of, pieces_of, value_text
from meter.usage_items import periods_between

NOW = datetime(2030, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("1", ["1"]),
        ("-2.5", ["-2.5"]),
        ("1E+3", ["1000"]),
        ("1234567890123456", ["999999999999999", "234567890123457"]),
        ("123456789012.123456", ["123456789012", "0.123456"]),
        ("-1234567890123456", ["-999999999999999", "-234567890123457"]),
        ("0.000000000001", ["0.000000000001"]),
    ],
)
def test_value_is_cut_into_parts_of_at_most_fifteen_digits(value: str, parts: list[str]) -> None:
    assert [value_text(part) for part in parts_of(Decimal(value))] == parts


@given(
    st.decimals(
        min_value=Decimal("-9e16"), max_value=Decimal("9e16"), places=12, allow_nan=False
    ).filter(bool)
)
def test_parts_add_up_to_the_value_and_fit(value: Decimal) -> None:
    parts = parts_of(value)
    assert reduce(EXACT.add, (Decimal(value_text(part)) for part in parts)) == value
    for part in parts:
        text = value_text(part).lstrip("-")
        whole, _, decimals = text.partition(".")
        assert "E" not in text
        assert len(whole) <= DIGITS_MAX
        assert len(decimals) <= 12
        assert len((whole + decimals).lstrip("0")) <= DIGITS_MAX


def test_value_that_is_no_usage_is_listed_whole() -> None:
    with pytest.raises(OverflowError):
        parts_of(Decimal(10) ** 20)
    [piece] = made(delta=Decimal(10) ** 20)
    assert (piece.status, piece.value) == ("unreportable", Decimal(10) ** 20)


def made(**members: Any) -> list[Piece]:
    asked: dict[str, Any] = {
        "prefix": "dd_ins_1",
        "customer_no": 7,
        "item_no": 2,
        "window_at": NOW - timedelta(hours=2),
        "seq": 3,
        "delta": Decimal(5),
        "is_closed": False,
        "now": NOW,
    }
    return list(pieces_of(**{**asked, **members}))


def test_pieces_say_whose_they_are_and_what_can_become_of_them() -> None:
    [piece] = made()
    assert piece.identifier == "dd_ins_1_7_2_1898546400_3_1"
    assert piece.status == "due"
    assert [one.status for one in made(is_closed=True)] == ["missed_invoice"]
    assert [one.status for one in made(window_at=NOW - PAST_MAX)] == ["unreportable"]
    young = made(window_at=NOW - PAST_MAX + timedelta(hours=1))
    assert [one.status for one in young] == ["due"]
    [cut] = made(window_at=NOW - timedelta(microseconds=500))
    assert cut.identifier == "dd_ins_1_7_2_1898553599.999500_3_1"


def test_periods_that_passed_unheard_of_are_those_of_the_calendar() -> None:
    anchor = datetime(2030, 1, 31, 12, tzinfo=UTC)
    since, until = datetime(2030, 2, 10, tzinfo=UTC), datetime(2030, 4, 30, 12, tzinfo=UTC)
    assert list(periods_between(anchor, "month", since, until)) == [
        (since, datetime(2030, 2, 28, 12, tzinfo=UTC)),
        (datetime(2030, 2, 28, 12, tzinfo=UTC), datetime(2030, 3, 31, 12, tzinfo=UTC)),
        (datetime(2030, 3, 31, 12, tzinfo=UTC), until),
    ]
    assert list(periods_between(anchor, "month", until, until)) == []
    assert list(periods_between(anchor, "year", anchor, anchor + timedelta(days=1))) == [
        (anchor, anchor + timedelta(days=1))
    ]


def test_sum_that_comes_as_a_binary_fraction_is_the_same() -> None:
    assert is_same(Decimal(str(0.1 + 0.2)), Decimal("0.3"))
    assert is_same(
        Decimal(str(float(Decimal("123456789012.123456")))), Decimal("123456789012.123456")
    )
    assert not is_same(Decimal("3"), Decimal("3.000001"))


def test_price_finer_than_stripe_takes_is_refused() -> None:
    assert decimal_price("0.0020", 2, "/x") == "0.002"
    assert decimal_price("0.00000000000001", 2, "/x") == "0.00000000000001"
    with pytest.raises(ProblemError):
        decimal_price("0.000000000000001", 2, "/x")
