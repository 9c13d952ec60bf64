"""Laws of reading bodies: nothing is lost, nothing is mixed up, however the JSON was written."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter.json_body import json_text
from meter.parse import read_body
from meter.problems import ProblemError

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            texts,
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
objects = st.dictionaries(
    texts,
    json_values,
    max_size=5,
)


@given(objects, st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:")]))
def test_read_body_is_what_was_sent_however_it_was_written(
    value: dict[str, Any], ascii_only: bool, separators: tuple[str, str]
) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()
    body = read_body(raw)
    assert body.value == json.loads(raw, parse_float=Decimal)
    assert list(body.value) == list(value)
    plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    assert body.canonical == read_body(plain.encode()).canonical
    assert read_body(body.canonical).canonical == body.canonical
    assert read_body(json_text(body.value).encode()).canonical == body.canonical


few_values = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 0.5, "0", "1", "true", ""]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=2,
)
few_objects = st.dictionaries(st.sampled_from("ab"), few_values, max_size=2)


@given(few_objects, few_objects)
def test_canonical_forms_are_equal_exactly_if_the_values_are(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    forms = [read_body(json.dumps(value).encode()).canonical for value in (one, other)]
    texts = [json.dumps(value, sort_keys=True) for value in (one, other)]
    assert (forms[0] == forms[1]) is (texts[0] == texts[1])


@given(objects.filter(bool), st.data())
def test_read_body_any_repeated_member_is_found(value: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(value)))
    members = [f"{json.dumps(n)}:{json.dumps(v)}" for n, v in value.items()]
    members.insert(
        data.draw(st.integers(0, len(members))),
        f"{json.dumps(name, ensure_ascii=False)}:{json.dumps(data.draw(json_values))}",
    )
    with pytest.raises(ProblemError, match="422 duplicate_member"):
        read_body(f"{{{','.join(members)}}}".encode())
