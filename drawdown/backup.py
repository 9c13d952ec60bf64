"""Backup and restore: every table as text in one zip file, with counts and hashes.

A backup is taken beside the running service, in one read-only snapshot. Its members are

    manifest.json       what it is: see `Manifest`
    tables/NAME.copy    the rows of a table as COPY text, in the order of the primary key

The hash of a table is that of its text, so it is a hash of its contents: the same after a restore.
A restore is one transaction into a database without rows. Both stream; neither holds a table in
memory.
"""

import hashlib
import os
import zipfile
import zlib
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

import asyncpg
import msgspec
from msgspec import Struct

from ledger import customers
from sql import queries
from sql.migrate import read_folder
from sql.pool import Connection
from sql.tables import Table, copy_in, copy_out, tables

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
MANIFEST_BYTES_MAX: Final = 1_000_000
PIECE_BYTES: Final = 262_144
COMPRESSION_LEVEL: Final = 1  # more costs far more time than it saves room
SEEDED: Final = frozenset({"assets"})
"""Tables that a migration fills: replaced by a restore."""

NOT_OWNER: Final = "this needs the login that owns the schema: set DRAWDOWN_OWNER_DATABASE_URL"

Told = Callable[[str, int], None]
"""Hears of each table that is done, with its rows."""


class BackupError(Exception):
    """The backup or restore can't go on. The message says why; nothing is left half done."""


class Migration(Struct, frozen=True):
    """The schema of a backup: the last migration that had been applied."""

    number: int
    name: str
    checksum: str


class TableFacts(Struct, frozen=True):
    """One table of a backup. `sha256` is that of its text, in hex."""

    name: str
    columns: list[str]
    rows: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """What a backup is. `digest` is one hash over all tables: equal contents, equal digests."""

    format: int
    made_at: datetime
    made_by: str
    installation_id: str | None
    mode: str | None
    migration: Migration
    tables: list[TableFacts]
    sequences: dict[str, int]
    digest: str

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(table.rows for table in self.tables)


class _Counted:
    """A hash that is fed by COPY, and passes the text on."""

    def __init__(self, write: Callable[[bytes], object] | None = None) -> None:
        self.hash = hashlib.sha256()
        self._write = write

    async def __call__(self, piece: bytes) -> None:
        self.hash.update(piece)
        if self._write is not None:
            self._write(piece)


async def backup(owner: Connection, file: Path, told: Told) -> Manifest:
    """Write all of the database to `file`, which must not exist yet.

    `owner` is a connection of the schema's owner, outside a transaction. Work goes on meanwhile;
    only migrations wait. Raises BackupError.
    """
    with _writing(file) as archive:
        return await _write(owner, archive, told)


@contextmanager
def _writing(file: Path) -> Generator[zipfile.ZipFile]:
    """A new archive that has its name only once it is whole and safe on the disk."""
    if file.exists():
        raise BackupError(f"{file} exists: a backup never replaces another")
    part = file.with_name(f"{file.name}.part")
    try:
        # Keys and personal data are in it.
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w+b") as stream:
            with zipfile.ZipFile(
                stream, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION_LEVEL
            ) as archive:
                yield archive
            stream.flush()
            os.fsync(stream.fileno())
        part.rename(file)
        _sync_folder(file.parent)
    except OSError as error:
        raise BackupError(f"can't write {file}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink()


async def _write(owner: Connection, archive: zipfile.ZipFile, told: Told) -> Manifest:
    async with owner.transaction(isolation="repeatable_read", readonly=True):
        try:
            # Before the snapshot: a migration can rewrite tables under an older one.
            await owner.execute(queries.migrations_lock)
        except asyncpg.UndefinedTableError as error:
            raise BackupError("this database has no schema: there is nothing to back up") from error
        except asyncpg.InsufficientPrivilegeError as error:
            raise BackupError(NOT_OWNER) from error
        except asyncpg.LockNotAvailableError as error:
            raise BackupError("a migration is running: try again when it has ended") from error
        await owner.execute(queries.copy_settings)
        facts: list[TableFacts] = []
        for table in await tables(owner):
            with archive.open(_member(table.name), "w", force_zip64=True) as member:
                text = _Counted(member.write)
                rows = await copy_out(owner, table, text)
            facts.append(TableFacts(table.name, table.columns, rows, text.hash.hexdigest()))
            told(table.name, rows)
        manifest = await _manifest(owner, facts)
    archive.writestr(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    return manifest


async def _manifest(owner: Connection, facts: list[TableFacts]) -> Manifest:
    migration = await _applied(owner)
    if migration is None:
        raise BackupError("this database has no schema: there is nothing to back up")
    # Read last and outside the snapshot, so no lower than any number in it.
    sequences = await owner.fetch(queries.sequences_read)
    installation = await customers.installation(owner)
    return Manifest(
        format=FORMAT,
        made_at=datetime.now(UTC),
        made_by=f"drawdown {metadata.version('drawdown')}",
        installation_id=installation and installation.installation_id,
        mode=installation and installation.mode,
        migration=migration,
        tables=facts,
        sequences={row["name"]: row["last_value"] for row in sequences},
        digest=_digest(facts),
    )


def inspect(file: Path) -> Manifest:
    """Read all of a backup and compare it with its manifest. Raises BackupError."""
    with _reading(file) as archive:
        manifest = _read_manifest(file, archive)
        for facts in manifest.tables:
            found = hashlib.sha256()
            with archive.open(_member(facts.name)) as member:
                while piece := member.read(PIECE_BYTES):
                    found.update(piece)
            if found.hexdigest() != facts.sha256:
                raise BackupError(f"{file} is damaged: {facts.name} is not what was written")
    _check_origin(file, manifest)
    return manifest


async def restore(owner: Connection, file: Path, manifest: Manifest, told: Told) -> int:
    """Load a backup that was inspected, in one transaction; answers the new epoch, if any.

    The database has the backup's schema and no rows. Every table is read back and its count and
    hash compared. Raises BackupError; then nothing was written.
    """
    with _reading(file) as archive:
        async with owner.transaction():
            await owner.execute(queries.copy_settings)
            try:
                await owner.execute(queries.installation_lock)
            except asyncpg.InsufficientPrivilegeError as error:
                raise BackupError(NOT_OWNER) from error
            here = await _empty_tables(owner, manifest)
            for table in here:
                if table.name in SEEDED:
                    await owner.execute(table.clear)
                pieces = _pieces(archive, table.name)
                rows = await copy_in(owner, table, pieces)
                told(table.name, rows)
            facts = {facts.name: facts for facts in manifest.tables}
            for table in here:
                await _compare(owner, table, facts[table.name])
            for name, last in manifest.sequences.items():
                await owner.execute(queries.sequence_set, name, last)
            return await owner.fetchval(queries.epoch_grow) or 0


async def _empty_tables(owner: Connection, manifest: Manifest) -> list[Table]:
    """The tables to fill. Raises BackupError if they are others than the backup's, or not empty."""
    applied = await _applied(owner)
    if applied != manifest.migration:
        name = "nothing" if applied is None else applied.name
        raise BackupError(
            f"the backup has the schema of {manifest.migration.name}, this database that of {name}:"
            " restore into a new, empty database"
        )
    here = await tables(owner)
    if {x.name: x.columns for x in here} != {x.name: x.columns for x in manifest.tables}:
        raise BackupError("this database has other tables than the backup: restore into a new one")
    full = [
        table.name
        for table in here
        if table.name not in SEEDED and await owner.fetchval(table.has_rows)
    ]
    if full:
        raise BackupError(
            f"this database is not empty ({', '.join(full)} have rows):"
            " restore into a new, empty one"
        )
    return here


async def _compare(owner: Connection, table: Table, facts: TableFacts) -> None:
    text = _Counted()
    rows = await copy_out(owner, table, text)
    if (rows, text.hash.hexdigest()) != (facts.rows, facts.sha256):
        raise BackupError(f"{table.name} did not come back as it was: nothing was restored")


async def _applied(conn: Connection) -> Migration | None:
    if not await conn.fetchval(queries.schema_exists):
        return None
    row = await conn.fetchrow(queries.migration_last)
    return None if row is None else Migration(*row)


@contextmanager
def _reading(file: Path) -> Generator[zipfile.ZipFile]:
    """The archive, with every kind of damage told as a BackupError."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, msgspec.MsgspecError) as error:
        raise BackupError(f"{file} is damaged or no backup: {error}") from error
    except (RuntimeError, ValueError) as error:
        # What zipfile says to flags and methods that we never write.
        raise BackupError(f"{file} is damaged or no backup: {error}") from error
    except OSError as error:
        raise BackupError(f"can't read {file}: {error.strerror or error}") from error


def _read_manifest(file: Path, archive: zipfile.ZipFile) -> Manifest:
    with archive.open(MANIFEST) as member:
        text = member.read(MANIFEST_BYTES_MAX)
    written = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    number = msgspec.json.decode(written["format"], type=int)
    if number != FORMAT:
        raise BackupError(
            f"{file} has format {number}, and this release reads format {FORMAT}: use the release"
            " that made it"
        )
    manifest = msgspec.json.decode(text, type=Manifest)
    if _digest(manifest.tables) != manifest.digest:
        raise BackupError(f"{file} is damaged: its manifest is not what was written")
    return manifest


def _check_origin(file: Path, manifest: Manifest) -> None:
    """Raise BackupError unless this release can make the schema of the backup."""
    wanted = manifest.migration
    ours = {x.number: Migration(x.number, x.name, x.checksum) for x in read_folder()}
    if wanted.number not in ours:
        raise BackupError(
            f"{file} was made by a newer release ({manifest.made_by}, schema {wanted.name}):"
            " restore it with that one"
        )
    if ours[wanted.number] != wanted:
        raise BackupError(f"{file} has the schema {wanted.name}, which is not that of this release")


async def _pieces(archive: zipfile.ZipFile, name: str) -> AsyncGenerator[bytes]:
    with archive.open(_member(name)) as member:
        while piece := member.read(PIECE_BYTES):
            yield piece


def _member(table: str) -> str:
    return f"tables/{table}.copy"


def _digest(facts: list[TableFacts]) -> str:
    lines = (f"{x.name} {x.rows} {x.sha256}\n" for x in sorted(facts, key=lambda x: x.name))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
