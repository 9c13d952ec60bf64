"""What Stripe's objects say of a purchase, and what is asked of the books for it."""

from typing import Any

import pytest
import stripe
from msgspec import structs

from jobs.stripe_apply import FRAUD, decisions, ended, funds_of
from jobs.stripe_shapes import dispute_state, is_open_warning, payment_of, refund_state
from ledger.bought import Funds
from ledger.load_purchases import PurchaseRef
from ledger.requests import (
    CreditPurchase,
    FreezePurchase,
    MarkPurchase,
    MovePurchase,
    ReleasePurchase,
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
    fee=65,
)


def obj(**members: Any) -> Any:
    """An object as Stripe's library gives it."""
    return stripe.StripeObject.construct_from(members, None)


def session(**members: Any) -> Any:
    return obj(
        **{
            "id": "cs_1",
            "object": "checkout.session",
            "mode": "payment",
            "status": "complete",
            "payment_status": "paid",
            "payment_intent": "pi_1",
            "amount_subtotal": 1000,
            "amount_total": 1190,
            "currency": "usd",
            "metadata": {"purchase_id": "pur_1", "drawdown_call": "session-1"},
            "total_details": {"amount_tax": 190, "amount_discount": 0},
            **members,
        }
    )


def intent(**members: Any) -> Any:
    return obj(
        **{
            "id": "pi_1",
            "object": "payment_intent",
            "status": "succeeded",
            "amount": 1190,
            "amount_received": 1190,
            "currency": "usd",
            "metadata": {"purchase_id": "pur_1"},
            "latest_charge": {
                "id": "ch_1",
                "balance_transaction": {"id": "txn_1", "currency": "usd", "fee": 65},
            },
            **members,
        }
    )


def read(one: Any, other: Any) -> Payment:
    return payment_of(one, other, (), (), is_suspected=False)


def dispute(status: str) -> DisputeState:
    return DisputeState(dispute_id="du_1", status=status, amount=1000, withdrawn=1000, fee=1500)


def refund(status: str, amount: int = 100, call: str | None = None, no: int = 1) -> RefundState:
    return RefundState(refund_id=f"re_{no}", status=status, amount=amount, call=call)


def asked(payment: Payment, *, freezes_fraud: bool = False) -> list[Any]:
    return list(decisions(OWNER, payment, freezes_fraud=freezes_fraud))


# Shapes


def test_session_knows_tax_and_list_price_and_its_intent_the_fee() -> None:
    found = read(session(), intent())
    assert structs.asdict(found) == structs.asdict(
        structs.replace(PAID, marks={"purchase_id": "pur_1", "drawdown_call": "session-1"})
    )


@pytest.mark.parametrize(
    ("status", "payment_status", "expected"),
    [
        ("open", "unpaid", "open"),
        # A coupon of all is already seen while the page is open.
        ("open", "no_payment_required", "open"),
        ("open", "paid", "open"),
        ("complete", "no_payment_required", "paid"),
        ("complete", "paid", "paid"),
        ("complete", "unpaid", "open"),
        ("expired", "unpaid", "failed"),
        ("expired", "no_payment_required", "failed"),
        ("something_new", "something_new", "open"),
    ],
)
def test_session_is_paid_once_it_is_complete(
    status: str, payment_status: str, expected: str
) -> None:
    one = session(status=status, payment_status=payment_status)
    found = read(one, intent(status="processing"))
    assert found.status == expected
    if expected != "paid":
        assert (found.captured, found.tax) == (0, 0)


@pytest.mark.parametrize(
    ("intent_status", "expected"),
    [("requires_payment_method", "failed"), ("canceled", "failed"), ("processing", "open")],
)
def test_complete_session_whose_payment_fails_later_has_failed(
    intent_status: str, expected: str
) -> None:
    one = session(payment_status="unpaid")
    assert read(one, intent(status=intent_status)).status == expected


def test_session_without_an_intent_is_paid_by_a_coupon() -> None:
    found = read(
        session(payment_status="no_payment_required", payment_intent=None, amount_total=0,
                total_details={"amount_tax": 0}),
        None,
    )  # fmt: skip
    assert (found.status, found.captured, found.listed, found.fee) == ("paid", 0, 1000, 0)
    assert found.object_ids == ("cs_1",)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("succeeded", "paid"),
        ("canceled", "failed"),
        ("requires_payment_method", "open"),
        ("requires_action", "open"),
        ("processing", "open"),
        ("requires_capture", "open"),
    ],
)
def test_intent_alone_is_paid_when_it_succeeded(status: str, expected: str) -> None:
    found = read(None, intent(status=status, amount=1000, amount_received=1000))
    assert (found.status, found.listed) == (expected, 1000)
    assert found.captured == (1000 if expected == "paid" else 0)


@pytest.mark.parametrize(
    "charge",
    [
        None,
        {"id": "ch_1", "balance_transaction": None},
        {"id": "ch_1", "balance_transaction": {"id": "txn_1", "currency": "eur", "fee": 65}},
    ],
)
def test_fee_that_is_not_known_in_this_currency_is_0(charge: Any) -> None:
    """B-42: a charge may be missing, or its booking come later."""
    assert read(session(), intent(latest_charge=charge)).fee == 0


def test_dispute_has_moved_what_its_bookings_say() -> None:
    taken = {"id": "txn_1", "currency": "usd", "amount": -1000, "fee": 1500}
    back = {"id": "txn_2", "currency": "usd", "amount": 1000, "fee": 0}

    def state(*moved: Any, currency: str = "usd") -> tuple[int, int]:
        one = obj(id="du_1", status="needs_response", amount=1000, balance_transactions=list(moved))
        found = dispute_state(one, currency)
        return found.withdrawn, found.fee

    assert state() == (0, 0)
    assert state(taken) == (1000, 1500)
    assert state(taken, back) == (0, 1500)
    assert state(taken, currency="eur") == (1000, 0), "booked in another currency than paid"
    assert state(taken, back, currency="eur") == (0, 0)


def test_refund_has_the_name_of_our_call_or_none() -> None:
    ours = obj(id="re_1", status="succeeded", amount=5, metadata={"drawdown_call": "refund-1"})
    assert refund_state(ours) == RefundState(
        refund_id="re_1", status="succeeded", amount=5, call="refund-1"
    )
    theirs = refund_state(obj(id="re_2", status=None, amount=5, metadata=None))
    assert (theirs.call, theirs.status) == (None, "pending")


def test_warning_is_open_as_long_as_something_can_be_done() -> None:
    assert is_open_warning(obj(actionable=True))
    assert not is_open_warning(obj(actionable=False))


# Decisions


def test_what_is_not_paid_asks_for_nothing_and_what_failed_is_marked() -> None:
    assert asked(structs.replace(PAID, status="open")) == []
    [mark] = asked(structs.replace(PAID, status="failed"))
    assert isinstance(mark, MarkPurchase)
    assert (mark.customer_no, mark.purchase_no, mark.mark) == (3, 7, "failed")


def test_what_is_paid_is_credited_and_moved_to_its_state() -> None:
    credit, move = asked(PAID)
    assert isinstance(credit, CreditPurchase)
    assert (credit.captured, credit.tax, credit.listed, credit.currency) == (1190, 190, 1000, "USD")
    assert isinstance(move, MovePurchase)
    assert (move.funds, move.ends) == (Funds(fees=65), ())
    assert {one.customer_no for one in (credit, move)} == {3}


@pytest.mark.parametrize("status", ["pending", "requires_action", "something_new"])
def test_refund_that_has_not_ended_freezes_under_the_name_it_is_known_by(status: str) -> None:
    refunds = (refund(status, 100), refund(status, 50, call="refund-1", no=2))
    credit, move, theirs, ours = asked(structs.replace(PAID, refunds=refunds))
    del credit
    assert move.funds.refunded == 0
    assert (theirs.reason, theirs.reference, theirs.amount) == ("refund", "re_1", 100)
    assert (ours.reason, ours.reference, ours.amount) == ("refund", "refund-1", 50)


@pytest.mark.parametrize(
    ("status", "refunded"), [("succeeded", 100), ("failed", 0), ("canceled", 0)]
)
def test_refund_that_has_ended_counts_if_it_succeeded(status: str, refunded: int) -> None:
    payment = structs.replace(PAID, refunds=(refund(status), refund(status, 0, "refund-1", 2)))
    assert funds_of(payment).refunded == refunded
    assert ended(payment) == ("re_1", "refund-1")
    assert [type(one) for one in asked(payment)] == [CreditPurchase, MovePurchase]


@pytest.mark.parametrize(
    ("status", "freezes", "lost", "disputed"),
    [
        ("needs_response", True, 0, 1000),
        ("under_review", True, 0, 1000),
        ("appeal_needs_response", True, 0, 1000),
        ("appeal_under_review", True, 0, 1000),
        ("won", False, 0, 0),
        ("lost", False, 1000, 0),
        ("prevented", False, 0, 0),
        ("warning_needs_response", False, 0, 0),
        ("warning_under_review", False, 0, 0),
        ("warning_closed", False, 0, 0),
    ],
)
def test_every_status_of_a_dispute(status: str, freezes: bool, lost: int, disputed: int) -> None:
    payment = structs.replace(PAID, disputes=(dispute(status),))
    found = funds_of(payment)
    assert (found.lost, found.disputed, found.fees) == (lost, disputed, 1565)
    frozen = [one for one in asked(payment) if isinstance(one, FreezePurchase)]
    assert [(one.reason, one.reference, one.amount) for one in frozen] == (
        [("dispute", "du_1", 1000)] if freezes else []
    )
    assert ended(payment) == (() if freezes else ("du_1",))


def test_won_counts_before_the_money_is_back() -> None:
    """Closed may come before reinstated: the state decides."""
    assert funds_of(structs.replace(PAID, disputes=(dispute("won"),))).disputed == 0


def test_what_ends_is_let_go_before_anything_is_frozen() -> None:
    """Else what a reason had pinned alone is free when it ends, though another is still open."""
    payment = structs.replace(
        PAID,
        refunds=(refund("failed"), refund("pending", no=2)),
        disputes=(dispute("needs_response"),),
    )
    kinds: list[Any] = [type(one) for one in asked(payment, freezes_fraud=True)]
    assert kinds == [CreditPurchase, MovePurchase, ReleasePurchase, FreezePurchase, FreezePurchase]


def test_fraud_warning_counts_only_if_that_is_set() -> None:
    suspected = structs.replace(PAID, is_suspected=True)
    assert len(asked(suspected)) == 2
    last = asked(suspected, freezes_fraud=True)[-1]
    assert isinstance(last, FreezePurchase)
    assert (last.reason, last.reference, last.amount) == ("fraud", FRAUD, None)
    last = asked(PAID, freezes_fraud=True)[-1]
    assert isinstance(last, ReleasePurchase)
    assert last.reference == FRAUD
