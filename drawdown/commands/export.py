"""`drawdown export`: a report of finance as a file."""

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from typing import BinaryIO, Final

import click

from drawdown.commands.options import data_option, run
from drawdown.database import opened
from drawdown.progress import SECONDS_BETWEEN_LINES
from drawdown.settings import Settings, load
from drawdown.up import open_service
from ledger.reports import REPORTS
from meter.observe import configure_logging
from meter.problems import ProblemError
from meter.reports.asked import form_of, report_of, span_of
from meter.reports.files import FORMS, stream
from meter.service import Service

MEGABYTE: Final = 1_000_000


@click.command(
    epilog="Example: drawdown export journal --from 2026-03 --to 2026-04 --format hledger"
)
@click.argument("report", metavar="REPORT", type=click.Choice(list(REPORTS)))
@click.option("--from", "first", metavar="DAY", help="From this book day on (a month: its first).")
@click.option("--to", "end", metavar="DAY", help="Before this book day. Default: up to today.")
@click.option("--format", "form", type=click.Choice(list(FORMS)), default="csv", show_default=True)
@click.option("--customer", metavar="ID", help="Whose statement.")
@click.option("--asset", metavar="CODE", help="Of which asset the statement is.")
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A new file. Default: standard output.",
)
@data_option("The data folder of an embedded database, running or not.")
def export(
    report: str,
    first: str | None,
    end: str | None,
    form: str,
    customer: str | None,
    asset: str | None,
    output: Path | None,
    data: Path | None,
) -> None:
    """Write REPORT, read from one moment of the books, as a file that other programs import.

    \b
    trial-balance     every account: opening, debits, credits, closing
    journal           every transfer; hledger and beancount too
    statement         one customer's wallet, line by line
    deferred-revenue  the roll-forward by month and currency
    breakage          what was earned of credit that ran out
    lots              what is left of each lot, by age and expiry
    usage             what was charged, by customer, meter and dimensions
    purchases         what each sale moved: gross, tax, fees, refunds, disputes
    focus             FOCUS 1.2: what was used, earned, paid and given back, by day

    The service may run. A file that could not be finished is removed.
    """
    settings = load(os.environ)
    configure_logging(settings.log_level)
    if output is not None and output.exists():
        raise click.ClickException(f"{output} exists: an export never replaces a file")
    asked = (report, first, end, form, customer, asset)
    try:
        with sys.stdout.buffer if output is None else output.open("xb") as file:
            run(_export(settings, data, asked, file))
    except BaseException:
        if output is not None:
            output.unlink(missing_ok=True)
        raise


_Asked = tuple[str, str | None, str | None, str, str | None, str | None]


async def _export(settings: Settings, data: Path | None, asked: _Asked, file: BinaryIO) -> None:
    async with opened(settings, data) as database, open_service(database, settings) as service:
        try:
            async with aclosing(await _parts(service, asked)) as parts:
                await _write(parts, file)
        except ProblemError as problem:
            raise click.ClickException(problem.detail) from problem


async def _parts(service: Service, asked: _Asked) -> AsyncGenerator[bytes]:
    name, first, end, form, customer_id, asset = asked
    report = report_of(name)
    number = None
    if customer_id is not None:
        number = await service.directory.find(customer_id, makes=False)
        if number is None:
            raise click.ClickException(f"there is no customer {customer_id!r}")
    span = await span_of(service, report, first, end, customer_no=number, asset=asset)
    return stream(service.reports_pool, report, span, form_of(report, form))


async def _write(parts: AsyncGenerator[bytes], file: BinaryIO) -> None:
    written, told_at = 0, monotonic()
    async for part in parts:
        file.write(part)
        written += len(part)
        if monotonic() - told_at >= SECONDS_BETWEEN_LINES:
            told_at = monotonic()
            click.echo(f"{written / MEGABYTE:,.0f} MB so far", err=True)
    file.flush()
