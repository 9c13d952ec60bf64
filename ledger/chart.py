"""The chart of accounts: which accounts a customer has, and which side grows each of them.

Every customer is a complete, balanced sub-ledger. A transfer debits one account and credits
another of the same customer and asset; amounts are positive, the sides say which way value moves.
"""

from typing import Final, Literal

Side = Literal["debit", "credit"]

CREDIT_ACCOUNTS: Final[dict[str, Side]] = {
    "wallet": "credit",  # what the customer can spend, holds included; never below zero
    "upcoming": "credit",  # granted, not yet effective
    "purchased": "debit",  # paid credits issued
    "granted": "debit",  # promotional credits issued
    "burned": "credit",  # consumed
    "expired": "credit",  # ran out of time
    "owed": "debit",  # usage beyond the wallet, or taken back when spent; later credit repays it
    "billed": "debit",  # usage beyond the wallet passed on to Stripe; never repaid by credit
}

MONEY_ACCOUNTS: Final[dict[str, Side]] = {
    "cash": "debit",
    "fees": "debit",
    "refunds": "debit",
    "disputed": "debit",
    "deferred_revenue": "credit",
    "revenue": "credit",
    "breakage_revenue": "credit",
    "tax": "credit",
    "opening": "credit",
}

Category = Literal["paid", "promotional"]
ISSUED_BY: Final[dict[str, str]] = {"paid": "purchased", "promotional": "granted"}
"""The account that says where a lot of this category came from."""

JOURNAL_KINDS: Final = (
    "grant",
    "activation",
    "charge",
    "debt_repaid",
    "hold_end",
    "expiry",
    "rollover",
    "void",
    "reversal",
    "clawback",
    "restore",
    "release",
    "dispute",
    "fee",
    "recognition",
)


def net(account: str, debits: int, credits: int) -> int:
    """The balance of `account` on its normal side."""
    side = CREDIT_ACCOUNTS.get(account) or MONEY_ACCOUNTS[account]
    return credits - debits if side == "credit" else debits - credits
