"""What the lines of a paid invoice give: credits for which period, at which cost. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Final

from msgspec import Struct

from ledger.amounts import half_even
from ledger.calendar import add_intervals
from meter.plans import Period, Plan
from meter.stripe_port import InvoiceLine, InvoiceState, SubscriptionState

MONTHS: Final[Mapping[Period, int]] = {"month": 1, "year": 12}


class MissingPeriod(Exception):
    """A change lies in no period that is known: it is looked at again, and never gives 0."""


class Allotment(Struct, frozen=True, kw_only=True):
    """Credits that a line pays for, in [starts, ends)."""

    line_id: str
    plan: Plan
    quantity: int
    credits: int
    listed: int
    """Before discounts and tax."""
    captured: int
    tax: int
    starts: datetime
    ends: datetime


def allotments(
    invoice: InvoiceState,
    subscription: SubscriptionState,
    plans: Mapping[str, Plan],
    periods: Mapping[datetime, datetime],
) -> list[Allotment]:
    """What a paid invoice gives, in the order of its lines. Raises MissingPeriod.

    A line of a whole period gives the version's credits for each seat; one of a trial only those of
    the trial; the lines of one change together what the new price gives more than the old one in
    what was left of the period, and nothing where it gives less. What was paid is shared among all
    lines that cost something: credit for unused time lowers what the others have cost. `periods`:
    when those began, by their ends, that the subscription may have left since.
    """
    shares = _shares(invoice)
    found: list[Allotment] = []
    changes: list[InvoiceLine] = []
    for line in invoice.lines:
        plan = plans.get(line.price_id or "")
        if plan is None or line.subscription_id != subscription.subscription_id:
            continue
        if line.is_proration:
            changes.append(line)
            continue
        given = plan.credits if not _is_trial(line, subscription) else plan.trial_credits
        found.append(
            Allotment(
                line_id=line.line_id,
                plan=plan,
                quantity=max(1, line.quantity),
                credits=given * line.quantity,
                listed=line.amount,
                captured=shares[line.line_id][0],
                tax=shares[line.line_id][1],
                starts=line.starts,
                ends=line.ends,
            )
        )
    changes.sort(key=_period)
    for _, group in groupby(changes, key=_period):
        change = _of_change(list(group), subscription, plans, periods, shares)
        if change is not None:
            found.append(change)
    return [one for one in found if one.credits > 0 and one.starts < one.ends]


def _period(line: InvoiceLine) -> tuple[datetime, datetime]:
    return line.starts, line.ends


def _is_trial(line: InvoiceLine, subscription: SubscriptionState) -> bool:
    """Whether a line stands for a trial: it costs nothing, and begins in one."""
    start, end = subscription.trial_start, subscription.trial_end
    if line.amount != 0 or start is None or end is None:
        return False
    return line.starts == start or start <= line.starts < end


def _of_change(
    lines: Sequence[InvoiceLine],
    subscription: SubscriptionState,
    plans: Mapping[str, Plan],
    periods: Mapping[datetime, datetime],
    shares: Mapping[str, tuple[int, int]],
) -> Allotment | None:
    """What one change gives; None: nothing, it is a downgrade or only credit for unused time."""
    new = [line for line in lines if line.amount > 0]
    if not new:
        return None
    plan = plans[new[-1].price_id or ""]
    more = sum(
        plans[line.price_id or ""].credits_for(line.quantity) * (1 if line.amount > 0 else -1)
        for line in lines
    )
    starts, ends = _period(new[-1])
    return Allotment(
        line_id=new[-1].line_id,
        plan=plan,
        quantity=max(1, new[-1].quantity),
        credits=part_of(more, plan.period, subscription, starts, ends, periods),
        listed=sum(line.amount for line in lines),
        captured=sum(shares[line.line_id][0] for line in new),
        tax=sum(shares[line.line_id][1] for line in new),
        starts=starts,
        ends=ends,
    )


def part_of(
    credits: int,
    period: Period,
    subscription: SubscriptionState,
    at: datetime,
    ends: datetime,
    periods: Mapping[datetime, datetime] | None = None,
) -> int:
    """Of the credits of a whole period those of what is left of it at `at`; never below 0.

    Raises MissingPeriod.
    """
    starts = period_start(subscription, period, ends, periods or {})
    left, whole = ends - at, ends - starts
    if not 0 < left.total_seconds() <= whole.total_seconds():
        raise MissingPeriod(f"{at.isoformat()} is not in the period that ends {ends.isoformat()}")
    return max(
        0, half_even(max(0, credits) * int(left.total_seconds()), int(whole.total_seconds()))
    )


def period_start(
    subscription: SubscriptionState,
    period: Period,
    ends: datetime,
    periods: Mapping[datetime, datetime],
) -> datetime:
    """When the period began that ends then: by the items, by what was paid, else by the anchor."""
    for item in subscription.items:
        if item.period_end == ends:
            return item.period_start
    if ends in periods:
        return periods[ends]
    anchor, months = subscription.anchor, MONTHS[period]
    about = ((ends.year - anchor.year) * 12 + ends.month - anchor.month) // months
    for number in (about - 1, about, about + 1):
        if add_intervals(anchor, period, number) == ends:
            return add_intervals(anchor, period, number - 1)
    raise MissingPeriod(f"no period of {subscription.subscription_id} ends {ends.isoformat()}")


def _shares(invoice: InvoiceState) -> dict[str, tuple[int, int]]:
    """What was paid for each line, and the tax in it: what was paid in all, in proportion."""
    costs = {line.line_id: max(0, line.paid) for line in invoice.lines}
    total, paid = sum(costs.values()), min(invoice.amount_paid, sum(costs.values()))
    shares: dict[str, tuple[int, int]] = {}
    reached = given = 0
    for line in invoice.lines:
        cost = costs[line.line_id]
        reached += cost
        upto = 0 if total == 0 else paid * reached // total
        share, given = upto - given, upto
        tax = line.tax_added + line.tax_inside
        shares[line.line_id] = (share, 0 if cost <= 0 else half_even(max(0, tax) * share, cost))
    return shares
