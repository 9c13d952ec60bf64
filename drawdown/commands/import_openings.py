"""`drawdown import`: opening balances from a file."""

import os
from pathlib import Path

import click
import msgspec

from drawdown.commands.options import data_option, run
from drawdown.database import opened
from drawdown.settings import Settings, load
from drawdown.up import open_service
from meter.observe import configure_logging
from meter.openings import COLUMNS, Imported, take_over


@click.command(
    "import",
    epilog="Example: drawdown import balances.csv --dry-run",
    help=f"""Take over the opening balances of another system from FILE, a CSV with these columns:

    {", ".join(COLUMNS)}.

    customer_id, amount and category (paid or promotional) are needed; paid rows say what was paid
    (cost, without tax, and currency). Every row becomes a grant, all in one transaction: if one is
    wrong nothing is imported, and all that is wrong is told. Customers that don't exist are made.
    The same file again grants nothing: a row is known by its customer and reference (left out: the
    number of the customer's row).

    The service may run; customers of the file wait until the import has ended.
    """,
)
@click.argument(
    "file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--dry-run", is_flag=True, help="Do all of it, tell, and take it back.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
@data_option("The data folder of an embedded database, running or not.")
@click.pass_context
def import_openings(
    ctx: click.Context, file: Path, dry_run: bool, as_json: bool, data: Path | None
) -> None:
    """See `help`."""
    settings = load(os.environ)
    configure_logging(settings.log_level)
    done = run(_import(settings, data, file.read_bytes(), dry_run))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(done), indent=2).decode())
    else:
        click.echo(_text(done))
    ctx.exit(1 if done.problems else 0)


async def _import(settings: Settings, data: Path | None, raw: bytes, is_dry_run: bool) -> Imported:
    async with opened(settings, data) as database, open_service(database, settings) as service:
        return await take_over(service, raw, is_dry_run=is_dry_run)


def _text(done: Imported) -> str:
    lines = [
        f"row {trouble.row}{', ' + trouble.column if trouble.column else ''}: {trouble.detail}"
        for trouble in done.problems
    ]
    lines += [
        f"{total.rows:>9,} {total.category:<11}  {total.amount:>24} {total.asset}"
        + (f"  paid for with {total.cost} {total.currency}" if total.cost is not None else "")
        for total in done.totals
    ]
    if done.problems:
        lines.append(f"nothing was imported: {len(done.problems):,} rows to mend")
    else:
        would = "would be " if done.is_dry_run else ""
        lines.append(
            f"{done.granted:,} rows of {done.customers:,} customers {would}granted;"
            f" {done.already_granted:,} were before"
        )
    return "\n".join(lines)
