"""Reading bodies and values: strict, exact, and every mistake at its place."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from meter import parse
from meter.json_body import json_text
from meter.parse import Body, Number, read_body
from meter.problems import ProblemError


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    amount: str
    max: str | None = None


class Wanted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    customer_id: str
    amount: str
    expires_in: Annotated[int, Meta(ge=1, le=86_400)] = 600
    above_hold: Literal["deny", "take"] = "deny"
    reference: Annotated[str, Meta(max_length=5)] | None = None
    final: bool = True
    at: datetime | None = None
    items: list[Inner] = []
    metadata: dict[str, Any] | None = None


GOOD = {"customer_id": "acme", "amount": "1"}


def problem(raw: bytes | str, **more: Any) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        read_body(raw if isinstance(raw, bytes) else raw.encode(), **more)
    return caught.value


def places(error: ProblemError) -> list[tuple[str, str]]:
    return [(flaw.pointer, flaw.code) for flaw in error.errors or ()]


# What is no body at all


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'[{"a":1}]',
        b'"text"',
        b"1",
        b"{",
        b'{"a":1',
        b'{"a":1}}',
        b'{"a":1} x',
        b'{"a":1,}',
        b"{'a':1}",
        b"{a:1}",
        b'{"a":01}',
        b'{"a":1.}',
        b'{"a":.5}',
        b'{"a":+1}',
        b'{"a":0x1}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":True}',
        b'{"a":"\x01"}',
        b'{"a":"tab\there"}',
        b'{"a":"\\x41"}',
        b'{"a":"\\u12"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"\xc3":1}',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b"{\x00}",
        b"\x00",
        b"// comment\n{}",
        b'{"a":1}\x0b',
    ],
)
def test_read_body_unreadable_is_400(raw: bytes) -> None:
    error = problem(raw)
    assert (error.status, error.code) == (400, "malformed")
    # The same with a fraction in front, which takes the careful reader.
    if raw.startswith(b'{"a":'):
        assert problem(b'{"f":1.5,' + raw[1:]).code == "malformed"


@pytest.mark.parametrize("raw", [b"{}", b" {\n} ", b'\t{"a" : [ ] }\r\n'])
def test_read_body_spacing_does_not_count(raw: bytes) -> None:
    assert read_body(raw).value in ({}, {"a": []})


# Members that come twice


@pytest.mark.parametrize(
    ("raw", "pointers"),
    [
        ('{"a":1,"a":1}', ["/a"]),
        ('{"a":1,"a":2}', ["/a"]),
        ('{"a":1, "b":2, "a":1}', ["/a"]),
        ('{"a":1,"\\u0061":1}', ["/a"]),
        ('{"a":1.5,"a":1}', ["/a"]),
        ('{"x":{"a":1,"a":1}}', ["/x/a"]),
        ('{"x":[{},{"y":{"a/~":1,"a/~":1}}]}', ["/x/1/y/a~1~0"]),
        ('{"a":{"b":1,"b":1},"a":2}', ["/a"]),
        ('{"":1,"":1}', ["/"]),
        ('{"a":1,"a":1,"b":{"c":2,"c":2}}', ["/a", "/b/c"]),
        # Lengths that even out: two fractions as long as what the repeated member takes away.
        ('{"a":0.5,"b":0.5,"c":1,"c":1}', ["/c"]),
        ('{"a":-0,"b":1,"b":1}', ["/b"]),
    ],
)
def test_read_body_repeated_member_is_422_at_its_place(raw: str, pointers: list[str]) -> None:
    error = problem(raw)
    assert (error.status, error.code) == (422, "duplicate_member")
    assert places(error) == [(pointer, "duplicate_member") for pointer in pointers]


def test_read_body_tells_a_bounded_number_of_mistakes() -> None:
    for raw in (
        '{"a":1' + ',"a":1' * 10_000 + "}",
        '{"a":["\\u0000"' + ',"\\u0000"' * 10_000 + "]}",
    ):
        assert 1 <= len(places(problem(raw))) <= 100


# Numbers


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a":"5"}', '{"a":"5.0"}', False),
        ('{"a":5}', '{"a":"5"}', False),
        ('{"a":1}', '{"a":true}', False),
        ('{"a":0}', '{"a":false}', False),
        ('{"a":1,"b":2}', ' { "b" : 2 , "a" : 1 } ', True),
        ('{"a":"é"}', '{"a":"\\u00e9"}', True),
        ('{"a":"\\ud83d\\ude00"}', '{"a":"😀"}', True),
        ('{"a":"é"}', '{"a":"e\u0301"}', False),
        ('{"a":1}', '{"a":1.0}', True),
        ('{"a":100}', '{"a":1e2}', True),
        ('{"a":0}', '{"a":-0}', True),
        ('{"a":0}', '{"a":-0.0e5}', True),
        ('{"a":0.1}', '{"a":1.00e-1}', True),
        ('{"a":0.1}', '{"a":0.1000000000000000055511151231257827}', False),
        ('{"a":9007199254740993}', '{"a":9007199254740992}', False),
        ('{"a":9007199254740993.0}', '{"a":9007199254740993}', True),
        ('{"a":123456789012345678901234567890}', '{"a":123456789012345678901234567891}', False),
        ('{"a":[1,2]}', '{"a":[2,1]}', False),
        ('{"a":{}}', '{"a":[]}', False),
        ('{"a":null}', "{}", False),
    ],
)
def test_fingerprint_tells_values_apart_not_spellings(one: str, other: str, same: bool) -> None:
    prints = {
        parse.fingerprint("reserve", (), read_body(raw.encode()).canonical) for raw in (one, other)
    }
    assert (len(prints) == 1) is same


def test_fingerprint_tells_operation_ids_and_body_apart() -> None:
    prints = {
        parse.fingerprint("capture", ["hld_1"], b"{}"),
        parse.fingerprint("void", ["hld_1"], b"{}"),
        parse.fingerprint("capture", ["hld_2"], b"{}"),
        parse.fingerprint("capture", ["hld_", "1"], b"{}"),
        parse.fingerprint("capture", [], b'["hld_1"]{}'),
        parse.fingerprint("capture", ["hld_1"], b'{"a":1}'),
    }
    assert len(prints) == 6
    assert {len(print_) for print_ in prints} == {32}


def test_fingerprint_of_a_batch_item_is_that_of_its_route() -> None:
    single = read_body(b'{"amount": "5", "metadata": {"b": 1.50, "a": "\\u00e9"}}')
    item = read_body(
        b'{"operations":[{"op":"x","metadata":{"a":"\xc3\xa9","b":1.5},"amount":"5"}]}'
    )
    members = {n: v for n, v in item.value["operations"][0].items() if n != "op"}
    assert parse.part(members).canonical == single.canonical


def test_numbers_are_exact_in_the_value_and_the_text() -> None:
    raw = b'{"f":0.10000000000000000000000000001,"e":1.5E-7,"i":12345678901234567890123,"z":1.0}'
    value = read_body(raw).value
    assert value["f"] == Decimal("0.10000000000000000000000000001")
    assert value["e"] == Decimal("0.00000015")
    assert value["i"] == 12345678901234567890123
    assert isinstance(value["z"], Number)
    assert json_text(value).encode() == raw


@pytest.mark.parametrize(
    "number",
    [
        "1" * 4_301,
        "-" + "1" * 1_000_000,
        "1." + "1" * 4_300,
        "1e4301",
        "1e-4301",
        "0e99999",
        "1e99999999999999999999999",
        "1E-99999999999999999999999",
    ],
)
def test_read_body_number_over_the_limit_is_422_at_its_place(number: str) -> None:
    error = problem(f'{{"a":[{number}]}}')
    assert (error.status, places(error)) == (422, [("/a/0", "invalid_number")])


@pytest.mark.parametrize("number", ["1" * 4_300, "1e4000", "1e-4000", "0.0e10", "1e400"])
def test_read_body_number_within_the_limit_is_exact(number: str) -> None:
    body = read_body(f'{{"a":{number}}}'.encode())
    assert Decimal(body.value["a"]) == Decimal(number)
    assert Decimal(json.loads(body.canonical, parse_float=Decimal, parse_int=Decimal)["a"]) == (
        Decimal(number)
    )


# Depth and text


@pytest.mark.parametrize("depth", [65, 100, 500])
@pytest.mark.parametrize("extra", ["", "1.5", '"\\n"'])
def test_read_body_deep_json_never_fails_on_us(depth: int, extra: str) -> None:
    for raw in (
        '{"a":' + "[" * depth + extra + "]" * depth + "}",
        '{"a":' * depth + (extra or "1") + "}" * depth,
    ):
        with pytest.raises(ProblemError, match=r"422 (invalid_depth|unknown_member)"):
            parse.decode(raw.encode(), Wanted)


@pytest.mark.parametrize("depth", [65, 900, 2_000, 100_000])
def test_read_body_very_deep_json_is_422(depth: int) -> None:
    assert problem('{"a":' * depth + "1" + "}" * depth).code == "invalid_depth"
    assert problem('{"a":' + "[" * depth).status in (400, 422)


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        ('{"a":"x\\u0000y"}', "/a"),
        ('{"a":{"b":["ok","\\u0000"]}}', "/a/b/1"),
        ('{"a":{"n\\u0000":1}}', "/a/n\0"),
        ('{"a":"\\ud800"}', "/a"),
        ('{"a":"\\udc00 later"}', "/a"),
        ('{"a":"\\ud800\\ud800"}', "/a"),
        ('{"\\ud800":1}', "/?"),
    ],
)
def test_read_body_text_that_can_not_be_kept_is_422_at_its_place(raw: str, pointer: str) -> None:
    error = problem(raw)
    assert (error.status, places(error)) == (422, [(pointer, "invalid_text")])


def test_read_body_a_batch_keeps_what_is_wrong_at_its_item() -> None:
    raw = (
        b'{"operations":[{"a":"fine"},{"metadata":{"x":"\\u0000"}},{"a":"\\ud800"},'
        b'{"a":1,"a":2},{"a":1e9999},{"a":1.5}]}'
    )
    body = read_body(raw, items="/operations")
    found = [body.item_flaw(f"/operations/{index}") for index in range(6)]
    assert [flaw and (flaw.pointer, flaw.code) for flaw in found] == [
        None,
        ("/metadata/x", "invalid_text"),
        ("/a", "invalid_text"),
        ("/a", "duplicate_member"),
        ("/a", "invalid_number"),
        None,
    ]
    assert parse.part(body.value["operations"][5]).canonical == b'{"a":1.5}'


@pytest.mark.parametrize(
    "raw", ['{"operations":[],"x":"\\u0000"}', '{"operations":[],"operations":[]}']
)
def test_read_body_a_batch_with_a_flaw_elsewhere_is_refused(raw: str) -> None:
    assert problem(raw, items="/operations").status == 422


def test_item_flaw_of_item_1_is_not_that_of_item_10() -> None:
    items = ",".join(["{}"] * 10 + ['{"a":"\\u0000"}'])
    body = read_body(f'{{"operations":[{items}]}}'.encode(), items="/operations")
    assert body.item_flaw("/operations/1") is None
    assert body.item_flaw("/operations/10") is not None


# Typed bodies


MISTAKES: list[tuple[dict[str, Any], str, str, str]] = [
    ({"amonut": "1"}, "unknown_member", "/amonut", "not known"),
    ({"a/b~": "1"}, "unknown_member", "/a~1b~0", "not known"),
    ({"customer_id": ...}, "missing_member", "/customer_id", "customer_id is missing"),
    ({"customer_id": 7}, "invalid_value", "/customer_id", "a string, not a whole number"),
    ({"customer_id": None}, "invalid_value", "/customer_id", "a string, not null"),
    ({"amount": 1}, "invalid_amount", "/amount", "plain decimal string"),
    ({"amount": Number("1.5")}, "invalid_amount", "/amount", "plain decimal string"),
    ({"amount": None}, "invalid_amount", "/amount", "plain decimal string"),
    ({"items": [{"amount": []}]}, "invalid_amount", "/items/0/amount", "plain decimal"),
    ({"items": [{"amount": "1", "max": 1}]}, "invalid_amount", "/items/0/max", "plain"),
    ({"items": [{"amount": "1"}, {}]}, "missing_member", "/items/1/amount", "missing"),
    ({"items": [{"amount": "1", "x": 1}]}, "unknown_member", "/items/0/x", "not known"),
    ({"items": {}}, "invalid_value", "/items", "an array, not an object"),
    ({"items": [1]}, "invalid_value", "/items/0", "an object, not a whole number"),
    ({"expires_in": 0}, "invalid_value", "/expires_in", ">= 1"),
    ({"expires_in": 86_401}, "invalid_value", "/expires_in", "<= 86400"),
    ({"expires_in": "600"}, "invalid_value", "/expires_in", "whole number, not a string"),
    ({"expires_in": Number("600.5")}, "invalid_value", "/expires_in", "whole number"),
    ({"expires_in": True}, "invalid_value", "/expires_in", "whole number, not true or false"),
    ({"expires_in": 10**30}, "invalid_value", "/expires_in", "<= 86400"),
    ({"above_hold": "maybe"}, "invalid_value", "/above_hold", "one of: deny, take"),
    ({"above_hold": 1}, "invalid_value", "/above_hold", "one of: deny, take"),
    ({"reference": "123456"}, "invalid_value", "/reference", "length <= 5"),
    ({"reference": 1}, "invalid_value", "/reference", "a string or null"),
    ({"final": "true"}, "invalid_value", "/final", "true or false, not a string"),
    ({"at": "tomorrow"}, "invalid_timestamp", "/at", "RFC 3339"),
    ({"metadata": []}, "invalid_value", "/metadata", "an object or null, not an array"),
    ({"metadata": "{}"}, "invalid_value", "/metadata", "an object or null, not a string"),
]


@pytest.mark.parametrize(
    ("members", "code", "pointer", "words"),
    MISTAKES,
)
def test_decode_mistake_has_a_code_a_place_and_words(
    members: dict[str, Any], code: str, pointer: str, words: str
) -> None:
    value = {n: v for n, v in {**GOOD, **members}.items() if v is not ...}
    with pytest.raises(ProblemError) as caught:
        parse.decode(value, Wanted)
    error = caught.value
    assert (error.status, error.code, error.pointer) == (422, code, pointer)
    assert words in error.detail


def test_decode_takes_a_body_its_bytes_or_its_value() -> None:
    raw = b'{"customer_id":"acme","amount":"1","metadata":{"f":1.50}}'
    body = read_body(raw)
    found = parse.decode(body, Wanted)
    assert found == parse.decode(raw, Wanted) == parse.decode(body.value, Wanted)
    assert found.metadata is not None
    assert parse.metadata(found.metadata) == '{"f":1.50}'


def test_decode_inside_a_body_tells_the_whole_pointer() -> None:
    with pytest.raises(ProblemError) as caught:
        parse.decode({"amount": 1}, Inner, pointer="/operations/3")
    assert caught.value.pointer == "/operations/3/amount"


def test_decode_does_not_repeat_values() -> None:
    for members in ({"above_hold": "ddk_secret"}, {"reference": "ddk_secret"}):
        with pytest.raises(ProblemError) as caught:
            parse.decode({**GOOD, **members}, Wanted)
        assert "ddk_secret" not in caught.value.detail


# Free objects


def test_metadata_keeps_order_and_numbers() -> None:
    body = read_body(b'{"metadata":{"b":1.0,"a":[1e5,-0.50,true,null,"\\u00e9\\n"]}}')
    assert parse.metadata(body.value["metadata"]) == ('{"b":1.0,"a":[1E+5,-0.50,true,null,"é\\n"]}')
    assert parse.metadata({}) == "{}"


FREE: list[tuple[dict[str, Any], bool]] = [
    ({str(n): n for n in range(50)}, True),
    ({str(n): n for n in range(51)}, False),
    ({"a": {"b": {"c": {"d": {"e": {"f": {"g": {}}}}}}}}, True),
    ({"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {}}}}}}}}}, False),
    ({"a": [[[[[[[]]]]]]]}, True),
    ({"a": [[[[[[[[]]]]]]]]}, False),
    ({"a": "x" * (16_384 - 8)}, True),
    ({"a": "x" * (16_384 - 7)}, False),
    ({"a": "é" * 8_188}, True),
    ({"a": "é" * 8_189}, False),
]


@pytest.mark.parametrize(("value", "is_fine"), FREE)
def test_metadata_limits(value: dict[str, Any], is_fine: bool) -> None:
    if is_fine:
        assert json.loads(parse.metadata(value)) == value
        return
    with pytest.raises(ProblemError) as caught:
        parse.metadata(value)
    assert (caught.value.code, caught.value.pointer) == ("invalid_metadata", "/metadata")


# Keys


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (None, None),
        (b"abc", "abc"),
        (b'"abc"', "abc"),
        (b'"a \\"b\\" \\\\c"', 'a "b" \\c'),
        (b"run/1 2", "run/1 2"),
        (b'a"b"', 'a"b"'),
        (b"~" * 255, "~" * 255),
        (b'"' + b"~" * 255 + b'"', "~" * 255),
    ],
)
def test_idempotency_key_is_bare_or_quoted(header: bytes | None, key: str | None) -> None:
    assert parse.idempotency_key(header) == key


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b'""',
        b'"',
        b'"abc',
        b'"abc"x',
        b'"abc";a=1',
        b'"a\\b"',
        b"~" * 256,
        b'"' + b"~" * 256 + b'"',
        b"a\tb",
        b"\x7f",
        "é".encode(),
        b"a\n",
    ],
)
def test_idempotency_key_else_is_422(header: bytes) -> None:
    with pytest.raises(ProblemError, match="422 invalid_idempotency_key"):
        parse.idempotency_key(header)


# Values


@pytest.mark.parametrize(
    "text", ["acme", "a", "x" * 255, "é" * 127, "😀" * 63, "a.b", "...", "مرحبا", "e\u0301", " "]
)
def test_customer_id_is_kept_as_it_is(text: str) -> None:
    assert parse.customer_id(text) is text


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", "a/b", "a\\b", "a\nb", "\x00", "a\x7f", "a\x85b"),
        *("x" * 256, "é" * 128, "😀" * 64, "\ud800"),
    ],
)
def test_customer_id_else_is_422(text: str) -> None:
    with pytest.raises(ProblemError, match="422 invalid_customer_id"):
        parse.customer_id(text)


def test_amount_is_counted_in_the_smallest_unit() -> None:
    assert parse.amount("12.5", 9, "/amount") == 12_500_000_000
    assert parse.amount("0", 9, "/amount", allow_zero=True) == 0
    assert parse.amount("9223372036854775807", 0, "/amount") == 2**63 - 1


@pytest.mark.parametrize(
    ("text", "scale", "code"),
    [
        ("0", 9, "amount_out_of_range"),
        ("0.000", 9, "amount_out_of_range"),
        ("0.0000000001", 9, "amount_out_of_range"),
        ("9223372036854775808", 0, "amount_out_of_range"),
        *((text, 9, "invalid_amount") for text in ("", " 1", "1 ", "1\n", "-1", "+1", "01", "1.")),
        *((text, 9, "invalid_amount") for text in (".5", "1e3", "NaN", "1_0", "1,5", "٣", "-0")),
    ],
)
def test_amount_else_is_422_at_its_place(text: str, scale: int, code: str) -> None:
    with pytest.raises(ProblemError) as caught:
        parse.amount(text, scale, "/add/amount")
    error = caught.value
    assert (error.status, error.code, error.pointer) == (422, code, "/add/amount")
    assert error.detail.startswith("amount ")


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-05-04T09:00:00Z", datetime(2026, 5, 4, 9, tzinfo=UTC)),
        ("2026-05-04t09:00:00z", datetime(2026, 5, 4, 9, tzinfo=UTC)),
        ("2026-05-04T09:00:00+02:00", datetime(2026, 5, 4, 7, tzinfo=UTC)),
        ("2026-05-04T09:00:00.5-00:00", datetime(2026, 5, 4, 9, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-05-04T09:00:00.123456789Z", datetime(2026, 5, 4, 9, 0, 0, 123_456, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("1969-12-31T23:00:00-01:00", datetime(1970, 1, 1, tzinfo=UTC)),
        ("2200-12-31T23:59:59Z", datetime(2200, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2028-02-29T00:00:00Z", datetime(2028, 2, 29, tzinfo=UTC)),
    ],
)
def test_timestamp_is_rfc_3339_with_an_offset(text: str, at: datetime) -> None:
    assert parse.timestamp(text, "/at") == at
    assert parse.time(text, "/at") == at


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-05-04",
        "2026-05-04T09:00:00",
        "2026-05-04 09:00:00Z",
        "2026-05-04T09:00Z",
        "2026-05-04T09:00:60Z",
        "2016-12-31T23:59:60Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-05-04T24:00:00Z",
        "2026-05-04T09:00:00+24:00",
        "2026-05-04T09:00:00+2:00",
        "2026-05-04T09:00:00.Z",
        "2026-05-04T09:00:00.1234567890Z",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+01:00",
        "2201-01-01T00:00:00Z",
        "2200-12-31T23:59:59-01:00",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "+2026-05-04T09:00:00Z",
        "٢٠٢٦-05-04T09:00:00Z",
        "2026-05-04T09:00:00Z\n",
        "1777885200",
    ],
)
def test_timestamp_else_is_422(text: str) -> None:
    with pytest.raises(ProblemError, match="422 invalid_timestamp"):
        parse.timestamp(text, "/at")


def test_time_may_be_left_out() -> None:
    assert parse.time(None, "/at") is None


def test_body_without_flaws_has_none_anywhere() -> None:
    assert Body({}, b"{}").item_flaw("/operations/0") is None
