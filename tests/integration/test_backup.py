"""Backup and restore: everything comes back; what is damaged or does not fit is refused."""

import asyncio
import os
import stat
import zipfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drawdown.backup import MANIFEST, BackupError, Manifest, backup, inspect, restore
from drawdown.database import Database as Address
from drawdown.database import bring_up_to_date
from drawdown.doctor import Finding, examine
from drawdown.settings import load
from ledger.proofs import prove
from sql import queries
from sql.migrate import ensure_roles, migrate
from sql.tables import tables
from tests.conftest import prove_books
from tests.integration.player import Player
from tests.integration.whole_books import close_the_first_month, play
from tests.servers import Database, Databases, connected

FLIPS = 40


def quiet(_: str, __: int) -> None:
    """Hears of tables and says nothing."""


@asynccontextmanager
async def empty(databases: Databases) -> AsyncGenerator[Database]:
    """A database without a schema. The logins are those of the test's own database."""
    made = databases.unmade()
    async with connected(databases.url) as conn:
        await ensure_roles(conn, made.name)
    yield made
    await databases.drop(made)


async def saved(database: Database, file: Path) -> Manifest:
    async with connected(database.owner_dsn) as owner:
        return await backup(owner, file, quiet)


async def loaded(database: Database, file: Path) -> int:
    async with connected(database.owner_dsn) as owner:
        return await restore(owner, file, inspect(file), quiet)


def contents(manifest: Manifest) -> dict[str, str]:
    return {table.name: table.sha256 for table in manifest.tables}


def changed(file: Path, **members: Any) -> Path:
    """A copy of a backup whose manifest says something else."""
    copy = file.with_name("changed.backup")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            text = old.read(name)
            if name == MANIFEST:
                text = msgspec.json.encode({**msgspec.json.decode(text), **members})
            new.writestr(name, text)
    return copy


async def test_backup_and_restore_bring_back_every_row(
    database: Database, databases: Databases, tmp_path: Path
) -> None:
    await play(database)
    await close_the_first_month(database)
    first = await saved(database, tmp_path / "first.backup")
    async with empty(databases) as other:
        async with connected(other.owner_dsn) as owner:
            await migrate(owner)
        assert await loaded(other, tmp_path / "first.backup") == 2

        second = await saved(other, tmp_path / "second.backup")
        before, after = contents(first), contents(second)
        assert before.pop("installation") != after.pop("installation"), "its epoch has grown"
        assert before == after
        assert {x.name for x in first.tables if x.rows == 0} <= {"job_leases", "api_keys"}
        async with connected(other.owner_dsn) as owner:
            assert await owner.fetch(queries.sequences_behind) == []
        async with connected(other.dsn) as conn:
            assert await prove(conn, chain=True) == []
            # Life goes on: the next customer has a number of its own.
            player = await Player.enter(conn)
            await player.grant(3)
            assert await player.reserve(2) is not None
            await prove_books(conn)


async def test_backup_amid_writes_is_one_moment_of_the_books(
    database: Database, databases: Databases, tmp_path: Path
) -> None:
    done = asyncio.Event()

    async def write() -> None:
        async with connected(database.dsn) as conn:
            player = await Player.enter(conn)
            await player.grant(1_000_000)
            while not done.is_set():
                await player.consume(1)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(write())
        await play(database, rounds=3)
        await saved(database, tmp_path / "file")
        done.set()

    async with empty(databases) as other:
        async with connected(other.owner_dsn) as owner:
            await migrate(owner)
        await loaded(other, tmp_path / "file")
        async with connected(other.dsn) as conn:
            assert await prove(conn, chain=True) == []
            restored = await conn.fetchval("SELECT count(*) FROM journals")
        async with connected(database.dsn) as conn:
            assert restored < await conn.fetchval("SELECT count(*) FROM journals")


async def test_backup_file_is_private_new_and_leaves_no_half(
    database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    await saved(database, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(BackupError, match="exists: a backup never replaces another"):
        await saved(database, file)
    with pytest.raises(BackupError, match=r"can't write .*: No such file or directory"):
        await saved(database, tmp_path / "no such folder" / "file")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.usefixtures("database")
async def test_backup_of_a_database_without_schema_is_refused(
    databases: Databases, tmp_path: Path
) -> None:
    async with empty(databases) as other:
        with pytest.raises(BackupError, match="has no schema: there is nothing to back up"):
            await saved(other, tmp_path / "file")
    assert os.listdir(tmp_path) == []


async def test_inspect_finds_every_flipped_bit_that_matters(
    database: Database, tmp_path: Path
) -> None:
    await play(database)
    file = tmp_path / "file"
    whole = await saved(database, file)
    text = file.read_bytes()
    damaged = tmp_path / "damaged"
    refused = 0
    for flip in range(FLIPS):
        place = len(text) * flip // FLIPS
        damaged.write_bytes(text[:place] + bytes([text[place] ^ 16]) + text[place + 1 :])
        try:
            # A bit of a member's date, say, hurts nothing: what is in it was compared.
            assert inspect(damaged) == whole
        except BackupError:
            refused += 1
    assert refused > FLIPS // 2


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
async def test_inspect_refuses_a_file_that_is_cut_off(
    database: Database, tmp_path: Path, part: float
) -> None:
    await saved(database, tmp_path / "file")
    text = (tmp_path / "file").read_bytes()
    (tmp_path / "cut").write_bytes(text[: int(len(text) * part)])
    with pytest.raises(BackupError, match="is damaged or no backup"):
        inspect(tmp_path / "cut")


async def test_inspect_refuses_what_another_release_made(
    database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    made = await saved(database, file)
    migration = msgspec.to_builtins(made.migration)

    with pytest.raises(BackupError, match="has format 2, and this release reads format 1"):
        inspect(changed(file, format=2))
    with pytest.raises(BackupError, match="made by a newer release"):
        inspect(changed(file, migration={**migration, "number": 9_999}))
    with pytest.raises(BackupError, match="not that of this release"):
        inspect(changed(file, migration={**migration, "checksum": "0" * 64}))
    with pytest.raises(BackupError, match="manifest is not what was written"):
        inspect(changed(file, tables=msgspec.to_builtins(made.tables[1:])))


async def test_restore_into_a_database_with_rows_is_refused(
    database: Database, tmp_path: Path
) -> None:
    await play(database)
    before = await saved(database, tmp_path / "file")
    with pytest.raises(BackupError, match=r"not empty \(accounts, .*\): restore into a new"):
        await loaded(database, tmp_path / "file")
    assert contents(await saved(database, tmp_path / "again")) == contents(before)


async def test_restore_that_fails_leaves_nothing(
    database: Database, databases: Databases, tmp_path: Path
) -> None:
    await play(database)
    file = tmp_path / "file"
    made = await saved(database, file)
    facts = [msgspec.structs.replace(x, rows=x.rows + 1) for x in made.tables]
    async with empty(databases) as other, connected(other.owner_dsn) as owner:
        await migrate(owner)
        wrong = msgspec.structs.replace(made, tables=facts)
        with pytest.raises(BackupError, match="did not come back as it was"):
            await restore(owner, file, wrong, quiet)
        left = [x.name for x in await tables(owner) if await owner.fetchval(x.has_rows)]
    assert left == ["assets"]


async def test_doctor_after_a_restore_proves_the_books(
    database: Database, databases: Databases, tmp_path: Path
) -> None:
    await play(database)
    await saved(database, tmp_path / "file")
    async with empty(databases) as other:
        address = Address(other.dsn, other.owner_dsn, None)
        await bring_up_to_date(address)
        before = await examine(address, load({}), None, after_restore=True)
        await loaded(other, tmp_path / "file")
        after = await examine(address, load({}), "Asia/Tokyo", after_restore=True)

    assert {x.name: x.state for x in before}["epoch"] == "fail"
    states = {x.name: x.state for x in after}
    assert (states["epoch"], states["sequences"], states["books"]) == ("ok", "ok", "ok")
    assert states["installation"] == "fail", "the books are not in that time zone"
    assert {states[x] for x in ("server", "logins", "role settings", "migrations")} == {"ok"}


async def test_doctor_warns_of_one_login_for_both(database: Database) -> None:
    both = Address(database.owner_dsn, database.owner_dsn, None)
    found = {x.name: x for x in await examine(both, load({}), None, after_restore=False)}
    assert found["logins"].state == "warn"
    assert "it could change history" in found["logins"].detail
    assert found["role settings"].state == "warn"


async def test_doctor_with_the_service_s_login_alone_is_content(database: Database) -> None:
    alone = Address(database.dsn, database.dsn, None)
    found = {x.name: x for x in await examine(alone, load({}), None, after_restore=True)}
    assert found["logins"] == Finding(
        "logins", "ok", "the service is drawdown_app and owns no table"
    )
    assert found["sequences"].state == "warn"
    assert found["books"].state == "ok"
