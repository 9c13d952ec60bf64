"""`drawdown demo`: the main job on real traces, from nothing to proved books."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import click
import uvloop

from drawdown.commands.replay import CONCURRENCY_MAX, new_run
from drawdown.demo import DemoError, Options, find_traces
from drawdown.demo import demo as run_demo
from drawdown.replay import ReplayError
from drawdown.sandbox_process import SandboxError
from drawdown.settings import load
from drawdown.traces import TraceError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(epilog="Example: drawdown demo --limit 1000")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=0,
    help="Port of the service. Default: a free one.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data folder, kept; it can be used again. Default: a temporary one, removed at the end.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), help="Replay the first rows of each file only."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, CONCURRENCY_MAX),
    default=64,
    show_default=True,
    help="Requests under way at the same time.",
)
@click.option(
    "--traces",
    type=click.Path(exists=True, file_okay=False),
    help="Folder of the two traces. Default: DRAWDOWN_TRACES, else shared/data beside the clone,"
    " else the samples that come with drawdown.",
)
@click.pass_context
def demo(
    ctx: click.Context,
    *,
    port: int,
    data: Path | None,
    limit: int | None,
    concurrency: int,
    traces: str | None,
) -> None:
    """Start a service, replay two real traces, compare the sums, prove the books, stop.

    The service runs on a database of its own, whatever DATABASE_URL says. Exit code 1 if a sum
    differs or the books are not proved.
    """
    try:
        folder = find_traces(traces or load(os.environ).traces)
        with _data_folder(data) as kept:
            options = Options(
                run=new_run(),
                data=kept,
                port=port,
                traces=folder,
                concurrency=concurrency,
                row_limit=limit,
            )
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                code = runner.run(_run(options))
    except (
        DemoError,
        ReplayError,
        SandboxError,
        TraceError,
        TimeoutError,
        aiohttp.ClientError,
    ) as exc:
        raise click.ClickException(str(exc) or "the service gave no answer in time") from exc
    ctx.exit(code)


async def _run(options: Options) -> int:
    """The demo until its end or a signal; the service is stopped before this returns.

    Returns the exit code.
    """
    loop = asyncio.get_running_loop()
    working = asyncio.ensure_future(run_demo(options, click.echo))
    caught: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        # Only the first: stopping takes its time, which is bounded.
        if not caught:
            working.cancel()
        caught.append(number)

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return 0 if await working else 1
    except asyncio.CancelledError:
        if not caught:
            raise
        click.echo("drawdown: stopped before the end; the service is stopped too", err=True)
        return 128 + caught[0]


@contextmanager
def _data_folder(named: Path | None) -> Generator[Path]:
    """`named`, or a temporary folder that is removed at the end."""
    if named is not None:
        click.echo(f"data       {named}, kept")
        yield named
        return
    folder = Path(tempfile.mkdtemp(prefix="drawdown-demo-"))
    try:
        if os.geteuid() == 0:
            # PostgreSQL runs as another user, who must get through.
            folder.chmod(0o711)
        click.echo(f"data       {folder}, removed at the end")
        yield folder / "data"
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
