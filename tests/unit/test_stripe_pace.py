"""The pace of calls to Stripe, without waiting."""

import pytest

from jobs.stripe_pace import PAUSE_SECONDS_MAX, Pace, TooSoon

RATED = {"Stripe-Rate-Limited-Reason": "global-rate"}


def test_a_second_of_calls_goes_at_once_then_evenly_apart() -> None:
    pace = Pace(10)
    waits = [pace.take(100.0) for _ in range(14)]
    assert waits[:10] == [0.0] * 10
    assert waits[11:] == pytest.approx([0.1, 0.2, 0.3])
    assert pace.take(200.0) == 0.0  # who was quiet may burst again


def test_turn_that_comes_too_late_is_refused_and_takes_nobodys_place() -> None:
    pace = Pace(1)
    waits = [pace.take(100.0) for _ in range(7)]
    assert waits == [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    for _ in range(3):
        with pytest.raises(TooSoon):
            pace.take(100.0)
    assert pace.take(101.0) == pytest.approx(5.0)


def test_refusal_stops_all_for_as_long_as_it_says_then_evenly_apart() -> None:
    pace = Pace(10)
    pace.answered(429, {**RATED, "Retry-After": "3"}, 100.0)
    assert [pace.take(100.0) for _ in range(3)] == pytest.approx([3.0, 3.1, 3.2])


def test_refusals_in_a_row_stop_for_longer_and_an_answer_ends_that() -> None:
    def pause_of(pace: Pace, now: float) -> float:
        pace.answered(429, RATED, now)
        return pace.take(now)

    pace, now = Pace(1000), 100.0
    for low, high in ((0.25, 0.5), (0.5, 1.0), (1.0, 2.0), (1.0, 2.0)):
        assert low <= pause_of(pace, now) <= high
        now += 100
    pace.answered(200, {}, now)
    assert pause_of(pace, now) <= 0.5


def test_refusals_of_calls_that_were_under_way_count_once() -> None:
    pace = Pace(1000)
    for _ in range(20):
        pace.answered(429, RATED, 100.0)
    assert pace.take(100.0) <= 0.5


def test_pause_has_an_end_whatever_is_said() -> None:
    pace = Pace(10)
    pace.answered(429, {**RATED, "Retry-After": "86400"}, 100.0)
    with pytest.raises(TooSoon):
        pace.take(101.0)
    assert pace.take(100.0 + PAUSE_SECONDS_MAX) == 0.0


@pytest.mark.parametrize("headers", [{}, {"Stripe-Rate-Limited-Reason": "resource-specific"}])
def test_locked_object_stops_nobody_else(headers: dict[str, str]) -> None:
    pace = Pace(10)
    pace.answered(429, headers, 100.0)
    assert pace.take(100.0) == 0.0
