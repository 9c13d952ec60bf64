"""The service as a process: `up`, `serve` and `work` put together, and how they stop.

Everything is opened in one order and closed in the other. A stop that is asked for (by SIGTERM,
SIGINT or SIGHUP) goes in steps: not ready any more; requests still taken for some seconds, which a
second signal ends; the listener closed; all that has arrived answered; the database left.
"""

import asyncio
import gc
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import click
import structlog
from msgspec import Struct

from drawdown.database import (
    Database,
    StartError,
    bring_up_to_date,
    check_schema,
    connected,
    external,
    lacking,
)
from drawdown.embedded import Embedded
from drawdown.metrics_app import metrics_app
from drawdown.sandbox_file import SANDBOX_FILE, stand_in_beside
from drawdown.server_files import make_folder
from drawdown.settings import Settings
from drawdown.stripe_keys import fixed_account, stripe_config
from jobs.runner import Runner
from jobs.schedule import TIMETABLE, Clock
from jobs.stripe_gateway import Gateway
from ledger import customers
from ledger.customers import Installation
from meter.app import create_app
from meter.server import App, Server
from meter.service import REPORTS_AT_ONCE_MAX, Config, Service
from meter.stripe_port import StripeConfig
from sql.migrate import differing_role_settings
from sql.pool import Pool, check_server, open_pool, transaction

ANSWER_SECONDS_MAX: Final = 8.5
"""After the drain: longer than any request may wait in the queue (8 s)."""
CLOSE_SECONDS_MAX: Final = 1.0
"""For what should be idle by then. All in all a process has 30 s to stop."""
ZONE: Final = "DRAWDOWN_BOOKS_TIME_ZONE"

log = structlog.get_logger()


class Plan(Struct, frozen=True, kw_only=True):
    """What this process is. `data` is the folder of the embedded database, if it may have one."""

    serves: bool
    works: bool
    host: str = "127.0.0.1"
    port: int = 0
    data: Path | None = None
    is_sandbox: bool = False
    books_time_zone: str | None = None
    """As the environment names it; None: it does not, so the database's own is right."""


class Stopping:
    """The wish to stop: `asked` by the first signal, `hurried` by the second."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()

    def signal(self) -> None:
        """A signal came."""
        (self.hurried if self.asked.is_set() else self.asked).set()

    def listen(self) -> None:
        """Hear the signals of this process, unless it was started to ignore one (nohup)."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self.signal)


def asked_zone(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """The books' time zone if the environment names one."""
    return settings.books_time_zone.key if environ.get(ZONE) else None


async def run(plan: Plan, settings: Settings) -> None:
    """Run the process until it is told to stop. Raises StartError and what its parts raise."""
    stopping = Stopping()
    stopping.listen()
    async with AsyncExitStack() as stack:
        starting = asyncio.create_task(_start(plan, settings, stack))
        asked = asyncio.create_task(stopping.asked.wait())
        await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            return
        process = starting.result()
        await asked
        await process.stop(settings.drain_seconds, stopping)


class Process:
    """The parts that run, once everything is open."""

    def __init__(
        self,
        service: Service,
        runner: Runner,
        server: Server | None,
        clock: Clock | None,
        metrics: Server | None,
    ) -> None:
        self.service, self.runner = service, runner
        self.server, self.clock, self.metrics = server, clock, metrics

    async def stop(self, drain_seconds: float, stopping: Stopping) -> None:
        """Stop without dropping a request."""
        log.info("stopping", drain_seconds=drain_seconds if self.server else 0)
        self.service.drain()
        if self.clock is not None:
            self.clock.stop()
        jobs_end = asyncio.create_task(self.runner.stop())
        if self.server is not None:
            self.server.drain()
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.hurried.wait(), drain_seconds)
            await self.server.stop(ANSWER_SECONDS_MAX)
        await jobs_end
        if self.metrics is not None:
            await self.metrics.stop(CLOSE_SECONDS_MAX)


async def _start(plan: Plan, settings: Settings, stack: AsyncExitStack) -> Process:
    """Open everything in order; `stack` closes it."""
    if not plan.is_sandbox:
        stripe_config(settings)  # before anything is made
    database = await stack.enter_async_context(_database(plan, settings))
    if plan.data is not None:
        # Of a killed start: it must not be taken for ours.
        (plan.data / SANDBOX_FILE).unlink(missing_ok=True)
    await _prepare(database)
    pool = await stack.enter_async_context(_pool(database, settings))
    installation = await _installation(pool, settings, plan)
    stripe, stand_in = await fixed_account(pool, settings, installation), None
    if plan.is_sandbox and plan.data is not None:
        from drawdown.standin import open_stand_in  # takes half a second that others don't need

        stand_in = await stack.enter_async_context(open_stand_in(pool, plan.data))
        stripe = stand_in.config()
    config = config_of(settings, installation, stripe)
    service = await stack.enter_async_context(_service(pool, config, settings.reports_database_url))
    service.companion = stand_in
    runner = Runner(service, TIMETABLE)
    service.jobs = runner
    metrics = await _serve_metrics(service, settings)
    server, url = None, ""
    if plan.serves:
        server = Server()
        await _listen(server, create_app(service), plan.host, plan.port)
        url = f"http://{_in_url(plan.host)}:{server.port}"
    if stand_in is not None and plan.data is not None:
        stand_in.serve(url)
        file = plan.data / SANDBOX_FILE
        await stand_in.tell(file, pool, url=url, database_url=database.dsn)
        stack.callback(file.unlink, missing_ok=True)
    clock = None
    if plan.works:
        clock = Clock(runner, service.metrics)
        clock.start()
    click.echo(f"drawdown ready on {url}" if url else "drawdown is working")
    return Process(service, runner, server, clock, metrics)


@asynccontextmanager
async def _database(plan: Plan, settings: Settings) -> AsyncGenerator[Database]:
    """DATABASE_URL's, else the embedded one, which ends with this process."""
    database = external(settings)
    if database is not None:
        if plan.is_sandbox and plan.data is not None:
            make_folder(plan.data)
        yield database
        return
    if plan.data is None:
        raise StartError(
            "set DATABASE_URL: only `drawdown up` brings a PostgreSQL of its own along"
        )
    async with await Embedded.start(plan.data, settings.embedded_user) as embedded:
        yield Database(embedded.dsn, embedded.owner_dsn, embedded)


async def _prepare(database: Database) -> None:
    """A server that keeps what it acknowledges, and the schema of this release."""
    async with connected(database.dsn) as conn:
        await check_server(conn)
    if database.embedded is not None:
        applied, _ = await bring_up_to_date(database)
        if applied:
            log.info("migrated", applied=applied)
        return
    if names := await lacking(database):
        raise StartError(
            f"the database lacks {', '.join(names)}: run `drawdown migrate` as its owner, then"
            " start again"
        )
    async with connected(database.dsn) as conn:
        if differing := await differing_role_settings(conn):
            log.warning("role_settings_differ", found=differing, remedy="drawdown migrate")


@asynccontextmanager
async def open_service(
    database: Database, settings: Settings, data: Path | None = None
) -> AsyncGenerator[Service]:
    """The books for a command, on any kind of database.

    If a sandbox runs on the folder `data` and this database, its Stripe is ours. Raises StartError
    (migrations are pending, too), SettingsError.
    """
    await check_schema(database)
    async with _pool(database, settings) as pool:
        installation = await _installation(pool, settings, None)
        stripe = await fixed_account(pool, settings, installation)
        if installation.mode == "sandbox" and data is not None:
            stripe = stand_in_beside(data, database.dsn)
        config = config_of(settings, installation, stripe)
        async with _service(pool, config, settings.reports_database_url) as service:
            yield service


@asynccontextmanager
async def _service(pool: Pool, config: Config, reports_dsn: str | None) -> AsyncGenerator[Service]:
    """The books, ready for requests. `reports_dsn`: a copy of the database, for reports."""
    service = await Service.start(pool, config)
    if reports_dsn is not None:
        # Not eager: without the copy there are no reports, and everything else goes on.
        service.reports_pool = await open_pool(
            reports_dsn, size=REPORTS_AT_ONCE_MAX, statement_cache=0, is_eager=False
        )
    gateway = None if config.stripe is None else Gateway(config.stripe)
    service.stripe = gateway
    collect_less()
    try:
        yield service
    finally:
        if gateway is not None:
            await gateway.close()
        if service.reports_pool is not pool:
            service.reports_pool.terminate()
        try:
            await asyncio.wait_for(service.close(), CLOSE_SECONDS_MAX + ANSWER_SECONDS_MAX)
        except TimeoutError:
            log.error("requests_cut_off")


@asynccontextmanager
async def _pool(database: Database, settings: Settings) -> AsyncGenerator[Pool]:
    pool = await open_pool(database.dsn, size=settings.db_pool_max)
    try:
        yield pool
    finally:
        try:
            await asyncio.wait_for(pool.close(), CLOSE_SECONDS_MAX)
        except TimeoutError:
            pool.terminate()


def collect_less() -> None:
    """Look for garbage cycles less often: requests leave next to none, and looking cost 8 %."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _installation(pool: Pool, settings: Settings, plan: Plan | None) -> Installation:
    """What is fixed at the first start, made if this is it. Raises StartError if it is other."""
    async with transaction(pool) as conn:
        if plan is not None:
            await customers.make_installation(
                conn,
                mode="sandbox" if plan.is_sandbox else None,
                books_time_zone=settings.books_time_zone.key,
            )
        found = await customers.installation(conn)
    if found is None:
        raise StartError("this database was never started: start `drawdown up` or `serve` first")
    if plan is not None:
        _check_installation(found, plan)
    return found


def _check_installation(found: Installation, plan: Plan) -> None:
    if plan.is_sandbox and found.mode != "sandbox":
        raise StartError(
            "this database holds real books and can't become a sandbox: start it without --sandbox,"
            " or use another folder (--data) or database"
        )
    if not plan.is_sandbox and found.mode == "sandbox":
        raise StartError(
            "this database is a sandbox: start it with `drawdown up --sandbox`, or use another"
            " folder (--data) or database"
        )
    if plan.books_time_zone not in (None, found.books_time_zone):
        raise StartError(
            f"{ZONE} is {plan.books_time_zone}, but the accounting days of these books are those of"
            f" {found.books_time_zone} since the first start: set that, or leave it out"
        )


def config_of(
    settings: Settings, installation: Installation, stripe: StripeConfig | None = None
) -> Config:
    """The service's configuration."""
    grant, limit = settings.signup_grant, settings.rate_limit
    return Config(
        create_customers=settings.create_customers,
        signup_amount=grant and grant.amount,
        signup_expires_in=grant and grant.expires_in,
        signup_priority=50 if grant is None else grant.priority,
        clawback=settings.clawback,
        usage_stream=settings.usage_stream,
        freeze_on_fraud_warning=settings.freeze_on_fraud_warning,
        portal_cancel=settings.portal_cancel,
        past_due_grace=timedelta(seconds=settings.past_due_grace_seconds),
        hold_lifetime_max=timedelta(seconds=settings.hold_lifetime_max),
        event_retention=timedelta(days=settings.event_retention_days),
        late_usage=settings.late_usage,
        late_grace=timedelta(seconds=settings.late_grace_seconds),
        stripe=stripe,
        queue_max=settings.queue_max,
        queue_seconds_max=settings.queue_seconds_max,
        rate_limit=limit and (limit.requests, limit.seconds),
        cors_origins=settings.cors_origins,
        is_sandbox=installation.mode == "sandbox",
        books_time_zone=ZoneInfo(installation.books_time_zone),
        metrics_open=settings.metrics_bind is None,
    )


async def _serve_metrics(service: Service, settings: Settings) -> Server | None:
    if (address := settings.metrics_bind) is None:
        return None
    server = Server()
    await _listen(server, metrics_app(service.metrics), address.host, address.port)
    return server


async def _listen(server: Server, app: App, host: str, port: int) -> None:
    try:
        await server.start(app, host, port)
    except OSError as error:
        words = str(error) if error.errno is None else os.strerror(error.errno)
        raise StartError(f"can't listen on {_in_url(host)}:{port}: {words}") from error


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
