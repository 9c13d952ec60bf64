"""What a purchase's money at Stripe asks of the books."""

from typing import Any

import msgspec
import pytest

from jobs.stripe_apply import decisions, ended, funds_of
from ledger.bought import Funds
from ledger.load_purchases import PurchaseRef
from ledger.requests import (
    CreditPurchase,
    FreezePurchase,
    MarkPurchase,
    MovePurchase,
    ReleasePurchase,
    Request,
)
from meter.stripe_port import DisputeState, Payment, RefundState

OWNER = PurchaseRef(3, 7)
PAID = Payment(
    object_ids=("cs_1", "pi_1"),
    marks={},
    status="paid",
    currency="USD",
    listed=1000,
    captured=1190,
    tax=190,
    fee=60,
)


def refund(status: str, amount: int = 100, call: str | None = None) -> RefundState:
    return RefundState(refund_id=f"re_{status}", status=status, amount=amount, call=call)


def dispute(status: str, amount: int = 1190, withdrawn: int = 1190) -> DisputeState:
    return DisputeState(
        dispute_id=f"du_{status}", status=status, amount=amount, withdrawn=withdrawn, fee=1500
    )


def payment(**members: Any) -> Payment:
    return msgspec.structs.replace(PAID, **members)


def asked(found: Payment, *, freezes_fraud: bool = False) -> list[Request]:
    return decisions(OWNER, found, freezes_fraud=freezes_fraud)


def test_open_payment_asks_nothing_and_a_failed_one_marks() -> None:
    assert asked(payment(status="open")) == []
    [marked] = asked(payment(status="failed"))
    assert isinstance(marked, MarkPurchase)
    assert (marked.customer_no, marked.purchase_no, marked.mark) == (3, 7, "failed")


def test_paid_is_credited_with_what_was_paid_and_then_moved() -> None:
    credit, move = asked(PAID)
    assert isinstance(credit, CreditPurchase)
    assert (credit.currency, credit.captured, credit.tax, credit.listed) == (
        *("USD", 1190, 190, 1000),
    )
    assert isinstance(move, MovePurchase)
    assert (move.funds, move.ends) == (Funds(fees=60), ())


@pytest.mark.parametrize("status", ["pending", "requires_action"])
def test_refund_under_way_freezes_under_the_name_of_our_call(status: str) -> None:
    found = payment(refunds=(refund(status, 100), refund(status, 200, "refund-3-1-1")))
    frozen = [one for one in asked(found) if isinstance(one, FreezePurchase)]
    assert [(one.reason, one.reference, one.amount) for one in frozen] == [
        ("refund", f"re_{status}", 100),
        ("refund", "refund-3-1-1", 200),
    ]
    assert funds_of(found).refunded == 0
    assert ended(found) == ()


def test_only_refunds_that_succeeded_count_and_each_end_thaws() -> None:
    found = payment(
        refunds=(refund("succeeded", 100), refund("failed", 200), refund("canceled", 400, "mine"))
    )
    assert funds_of(found).refunded == 100
    assert ended(found) == ("re_succeeded", "re_failed", "mine")


@pytest.mark.parametrize(
    ("status", "freezes", "disputed", "lost"),
    [
        ("needs_response", True, 1190, 0),
        ("under_review", True, 1190, 0),
        ("warning_needs_response", False, 0, 0),
        ("warning_closed", False, 0, 0),
        ("prevented", False, 0, 0),
        ("won", False, 0, 0),
        ("lost", False, 0, 1190),
    ],
)
def test_dispute_by_status(status: str, freezes: bool, disputed: int, lost: int) -> None:
    found = payment(disputes=(dispute(status),))
    frozen = [one for one in asked(found) if isinstance(one, FreezePurchase)]
    assert [one.reference for one in frozen] == ([f"du_{status}"] if freezes else [])
    funds = funds_of(found)
    assert (funds.disputed, funds.lost, funds.fees) == (disputed, lost, 1560)
    assert ended(found) == (() if freezes else (f"du_{status}",))


def test_fraud_warning_freezes_all_where_that_is_set_and_thaws_when_it_ends() -> None:
    suspected = payment(is_suspected=True)
    assert [type(one) for one in asked(suspected)] == [CreditPurchase, MovePurchase]
    frozen = asked(suspected, freezes_fraud=True)[-1]
    assert isinstance(frozen, FreezePurchase)
    assert (frozen.reason, frozen.amount) == ("fraud", None)
    thawed = asked(PAID, freezes_fraud=True)[-1]
    assert isinstance(thawed, ReleasePurchase)
    assert thawed.reference == frozen.reference
