"""What late usage costs, and what its invoice item says. Pure."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter.late_items import MARK_MAX, LateOwner, LatePiece, call_name, cost, params
from meter.plan_items import ItemTier, Metered, Overage
from meter.rates import TierMode

AT = datetime(2030, 1, 1, tzinfo=UTC)
TIERS = (
    ItemTier(up_to=2, unit_price="1", flat_price="0"),
    ItemTier(up_to=None, unit_price="0.5", flat_price="3"),
)
USED = st.decimals(min_value=-100, max_value=10**9, places=6, allow_nan=False)


def metered(unit_price: str | None = None, mode: TierMode = "graduated") -> Metered:
    tiers = TIERS if unit_price is None else ()
    return Metered(
        meter="calls", event_name="calls", unit_price=unit_price, tiers=tiers, tier_mode=mode
    )


@pytest.mark.parametrize(
    ("item", "used", "scale", "amount"),
    [
        (metered("0.125"), "3", 2, 38),
        (metered("0.125"), "5", 2, 63),
        (metered("0.125"), "-5", 2, 0),
        (metered("0.000000000001"), "5000000000", 2, 1),
        (metered("1.5"), "3", 0, 5),
        (metered("123456789.01"), "1000000.000001", 2, 12345678901012346),
        (metered(), "0", 2, 0),
        (metered(), "2", 2, 200),
        (metered(), "2.5", 2, 200 + 300 + 25),
        (metered(mode="volume"), "0", 2, 0),
        (metered(mode="volume"), "2", 2, 200),
        (metered(mode="volume"), "3", 2, 300 + 150),
        (Overage(policy="bill", limit=None, unit_price="0.5"), "2.5", 2, 125),
    ],
)
def test_price_is_exact_and_rounded_once(
    item: Metered | Overage, used: str, scale: int, amount: int
) -> None:
    assert cost(item, Decimal(used), scale) == amount


@given(st.lists(USED, min_size=1, max_size=8), st.sampled_from([None, "0.002", "0.125"]))
def test_items_add_up_to_the_price_of_the_whole(steps: list[Decimal], unit: str | None) -> None:
    item = metered(unit)
    total, amounts = Decimal(0), 0
    for step in steps:
        amounts += cost(item, total + step, 2) - cost(item, total, 2)
        total += step
    assert amounts == cost(item, total, 2)


def test_item_names_every_row_and_no_member_is_too_long() -> None:
    pieces = [
        LatePiece(
            window_at=AT + timedelta(hours=number),
            ends_at=AT + timedelta(hours=number + 1),
            seq=1,
            part=1,
            value=Decimal("-0.5"),
            identifier=f"dd_{'x' * 80}_{number:03}",
        )
        for number in range(100)
    ]
    owner = LateOwner(
        installation_id="ins_1",
        customer_id="acme",
        event_name="extra",
        meter=None,
        subscription_id="sub_1",
        stripe_customer_id="cus_1",
        currency="USD",
    )
    asked = params(owner, pieces, -7)
    lines = [line for key, line in asked["metadata"].items() if key.startswith("report_rows")]
    assert " ".join(lines).split() == [one.identifier for one in pieces]
    assert max(map(len, lines)) <= MARK_MAX
    assert len(asked["metadata"]) <= 40
    assert asked["description"] == (
        "extra, 2030-01-01 00:00 to 2030-01-05 04:00 UTC: 50 less than was billed"
    )
    assert (asked["currency"], asked["amount"]) == ("usd", -7)
    assert call_name(pieces) == f"late-{pieces[0].identifier}"
