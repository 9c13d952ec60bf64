"""Stripe's test payment methods, and what happens to whoever pays with them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sandbox.shapes import Obj

MESSAGES: Final[Mapping[str, str]] = {
    "card_declined": "Your card was declined.",
    "expired_card": "Your card has expired.",
    "incorrect_cvc": "Your card's security code is incorrect.",
    "processing_error": "An error occurred while processing your card. Try again in a little bit.",
    "authentication_required": "Your card was declined. This transaction requires authentication.",
    "payment_intent_authentication_failure": "We are unable to authenticate your payment method. "
    "Please choose a different payment method and try again.",
    "setup_intent_authentication_failure": "We are unable to authenticate your payment method. "
    "Please choose a different payment method and try again.",
    "payment_intent_payment_attempt_failed": "The payment attempt failed.",
}


@dataclass(frozen=True)
class Means:
    """One test payment method."""

    number: str
    brand: str = "visa"
    kind: Literal["card", "us_bank_account"] = "card"
    decline: tuple[str, str | None] | None = None
    """Code and decline code of every charge."""
    refuses_attach: bool = True
    """Whether a declining card already declines when it is saved."""
    authentication: Literal["never", "unless_set_up", "always"] = "never"
    afterwards: Literal["", "dispute", "dispute_product", "inquiry", "fraud_warning"] = ""
    """What a successful charge leads to."""
    refund: Literal["succeeds", "fails", "waits"] = "succeeds"
    settles: Literal["succeeded", "failed"] = "succeeded"
    """How a delayed payment ends."""

    @property
    def fingerprint(self) -> str:
        """The same for the same number."""
        return hashlib.blake2b(self.number.encode(), digest_size=8).hexdigest()

    @property
    def is_delayed(self) -> bool:
        return self.kind != "card"

    def details(self, *, exp_year: int) -> Obj:
        """The `card` or `us_bank_account` member of a payment method."""
        if self.kind == "us_bank_account":
            return {
                "account_holder_type": "individual",
                "account_type": "checking",
                "bank_name": "STRIPE TEST BANK",
                "financial_connections_account": None,
                "fingerprint": self.fingerprint,
                "last4": self.number[-4:],
                "networks": {"preferred": "ach", "supported": ["ach"]},
                "routing_number": "110000000",
                "status_details": None,
            }
        return {
            "brand": self.brand,
            "checks": {
                "address_line1_check": None,
                "address_postal_code_check": None,
                "cvc_check": "pass",
            },
            "country": "US",
            "display_brand": self.brand,
            "exp_month": 12,
            "exp_year": exp_year,
            "fingerprint": self.fingerprint,
            "funding": "credit",
            "generated_from": None,
            "last4": self.number[-4:],
            "networks": {"available": [self.brand], "preferred": None},
            "regulated_status": "unregulated",
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        }


_DECLINES: Final[Mapping[str, tuple[str, str, str | None]]] = {
    "chargeDeclined": ("4000000000000002", "card_declined", "generic_decline"),
    "chargeDeclinedInsufficientFunds": (
        "4000000000009995",
        "card_declined",
        "insufficient_funds",
    ),
    "chargeDeclinedLostCard": ("4000000000009987", "card_declined", "lost_card"),
    "chargeDeclinedStolenCard": ("4000000000009979", "card_declined", "stolen_card"),
    "chargeDeclinedExpiredCard": ("4000000000000069", "expired_card", None),
    "chargeDeclinedIncorrectCvc": ("4000000000000127", "incorrect_cvc", None),
    "chargeDeclinedProcessingError": ("4000000000000119", "processing_error", None),
}

MEANS: Final[Mapping[str, Means]] = {
    "pm_card_visa": Means("4242424242424242"),
    "pm_card_visa_debit": Means("4000056655665556"),
    "pm_card_mastercard": Means("5555555555554444", "mastercard"),
    "pm_card_amex": Means("378282246310005", "amex"),
    "pm_card_discover": Means("6011111111111117", "discover"),
    **{
        f"pm_card_{prefix}{name}": Means(number, decline=(code, decline_code))
        for name, (number, code, decline_code) in _DECLINES.items()
        for prefix in ("", "visa_")
    },
    "pm_card_chargeCustomerFail": Means(
        "4000000000000341", decline=("card_declined", "generic_decline"), refuses_attach=False
    ),
    "pm_card_radarBlock": Means(
        "4100000000000019", decline=("card_declined", "fraudulent"), refuses_attach=False
    ),
    "pm_card_authenticationRequired": Means("4000002500003155", authentication="unless_set_up"),
    "pm_card_authenticationRequiredOnSetup": Means(
        "4000002500003155", authentication="unless_set_up"
    ),
    "pm_card_authenticationRequiredAlways": Means("4000002760003184", authentication="always"),
    "pm_card_threeDSecure2Required": Means("4000000000003220", authentication="always"),
    "pm_card_threeDSecureRequired": Means("4000000000003063", authentication="always"),
    "pm_card_createDispute": Means("4000000000000259", afterwards="dispute"),
    "pm_card_createDisputeProductNotReceived": Means(
        "4000000000002685", afterwards="dispute_product"
    ),
    "pm_card_createDisputeInquiry": Means("4000000000001976", afterwards="inquiry"),
    "pm_card_createIssuerFraudRecord": Means("4000000000005423", afterwards="fraud_warning"),
    "pm_card_refundFail": Means("4000000000005126", refund="fails"),
    "pm_card_pendingRefund": Means("4000000000007726", refund="waits"),
    "pm_usBankAccount_success": Means("000123456789", kind="us_bank_account"),
    "pm_usBankAccount_insufficientFunds": Means(
        "000222222227", kind="us_bank_account", settles="failed"
    ),
}

BY_NUMBER: Final[Mapping[str, str]] = {
    means.number: name
    for name, means in reversed(MEANS.items())
    if means.kind == "card" and "_visa_charge" not in name
}
"""Card numbers of the hosted page to the name of their method."""
