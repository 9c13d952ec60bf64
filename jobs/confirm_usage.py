"""The job `confirm_usage`: compares what Stripe has counted with what it was told, hour by hour.

What agrees is confirmed. Where a piece's fate was never learned, the sum tells it. What differs for
long is in dispute: what Stripe has counted of it counts, and the rest is told again. A period is
closed once the invoice that bills it can't change any more; then what missed it is settled.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog
from asyncpg import Record

from jobs.late_usage import settle_late
from jobs.report_usage import SAME_KEY
from jobs.runner import Counts, Run
from ledger import customers
from meter.report_pieces import CONFIRM_AFTER
from meter.stripe_port import StripeFault, StripePort
from sql import queries
from sql.pool import Connection

DISPUTE_AFTER: Final = timedelta(hours=6)
"""How long a sum may differ."""
SECOND: Final = timedelta(seconds=1)
"""Stripe's times are whole seconds: what was told within that of the end may have been in time."""
LOOK_EVERY: Final = timedelta(minutes=10)
"""At an invoice that can still change."""
REJECTED_AGAIN: Final = timedelta(hours=6)
"""After it was rejected usage is told once more: a meter may have been mended meanwhile."""
REJECTED_MAX: Final = 5
"""Pieces of one window; then only a change of it is told."""
NO_INVOICE: Final = timedelta(days=4)
"""After that a period without an invoice has none: there was nothing to bill."""
CUSTOMERS_MAX: Final = 200
"""At a time."""
ROUNDS_MAX: Final = 50
HOURS_MAX: Final = 100
"""Of one customer and meter at a time."""

log = structlog.get_logger()


async def confirm_usage(run: Run) -> Counts:
    """Compare in bounded rounds, then look after periods that have ended."""
    counts = {"confirmed": 0, "disputed": 0, "found_missing": 0, "closed": 0, "waiting": 0}
    counts["late_items"] = 0
    stripe = run.service.stripe
    if stripe is None:
        return counts
    after = 0
    for _ in range(ROUNDS_MAX):
        async with run.transaction() as conn:
            now = await customers.now(conn)
            rows = await conn.fetch(
                queries.report_hours, now, CONFIRM_AFTER, SAME_KEY, CUSTOMERS_MAX, after
            )
        for row in rows:
            if run.stopping.is_set():
                return counts
            try:
                await _compare(run, stripe, row, now, counts)
            except StripeFault as fault:
                log.warning("usage_not_compared", error=str(fault), kind=fault.kind)
                counts["waiting"] += 1
                if fault.kind in {"limited", "unauthorized"}:
                    return counts
        if len(rows) < CUSTOMERS_MAX:
            break
        after = rows[-1]["customer_no"]
    async with run.transaction() as conn:
        now = await customers.now(conn)
        counts["again"] = await conn.fetchval(
            queries.report_rejected_again, now, REJECTED_AGAIN, REJECTED_MAX
        )
    await _close_all(run, stripe, counts)
    await settle_late(run, counts)
    return counts


async def _compare(
    run: Run, stripe: StripePort, row: Record, now: datetime, counts: dict[str, int]
) -> None:
    """Compare the hours of one customer and meter. Raises StripeFault."""
    whose = row["customer_no"], row["stripe_customer_id"], row["stripe_meter_id"]
    since: datetime = row["since"]
    until: datetime = min(row["until"], since + HOURS_MAX * timedelta(hours=1))
    until = min(until, now.replace(minute=0, second=0, microsecond=0))
    if since >= until:
        return
    has = await stripe.usage_sums(whose[2], whose[1], since, until)
    async with run.transaction() as conn:
        told = await conn.fetch(queries.report_told, *whose, since, until, now - SAME_KEY)
        hours = sorted({hour["hour"] for hour in told} | set(has))
        sums = [str(has.get(hour, 0)) for hour in hours]
        await conn.execute(queries.report_sums_put, *whose, hours, sums)
        for hour in told:
            if hour["is_young"]:
                continue  # its fate is being found out by telling it again
            counted = has.get(hour["hour"], Decimal(0))
            await _settle(conn, whose, hour, counted, now, counts)


async def _settle(
    conn: Connection,
    whose: tuple[int, str, str],
    hour: Record,
    counted: Decimal,
    now: datetime,
    counts: dict[str, int],
) -> None:
    """What the sum of one hour says of the pieces that were told of it."""
    sure, perhaps = hour["sure"], hour["perhaps"]
    old = now - SAME_KEY

    async def move(states: list[str], status: str, until: datetime) -> list[Record]:
        return await conn.fetch(
            queries.report_hour_settle, *whose, hour["hour"], states, status, until
        )

    if is_same(counted, sure + perhaps):
        moved = await move(["sent"], "confirmed", now)
        moved += await move(["unknown", "sending"], "confirmed", old)
        counts["confirmed"] += len(moved)
        return
    if perhaps and is_same(counted, sure):
        counts["confirmed"] += len(await move(["sent"], "confirmed", now))
        lost = await move(["unknown", "sending"], "superseded", old)
        await _again(conn, lost)
        counts["found_missing"] += len(lost)
        return
    if not perhaps and (hour["sent_at"] is None or hour["sent_at"] > now - DISPUTE_AFTER):
        counts["waiting"] += 1
        return
    log.error(
        "usage_in_dispute",
        hour=hour["hour"].isoformat(),
        told=str(sure + perhaps),
        counted=str(counted),
    )
    moved = await move(["sent"], "disputed", now)
    moved += await move(["unknown", "sending"], "disputed", old)
    gone = sum((row["value"] for row in moved if row["value"]), Decimal(0)) - perhaps
    await conn.execute(
        queries.report_window_settle,
        *(whose[0], hour["first_item"], hour["first_window"], counted - (sure - gone)),
    )
    await _again(conn, moved)
    counts["disputed"] += len(moved)


async def _again(conn: Connection, rows: list[Record]) -> None:
    """What these pieces said is measured again."""
    if rows:
        places = [(row["customer_no"], row["item_no"], row["window_at"]) for row in rows]
        await conn.execute(queries.report_mark, *zip(*places, strict=True))


def is_same(counted: Decimal, told: Decimal) -> bool:
    """Whether a sum of Stripe's, which comes as a binary fraction, is what was told. Pure."""
    return abs(counted - told) <= max(abs(told), Decimal(1)) * Decimal("1e-12")


async def _close_all(run: Run, stripe: StripePort, counts: dict[str, int]) -> None:
    """Close the periods whose invoice can't change any more."""
    for _ in range(ROUNDS_MAX):
        async with run.transaction() as conn:
            now = await customers.now(conn)
            rows = await conn.fetch(queries.report_periods_unclosed, now, CUSTOMERS_MAX)
        for row in rows:
            if run.stopping.is_set():
                return
            try:
                counts["closed"] += await _close(run, stripe, row, now)
            except StripeFault as fault:
                log.warning("invoice_not_looked_at", error=str(fault), kind=fault.kind)
                return
        if len(rows) < CUSTOMERS_MAX:
            return


async def _close(run: Run, stripe: StripePort, row: Record, now: datetime) -> int:
    ends: datetime = row["ends_at"]
    invoice = await stripe.invoice_at(row["subscription_id"], ends)
    closed_at = now if invoice is None and ends < now - NO_INVOICE else None
    if invoice is not None:
        closed_at = invoice.finalized_at and invoice.finalized_at + SECOND
    async with run.transaction() as conn:
        closed = await conn.fetch(
            queries.report_period_close,
            row["customer_no"],
            row["subscription_id"],
            ends,
            None if invoice is None else invoice.invoice_id,
            closed_at,
            now + LOOK_EVERY,
        )
        if closed_at is None or not closed:
            return 0
        places = zip(*map(tuple, closed), strict=True)
        late = await conn.fetch(queries.report_rows_billed, *places, closed_at)
        missed = [one for one in late if one["status"] == "missed_invoice"]
        if missed and run.service.config.late_usage == "write_off":
            log.error("usage_missed_its_invoice", pieces=len(missed), first=missed[0]["identifier"])
    return len(closed)
