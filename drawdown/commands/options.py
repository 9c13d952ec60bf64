"""What several commands share: the option that names a database, and how errors are told."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import click

from drawdown.backup import BackupError
from drawdown.database import StartError, default_data
from drawdown.server_files import ServerError
from jobs.leases import LeaseHeld, LeaseLost
from sql.errors import DatabaseFault
from sql.migrate import MigrationError
from sql.pool import ServerRefused

_Result = TypeVar("_Result")
_Command = TypeVar("_Command", bound=Callable[..., Any])

KNOWN_ERRORS = (
    *(BackupError, DatabaseFault, LeaseHeld, LeaseLost, MigrationError, ServerError),
    *(ServerRefused, StartError, asyncpg.PostgresError, OSError),
    asyncpg.exceptions.ClientConfigurationError,  # an address that can't be read
)
"""Errors whose message says what to do. All others are faults of ours and show where."""


def data_option(
    help_text: str, *, default: str = "DATABASE_URL, else "
) -> Callable[[_Command], _Command]:
    """`--data DIR`, None if it is left out."""
    return click.option(
        "--data",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help=f"{help_text} Default: {default}{_shown(default_data())}.",
    )


def _shown(path: Path) -> str:
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)


def run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a command's work to its end, an expected error becoming one line on stderr."""
    try:
        return asyncio.run(work)
    except KNOWN_ERRORS as error:
        raise click.ClickException(str(error)) from error
