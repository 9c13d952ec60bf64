"""`drawdown usage`: rollups counted again from raw events, and months of events to keep."""

import os
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

import click
import msgspec

from drawdown.commands.options import data_option, run
from drawdown.database import StartError, opened
from drawdown.settings import Settings, load
from drawdown.up import open_service
from meter import raw, rebuild
from meter.catalog import Meter
from meter.observe import configure_logging
from meter.service import Service
from sql.pool import transaction

DIFFERENCES_SHOWN = 100

_data = data_option("The data folder of an embedded database, running or not.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")


class Rebuilt(msgspec.Struct, frozen=True):
    """What was done for one meter."""

    meter: str
    pieces: int
    differences: list[str]


@click.group(epilog="Example: drawdown usage rebuild --check")
def usage() -> None:
    """Usage: count rollups again from raw events, export a month of events."""


@usage.command("rebuild", epilog="Example: drawdown usage rebuild tokens --customer acme")
@click.argument("meter", required=False)
@click.option("--customer", "customer_id", metavar="ID", help="Only this customer's.")
@click.option("--check", is_flag=True, help="Only compare; exit code 1 if something differs.")
@_json
@_data
@click.pass_context
def rebuild_(
    ctx: click.Context,
    meter: str | None,
    customer_id: str | None,
    check: bool,
    as_json: bool,
    data: Path | None,
) -> None:
    """Count the rollups of METER (left out: of all meters) again from raw events.

    A meter then also counts events that were received before it was defined. Safe beside the
    running service: it is done in short pieces. Nothing is priced by it.
    """
    settings = load(os.environ)
    configure_logging(settings.log_level)
    done = run(_rebuild(settings, data, meter, customer_id, check=check))
    differing = [line for one in done for line in one.differences]
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(done), indent=2).decode())
    elif check:
        for line in differing[:DIFFERENCES_SHOWN]:
            click.echo(line)
        click.echo(f"{len(done)} meters compared: {len(differing)} differences")
    else:
        for one in done:
            click.echo(f"{one.meter}: counted again in {one.pieces:,} pieces")
    ctx.exit(1 if differing else 0)


async def _rebuild(
    settings: Settings, data: Path | None, key: str | None, customer_id: str | None, *, check: bool
) -> list[Rebuilt]:
    async with opened(settings, data) as database, open_service(database, settings) as service:
        customer_no = None
        if customer_id is not None:
            customer_no = await service.directory.find(customer_id, makes=False)
            if customer_no is None:
                raise StartError(f"there is no customer {customer_id}")
        done: list[Rebuilt] = []
        for meter in _meters(service, key):
            pieces, lines = 0, list[str]()
            if check:
                lines = await rebuild.differences(service.pool, meter, customer_no=customer_no)
            else:
                pieces = await rebuild.rebuild(service.pool, meter, customer_no=customer_no)
            done.append(Rebuilt(meter.key, pieces, lines))
        return done


def _meters(service: Service, key: str | None) -> Sequence[Meter]:
    meters = service.catalog.meters
    if key is None:
        return list(meters.values())
    if key not in meters:
        raise StartError(f"there is no meter {key}: see GET /v1/meters")
    return [meters[key]]


@usage.command("export-month", epilog="Example: drawdown usage export-month 2026-01 january.jsonl")
@click.argument("month", type=click.DateTime(["%Y-%m"]), metavar="YYYY-MM")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_data
def export_month(month: datetime, file: Path, data: Path | None) -> None:
    """Write the raw events of a month (UTC) to FILE, each as a line of JSON.

    Before the month is dropped after DRAWDOWN_EVENT_RETENTION_DAYS. FILE must not exist.
    """
    settings = load(os.environ)
    configure_logging(settings.log_level)
    count = run(_export(settings, data, month.date(), file))
    click.echo(f"{count:,} events of {month:%Y-%m} in {file}")


async def _export(settings: Settings, data: Path | None, month: date, file: Path) -> int:
    count = 0
    async with opened(settings, data) as database, open_service(database, settings) as service:
        with file.open("xb") as written:
            async with transaction(service.pool, snapshot=True) as conn:
                async for line in raw.export(conn, month):
                    written.write(line)
                    count += 1
            written.flush()
            os.fsync(written.fileno())
    return count
