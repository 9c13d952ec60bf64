"""`drawdown up --sandbox` as a child process that never outlives us."""

import asyncio
import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self, TypeVar

import msgspec
from msgspec import Struct

T = TypeVar("T")

READY: Final = b"drawdown ready on "
READY_SECONDS_MAX: Final = 180  # the first start makes the database's files
STOP_SECONDS_MAX: Final = 40  # a stopping service has 30 s
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


class SandboxProcess:
    """A service with its own embedded database in `data`. An async context manager.

    Entering waits until it is ready and raises SandboxError if that fails; leaving stops it and
    waits for its end, however we leave. It also stops if we are killed.
    """

    def __init__(self, data: Path, port: int) -> None:
        """`port` 0: a free one."""
        self.data, self.port = data, port
        self.sandbox: Sandbox
        self._process: asyncio.subprocess.Process
        self._log: IO[bytes] = tempfile.TemporaryFile()
        self._drain: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            self._process = await spawn(
                "up",
                "--sandbox",
                "--port",
                str(self.port),
                "--data",
                str(self.data),
                stdout=asyncio.subprocess.PIPE,
                stderr=self._log,
            )
        except BaseException:
            self._log.close()
            raise
        try:
            async with asyncio.timeout(READY_SECONDS_MAX):
                await self._ready()
            self.sandbox = msgspec.json.decode(
                (self.data / "sandbox.json").read_bytes(), type=Sandbox
            )
        except TimeoutError as exc:
            await self.stop()
            raise SandboxError(f"not ready within {READY_SECONDS_MAX} s{self._tail()}") from exc
        except BaseException:
            await self.stop()
            raise
        self._drain = asyncio.create_task(self._read_on())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()
        self._log.close()

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

    async def _ready(self) -> None:
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
        self._log.seek(max(os.fstat(self._log.fileno()).st_size - 2_000, 0))
        lines = self._log.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1].removeprefix('drawdown: ')}" if said else ""


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
