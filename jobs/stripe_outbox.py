"""The job `stripe_outbox`: sends what nobody waits for: refunds, and items of late usage.

A call that Stripe refuses for good is parked, and what was frozen for it is free again; what an
item was to bill is listed. Any other fault is tried again, later and later.
"""

from datetime import timedelta
from typing import Final

import structlog

from jobs.runner import Counts, Run, together
from ledger.requests import ReleasePurchase
from meter import stripe_calls, stripe_news
from meter.service import Service
from meter.stripe_port import Made, StripeFault
from sql import queries
from sql.pool import Connection, transaction

TOGETHER_MAX: Final = 8
ROUNDS_MAX: Final = 100
WAIT_FIRST: Final = timedelta(seconds=10)
WAIT_MAX: Final = timedelta(hours=1)

log = structlog.get_logger()


async def stripe_outbox(run: Run) -> Counts:
    """Send in bounded rounds until nothing waits that can be sent now."""
    counts = {"sent": 0, "failed": 0, "parked": 0}
    for _ in range(ROUNDS_MAX if run.service.stripe is not None else 0):
        if run.stopping.is_set():
            break
        async with run.transaction() as conn:
            names = [row[0] for row in await conn.fetch(queries.stripe_calls_queued, TOGETHER_MAX)]
        if not names:
            break
        for fate in await together(_send(run.service, name) for name in names):
            counts[fate] += 1
    async with run.transaction() as conn:
        run.service.metrics.stripe.outbox_age(await conn.fetchval(queries.stripe_outbox_age))
    return counts


async def _send(service: Service, name: str) -> str:
    async def then(conn: Connection, _: Made) -> None:
        """The fate of a refund is news of the payment."""
        intent = await conn.fetchval(queries.stripe_call_intent, name)
        if intent is not None:
            await stripe_news.mark(conn, intent, "intent")

    try:
        await stripe_calls.send(service, name, then)
    except StripeFault as fault:
        await _failed(service, name, fault)
        return "parked" if fault.is_final else "failed"
    return "sent"


async def _failed(service: Service, name: str, fault: StripeFault) -> None:
    log.warning(
        "stripe_call_failed", call=name, error=str(fault), kind=fault.kind, request=fault.request_id
    )

    async def write() -> None:
        async with transaction(service.pool) as conn:
            row = await conn.fetchrow(
                queries.stripe_call_failed,
                name,
                str(fault)[:500],
                WAIT_FIRST,
                WAIT_MAX,
                fault.is_final,
            )
            if row is None or not fault.is_final:
                return
            if row["purchase_no"] is None:
                words = str(fault)[:500]
                await conn.fetch(queries.late_usage_refused, row["customer_no"], name, words)
                log.error("late_usage_refused", call=name, error=words)
            else:
                # What it says now, such as of a dispute, may freeze what is free from here on.
                await stripe_news.mark(
                    conn, await conn.fetchval(queries.stripe_call_intent, name), "intent"
                )
                await service.decide_in(
                    conn,
                    ReleasePurchase(
                        customer_no=row["customer_no"],
                        purchase_no=row["purchase_no"],
                        operation="release_purchase",
                        reference=name,
                    ),
                )

    await service.retried(write)
