"""What the lines of a paid invoice give."""

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from meter.plan_lines import MissingPeriod, allotments, part_of
from meter.plans import Plan
from meter.stripe_port import InvoiceLine, InvoiceState, SubscriptionItem, SubscriptionState

JAN, FEB = datetime(2030, 1, 31, tzinfo=UTC), datetime(2030, 2, 28, tzinfo=UTC)
MID = datetime(2030, 2, 14, tzinfo=UTC)
LITE = Plan(
    plan="lite",
    version=1,
    name="Lite",
    tier="lite",
    asset="credits",
    currency="USD",
    amount=1000,
    period="month",
    trial_days=None,
    credits=100,
    trial_credits=7,
    upgrade_credits="renewal",
    priority=50,
    requires_subscription=False,
    rate_card=None,
    tax_code=None,
    tax_behavior=None,
    is_active=True,
    metadata="{}",
)
BIG = replace(LITE, plan="big", amount=4000, credits=500)
PLANS = {"price_lite": LITE, "price_big": BIG}
SUB = SubscriptionState(
    subscription_id="sub_1",
    customer_id="cus_1",
    marks={},
    status="active",
    currency="USD",
    items=(
        SubscriptionItem(
            item_id="si_1", price_id="price_lite", quantity=1, period_start=JAN, period_end=FEB
        ),
    ),
    anchor=JAN,
    started_at=JAN,
)


def line(amount: int, price: str | None = "price_lite", **members: Any) -> InvoiceLine:
    given: dict[str, Any] = {
        "line_id": f"il_{price}_{amount}",
        "price_id": price,
        "subscription_id": "sub_1",
        "is_proration": False,
        "quantity": 1,
        "amount": amount,
        "discount": 0,
        "tax_added": 0,
        "tax_inside": 0,
        "starts": JAN,
        "ends": FEB,
    }
    return InvoiceLine(**{**given, **members})


def change(amount: int, price: str, **members: Any) -> InvoiceLine:
    return line(amount, price, **{"is_proration": True, "starts": MID, **members})


def invoice(*lines: InvoiceLine, paid: int | None = None) -> InvoiceState:
    total = max(0, sum(one.paid for one in lines))
    return InvoiceState(
        invoice_id="in_1",
        customer_id="cus_1",
        subscription_id="sub_1",
        status="paid",
        currency="USD",
        amount_paid=total if paid is None else paid,
        lines=lines,
    )


def given(*lines: InvoiceLine, paid: int | None = None, sub: SubscriptionState = SUB) -> list[Any]:
    found = allotments(invoice(*lines, paid=paid), sub, PLANS, {})
    return [(one.plan.plan, one.credits, one.captured, one.tax) for one in found]


def test_whole_period_gives_all_for_each_seat() -> None:
    assert given(line(1000)) == [("lite", 100, 1000, 0)]
    assert given(line(3000, quantity=3)) == [("lite", 300, 3000, 0)]


def test_discount_and_tax_make_the_cost() -> None:
    assert given(line(1000, discount=400, tax_added=60)) == [("lite", 100, 660, 60)]
    assert given(line(1000, tax_inside=160)) == [("lite", 100, 1000, 160)]
    assert given(line(1000, discount=1000)) == [("lite", 100, 0, 0)]


def test_other_lines_have_their_share_and_give_nothing() -> None:
    assert given(line(1000), line(500, None)) == [("lite", 100, 1000, 0)]
    assert given(line(1000), line(1000, subscription_id="sub_2")) == [("lite", 100, 1000, 0)]
    # Paid in part from the customer's balance at Stripe: that money was booked before.
    assert given(line(1000), line(500, None), paid=600) == [("lite", 100, 400, 0)]


def test_trial_line_gives_only_its_credits() -> None:
    trial = replace(SUB, status="trialing", trial_start=JAN, trial_end=FEB)
    assert given(line(0), sub=trial) == [("lite", 7, 0, 0)]
    ended_at_once = replace(trial, trial_end=JAN)
    assert given(line(0), sub=ended_at_once) == [("lite", 7, 0, 0)]
    after = line(1000, starts=FEB, ends=datetime(2030, 3, 31, tzinfo=UTC))
    assert given(after, sub=trial) == [("lite", 100, 1000, 0)]


def test_change_gives_the_share_of_the_difference() -> None:
    # Half of the 28 days: (500 − 100) ÷ 2; what was left of the old price lowers the cost.
    lines = change(-500, "price_lite"), change(2000, "price_big")
    assert given(*lines) == [("big", 200, 1500, 0)]
    assert given(*reversed(lines)) == [("big", 200, 1500, 0)]


def test_downgrade_gives_and_takes_nothing() -> None:
    assert given(change(-2000, "price_big"), change(500, "price_lite"), paid=0) == []
    assert given(change(-2000, "price_big"), paid=0) == []


def test_two_changes_on_one_invoice_are_two() -> None:
    later = datetime(2030, 2, 21, tzinfo=UTC)
    lines = (
        change(-500, "price_lite"),
        change(2000, "price_big"),
        change(-1000, "price_big", starts=later),
        change(2000, "price_big", starts=later, quantity=2),
    )
    assert [one[:2] for one in given(*lines)] == [("big", 200), ("big", 125)]


def test_period_that_has_gone_by_is_counted_from_the_anchor() -> None:
    march, april = datetime(2030, 3, 31, tzinfo=UTC), datetime(2030, 4, 30, tzinfo=UTC)
    item = replace(SUB.items[0], period_start=march, period_end=april)
    moved = replace(SUB, items=(item,))
    assert part_of(400, "month", moved, MID, FEB) == 200
    assert part_of(-400, "month", moved, MID, FEB) == 0


def test_period_that_was_left_is_known_by_what_was_paid() -> None:
    left = datetime(2030, 2, 24, tzinfo=UTC)
    began = datetime(2030, 2, 4, tzinfo=UTC)
    assert part_of(400, "month", SUB, MID, left, {left: began}) == 200


def test_change_in_no_known_period_is_never_zero() -> None:
    with pytest.raises(MissingPeriod):
        part_of(400, "month", SUB, MID, datetime(2030, 2, 27, tzinfo=UTC))
    with pytest.raises(MissingPeriod):
        part_of(400, "month", SUB, datetime(2029, 12, 1, tzinfo=UTC), FEB)
    with pytest.raises(MissingPeriod):
        given(change(2000, "price_big", ends=datetime(2030, 2, 27, tzinfo=UTC)))


def test_shares_add_up_to_what_was_paid() -> None:
    lines = [line(333, line_id=f"il_{n}") for n in range(3)]
    found = given(*lines, paid=500)
    assert sum(one[2] for one in found) == 500
