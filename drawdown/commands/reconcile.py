"""`drawdown reconcile`: usage three ways, by day, as a table or a file."""

import csv
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
import msgspec

from drawdown.commands.options import data_option, run
from drawdown.database import StartError, books
from drawdown.settings import Settings, load
from ledger import customers
from meter import reconciliation
from meter.problems import ProblemError
from meter.reconciliation import Compared, Reconciliation

HEAD: Final = ("day", "customer", "name", "used", "told", "Stripe", "differs by", "because of")
NUMBERS: Final = range(3, 7)
"""Columns whose cells end in one line."""

_day = click.DateTime(["%Y-%m-%d"])


@click.command(epilog="Example: drawdown reconcile --from 2030-01-01 --to 2030-02-01")
@click.option("--from", "first", type=_day, metavar="DAY", help="From this day (UTC) on.")
@click.option("--to", "end", type=_day, metavar="DAY", help="Before this day. Default: up to now.")
@click.option("--customer", "customer_id", metavar="ID", help="Only this customer's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of a table.")
@data_option("The data folder of an embedded database, running or not.")
@click.pass_context
def reconcile(
    ctx: click.Context,
    first: datetime | None,
    end: datetime | None,
    customer_id: str | None,
    as_json: bool,
    as_csv: bool,
    data: Path | None,
) -> None:
    """Compare by day what was used, what Stripe was told, and what it had when last asked.

    The last 31 days, or as many days as are asked for, up to 31. What differs comes first. Exit
    code 1 if a difference is not explained.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv are two forms: ask for one")
    span = (_utc(first), _utc(end))
    found = run(_read(load(os.environ), data, span, customer_id))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    elif as_csv:
        _write_csv(found)
    else:
        for line in table(found):
            click.echo(line)
    if as_csv and found.is_cut:
        click.echo(_cut(found), err=True)
    ctx.exit(1 if found.unexplained else 0)


def _utc(day: datetime | None) -> datetime | None:
    return None if day is None else day.replace(tzinfo=UTC)


async def _read(
    settings: Settings,
    data: Path | None,
    asked: tuple[datetime | None, datetime | None],
    customer_id: str | None,
) -> Reconciliation:
    async with books(settings, data) as conn:
        number = None
        if customer_id is not None:
            number = (await customers.find(conn, [customer_id])).get(customer_id)
            if number is None:
                raise StartError(f"there is no customer {customer_id}")
        now = await customers.now(conn)
        try:
            from_, to = reconciliation.span(*asked, now)
        except ProblemError as error:
            raise click.UsageError(error.detail) from error
        return await reconciliation.read(conn, from_, to, number, now)


def table(found: Reconciliation) -> Iterator[str]:
    """Lines of a table, and one with the sums."""
    rows = [HEAD, *(_cells(one) for one in found.data)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if found.data else []:
        cells = [
            cell.rjust(width) if place in NUMBERS else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
    yield (
        f"{found.rows:,} rows from {found.from_:%Y-%m-%d %H:%M} to {found.to:%Y-%m-%d %H:%M}:"
        f" {found.agreed:,} agree, {found.explained:,} explained, {found.unexplained:,} unexplained"
    )
    if found.is_cut:
        yield _cut(found)


def _cells(one: Compared) -> tuple[str, ...]:
    because = ", ".join(f"{reason.value} {reason.name}" for reason in one.reasons)
    numbers = (one.used, one.told, one.stripe, one.difference)
    return (one.date, one.customer_id, one.event_name, *numbers, because)


def _cut(found: Reconciliation) -> str:
    left = found.rows - len(found.data)
    return f"{left:,} more rows are not shown: ask for fewer days or one customer"


def _write_csv(found: Reconciliation) -> None:
    """The members of the route's rows, a reason as `name=value`."""
    names = [field.name for field in msgspec.structs.fields(Compared)]
    written = csv.writer(sys.stdout)
    written.writerow(names)
    for one in found.data:
        cells = msgspec.to_builtins(one)
        cells["reasons"] = " ".join(f"{reason.name}={reason.value}" for reason in one.reasons)
        written.writerow([cells[name] for name in names])
