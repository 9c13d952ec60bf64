"""`drawdown config`: the settings in force."""

import os

import click
import msgspec

from drawdown.settings import describe, load


@click.command(epilog="Example: drawdown config --json")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array instead of a table.")
def config(as_json: bool) -> None:
    """Show the settings in force, secrets masked, and where each came from."""
    rows = describe(load(os.environ), os.environ)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2))
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        value = "(not set)" if row.value is None else row.value
        click.echo(f"{row.name:<{width}}  {row.source:<11}  {value}")
