"""`drawdown verify`: proves the books."""

import os
import time
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from drawdown.commands.options import data_option, run
from drawdown.database import connected, opened
from drawdown.settings import Settings, load
from ledger.proofs import FAILURES_MAX, Check, Failure, prove
from sql.migrate import pending


class Line(Struct, frozen=True):
    """One check as it is reported."""

    check: str
    title: str
    ok: bool
    seconds: float
    failures: list[Failure]


@click.command(epilog="Example: drawdown verify --chain")
@click.option("--chain", is_flag=True, help="Also make every hash anew from the stored rows.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@data_option("The folder of an embedded database, running or not.")
@click.pass_context
def verify(ctx: click.Context, chain: bool, as_json: bool, data: Path | None) -> None:
    """Prove the books: every invariant, in one snapshot, beside the running service.

    Exit code 1 if one is broken. Nothing is written and no writer waits.
    """
    lines = run(_verify(load(os.environ), data, chain=chain, is_quiet=as_json))
    broken = [line for line in lines if not line.ok]
    if as_json:
        report = {"ok": not broken, "checks": lines}
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        click.echo(_summary(lines, broken))
    ctx.exit(1 if broken else 0)


async def _verify(
    settings: Settings, data: Path | None, *, chain: bool, is_quiet: bool
) -> list[Line]:
    lines: list[Line] = []
    began = time.perf_counter()

    def told(check: Check, failures: list[Failure]) -> None:
        nonlocal began
        ended = time.perf_counter()
        line = Line(check.name, check.title, not failures, round(ended - began, 3), failures)
        began = ended
        lines.append(line)
        if not is_quiet:
            click.echo(_text(line))

    async with opened(settings, data) as database, connected(database.dsn) as conn:
        if lacking := await pending(conn):
            raise click.ClickException(
                f"this database lacks {lacking[0]}: run `drawdown migrate` first"
            )
        began = time.perf_counter()
        await prove(conn, chain=chain, told=told)
    return lines


def _text(line: Line) -> str:
    status = "ok    " if line.ok else "FAILED"
    rows = [f"{status}  {line.check:<11}  {line.title:<51}  {line.seconds:8.3f} s"]
    rows += [f"        {_customer(failure)}: {failure.what}" for failure in line.failures]
    if len(line.failures) == FAILURES_MAX:
        rows.append(f"        only the first {FAILURES_MAX} are shown")
    return "\n".join(rows)


def _customer(failure: Failure) -> str:
    if failure.customer_id is not None:
        return f"customer {failure.customer_id} (no. {failure.customer_no})"
    return "business" if failure.customer_no == 0 else f"customer no. {failure.customer_no}"


def _summary(lines: list[Line], broken: list[Line]) -> str:
    seconds = sum(line.seconds for line in lines)
    if not broken:
        return f"the books are proved: {len(lines)} checks in {seconds:.1f} s"
    names = ", ".join(line.check for line in broken)
    return f"the books are NOT proved: {len(broken)} of {len(lines)} checks failed ({names})"
