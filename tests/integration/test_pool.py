"""The pool and its transactions: what is committed, what each failure means, and healing."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from drawdown.server_files import choose_account
from sql.errors import (
    DatabaseBusy,
    DatabaseFault,
    DatabaseUnavailable,
    OutcomeUnknown,
    TransactionConflict,
)
from sql.migrate import migrate
from sql.pool import (
    Connection,
    Pool,
    ServerRefused,
    behind_pooler,
    check_server,
    connect,
    open_pool,
    transaction,
)
from tests.servers import Server, connected, open_folder

DIE = "SELECT pg_terminate_backend(pg_backend_pid())"
TABLES = """
CREATE TABLE notes (id integer PRIMARY KEY, text text);
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_terminate_backend(pg_backend_pid());
    RETURN NULL;
END $$;
CREATE TABLE deadly (id integer);
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON deadly
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die();
"""


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    """A server that these tests may stop and kill."""
    made = Server()
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
async def tables(server: Server) -> None:
    async with connected(server.url()) as conn:
        await conn.execute(TABLES)


@pytest.fixture
async def pool(server: Server, tables: None) -> AsyncGenerator[Pool]:
    """Three connections of a superuser; no notes."""
    opened = await open_pool(server.url(), size=3)
    async with opened.acquire() as conn:
        await conn.execute("TRUNCATE notes")
    yield opened
    await opened.close()


async def add(pool: Pool, number: int) -> None:
    async with transaction(pool) as conn:
        await conn.execute("INSERT INTO notes VALUES ($1)", number)


async def run(pool: Pool, *statements: str) -> None:
    """The statements in one transaction."""
    async with transaction(pool) as conn:
        for statement in statements:
            await conn.execute(statement)


async def notes(pool: Pool) -> list[int]:
    async with transaction(pool) as conn:
        return [row["id"] for row in await conn.fetch("SELECT id FROM notes ORDER BY id")]


async def test_transaction_commits_at_the_end_and_rolls_back_on_an_error(pool: Pool) -> None:
    await add(pool, 1)
    with pytest.raises(asyncpg.UniqueViolationError):
        await add(pool, 1)

    async def fail() -> None:
        async with transaction(pool) as conn:
            await conn.execute("INSERT INTO notes VALUES (2)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await notes(pool) == [1]


async def test_transaction_with_a_swallowed_error_is_no_success(pool: Pool) -> None:
    async def swallow() -> None:
        async with transaction(pool) as conn:
            await conn.execute("INSERT INTO notes VALUES (1)")
            with contextlib.suppress(asyncpg.UniqueViolationError):
                await conn.execute("INSERT INTO notes VALUES (1)")

    with pytest.raises(asyncpg.InFailedSQLTransactionError, match="nothing was committed"):
        await swallow()
    assert await notes(pool) == []


async def test_transaction_with_a_failed_savepoint_commits_the_rest(pool: Pool) -> None:
    async with transaction(pool) as conn:
        await conn.execute("INSERT INTO notes VALUES (1)")
        with pytest.raises(asyncpg.UniqueViolationError):
            async with conn.transaction():
                await conn.execute("INSERT INTO notes VALUES (1)")

    assert await notes(pool) == [1]


async def test_transaction_without_a_free_connection_is_busy_within_a_second(pool: Pool) -> None:
    async with transaction(pool), transaction(pool), transaction(pool):
        async with asyncio.timeout(1):
            with pytest.raises(DatabaseBusy, match=r"no free database connection within 0\.9 s"):
                await add(pool, 1)

    await add(pool, 1)


async def test_transaction_that_waits_too_long_for_a_lock_is_busy(pool: Pool) -> None:
    await add(pool, 1)
    async with transaction(pool) as first:
        await first.execute("SELECT FROM notes FOR UPDATE")
        with pytest.raises(DatabaseBusy) as busy:
            await run(pool, "SET LOCAL lock_timeout = '10ms'", "SELECT FROM notes FOR UPDATE")

    assert busy.value.sqlstate == "55P03"


async def test_transaction_in_a_deadlock_is_a_conflict(pool: Pool) -> None:
    await add(pool, 1)
    await add(pool, 2)
    barrier = asyncio.Barrier(2)

    async def lock(*numbers: int) -> None:
        async with transaction(pool) as conn:
            await conn.execute("SET LOCAL deadlock_timeout = '10ms'")
            await conn.execute("SELECT FROM notes WHERE id = $1 FOR UPDATE", numbers[0])
            await barrier.wait()
            await conn.execute("SELECT FROM notes WHERE id = $1 FOR UPDATE", numbers[1])

    ends = await asyncio.gather(lock(1, 2), lock(2, 1), return_exceptions=True)

    [conflict] = [end for end in ends if end is not None]
    assert isinstance(conflict, TransactionConflict)
    assert conflict.sqlstate == "40P01"


async def test_transaction_on_a_table_that_a_migration_changed_is_a_conflict_once(
    pool: Pool, server: Server
) -> None:
    async def read() -> None:
        async with transaction(pool) as conn:
            await conn.fetch("SELECT * FROM notes")

    await read()
    async with connected(server.url()) as migrator:
        await migrator.execute("ALTER TABLE notes ADD COLUMN more text")
    try:
        with pytest.raises(TransactionConflict):
            await read()
        await read()
    finally:
        async with connected(server.url()) as migrator:
            await migrator.execute("ALTER TABLE notes DROP COLUMN more")


async def test_connection_lost_before_commit_wrote_nothing(pool: Pool) -> None:
    with pytest.raises(DatabaseUnavailable):
        await run(pool, "INSERT INTO notes VALUES (1)", DIE)

    assert await notes(pool) == []


async def test_connection_lost_at_commit_is_an_unknown_outcome(pool: Pool) -> None:
    with pytest.raises(OutcomeUnknown):
        await run(pool, "INSERT INTO deadly VALUES (1)")

    assert await notes(pool) == []


async def test_transaction_cancelled_in_a_statement_leaves_a_working_pool(pool: Pool) -> None:
    async def wait() -> None:
        async with transaction(pool) as conn:
            await conn.execute("INSERT INTO notes VALUES (1)")
            entered.set()
            await conn.execute("SELECT pg_sleep(60)")

    for _ in range(5):
        entered = asyncio.Event()
        task = asyncio.create_task(wait())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert await notes(pool) == []


@pytest.mark.parametrize("way", ["fast", "immediate", "kill"])
async def test_pool_heals_after_the_server_was_away(pool: Pool, server: Server, way: str) -> None:
    await asyncio.gather(add(pool, 1), add(pool, 2), add(pool, 3))
    if way == "kill":
        await asyncio.to_thread(server.kill)
    else:
        await asyncio.to_thread(server.stop, signal.SIGINT if way == "fast" else signal.SIGQUIT)
    # Connections that died in the pool, then none to be had.
    for number in range(10, 15):
        with pytest.raises(DatabaseUnavailable):
            await add(pool, number)
    await asyncio.to_thread(server.start)

    async with asyncio.timeout(2):
        assert await notes(pool) == [1, 2, 3]
    await asyncio.gather(*(add(pool, number) for number in range(20, 40)))


async def test_statements_during_a_restart_fail_as_faults_only(pool: Pool, server: Server) -> None:
    stop, enough = asyncio.Event(), asyncio.Event()
    others: list[Exception] = []
    done = wanted = 0

    async def work(start: int) -> None:
        nonlocal done
        number = start
        while not stop.is_set():
            number += 10
            try:
                await add(pool, number)
                done += 1
                if done >= wanted:
                    enough.set()
            except DatabaseFault:
                await asyncio.sleep(0.001)
            except Exception as error:
                others.append(error)

    workers = [asyncio.create_task(work(start)) for start in range(4)]
    for number in (signal.SIGINT, signal.SIGQUIT):
        await asyncio.to_thread(server.stop, number)
        await asyncio.to_thread(server.start)
        wanted = done + 20
        enough.clear()
        async with asyncio.timeout(5):
            await enough.wait()
    stop.set()
    await asyncio.gather(*workers)

    assert others == []


async def test_open_pool_without_a_server_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        await open_pool(f"postgresql://postgres@/postgres?host={tmp_path}", size=1)


async def test_check_server_refuses_what_loses_acknowledged_work(server: Server) -> None:
    async with connected(server.url()) as conn:
        await check_server(conn)
        await conn.execute("SET synchronous_commit = off")
        with pytest.raises(ServerRefused, match="synchronous_commit is off"):
            await check_server(conn)


async def test_check_server_names_every_reason() -> None:
    reckless = Server(settings={"fsync": "off", "full_page_writes": "off"})
    try:
        await asyncio.to_thread(reckless.start)
        async with connected(reckless.url()) as conn:
            with pytest.raises(ServerRefused, match="fsync is off; full_page_writes is off"):
                await check_server(conn)
    finally:
        reckless.remove()


POOLER = """
[databases]
* = host={server}
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = 6432
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 2
server_lifetime = 1
"""


@asynccontextmanager
async def pooled(url: str) -> AsyncGenerator[Connection]:
    """A connection without a statement cache, as a pooler needs it."""
    conn = await connect(url)
    try:
        yield conn
    finally:
        await conn.close()


@pytest.fixture
async def pooler(server: Server, tables: None) -> AsyncGenerator[str]:
    """The address of the server through pgbouncer in transaction mode."""
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("no pgbouncer here")
    folder = open_folder()
    account = choose_account(None, folder / "none")
    sockets = server.url().partition("host=")[2].partition("&")[0]
    (folder / "pooler.ini").write_text(POOLER.format(server=sockets, folder=folder), "utf-8")
    (folder / "users").write_text('"postgres" ""\n', "utf-8")
    if os.geteuid() == 0:
        os.chown(folder, account.uid, account.gid)
    process = await asyncio.create_subprocess_exec(
        program, folder / "pooler.ini", stderr=subprocess.PIPE, user=account.uid
    )
    try:
        assert process.stderr is not None
        async for line in process.stderr:
            if b"process up" in line:
                break
        yield f"postgresql://postgres@/postgres?host={folder}&port=6432"
    finally:
        process.terminate()
        await process.wait()
        shutil.rmtree(folder)


async def test_pool_behind_a_pooler_keeps_no_statements_and_works(
    pooler: str, server: Server
) -> None:
    assert await behind_pooler(pooler)
    assert not await behind_pooler(server.url())
    pool = await open_pool(pooler, size=8)
    await run(pool, "TRUNCATE notes")

    await asyncio.gather(*(add(pool, number) for number in range(1_000, 1_200)))

    assert await notes(pool) == list(range(1_000, 1_200))
    async with pool.acquire() as conn:
        await check_server(conn)
    await pool.close()


async def test_migrate_through_a_pooler_works(pooler: str, tmp_path: Path) -> None:
    (tmp_path / "0001_one.sql").write_text("CREATE TABLE one (a integer)", "utf-8")
    (tmp_path / "0002_two.sql").write_text("ALTER TABLE one ADD b integer; SELECT 1;", "utf-8")

    async def run_migrations() -> list[str]:
        async with pooled(pooler) as conn:
            return await migrate(conn, tmp_path)

    done = await asyncio.gather(*(run_migrations() for _ in range(3)))

    assert sorted(name for names in done for name in names) == ["0001_one", "0002_two"]
