"""The job `stripe_sweep`: finds what no delivery told, also after the endpoint was down for days.

Stripe keeps its list of events for 30 days, and it is read from where it was read before. Beyond
that, every purchase that is still open is looked at by itself, and every subscription whose period
has ended without news of the next one.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from jobs.runner import Counts, Run
from ledger import customers
from meter import stripe_news
from meter.stripe_port import News, StripeFault, StripePort
from meter.subscriptions import STALE_AFTER
from sql import queries
from sql.pool import transaction

CURSOR: Final = "events"
OVERLAP: Final = timedelta(minutes=10)
"""Read again of what was read: Stripe lists an event a little after its time."""
LISTED: Final = timedelta(days=30)
AHEAD: Final = timedelta(hours=1)
"""How far Stripe's clock may be ahead of ours."""
SECOND: Final = timedelta(seconds=1)
WINDOW: Final = timedelta(hours=1)
"""Of Stripe's list at a time; longer where little happens, shorter where much does."""
NEWS_FEW: Final = 500
NEWS_MAX: Final = 5_000
"""Events at a time, but those of one second are taken whole."""
WHOLE: Final = 1_000_000
UNPAID_AGE: Final = timedelta(minutes=30)
"""How long a purchase is open before it is looked at by itself."""
UNPAID_MAX: Final = 200
"""At a time."""
ROUNDS_MAX: Final = 50
RENEWED_WITHIN: Final = (timedelta(hours=2), STALE_AFTER)
"""After the end of a period: its renewal is invoiced within an hour or so."""
UNPAID_DAYS: Final = timedelta(days=3)
"""A session lives for a day; what is open for longer was told to us in time or is no more."""

log = structlog.get_logger()


async def stripe_sweep(run: Run) -> Counts:
    """Read Stripe's list of events, then mark purchases that stay open."""
    service = run.service
    stripe, config = service.stripe, service.config.stripe
    counts = {"events": 0, "open_purchases": 0, "late_subscriptions": 0}
    if stripe is None or config is None:
        return counts
    async with transaction(service.pool) as conn:
        now = await customers.now(conn)
        at: datetime | None = await conn.fetchval(queries.stripe_cursor_read, CURSOR)
    since = max(now - LISTED, (at or now - LISTED) - OVERLAP).replace(microsecond=0)
    try:
        async for until, news in _windows(stripe, since, now + AHEAD):
            counts["events"] += await _keep(run, news, is_live=config.is_live)
            async with run.transaction() as conn:
                await conn.execute(queries.stripe_cursor_move, CURSOR, min(until, now))
            if run.stopping.is_set():
                return counts
    except StripeFault as fault:
        raise RuntimeError(f"Stripe's list of events can't be read: {fault}") from fault
    counts["open_purchases"] = await _mark_open(run, now)
    counts["late_subscriptions"] = await _mark_late(run, now)
    return counts


async def _windows(
    stripe: StripePort, since: datetime, end: datetime
) -> AsyncIterator[tuple[datetime, Sequence[News]]]:
    """The events of one span of time after the other, the oldest first: Stripe's list begins with
    the newest, so a span is read whole before what is read counts."""
    span = WINDOW
    while since < end:
        until = min(since + span, end)
        is_least = until - since <= SECOND
        news = await stripe.news(since, until, WHOLE if is_least else NEWS_MAX)
        if news is None:
            span = max(SECOND, timedelta(seconds=(until - since) // SECOND // 4))
            continue
        yield until, news
        since = until
        if len(news) < NEWS_FEW:
            span *= 2


async def _keep(run: Run, news: Sequence[News], *, is_live: bool) -> int:
    """Keep what no delivery has told. How many those were."""
    found = 0
    for one in news:
        try:
            event = stripe_news.read_event(one.body)
        except ValueError:
            log.exception("stripe_event_not_read", event_id=one.event_id)
            continue
        async with run.transaction() as conn:
            kept = await stripe_news.keep(conn, one.body, event, is_live=is_live)
        found += kept.is_new
    return found


async def _mark_late(run: Run, now: datetime) -> int:
    """Mark subscriptions that should have been renewed."""
    async with run.transaction() as conn:
        rows = await conn.fetch(queries.subscriptions_old, now, RENEWED_WITHIN, UNPAID_MAX)
        for row in rows:
            await stripe_news.mark(conn, row["subscription_id"], "subscription")
    return len(rows)


async def _mark_open(run: Run, now: datetime) -> int:
    """Mark the objects of purchases that have been open for long."""
    marked, after, object_id = 0, now - UNPAID_DAYS, ""
    for _ in range(ROUNDS_MAX):
        async with run.transaction() as conn:
            rows = await conn.fetch(
                queries.purchases_unpaid, after, object_id, UNPAID_MAX, now - UNPAID_AGE
            )
            for row in rows:
                await stripe_news.mark(conn, row["object_id"], row["kind"])
        marked += len(rows)
        if len(rows) < UNPAID_MAX:
            break
        after, object_id = rows[-1]["created_at"].astimezone(UTC), rows[-1]["object_id"]
    return marked
