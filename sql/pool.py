"""The pool of connections and the one way to run a transaction on it.

Nothing here needs a session: no start-up parameters, no LISTEN, no session locks, no temporary
tables. So a pooler in transaction mode (pgbouncer) may stand in between. Settings come from the
login (`sql.migrate.apply_role_settings`) or from SET LOCAL.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from asyncpg.transaction import Transaction

from sql.errors import (
    DatabaseBusy,
    DatabaseFault,
    DatabaseUnavailable,
    OutcomeUnknown,
    ends_connection,
    translate,
)

SERVER_VERSION_MIN = 15
CONNECT_SECONDS_MAX = 5
# Longer than any statement may take on the server (30 s): reached only if the network is dead.
COMMAND_SECONDS_MAX = 45
ACQUIRE_SECONDS_MAX = 0.9  # a caller hears 503 within a second
STATEMENT_CACHE = 1_000  # statements a connection; there are a few hundred in all
# asyncpg closes a connection after so many queries and then prepares every statement again.
QUERIES_PER_CONNECTION_MAX = 100_000_000

# What using a connection raises that is broken or about to be.
_BROKEN = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy
Pool: TypeAlias = asyncpg.Pool


class ServerRefused(Exception):
    """This server would lose or garble acknowledged work. The message lists every reason."""


class _Connection(asyncpg.Connection):
    """A connection whose COMMIT can't fail silently."""

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:  # noqa: ASYNC109 (asyncpg's own signature)
        status = await super().execute(query, *args, timeout=timeout)
        # PostgreSQL answers ROLLBACK, not an error, to the COMMIT of a transaction in which a
        # statement failed and somebody swallowed the error. Nobody may take that for success.
        if status == "ROLLBACK" and query == "COMMIT;":
            raise asyncpg.InFailedSQLTransactionError(
                "nothing was committed: an earlier statement of the transaction had failed"
            )
        return status


async def _keep_session(_: asyncpg.Connection) -> None:
    """Replaces asyncpg's clean-up query, a round trip per release: we leave nothing to clean.

    A transaction left open is rolled back by asyncpg before this is called.
    """


async def connect(dsn: str, *, statement_cache: int = 0) -> Connection:
    """One connection outside a pool. Raises DatabaseUnavailable if the server can't be reached.

    Without a statement cache it works behind a pooler, inside a transaction.
    """
    try:
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_SECONDS_MAX,
            statement_cache_size=statement_cache,
            connection_class=_Connection,
        )
    except (OSError, asyncpg.PostgresError) as error:
        raise _unreachable(error) from error


async def open_pool(
    dsn: str, *, size: int, statement_cache: int | None = None, is_eager: bool = True
) -> Pool:
    """A pool of at most `size` connections that heals by itself after the server was away.

    `statement_cache`: prepared statements kept by each connection. 0 behind a pooler in
    transaction mode; None finds out whether there is one. Unless told not to be eager it raises
    DatabaseUnavailable if the server can't be reached, and asyncpg's own errors for a wrong
    password or database name.
    """
    if statement_cache is None:
        statement_cache = 0 if await behind_pooler(dsn) else STATEMENT_CACHE
    try:
        return await asyncpg.create_pool(
            dsn,
            # One at once, to hear of a wrong login now. No floor: keeping one would only
            # fill the log with failures while the server is away.
            init_size=1 if is_eager else 0,
            min_size=0,
            max_size=size,
            max_queries=QUERIES_PER_CONNECTION_MAX,
            timeout=CONNECT_SECONDS_MAX,
            command_timeout=COMMAND_SECONDS_MAX,
            statement_cache_size=statement_cache,
            # Never prepare again because of age or length: set-based statements are long.
            max_cached_statement_lifetime=0,
            max_cacheable_statement_size=0,
            connection_class=_Connection,
            reset=_keep_session,
        )
    except (OSError, asyncpg.PostgresError) as error:
        raise _unreachable(error) from error


async def behind_pooler(dsn: str) -> bool:
    """True if another program answers in the server's place, so that sessions are not ours.

    A pooler gives each client a number of its own where PostgreSQL gives its process id.
    """
    conn = await connect(dsn)
    try:
        async with conn.transaction():
            return await conn.fetchval("SELECT pg_backend_pid()") != conn.get_server_pid()
    finally:
        await conn.close(timeout=CONNECT_SECONDS_MAX)


async def check_server(conn: Connection) -> None:
    """Raise ServerRefused unless what this server has acknowledged survives its crash.

    Checked: version, `fsync`, `full_page_writes`, `synchronous_commit` (as this login has them),
    UTF8, and that it is no read-only copy. There is no switch to skip it.
    """
    async with conn.transaction():
        row = await conn.fetchrow(_SERVER_FACTS)
    assert row is not None, "a SELECT without FROM has one row"
    reasons: list[str] = []
    if row["version"] < SERVER_VERSION_MIN * 10_000:
        reasons.append(f"it is PostgreSQL {row['version_name']}, needed is {SERVER_VERSION_MIN}")
    reasons += [
        f"{name} is off"
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if row[name] == "off"
    ]
    if row["encoding"] != "UTF8":
        reasons.append(f"the database's encoding is {row['encoding']}, needed is UTF8")
    if row["is_copy"]:
        reasons.append("it is a read-only copy (a standby)")
    if reasons:
        raise ServerRefused("this PostgreSQL can't keep the books: " + "; ".join(reasons))


_SERVER_FACTS = """
SELECT current_setting('server_version_num')::int AS version,
       current_setting('server_version') AS version_name,
       current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('server_encoding') AS encoding,
       pg_is_in_recovery() AS is_copy
"""


@asynccontextmanager
async def transaction(
    pool: Pool, *, snapshot: bool = False, acquire_seconds_max: float = ACQUIRE_SECONDS_MAX
) -> AsyncGenerator[Connection]:
    """A connection in a READ COMMITTED transaction: committed at the end, rolled back on an error.

    With `snapshot`: REPEATABLE READ and read-only, for reads of many statements.

    Raises DatabaseBusy (no free connection in time; a lock or a statement took too long),
    DatabaseUnavailable and TransactionConflict, all with nothing written; OutcomeUnknown if the
    connection was lost while COMMIT was on its way. Other errors pass through after the rollback.
    """
    conn = await _acquire(pool, acquire_seconds_max)
    try:
        work = (
            conn.transaction(isolation="repeatable_read", readonly=True)
            if snapshot
            else conn.transaction()
        )
        try:
            await work.start()
            yield conn
        except BaseException as error:
            await _roll_back(conn, work)
            if (fault := _fault(conn, error)) is not None and fault is not error:
                raise fault from error
            raise
        try:
            await work.commit()
        except Exception as error:
            raise _failed_commit(conn, error) from error
    finally:
        await _release(pool, conn)


async def _acquire(pool: Pool, seconds: float) -> PoolConnectionProxy:
    try:
        return await pool.acquire(timeout=seconds)
    except TimeoutError as error:
        raise DatabaseBusy(f"no free database connection within {seconds} s") from error
    except asyncpg.InterfaceError as error:
        raise DatabaseUnavailable(f"the pool is closed: {error}") from error
    except (OSError, asyncpg.PostgresError) as error:
        fault = _unreachable(error)
        if not isinstance(fault, DatabaseFault):
            # The login was right when the pool was opened: somebody is changing the server.
            fault = DatabaseUnavailable(f"the database takes no connection: {error}")
        raise fault from error


async def _release(pool: Pool, conn: PoolConnectionProxy) -> None:
    try:
        await pool.release(conn)
    except _BROKEN:
        # The connection broke; asyncpg has closed it and the pool will open a new one.
        # What became of the work is already known.
        return


async def _roll_back(conn: Connection, work: Transaction) -> None:
    if _is_closed(conn):
        return
    try:
        await work.rollback()
    except _BROKEN:
        # Not begun, or the connection is gone: the server rolls back by itself.
        _terminate(conn)


def _fault(conn: Connection, error: BaseException) -> DatabaseFault | None:
    if (fault := translate(error)) is not None:
        return fault
    # asyncpg blames the caller for using a connection that is closed, or just being closed.
    if isinstance(error, asyncpg.InternalClientError) or (
        isinstance(error, asyncpg.InterfaceError) and _is_closed(conn)
    ):
        return DatabaseUnavailable(f"the connection was lost: {error}")
    return None


def _failed_commit(conn: Connection, error: Exception) -> Exception:
    """What the failure of a COMMIT means: unknown, unless PostgreSQL itself refused it."""
    is_broken = isinstance(error, asyncpg.InternalClientError)
    if is_broken or _is_closed(conn) or ends_connection(error):
        _terminate(conn)
        return OutcomeUnknown(f"the connection was lost while committing: {error}")
    return translate(error) or error


def _is_closed(conn: Connection) -> bool:
    try:
        return conn.is_closed()
    except asyncpg.InterfaceError:
        # asyncpg takes a broken connection back into the pool under our feet.
        return True


def _terminate(conn: Connection) -> None:
    if not _is_closed(conn):
        conn.terminate()


def _unreachable(error: OSError | asyncpg.PostgresError) -> Exception:
    """A DatabaseFault where the server is away; the error itself where the login is wrong."""
    if isinstance(error, OSError):
        return DatabaseUnavailable(f"the database can't be reached: {error}")
    return translate(error) or error
