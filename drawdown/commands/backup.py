"""`drawdown backup` and `drawdown restore`."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from drawdown import backup as backups
from drawdown.backup import Manifest, Told
from drawdown.commands.options import data_option, run
from drawdown.database import bring_up_to_date, connected, opened
from drawdown.settings import Settings, load
from ledger.proofs import Failure, prove

FAILURES_SHOWN_MAX = 20


@click.command(epilog="Example: drawdown backup books-2030-01-31.backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest instead of a line.")
@data_option("The data folder of an embedded database, running or not.")
def backup(file: Path, as_json: bool, data: Path | None) -> None:
    """Write the whole database to FILE, beside the running service.

    One moment of it, with a count and a hash of every table. FILE is new, and readable by its owner
    only: it holds personal data. A backup never replaces another.
    """
    manifest = run(_backup(load(os.environ), data, file))
    _print(file, manifest, as_json=as_json, done="backed up")


async def _backup(settings: Settings, data: Path | None, file: Path) -> Manifest:
    async with opened(settings, data) as database, connected(database.owner_dsn) as owner:
        with _told("backup") as told:
            return await backups.backup(owner, file, told)


@click.command(epilog="Example: drawdown restore books-2030-01-31.backup --data ./restored")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest instead of a line.")
@data_option("The data folder of an embedded database, made if it is not there.")
@click.pass_context
def restore(ctx: click.Context, file: Path, as_json: bool, data: Path | None) -> None:
    """Load FILE into an empty database, compare every table, and prove the books.

    All of FILE is read and checked before anything is written. The schema is made first, and
    brought to that of this release afterwards. Exit code 1 if the books are not proved.
    """
    settings = load(os.environ)
    manifest = run(_checked(file))
    failures = run(_restore(settings, data, file, manifest))
    _print(file, manifest, as_json=as_json, done="restored")
    if not failures:
        click.echo("the books are proved; see also `drawdown doctor --after-restore`", err=True)
        return
    for failure in failures[:FAILURES_SHOWN_MAX]:
        click.echo(f"{failure.check}: customer no. {failure.customer_no}: {failure.what}", err=True)
    click.echo(
        f"drawdown: the books are NOT proved: {len(failures)} failures; see `drawdown verify`",
        err=True,
    )
    ctx.exit(1)


async def _checked(file: Path) -> Manifest:
    return backups.inspect(file)


async def _restore(
    settings: Settings, data: Path | None, file: Path, manifest: Manifest
) -> list[Failure]:
    async with opened(settings, data, may_make=True) as database:
        # The schema that the backup was made with, if there is none yet.
        await bring_up_to_date(database, up_to=manifest.migration.number)
        async with connected(database.owner_dsn) as owner:
            with _told("restore") as told:
                await backups.restore(owner, file, manifest, told)
        _, problem = await bring_up_to_date(database)
        if problem is not None:
            click.echo(f"drawdown: {problem}", err=True)
        async with connected(database.owner_dsn) as owner:
            return await prove(owner, chain=True)


@contextmanager
def _told(label: str) -> Generator[Told]:
    """Shows each table that is done: on a terminal in one line that changes, else in lines."""
    is_terminal = sys.stderr.isatty()
    total = 0

    def told(table: str, rows: int) -> None:
        nonlocal total
        total += rows
        text = f"{label}: {table}, {rows:,} rows, {total:,} in all"
        click.echo(f"\r\033[K{text}" if is_terminal else text, err=True, nl=not is_terminal)

    yield told
    if is_terminal:
        click.echo("\r\033[K", err=True, nl=False)


def _print(file: Path, manifest: Manifest, *, as_json: bool, done: str) -> None:
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        return
    click.echo(
        f"{done} {file}: {len(manifest.tables)} tables, {manifest.rows:,} rows, made"
        f" {manifest.made_at:%Y-%m-%d %H:%M:%S} UTC, schema {manifest.migration.name},"
        f" digest {manifest.digest}"
    )
