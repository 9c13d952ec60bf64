"""The doctor: looks at settings, server, logins and clocks, and says what to do about each.

A finding is `ok`, `warn` (it works, but read it) or `fail` (it does not work, or not safely).
"""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, Literal

import asyncpg
from asyncpg import Record
from msgspec import Struct

from drawdown.database import Database, connected
from drawdown.settings import Settings, SettingsError
from drawdown.stripe_keys import (
    SECRET_KEY,
    STRIPE_ITSELF,
    mode_of,
    names_set,
    stripe_config,
    wrong_mode,
)
from jobs.schedule import TIMETABLE
from ledger import customers
from ledger.proofs import prove
from sql import queries
from sql.errors import DatabaseFault
from sql.migrate import MigrationError, differing_role_settings, pending
from sql.pool import Connection, ServerRefused, behind_pooler, check_server

SKEW_SECONDS_MAX: Final = 1.0
"""Between this host and the database. Books go by the database's clock; logs and TLS by ours."""
LATE_PERIODS_MAX: Final = 3
"""A job that missed so many of its times does not run at all."""
LATE_SECONDS_MIN: Final = 60.0

State = Literal["ok", "warn", "fail"]


class Finding(Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    state: State
    detail: str


async def examine(
    database: Database, settings: Settings, zone: str | None, *, after_restore: bool
) -> list[Finding]:
    """Look at everything. `zone`: the books' time zone as the environment names it, if it does."""
    try:
        async with connected(database.dsn) as conn:
            found = [await _server(conn), await _logins(conn)]
            found.append(await _pooler(database))
            found.append(await _role_settings(conn))
            found.append(await _connections(conn, settings))
            found.append(await _clock(conn))
            found.append(await _migrations(conn))
            if found[-1].state != "fail":
                found.append(await _installation(conn, zone))
                found.append(await _stripe(conn, settings))
                found.append(await _jobs(conn))
        if after_restore and all(x.name != "migrations" or x.state == "ok" for x in found):
            async with connected(database.owner_dsn) as owner:
                found += await _restored(owner)
    except (DatabaseFault, asyncpg.PostgresError) as error:
        return [Finding("database", "fail", str(error))]
    return found


async def _server(conn: Connection) -> Finding:
    version = conn.get_settings().server_version
    try:
        await check_server(conn)
    except ServerRefused as error:
        return Finding("server", "fail", str(error))
    return Finding("server", "ok", f"PostgreSQL {version} keeps what it has acknowledged")


async def _logins(conn: Connection) -> Finding:
    row = await _login(conn)
    login = row["login"]
    if row["is_superuser"]:
        return Finding("logins", "warn", f"the service is the superuser {login}: give it a login")
    if row["is_owner"]:
        return Finding(
            "logins",
            "warn",
            f"one login ({login}) for schema and service: it could change history. Make two, and"
            " set DRAWDOWN_OWNER_DATABASE_URL",
        )
    return Finding("logins", "ok", f"the service is {login} and owns no table")


async def _pooler(database: Database) -> Finding:
    if await behind_pooler(database.dsn):
        return Finding("pooler", "ok", "a pooler stands in between: statements are not prepared")
    return Finding("pooler", "ok", "no pooler in between")


async def _role_settings(conn: Connection) -> Finding:
    differing = await differing_role_settings(conn)
    if differing:
        return Finding(
            "role settings",
            "warn",
            f"{'; '.join(differing)}: `drawdown migrate` sets them, for new connections",
        )
    return Finding("role settings", "ok", "planner and timeouts are as they should be")


async def _connections(conn: Connection, settings: Settings) -> Finding:
    async with _short(conn):
        row = await conn.fetchrow(queries.connections_read)
    assert row is not None, "a SELECT without FROM has one row"
    wanted, allowed, used = settings.db_pool_max, row["allowed"], row["used"]
    told = f"a process takes up to {wanted} of {allowed} connections, {used} are in use"
    if wanted > allowed:
        return Finding("connections", "fail", f"{told}: lower DRAWDOWN_DB_POOL_MAX")
    if wanted > allowed - used:
        return Finding("connections", "warn", f"{told}: raise max_connections, or lower the pools")
    return Finding("connections", "ok", told)


async def _clock(conn: Connection) -> Finding:
    async with _short(conn):
        # The second: the first may wait for the plan.
        await conn.fetchval(queries.real_clock_read)
        began, started = time.perf_counter(), datetime.now(UTC)
        theirs: datetime = await conn.fetchval(queries.real_clock_read)
        half = (time.perf_counter() - began) / 2
    skew = (theirs - started).total_seconds() - half
    told = f"this host is {abs(skew):.3f} s {'behind' if skew > 0 else 'ahead of'} the database"
    if abs(skew) > SKEW_SECONDS_MAX:
        return Finding("clock", "warn", f"{told}: books go by the database; set both by NTP")
    return Finding("clock", "ok", told)


async def _migrations(conn: Connection) -> Finding:
    try:
        names = await pending(conn)
    except MigrationError as error:
        return Finding("migrations", "fail", str(error))
    if names:
        return Finding("migrations", "fail", f"pending: {', '.join(names)}: `drawdown migrate`")
    return Finding("migrations", "ok", "the schema is that of this release, or a newer one")


async def _installation(conn: Connection, zone: str | None) -> Finding:
    async with _short(conn):
        found = await customers.installation(conn)
    if found is None:
        return Finding("installation", "ok", "never started yet")
    if zone not in (None, found.books_time_zone):
        return Finding(
            "installation",
            "fail",
            f"DRAWDOWN_BOOKS_TIME_ZONE is {zone}, the books are in {found.books_time_zone}",
        )
    mode = found.mode or "no mode yet"
    return Finding(
        "installation", "ok", f"{found.installation_id}, {mode}, books in {found.books_time_zone}"
    )


async def _stripe(conn: Connection, settings: Settings) -> Finding:
    """Whether the keys fit together and to the books. Stripe is not asked."""
    async with _short(conn):
        installation = await customers.installation(conn)
    mode = None if installation is None else installation.mode
    if mode == "sandbox":
        if names := names_set(settings):
            return Finding("stripe", "warn", f"ignored in a sandbox: {', '.join(names)}")
        return Finding("stripe", "ok", "the stand-in, as long as `drawdown up --sandbox` runs")
    try:
        config = stripe_config(settings)
    except SettingsError as error:
        return Finding("stripe", "fail", str(error))
    if config is None and mode is not None:
        return Finding("stripe", "warn", f"{SECRET_KEY} is not set, but these books sold before")
    if config is None:
        return Finding("stripe", "ok", "not configured: nothing is sold")
    wanted = mode_of(config)
    if mode not in (None, wanted):
        return Finding("stripe", "fail", wrong_mode(wanted, mode))
    told = f"{wanted} mode, at {config.api_base or STRIPE_ITSELF}; the key was not tried"
    if config.publishable_key is None:
        return Finding("stripe", "ok", f"{told}; no publishable key, which forms of yours need")
    return Finding("stripe", "ok", told)


async def _jobs(conn: Connection) -> Finding:
    seconds: Mapping[str, float] = {x.name: x.every.total_seconds() for x in TIMETABLE}
    async with _short(conn):
        rows = await conn.fetch(queries.jobs_read, list(seconds), list(seconds.values()))
    late = [
        f"{row['job']} by {row['overdue_seconds']:.0f} s"
        + (f" (last error: {row['error']})" if row["error"] else "")
        for row in rows
        if (row["overdue_seconds"] or 0)
        > max(LATE_SECONDS_MIN, LATE_PERIODS_MAX * seconds[row["job"]])
    ]
    if late:
        return Finding(
            "jobs", "warn", f"overdue: {', '.join(late)}: is `drawdown up` or `work` running?"
        )
    return Finding("jobs", "ok", "every job is in time")


async def _login(conn: Connection) -> Record:
    async with _short(conn):
        row = await conn.fetchrow(queries.logins_read)
    assert row is not None, "a SELECT without FROM has one row"
    return row


async def _restored(owner: Connection) -> list[Finding]:
    """What a restore must have left: its epoch, sequences that go on, books that are proved."""
    async with _short(owner):
        epoch: int = await owner.fetchval(queries.epoch_read) or 0
    found = [
        Finding("epoch", "ok", f"restored: epoch {epoch}")
        if epoch > 1
        else Finding("epoch", "fail", "this database was not made by `drawdown restore`")
    ]
    found.append(await _sequences(owner))
    if failures := await prove(owner, chain=True):
        told = f"NOT proved, {len(failures)} failures: see `drawdown verify`"
        return [*found, Finding("books", "fail", told)]
    return [*found, Finding("books", "ok", "proved, every hash too")]


async def _sequences(owner: Connection) -> Finding:
    row = await _login(owner)
    if not (row["is_owner"] or row["is_superuser"]):
        return Finding("sequences", "warn", "not seen: set DRAWDOWN_OWNER_DATABASE_URL")
    async with _short(owner):
        behind = [row["name"] for row in await owner.fetch(queries.sequences_behind)]
    if behind:
        return Finding("sequences", "fail", f"would give numbers again: {', '.join(behind)}")
    return Finding("sequences", "ok", "go on after the highest number")


@asynccontextmanager
async def _short(conn: Connection) -> AsyncGenerator[None]:
    """A read-only transaction: behind a pooler nothing works outside one."""
    async with conn.transaction(readonly=True):
        yield
