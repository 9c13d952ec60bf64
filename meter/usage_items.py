"""What of a customer's subscription is billed by use: the items that are reported, by period."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from ledger.calendar import add_intervals
from meter import plan_items, plans
from meter.plans import Period, Plan
from meter.problems import ProblemError
from meter.service import Service
from meter.stripe_port import SubscriptionItem, SubscriptionState
from sql import queries
from sql.pool import Connection, transaction

PERIODS_MAX: Final = 600
"""That may have passed without news of a subscription: fifty years of months."""
NOT_BILLED: Final = frozenset({"incomplete", "incomplete_expired", "canceled"})


class Wanted(Struct, frozen=True, kw_only=True):
    """Something that is to be reported under a name."""

    meter: str | None
    """None: usage beyond the wallet."""
    report_unit: int | None
    stripe_meter_id: str
    period: Period
    item: SubscriptionItem


async def follow(
    conn: Connection, customer_no: int, state: SubscriptionState, now: datetime
) -> None:
    """Report from now on what the customer's first subscription bills by use, and nothing else.

    The caller holds the customer's lock. What was used since the subscription began is looked at,
    also where we learn of it late.
    """
    wanted = {} if state.status in NOT_BILLED else await _wanted(conn, state)
    kept: set[str] = set()
    for row in await conn.fetch(queries.report_items_open, customer_no):
        name = row["event_name"]
        if row["subscription_id"] == state.subscription_id and name in wanted:
            kept.add(name)
            await _periods(conn, customer_no, row["item_no"], row["starts_at"], wanted[name], state)
            continue
        ended_at = state.ended_at if row["subscription_id"] == state.subscription_id else None
        await conn.execute(
            queries.report_item_end, customer_no, row["item_no"], min(now, ended_at or now)
        )
    for name, one in wanted.items():
        if name in kept:
            continue
        made = await conn.fetchrow(
            queries.report_item_begin,
            customer_no,
            state.subscription_id,
            one.meter,
            one.report_unit,
            name,
            one.stripe_meter_id,
            state.customer_id,
            one.item.created_at or state.started_at,
        )
        assert made is not None, "an INSERT with RETURNING has a row"
        item_no, meter_no, starts_at = made
        await _periods(conn, customer_no, item_no, starts_at, one, state)
        await conn.execute(queries.report_item_mark, customer_no, meter_no, starts_at)


async def _wanted(conn: Connection, state: SubscriptionState) -> dict[str, Wanted]:
    """What a subscription bills by use, by the names under which Stripe is told."""
    items = {item.price_id: item for item in state.metered}
    found: dict[str, Wanted] = {}
    for known in await plan_items.of_prices(conn, items):
        plan = await plans.version(conn, known.plan, known.version)
        meter, report_unit = plan.meanings()[known.event_name]
        found[known.event_name] = Wanted(
            meter=meter,
            report_unit=report_unit,
            stripe_meter_id=known.stripe_meter_id,
            period=plan.period,
            item=items[known.price_id],
        )
    return found


async def _periods(
    conn: Connection,
    customer_no: int,
    item_no: int,
    starts_at: datetime,
    wanted: Wanted,
    state: SubscriptionState,
) -> None:
    """Note the periods of an item up to the present one, also those that passed unheard of."""
    last = await conn.fetchrow(queries.report_period_last, customer_no, item_no)
    begins, ends = wanted.item.period_start, wanted.item.period_end
    price_id = wanted.item.price_id
    since = starts_at if last is None else last["ends_at"]
    if last is not None and last["starts_at"] == begins:
        since = begins
    for start, end in periods_between(state.anchor, wanted.period, since, begins):
        await conn.execute(queries.report_period_put, customer_no, item_no, start, end, price_id)
    if begins < ends and ends > starts_at:
        start = max(begins, starts_at)
        await conn.execute(queries.report_period_put, customer_no, item_no, start, ends, price_id)


def periods_between(
    anchor: datetime, period: Period, since: datetime, until: datetime
) -> Iterator[tuple[datetime, datetime]]:
    """The periods, counted from the anchor, that fill [since, until). Pure."""
    months = {"month": 1, "year": 12}[period]
    number = ((since.year - anchor.year) * 12 + since.month - anchor.month) // months
    while add_intervals(anchor, period, number) > since:
        number -= 1
    for _ in range(PERIODS_MAX):
        if since >= until:
            return
        number += 1
        end = min(until, add_intervals(anchor, period, number))
        if end > since:
            yield since, end
            since = end


async def flush(service: Service, customer_no: int) -> None:
    """Tell Stripe all that a customer has used, before its subscription ends or changes.

    Raises ProblemError 409 where that can't be done now, and nothing else has happened then.
    """
    async with transaction(service.pool) as conn:
        if not await conn.fetchval(queries.report_flush, customer_no):
            return
    assert service.jobs is not None, "the composition puts them in"
    await service.jobs.run("report_usage")
    async with transaction(service.pool) as conn:
        if not await conn.fetchval(queries.report_is_flushed, customer_no):
            raise ProblemError(
                409,
                "usage_flush_pending",
                "Stripe does not take now what this customer has used, and it would not be billed "
                "any more: send the same request again in a minute. Nothing was changed.",
            )


def bills(plan: Plan, state: SubscriptionState, items: Sequence[plan_items.UsageItem]) -> bool:
    """Whether a subscription passes on what the policy `bill` covers."""
    overage = plan.overage
    names = {one.event_name for one in items}
    return state.status not in NOT_BILLED and overage is not None and overage.event_name in names
