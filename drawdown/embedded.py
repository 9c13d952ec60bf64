"""The embedded database: drawdown's own PostgreSQL, from the wheel, without TCP.

In a data folder DIR:

    DIR/postgres      PostgreSQL's own folder
    DIR/postgres.log  what the server says
    DIR/lock          held by the drawdown that uses the folder; its pid is in it
    DIR/socket        where the server's socket is: a fresh folder with a short path
    DIR/binaries      copies of the programs, only if the server's user can't read the wheel

`Embedded.start` makes what is missing, starts the server or adopts one that a killed drawdown left
behind, and starts it again should it die. `stop` ends it. Commands that run beside the service use
`Embedded.join`.
"""

import asyncio
import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import asyncpg

from drawdown.postmaster import (
    SUPERUSER,
    PidFile,
    Postmaster,
    is_postmaster_of,
    make_cluster,
    make_socket_folder,
    remove_socket_folder,
    restore_socket_folder,
)
from drawdown.server_files import (
    Account,
    Say,
    ServerError,
    choose_account,
    major_version,
    make_folder,
    remove_other_copies,
    usable_binaries,
    wheel_binaries,
)
from sql.errors import DatabaseFault
from sql.migrate import APP_ROLE, OWNER_ROLE, apply_role_settings, ensure_roles
from sql.pool import connect

DATABASE = "drawdown"
MAINTENANCE_DATABASE = "postgres"
POLL_SECONDS = 0.02
WATCH_SECONDS = 0.25
JOIN_SECONDS_MAX = 30
READY_SECONDS_MAX = 600  # recovery after a crash reads at most a few GB of WAL
STOP_SECONDS_MAX = 20  # the service has 30 s in all
RESTART_PAUSE_SECONDS_MAX = 5


class DataFolderLocked(ServerError):
    """Another drawdown uses the data folder. `pid` is its process, or None if it left no number."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        super().__init__(
            f"the data folder {folder} is in use by the drawdown with pid {pid or 'unknown'}:"
            " stop that one first, or use another folder (--data)"
        )
        self.pid = pid


class _FolderLock:
    """A lock on the data folder that ends with this process, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Take it. Raises DataFolderLocked."""
        try:
            self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ServerError(f"can't use the data folder {folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            text = os.read(self._file, 20)
            os.close(self._file)
            raise DataFolderLocked(folder, int(text) if text.strip().isdigit() else None) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        # The file stays: a second drawdown may have opened it already, and would lock a ghost.
        os.ftruncate(self._file, 0)
        os.close(self._file)


def _say(line: str) -> None:
    sys.stderr.write(f"drawdown: {line}\n")


class Embedded:
    """A running embedded database. Made by `start` or `join`; also an async context manager.

    `dsn` is the service's login, `owner_dsn` the schema's. `superuser_dsn` is for repairs and
    tests, never for serving.
    """

    def __init__(
        self,
        folder: Path,
        postmaster: Postmaster,
        lock: _FolderLock | None,
        say: Say,
    ) -> None:
        """Not for callers: see `start` and `join`."""
        self.folder = folder
        self._postmaster = postmaster
        self._lock = lock
        self._say = say
        self._watcher: asyncio.Task[None] | None = None
        self.dsn = postmaster.url(APP_ROLE, DATABASE)
        self.owner_dsn = postmaster.url(OWNER_ROLE, DATABASE)
        self.superuser_dsn = postmaster.url(SUPERUSER, DATABASE)

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._postmaster.pid

    @property
    def binaries(self) -> Path:
        """The folder of the server's programs."""
        return self._postmaster.binaries

    @classmethod
    async def start(
        cls,
        data_dir: Path,
        user: str | None = None,
        *,
        binaries: Path | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        throwaway: bool = False,
        say: Say = _say,
    ) -> Self:
        """Make, start or adopt the database of `data_dir`, with both logins.

        `user`: as root, who runs the server. `binaries`: other programs than the wheel's.
        `settings`: on top of the usual ones. `throwaway`: a new cluster need not survive a power
        cut. Raises DataFolderLocked, ServerError.
        """
        folder = _absolute(data_dir)
        _make_data_folder(folder)
        lock = _FolderLock(folder)
        try:
            data = folder / "postgres"
            account = choose_account(user, data)
            postmaster = Postmaster(
                _programs(folder, data, account, binaries, say),
                data,
                account,
                socket_folder=Path(),
                log=folder / "postgres.log",
                settings=settings,
            )
            if not await _adopt(postmaster, say):
                await _start_anew(folder, postmaster, say, synced=not throwaway)
            self = cls(folder, postmaster, lock, say)
            try:
                await self._ensure_roles()
            except BaseException:
                await asyncio.shield(_end(postmaster))
                remove_socket_folder(postmaster.socket_folder)
                raise
        except BaseException as error:
            lock.release()
            if isinstance(error, OSError):
                raise ServerError(f"can't use the data folder {folder}: {error}") from error
            raise
        self._watcher = asyncio.create_task(self._watch(), name="embedded-postgres")
        return self

    @classmethod
    async def join(cls, data_dir: Path, user: str | None = None, *, say: Say = _say) -> Self:
        """The database of `data_dir`: the one that another drawdown runs there, else as `start`.

        `stop` leaves a joined one running. Raises ServerError.
        """
        folder = _absolute(data_dir)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + JOIN_SECONDS_MAX
        while True:
            try:
                return await cls.start(folder, user, say=say)
            except DataFolderLocked:
                if loop.time() > deadline:
                    raise
            file = PidFile.read(folder / "postgres")
            if file is not None and file.status == "ready":
                postmaster = Postmaster(
                    wheel_binaries(),
                    folder / "postgres",
                    Account("", os.geteuid(), os.getegid()),
                    socket_folder=file.socket_folder,
                    log=folder / "postgres.log",
                )
                postmaster.adopt(file.pid)
                joined = cls(folder, postmaster, None, say)
                # Not there yet while the other one is still making login and database.
                with contextlib.suppress(DatabaseFault, asyncpg.PostgresError):
                    await (await connect(joined.dsn)).close()
                    return joined
            await asyncio.sleep(POLL_SECONDS)

    async def stop(self) -> None:
        """Stop the server cleanly, wait until it is gone, free the folder. May be repeated."""
        if self._lock is None:
            return
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await _end(self._postmaster)
        remove_socket_folder(self._postmaster.socket_folder)
        lock, self._lock = self._lock, None
        lock.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _ensure_roles(self) -> None:
        conn = await connect(self._postmaster.url(SUPERUSER, MAINTENANCE_DATABASE))
        try:
            await ensure_roles(conn, DATABASE)
            if problem := await apply_role_settings(conn, APP_ROLE, database=DATABASE):
                raise ServerError(problem)
        finally:
            await conn.close()

    async def _watch(self) -> None:
        """Start the server again whenever it has died, at the same address."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._postmaster.is_alive():
                continue
            self._say("PostgreSQL has died; starting it again")
            pause = POLL_SECONDS
            while True:
                try:
                    restore_socket_folder(self._postmaster.socket_folder, self._postmaster.account)
                    await _run(self._postmaster, self._say)
                    break
                except (ServerError, OSError) as error:
                    # Orphans of the dead server may still hold its memory for a moment.
                    pause = min(2 * pause, RESTART_PAUSE_SECONDS_MAX)
                    if pause == RESTART_PAUSE_SECONDS_MAX:
                        self._say(str(error))
                    await asyncio.sleep(pause)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _make_data_folder(folder: Path) -> None:
    try:
        make_folder(folder)
    except OSError as error:
        raise ServerError(f"can't make the data folder {folder}: {error.strerror}") from error


def _programs(folder: Path, data: Path, account: Account, binaries: Path | None, say: Say) -> Path:
    """The programs to run `data` with. Raises ServerError if it is of another major version."""
    source = binaries or wheel_binaries()
    ours = major_version(source)
    try:
        theirs = int((data / "PG_VERSION").read_text("utf-8"))
    except FileNotFoundError:
        theirs = ours
    if theirs != ours:
        here = shlex.quote(str(folder))
        file = shlex.quote(f"drawdown-{theirs}.backup")
        raise ServerError(
            f"{data} was made by PostgreSQL {theirs}, and this drawdown brings PostgreSQL {ours}."
            " Make a backup with the drawdown that you used before:\n"
            f"  drawdown backup {file} --data {here}\n"
            "then restore it with this one into a new folder:\n"
            f"  drawdown restore {file} --data {shlex.quote(f'{folder}-{ours}')}"
        )
    if binaries is not None:
        return binaries
    return usable_binaries(source, account, folder, say)


async def _adopt(postmaster: Postmaster, say: Say) -> bool:
    """Take over the server that a killed drawdown left on this folder, once it is ready.

    False if there is none, or it was on its way down, or it is out of reach and was stopped.
    """
    file = PidFile.read(postmaster.data)
    if file is None or not is_postmaster_of(file.pid, postmaster.data):
        return False
    postmaster.adopt(file.pid)
    postmaster.socket_folder = file.socket_folder
    while postmaster.is_alive():
        file = PidFile.read(postmaster.data)
        if file is not None and file.status == "ready":
            try:
                await (await connect(postmaster.url(SUPERUSER, MAINTENANCE_DATABASE))).close()
            except DatabaseFault as error:
                say(f"the PostgreSQL left behind (pid {file.pid}) can't be reached: {error}")
                await _end(postmaster)
                return False
            say(f"taking over the PostgreSQL left behind by a killed drawdown (pid {file.pid})")
            return True
        await asyncio.sleep(POLL_SECONDS)
    return False


async def _start_anew(folder: Path, postmaster: Postmaster, say: Say, *, synced: bool) -> None:
    """Make what is missing and start the server."""
    remove_other_copies(folder, postmaster.binaries)
    await _make_data(postmaster, say, synced=synced)
    note = folder / "socket"
    with contextlib.suppress(FileNotFoundError):
        # Of a run that could not clean up.
        remove_socket_folder(Path(note.read_text("utf-8")))
    postmaster.socket_folder = make_socket_folder(postmaster.account)
    note.write_text(str(postmaster.socket_folder), "utf-8")
    try:
        await _run(postmaster, say)
    except BaseException:
        remove_socket_folder(postmaster.socket_folder)
        raise


async def _make_data(postmaster: Postmaster, say: Say, *, synced: bool) -> None:
    """Make the cluster if there is none. A half made one never has the final name."""
    data = postmaster.data
    if (data / "PG_VERSION").exists():
        return
    if data.exists() and any(data.iterdir()):
        raise ServerError(f"{data} is no PostgreSQL folder: choose another data folder (--data)")
    for half in data.parent.glob("postgres.new-*"):
        shutil.rmtree(half, ignore_errors=True)
    say(f"making a new database in {data}")
    fresh = await asyncio.to_thread(
        make_cluster, postmaster.binaries, data.parent, postmaster.account, synced=synced
    )
    fresh.rename(data)
    parent = os.open(data.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


async def _run(postmaster: Postmaster, say: Say) -> None:
    """Start the server and wait until it takes connections. Raises ServerError."""
    postmaster.spawn()
    loop = asyncio.get_running_loop()
    started = loop.time()
    told = False
    try:
        while not postmaster.poll_ready():
            waited = loop.time() - started
            if waited > READY_SECONDS_MAX:
                raise ServerError(
                    f"PostgreSQL was not ready after {READY_SECONDS_MAX} s; the end of"
                    f" {postmaster.log}:\n{postmaster.log_tail()}"
                )
            if waited > 3 and not told:
                say("PostgreSQL is still starting; after a crash it first recovers")
                told = True
            await asyncio.sleep(POLL_SECONDS)
    except BaseException:
        await asyncio.shield(_end(postmaster))
        raise


async def _end(postmaster: Postmaster) -> None:
    """Stop the server and wait until it is gone; without a checkpoint if that takes too long."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGQUIT):
        postmaster.signal(number)
        deadline = loop.time() + STOP_SECONDS_MAX
        while postmaster.is_alive():
            if loop.time() > deadline:
                break
            await asyncio.sleep(POLL_SECONDS)
    if postmaster.is_alive():
        raise ServerError(f"PostgreSQL (pid {postmaster.pid}) does not stop; see {postmaster.log}")
