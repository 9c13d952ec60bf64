"""Overage: what may be used beyond the wallet, and the 402 that says why not. Pure.

The limit counts what is used plus what open holds have uncovered under the same policy. Used is the
balance of `owed` (policy `owe`) or of `billed` since the billing period began (policy `bill`).
"""

from typing import Final

from ledger.amounts import format_amount
from ledger.answers import Problem, balance_answer
from ledger.outcome import Outcome
from ledger.requests import Policy
from ledger.state import Account, Books

UNBILLED: Final = (
    " Usage beyond them is billed only under a subscription in good standing whose plan has an "
    "overage item."
)


def policy_for(books: Books, asset: str) -> Policy:
    """The policy of the moment. It counts `credits`; every other asset has `deny`.

    `bill` acts as `deny` where no subscription passes on what it covers.
    """
    return "deny" if asset != "credits" or is_unbilled(books) else books.policy


def is_unbilled(books: Books) -> bool:
    """Whether the policy is `bill`, and nothing passes on to Stripe what it would cover."""
    ends, now = books.unbilled_from, books.settled_at
    return books.policy == "bill" and ends is not None and (now is None or now >= ends)


def billed_in_period(books: Books, account: Account) -> int:
    """What was billed since the billing period began. Undoing what was billed before is no gain."""
    return max(0, account.billed - books.billed_before)


def limit_left(books: Books, account: Account, *, used: int = 0, released: int = 0) -> int | None:
    """What the policy of the moment still allows; None: without limit.

    `used` and `released` are what this request itself is about to add to what is used and to take
    from what is held under the same policy.
    """
    policy = policy_for(books, account.asset)
    if policy == "deny":
        return 0
    if books.limit is None:
        return None
    taken = account.owed if policy == "owe" else billed_in_period(books, account)
    held = account.uncovered_owe if policy == "owe" else account.uncovered_bill
    return max(0, books.limit - taken - used - held + released)


def fits(left: int | None, amount: int) -> bool:
    return left is None or amount <= left


def hold_uncovered(account: Account, policy: Policy | None, amount: int) -> None:
    """Promise `amount` under `policy` for a hold."""
    if policy == "owe":
        account.uncovered_owe += amount
    elif policy == "bill":
        account.uncovered_bill += amount


def insufficient(
    books: Books,
    account: Account,
    *,
    required: int,
    available: int,
    left: int | None,
    reason: str | None = None,
) -> Outcome:
    """402: what would have been needed, what there was, what the limit leaves, and what to do."""
    scale = account.scale
    policy = policy_for(books, account.asset)
    shortfall = required - available - (left or 0)
    facts: dict[str, object] = {
        "required": format_amount(required, scale),
        "available": format_amount(available, scale),
        "shortfall": format_amount(max(shortfall, 0), scale),
        "balance": balance_answer(account),
    }
    if reason is None and policy != "deny":
        reason = "limit_reached"
    if reason is None and account.asset == "credits" and is_unbilled(books):
        reason = "no_subscription"
    if reason is not None:
        facts["overage_reason"] = reason
    words = (
        f"{facts['required']} {account.asset} needed, {facts['available']} available"
        + (f", and the overage limit leaves {format_amount(left or 0, scale)}" if reason else "")
        + ". Nothing was taken: grant credits, or ask for less."
        + (UNBILLED if reason == "no_subscription" else "")
    )
    return Outcome(402, Problem("insufficient_credits", words, facts))
