"""`drawdown doctor`: is everything set up as it should be?"""

import os
from pathlib import Path

import click
import msgspec

from drawdown.commands.options import data_option, run
from drawdown.database import opened
from drawdown.doctor import Finding, examine
from drawdown.settings import Settings, load
from drawdown.up import asked_zone


@click.command(epilog="Example: drawdown doctor --after-restore")
@click.option("--after-restore", is_flag=True, help="Also prove the books and what a restore sets.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array instead of lines.")
@data_option("The data folder of an embedded database, running or not.")
@click.pass_context
def doctor(ctx: click.Context, after_restore: bool, as_json: bool, data: Path | None) -> None:
    """Look at settings, server, logins, pools, clocks, migrations, Stripe's keys and jobs.

    Each line is ok, warn or FAIL with what to do. Exit code 1 if one fails.
    """
    settings = load(os.environ)
    findings = run(_examine(settings, data, after_restore=after_restore))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(findings), indent=2))
    else:
        for finding in findings:
            state = "FAIL" if finding.state == "fail" else finding.state
            click.echo(f"{state:<4}  {finding.name:<13}  {finding.detail}")
    ctx.exit(1 if any(finding.state == "fail" for finding in findings) else 0)


async def _examine(settings: Settings, data: Path | None, *, after_restore: bool) -> list[Finding]:
    zone = asked_zone(settings, os.environ)
    found = [Finding("settings", "ok", "all are known and within their bounds")]
    async with opened(settings, data) as database:
        found += await examine(database, settings, zone, after_restore=after_restore)
    return found
