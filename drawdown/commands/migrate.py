"""`drawdown migrate`: brings the database to the schema of this release."""

import os
from pathlib import Path

import click
import msgspec

from drawdown.commands.options import data_option, run
from drawdown.database import bring_up_to_date, lacking, opened
from drawdown.settings import Settings, load


@click.command(epilog="Example: drawdown migrate --check")
@click.option("--check", is_flag=True, help="Only tell what is pending; exit code 1 if any is.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@data_option("The data folder of an embedded database, running or not.")
@click.pass_context
def migrate(ctx: click.Context, check: bool, as_json: bool, data: Path | None) -> None:
    """Apply the migrations that the database still lacks, as the owner of the schema.

    Safe to repeat, and beside a running service of this release or the one before. `up` on the
    embedded database does it by itself; `serve` and `work` never do.
    """
    settings = load(os.environ)
    if check:
        names = run(_pending(settings, data))
        _print("pending", names, as_json=as_json, nothing="nothing is pending")
        ctx.exit(1 if names else 0)
    names, problem = run(_migrate(settings, data))
    _print("applied", names, as_json=as_json, nothing="nothing was pending")
    if problem is not None:
        click.echo(f"drawdown: {problem}", err=True)


async def _pending(settings: Settings, data: Path | None) -> list[str]:
    async with opened(settings, data) as database:
        return await lacking(database)


async def _migrate(settings: Settings, data: Path | None) -> tuple[list[str], str | None]:
    async with opened(settings, data) as database:
        return await bring_up_to_date(database)


def _print(word: str, names: list[str], *, as_json: bool, nothing: str) -> None:
    if as_json:
        click.echo(msgspec.json.encode({word: names}))
        return
    for name in names:
        click.echo(f"{word} {name}")
    if not names:
        click.echo(nothing)
