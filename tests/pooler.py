"""pgbouncer in transaction mode before a test's database, on a socket of its own."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from sql.migrate import APP_ROLE

PORT: Final = 6432
CONFIG: Final = "pgbouncer.ini"
SERVERS_MAX: Final = 6
"""Fewer than the clients have: connections are shared, transaction by transaction."""
READY_SECONDS_MAX: Final = 20
POLL_SECONDS: Final = 0.01


def pgbouncer() -> str | None:
    """The program, if it is installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")


@asynccontextmanager
async def pooled(dsn: str) -> AsyncGenerator[str]:
    """The address of a pooler before the database of `dsn` (on a socket, login by trust)."""
    program = pgbouncer()
    assert program is not None
    name = urlsplit(dsn).path.removeprefix("/")
    folder = Path(tempfile.mkdtemp(prefix="drawdown-", dir="/tmp"))
    try:
        user = _set_up(folder, dsn, name)
        process = await asyncio.create_subprocess_exec(
            *(program, "-q", str(folder / CONFIG)),
            user=user,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await _listening(folder, process)
            yield f"postgresql://{APP_ROLE}@/{quote(name)}?host={folder}&port={PORT}"
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()
    finally:
        shutil.rmtree(folder)


def _set_up(folder: Path, dsn: str, name: str) -> int | None:
    """Write the pooler's files; the user that may enter the server's socket folder, if not we."""
    server = parse_qs(urlsplit(dsn).query)
    folder.chmod(0o755)
    (folder / "users").write_text(f'"{APP_ROLE}" ""\n')
    (folder / CONFIG).write_text(
        f"[databases]\n{name} = host={server['host'][0]} port={server['port'][0]} "
        f"dbname={name} user={APP_ROLE}\n"
        f"[pgbouncer]\npool_mode = transaction\nlisten_addr =\nlisten_port = {PORT}\n"
        f"unix_socket_dir = {folder}\nauth_type = trust\nauth_file = {folder}/users\n"
        f"max_client_conn = 200\ndefault_pool_size = {SERVERS_MAX}\n"
        f"logfile = {folder}/log\npidfile =\n"
    )
    if os.geteuid() != 0:
        return None
    user = os.stat(server["host"][0]).st_uid
    os.chown(folder, user, -1)
    return user


async def _listening(folder: Path, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(READY_SECONDS_MAX):
        while not _is_there(folder / f".s.PGSQL.{PORT}"):
            assert process.returncode is None, _text(folder / "log")
            await asyncio.sleep(POLL_SECONDS)


def _is_there(path: Path) -> bool:
    return path.exists()


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else "pgbouncer wrote no log"
