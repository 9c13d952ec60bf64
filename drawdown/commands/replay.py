"""`drawdown replay`: a usage trace sent as reserve and capture."""

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from re import fullmatch

import click
import msgspec

from drawdown.progress import Progress
from drawdown.replay import (
    INPUT_METER,
    OUTPUT_METER,
    Plan,
    ReplayError,
    Report,
    run_replay,
)
from drawdown.settings import load
from drawdown.traces import TraceError, survey

CUSTOMERS_MAX = 1_000_000
CONCURRENCY_MAX = 1_000


@click.command(
    epilog="Example: drawdown replay trace.csv --customers 50 --url http://127.0.0.1:8377"
    " --concurrency 32"
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--customers",
    "customer_count",
    type=click.IntRange(1, CUSTOMERS_MAX),
    default=50,
    show_default=True,
    help="Customers that the rows are spread over: PREFIX0001, PREFIX0002, …",
)
@click.option("--prefix", default="customer-", show_default=True, help="What their ids begin with.")
@click.option(
    "--url", default="http://127.0.0.1:8377", show_default=True, help="Address of the service."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, CONCURRENCY_MAX),
    default=32,
    show_default=True,
    help="Requests under way at the same time.",
)
@click.option(
    "--run",
    "run_name",
    metavar="ID",
    help="Name of the run, new if left out. With the same name (and the same file and options) a"
    " replay goes on where it was broken off, and charges nothing twice.",
)
@click.option("--key", help="API key with the scope usage:write. Default: DRAWDOWN_API_KEY.")
@click.option(
    "--longest-answer",
    type=click.IntRange(0, 999_999_999),
    help="Tokens reserved on top of the context. Default: the longest answer in the file.",
)
@click.option(
    "--model", help="The dimension `model` of the meters. Default: they are sent without it."
)
@click.option("--input-meter", default=INPUT_METER, show_default=True, help="Counts the context.")
@click.option("--output-meter", default=OUTPUT_METER, show_default=True, help="Counts answers.")
@click.option("--limit", type=click.IntRange(min=1), help="Send the first rows only.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as a JSON object.")
def replay(
    file: Path,
    *,
    customer_count: int,
    prefix: str,
    url: str,
    concurrency: int,
    run_name: str | None,
    key: str | None,
    longest_answer: int | None,
    model: str | None,
    input_meter: str,
    output_meter: str,
    limit: int | None,
    as_json: bool,
) -> None:
    """Send a usage trace to a running service.

    Each row of FILE reserves the worst case (its context and the longest answer) and captures what
    it used, as tokens of two meters: the service must have them, and a rate card that prices them.
    Whatever is in doubt is sent again under the same key. The customers must exist, or the service
    runs with DRAWDOWN_CREATE_CUSTOMERS=true.
    """
    api_key = key or load(os.environ).api_key
    if api_key is None:
        raise click.ClickException("no API key: set DRAWDOWN_API_KEY, or use --key")
    if not fullmatch("[!-~]+", api_key):
        raise click.ClickException("the API key has characters that no key has")
    run_name = new_run() if run_name is None else run_name
    if not fullmatch("[!-.0-~]{1,64}", run_name):
        raise click.UsageError("--run must be 1 to 64 printable ASCII characters, no space, no /")
    try:
        trace = survey(file)
        plan = Plan(
            trace=trace,
            run=run_name,
            customers=[f"{prefix}{number:04}" for number in range(1, customer_count + 1)],
            longest_answer=trace.longest_answer if longest_answer is None else longest_answer,
            model=model,
            input_meter=input_meter,
            output_meter=output_meter,
            row_limit=limit,
        )
        click.echo(f"{file}: {plan.row_count:,} rows, run {run_name}", err=True)
        with Progress(plan.row_count, "replay", "rows") as progress:
            report = run_replay(
                plan, url=url, api_key=api_key, concurrency=concurrency, on_row=progress.step
            )
    except TraceError as exc:
        raise click.ClickException(str(exc)) from exc
    except ReplayError as exc:
        raise click.ClickException(f"{exc}; go on with --run {run_name}") from exc
    except KeyboardInterrupt:
        click.echo(f"drawdown: stopped; go on with --run {run_name}", err=True)
        raise
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        for line in report_lines(report):
            click.echo(line)


def new_run() -> str:
    """A name that no run had before: the time, and chance."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def report_lines(report: Report) -> list[str]:
    """The report for people."""
    lines = [
        f"accepted   {report.accepted:,} of {report.rows:,} rows",
        f"declined   {report.declined:,} (402)",
        f"captured   {report.captured:,f} credits",
        f"requests   {report.requests:,} in {report.elapsed_seconds:.1f} s:"
        f" {report.requests_per_second:,.0f} req/s",
        f"reserve    p50 {report.reserve.p50_ms:.1f} ms, p99 {report.reserve.p99_ms:.1f} ms",
        f"capture    p50 {report.capture.p50_ms:.1f} ms, p99 {report.capture.p99_ms:.1f} ms",
        f"retries    {report.retries:,}; answers given before: {report.replayed:,}",
    ]
    if report.captures_declined:
        lines.insert(2, f"late       {report.captures_declined:,} captures declined (402)")
    return lines
