"""Automatic top-up: what a customer has set, what it would buy now, and what stands in the way."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

from msgspec import Struct

from ledger.amounts import AMOUNT_MAX
from meter.checkout import CENTS_MAX, QUANTITY_MAX
from meter.packs import Pack
from sql import queries
from sql.pool import Connection

Trouble = Literal["declined", "authentication", "no_card"]
Wait = Literal["cap", "currency", "pack", "closed"]
"""Why nothing can be bought for a while, though credit is low."""
State = Literal["off", "ready", "in_flight", "backoff", "suspended", "needs_authentication"]
BACKOFF: Final[Sequence[timedelta]] = (timedelta(hours=1), timedelta(hours=24))
"""After the first decline and the second; the third suspends until another card is there."""
AUTHENTICATION: Final = "authentication_required"
"""The bank asks the customer something, who is not there."""


class TopUp(Struct, frozen=True, kw_only=True):
    """Amounts in the smallest unit of the asset, or of the currency."""

    customer_no: int
    is_enabled: bool
    asset: str
    threshold: int
    target: int | None
    pack: str
    count_day: int | None
    amount_month: int | None
    currency: str | None = None
    """Of `amount_month`."""
    declines: int = 0
    not_before: datetime | None = None
    trouble: Trouble | None = None
    bad_card: str | None = None
    error: str | None = None
    updated_at: datetime | None = None
    look_at: datetime | None = None
    waits_for: Wait | None = None
    purchase_no: int | None = None
    """Of the attempt that is open."""

    def state(self, now: datetime) -> State:
        """What it is about now."""
        if self.purchase_no is not None:
            return "in_flight"
        if not self.is_enabled:
            return "off"
        if self.trouble == "authentication":
            return "needs_authentication"
        if self.trouble is not None:
            return "suspended"
        return "backoff" if self.not_before is not None and now < self.not_before else "ready"

    def waits(self, now: datetime) -> Wait | None:
        """What keeps it from buying, though nothing is wrong; None: nothing does."""
        is_over = self.look_at is None or self.look_at <= now
        return None if is_over or self.state(now) != "ready" else self.waits_for


class Used(Struct, frozen=True):
    """Of the caps: attempts of the day, money of the month."""

    count_day: int
    amount_month: int


async def read(conn: Connection, customer_no: int) -> TopUp | None:
    """A customer's settings; None: it has none."""
    row = await conn.fetchrow(queries.top_up_read, customer_no)
    return None if row is None else TopUp(**dict(row))


async def put(conn: Connection, wanted: TopUp) -> None:
    """Keep a customer's settings."""
    await conn.execute(
        queries.top_up_put,
        wanted.customer_no,
        wanted.is_enabled,
        wanted.asset,
        wanted.threshold,
        wanted.target,
        wanted.pack,
        wanted.count_day,
        wanted.amount_month,
        wanted.currency,
    )


def packs_to_buy(wanted: TopUp, pack: Pack, price: int, has: int, used: Used) -> int:
    """How many packs one charge buys; 0: the caps allow none. `has` is what is left, negative if
    more is owed.

    Whole packs, the fewest that reach the target, within the caps and what Stripe takes at once.
    Pure.
    """
    if wanted.count_day is not None and used.count_day >= wanted.count_day:
        return 0
    target = wanted.threshold if wanted.target is None else wanted.target
    wished = max(1, -(-(target - has) // pack.credits))
    most = min(QUANTITY_MAX, CENTS_MAX // price, AMOUNT_MAX // max(pack.credits, pack.bonus))
    if wanted.amount_month is not None:
        most = min(most, (wanted.amount_month - used.amount_month) // price)
    return max(0, min(wished, most))
