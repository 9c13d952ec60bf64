"""`drawdown rate-cards`: price lists, from a file and to a file."""

import os
import sys
from datetime import datetime
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from drawdown import price_files
from drawdown.commands.options import data_option, run
from drawdown.database import books
from drawdown.price_files import Format, PriceFile, PriceFileError
from drawdown.price_text import Diff, diff
from drawdown.settings import Settings, load
from ledger import customers
from meter import catalog, parse
from meter.catalog import Catalog
from meter.problems import ProblemError
from meter.publishing import check_version, publish_version
from meter.rate_cards import DEFAULT_CARD, RateCard, check_key
from sql import queries
from sql.pool import Connection

DEFAULT_ASSET = "credits"

_data = data_option("The data folder of an embedded database, running or not.")
_format = click.option(
    "--format",
    "form",
    type=click.Choice(["yaml", "csv"]),
    help="What FILE is. Default: by its ending; YAML for -.",
)


class Published(Struct, frozen=True, kw_only=True):
    """What an import did, or would do."""

    key: str
    asset: str
    base_version: int | None
    """The version that the changes are told against: the one in force when the new one would be."""
    version: int | None
    """None: nothing was published."""
    effective_at: datetime | None
    """None: at once."""
    diff: Diff


class Plan(Struct, frozen=True):
    """What is to be published, after what."""

    key: str
    asset: str
    effective_at: datetime | None
    base: RateCard | None
    count: int
    """Versions that there were when the changes were told."""
    later: tuple[RateCard, ...]
    """Versions that take effect after this one."""
    diff: Diff


@click.group("rate-cards", epilog="Example: drawdown rate-cards import prices.yaml --dry-run")
def rate_cards() -> None:
    """Price lists: import, export."""


@rate_cards.command("import", epilog="Example: drawdown rate-cards import prices.yaml --key gold")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--key", metavar="K", help="Publish as this card. Default: FILE's, else default.")
@click.option(
    "--effective-at",
    metavar="TIME",
    help="When it takes effect, RFC 3339 with an offset. Default: FILE's, else at once.",
)
@_format
@click.option("--dry-run", is_flag=True, help="Check and show what would change; publish nothing.")
@click.option("--yes", is_flag=True, help="Publish without being asked.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of lines.")
@_data
def import_(
    *,
    file: str,
    key: str | None,
    effective_at: str | None,
    form: Format | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    data: Path | None,
) -> None:
    """Publish the prices of FILE (YAML or CSV; - is stdin) as a new version of a rate card.

    Shows what changes against the version in force, and asks. Nothing is published if nothing
    changes. The forms of FILE are described in docs/guides/price-list.md.
    """
    form = _form(file, form)
    settings = load(os.environ)
    try:
        read = price_files.read(_bytes(file), form)
        at = _time(effective_at or read.prices.effective_at)
        plan = run(_plan(settings, data, read, key or read.prices.key or DEFAULT_CARD, at))
        told = _told(plan, None)
        if not as_json:
            _show(plan)
        if not plan.diff.is_empty and not dry_run:
            _ask(yes=yes)
            card = run(_publish(settings, data, read, plan))
            told = _told(plan, card)
    except PriceFileError as error:
        raise click.ClickException(f"{file}: {error}") from error
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2))
    elif plan.diff.is_empty:
        click.echo("nothing changes: nothing is published")
    elif told.version is None:
        click.echo("a dry run: nothing is published")
    else:
        click.echo(f"published {told.key}@{told.version}, in force {_from(told.effective_at)}")


@rate_cards.command("export", epilog="Example: drawdown rate-cards export prices.csv --key gold")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--key", metavar="K", default=DEFAULT_CARD, show_default=True, help="Which card.")
@click.option(
    "--version",
    "number",
    metavar="N",
    type=click.IntRange(min=1),
    help="Which version. Default: the one in force.",
)
@_format
@_data
def export(
    file: str, *, key: str, number: int | None, form: Format | None, data: Path | None
) -> None:
    """Write a version of a rate card to FILE (YAML or CSV; - is stdout).

    An import of that file changes nothing. A file that is there is replaced.
    """
    form = _form(file, form)
    card = run(_find(load(os.environ), data, key, number))
    note = f"{card.card}, in force {_from(card.effective_at)}"
    text = price_files.write(key, card.asset, card.rates, form, note)
    if file == "-":
        click.echo(text, nl=False)
        return
    try:
        Path(file).write_text(text, "utf-8", newline="")
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from error
    click.echo(f"wrote {file}: {card.card}, {len(card.rates):,} rates", err=True)


def _form(file: str, form: Format | None) -> Format:
    found = form or ("yaml" if file == "-" else price_files.format_of(file))
    if found is None:
        raise click.UsageError("FILE ends with .yaml, .yml or .csv; or say --format")
    return found


def _bytes(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from error


def _time(text: str | None) -> datetime | None:
    try:
        return parse.time(text, "/effective_at")
    except ProblemError as problem:
        raise click.ClickException(problem.detail.removesuffix(".")) from problem


async def _plan(
    settings: Settings, data: Path | None, read: PriceFile, key: str, at: datetime | None
) -> Plan:
    """Check the prices and compare them. Raises PriceFileError."""
    async with books(settings, data) as conn:
        known = await catalog.read(conn)
        now: datetime = await conn.fetchval(queries.clock_read)
        base = known.in_force(key, at or now)
        asset = read.prices.asset or (DEFAULT_ASSET if base is None else base.asset)
        try:
            check_key(key)
            await _check_asset(conn, asset)
            await check_version(conn, known, at, read.prices.rates)
        except ProblemError as problem:
            raise read.error(problem) from problem
    versions = known.cards.get(key, ())
    rates = () if base is None or base.asset != asset else base.rates
    return Plan(
        key=key,
        asset=asset,
        effective_at=at,
        base=base,
        count=len(versions),
        later=tuple(version for version in versions if version.effective_at > (at or now)),
        diff=diff(rates, read.prices.rates),
    )


async def _check_asset(conn: Connection, code: str) -> None:
    assets = {asset.code: asset for asset in await customers.assets(conn)}
    if code not in assets or assets[code].is_money:
        raise ProblemError(422, "invalid_asset", f"{code} is no asset of credits", pointer="/asset")


async def _publish(settings: Settings, data: Path | None, read: PriceFile, plan: Plan) -> RateCard:
    """Publish what was shown, unless there is another version meanwhile."""
    async with books(settings, data) as conn:
        await catalog.change(conn)
        known = await catalog.read(conn)
        if len(known.cards.get(plan.key, ())) != plan.count:
            raise click.ClickException(
                f"somebody else has published a version of {plan.key} meanwhile: look again"
            )
        try:
            return await publish_version(
                conn, known, plan.key, plan.asset, plan.effective_at, read.prices.rates
            )
        except ProblemError as problem:
            raise read.error(problem) from problem


async def _find(settings: Settings, data: Path | None, key: str, number: int | None) -> RateCard:
    async with books(settings, data) as conn:
        known: Catalog = await catalog.read(conn)
        now: datetime = await conn.fetchval(queries.clock_read)
    versions = known.cards.get(key, ())
    if not versions:
        names = ", ".join(sorted(known.cards)) or "none yet"
        raise click.ClickException(f"there is no rate card {key}; there are: {names}")
    found = known.in_force(key, now)
    if number is not None:
        found = next((card for card in versions if card.card.version == number), None)
        if found is None:
            raise click.ClickException(f"{key} has versions 1 to {len(versions)}, not {number}")
    if found is None:
        raise click.ClickException(f"no version of {key} is in force yet: say --version")
    return found


def _ask(*, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.ClickException("nobody can be asked here: say --yes, or --dry-run")
    if not click.confirm("Publish?", err=True):
        raise click.ClickException("nothing is published")


def _show(plan: Plan) -> None:
    """The changes, for people."""
    against = "is new" if plan.base is None else f"against {plan.base.card}"
    click.echo(f"{plan.key} {against}, in {plan.asset}, {_from(plan.effective_at)}:")
    if plan.base is not None and plan.base.asset != plan.asset:
        click.echo(f"! {plan.base.card} has prices in {plan.base.asset}: nothing is compared")
    for line in plan.diff.lines():
        click.echo(line)
    click.echo(f"= {plan.diff.unchanged:,} rates stay as they are")
    for card in plan.later:
        click.echo(f"! {card.card} takes its place {_from(card.effective_at)}")


def _from(at: datetime | None) -> str:
    return "at once" if at is None else f"from {at.isoformat().replace('+00:00', 'Z')}"


def _told(plan: Plan, card: RateCard | None) -> Published:
    return Published(
        key=plan.key,
        asset=plan.asset,
        base_version=None if plan.base is None else plan.base.card.version,
        version=None if card is None else card.card.version,
        effective_at=plan.effective_at if card is None else card.effective_at,
        diff=plan.diff,
    )
