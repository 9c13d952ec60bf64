"""The `drawdown` command: finds the command that is asked for, and tells errors in one line.

Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted.
"""

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Final

import click

from drawdown.settings import SettingsError

COMMANDS: Final[Mapping[str, str]] = {
    "up": "drawdown.commands.serving:up",
    "serve": "drawdown.commands.serving:serve",
    "work": "drawdown.commands.serving:work",
    "migrate": "drawdown.commands.migrate:migrate",
    "keys": "drawdown.commands.keys:keys",
    "job": "drawdown.commands.job:job",
    "usage": "drawdown.commands.usage:usage",
    "stripe": "drawdown.commands.stripe:stripe",
    "why": "drawdown.commands.stripe:why",
    "reconcile": "drawdown.commands.reconcile:reconcile",
    "backup": "drawdown.commands.backup:backup",
    "restore": "drawdown.commands.backup:restore",
    "doctor": "drawdown.commands.doctor:doctor",
    "config": "drawdown.commands.config:config",
    "verify": "drawdown.commands.verify:verify",
    "close": "drawdown.commands.close:close",
    "import": "drawdown.commands.import_openings:import_openings",
    "export": "drawdown.commands.export:export",
    "demo": "drawdown.commands.demo:demo",
    "replay": "drawdown.commands.replay:replay",
    "rate-cards": "drawdown.commands.rate_cards:rate_cards",
}
"""Each command or group of commands, and where it is. A module is imported when it is needed."""


class Commands(click.Group):
    """A group whose commands are those of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, or None if there is no such name."""
        if (place := COMMANDS.get(cmd_name)) is None:
            return None
        module, _, name = place.partition(":")
        command: object = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=Commands,
    epilog="Example: drawdown config",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="drawdown", message="%(prog)s %(version)s")
def drawdown() -> None:
    """Usage metering and prepaid credits in a double-entry ledger on PostgreSQL."""


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line. Returns its exit code, once every error is told on stderr."""
    try:
        result: object = drawdown.main(arguments, prog_name="drawdown", standalone_mode=False)
    except SettingsError as exc:
        for error in exc.errors:
            _complain(error)
        return 1
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        return exc.exit_code
    except click.UsageError as exc:
        path = exc.ctx.command_path if exc.ctx is not None else "drawdown"
        _complain(f"{exc.format_message().rstrip('.')}; see `{path} --help`")
        return exc.exit_code
    except click.ClickException as exc:
        _complain(exc.format_message())
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`). Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    # What a command returns is its exit code, if it is one: `--help` gives 0, `ctx.exit(1)` 1.
    return result if isinstance(result, int) else 0


def _complain(message: str) -> None:
    click.echo(f"drawdown: {message}", err=True)
