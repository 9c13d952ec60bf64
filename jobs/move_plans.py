"""The job `move_plans`: subscribers follow a new version of their plan when their period ends.

Only where the version says so (`apply_to: next_period`). What is asked of Stripe is a schedule, as
for a change that a customer asks for: until the period ends nothing is different, and whoever
changes, cancels or takes it back meanwhile is asked again in the next period at the earliest.
"""

from datetime import timedelta
from typing import Final

import structlog

from jobs.runner import Counts, Run
from meter import plans, stripe_calls, sub_actions, subscriptions
from meter.stripe_calls import StripeCall
from meter.stripe_port import StripeFault
from meter.sub_actions import Doing, Wanted
from sql import queries
from sql.pool import transaction

TOGETHER_MAX: Final = 20
ROUNDS_MAX: Final = 100
WAIT_FIRST: Final = timedelta(minutes=1)
WAIT_MAX: Final = timedelta(hours=6)

log = structlog.get_logger()


async def move_plans(run: Run) -> Counts:
    """Schedule the moves that are not scheduled yet, in bounded rounds."""
    counts = {"moved": 0, "failed": 0, "parked": 0}
    for _ in range(ROUNDS_MAX if run.service.stripe is not None else 0):
        async with run.transaction() as conn:
            rows = await conn.fetch(queries.subscriptions_behind, TOGETHER_MAX, None)
        before = counts["moved"]
        for row in rows:
            if run.stopping.is_set():
                return counts
            name = row["name"]
            doing = Doing(
                service=run.service, customer_no=row["customer_no"], name=name, is_replayed=False
            )
            try:
                if await _move(doing, row["subscription_id"], row["version"]):
                    counts["moved"] += 1
            except StripeFault as fault:
                log.warning("plan_move_failed", call=name, error=str(fault), kind=fault.kind)
                counts["parked" if fault.is_final else "failed"] += 1
                async with run.transaction() as conn:
                    for what in ("schedule", "phases"):
                        await conn.execute(
                            queries.stripe_call_failed,
                            *(f"{name}-{what}", str(fault)[:500]),
                            *(WAIT_FIRST, WAIT_MAX, fault.is_final),
                        )
        if len(rows) < TOGETHER_MAX or counts["moved"] == before:
            break
    return counts


async def _move(doing: Doing, subscription_id: str, version: int) -> bool:
    """Schedule one move; False where it is not to be made any more. Raises StripeFault."""
    service = doing.service
    async with transaction(service.pool) as conn:
        rows = await conn.fetch(queries.subscriptions_behind, 1, subscription_id)
        if [row["name"] for row in rows] != [doing.name]:
            return False  # its customer was faster
        found = await subscriptions.of(conn, doing.customer_no)
        one = next(one for one in found if one.subscription_id == subscription_id)
        target = await plans.version(conn, one.plan.plan, version)
        # Before anything is asked of Stripe: a fault has to be kept somewhere.
        of = {"id": subscription_id, "subscription": subscription_id}
        schedule = StripeCall(
            name=f"{doing.name}-schedule",
            kind="action",
            customer_no=doing.customer_no,
            params={"do": "schedule", "with": {}, **of},
        )
        await stripe_calls.note(conn, schedule)
    scale = service.settings().scales[target.currency]
    wanted = Wanted(
        plan=target,
        price_id=await plans.price_at_stripe(service, target),
        item_prices=tuple(await plans.item_prices_at_stripe(service, target, scale)),
        quantity=one.quantity,
        when="period_end",
        proration="none",
        proration_date=None,
    )
    await sub_actions.change_later(doing, one, wanted)
    return True
