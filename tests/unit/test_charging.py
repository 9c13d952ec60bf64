"""From usage to charge lines: card, version, rate, counter, and what is refused."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from ledger.answers import Problem
from ledger.outcome import Outcome
from ledger.rated import CardVersion, Counted, Line, StoredFact, Usage, UsageItem, netted
from ledger.state import Books
from meter.charging import Pricer
from tests.rating import NOON, ONE, card, charged, customer, item, meter, pricer

UNIT = 10**9


def refusal(
    pricing: Pricer,
    *items: UsageItem,
    books: Books | None = None,
    at: datetime = NOON,
    is_final: bool = True,
    **usage: Any,
) -> Problem:
    outcome = pricing.price(
        books or customer(), Usage(items, **usage), at=at, card=None, is_final=is_final
    )
    assert isinstance(outcome, Outcome), outcome
    assert isinstance(outcome.answer, Problem)
    return outcome.answer


PLAIN = {"unit_price": "2"}
VOLUME: dict[str, Any] = {
    "tiers": [{"up_to": "10", "unit_price": "1"}, {"unit_price": "0.1"}],
    "tier_mode": "volume",
}


# Which card and version


def test_card_of_the_request_goes_before_the_customers_and_default() -> None:
    pricing = pricer(
        card({"unit_price": "1"}),
        card({"unit_price": "2"}, key="gold"),
        card({"unit_price": "3"}, key="trial"),
    )
    assert charged(pricing, customer(), item()).amount == 1 * UNIT
    assert charged(pricing, customer(rate_card="gold"), item()).amount == 2 * UNIT
    asked = charged(pricing, customer(rate_card="gold"), item(), rate_card="trial")
    assert (asked.card, asked.amount) == (CardVersion("trial", 1), 3 * UNIT)


def test_version_in_force_is_that_of_the_usages_time() -> None:
    later, latest = NOON + timedelta(days=1), NOON + timedelta(days=2)
    pricing = pricer(
        card({"unit_price": "1"}),
        card({"unit_price": "3"}, version=2, effective_at=latest),
        card({"unit_price": "2"}, version=3, effective_at=later),
    )
    moments = {NOON: 1, later - timedelta.resolution: 1, later: 3, latest: 2}
    for at, version in moments.items():
        assert charged(pricing, customer(), item(), at=at).card.version == version


def test_of_two_versions_of_one_instant_the_later_published_is_in_force() -> None:
    pricing = pricer(card({"unit_price": "1"}), card({"unit_price": "2"}, version=2))
    assert charged(pricing, customer(), item()).card.version == 2


def test_pinned_version_goes_before_everything() -> None:
    pricing = pricer(card(PLAIN), card({"unit_price": "9"}, version=2))
    priced = pricing.price(
        customer(), Usage((item(),)), at=NOON, card=CardVersion("default", 1), is_final=True
    )
    assert not isinstance(priced, Outcome)
    assert (priced.card.version, priced.amount) == (1, 2 * UNIT)


@pytest.mark.parametrize(
    ("missing", "usage", "facts"),
    [
        ("rate_card", {"rate_card": "gold"}, {"rate_card": "gold"}),
        ("version", {}, {"rate_card": "default"}),
    ],
)
def test_no_rate_says_what_was_missing(
    missing: str, usage: dict[str, Any], facts: dict[str, Any]
) -> None:
    pricing = pricer(card(PLAIN, effective_at=NOON + timedelta(seconds=1)))
    problem = refusal(pricing, item(), **usage)
    assert (problem.code, problem.pointer) == ("no_rate", None)
    assert problem.facts == {"missing": missing, **facts}


def test_no_rate_names_the_item_that_no_rate_matches() -> None:
    pricing = pricer(card({**PLAIN, "match": {"model": "a*"}}))
    problem = refusal(pricing, item(model="ab"), item(model="b", region=1))
    assert (problem.code, problem.pointer) == ("no_rate", "/usage/1")
    assert problem.facts == {
        "missing": "rate",
        "meter": "tokens",
        "dimensions": {"model": "b", "region": 1},
        "rate_card": "default@1",
    }


# Dimensions


def test_numbers_and_booleans_match_by_their_json() -> None:
    pricing = pricer(
        card(
            {"unit_price": "1", "match": {"model": "true"}},
            {"unit_price": "2", "match": {"model": "1*"}},
            {"unit_price": "3"},
        )
    )
    for value, amount in ((True, 1), ("true", 1), (17, 2), ("17", 2), (7, 3), (None, 3)):
        assert charged(pricing, customer(), item(model=value)).amount == amount * UNIT, value


def test_dimension_that_is_null_is_the_same_as_one_that_is_missing() -> None:
    [line] = charged(pricer(card(PLAIN)), customer(), item(region=None, model="a")).lines
    assert line.dimensions == '{"model":"a"}'


# Refused items


def test_item_is_refused_where_its_meter_is_not_charged_so() -> None:
    meters = [
        meter("free", no=1, charge="none"),
        meter("peak", no=2, aggregation="max"),
        meter("calls", no=3, aggregation="count", value_property=None),
    ]
    pricing = pricer(card({**PLAIN, "meter": "calls"}), meters=meters)
    for one, place in (
        (item(of="nothing"), "meter"),
        (item(of="free"), "meter"),
        (item(of="peak"), "meter"),
        (item(2 * ONE, of="calls"), "quantity"),
        (item(of="calls", colour="red"), "dimensions"),
    ):
        problem = refusal(pricing, one)
        assert (problem.code, problem.pointer) == ("invalid_usage", f"/usage/0/{place}")
    assert charged(pricing, customer(), item(of="calls")).amount == 2 * UNIT


def test_estimate_of_a_meter_that_counts_may_be_of_many() -> None:
    meters = [meter("calls", aggregation="count", value_property=None)]
    pricing = pricer(card({**PLAIN, "meter": "calls"}), meters=meters)
    priced = pricing.price(
        customer(), Usage((item(7 * ONE, of="calls"),)), at=NOON, card=None, is_final=False
    )
    assert not isinstance(priced, Outcome)
    assert priced.amount == 14 * UNIT


def event(quantity: int = ONE, **dimensions: Any) -> UsageItem:
    return msgspec.structs.replace(item(quantity, **dimensions), source="app", event_id="e-1")


def test_event_is_charged_once_for_a_meter() -> None:
    pricing, books = pricer(card(PLAIN)), customer()
    assert books.usage is not None
    problem = refusal(pricing, event(), event())
    assert (problem.code, problem.pointer) == ("invalid_usage", "/usage/1")
    books.usage.charged["app", "e-1", 1] = 7
    problem = refusal(pricing, event(), books=books)
    assert problem.code == "event_already_charged"
    assert problem.facts == {"charge_id": books.public("chg", 7)}
    estimate = pricing.price(books, Usage((event(),)), at=NOON, card=None, is_final=False)
    assert not isinstance(estimate, Outcome)


def test_event_that_says_something_else_is_a_conflict() -> None:
    pricing, books = pricer(card(PLAIN)), customer()
    assert books.usage is not None
    fact = StoredFact(NOON, 0, {1: (ONE, '{"model":"a"}')})
    books.usage.events["app", "e-1"] = fact
    assert refusal(pricing, event(), books=books).code == "event_conflict"
    assert refusal(pricing, event(2 * ONE, model="a"), books=books).code == "event_conflict"
    [line] = charged(pricing, books, event(model="a")).lines
    assert not line.makes_event


def test_sum_above_the_largest_amount_is_refused() -> None:
    most = pricer(card({"unit_price": "9223372036"}))
    assert charged(most, customer(), item()).amount == 9_223_372_036 * UNIT
    problem = refusal(most, item(), item())
    assert (problem.code, problem.pointer) == ("amount_out_of_range", "/usage")


# Counters


def test_items_of_one_request_go_on_from_each_other() -> None:
    tiers = [{"up_to": "10", "unit_price": "1"}, {"unit_price": "2"}]
    priced = charged(pricer(card({"tiers": tiers})), customer(), item(8 * ONE), item(4 * ONE))
    assert [line.amount for line in priced.lines] == [8 * UNIT, (2 + 4) * UNIT]
    assert [line.total_before for line in priced.lines] == [0, 8 * ONE]


def test_counter_goes_on_through_versions_and_not_through_cards_rates_and_periods() -> None:
    allowed = {"unit_price": "1", "allowance": "10"}
    tomorrow = NOON + timedelta(days=1)
    pricing = pricer(
        card(allowed, {**allowed, "match": {"model": "a"}}),
        card({"unit_price": "5", "allowance": "12"}, version=2, effective_at=tomorrow),
        card(allowed, key="gold"),
    )

    def counted(at: datetime, *items: UsageItem, **usage: Any) -> tuple[str | None, Any]:
        [line] = charged(pricing, customer(), *items, at=at, **usage).lines
        return line.counter, line.period_start

    first = counted(NOON, item(model="b"))
    assert first == counted(tomorrow, item(model="c"))
    others = [
        counted(NOON, item(model="a")),
        counted(NOON, item(), rate_card="gold"),
        counted(NOON + timedelta(days=31), item()),
    ]
    assert len({first, *others}) == 4


def test_allowance_begins_anew_with_the_customers_own_month() -> None:
    pricing = pricer(card({"unit_price": "1", "allowance": "10"}))
    at = datetime(2030, 5, 31, 23, tzinfo=UTC)
    [line] = charged(pricing, customer("Europe/Berlin"), item(), at=at).lines
    assert line.period_start == datetime(2030, 5, 31, 22, tzinfo=UTC)
    assert line.period_end == datetime(2030, 6, 30, 22, tzinfo=UTC)


def test_line_of_plain_prices_stands_alone() -> None:
    [line] = charged(pricer(card(PLAIN)), customer(), item()).lines
    assert (line.counter, line.period_start, line.period_end) == (None, None, None)


def test_carry_comes_off_the_next_line() -> None:
    pricing, books = pricer(card(VOLUME)), customer()
    assert books.usage is not None
    [line] = charged(pricing, books, item(20 * ONE)).lines
    assert line.amount == 2 * UNIT
    key = line.counter_key
    assert key is not None
    books.usage.counters[key] = Counted(20 * ONE, 3 * UNIT)
    assert charged(pricing, books, item(50 * ONE)).lines[0].amount == 2 * UNIT
    assert charged(pricing, books, item(ONE)).lines[0].amount == 1 * UNIT // 10 - 3 * UNIT


def test_cheaper_tier_reached_in_two_items_costs_what_it_costs_in_one() -> None:
    pricing = pricer(card(VOLUME))
    apart = charged(pricing, customer(), item(10 * ONE), item(10 * ONE))
    assert apart.amount == charged(pricing, customer(), item(20 * ONE)).amount == 2 * UNIT
    assert [line.amount for line in apart.lines] == [2 * UNIT, 0]


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [
        ([5, 3], [5, 3]),
        ([5, -3], [2, 0]),
        ([5, 4, -3], [5, 1, 0]),
        ([5, 4, -6], [3, 0, 0]),
        ([-3, 5], [0, 2]),
        ([-5, 3], [0, -2]),
        ([2, -5, 1], [0, 0, -2]),
        ([-5, -3], [0, -8]),
        ([3, -3], [0, 0]),
        ([], []),
    ],
)
def test_netted_counter_either_takes_or_gives_back_with_its_last_line(
    amounts: list[int], expected: list[int]
) -> None:
    [made] = charged(pricer(card(VOLUME)), customer(), item()).lines
    lines = [msgspec.structs.replace(made, amount=amount) for amount in amounts]
    assert [line.amount for line in netted(lines)] == expected
    # Another counter, and lines that count alone, are left as they are.
    alone = msgspec.structs.replace(made, counter=None, amount=-7)
    other = msgspec.structs.replace(made, counter="other", amount=9)
    mixed: list[Line] = [alone, *lines, other]
    assert [line.amount for line in netted(mixed)] == [-7, *expected, 9]
