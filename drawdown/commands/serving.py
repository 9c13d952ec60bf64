"""`drawdown up`, `drawdown serve` and `drawdown work`: the service as a process."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import uvloop

from drawdown.commands.options import KNOWN_ERRORS, data_option
from drawdown.database import default_data
from drawdown.setting_values import is_loopback
from drawdown.settings import Settings, load
from drawdown.up import Plan, asked_zone, run
from meter.observe import configure_logging

PORT = 8377
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _address(command: _Command) -> _Command:
    port = click.option(
        "--port",
        type=click.IntRange(0, 65_535),
        default=PORT,
        show_default=True,
        help="Where to listen; 0: a free port.",
    )
    host = click.option(
        "--host", default="127.0.0.1", show_default=True, help="Address to listen at."
    )
    return port(host(command))


@click.command(epilog="Example: drawdown up --sandbox --port 0 --data ./books")
@_address
@data_option("The folder of the embedded database, which DATABASE_URL replaces.", default="")
@click.option(
    "--sandbox",
    is_flag=True,
    help="A database for trying things out, with a stand-in for Stripe and a clock that can be "
    "moved. Loopback only.",
)
def up(host: str, port: int, data: Path | None, sandbox: bool) -> None:
    """Run the API and the jobs in one process, with a PostgreSQL of its own.

    The embedded database is made and migrated as needed; that of DATABASE_URL is not. With
    --sandbox the file DIR/sandbox.json says how to use it, as long as it runs. SIGTERM or Ctrl-C
    stops it: a second one stops it sooner.
    """
    if sandbox and not is_loopback(host):
        raise click.UsageError(f"--sandbox listens on this machine only, not on {host}")
    settings = load(os.environ)
    _run(
        settings,
        Plan(
            serves=True,
            works=True,
            host=host,
            port=port,
            data=Path(os.path.abspath(data or default_data())),
            is_sandbox=sandbox,
            books_time_zone=asked_zone(settings, os.environ),
        ),
    )


@click.command(epilog="Example: drawdown serve --host 0.0.0.0")
@_address
def serve(host: str, port: int) -> None:
    """Run the API alone, on the database of DATABASE_URL. Any number may run.

    Nothing is migrated: if migrations are pending it exits with code 1.
    """
    settings = load(os.environ)
    zone = asked_zone(settings, os.environ)
    _run(settings, Plan(serves=True, works=False, host=host, port=port, books_time_zone=zone))


@click.command(epilog="Example: drawdown work")
def work() -> None:
    """Run the jobs alone, on the database of DATABASE_URL. Any number may run.

    Leases decide which of them does a job. Nothing is migrated: if migrations are pending it exits
    with code 1.
    """
    settings = load(os.environ)
    zone = asked_zone(settings, os.environ)
    _run(settings, Plan(serves=False, works=True, books_time_zone=zone))


def _run(settings: Settings, plan: Plan) -> None:
    configure_logging(settings.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(plan, settings))
    except KNOWN_ERRORS as error:
        raise click.ClickException(str(error)) from error
