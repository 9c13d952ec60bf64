"""The pure part of metering: paths, numbers, filters, readings, LLM usage, windows."""

import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from meter.filters import FilterError
from meter.filters import test_of as filter_of
from meter.genai import NAMES, TokensError, billable
from meter.json_body import Number, read_json
from meter.paths import PathError, decimal_of, decimal_text, getter
from meter.problems import ProblemError
from meter.readings import Definition, Reading, Unreadable, data_of, read_all, reader_of
from meter.tally import grain_of, plus, quotient
from meter.windows import WindowError, edges, start_of, whole

UTC_ZONE = ZoneInfo("UTC")


# Paths and numbers


@pytest.mark.parametrize(
    ("path", "data", "found"),
    [
        ("a", {"a": 1}, 1),
        ("a", {}, None),
        ("a.b", {"a": {"b": 2}}, 2),
        ("a.b", {"a": {}}, None),
        ("a.b", {"a": 5}, None),
        ("a.b", {"a": [1]}, None),
        ("a.b", {"a.b": 3, "a": {"b": 2}}, 3),
        ("gen_ai.usage.input_tokens", {"gen_ai.usage.input_tokens": 7}, 7),
    ],
)
def test_path_finds_what_stands_there(path: str, data: dict[str, Any], found: Any) -> None:
    assert getter(path)(data) == found


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", "a.b.c.d.e.f.g.h.i", "x" * 256, 5])
def test_path_that_is_none_is_refused(path: Any) -> None:
    with pytest.raises(PathError):
        getter(path)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0, 0),
        (-5, -5),
        (10**26 - 1, 10**26 - 1),
        (10**26, None),
        (Number("0.1"), Decimal("0.1")),
        (Number("1E+5"), Decimal(100_000)),
        (Number("1E+26"), None),
        (Number("0." + "1" * 18), Decimal("0." + "1" * 18)),
        (Number("0." + "1" * 19), None),
        (Number("-0.0"), None),
        ("12.50", Decimal("12.5")),
        ("-1", -1),
        ("-0", None),
        ("-0.0", None),
        ("01", None),
        ("1.", None),
        (".5", None),
        ("1e3", None),
        ("+1", None),
        (" 1", None),
        ("1\n", None),
        ("٣", None),
        ("NaN", None),
        ("Infinity", None),
        ("", None),
        (True, None),
        (None, None),
        ([], None),
        (float("nan"), None),
    ],
    ids=repr,
)
def test_decimal_is_read_exactly_or_not_at_all(value: Any, number: Any) -> None:
    assert decimal_of(value) == number


@pytest.mark.parametrize(
    ("value", "text"),
    [(5, "5"), (Decimal("5.00"), "5"), (Decimal("1E+3"), "1000"), (Decimal("-0.0"), "0")],
)
def test_decimal_has_one_text(value: Any, text: str) -> None:
    assert decimal_text(value) == text


def test_sums_and_averages_are_exact() -> None:
    big, small = 10**25, Decimal("0.000000000000000001")
    assert plus(big, small) - big == small
    assert str(quotient(1, 3)) == "0." + "3" * 18
    assert quotient(Decimal("0.5"), 2) == Decimal("0.25")


# Filters

FILTERS: list[tuple[Any, list[Any], list[Any]]] = [
    ({"property": "m", "eq": "a"}, [{"m": "a"}], [{"m": "b"}, {}, {"m": None}]),
    ({"property": "m", "ne": "a"}, [{"m": "b"}, {}, {"m": []}], [{"m": "a"}]),
    ({"property": "m", "eq": None}, [{}, {"m": None}], [{"m": ""}, {"m": 0}]),
    ({"property": "m", "eq": 1}, [{"m": 1}, {"m": Number("1.0")}], [{"m": "1"}, {"m": True}]),
    ({"property": "m", "eq": True}, [{"m": True}], [{"m": 1}, {"m": "true"}]),
    ({"property": "m", "in": ["a", 2]}, [{"m": "a"}, {"m": 2}], [{"m": "2"}, {}]),
    ({"property": "m", "gt": 5}, [{"m": 6}, {"m": "5.1"}], [{"m": 5}, {"m": "x"}, {}]),
    ({"property": "m", "gte": "5"}, [{"m": 5}], [{"m": Number("4.9")}]),
    ({"property": "m", "lt": 0}, [{"m": -1}], [{"m": 0}, {"m": None}]),
    ({"property": "m", "lte": 0}, [{"m": 0}], [{"m": 1}, {"m": True}]),
    ({"property": "m", "like": "gpt-%"}, [{"m": "gpt-"}, {"m": "gpt-4"}], [{"m": "xgpt-4"}]),
    ({"property": "m", "like": "%a%b"}, [{"m": "xaxb"}, {"m": "abab"}], [{"m": "ba"}]),
    ({"property": "m", "like": "a%a"}, [{"m": "aa"}, {"m": "aba"}], [{"m": "a"}, {"m": "ab"}]),
    ({"property": "m", "like": "a_c"}, [{"m": "abc"}, {"m": "a\nc"}], [{"m": "ac"}, {"m": 5}]),
    ({"property": "m", "like": "a.c"}, [{"m": "a.c"}], [{"m": "abc"}]),
    ({"property": "m", "like": "%_x"}, [{"m": "yx"}, {"m": "zyx"}], [{"m": "x"}]),
    ({"property": "a.b", "eq": 1}, [{"a": {"b": 1}}], [{"a": 1}]),
    (
        {"and": [{"property": "m", "gt": 1}, {"or": [{"property": "k", "eq": "x"}]}]},
        [{"m": 2, "k": "x"}],
        [{"m": 2}, {"k": "x"}],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("given", "yes", "no"), FILTERS)
def test_filter_lets_through_what_it_names(given: Any, yes: list[Any], no: list[Any]) -> None:
    test = filter_of(given)
    assert [test(data) for data in yes] == [True] * len(yes)
    assert [test(data) for data in no] == [False] * len(no)


def nested(depth: int) -> Any:
    inner: Any = {"property": "m", "eq": 1}
    for _ in range(depth):
        inner = {"and": [inner]}
    return inner


BAD_FILTERS: list[tuple[Any, str]] = [
    (5, ""),
    ({}, ""),
    ({"and": []}, "/and"),
    ({"and": {}}, "/and"),
    ({"or": [5]}, "/or/0"),
    ({"and": [{"property": "m", "eq": 1}], "or": []}, ""),
    ({"property": "m"}, ""),
    ({"eq": 1}, ""),
    ({"property": "m", "near": 1}, ""),
    ({"property": "m..", "eq": 1}, "/property"),
    ({"property": "m", "eq": []}, "/eq"),
    ({"property": "m", "eq": "x" * 256}, "/eq"),
    ({"property": "m", "in": [1, {}]}, "/in/1"),
    ({"property": "m", "in": list(range(101))}, "/in"),
    ({"property": "m", "lt": True}, "/lt"),
    ({"property": "m", "like": 1}, "/like"),
    (nested(5), "/and/0" * 5),
    ({"and": [{"property": "m", "eq": 1}] * 51}, "/and/50"),
]


@pytest.mark.parametrize(("given", "pointer"), BAD_FILTERS)
def test_filter_that_can_not_be_used_is_told_with_its_place(given: Any, pointer: str) -> None:
    with pytest.raises(FilterError) as refused:
        filter_of(given)
    assert refused.value.pointer == pointer


def test_like_takes_no_longer_than_the_text_is_long() -> None:
    test = filter_of({"property": "m", "like": "%a" * 60 + "%b%c"})
    began = time.perf_counter()
    assert not test({"m": "a" * 60_000})
    assert time.perf_counter() - began < 0.5


# Readings


def read(definition: Definition, data: dict[str, Any], **more: bool) -> Any:
    return read_all([reader_of(definition)], data, **more)[0]


@pytest.mark.parametrize(
    ("aggregation", "value", "reading"),
    [
        ("sum", 5, 5),
        ("sum", "0.50", Decimal("0.5")),
        ("sum", -1, None),
        ("avg", -1, -1),
        ("latest", "-1.5", Decimal("-1.5")),
        ("min", "x", None),
        ("unique", "x", "x"),
        ("unique", 5, "5"),
        ("unique", Number("5.0"), "5"),
        ("unique", True, "true"),
        ("unique", "", ""),
        ("unique", None, None),
        ("unique", [], None),
        ("unique", "é" * 128, None),
    ],
)
def test_value_is_read_by_its_aggregation(aggregation: str, value: Any, reading: Any) -> None:
    found = read(Definition("t", aggregation, "n", (), None), {"n": value})
    assert isinstance(found, Unreadable) if reading is None else found == Reading(reading, "[]")


def test_dimensions_are_one_key_in_the_order_of_the_definition() -> None:
    definition = Definition("t", "count", None, (("b", "x.y"), ("a", "z")), None)
    assert read(definition, {"x": {"y": "ü"}, "z": 1}).dims == '["ü","1"]'
    assert read(definition, {"z": ""}).dims == '[null,""]'
    assert isinstance(read(definition, {"z": {}}), Unreadable)
    assert isinstance(read(definition, {"z": "x" * 256}), Unreadable)
    wide = Definition("t", "count", None, tuple((f"d{i}", f"d{i}") for i in range(5)), None)
    assert isinstance(read(wide, {f"d{i}": "x" * 250 for i in range(5)}), Unreadable)


def test_event_of_a_charge_is_not_filtered() -> None:
    definition = Definition("t", "sum", "n", (("m", "m"),), '{"property":"k","eq":1}')
    data = data_of(definition, Decimal("1.50"), {"m": "x", "other": "y"})
    assert read(definition, data) is None
    assert read(definition, data, by_call=True) == Reading(Decimal("1.5"), '["x"]')


def test_charge_of_billable_tokens_reads_what_it_recorded() -> None:
    definition = Definition("llm.usage", "sum", "billable.input_tokens", (), None)
    data = data_of(definition, 7, {})
    assert read(definition, data, by_call=True) == Reading(7, "[]")
    assert read(definition, data) == Reading(0, "[]"), "from outside it is worked out"


# LLM usage

PLAIN = {
    "input_tokens": 2000,
    "cache_read_tokens": 500,
    "cache_write_tokens": 300,
    "output_tokens": 90,
    "reasoning_tokens": 40,
}
BILLED = {**PLAIN, "input_tokens": 1200, "output_tokens": 50}


def test_cached_and_reasoning_tokens_are_billed_once() -> None:
    assert billable(PLAIN) == BILLED


def test_counts_that_are_told_beside_are_not_taken_out() -> None:
    beside = {"input_includes_cached": False, "output_includes_reasoning": False}
    assert billable({**PLAIN, **beside}) == PLAIN


@pytest.mark.parametrize(
    "member", [(name, member) for name, members in NAMES.items() for member in members], ids=str
)
def test_every_spelling_is_understood(member: tuple[str, str]) -> None:
    name, spelled = member
    data = {key: value for key, value in PLAIN.items() if key != name}
    assert billable({**data, spelled: PLAIN[name]}) == BILLED


def test_one_count_under_two_names_is_one_count() -> None:
    both = {"input_tokens": 5, "gen_ai.usage.input_tokens": 5}
    assert billable(both)["input_tokens"] == 5
    assert billable({})["input_tokens"] == 0
    assert billable({"input_tokens": None})["input_tokens"] == 0


@pytest.mark.parametrize(
    "data",
    [
        {"input_tokens": 5, "gen_ai.usage.input_tokens": 6},
        {"input_tokens": 5, "cache_read_tokens": 6},
        {"input_tokens": 5, "cache_read_tokens": 3, "cache_write_tokens": 3},
        {"output_tokens": 5, "reasoning_tokens": 6},
        {"reasoning_tokens": 1},
        {"input_tokens": -1},
        {"input_tokens": "5"},
        {"input_tokens": True},
        {"input_tokens": Number("5.5")},
        {"input_tokens": 10**16},
        {"input_tokens": 5, "cache_read_tokens": 1, "input_includes_cached": "yes"},
    ],
    ids=str,
)
def test_counts_that_contradict_each_other_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(TokensError):
        billable(data)


# Windows


def test_grain_is_the_quarter_of_an_hour() -> None:
    at = datetime(2026, 5, 4, 9, 44, 59, 999_999, tzinfo=UTC)
    assert grain_of(at) == datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
    assert grain_of(grain_of(at)) == grain_of(at)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("America/New_York", date(2026, 3, 8), 23),
        ("America/New_York", date(2026, 11, 1), 25),
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        ("America/Havana", date(2026, 3, 8), 23),  # midnight is skipped
        ("Asia/Kathmandu", date(2026, 3, 8), 24),
        ("Pacific/Apia", date(2011, 12, 30), 0),  # the whole day was skipped
    ],
)
def test_day_is_as_long_as_its_zone_says(zone: str, day: date, hours: float) -> None:
    known = ZoneInfo(zone)
    first, last = start_of(day, known), start_of(day + timedelta(days=1), known)
    assert last - first == timedelta(hours=hours)
    if hours:
        assert edges(first, last, "day", known) == [first, last]


def test_windows_are_cut_to_what_was_asked_for() -> None:
    first, last = datetime(2026, 1, 15, 6, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    found = edges(first, last, "month", UTC_ZONE)
    assert found == [
        first, datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC), last
    ]  # fmt: skip
    assert whole(first, last) == [first, last]


@pytest.mark.parametrize(
    ("first", "last", "width"),
    [
        ("2026-01-01T00:00", "2026-01-01T00:00", "day"),
        ("2026-01-01T00:10", "2026-01-02T00:00", "day"),
        ("2026-01-01T00:00", "2026-01-02T00:15", "minute"),
        ("2026-01-01T00:00", "2026-03-05T00:00", "hour"),
        ("1970-01-01T00:00", "2026-01-01T00:00", "day"),
    ],
)
def test_windows_that_can_not_be_made_are_refused(first: str, last: str, width: Any) -> None:
    with pytest.raises(WindowError):
        edges(
            datetime.fromisoformat(f"{first}+00:00"),
            datetime.fromisoformat(f"{last}+00:00"),
            width,
            UTC_ZONE,
        )


# Bodies of any form


@pytest.mark.parametrize("raw", [b'[{"a":1,"a":2},{}]', b'[{"a":"\\u0000"},{}]', b'[{"a":1e9999}]'])
def test_flaw_of_an_item_is_listed_and_not_raised(raw: bytes) -> None:
    value, flaws = read_json(raw)
    assert len(value) >= 1
    assert [flaw.pointer for flaw in flaws] == ["/0/a"]


def test_flaw_of_an_object_is_raised() -> None:
    with pytest.raises(ProblemError) as refused:
        read_json(b'{"a":1,"a":2}')
    assert (refused.value.status, refused.value.code) == (422, "duplicate_member")


@pytest.mark.parametrize("raw", [b'{"a": 1.50, "b": "\\n\\"x\\\\"}', b'{"b":"\\u00e9","a":1.5e1}'])
def test_numbers_and_texts_are_kept_exactly(raw: bytes) -> None:
    value, flaws = read_json(raw)
    assert flaws == []
    assert all(not isinstance(member, float) for member in value.values())
