"""`drawdown stripe` and `drawdown why`: what came from Stripe, looked at and applied again."""

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import click
import msgspec

from drawdown.commands.options import data_option, run
from drawdown.database import StartError, books
from drawdown.settings import Settings, load
from ledger import customers, purchase_reads
from ledger.ids import parse_id
from ledger.load_purchases import PurchaseRef
from ledger.purchases import PurchaseAnswer
from ledger.state import Settings as BookSettings
from meter import parse, stripe_news, usage_story, usage_verdict
from meter.http.purchases import PurchaseShown
from meter.http.why import WhyAnswer, lines_of, verdict
from meter.problems import ProblemError
from meter.purchase_story import story_of
from sql import queries

_data = data_option("The data folder of an embedded database, running or not.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")


@click.group(epilog="Example: drawdown stripe replay evt_1SQ9nK2eZvKYlo2C")
def stripe() -> None:
    """Money in: apply a delivery of Stripe again."""


@stripe.command(epilog="Example: drawdown stripe replay evt_1SQ9nK2eZvKYlo2C")
@click.argument("event")
@_data
def replay(event: str, data: Path | None) -> None:
    """Mark what the delivery EVENT is about, also if it is parked: the jobs fetch and apply it.

    Safe at any time: what is applied already changes nothing.
    """
    click.echo(run(_replay(load(os.environ), data, event)))


async def _replay(settings: Settings, data: Path | None, event_id: str) -> str:
    async with books(settings, data) as conn:
        row = await conn.fetchrow(queries.stripe_event_read, event_id)
        if row is None:
            raise StartError(f"no delivery {event_id} was kept: see `drawdown job stripe_sweep`")
        target = stripe_news.target_of(stripe_news.read_event(row["body"]))
        if target is None or row["outcome"] == "other_mode":
            return f"{event_id} ({row['type']}) concerns nothing that is booked"
        await stripe_news.mark(conn, *target)
        return f"{event_id} ({row['type']}): {target[0]} is fetched and applied by the next run"


@click.command(epilog="Example: drawdown why acme --window 2030-01-31T12:00:00Z")
@click.argument("whose", metavar="PURCHASE|CUSTOMER")
@click.option("--window", metavar="TIME", help="Usage of CUSTOMER in the hour of UTC from TIME on.")
@click.option("--event-name", metavar="NAME", help="Of that only what is billed as NAME.")
@_json
@_data
def why(
    whose: str, window: str | None, event_name: str | None, as_json: bool, data: Path | None
) -> None:
    """Tell the story of a purchase, or of an hour of usage, and where it stopped.

    PURCHASE (pur_…): what was asked of Stripe, told by it, booked. CUSTOMER with --window: what
    was used, charged beyond the wallet, told to Stripe, and the invoice.
    """
    settings = load(os.environ)
    if window is not None:
        hour = _time(window)
        story = run(_why_window(settings, data, whose, hour, event_name))
        _tell(story, story.steps, story.verdict, as_json=as_json)
        return
    if event_name is not None:
        raise click.UsageError("--event-name goes with --window")
    found = parse_id("pur", whose)
    if found is None:
        raise click.UsageError(
            "PURCHASE is an id such as `purchase_id` of a checkout: pur_…; a CUSTOMER needs "
            "--window"
        )
    shown = run(_why(settings, data, PurchaseRef(*found)))
    _tell(shown, lines_of(shown), verdict(shown), as_json=as_json)


def _tell(whole: msgspec.Struct, lines: Sequence[str], end: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(whole), indent=2).decode())
        return
    for line in lines:
        click.echo(line)
    click.echo(f"so       {end}")


def _time(text: str) -> datetime:
    try:
        return parse.timestamp(text, "/--window")
    except ProblemError as error:
        raise click.UsageError(error.detail) from error


async def _why_window(
    settings: Settings, data: Path | None, customer_id: str, hour: datetime, event_name: str | None
) -> WhyAnswer:
    async with books(settings, data) as conn:
        number = (await customers.find(conn, [customer_id])).get(customer_id)
        if number is None:
            raise StartError(f"there is no customer {customer_id}")
        scales = {row["asset"]: row["scale"] for row in await conn.fetch(queries.assets_read)}
        try:
            story = await usage_story.read(
                conn,
                number,
                hour,
                event_name,
                scale=scales["credits"],
                grace=timedelta(seconds=settings.late_grace_seconds),
            )
        except ProblemError as error:
            raise click.UsageError(error.detail) from error
    return WhyAnswer(usage_verdict.lines_of(story), usage_verdict.verdict(story))


async def _why(settings: Settings, data: Path | None, owner: PurchaseRef) -> PurchaseShown:
    async with books(settings, data) as conn:
        rows = await conn.fetch(queries.assets_read)
        known = BookSettings(
            scales={row["asset"]: row["scale"] for row in rows},
            books_time_zone=settings.books_time_zone,
        )
        found: list[PurchaseAnswer] = await purchase_reads.purchases(conn, [owner], known)
        if not found:
            raise StartError("there is no such purchase")
        story = await story_of(conn, owner)
    return PurchaseShown(**msgspec.structs.asdict(found[0]), story=story)
