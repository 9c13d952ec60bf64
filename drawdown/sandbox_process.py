"""`drawdown up --sandbox` as a child process that never outlives us."""

import asyncio
import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final, TypeVar

import msgspec
from msgspec import Struct

T = TypeVar("T")

READY: Final = b"drawdown ready on "
READY_SECONDS_MAX: Final = 180  # the first start makes the database's files
STOP_SECONDS_MAX: Final = 40  # a stopping service has 30 s
TAIL_BYTES: Final = 2_000
KEPT_NAMES: Final = frozenset({"DRAWDOWN_EMBEDDED_USER"})
DROPPED_PREFIXES: Final = ("DRAWDOWN_", "DATABASE_URL", "STRIPE_")
PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None)


class SandboxError(Exception):
    """The service did not start, or ended by itself. The message is one line."""


class Sandbox(Struct, frozen=True):
    """What we use of the file that a sandbox writes when it is ready."""

    url: str
    api_key: str
    stripe_url: str
    sandbox_token: str


@asynccontextmanager
async def open_sandbox(data: Path, port: int) -> AsyncGenerator["SandboxProcess"]:
    """A service with its own embedded database in `data`; `port` 0: a free one.

    Ready when entered; stopped, and its end awaited, however we leave. It stops too if we are
    killed. Raises SandboxError if it does not start.
    """
    with tempfile.TemporaryFile() as log:
        arguments = ("--sandbox", "--port", str(port), "--data", str(data))
        process = await spawn("up", *arguments, stdout=asyncio.subprocess.PIPE, stderr=log)
        service = SandboxProcess(process, log)
        try:
            await service.ready(data / "sandbox.json")
            yield service
        finally:
            await service.stop()


class SandboxProcess:
    """A running service: see `open_sandbox`."""

    def __init__(self, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        """`log` is what it writes to stderr."""
        self.sandbox: Sandbox
        self._process, self._log = process, log
        self._drain: asyncio.Task[None] | None = None

    async def ready(self, file: Path) -> None:
        """Wait until it can serve; `file` says where. Raises SandboxError."""
        try:
            async with asyncio.timeout(READY_SECONDS_MAX):
                await self._read_until_ready()
        except TimeoutError as exc:
            raise SandboxError(
                f"the service was not ready within {READY_SECONDS_MAX} s{self._tail()}"
            ) from exc
        self._drain = asyncio.create_task(self._read_on())
        self.sandbox = _read(file)

    async def during(self, work: Awaitable[T]) -> T:
        """The result of `work`. Raises SandboxError as soon as the service ends before it."""
        working = asyncio.ensure_future(work)
        ended = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise SandboxError(f"the service ended by itself{self._tail()}")
            return working.result()
        finally:
            for task in (working, ended):
                task.cancel()
            await asyncio.gather(working, ended, return_exceptions=True)

    async def stop(self) -> None:
        """Ask it to stop and wait for its end; end it if that takes too long."""
        process = self._process
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS_MAX):
                    await process.wait()
            except TimeoutError:
                # Its session: whatever it started goes with it.
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if self._drain is not None:
            await self._drain

    async def _read_until_ready(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            if line.startswith(READY):
                return
        await self._process.wait()
        raise SandboxError(f"the service did not start{self._tail()}")

    async def _read_on(self) -> None:
        """A full pipe would stop it."""
        assert self._process.stdout is not None
        while await self._process.stdout.read(65_536):
            pass

    def _tail(self) -> str:
        """The last line that it complained with."""
        # Not by seeking: the process writes at the same position.
        log = self._log.fileno()
        end = os.pread(log, TAIL_BYTES, max(os.fstat(log).st_size - TAIL_BYTES, 0))
        lines = end.decode(errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1].removeprefix('drawdown: ')}" if said else ""


def _read(file: Path) -> Sandbox:
    return msgspec.json.decode(file.read_bytes(), type=Sandbox)


async def run_command(*arguments: str) -> tuple[int, str]:
    """Run a `drawdown` command to its end. Returns its exit code and what it printed."""
    process = await spawn(
        *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    return await process.wait(), out.decode(errors="replace")


async def spawn(
    *arguments: str, stdout: int | IO[bytes], stderr: int | IO[bytes]
) -> asyncio.subprocess.Process:
    """A `drawdown` command in its own session, with this interpreter and its own settings."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "drawdown",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=own_environment(os.environ),
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )


def own_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without the settings of a service that may be set up on this machine.

    A sandbox must not touch that one's database or Stripe account, nor inherit its limits.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name in KEPT_NAMES or not name.startswith(DROPPED_PREFIXES)
    }
    # No client is left when we stop it.
    return {**kept, "DRAWDOWN_DRAIN_SECONDS": "0", "DRAWDOWN_LOG_LEVEL": "warning"}


def _die_with_parent() -> None:
    """In the child before it becomes the command: if we are killed, it is asked to stop."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
