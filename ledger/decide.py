"""Decide: requests + the locked state + now → answers, with the state moved forward. Pure.

    lock → load → decide → post

Requests of one customer are decided in order, each on what the one before left. A refusal changes
nothing but what time had already done. The same function runs behind every route, the batch, the
sweeper and the tests' model.
"""

from datetime import datetime

from msgspec import Struct

from ledger import grants, holds, purchases, recognise, refunds, usage, usage_events
from ledger.amounts import format_amount
from ledger.answers import Balance, OverageAnswer, Problem, balance_answer
from ledger.outcome import Outcome
from ledger.requests import (
    Capture,
    ChargeEvents,
    ChargeWindows,
    Claim,
    CloseCustomer,
    Consume,
    CorrectEvent,
    CreditPurchase,
    Extend,
    FreezePurchase,
    GrantCredit,
    MarkPurchase,
    MovePurchase,
    OpenPurchase,
    Recognise,
    ReleasePurchase,
    Request,
    Reserve,
    Reverse,
    SetOverage,
    SetStanding,
    Settle,
    StartRefund,
    VoidGrant,
    VoidHold,
)
from ledger.settle import repay_debts, settle
from ledger.state import Answered, Books, Settings


class Remaining(Struct, frozen=True):
    asset: str
    balance: Balance


class Claimed(Struct, frozen=True):
    id: str


class Closed(Struct, frozen=True):
    """The customer takes no new holds, charges or grants; what remains."""

    customer_id: str
    closed_at: datetime
    remaining: list[Remaining]


def decide(
    customers: dict[int, Books], requests: list[Request], settings: Settings, now: datetime
) -> list[Outcome]:
    """Answer each request in order and move the books of its customer forward.

    `customers` holds the locked books of every customer named. Raises NeedMore when rows are needed
    that were not loaded; the books are then half-moved: load again, with more, and start over.
    """
    return [
        decide_one(customers[request.customer_no], request, settings, now) for request in requests
    ]


def decide_one(books: Books, request: Request, settings: Settings, now: datetime) -> Outcome:
    """Answer one request on the books of its customer; what time has done comes first."""
    key = request.key
    if key is not None:
        seen = books.answered.get(key)
        if seen is not None:
            return _replay(seen, request)
    settle(books, settings, now)
    if books.is_unsettled:
        return Outcome(
            503,
            Problem(
                "busy",
                "Time has done more to this customer than one request may post. It is being "
                "posted in steps: send the same request again.",
            ),
        )
    if books.signup_due:
        grants.sign_up(books, settings, now)
    outcome = _dispatch(books, request, settings, now)
    if key is not None and outcome.is_remembered:
        books.answered[key] = Answered(request.fingerprint, outcome.status, None, outcome)
    return outcome


def _replay(seen: Answered, request: Request) -> Outcome:
    """The first answer again for the same request; another request under its key is refused."""
    if seen.fingerprint != request.fingerprint:
        return Outcome(
            422,
            Problem(
                "idempotency_key_reused",
                "This idempotency key was used for a different request of this customer. "
                "Nothing was changed: send a new key for a new request.",
            ),
        )
    first = seen.outcome
    if isinstance(first, Outcome):
        return Outcome(first.status, first.answer, is_replayed=True, first=first)
    return Outcome(seen.status, None, is_replayed=True, body=seen.body)


def _dispatch(books: Books, request: Request, settings: Settings, now: datetime) -> Outcome:
    match request:
        case Reserve():
            return holds.reserve(books, request, settings, now)
        case Consume():
            return usage.consume(books, request, settings, now)
        case Capture():
            return holds.capture(books, request, settings, now)
        case VoidHold():
            return holds.void(books, request, settings, now)
        case Extend():
            return holds.extend(books, request, settings, now)
        case ChargeEvents():
            return usage_events.charge_events(books, request, settings, now)
        case CorrectEvent():
            return usage_events.correct_event(books, request, settings, now)
        case ChargeWindows():
            return usage_events.charge_windows(books, request, settings, now)
        case Reverse():
            return usage.reverse(books, request, settings, now)
        case GrantCredit():
            return grants.grant(books, request, settings, now)
        case VoidGrant():
            return grants.void(books, request, settings, now)
        case OpenPurchase():
            return purchases.open_purchase(books, request, settings, now)
        case CreditPurchase():
            return purchases.credit(books, request, settings, now)
        case MovePurchase():
            return refunds.move_purchase(books, request, settings, now)
        case MarkPurchase():
            return purchases.mark_purchase(books, request, settings, now)
        case FreezePurchase():
            return purchases.freeze_purchase(books, request, settings, now)
        case ReleasePurchase():
            return purchases.release_purchase(books, request, settings, now)
        case StartRefund():
            return refunds.start_refund(books, request, settings, now)
        case SetOverage():
            return _set_overage(books, request, settings, now)
        case Claim():
            return Outcome(201, Claimed(books.public("clm", books.take_no())))
        case SetStanding():
            return _set_standing(books, request)
        case CloseCustomer():
            return _close(books, now)
        case Recognise():
            return recognise.recognise(books, settings, now)
        case Settle():
            if not repay_debts(books, settings, now, now):
                books.due(now)
            return Outcome(200, None)
        case _:
            raise TypeError(f"no decision for {type(request).__name__}")


def _set_overage(books: Books, request: SetOverage, settings: Settings, now: datetime) -> Outcome:
    if (refused := usage.refuse_scale(request, "credits", settings)) is not None:
        return refused
    known = books.policy, books.limit, books.has_own_overage
    if known != (request.policy, request.limit, True):
        books.policy, books.limit, books.has_own_overage = request.policy, request.limit, True
        books.redefine()
    limit = request.limit
    scale = settings.scales["credits"]
    return Outcome(
        200,
        OverageAnswer(request.policy, None if limit is None else format_amount(limit, scale)),
    )


def _set_standing(books: Books, request: SetStanding) -> Outcome:
    policy = books.policy, books.limit
    if not books.has_own_overage:
        policy = request.policy, request.limit
    wanted = request.gated_from, request.unbilled_from, request.billed_before, request.plan_until
    known = books.gated_from, books.unbilled_from, books.billed_before, books.plan_until
    if (wanted, policy) != (known, (books.policy, books.limit)):
        books.gated_from, books.unbilled_from, books.billed_before, books.plan_until = wanted
        books.policy, books.limit = policy
        books.redefine()
    return Outcome(200, None)


def _close(books: Books, now: datetime) -> Outcome:
    if books.closed_at is None:
        books.closed_at = now
        books.redefine()
    remaining = [
        Remaining(account.asset, balance_answer(account)) for account in books.accounts.values()
    ]
    return Outcome(200, Closed(books.customer_id, books.closed_at, remaining))
