"""`drawdown close`: closes a month of the books."""

import os
from pathlib import Path

import click
import msgspec

from drawdown.commands.options import data_option, run
from drawdown.database import opened
from drawdown.settings import Settings, load
from drawdown.up import open_service
from ledger.periods import Period
from meter import closing
from meter.observe import configure_logging
from meter.problems import ProblemError


@click.command(epilog="Example: drawdown close 2026-03")
@click.argument("period", metavar="YYYY-MM")
@click.option("--force", is_flag=True, help="Close it though not everything is proved.")
@click.option("--reason", metavar="TEXT", help="Why; kept with the month. Needs --force.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
@data_option("The data folder of an embedded database, running or not.")
def close(period: str, force: bool, reason: str | None, as_json: bool, data: Path | None) -> None:
    """Close the month YYYY-MM: nothing new is booked in it, and what it came to never changes.

    The service may run. A close that was cut off goes on where it was; one that is done is shown.
    Exit code 1 if the month can't be closed.
    """
    if force != (reason is not None):
        raise click.UsageError("--force and --reason go together")
    settings = load(os.environ)
    configure_logging(settings.log_level)
    closed = run(_close(settings, data, period, reason))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(closed), indent=2).decode())
    else:
        click.echo(_text(closed))


async def _close(settings: Settings, data: Path | None, period: str, reason: str | None) -> Period:
    async with opened(settings, data) as database, open_service(database, settings) as service:
        try:
            return await closing.close(service, period, reason=reason)
        except ProblemError as problem:
            raise click.ClickException(problem.detail) from problem


def _text(closed: Period) -> str:
    lines = [
        f"{closed.period} is closed: {closed.journals:,} journals of {closed.customers:,} customers"
    ]
    if closed.failures:
        lines.append(f"by force, {closed.failures} places not proved: {closed.reason}")
    lines += [
        f"  {total.asset:<10}  {total.account:<17}  debits {total.debits:>20}"
        f"  credits {total.credits:>20}"
        for total in closed.totals
    ]
    return "\n".join((*lines, f"keep this hash elsewhere: {closed.hash}"))
