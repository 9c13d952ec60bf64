"""Brings a database to the schema of this release: numbered files, forward only, each once.

A migration is `migrations/NNNN_name.sql`, numbered from 0001 without gaps. Each runs in one
transaction together with its row in `schema_migrations`, so a killed migrator leaves only whole
migrations behind and the next run goes on. A file that ran must stay as it is; its checksum is
kept.

Roles. Migrations run as the owner of the schema and name one other role, `drawdown_app`: what the
service may do is granted to it there. It always exists when a migration runs:

- Two logins, the service's is `drawdown_app` (the embedded default): nothing to do.
- Two logins, the service's has another name: that login is made a member of `drawdown_app`.
- One login for both: `drawdown_app` exists without a login, only so that the grants are correct.
  The login owns the tables, so privileges don't hold it back; the triggers still do.

Where `drawdown_app` or the membership is missing, `migrate` creates it if its login may, else it
fails with the SQL that an administrator has to run.

Planner and timeout settings belong to the service's login (`apply_role_settings`), because a
pooler in transaction mode allows neither start-up parameters nor SET. Nothing here runs ANALYZE:
plans made on empty, analyzed tables scan whole tables later.
"""

import asyncio
import hashlib
import random
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import asyncpg

from sql.pool import Connection

MIGRATIONS = Path(__file__).parent / "migrations"
APP_ROLE = "drawdown_app"
OWNER_ROLE = "drawdown_owner"

LOCK_SECONDS_MAX = 1  # requests queue behind a waiting ALTER TABLE, so it must not wait long
ATTEMPTS_MAX = 20  # then somebody has to look at what holds the lock
MIGRATOR_WAIT_SECONDS_MAX = 60  # per attempt: another migrator may be moving a lot of data

# "drawdown" as two int4. A lock of the transaction, so it works through a pooler.
_LOCK = f"SELECT pg_advisory_xact_lock({0x64726177}, {0x646F776E})"
_FILE_NAME = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")

ROLE_SETTINGS = {
    # Plans are made once, on tables that may be empty: always by index, never a plan per call. A
    # hash or merge join would read all of a customer's rows to find a few.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "statement_timeout": "30s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    "timezone": "UTC",
    "synchronous_commit": "on",
}


_Result = TypeVar("_Result")


class MigrationError(Exception):
    """The migrations can't go on. The message says why and what to do; nothing is half done."""


class Migration(NamedTuple):
    """One migration file; `checksum` is the SHA-256 of its text with line ends as LF, in hex."""

    number: int
    name: str
    checksum: str
    text: str


def read_folder(folder: Path = MIGRATIONS) -> list[Migration]:
    """The migrations of `folder`, ascending. Raises MigrationError on a bad name, a gap, a twin."""
    found: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        if (match := _FILE_NAME.match(path.name)) is None:
            raise MigrationError(f"{path.name}: a migration is named NNNN_lower_case_name.sql")
        text = path.read_bytes().replace(b"\r\n", b"\n")
        checksum = hashlib.sha256(text).hexdigest()
        found.append(Migration(int(match[1]), path.stem, checksum, text.decode("utf-8")))
        if found[-1].number != len(found):
            raise MigrationError(f"{path.name}: the next number is {len(found):04}")
    return found


async def pending(conn: Connection, folder: Path = MIGRATIONS) -> list[str]:
    """Names of the migrations that this database still lacks, in order. Any login may ask.

    A database ahead of this release has none: release N runs on the schema of release N + 1.
    Raises MigrationError if what was applied differs from the files.
    """
    async with conn.transaction():
        applied = await _applied(conn)
    return [x.name for x in _missing(read_folder(folder), applied, may_be_ahead=True)]


async def migrate(
    owner_conn: Connection,
    folder: Path = MIGRATIONS,
    *,
    app_login: str | None = None,
    up_to: int | None = None,
) -> list[str]:
    """Apply what is pending, each migration in a transaction of its own; returns their names.

    `owner_conn` is outside a transaction. `app_login` is the service's login, if it is another
    than the owner's. `up_to` is the number of the last one to apply, if not all. Two migrators at
    once take turns. A lock on a table is waited for at most a second at a time. Raises
    MigrationError; what was applied before stays applied.
    """
    migrations = read_folder(folder)[:up_to]
    await _patiently("the table of migrations", lambda: _prepare(owner_conn, app_login))
    done: list[str] = []
    # One round more than there are files: the last one finds nothing left.
    for _ in range(len(migrations) + 1):
        name = await _patiently("the next migration", lambda: _apply_next(owner_conn, migrations))
        if name is None:
            break
        done.append(name)
    return done


async def _patiently(what: str, step: Callable[[], Awaitable[_Result]]) -> _Result:
    """Run one transaction, again if it could not have a lock. Raises MigrationError."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return await step()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if attempt == ATTEMPTS_MAX:
                raise MigrationError(
                    f"gave up on {what} after {ATTEMPTS_MAX} attempts: other work holds a lock that"
                    f" it needs ({error}). Nothing of it was applied; migrate again when long"
                    " transactions have ended."
                ) from error
        except asyncpg.PostgresError as error:
            raise MigrationError(f"{what}: {error}") from error
        # Lets the requests through that queued behind us.
        await asyncio.sleep(random.uniform(0.2, 0.8))
    raise AssertionError("the last attempt returns or raises")


async def _apply_next(conn: Connection, migrations: list[Migration]) -> str | None:
    """Apply the first pending migration and return its name, or None if there is none."""
    async with conn.transaction():
        await _begin(conn)
        missing = _missing(migrations, await _applied(conn), may_be_ahead=False)
        if not missing:
            return None
        following = missing[0]
        try:
            await conn.execute(following.text)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            raise
        except asyncpg.PostgresError as error:
            raise MigrationError(
                f"{following.name}: {error}. Nothing of it was applied."
            ) from error
        if not conn.is_in_transaction():
            raise MigrationError(f"{following.name} ends its transaction itself: leave out COMMIT")
        await conn.execute(
            "INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3)",
            following.number,
            following.name,
            following.checksum,
        )
        return following.name


async def _begin(conn: Connection) -> None:
    """Take the migrators' lock and set the limits of this transaction."""
    await conn.execute(
        f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{MIGRATOR_WAIT_SECONDS_MAX}s'"
    )
    await conn.execute(_LOCK)
    # The last one: with one login for both, its settings for the service don't fit a migration.
    await conn.execute(
        f"SET LOCAL lock_timeout = '{LOCK_SECONDS_MAX}s'; SET LOCAL enable_seqscan = on"
    )


async def _applied(conn: Connection) -> list[Migration]:
    """What `schema_migrations` says, ascending; nothing if there is no such table."""
    if await conn.fetchval("SELECT to_regclass('schema_migrations') IS NULL"):
        return []
    rows = await conn.fetch("SELECT number, name, checksum FROM schema_migrations ORDER BY number")
    return [Migration(row["number"], row["name"], row["checksum"], "") for row in rows]


def _missing(
    migrations: list[Migration], applied: list[Migration], *, may_be_ahead: bool
) -> list[Migration]:
    """The migrations that come after the applied ones. Raises MigrationError if those differ."""
    here = {x.number: x for x in migrations}
    for position, was in enumerate(applied, 1):
        if was.number != position:
            raise MigrationError(
                f"{was.name} was applied, but number {position:04} before it was not:"
                " this database was not made by these migrations"
            )
        if (now := here.get(was.number)) is None:
            if may_be_ahead:
                break
            raise MigrationError(
                f"{was.name} was applied but is not among the files: this database is of a newer"
                " release; use that release or bring the file back"
            )
        if now.name != was.name:
            raise MigrationError(f"{was.name} was applied, but the file is now called {now.name}")
        if now.checksum != was.checksum:
            raise MigrationError(
                f"{was.name} was changed after it was applied: bring the old text back and put the"
                " change into a new migration"
            )
    return migrations[len(applied) :]


async def _prepare(conn: Connection, app_login: str | None) -> None:
    """Make what the first migration relies on: the table of migrations and the app role."""
    async with conn.transaction():
        await _begin(conn)
        await _ensure_app_role(conn, app_login)
        if await conn.fetchval("SELECT to_regclass('schema_migrations') IS NULL"):
            await conn.execute(_SCHEMA_MIGRATIONS)


_SCHEMA_MIGRATIONS = f"""
CREATE TABLE schema_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE schema_migrations IS 'What the migrator has applied; written by nobody else.';
GRANT SELECT ON schema_migrations TO {APP_ROLE};
"""


async def _ensure_app_role(conn: Connection, app_login: str | None) -> None:
    me = await conn.fetchval("SELECT current_user::text")
    statements: list[str] = []
    if not await _role_exists(conn, APP_ROLE):
        statements.append(f"CREATE ROLE {APP_ROLE} NOLOGIN")
    if app_login is not None and app_login not in (APP_ROLE, me):
        if not await _role_exists(conn, app_login):
            raise MigrationError(f"this server has no login {app_login!r} for the service")
        if statements or not await conn.fetchval(
            "SELECT pg_has_role($1::name, $2::name, 'MEMBER')", app_login, APP_ROLE
        ):
            statements.append(f"GRANT {APP_ROLE} TO {quoted(app_login)}")
    if not statements:
        return
    try:
        async with conn.transaction():
            await conn.execute("; ".join(statements))
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationError(
            f"{me} may not manage roles. Run as an administrator, then migrate again: "
            + " ".join(f"{statement};" for statement in statements)
        ) from error


async def _role_exists(conn: Connection, role: str) -> bool:
    return bool(
        await conn.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role)
    )


async def apply_role_settings(
    conn: Connection, login: str, *, database: str | None = None
) -> str | None:
    """Set ROLE_SETTINGS for `login` in `database` (this one, if left out), for new connections.

    A superuser may, an administrator of the role, and the login itself. Otherwise the answer is
    one line for the operator with the SQL to run.
    """
    if database is None:
        database = str(await conn.fetchval("SELECT current_database()"))
    script = " ".join(
        f"ALTER ROLE {quoted(login)} IN DATABASE {quoted(database)} SET {name} = '{value}';"
        for name, value in ROLE_SETTINGS.items()
    )
    try:
        async with conn.transaction():
            await conn.execute(script)
    except asyncpg.InsufficientPrivilegeError:
        return f"the settings of the login {login} could not be made; run as {login}: {script}"
    return None


async def differing_role_settings(conn: Connection) -> list[str]:
    """Those of ROLE_SETTINGS that this connection doesn't have, as `name is X, wanted Y`."""
    async with conn.transaction():
        rows = await conn.fetch(
            "SELECT name, current_setting(name) AS value FROM unnest($1::text[]) AS name",
            list(ROLE_SETTINGS),
        )
    return [
        f"{row['name']} is {row['value']}, wanted {ROLE_SETTINGS[row['name']]}"
        for row in rows
        if row["value"] != ROLE_SETTINGS[row["name"]]
    ]


async def ensure_roles(
    superuser_conn: Connection, database: str, *, password: str | None = None
) -> None:
    """Create the two logins and `database`, owned by the owner, where they are missing.

    `password` is given to both, if any: a private socket with `trust` needs none. May be repeated,
    also after it was killed halfway.
    """
    for role in (OWNER_ROLE, APP_ROLE):
        if not await _role_exists(superuser_conn, role):
            await superuser_conn.execute(f"CREATE ROLE {role}")
        secret = "" if password is None else f" PASSWORD {_literal(password)}"
        await superuser_conn.execute(f"ALTER ROLE {role} LOGIN{secret}")
    if not await superuser_conn.fetchval(
        "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database
    ):
        await superuser_conn.execute(
            f"CREATE DATABASE {quoted(database)} OWNER {OWNER_ROLE}"
            " TEMPLATE template0 ENCODING 'UTF8'"
        )


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
