"""What the service needs of Stripe: the keys, and the calls, as a protocol.

The calls are made by `jobs.stripe_gateway`, which the composition puts in. Nothing here knows
Stripe's library.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

LIVE_PREFIXES: Final = ("sk_live_", "rk_live_")


class StripeConfig(Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Keys of one Stripe account in one mode. Never shown."""

    secret_key: str
    publishable_key: str | None = None
    webhook_secrets: Sequence[str] = ()
    """Any of them may have signed a delivery: so they can be rotated."""
    api_base: str | None = None
    """Where Stripe is, without a slash at the end; None: Stripe itself."""

    @property
    def is_live(self) -> bool:
        return self.secret_key.startswith(LIVE_PREFIXES)

    def __repr__(self) -> str:
        return "StripeConfig(…)"
