"""One hour of usage on its way to an invoice, in words: a line for each fact, and where it stopped.
Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from msgspec import Struct

from meter.report_pieces import value_text

HOUR: Final = timedelta(hours=1)
OPEN: Final = ("unknown", "sending", "due")


class State(Struct, frozen=True):
    """The pieces of one part that are in one state: how much they say, and why they are in it."""

    value: Decimal
    last_seq: int
    error: str | None
    not_before: datetime | None


class Part(Struct, frozen=True, kw_only=True):
    """What lies of an hour in one period of one item, and where it stands.

    `starts_at` and `ends_at` are None where its period is not known.
    """

    item_no: int
    event_name: str
    subscription_id: str
    meter: str | None
    report_unit: int | None
    is_flushed: bool
    starts_at: datetime | None
    ends_at: datetime | None
    period_end: datetime | None
    closed_at: datetime | None
    invoice_id: str | None
    measured: Decimal | None
    """In units as Stripe counts them; None: nothing was looked at."""
    is_marked: bool
    counted: Decimal | None
    seen_at: datetime | None
    states: Mapping[str, State]

    @property
    def last(self) -> str | None:
        """The state of the last piece."""
        return max(self.states, key=lambda one: self.states[one].last_seq, default=None)


class Counted(Struct, frozen=True):
    """What one meter counted in the hour. `quantity` is None where it does not add up."""

    meter: str
    events: int
    rejects: int
    reason: str | None
    quantity: Decimal | None


class Charged(Struct, frozen=True):
    """Credits that one charge took beyond the wallet, or that came back of one."""

    id: str
    kind: str
    amount: str
    effective_at: datetime


class Told(Struct, frozen=True):
    """One piece."""

    event_name: str
    identifier: str
    value: Decimal
    status: str
    at: datetime
    error: str | None


class Subscribed(Struct, frozen=True):
    """The subscription that counts: of which plan, and the names of what that bills by use."""

    subscription_id: str
    plan: str
    status: str
    names: list[str]


class Item(Struct, frozen=True):
    """Something that is or was reported, whatever the hour."""

    event_name: str
    starts_at: datetime
    ends_at: datetime | None


class WindowStory(Struct, frozen=True, kw_only=True):
    """All that is known of one hour of a customer's usage."""

    hour: datetime
    now: datetime
    grace: timedelta
    event_name: str | None
    """The only name that is asked for."""
    came: list[tuple[str, int]]
    is_cut: bool
    """There were more events than were looked at."""
    counted: list[Counted]
    charged: list[Charged]
    charges: int
    beyond: str
    """Credits of all charges beyond the wallet."""
    parts: list[Part]
    told: list[Told]
    items: list[Item]
    subscribed: Subscribed | None
    paused: list[str]


def shown(at: datetime) -> str:
    """A time of UTC as the lines have it."""
    return f"{at:%Y-%m-%d %H:%M:%S}"


# The facts


def lines_of(story: WindowStory) -> list[str]:
    """A line for each fact, in the order of what leads to what."""
    more = "at least " if story.is_cut else ""
    lines = [f"hour     {shown(story.hour)} to {story.hour + HOUR:%H:%M:%S}"]
    lines += [f"came     {more}{_events(count)} of type {type_}" for type_, count in story.came]
    for one in story.counted:
        what = "" if one.quantity is None else f"{value_text(one.quantity)}, of "
        lines.append(f"counted  meter {one.meter}: {what}{_events(one.events)}")
        if one.rejects:
            lines.append(
                f"rejected meter {one.meter}: {_events(one.rejects)}, such as: {one.reason}"
            )
    if story.charges:
        lines.append(
            f"charged  {story.beyond} credits beyond the wallet, by {story.charges}"
            f" {'journal' if story.charges == 1 else 'journals'}"
        )
    lines += [
        f"charged  {shown(one.effective_at)} {one.amount} by {one.id}, {one.kind}"
        for one in story.charged
    ]
    for part in story.parts:
        lines += _of_part(part)
    lines += [
        f"told     {one.event_name}: {value_text(one.value)} {one.status}, {shown(one.at)}"
        f" {one.identifier}" + ("" if one.error is None else f": {one.error}")
        for one in story.told
    ]
    for part in story.parts:
        lines += _of_invoice(part)
    return lines


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"


def _of_part(part: Part) -> Iterator[str]:
    what = "credits beyond the wallet" if part.meter is None else f"meter {part.meter}"
    period = "its period is not known"
    if part.period_end is not None:
        period = f"period until {shown(part.period_end)}"
    yield f"billed   as {part.event_name}: {what}, by {part.subscription_id}, {period}"
    if part.measured is not None and part.starts_at is not None:
        yield (
            f"measured {part.event_name}: {value_text(part.measured)}"
            f" from {shown(part.starts_at)} on"
        )


def _of_invoice(part: Part) -> Iterator[str]:
    if part.counted is not None and part.seen_at is not None:
        yield (
            f"summed   {part.event_name}: Stripe had {value_text(part.counted)}"
            f" of the hour at {shown(part.seen_at)}"
        )
    if part.closed_at is not None:
        yield (
            f"invoice  {part.event_name}: {part.invoice_id or 'none'},"
            f" final since {shown(part.closed_at)}"
        )


# Where it stopped


def verdict(story: WindowStory) -> str:
    """Where the usage of the hour stopped, and what to do."""
    if not story.parts:
        return _unbilled(story)
    names = [part.event_name for part in story.parts]
    ends: list[str] = []
    for part in story.parts:
        name = part.event_name
        if names.count(name) > 1 and part.starts_at is not None:
            name = f"{name} from {part.starts_at:%H:%M:%S}"
        ends.append(f"{name}: {_end(part, story)}")
    return "; ".join(ends)


def _unbilled(story: WindowStory) -> str:
    """Why nothing of the hour is billed by use."""
    sub, wanted = story.subscribed, story.event_name
    known = [one for one in story.items if wanted in (None, one.event_name)]
    if known:
        spans = ", ".join(_span(one) for one in known)
        return f"what is used in this hour is not billed by use. Reported is {spans}"
    if sub is None:
        return (
            "the customer has no subscription, so nothing is billed by use: POST /v1/checkout "
            "sells a plan"
        )
    about = f"{sub.subscription_id} of {sub.plan} ({sub.status})"
    if not sub.names:
        return (
            f"the plan of {about} has no metered and no overage item: PUT /v1/plans/{{plan}} with "
            "one makes a version that bills by use, and a change of the subscription moves to it"
        )
    names = ", ".join(sub.names)
    if wanted is not None and wanted not in sub.names:
        return f"nothing is reported as {wanted}. The plan of {about} has {names}"
    return (
        f"the plan of {about} bills {names}, but nothing is reported of it: the subscription is "
        "not in force, or has no such item at Stripe"
    )


def _span(item: Item) -> str:
    until = "" if item.ends_at is None else f" until {shown(item.ends_at)}"
    return f"{item.event_name} from {shown(item.starts_at)}{until}"


def _end(part: Part, story: WindowStory) -> str:
    """Where one part stopped: what is still to happen comes first, then what was lost."""
    for status in OPEN:
        if (state := part.states.get(status)) is not None:
            return _open(status, state, story)
    if part.ends_at is None or part.period_end is None:
        return (
            "its billing period is not known yet: news of the subscription is fetched by the jobs "
            "stripe_inbox and stripe_sweep"
        )
    if part.is_marked:
        return _to_measure(part, part.ends_at, part.period_end, story)
    last = part.last
    if last == "rejected" and part.measured:
        error = part.states[last].error
        return (
            f"Stripe does not count it ({error}): mend that there. It is told again after six "
            "hours, a few times, and with each change of its hour"
        )
    if (lost := part.states.get("unreportable")) is not None:
        return (
            f"{value_text(lost.value)} is older than the 35 days that Stripe takes, or could not "
            "be told: it is never billed by itself. Bill it by hand, or write it off"
        )
    if (late := part.states.get("next_invoice")) is not None:
        return (
            f"{value_text(late.value)} came after its invoice was final: the subscription's next "
            "invoice bills it as an item (`invoice_item_id` in GET /v1/usage-reports)"
        )
    if (lost := part.states.get("missed_invoice")) is not None:
        invoice = part.invoice_id or "the invoice of its period"
        return (
            f"{value_text(lost.value)} missed its invoice: {invoice} was final before it was told. "
            "Bill it by hand at Stripe, or write it off"
        )
    if last is None:
        return _untold(part, part.ends_at, story)
    return _settled(last, part, part.period_end, story)


def _open(status: str, state: State, story: WindowStory) -> str:
    because = "" if state.error is None else f" ({state.error})"
    again = ""
    if state.not_before is not None and state.not_before > story.now:
        again = f" from {shown(state.not_before)} on"
    if status == "sending":
        return "it is being told to Stripe just now, or a run was cut short: ask again in a minute"
    if status == "unknown":
        return (
            f"Stripe gave no answer{because}: the job report_usage tells it again{again} under the "
            "same identifier, which Stripe counts once. After 23 hours Stripe's sum decides"
            + _pause("report_usage", story)
        )
    return f"it is to be told{because}: the job report_usage does that{again}" + _pause(
        "report_usage", story
    )


def _to_measure(part: Part, ends: datetime, period_end: datetime, story: WindowStory) -> str:
    ready = ends if part.is_flushed else min(max(ends, period_end), ends + story.grace)
    if story.now < ready:
        return (
            f"it is told from {shown(ready)} on, once the hour and the grace for late events are "
            "over"
        )
    return (
        "it has changed and is not told yet: the job report_usage measures and tells it"
        + _pause("report_usage", story)
    )


def _untold(part: Part, ends: datetime, story: WindowStory) -> str:
    """Nothing is, and nothing was, to be told."""
    if part.measured and part.meter is None:
        return (
            "it is less than a report unit: it is carried, and told with a later hour or when the "
            "period ends"
        )
    used = "was used beyond the credits that is billed" if part.meter is None else "was counted"
    if story.now < ends:
        return f"nothing {used} so far, and the hour is not over"
    return f"nothing {used} in it, so there is nothing to tell"


def _settled(last: str, part: Part, period_end: datetime, story: WindowStory) -> str:
    """All that is to be told is told."""
    if "sent" in part.states:
        return (
            "Stripe has taken it: the job confirm_usage compares Stripe's own sum once five "
            "minutes and the hour are over" + _pause("confirm_usage", story)
        )
    if last == "disputed":
        return (
            "Stripe's sum differed for six hours, and what lacked was settled by it: compare it "
            "with `summed` above, and see GET /v1/reconciliation"
        )
    if "confirmed" in part.states:
        if story.now < period_end:
            return (
                "Stripe's own sum agrees: the invoice of the period that ends at "
                f"{shown(period_end)} bills it"
            )
        return (
            "Stripe's own sum agrees: its invoice can still change, and the job confirm_usage "
            "looks until it is final" + _pause("confirm_usage", story)
        )
    if "billed" in part.states:
        return f"it is billed by {part.invoice_id or 'the invoice of its period'}"
    return "it was taken back, so there is nothing to tell"


def _pause(job: str, story: WindowStory) -> str:
    """What keeps a job from running, as the end of a sentence."""
    if job not in story.paused:
        return f". `drawdown job {job}` runs it now"
    return f". That job is paused: `drawdown job {job} --resume`"


def named(parts: Sequence[Part]) -> list[str]:
    """Meters that the parts bill."""
    return [part.meter for part in parts if part.meter is not None]
