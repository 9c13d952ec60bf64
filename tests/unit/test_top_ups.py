"""How many packs a top-up buys, and what it is about."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter.checkout import CENTS_MAX, QUANTITY_MAX
from meter.packs import Pack
from meter.top_ups import TopUp, Used, packs_to_buy

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def pack(credits: int = 1000) -> Pack:
    return Pack(
        pack="starter",
        version=1,
        name="Starter",
        asset="credits",
        credits=credits,
        bonus=0,
        bonus_expires_in=None,
        expires_in=None,
        priority=50,
        prices={"USD": 1000},
        tax_code=None,
        tax_behavior=None,
        is_active=True,
        metadata="{}",
    )


def wanted(**members: Any) -> TopUp:
    asked: dict[str, Any] = {
        "customer_no": 1,
        "is_enabled": True,
        "asset": "credits",
        "threshold": 500,
        "target": None,
        "pack": "starter",
        "count_day": None,
        "amount_month": None,
    }
    return TopUp(**{**asked, **members})


@pytest.mark.parametrize(
    ("members", "has", "used", "number"),
    [
        ({}, 500, (0, 0), 1),
        ({}, 0, (0, 0), 1),
        ({}, -501, (0, 0), 2),
        ({"threshold": 0}, -2300, (0, 0), 3),
        ({"target": 4000}, 0, (0, 0), 4),
        ({"target": 4001}, 0, (0, 0), 5),
        ({"target": 4000, "amount_month": 2999}, 0, (0, 0), 2),
        ({"target": 4000, "amount_month": 4000}, 0, (3, 1000), 3),
        ({"amount_month": 999}, 0, (0, 0), 0),
        ({"amount_month": 1000}, 0, (0, 5000), 0),
        ({"count_day": 2}, 0, (1, 0), 1),
        ({"count_day": 2}, 0, (2, 0), 0),
    ],
)
def test_fewest_whole_packs_within_the_caps(
    members: dict[str, Any], has: int, used: tuple[int, int], number: int
) -> None:
    assert packs_to_buy(wanted(**members), pack(), 1000, has, Used(*used)) == number


@given(
    has=st.integers(-(2**70), 500),
    over=st.integers(1, 2**62),
    credits=st.integers(1, 2**62),
    price=st.integers(1, CENTS_MAX),
    month=st.none() | st.integers(1, 10**9),
    spent=st.integers(0, 10**9),
)
def test_never_above_a_cap_nor_one_pack_more_than_needed(
    has: int, over: int, credits: int, price: int, month: int | None, spent: int
) -> None:
    asked = wanted(target=500 + over, amount_month=month)
    number = packs_to_buy(asked, pack(credits), price, has, Used(0, spent))
    assert 0 <= number <= QUANTITY_MAX
    assert number * price <= CENTS_MAX
    if month is not None:
        assert number == 0 or spent + number * price <= month
    assert number <= 1 or has + (number - 1) * credits < 500 + over


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("members", "state", "waits"),
    [
        ({}, "ready", None),
        ({"is_enabled": False}, "off", None),
        ({"is_enabled": False, "purchase_no": 7}, "in_flight", None),
        ({"trouble": "no_card"}, "suspended", None),
        ({"trouble": "declined"}, "suspended", None),
        ({"trouble": "authentication"}, "needs_authentication", None),
        ({"not_before": NOW + HOUR}, "backoff", None),
        ({"not_before": NOW}, "ready", None),
        ({"look_at": NOW + HOUR, "waits_for": "cap"}, "ready", "cap"),
        ({"look_at": NOW, "waits_for": "cap"}, "ready", None),
        ({"look_at": NOW + HOUR, "waits_for": "cap", "is_enabled": False}, "off", None),
    ],
)
def test_what_it_is_about(members: dict[str, Any], state: str, waits: str | None) -> None:
    found = wanted(**members)
    assert (found.state(NOW), found.waits(NOW)) == (state, waits)
