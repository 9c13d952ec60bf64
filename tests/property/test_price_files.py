"""Laws of price lists as files: what an export writes, an import reads as the very same."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawdown.price_files import Format, read, write
from drawdown.price_text import diff
from meter.rate_cards import RateBody

NUMBERS = st.sampled_from(["0", "0.0", "1", "2.50", "0.00000015", "1000000", "9" * 18])
TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\r\n\x85"),
    min_size=1,
    max_size=6,
) | st.sampled_from(
    [
        "null",
        "~",
        "yes",
        "0x1",
        "1e3",
        "2030-01-01",
        "=1",
        "'",
        "a*",
        " ",
        "#",
        "\x85",
        "a\u2028",
        "a\n\nb ",
        " a",
        "a: b",
        "\ufeffx",
        "x  y" * 60,
    ]
)


@st.composite
def rate_bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A rate of any form, with any members beside it; whether it makes sense is no matter here."""
    body: dict[str, Any] = {"meter": draw(st.sampled_from(["tokens", "a-b", "0"]))}
    form = draw(st.sampled_from(["unit_price", "package", "tiers"]))
    if form == "unit_price":
        body[form] = draw(NUMBERS)
    elif form == "package":
        body[form] = {"size": draw(NUMBERS), "price": draw(NUMBERS)}
    else:
        members = ("up_to", "unit_price", "flat_price")
        body[form] = [
            {name: draw(NUMBERS) for name in members if draw(st.booleans())}
            for _ in range(draw(st.integers(1, 3)))
        ]
    others: dict[str, st.SearchStrategy[Any]] = {
        "match": st.dictionaries(st.sampled_from(["model", "a.b", "x/y"]), TEXTS, max_size=3),
        "per": st.sampled_from([1, 2, 10**9]),
        "tier_mode": st.sampled_from(["graduated", "volume"]),
        "allowance": NUMBERS,
        "minimum": NUMBERS,
        "accumulate": st.sampled_from(["line", "day", "month", "billing_period"]),
        "rounding": st.sampled_from(["half_even", "up", "down"]),
    }
    return body | {name: draw(any_) for name, any_ in others.items() if draw(st.booleans())}


@pytest.mark.parametrize("form", ["yaml", "csv"])
@given(rates=st.lists(rate_bodies(), min_size=1, max_size=4))
def test_export_reads_as_the_very_same_rates(form: Format, rates: list[dict[str, Any]]) -> None:
    given_rates = msgspec.convert(rates, tuple[RateBody, ...])
    text = write("gold", "pages", given_rates, form, "gold@3, in force from now")
    again = read(text.encode(), form).prices
    assert (again.key, again.asset) == ("gold", "pages")
    assert tuple(again.rates) == given_rates
    assert diff(given_rates, again.rates).is_empty
