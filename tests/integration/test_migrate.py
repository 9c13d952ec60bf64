"""The migrator: each file once, whole or not at all, whatever happens to the one who runs it."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import asyncpg
import pytest

from sql.migrate import (
    APP_ROLE,
    ROLE_SETTINGS,
    MigrationError,
    apply_role_settings,
    differing_role_settings,
    ensure_roles,
    migrate,
    pending,
)
from sql.pool import Connection
from tests.servers import Database, Databases, Server, connected

FIRST = "CREATE TABLE first (a integer); GRANT SELECT ON first TO drawdown_app;\n"
SECOND = "ALTER TABLE first ADD COLUMN b integer;\n"
NAMES = ["0001_first", "0002_second"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two migrations."""
    (tmp_path / "0001_first.sql").write_text(FIRST, "utf-8")
    (tmp_path / "0002_second.sql").write_text(SECOND, "utf-8")
    return tmp_path


@pytest.fixture
async def empty(databases: Databases) -> AsyncGenerator[Database]:
    """A database of the owner without any table."""
    made = databases.unmade()
    async with connected(databases.url) as conn:
        await ensure_roles(conn, made.name)
    yield made
    await databases.drop(made)


@pytest.fixture
async def owner(empty: Database) -> AsyncGenerator[Connection]:
    """The owner's connection to the empty database."""
    async with connected(empty.owner_dsn) as conn:
        yield conn


async def columns(conn: Connection) -> list[str]:
    return await conn.fetchval(
        "SELECT array_agg(column_name::text ORDER BY ordinal_position)"
        " FROM information_schema.columns WHERE table_name = 'first'"
    )


async def test_migrate_an_empty_database_applies_all_in_order_once(
    owner: Connection, folder: Path
) -> None:
    assert await pending(owner, folder) == NAMES

    assert await migrate(owner, folder) == NAMES

    assert await pending(owner, folder) == []
    assert await migrate(owner, folder) == []
    rows = await owner.fetch("SELECT name FROM schema_migrations ORDER BY number")
    assert [row["name"] for row in rows] == NAMES


async def test_pending_asked_by_the_service_is_told(
    owner: Connection, empty: Database, folder: Path
) -> None:
    await migrate(owner, folder)
    (folder / "0003_third.sql").write_text("SELECT 1", "utf-8")

    async with connected(empty.dsn) as service:
        assert await pending(service, folder) == ["0003_third"]


async def test_pending_of_a_database_ahead_is_nothing_but_migrate_refuses(
    owner: Connection, folder: Path
) -> None:
    await migrate(owner, folder)
    (folder / "0002_second.sql").unlink()

    assert await pending(owner, folder) == []
    with pytest.raises(MigrationError, match="0002_second was applied but is not among the files"):
        await migrate(owner, folder)


async def test_migrate_after_line_ends_changed_is_no_edit(owner: Connection, folder: Path) -> None:
    await migrate(owner, folder)
    (folder / "0001_first.sql").write_bytes(FIRST.replace("\n", "\r\n").encode())

    assert await migrate(owner, folder) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0001_first.sql": FIRST + "-- more"}, "0001_first was changed after it was applied"),
        ({"0001_first.sql": None}, r"0002_second\.sql: the next number is 0001"),
        (
            {"0001_first.sql": None, "0001_renamed.sql": FIRST},
            "0001_first was applied, but the file is now called 0001_renamed",
        ),
        ({"0004_late.sql": "SELECT 1"}, r"0004_late\.sql: the next number is 0003"),
        ({"0002_twin.sql": "SELECT 1"}, r"0002_twin\.sql: the next number is 0003"),
        ({"3_short.sql": "SELECT 1"}, r"3_short\.sql: a migration is named"),
    ],
)
async def test_migrate_with_files_that_are_not_what_ran_refuses(
    owner: Connection, folder: Path, change: dict[str, str | None], message: str
) -> None:
    await migrate(owner, folder)
    for name, text in change.items():
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text, "utf-8")

    with pytest.raises(MigrationError, match=message):
        await migrate(owner, folder)
    with pytest.raises(MigrationError, match=message):
        await pending(owner, folder)


async def test_migrate_a_database_that_skipped_a_number_refuses(
    owner: Connection, folder: Path
) -> None:
    await migrate(owner, folder)
    await owner.execute("DELETE FROM schema_migrations WHERE number = 1")

    with pytest.raises(MigrationError, match="number 0001 before it was not"):
        await migrate(owner, folder)


async def test_migrate_a_file_that_fails_leaves_nothing_of_it(
    owner: Connection, folder: Path
) -> None:
    second = folder / "0002_second.sql"
    second.write_text(SECOND + "ALTER TABLE nowhere ADD COLUMN c integer;", "utf-8")

    with pytest.raises(MigrationError, match='0002_second: relation "nowhere" does not exist'):
        await migrate(owner, folder)

    assert await columns(owner) == ["a"]
    second.write_text(SECOND, "utf-8")
    assert await migrate(owner, folder) == ["0002_second"]


async def test_migrate_a_file_with_commit_refuses(owner: Connection, folder: Path) -> None:
    (folder / "0002_second.sql").write_text(SECOND + "COMMIT;", "utf-8")

    with pytest.raises(MigrationError, match="0002_second ends its transaction itself"):
        await migrate(owner, folder)

    assert await pending(owner, folder) == ["0002_second"]


async def test_migrate_by_four_at_once_applies_each_once(empty: Database, folder: Path) -> None:
    (folder / "0002_second.sql").write_text(SECOND + "SELECT pg_sleep(0.2);", "utf-8")

    async def run() -> list[str]:
        async with connected(empty.owner_dsn) as conn:
            return await migrate(conn, folder)

    done = await asyncio.gather(*(run() for _ in range(4)))

    assert sorted(name for names in done for name in names) == NAMES


async def test_migrate_killed_halfway_is_completed_by_the_next_run(
    owner: Connection, empty: Database, folder: Path
) -> None:
    second = folder / "0002_second.sql"
    second.write_text(SECOND + "SELECT pg_sleep(60);", "utf-8")
    script = (
        "import asyncio, sys, pathlib\n"
        "from sql.migrate import migrate\n"
        "from sql.pool import connect\n"
        "async def main():\n"
        "    await migrate(await connect(sys.argv[1]), pathlib.Path(sys.argv[2]))\n"
        "asyncio.run(main())\n"
    )
    arguments = ("-c", script, empty.owner_dsn, str(folder))
    migrator = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    sleeping = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = $1"
    while (backend := await owner.fetchval(sleeping, empty.name)) is None:
        assert migrator.returncode is None

    migrator.kill()
    await migrator.wait()
    # The server would notice at the end of the statement only.
    await owner.execute("SELECT pg_terminate_backend($1, 5000)", backend)

    assert await pending(owner, folder) == ["0002_second"]
    assert await columns(owner) == ["a"]
    second.write_text(SECOND, "utf-8")
    assert await migrate(owner, folder) == ["0002_second"]
    assert await columns(owner) == ["a", "b"]


async def test_migrate_while_a_transaction_holds_the_table_waits_in_short_steps(
    owner: Connection, empty: Database, folder: Path
) -> None:
    second = (folder / "0002_second.sql").read_text("utf-8")
    (folder / "0002_second.sql").unlink()
    await migrate(owner, folder)
    (folder / "0002_second.sql").write_text(second, "utf-8")

    async with connected(empty.dsn) as service, connected(empty.dsn) as another:
        reading = service.transaction()
        await reading.start()
        await service.fetch("SELECT a FROM first")
        migration = asyncio.create_task(migrate(owner, folder))
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1)"
        while not await another.fetchval(waiting, owner.get_server_pid()):
            assert not migration.done()

        # Queues behind the waiting ALTER TABLE, and gets through once that gives way.
        async with asyncio.timeout(1.9):
            await another.fetch("SELECT a FROM first")
        assert not migration.done()
        await reading.commit()

        assert await migration == ["0002_second"]


async def test_migrate_for_a_service_login_that_does_not_exist_refuses(
    owner: Connection, folder: Path
) -> None:
    with pytest.raises(MigrationError, match="no login 'nobody_here'"):
        await migrate(owner, folder, app_login="nobody_here")


@pytest.fixture
def bare_server() -> Generator[Server]:
    """A server without any of our roles."""
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


async def test_migrate_with_logins_of_other_names_makes_the_app_role_or_says_the_sql(
    bare_server: Server, folder: Path
) -> None:
    async with connected(bare_server.url()) as admin:
        await admin.execute('CREATE ROLE own LOGIN; CREATE ROLE "the service" LOGIN')
        await admin.execute("CREATE DATABASE business OWNER own")
        async with connected(bare_server.url("own", "business")) as conn:
            with pytest.raises(MigrationError, match="own may not manage roles") as refused:
                await migrate(conn, folder, app_login="the service")
            wanted = 'CREATE ROLE drawdown_app NOLOGIN; GRANT drawdown_app TO "the service";'
            assert str(refused.value).endswith(wanted)
            assert await pending(conn, folder) == NAMES

            await admin.execute("ALTER ROLE own CREATEROLE")
            assert await migrate(conn, folder, app_login="the service") == NAMES

    async with connected(bare_server.url("the%20service", "business")) as service:
        assert await service.fetch("SELECT a FROM first") == []
        assert await pending(service, folder) == []


async def test_migrate_with_one_login_for_both_is_not_stopped_by_the_settings_of_the_service(
    bare_server: Server, folder: Path
) -> None:
    (folder / "0002_second.sql").write_text(SECOND + "SELECT pg_sleep(0.1)", "utf-8")
    async with connected(bare_server.url()) as admin:
        await admin.execute("CREATE ROLE single LOGIN CREATEROLE")
        await admin.execute("CREATE DATABASE business OWNER single")
    async with connected(bare_server.url("single", "business")) as conn:
        assert await apply_role_settings(conn, "single") is None
        await conn.execute("ALTER ROLE single IN DATABASE business SET statement_timeout = '50ms'")

    async with connected(bare_server.url("single", "business")) as conn:
        assert await migrate(conn, folder, app_login="single") == NAMES


async def test_role_settings_reach_the_service_and_its_login_may_set_them_itself(
    empty: Database,
) -> None:
    async with connected(empty.dsn) as service:
        assert "enable_seqscan is on, wanted off" in await differing_role_settings(service)
        assert await apply_role_settings(service, APP_ROLE) is None
    async with connected(empty.dsn) as service:
        assert await differing_role_settings(service) == []
        assert set(ROLE_SETTINGS) >= {"lock_timeout", "plan_cache_mode"}


async def test_role_settings_that_a_login_may_not_make_are_told_in_one_line(
    owner: Connection,
) -> None:
    told = await apply_role_settings(owner, APP_ROLE)

    assert told is not None
    assert "\n" not in told
    assert 'ALTER ROLE "drawdown_app" IN DATABASE' in told


async def test_service_has_the_granted_rights_and_no_others(
    owner: Connection, empty: Database, folder: Path
) -> None:
    await migrate(owner, folder)

    async with connected(empty.dsn) as service:
        assert await service.fetch("SELECT a FROM first") == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await service.execute("INSERT INTO first VALUES (1)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await service.execute("DELETE FROM schema_migrations")
