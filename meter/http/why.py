"""Why something is, or is not, in the books or billed: the way from a purchase, an event or an hour
of usage, and its end.
"""

from typing import Final

import msgspec
from msgspec import Struct

from ledger import purchase_reads
from ledger.amounts import format_amount
from ledger.ids import public_id
from ledger.load_purchases import PurchaseRef
from meter import usage_story, usage_verdict
from meter.http import readers
from meter.http.customers import answer
from meter.http.purchases import PurchaseShown
from meter.http.reads import guarded, moment
from meter.problems import ProblemError
from meter.purchase_story import story_of
from meter.route import Call, Query, Reply, Route
from sql import queries
from sql.pool import transaction


class WhyAnswer(Struct, frozen=True):
    """A line for each fact, in the order of what leads to what; and where it ended."""

    steps: list[str]
    verdict: str


@guarded
async def get_why(call: Call) -> Reply:
    """Walk from a purchase, or from a usage event, to the books, and say where it stopped; or from
    an hour of usage to the pieces that Stripe is told, and their invoice.

    Asked for none of them, from the customer's latest purchase.
    """
    number = await call.service.customer_no(call, call.ids[0])
    purchase, event, window = (call.query.get(name) for name in ("purchase", "event", "window"))
    if len([one for one in (purchase, event, window) if one is not None]) > 1:
        raise ProblemError(
            422, "invalid_query", "Ask for a purchase, for an event, or for a window."
        )
    if "event_name" in call.query and window is None:
        raise ProblemError(422, "invalid_query", "event_name goes with a window.")
    if window is not None:
        return answer(200, await _of_window(call, number))
    if event is not None:
        source = call.query.get("source")
        if source is None:
            raise ProblemError(422, "invalid_query", "An event is known by its id and its source.")
        return answer(200, await _of_event(call, number, source, event))
    if purchase is None:
        async with transaction(call.service.pool, snapshot=True) as conn:
            rows = await conn.fetch(queries.purchases_list, number, None, None, None, None, 1)
        if not rows:
            return answer(200, WhyAnswer([], "nothing was ever ordered: POST /v1/checkout sells"))
        purchase = public_id("pur", number, rows[0]["purchase_no"])
    return answer(200, await _of_purchase(call, number, purchase))


async def _of_purchase(call: Call, number: int, name: str) -> WhyAnswer:
    owner = PurchaseRef(*readers.owned(call, "pur", name, "purchase_not_found"))
    missing = ProblemError(404, "purchase_not_found", "The customer has no such purchase.")
    if owner.customer_no != number:
        raise missing
    async with transaction(call.service.pool, snapshot=True) as conn:
        found = await purchase_reads.purchases(conn, [owner], call.service.settings())
        if not found:
            raise missing
        story = await story_of(conn, owner)
    shown = PurchaseShown(**msgspec.structs.asdict(found[0]), story=story)
    return WhyAnswer(lines_of(shown), verdict(shown))


def lines_of(shown: PurchaseShown) -> list[str]:
    """The story of a purchase, a line for each fact, in the order of what leads to what."""
    story = shown.story
    price = f"{shown.amount} {shown.currency}"
    lines = [
        f"{shown.id} of {shown.customer_id}: {shown.product} x {shown.quantity}, {price},"
        f" {shown.status}",
    ]
    for call in story.calls:
        told = f": {call.error}" if call.error else ""
        lines.append(f"asked    {call.kind:<9}{call.status:<9}{call.object_id or ''}{told}")
    lines += [f"told     {one.created_at:%Y-%m-%d %H:%M:%S} {one.type}" for one in story.news]
    for one in story.objects:
        told = f": {one.error}" if one.error else ""
        lines.append(f"fetched  {one.kind:<9}{one.status:<9}{one.object_id}{told}")
    lines += [
        f"booked   {one.created_at:%Y-%m-%d %H:%M:%S} {one.kind} {one.id}" for one in story.journals
    ]
    return lines


def verdict(shown: PurchaseShown) -> str:
    """Where a purchase stopped, in words."""
    story = shown.story
    if shown.status == "parked":
        return "another amount or currency was paid than was asked for: a person decides"
    if parked := [one for one in story.objects if one.status == "parked"]:
        return f"news of {parked[0].object_id} can't be applied: {parked[0].error}"
    if waiting := [one for one in story.objects if one.status == "waiting"]:
        return f"news of {waiting[0].object_id} is not applied yet: the job stripe_inbox does that"
    if shown.status == "credited":
        return "it was paid and credited; what came back of it is above"
    if shown.status == "failed":
        return "it was not paid: expired, canceled or declined"
    if not any(call.status == "done" for call in story.calls):
        return "nothing is there to pay yet: Stripe was not reached, or nobody asked again"
    if not story.news:
        return "nobody has paid, or no delivery arrives: `drawdown job stripe_sweep` looks for both"
    return "it is not paid yet"


async def _of_event(call: Call, number: int, source: str, event: str) -> WhyAnswer:
    scales = call.service.settings().scales
    async with transaction(call.service.pool, snapshot=True) as conn:
        guard = await conn.fetchrow(queries.event_guard_read, number, source, event)
        if guard is None:
            raise ProblemError(
                404,
                "event_not_found",
                "No such event of this customer came in the last 35 days: send it.",
            )
        meters = await conn.fetch(queries.event_meters_read, number, source, event, guard["time"])
        lines = await conn.fetch(queries.event_lines_read, number, source, event, None, None)
    steps = [f"came     {guard['received_at']:%Y-%m-%d %H:%M:%S}, of {guard['time'].isoformat()}"]
    for row in meters:
        because = "" if row["reason"] is None else f": {row['reason']}"
        steps.append(f"{row['what']:<9}meter {row['meter']}{because}")
    for row in lines:
        amount = format_amount(row["amount"], scales[row["asset"]])
        steps.append(
            f"charged  meter {row['meter']}: {amount} {row['asset']} by"
            f" {row['rate_card']}@{row['rate_version']}, {public_id('chg', number, row['seq'])}"
        )
    if waiting := [row for row in meters if row["what"] == "waiting"]:
        reason = waiting[0]["reason"]
        end = "the job rate_usage charges it" if reason is None else f"it has no price: {reason}"
        return WhyAnswer(steps, f"it waits to be charged by {waiting[0]['meter']}: {end}")
    if lines:
        return WhyAnswer(steps, "it is charged")
    if meters:
        return WhyAnswer(steps, f"{meters[0]['meter']} could not read it: {meters[0]['reason']}")
    return WhyAnswer(steps, "no meter charges for it by itself: GET /v1/meters says what does")


async def _of_window(call: Call, number: int) -> WhyAnswer:
    hour, service = moment(call, "window"), call.service
    assert hour is not None, "it is asked for"
    async with transaction(service.pool, snapshot=True) as conn:
        story = await usage_story.read(
            conn,
            number,
            hour,
            call.query.get("event_name"),
            scale=service.settings().scales["credits"],
            grace=service.config.late_grace,
        )
    return WhyAnswer(usage_verdict.lines_of(story), usage_verdict.verdict(story))


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/customers/{customer_id}/why",
        operation="get_why",
        summary="Where a purchase, a usage event or an hour of usage stopped on its way.",
        scope="billing:read",
        handler=get_why,
        tag="Money in",
        answers={200: WhyAnswer},
        errors=("customer_not_found", "purchase_not_found", "event_not_found", "invalid_timestamp"),
        query=(
            Query("purchase", "Id of a purchase."),
            Query("event", "Id of an event; with `source`."),
            Query("source", "Source of the event."),
            Query(
                "window",
                "Start of a full hour of UTC: its usage, what Stripe was told, and the invoice.",
                {"type": "string", "format": "date-time"},
            ),
            Query(
                "event_name",
                "With `window`: only what is billed under this name, that of a metered item or of "
                "the overage item.",
            ),
        ),
    ),
)
