"""Stripe's deliveries. Verified on the bytes as they came, kept, and answered.

One of the two places that know Stripe's library: its check of signatures is used.
"""

from typing import Any, Final

import stripe
import structlog
from msgspec import Struct

from ledger import customers
from meter import stripe_news
from meter.http.customers import answer
from meter.problems import ProblemError
from meter.route import Call, Reply, Route
from meter.stripe_port import StripeConfig
from sql.pool import transaction

AGE_MAX: Final = 300
"""Seconds between signing and now, both ways: the library accepts any time to come."""

log = structlog.get_logger()

_checker: Any = stripe.WebhookSignature  # its tolerance has no type


class Received(Struct, frozen=True):
    """Stripe reads the status only."""

    received: bool
    outcome: str


async def receive(call: Call) -> Reply:
    """Keep one delivery: 200 as soon as it is kept, whatever it is about. It is applied by a job.

    The signature is that of the raw bytes, by any of `STRIPE_WEBHOOK_SECRET`. Deliveries of another
    mode are kept and ignored.
    """
    config = call.service.config.stripe
    if config is None:
        raise ProblemError(404, "not_found", "No key of Stripe is set: nothing is received.")
    signed_at = _signed_at(call.raw, call.headers.get(b"stripe-signature", b""), config)
    try:
        event = stripe_news.read_event(call.raw)
    except ValueError:
        raise ProblemError(400, "malformed", "This is signed, and no event.") from None

    async def write() -> stripe_news.Kept:
        async with transaction(call.service.pool) as conn:
            age = (await customers.now(conn)).timestamp() - signed_at
            if abs(age) > AGE_MAX:
                raise _refusal()
            # Sent again, by a person too: what was parked is tried once more.
            return await stripe_news.keep(
                conn, call.raw, event, is_live=config.is_live, marks_again=True
            )

    kept = await call.service.retried(write)
    call.service.metrics.stripe.delivered(kept.outcome if kept.is_new else "known")
    if kept.outcome == "other_mode":
        log.warning("stripe_event_of_other_mode", event_id=event.id, live=event.livemode)
    return answer(200, Received(True, kept.outcome))


def _signed_at(body: bytes, header: bytes, config: StripeConfig) -> int:
    """When these bytes were signed by one of the secrets. Raises ProblemError 400 if by none."""
    try:
        text, signature = body.decode(), header.decode("ascii")
        parts = signature.split(",")
        signed_at = int(next(part[2:] for part in parts if part.startswith("t=")))
    except (UnicodeDecodeError, ValueError, StopIteration):
        raise _refusal() from None
    for secret in config.webhook_secrets:
        try:
            # The age is ours to check: by the service's clock, and both ways.
            _checker.verify_header(text, signature, secret, None)
        except stripe.SignatureVerificationError:
            continue
        return signed_at
    raise _refusal()


def _refusal() -> ProblemError:
    return ProblemError(
        400,
        "invalid_signature",
        "This is not signed by Stripe with our secret, or was signed too long ago. Check "
        "STRIPE_WEBHOOK_SECRET and the clock.",
    )


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/stripe/webhook",
        operation="stripe_webhook",
        summary="Stripe's deliveries.",
        scope=None,
        handler=receive,
        tag="Money in",
        body=stripe_news.Event,
        reads_body=True,
        answers={200: Received},
        errors=("invalid_signature", "not_found", "malformed"),
    ),
)
