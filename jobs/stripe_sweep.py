"""The job `stripe_sweep`: finds what no delivery told, also after the endpoint was down for days.

Stripe keeps its list of events for 30 days, and it is read from where it was read before. Beyond
that, every purchase that is still open is looked at by itself.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from jobs.runner import Counts, Run
from ledger import customers
from meter import stripe_news
from meter.stripe_port import StripeFault
from sql import queries
from sql.pool import transaction

CURSOR: Final = "events"
OVERLAP: Final = timedelta(minutes=10)
"""Read again of what was read: Stripe lists an event a little after its time."""
LISTED: Final = timedelta(days=30)
UNPAID_AGE: Final = timedelta(minutes=30)
"""How long a purchase is open before it is looked at by itself."""
UNPAID_MAX: Final = 200
"""At a time."""
ROUNDS_MAX: Final = 50
UNPAID_DAYS: Final = timedelta(days=3)
"""A session lives for a day; what is open for longer was told to us in time or is no more."""


async def stripe_sweep(run: Run) -> Counts:
    """Read Stripe's list of events, then mark purchases that stay open."""
    service = run.service
    stripe, config = service.stripe, service.config.stripe
    counts = {"events": 0, "open_purchases": 0}
    if stripe is None or config is None:
        return counts
    async with transaction(service.pool) as conn:
        now = await customers.now(conn)
        at: datetime | None = await conn.fetchval(queries.stripe_cursor_read, CURSOR)
    since = max(now - LISTED, (at or now - LISTED) - OVERLAP)
    try:
        news = await stripe.news(since)
    except StripeFault as fault:
        raise RuntimeError(f"Stripe's list of events can't be read: {fault}") from fault
    for one in news:
        async with run.transaction() as conn:
            event = stripe_news.read_event(one.body)
            kept = await stripe_news.keep(conn, one.body, event, is_live=config.is_live)
            await conn.execute(queries.stripe_cursor_move, CURSOR, one.created_at)
        counts["events"] += kept.is_new
    counts["open_purchases"] = await _mark_open(run, now)
    return counts


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
