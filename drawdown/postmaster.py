"""One PostgreSQL server as a child process: its data folder, its socket, its life.

Knows nothing about drawdown's schema or roles. Everything here is quick or is a step of a wait
that the caller makes: the service waits in its event loop, tests simply block.
"""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from drawdown.server_files import Account, ServerError, path_of

PORT = 5432  # only part of the socket's name: there is no TCP
SUPERUSER = "postgres"
# A socket's path may have 107 bytes (103 on macOS), "/drawdown-xxxxxxxx/.s.PGSQL.5432" has 32.
SOCKET_PARENT_BYTES_MAX = 70
LOG_BYTES_MAX = 10_000_000
LOG_TAIL_LINES = 15

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "%m [%p] ",
    # No DETAIL lines: they hold the values of keys, which may be personal data.
    "log_error_verbosity": "terse",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def make_cluster(binaries: Path, parent: Path, account: Account, *, synced: bool = True) -> Path:
    """Make a data folder with a fresh name in `parent`, for the caller to rename.

    `synced=False` skips the last fsync, for a throw-away cluster. Raises ServerError.
    """
    fresh = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=parent))
    if os.geteuid() == 0:
        os.chown(fresh, account.uid, account.gid)
    command = [
        *(
            binaries / "initdb",
            "-D",
            path_of(fresh, account),
            "-U",
            SUPERUSER,
            "-E",
            "UTF8",
            "--locale=C",
        ),
        *("--auth-local=trust", "--auth-host=reject", "--data-checksums", "--no-instructions"),
    ]
    if not synced:
        command.append("--no-sync")
    run = subprocess.run(
        command, capture_output=True, check=False, text=True, **account.spawn(fresh)
    )
    if run.returncode != 0:
        shutil.rmtree(fresh, ignore_errors=True)
        raise ServerError(f"initdb failed:\n{run.stdout}{run.stderr}".rstrip())
    return fresh


@dataclass(frozen=True)
class PidFile:
    """What `postmaster.pid` says about the server of a data folder."""

    pid: int
    socket_folder: Path
    status: str  # "starting", "ready", "stopping"; "" while it is being written

    @classmethod
    def read(cls, data: Path) -> "PidFile | None":
        """None if there is none, or it is only half written."""
        try:
            lines = (data / "postmaster.pid").read_text("utf-8").splitlines()
            return cls(int(lines[0]), Path(lines[4]), "".join(lines[7:8]).strip())
        except (OSError, ValueError, IndexError):
            return None


def is_running(pid: int) -> bool:
    """True if `pid` is a process that has not ended. A zombie has ended."""
    try:
        # The state follows the name, which is in brackets and may hold anything.
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_postmaster_of(pid: int, data: Path) -> bool:
    """True if the process `pid` is a server on `data`, and no other program with a reused pid."""
    if not is_running(pid):
        return False
    process = Path(f"/proc/{pid}")
    if not process.exists():
        return not Path("/proc/self").exists()
    try:
        # A postmaster's working folder is its data folder.
        return (process / "cwd").samefile(data)
    except PermissionError:
        # Root in a container may not look there; the command line is open to all.
        return _mark(data).encode() in (process / "cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return False


def _mark(data: Path) -> str:
    """A setting that means nothing to PostgreSQL and tells whose process it is."""
    return f"drawdown.data={data}"


def make_socket_folder(account: Account) -> Path:
    """A fresh folder for the socket, 0700, with a path short enough for one."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if len(os.fsencode(parent)) > SOCKET_PARENT_BYTES_MAX or not os.access(parent, os.W_OK):
            continue
        if os.geteuid() == 0 and not account.can_enter(Path(parent)):
            continue
        folder = Path(tempfile.mkdtemp(prefix="drawdown-", dir=parent))
        if os.geteuid() == 0:
            os.chown(folder, account.uid, account.gid)
        return folder
    raise ServerError("no temporary folder with a short path for the socket: set TMPDIR")


def restore_socket_folder(folder: Path, account: Account) -> None:
    """Make `folder` again under its name, if something has removed it. Raises ServerError."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(0o700)
        if os.geteuid() == 0:
            os.chown(folder, account.uid, account.gid)
    status = folder.lstat()
    # The name was free for a while, in a place that is open to all.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != account.uid:
        raise ServerError(f"{folder} should be the folder of the database's socket and is not")


def remove_socket_folder(folder: Path) -> None:
    """Remove a folder made by `make_socket_folder`, and nothing else; not that of a live server.

    (A copied data folder names the socket of the server on the original.)
    """
    if not folder.name.startswith("drawdown-") or folder.is_symlink() or not folder.is_dir():
        return
    with contextlib.suppress(OSError, ValueError, IndexError):
        lock = folder / f".s.PGSQL.{PORT}.lock"
        if lock.exists() and is_running(int(lock.read_text("utf-8").splitlines()[0])):
            return
    with contextlib.suppress(OSError):
        for path in folder.glob(f".s.PGSQL.{PORT}*"):
            path.unlink()
        folder.rmdir()


class Postmaster:
    """The server of one data folder. At most one of these per folder: the caller has a lock.

    `settings` are given on the command line, on top of SETTINGS.
    """

    def __init__(
        self,
        binaries: Path,
        data: Path,
        account: Account,
        *,
        socket_folder: Path,
        log: Path,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.binaries = binaries
        self.data = data
        self.account = account
        self.socket_folder = socket_folder
        self.log = log
        self.settings = {**SETTINGS, **settings}
        self.pid = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def url(self, user: str, database: str) -> str:
        """The address of `database` for `user`, on the socket."""
        return f"postgresql://{user}@/{database}?host={quote(str(self.socket_folder))}&port={PORT}"

    def adopt(self, pid: int) -> None:
        """Take over the server `pid`, which somebody else started on this folder."""
        self.pid = pid

    def spawn(self) -> None:
        """Start the server. It is not ready yet: see `poll_ready`. Raises ServerError."""
        self._remove_stale_pid_file()
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
            self.log.replace(self.log.with_suffix(".log.1"))
        command: list[str | Path] = [self.binaries / "postgres"]
        command += ["-D", path_of(self.data, self.account), "-k", self.socket_folder]
        command += ["-c", _mark(self.data)]
        for name, value in self.settings.items():
            command += ["-c", f"{name}={value}"]
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with open(descriptor, "ab") as log:
            self._log_start = log.seek(0, os.SEEK_END)
            try:
                self._child = subprocess.Popen(
                    command, stdout=log, stderr=log, **self.account.spawn(self.data)
                )
            except OSError as error:
                raise ServerError(
                    f"can't start PostgreSQL as {self.account.name}: {error}"
                ) from error
        self.pid = self._child.pid

    def poll_ready(self) -> bool:
        """True if the server takes connections. Raises ServerError if it has ended."""
        if not self.is_alive():
            raise ServerError(
                f"PostgreSQL did not start; the end of {self.log}:\n{self.log_tail()}"
            )
        file = PidFile.read(self.data)
        return file is not None and file.pid == self.pid and file.status == "ready"

    def is_alive(self) -> bool:
        """True while the server process runs. Reaps it if it was our child and has ended."""
        if self._child is not None:
            return self._child.poll() is None
        return is_postmaster_of(self.pid, self.data)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server, if it still runs.

        SIGINT is a clean stop, SIGQUIT one without a checkpoint (the next start recovers).
        """
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def log_tail(self) -> str:
        """The last lines that the server has logged since it was started."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError as error:
            return f"(no log: {error})"
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def _remove_stale_pid_file(self) -> None:
        """PostgreSQL removes its stale file itself, unless another program now has that pid.

        That is common in containers, where pids are the same after every start.
        """
        file = PidFile.read(self.data)
        if file is not None and is_running(file.pid) and not is_postmaster_of(file.pid, self.data):
            (self.data / "postmaster.pid").unlink(missing_ok=True)
