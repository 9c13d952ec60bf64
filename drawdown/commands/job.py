"""`drawdown job`: the timetable, and a run by hand."""

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import click
import msgspec

from drawdown.commands.options import data_option, run
from drawdown.database import default_data, opened
from drawdown.settings import Settings, load
from drawdown.up import open_service
from jobs.runner import JobRun, JobStatus, Runner
from jobs.schedule import TIMETABLE
from meter.observe import configure_logging

NAMES = [job.name for job in TIMETABLE]


@click.command(epilog="Example: drawdown job list")
@click.argument("name", type=click.Choice(["list", *NAMES]), metavar="NAME|list")
@click.option("--pause", is_flag=True, help="Let the clock run it no more; do not run it now.")
@click.option("--resume", is_flag=True, help="Let the clock run it again; do not run it now.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
@data_option("The data folder of an embedded database, running or not.")
@click.pass_context
def job(
    ctx: click.Context, name: str, pause: bool, resume: bool, as_json: bool, data: Path | None
) -> None:
    """Run the job NAME now, or show the timetable with `list`.

    A run that is under way elsewhere is waited for. Exit code 1 if the job fails. A paused job can
    be run by hand.
    """
    if pause + resume + (name == "list") > 1:
        raise click.UsageError("--pause and --resume go with the NAME of a job, one at a time")
    settings = load(os.environ)
    configure_logging(settings.log_level)
    if name == "list":
        statuses = run(_list(settings, data))
        click.echo(_json(statuses) if as_json else "\n".join(map(_line, statuses)))
        return
    if pause or resume:
        status = run(_pause(settings, data, name, resume=resume))
        click.echo(_json(status) if as_json else _line(status))
        return
    done = run(_run_now(settings, data, name))
    if done.error is not None:
        raise click.ClickException(f"{name}: {done.error}")
    counts = ", ".join(f"{count:,} {what}" for what, count in done.counts.items())
    click.echo(_json(done) if as_json else f"{name}: {counts or 'done'}")


async def _list(settings: Settings, data: Path | None) -> Sequence[JobStatus]:
    async with opened(settings, data) as database, open_service(database, settings) as service:
        return await Runner(service, TIMETABLE).timetable()


async def _pause(settings: Settings, data: Path | None, name: str, *, resume: bool) -> JobStatus:
    async with opened(settings, data) as database, open_service(database, settings) as service:
        found = await Runner(service, TIMETABLE).pause(name, resume=resume)
    assert found is not None, "the name is one of the timetable"
    return found


async def _run_now(settings: Settings, data: Path | None, name: str) -> JobRun:
    async with (
        opened(settings, data) as database,
        open_service(database, settings, data or default_data()) as service,
    ):
        done = await Runner(service, TIMETABLE).run_now(name)
    assert done is not None, "the name is one of the timetable"
    return done


def _line(status: JobStatus) -> str:
    last = status.last_run
    if last is None:
        told = "never ran"
    elif last.finished_at is None:
        told = f"running since {last.started_at:%Y-%m-%d %H:%M:%S} on {status.running_on}"
    else:
        counts = ", ".join(f"{count} {what}" for what, count in last.counts.items())
        told = f"last run {last.finished_at:%Y-%m-%d %H:%M:%S}: {last.error or counts or 'done'}"
    every = timedelta(seconds=status.every_seconds)
    late = "" if status.paused_at is None else f"; PAUSED since {status.paused_at:%Y-%m-%d %H:%M}"
    late += f"; {status.overdue_seconds:.0f} s overdue" if status.overdue_seconds > 0 else ""
    return f"{status.name:<16}  every {every!s:<14}  {told}{late}\n{'':16}  {status.about}"


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
