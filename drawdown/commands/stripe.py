"""`drawdown stripe` and `drawdown why`: what came from Stripe, looked at and applied again."""

import os
from pathlib import Path

import click
import msgspec

from drawdown.commands.options import data_option, run
from drawdown.database import StartError, books
from drawdown.settings import Settings, load
from ledger import purchase_reads
from ledger.ids import parse_id
from ledger.load_purchases import PurchaseRef
from ledger.purchases import PurchaseAnswer
from ledger.state import Settings as BookSettings
from meter import stripe_news
from meter.http.purchases import PurchaseShown
from meter.http.why import lines_of, verdict
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


@click.command(epilog="Example: drawdown why pur_00000000000000010000000000000005")
@click.argument("purchase")
@_json
@_data
def why(purchase: str, as_json: bool, data: Path | None) -> None:
    """Tell the story of PURCHASE: asked of Stripe, told by it, booked; and where it stopped."""
    found = parse_id("pur", purchase)
    if found is None:
        raise click.UsageError("PURCHASE is an id such as `purchase_id` of a checkout: pur_…")
    shown = run(_why(load(os.environ), data, PurchaseRef(*found)))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
        return
    for line in lines_of(shown):
        click.echo(line)
    click.echo(f"so       {verdict(shown)}")


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
