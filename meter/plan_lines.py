"""What the lines of a paid invoice give: credits for which period, at which cost. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby, pairwise

from msgspec import Struct, structs

from ledger.amounts import half_even
from ledger.calendar import add_intervals
from ledger.requests import Rollover
from meter.plans import MONTHS, Period, Plan
from meter.stripe_port import InvoiceLine, InvoiceState, SubscriptionState


class MissingPeriod(Exception):
    """A change lies in no period that is known: it is looked at again, and never gives 0."""


class Allotment(Struct, frozen=True, kw_only=True):
    """Credits that a line pays for, in [starts, ends)."""

    line_id: str
    """Of a month of a line, with `#` and its number in the year."""
    plan: Plan
    quantity: int
    credits: int
    listed: int
    """Before discounts and tax."""
    captured: int
    tax: int
    starts: datetime
    ends: datetime
    rollover: Rollover | None = None
    """What stays of it at its end."""

    @property
    def line(self) -> str:
        """The line that it is, or a month of."""
        return self.line_id.partition("#")[0]


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
    lines that cost something: credit for unused time lowers what the others have cost. Where the
    plan gives credits month by month each month is given apart, in order. `periods`: when those
    began, by their ends, that the subscription may have left since.
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
        is_trial = _is_trial(line, subscription)
        whole = Allotment(
            line_id=line.line_id,
            plan=plan,
            quantity=max(1, line.quantity),
            credits=plan.trial_credits * line.quantity
            if is_trial
            else plan.credits_for(line.quantity),
            listed=line.amount,
            captured=shares[line.line_id][0],
            tax=shares[line.line_id][1],
            starts=line.starts,
            ends=line.ends,
            rollover=None if is_trial else _rollover(plan, max(1, line.quantity)),
        )
        found.extend([whole] if is_trial else _by_month(whole, line.starts))
    changes.sort(key=_period)
    for _, group in groupby(changes, key=_period):
        found.extend(_of_change(list(group), subscription, plans, periods, shares))
    return [one for one in found if one.credits > 0 and one.starts < one.ends]


def _rollover(plan: Plan, seats: int) -> Rollover | None:
    if plan.rollover is None:
        return None
    return Rollover(plan.rollover.max * seats, plan.rollover.expires_in)


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
) -> list[Allotment]:
    """What one change gives: nothing, if it is a downgrade or only credit for unused time."""
    new = [line for line in lines if line.amount > 0]
    if not new:
        return []
    plan = plans[new[-1].price_id or ""]
    more = sum(
        plans[line.price_id or ""].credits_for(line.quantity) * (1 if line.amount > 0 else -1)
        for line in lines
    )
    starts, ends = _period(new[-1])
    whole = Allotment(
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
    return _by_month(whole, period_start(subscription, plan.period, ends, periods))


def _by_month(whole: Allotment, period_start: datetime) -> list[Allotment]:
    """The months of an allotment, if its plan gives credits so; else itself.

    A whole period has equal months; of a change each month has its share by time. Money goes with
    the credits, and every sum is shared exactly.
    """
    plan, starts, ends = whole.plan, whole.starts, whole.ends
    if plan.credits_every is None:
        return [whole]
    months = range(1, MONTHS[plan.period])
    numbered = [(1, period_start)]
    numbered += [(no + 1, add_intervals(period_start, "month", no)) for no in months]
    cuts = [(no, max(at, starts)) for no, at in numbered if at < ends]
    spans = [(no, a, b) for (no, a), (_, b) in pairwise([*cuts, (0, ends)]) if a < b]
    by_time = [int((b - a).total_seconds()) for _, a, b in spans]
    weights = [1] * len(spans) if starts == period_start else by_time
    credits = split(whole.credits, weights)
    listed = split(whole.listed, credits)
    tax = split(whole.tax, credits)
    net = split(whole.captured - whole.tax, credits)
    return [
        structs.replace(
            whole,
            line_id=f"{whole.line_id}#{no}",
            credits=credits[place],
            listed=listed[place],
            captured=net[place] + tax[place],
            tax=tax[place],
            starts=a,
            ends=b,
        )
        for place, (no, a, b) in enumerate(spans)
    ]


def split(amount: int, weights: Sequence[int]) -> list[int]:
    """Parts in proportion to weights, rounded down as they add up: together exactly `amount`.

    Without any weight it is all the first one's.
    """
    total = sum(weights)
    if total == 0:
        return [amount, *[0] * (len(weights) - 1)]
    parts: list[int] = []
    reached = given = 0
    for weight in weights:
        reached += weight
        upto = amount * reached // total
        parts.append(upto - given)
        given = upto
    return parts


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
    costs = [max(0, line.paid) for line in invoice.lines]
    paid = split(min(invoice.amount_paid, sum(costs)), costs) if costs else []
    shares: dict[str, tuple[int, int]] = {}
    for line, cost, share in zip(invoice.lines, costs, paid, strict=True):
        tax = max(0, line.tax_added + line.tax_inside)
        shares[line.line_id] = (share, 0 if cost == 0 else half_even(tax * share, cost))
    return shares
