"""Which database a command works on: the embedded one of a data folder, or DATABASE_URL's."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from drawdown.embedded import Embedded
from drawdown.server_files import ServerError
from drawdown.settings import Settings
from ledger import customers
from sql.migrate import apply_role_settings, migrate, pending
from sql.pool import Connection, connect


class StartError(Exception):
    """The service can't start on this database or at this address. The message says what to do."""


@dataclass(frozen=True)
class Database:
    """The addresses of one database: for the service, and for the owner of the schema."""

    dsn: str
    owner_dsn: str
    embedded: Embedded | None

    @property
    def has_two_logins(self) -> bool:
        """Whether the service has a login of its own, that can't change the schema."""
        return self.dsn != self.owner_dsn


def default_data() -> Path:
    """The data folder if none is named: one for the user, wherever the command is called."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "drawdown"


def external(settings: Settings) -> Database | None:
    """The database of DATABASE_URL, or None if that is not set."""
    if settings.database_url is None:
        return None
    return Database(
        settings.database_url, settings.owner_database_url or settings.database_url, None
    )


@asynccontextmanager
async def opened(
    settings: Settings, data: Path | None, *, may_make: bool = False
) -> AsyncGenerator[Database]:
    """The database for a command that may run beside the service.

    That of the folder `data`, else of DATABASE_URL, else of the default folder. An embedded server
    that was not running is stopped at the end. `may_make`: makes it where there is none, and the
    folder must not be in use. Raises ServerError.
    """
    if data is None and (database := external(settings)) is not None:
        yield database
        return
    folder = data or default_data()
    if may_make:
        embedded = await Embedded.start(folder, settings.embedded_user)
    elif (folder / "postgres" / "PG_VERSION").exists():
        embedded = await Embedded.join(folder, settings.embedded_user)
    else:
        raise ServerError(
            f"{folder} holds no embedded database: name its folder (--data), or set DATABASE_URL"
        )
    try:
        yield Database(embedded.dsn, embedded.owner_dsn, embedded)
    finally:
        await embedded.stop()


@asynccontextmanager
async def connected(dsn: str) -> AsyncGenerator[Connection]:
    """A connection outside a pool, closed at the end. Raises DatabaseUnavailable."""
    conn = await connect(dsn)
    try:
        yield conn
    finally:
        await conn.close()


async def lacking(database: Database) -> list[str]:
    """Names of the migrations that are pending."""
    async with connected(database.dsn) as conn:
        return await pending(conn)


async def check_schema(database: Database) -> None:
    """Raise StartError if migrations are pending."""
    if names := await lacking(database):
        raise StartError(f"the database lacks {names[0]}: run `drawdown migrate`")


@asynccontextmanager
async def books(settings: Settings, data: Path | None) -> AsyncGenerator[Connection]:
    """A transaction on the books. Raises StartError where they are not ready for use."""
    async with opened(settings, data) as database:
        await check_schema(database)
        async with connected(database.dsn) as conn, conn.transaction():
            if await customers.installation(conn) is None:
                raise StartError(
                    "this database was never started: start `drawdown up` or `serve` first"
                )
            yield conn


async def bring_up_to_date(
    database: Database, *, up_to: int | None = None
) -> tuple[list[str], str | None]:
    """Migrate (to number `up_to`, if not to the last one) and set the service's role.

    Answers the names of what was applied, and a line for the operator if the role could not be set.
    Raises MigrationError.
    """
    async with connected(database.owner_dsn) as owner, connected(database.dsn) as service:
        login = str(await service.fetchval("SELECT current_user::text"))
        applied = await migrate(
            owner, app_login=login if database.has_two_logins else None, up_to=up_to
        )
        # A login may always set itself.
        return applied, await apply_role_settings(service, login)
