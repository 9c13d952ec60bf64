"""The page of commands, made from their help: `python -m tests.cli_page >docs/reference/cli.md`."""

import sys
from collections.abc import Iterator

import click

from drawdown.cli import COMMANDS
from drawdown.cli import drawdown as command_line

HEAD = """\
# Commands

`drawdown` is in `.venv/bin` of a clone, or `./dev run …`. Errors are one line on stderr. Exit
codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted.

This page is made from the commands' own help.
"""
WIDTH = 88


def commands() -> Iterator[click.Context]:
    """Every command as a context. click keeps the help option that the first context asked for."""
    return _below(_context(command_line, "drawdown", None))


def _below(context: click.Context) -> Iterator[click.Context]:
    yield context
    command = context.command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None, name
            yield from _below(_context(child, name, context))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )


def cli_page() -> str:
    """The whole page."""
    parts = [HEAD]
    for context in commands():
        path = context.command_path
        level = "##" if path.count(" ") < 2 else "###"
        parts.append(f"{level} `{path}`\n\n```\n{context.get_help()}\n```\n")
    return "\n".join(parts)


def command_paths() -> list[str]:
    """Each command, as it is typed."""
    paths = [context.command_path for context in commands()]
    assert len(paths) > len(COMMANDS)
    return paths


if __name__ == "__main__":
    sys.stdout.write(cli_page())
