"""Whose the money is of an invoice that pays several purchases."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobs.stripe_shares import shares_of
from meter.plan_lines import Allotment, split
from meter.stripe_port import DisputeState, InvoiceState, Payment, RefundState
from tests.unit.test_plan_lines import LITE

AT = datetime(2030, 1, 1, tzinfo=UTC)


def bought(line_id: str, captured: int) -> Allotment:
    return Allotment(
        line_id=line_id,
        plan=LITE,
        quantity=1,
        credits=100,
        listed=captured,
        captured=captured,
        tax=0,
        starts=AT,
        ends=AT,
    )


def invoice(paid: int, *news: RefundState | DisputeState, fee: int = 0) -> InvoiceState:
    payment = Payment(
        object_ids=("pi_1",),
        marks={},
        status="paid",
        currency="USD",
        captured=paid,
        fee=fee,
        refunds=tuple(one for one in news if isinstance(one, RefundState)),
        disputes=tuple(one for one in news if isinstance(one, DisputeState)),
    )
    return InvoiceState(
        invoice_id="in_1",
        customer_id="cus_1",
        subscription_id="sub_1",
        status="paid",
        currency="USD",
        amount_paid=paid,
        lines=(),
        payments=(payment,),
    )


def refund(name: str, amount: int, status: str = "succeeded", call: str | None = None) -> Any:
    return RefundState(refund_id=name, status=status, amount=amount, call=call)


def dispute(name: str, amount: int, status: str = "needs_response") -> DisputeState:
    return DisputeState(dispute_id=name, status=status, amount=amount, withdrawn=amount, fee=1500)


def refunded(shares: list[Payment]) -> list[list[int]]:
    return [[one.amount for one in share.refunds] for share in shares]


TWO = [bought("il_a", 1000), bought("il_b", 500)]
MONTHS = [bought(f"il_a#{no}", 100) for no in (1, 2, 3)]


def test_refund_is_shared_in_proportion_to_what_was_paid() -> None:
    assert refunded(shares_of(invoice(1500, refund("re_1", 300)), TWO, {})) == [[200], [100]]


def test_refund_that_was_asked_for_a_purchase_is_its_own_and_the_rest_follows_what_is_left() -> (
    None
):
    news = refund("re_1", 500, call="refund-1"), refund("re_2", 500)
    shares = shares_of(invoice(1500, *news), TWO, {"refund-1": 1})
    assert refunded(shares) == [[0, 500], [500, 0]]


def test_what_gives_no_credits_has_its_share_too() -> None:
    assert refunded(shares_of(invoice(3000, refund("re_1", 300)), TWO, {})) == [[100], [50]]


def test_parts_add_up_to_all_when_all_is_refunded() -> None:
    news = [refund(f"re_{no}", 101) for no in range(9)]
    three = [bought(f"il_{no}", 303) for no in range(3)]
    assert [sum(parts) for parts in refunded(shares_of(invoice(909, *news), three, {}))] == [
        303
    ] * 3


def test_months_of_a_line_give_back_the_last_one_first() -> None:
    shares = shares_of(invoice(300, refund("re_1", 150)), MONTHS, {})
    assert refunded(shares) == [[0], [50], [100]]


def test_failed_refund_takes_nobodys_place() -> None:
    news = refund("re_1", 100, "failed"), refund("re_2", 100, "pending")
    assert refunded(shares_of(invoice(300, *news), MONTHS, {})) == [[0, 0], [0, 0], [100, 100]]


def test_what_is_open_is_in_what_is_left_by_what_is_gone() -> None:
    news = refund("re_1", 100, "pending"), refund("re_2", 100)
    assert refunded(shares_of(invoice(300, *news), MONTHS, {})) == [[0, 0], [100, 0], [0, 100]]


def test_dispute_is_shared_with_what_it_withdrew_and_its_fee() -> None:
    shares = shares_of(invoice(1500, dispute("du_1", 1500), fee=30), TWO, {})
    assert [share.disputes[0].withdrawn for share in shares] == [1000, 500]
    assert [share.disputes[0].fee for share in shares] == [1000, 500]
    assert [share.fee for share in shares] == [20, 10]


def test_more_than_was_paid_is_lost_by_somebody() -> None:
    news = refund("re_1", 300), dispute("du_1", 300, "lost")
    shares = shares_of(invoice(300, *news), MONTHS, {})
    assert sum(share.disputes[0].amount + share.refunds[0].amount for share in shares) == 600


def test_nothing_was_paid_and_nothing_is_shared() -> None:
    shares = shares_of(invoice(0), [bought("il_a", 0), bought("il_b", 0)], {})
    assert [(share.captured, share.fee) for share in shares] == [(0, 0), (0, 0)]


STATUSES = st.sampled_from(["succeeded", "pending", "failed"])


def test_small_sums_never_take_back_from_a_line() -> None:
    bills = [bought("il_a", 0), bought("il_b", 50), bought("il_c", 25)]
    news = [refund(f"re_{no}", amount) for no, amount in enumerate((0, 2, 1))]
    shares = refunded(shares_of(invoice(150, *news), bills, {}))
    assert all(part >= 0 for parts in shares for part in parts)


@given(
    paid=st.lists(st.integers(0, 2000), min_size=1, max_size=5),
    rest=st.integers(0, 500),
    wanted=st.lists(st.tuples(st.integers(0, 100), STATUSES), max_size=5),
)
def test_sums_of_any_news_are_shared_exactly(
    paid: list[int], rest: int, wanted: list[tuple[int, str]]
) -> None:
    bills = [bought(f"il_{no // 2}#{no % 2}", amount) for no, amount in enumerate(paid)]
    total = sum(paid) + rest
    news = [
        refund(f"re_{no}", total * percent // 100 // max(1, len(wanted)), status)
        for no, (percent, status) in enumerate(wanted)
    ]
    shares = shares_of(invoice(total, *news), bills, {})
    for place, one in enumerate(news):
        parts = [share.refunds[place].amount for share in shares]
        assert all(part >= 0 for part in parts)
        assert sum(parts) == one.amount if rest == 0 else sum(parts) <= one.amount
    gone = [sum(one.amount for one in share.refunds if one.status != "failed") for share in shares]
    assert all(back <= amount for back, amount in zip(gone, paid, strict=True)) or total == 0


@given(st.integers(-(10**12), 10**12), st.lists(st.integers(0, 10**6), min_size=1))
def test_split_adds_up(amount: int, weights: list[int]) -> None:
    assert sum(split(amount, weights)) == amount
