"""`drawdown keys`: API keys, made, listed and revoked."""

import os
from datetime import datetime, timedelta
from pathlib import Path

import click
import msgspec

from drawdown.commands.options import data_option, run
from drawdown.database import books
from drawdown.setting_values import EXPIRES_SECONDS_MAX
from drawdown.settings import Settings, load
from ledger import customers
from meter import auth
from meter.auth import CACHE_SECONDS, KeyAnswer, NewKeyAnswer
from meter.problems import ProblemError
from meter.scopes import SCOPES

NAME_CHARACTERS_MAX = 255
PAGE = 1_000

_data = data_option("The data folder of an embedded database, running or not.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")


@click.group(epilog="Example: drawdown keys create backend --scope usage:write")
def keys() -> None:
    """API keys: create, list, revoke."""


@keys.command(
    epilog="Example: drawdown keys create backend --scope usage:write --scope customers:read"
)
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(list(SCOPES)),
    metavar="SCOPE",
    help=f"What it may do: one or several. One of: {', '.join(SCOPES)}.",
)
@click.option("--customer", "customer_id", metavar="ID", help="Bind it to one customer.")
@click.option(
    "--expires-in",
    metavar="SECONDS",
    type=click.IntRange(1, EXPIRES_SECONDS_MAX),
    help="End it by itself.",
)
@_json
@_data
def create(
    name: str,
    scopes: tuple[str, ...],
    customer_id: str | None,
    expires_in: int | None,
    as_json: bool,
    data: Path | None,
) -> None:
    """Make an API key called NAME and print its secret: now and never again.

    Only the secret goes to stdout, so that a script can keep it.
    """
    name = name.strip()
    if not 1 <= len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
        raise click.UsageError(f"NAME must be 1 to {NAME_CHARACTERS_MAX} printable characters")
    if not scopes:
        raise click.UsageError("say what it may do, with at least one --scope")
    made = run(_create(load(os.environ), data, name, scopes, customer_id, expires_in))
    if as_json:
        click.echo(_as_json(made))
        return
    click.echo(made.key)
    click.echo(f"{_line(made)}\nThe secret is shown this once: keep it.", err=True)


@keys.command("list", epilog="Example: drawdown keys list --json")
@_json
@_data
def list_(as_json: bool, data: Path | None) -> None:
    """List the API keys, newest first, without their secrets."""
    found = run(_list(load(os.environ), data))
    click.echo(_as_json(found) if as_json else "\n".join(map(_line, found)) or "no keys yet")


@keys.command(epilog="Example: drawdown keys revoke key_0000000000000000000000000A")
@click.argument("key_id", metavar="ID")
@_json
@_data
def revoke(key_id: str, as_json: bool, data: Path | None) -> None:
    """End the API key ID, and with it the customer tokens that were made with it."""
    ended = run(_revoke(load(os.environ), data, key_id))
    if ended is None:
        raise click.ClickException(f"no API key has the id {key_id}: see `drawdown keys list`")
    if as_json:
        click.echo(_as_json(ended))
        return
    click.echo(
        f"{ended.id} is revoked: it can charge nothing any more, and what runs now stops reading "
        f"with it within {CACHE_SECONDS:.0f} s"
    )


async def _create(
    settings: Settings,
    data: Path | None,
    name: str,
    scopes: tuple[str, ...],
    customer_id: str | None,
    expires_in: int | None,
) -> NewKeyAnswer:
    async with books(settings, data) as conn:
        number = None
        if customer_id is not None:
            number = (await customers.find(conn, [customer_id])).get(customer_id)
            if number is None:
                raise click.ClickException(f"no customer has the id {customer_id!r}")
        expires_at: datetime | None = None
        if expires_in is not None:
            expires_at = await customers.now(conn) + timedelta(seconds=expires_in)
        try:
            return await auth.new_key(
                conn,
                name=name,
                scopes=scopes,
                customer_no=number,
                customer_id=customer_id,
                expires_at=expires_at,
            )
        except ProblemError as error:
            raise click.ClickException(error.detail) from error


async def _list(settings: Settings, data: Path | None) -> list[KeyAnswer]:
    found: list[KeyAnswer] = []
    async with books(settings, data) as conn:
        page, after = await auth.list_keys(conn, limit=PAGE)
        found += page
        while after is not None:
            page, after = await auth.list_keys(conn, limit=PAGE, after=after)
            found += page
    return found


async def _revoke(settings: Settings, data: Path | None, key_id: str) -> KeyAnswer | None:
    async with books(settings, data) as conn:
        return await auth.revoke_key(conn, key_id)


def _line(key: KeyAnswer) -> str:
    facts = [f"{key.id}  {key.name}", " ".join(key.scopes)]
    if key.customer_id is not None:
        facts.append(f"customer {key.customer_id}")
    if key.revoked_at is not None:
        facts.append(f"revoked {key.revoked_at:%Y-%m-%d %H:%M:%S}")
    elif key.expires_at is not None:
        facts.append(f"expires {key.expires_at:%Y-%m-%d %H:%M:%S}")
    if key.last_used_at is not None:
        facts.append(f"last used {key.last_used_at:%Y-%m-%d %H:%M:%S}")
    return "  |  ".join(facts)


def _as_json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
