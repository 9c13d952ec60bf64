"""Laws of prices, against a naive recomputation in fractions of whole numbers."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import ceil, floor
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ledger.rated import QUANTITY_SCALE, Counted, UsageState
from meter.problems import ProblemError
from meter.rate_cards import MeterOfRate, RateBody, compile_rates
from meter.rates import Accumulate, fits, period, price
from meter.rerate import PastLine, Rerating
from tests.rating import NOON, ONE, card, charged, compiled, customer, item, pricer, rate

METERS = {"tokens": MeterOfRate(frozenset("xy"), is_per_event=True, is_charged=True)}


def plain(value: Fraction) -> str:
    """A fraction of a power of ten as a plain decimal."""
    scaled = value * 10**18
    assert scaled.denominator == 1
    whole, rest = divmod(scaled.numerator, 10**18)
    return f"{whole}.{rest:018}".rstrip("0").rstrip(".")


def decimals(most: int, places: int) -> st.SearchStrategy[Fraction]:
    return st.integers(0, most * 10**places).map(lambda n: Fraction(n, 10**places))


PRICES = st.one_of(decimals(20, 0), decimals(5, 3), decimals(1, 9))
QUANTITIES = st.one_of(decimals(60, 0), decimals(60, 2), decimals(3, 18))
ROUNDINGS = st.sampled_from(["half_even", "up", "down"])


@st.composite
def tier_lists(draw: st.DrawFn) -> list[dict[str, str]]:
    ends = sorted(draw(st.sets(decimals(50, 1).filter(bool), max_size=4)))
    tiers: list[dict[str, str]] = []
    for end in [*ends, None]:
        tier = {"unit_price": plain(draw(PRICES)), "flat_price": plain(draw(PRICES))}
        if end is not None:
            tier["up_to"] = plain(end)
        tiers.append(tier)
    return tiers


@st.composite
def rate_bodies(draw: st.DrawFn) -> dict[str, Any]:
    """Any rate that may be published, without a match."""
    form = draw(st.sampled_from(["unit_price", "graduated", "volume", "package"]))
    body: dict[str, Any] = {"rounding": draw(ROUNDINGS)}
    if form == "unit_price":
        body["unit_price"] = plain(draw(PRICES))
    elif form == "package":
        size = draw(decimals(20, 1).filter(bool))
        body["package"] = {"size": plain(size), "price": plain(draw(PRICES))}
    else:
        body |= {"tiers": draw(tier_lists()), "tier_mode": form}
    if form != "package":
        body["per"] = draw(st.sampled_from([1, 3, 1000]))
    if draw(st.booleans()):
        body["allowance"] = plain(draw(QUANTITIES))
    if draw(st.booleans()):
        body["minimum"] = plain(draw(PRICES))
    return body


def naive(body: dict[str, Any], quantity: Fraction, scale: int) -> int:
    """The price of a quantity, as the documentation says it."""
    if quantity == 0:
        return 0
    counted = max(Fraction(0), quantity - Fraction(body.get("allowance", "0")))
    per = body.get("per", 1)
    total = Fraction(0)
    if "unit_price" in body:
        total = counted * Fraction(body["unit_price"]) / per
    elif "package" in body:
        package = body["package"]
        total = ceil(counted / Fraction(package["size"])) * Fraction(package["price"])
    elif counted > 0:
        reached = Fraction(0)
        for tier in body["tiers"]:
            end = Fraction(tier["up_to"]) if "up_to" in tier else counted
            unit, flat = Fraction(tier["unit_price"]), Fraction(tier["flat_price"])
            if body["tier_mode"] == "volume":
                if counted <= end:
                    total = counted * unit / per + flat
                    break
            elif counted > reached:
                total += (min(counted, end) - reached) * unit / per + flat
                reached = min(counted, end)
    exact = max(total, Fraction(body.get("minimum", "0"))) * 10**scale
    return {"half_even": round, "up": ceil, "down": floor}[body["rounding"]](exact)


def inside(quantity: Fraction) -> int:
    return int(quantity * ONE)


@given(rate_bodies(), QUANTITIES, st.sampled_from([0, 2, 9]))
def test_price_is_the_naive_price(body: dict[str, Any], quantity: Fraction, scale: int) -> None:
    assert price(rate(**body), inside(quantity), scale) == naive(body, quantity, scale)


@given(rate_bodies(), QUANTITIES, QUANTITIES)
def test_more_never_costs_less_unless_by_volume(
    body: dict[str, Any], less: Fraction, more: Fraction
) -> None:
    assume(body.get("tier_mode") != "volume")
    less, more = sorted((less, more))
    one = rate(**body)
    assert price(one, inside(less), 2) <= price(one, inside(more), 2)


def lines_of(body: dict[str, Any], requests: Sequence[Sequence[Fraction]], scale: int) -> list[int]:
    """The amounts of the lines of requests that follow each other; what they owe is carried."""
    pricing = pricer(card(body), scales={"credits": scale})
    books = customer()
    assert books.usage is not None
    amounts: list[int] = []
    for items in requests:
        priced = charged(pricing, books, *(item(inside(quantity)) for quantity in items))
        amounts += [line.amount for line in priced.lines]
        for line in priced.lines:
            if (key := line.counter_key) is not None:
                books.usage.counters[key] = Counted(line.total_before + line.quantity, 0)
    return amounts


SPLITS = st.lists(st.lists(QUANTITIES, min_size=1, max_size=4), min_size=1, max_size=5)


@given(rate_bodies(), SPLITS, st.sampled_from([0, 2, 9]))
def test_any_split_of_a_quantity_costs_what_it_costs_at_once(
    body: dict[str, Any], requests: list[list[Fraction]], scale: int
) -> None:
    """On one counter the lines add up to the rounded price of their sum: nothing is lost."""
    body = {**body, "accumulate": "month"}
    amounts = lines_of(body, requests, scale)
    total = sum(itertools.chain(*requests), Fraction(0))
    assert sum(amounts) == naive(body, total, scale)
    if body.get("tier_mode") != "volume":
        assert min(amounts) >= 0


@given(rate_bodies(), SPLITS)
def test_line_that_counts_alone_costs_its_own_price(
    body: dict[str, Any], requests: list[list[Fraction]]
) -> None:
    amounts = lines_of({**body, "accumulate": "line"}, requests, 2)
    assert amounts == [naive(body, one, 2) for one in itertools.chain(*requests)]


def test_a_million_tokens_one_by_one_cost_what_a_million_cost() -> None:
    """0.00000015 a token: too little for a cent, and too little for a hundredth of one."""
    one = rate(unit_price="0.00000015", accumulate="month")
    for scale in (2, 4, 9):
        before = charged_so_far = 0
        for count in range(1, 1_000_001) if scale == 4 else range(10_000, 1_000_001, 10_000):
            after = price(one, count * ONE, scale)
            charged_so_far += after - before
            before = after
        assert charged_so_far == 15 * 10**scale // 100


# Periods


ZONES = st.sampled_from(
    [
        *("UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Africa/Cairo"),
        *("Asia/Kathmandu", "Pacific/Apia", "Australia/Lord_Howe", "Pacific/Kiritimati"),
    ]
).map(ZoneInfo)
MOMENTS = st.integers(0, 30 * 365 * 24 * 3600).map(
    lambda seconds: datetime(2010, 1, 2, tzinfo=UTC) + timedelta(seconds=seconds)
)
ACCUMULATED: list[Accumulate] = ["day", "month"]


@given(st.sampled_from(ACCUMULATED), MOMENTS, ZONES)
def test_periods_cover_time_without_gaps_and_hold_one_calendar_day_or_month(
    accumulate: Accumulate, at: datetime, zone: ZoneInfo
) -> None:
    def name(moment: datetime) -> str:
        local = moment.astimezone(zone)
        return f"{local:%Y-%m-%d}" if accumulate == "day" else f"{local:%Y-%m}"

    start, end = period(accumulate, at, zone)
    assert start <= at < end
    assert name(start) == name(at) == name(end - timedelta.resolution)
    assert name(start - timedelta.resolution) < name(at) < name(end)
    assert period(accumulate, start, zone) == (start, end)
    assert period(accumulate, end - timedelta.resolution, zone) == (start, end)
    assert period(accumulate, end, zone)[0] == end
    hours = (end - start) / timedelta(hours=1)
    if accumulate == "day":
        assert 23 <= hours <= 25
    else:
        assert 27 * 24 < hours <= 31 * 24 + 1


@given(st.lists(st.tuples(MOMENTS, st.integers(1, 30)), min_size=1, max_size=12), ZONES)
def test_allowance_of_a_month_is_given_once_in_each_month_of_the_zone(
    usage: list[tuple[datetime, int]], zone: ZoneInfo
) -> None:
    body = {"unit_price": "1", "allowance": "20", "rounding": "half_even"}
    pricing = pricer(
        card(body, effective_at=datetime(2000, 1, 1, tzinfo=UTC)), scales={"credits": 0}
    )
    books = customer(zone.key)
    state = books.usage
    assert isinstance(state, UsageState)
    paid: dict[str, int] = {}
    used: dict[str, int] = {}
    for at, quantity in usage:
        [line] = charged(pricing, books, item(quantity * ONE), at=at).lines
        assert line.counter_key is not None
        state.counters[line.counter_key] = Counted(line.total_before + line.quantity, 0)
        month = f"{at.astimezone(zone):%Y-%m}"
        paid[month] = paid.get(month, 0) + line.amount
        used[month] = used.get(month, 0) + quantity
    assert paid == {month: max(0, quantity - 20) for month, quantity in used.items()}


# The past priced again


USED = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 31)), max_size=20)


@given(USED, st.sampled_from(["graduated", "volume"]))
def test_sums_of_two_windows_are_the_sum_of_the_whole(
    usage: list[tuple[int, int]], mode: str
) -> None:
    """What falls before `from` is counted: so windows that follow each other add up."""
    rates = [
        {"tiers": [{"up_to": "30", "unit_price": "3"}, {"unit_price": "1"}], "tier_mode": mode}
    ]

    first, last = datetime(2030, 5, 1, tzinfo=UTC), datetime(2030, 6, 1, tzinfo=UTC)
    middle = datetime(2030, 5, 10, tzinfo=UTC)

    def new(start: datetime, end: datetime) -> int:
        made = Rerating(
            compiled(*rates), scale=0, zone=ZoneInfo("UTC"), start=start, grouped=frozenset()
        )
        for quantity, day in usage:
            one = PastLine("tokens", "{}", quantity * ONE, 0, first + timedelta(days=day - 1))
            if made.begins <= one.at < end:
                made.add(one)
        return made.done().new

    assert new(first, middle) + new(middle, last) == new(first, last)


# Versions and rates


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=8),
    st.integers(-1, 21),
)
def test_version_by_usage_time_is_the_last_one_that_had_taken_effect(
    days: list[int], day: int
) -> None:
    cards = [
        card({"unit_price": str(number)}, version=number, effective_at=NOON + timedelta(days=at))
        for number, at in enumerate(days, 1)
    ]
    state = customer().usage
    assert state is not None
    chosen = pricer(*cards).choose(state, None, None, NOON + timedelta(days=day))
    taken = [(at, number) for number, at in enumerate(days, 1) if at <= day]
    found = getattr(chosen, "card", None)
    assert (None if found is None else found.version) == (max(taken)[1] if taken else None)


PATTERNS = st.sampled_from(["a", "b", "ab", "*", "a*", "b*", "ab*", "abc*"])
MATCHES = st.dictionaries(st.sampled_from("xy"), PATTERNS, max_size=2)
VALUES = [None, "", "a", "b", "ab", "abc", "abcd", "abd", "ac", "ba", "c"]
EVERYTHING = [{"x": x, "y": y} for x in VALUES for y in VALUES]


def matching(match: dict[str, str], usage: dict[str, str | None]) -> bool:
    return all(
        (value := usage[name]) is not None and fits(pattern, value)
        for name, pattern in match.items()
    )


def reach(match: dict[str, str]) -> frozenset[int]:
    """Which usage a match takes, of everything there is."""
    return frozenset(place for place, usage in enumerate(EVERYTHING) if matching(match, usage))


@given(
    st.lists(MATCHES, min_size=1, max_size=6, unique_by=lambda match: tuple(sorted(match.items())))
)
def test_narrowest_rate_wins_or_the_card_is_refused(matches: list[dict[str, str]]) -> None:
    """Refused exactly if some usage is matched by two rates of which none is within all others."""
    bodies = msgspec.convert(
        [{"meter": "tokens", "unit_price": "1", "match": match} for match in matches],
        tuple[RateBody, ...],
    )
    reaches = [reach(match) for match in matches]
    winners: list[int | None] = []
    is_ambiguous = False
    for place in range(len(EVERYTHING)):
        found = [number for number, one in enumerate(reaches) if place in one]
        narrowest = [n for n in found if all(reaches[n] <= reaches[other] for other in found)]
        is_ambiguous |= bool(found) and not narrowest
        winners.append(narrowest[0] if narrowest else None)
    if is_ambiguous:
        with pytest.raises(ProblemError) as refused:
            compile_rates(bodies, METERS)
        assert refused.value.code == "ambiguous_rates"
        return
    rates = compile_rates(bodies, METERS)["tokens"]
    for usage, winner in zip(EVERYTHING, winners, strict=True):
        chosen = next((one for one in rates if one.matches(usage)), None)
        assert (None if chosen is None else chosen.rate_no) == winner, usage


@given(st.lists(MATCHES, min_size=2, max_size=2))
def test_rates_for_the_same_are_refused(matches: list[dict[str, str]]) -> None:
    twice = [matches[0], matches[1], matches[0]]
    bodies = msgspec.convert(
        [{"meter": "tokens", "unit_price": "1", "match": match} for match in twice],
        tuple[RateBody, ...],
    )
    with pytest.raises(ProblemError):
        compile_rates(bodies, METERS)


def test_quantities_have_the_decimals_that_these_laws_try() -> None:
    assert 10**QUANTITY_SCALE == ONE
