"""Faults on order: what production does only on bad days."""

import asyncio
import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from sandbox.errors import StripeError

Kind = Literal[
    "429", "409", "lock_timeout", "500_before", "500_after", "reset_before", "reset_after", "stall"
]
STALL_SECONDS: Final = 30.0
Reason = Literal[
    "global-rate",
    "endpoint-rate",
    "global-concurrency",
    "endpoint-concurrency",
    "resource-specific",
]


class Order(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The next `count` requests after `skip` others are answered by this fault."""

    kind: Kind
    path: str
    method: str = "*"
    count: Annotated[int, Meta(ge=1)] = 1
    skip: Annotated[int, Meta(ge=0)] = 0
    retry_after: Annotated[int, Meta(ge=0)] | None = None
    """Seconds, only of a 429."""
    reason: Reason = "global-rate"
    seconds: Annotated[float, Meta(gt=0)] = STALL_SECONDS
    """How long a stall lasts, if the client does not go away before."""

    def matches(self, method: str, path: str) -> bool:
        """`*` stands for anything, `{name}` for one part of the path."""
        if self.method not in ("*", method):
            return False
        pattern = re.escape(self.path.rstrip("/"))
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", pattern).replace(r"\*", ".*")
        return re.fullmatch(pattern, path.rstrip("/")) is not None


class Faults:
    """All orders, oldest first."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.cleared = asyncio.Event()
        """Set, and a new one put here, when all are cleared: what stalls goes on then."""

    def take(self, method: str, path: str) -> Order | None:
        """The fault of a request, if one is due."""
        for order in self.orders:
            if not order.matches(method, path):
                continue
            if order.skip:
                order.skip -= 1
                continue
            order.count -= 1
            if order.count == 0:
                self.orders.remove(order)
            return order
        return None

    def clear(self) -> None:
        self.orders.clear()
        self.cleared.set()
        self.cleared = asyncio.Event()


def refusal(order: Order, key: str | None) -> StripeError | None:
    """What is answered before anything is done; None for faults that come later."""
    if order.kind == "429":
        headers = {"Stripe-Rate-Limited-Reason": order.reason}
        if order.retry_after is not None:
            headers["Retry-After"] = str(order.retry_after)
        message = "Request rate limit exceeded. Learn more about rate limits here: "
        message += "https://docs.stripe.com/rate-limits."
        return StripeError(429, message, code="rate_limit", headers=headers)
    if order.kind == "lock_timeout":
        return StripeError(
            429,
            "This object cannot be accessed right now because another API request or Stripe "
            "process is currently accessing it.",
            code="lock_timeout",
        )
    if order.kind == "409":
        message = f"There is currently another in-progress request using this Idempotency Key {key}"
        return StripeError(409, message, code="idempotency_key_in_use")
    if order.kind == "500_before":
        return broken()
    return None


def broken() -> StripeError:
    """A 500 as Stripe words it."""
    message = "An unknown error occurred. If the problem persists, contact us via email."
    return StripeError(500, message, kind="api_error")
