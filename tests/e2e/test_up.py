"""The service as processes: started, stopped, killed, started again; and the operator's commands.

A story each: what an operator does, and what callers notice of it.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import sys
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from drawdown.database import opened
from drawdown.postmaster import PidFile, is_running
from drawdown.sandbox_file import stand_in_beside
from drawdown.sandbox_process import own_environment
from drawdown.settings import load
from drawdown.up import open_service
from jobs.schedule import TIMETABLE
from sql.migrate import ensure_roles
from tests.http import Api
from tests.servers import Database, Databases, connected, open_folder

STOP_SECONDS_MAX: Final = 30
READY: Final = "drawdown ready on "
LOAD_CLIENTS: Final = 16
SANDBOX_MEMBERS: Final = [
    *("url", "api_key", "stripe_url", "stripe_secret_key", "stripe_publishable_key"),
    *("sandbox_token", "database_url", "webhook_secret"),
]
KEYS: Final = {
    "STRIPE_SECRET_KEY": "sk_test_hunter2",
    "STRIPE_PUBLISHABLE_KEY": "pk_test_51abc",
    "STRIPE_WEBHOOK_SECRET": "whsec_hunter2",
}
LIVE_KEYS: Final = {name: text.replace("_test_", "_live_") for name, text in KEYS.items()}


@pytest.fixture
def data() -> Generator[Path]:
    """A data folder that is not there yet."""
    made = open_folder()
    yield made / "data"
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def books() -> Generator[Path]:
    """A data folder that stories share, each starting and stopping its service."""
    made = open_folder()
    yield made / "data"
    shutil.rmtree(made)


class Process:
    """A `drawdown` command that runs on: `up`, `serve` or `work`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.url = ""

    async def line(self) -> str:
        """The next line of its stdout; empty at its end."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def ready(self) -> None:
        line = await self.line()
        assert line.startswith(f"{READY}http://"), await self.error()
        self.url = line.removeprefix(READY)

    async def error(self) -> str:
        """What it says on stderr until its end."""
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    async def end(self, *signals: signal.Signals) -> int:
        """Send signals and wait for its end; its exit code."""
        for number in signals:
            self.process.send_signal(number)
        async with asyncio.timeout(STOP_SECONDS_MAX):
            # Its pipe may be full.
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


def environment(database: Database | None, settings: Mapping[str, str]) -> dict[str, str]:
    made = own_environment(os.environ)
    if database is not None:
        made["DATABASE_URL"] = database.dsn
        made["DRAWDOWN_OWNER_DATABASE_URL"] = database.owner_dsn
    return {**made, **settings}


@asynccontextmanager
async def running(
    *arguments: str | Path, database: Database | None = None, **settings: str
) -> AsyncGenerator[Process]:
    """A process, killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "drawdown", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(database, settings),
        limit=1_000_000,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def command(
    *arguments: str | Path, database: Database | None = None, **settings: str
) -> tuple[int, str, str]:
    """Run a command to its end: exit code, stdout, stderr."""
    async with running(*arguments, database=database, **settings) as process:
        out, error = await process.process.communicate()
        assert process.process.returncode is not None
        return process.process.returncode, out.decode(), error.decode()


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sandbox(data: Path) -> dict[str, Any]:
    return json.loads((data / "sandbox.json").read_text())


@asynccontextmanager
async def client(url: str, secret: str) -> AsyncGenerator[Api]:
    async with aiohttp.ClientSession() as session:
        yield Api(session, url, secret)


async def admin_key(database: Database) -> str:
    _, out, _ = await command("keys", "create", "test", "--scope", "admin", database=database)
    return out.strip()


@asynccontextmanager
async def without_schema(databases: Databases) -> AsyncGenerator[Database]:
    """A database that nobody has migrated. The logins are those of the test's own database."""
    made = databases.unmade()
    async with connected(databases.url) as conn:
        await ensure_roles(conn, made.name)
    yield made
    await databases.drop(made)


# The embedded database


async def test_up_sandbox_serves_stops_and_finds_its_books_again(books: Path) -> None:
    async with running("up", "--sandbox", "--port", "0", "--data", books) as process:
        await process.ready()
        file = sandbox(books)
        assert stat.S_IMODE((books / "sandbox.json").stat().st_mode) == 0o600
        assert file["url"] == process.url
        assert process.url.startswith("http://127.0.0.1:")
        assert list(file) == SANDBOX_MEMBERS
        assert all(file.values())
        async with connected(file["database_url"]) as conn:
            assert await conn.fetchval("SELECT mode FROM installation") == "sandbox"
        async with client(process.url, file["api_key"]) as api:
            await api.customer("acme")
            await api.grant("10")
            await api.reserve("4")
            jobs = (await api.get("/v1/jobs")).body["data"]
            assert [job["name"] for job in jobs] == [job.name for job in TIMETABLE]
            ran = await api.post("/v1/jobs/sweep/run", key=None)
            assert (ran.status, ran.body["error"]) == (200, None)
            assert (await api.post("/v1/jobs/nope/run", key=None)).code == "job_not_found"
        server = PidFile.read(books / "postgres")
        assert server is not None

        assert await process.end(signal.SIGTERM) == 0
        assert not (books / "sandbox.json").exists()
        assert not is_running(server.pid)

    async with running("up", "--sandbox", "--port", "0", "--data", books) as process:
        await process.ready()
        async with client(process.url, file["api_key"]) as old:
            assert (await old.get("/v1/jobs")).code == "key_revoked"
            api = old.of(sandbox(books)["api_key"])
            assert await api.posted() == ("10", "4", "6")
        assert await process.end(signal.SIGINT) == 0

    code, _, error = await command("up", "--port", "0", "--data", books)
    assert code == 1
    assert "drawdown: this database is a sandbox: start it with `drawdown up --sandbox`" in error


async def test_up_after_a_kill_takes_over_the_database_it_left(books: Path) -> None:
    arguments = ("up", "--sandbox", "--port", "0", "--data", books)
    async with running(*arguments) as process:
        await process.ready()
        left = PidFile.read(books / "postgres")
        assert left is not None
        async with client(process.url, sandbox(books)["api_key"]) as api:
            await api.customer("killed")
            await api.grant("10", "killed")
        assert await process.end(signal.SIGKILL) == -signal.SIGKILL
    assert is_running(left.pid)
    assert (books / "sandbox.json").exists(), "nobody could remove it"

    async with running(*arguments) as process:
        await process.ready()
        assert PidFile.read(books / "postgres") == left
        async with client(process.url, sandbox(books)["api_key"]) as api:
            assert await api.posted("killed") == ("10", "0", "10")
        second, _, error = await command(*arguments)
        assert second == 1
        assert f"in use by the drawdown with pid {process.process.pid}:" in error
        assert await process.end(signal.SIGTERM) == 0
    assert not is_running(left.pid)


async def test_backup_beside_the_service_is_restored_into_a_new_folder(books: Path) -> None:
    file, other = books.with_name("books.backup"), books.with_name("other")
    async with running("up", "--sandbox", "--port", "0", "--data", books) as process:
        await process.ready()
        async with client(process.url, sandbox(books)["api_key"]) as api:
            await api.customer("saved")
            await api.grant("10", "saved")
            code, out, error = await command("backup", file, "--data", books, "--json")
            assert code == 0, error
            made = json.loads(out)
            await api.consume("1", "saved")
        assert await process.end(signal.SIGTERM) == 0

    damaged = books.with_name("damaged.backup")
    damaged.write_bytes(file.read_bytes()[:-100])
    code, _, error = await command("restore", damaged, "--data", other)
    assert code == 1
    assert "is damaged or no backup" in error
    assert not other.exists(), "nothing is made before the file is known to be good"

    code, out, error = await command("restore", file, "--data", other, "--json")
    assert code == 0, error
    assert json.loads(out)["digest"] == made["digest"]
    code, _, error = await command("restore", file, "--data", other)
    assert code == 1
    assert "this database is not empty" in error
    code, out, error = await command("doctor", "--after-restore", "--data", other)
    assert code == 0, out
    async with running("up", "--sandbox", "--port", "0", "--data", other) as process:
        await process.ready()
        async with client(process.url, sandbox(other)["api_key"]) as api:
            assert await api.posted("saved") == ("10", "0", "10")
        assert await process.end(signal.SIGTERM) == 0


async def stripe(
    file: Mapping[str, Any], method: str, path: str, form: dict[str, str] | None = None
) -> Any:
    """A request to the stand-in of a sandbox, as Stripe's library would send it."""
    headers = {"Authorization": f"Bearer {file['stripe_secret_key']}"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, file["stripe_url"] + path, data=form, headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def control(file: Mapping[str, Any], path: str) -> Any:
    """A question to the stand-in's control plane."""
    headers = {"Authorization": f"Bearer {file['sandbox_token']}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{file['stripe_url']}/_sandbox/{path}", headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_up_sandbox_brings_stripe_along_and_keeps_it(data: Path) -> None:
    up = ("up", "--sandbox", "--port", "0", "--data", data)
    # A key that real money hangs on is in the environment by mistake, and not even complete.
    async with running(*up, STRIPE_SECRET_KEY="sk_live_hunter2") as process:
        await process.ready()
        first = sandbox(data)
        assert first["stripe_secret_key"].startswith("sk_test_")
        assert first["stripe_url"].startswith("http://127.0.0.1:")
        made = await stripe(first, "POST", "/v1/customers", {"name": "Ada"})
        endpoints = await stripe(first, "GET", "/v1/webhook_endpoints")
        assert [one["url"] for one in endpoints["data"]] == [f"{process.url}/v1/stripe/webhook"]

        async with client(process.url, first["api_key"]) as api:
            begin = await api.now()
            session = await stripe(
                first,
                "POST",
                "/v1/checkout/sessions",
                {"mode": "setup", "currency": "usd", "success_url": "https://example.com/done"},
            )
            later = datetime.fromisoformat((await control(first, "clock"))["now"])
            assert abs(later - begin) < timedelta(seconds=5)
            now = await api.clock(begin + timedelta(days=40))
            later = datetime.fromisoformat((await control(first, "clock"))["now"])
            assert abs(later - now) < timedelta(seconds=5)
            ended = await stripe(first, "GET", f"/v1/checkout/sessions/{session['id']}")
            assert ended["status"] == "expired"
            deliveries = (await control(first, "webhooks"))["data"]
            assert {one["attempts"][0]["error"] for one in deliveries} == {None}, "we answered"
        process.process.send_signal(signal.SIGTERM)
        error = await process.error()
        assert await process.end() == 0
    assert "stripe_settings_ignored" in error
    assert "hunter2" not in error
    assert not (data / "sandbox.json").exists()
    assert stat.S_IMODE((data / "stripe.json").stat().st_mode) == 0o600

    async with running(*up) as process:
        await process.ready()
        second = sandbox(data)
        kept = ("stripe_secret_key", "stripe_publishable_key", "sandbox_token", "webhook_secret")
        assert [second[name] for name in kept] == [first[name] for name in kept]
        assert (await stripe(second, "GET", f"/v1/customers/{made['id']}"))["name"] == "Ada"
        endpoints = await stripe(second, "GET", "/v1/webhook_endpoints")
        assert [one["url"] for one in endpoints["data"]] == [f"{process.url}/v1/stripe/webhook"]
        async with client(process.url, second["api_key"]) as api:
            later = datetime.fromisoformat((await control(second, "clock"))["now"])
            assert abs(later - await api.now()) < timedelta(seconds=5)
        # A command beside it finds its Stripe, and never another one's.
        async with opened(load({}), data) as found:
            assert found.dsn == second["database_url"]
            async with open_service(found, load({}), data) as service:
                assert service.config.stripe is not None
                assert service.config.stripe.secret_key == second["stripe_secret_key"]
                assert service.config.stripe.api_base == second["stripe_url"]
            async with open_service(found, load(KEYS), data.parent) as service:
                assert service.config.stripe is None
        assert stand_in_beside(data, "postgresql://other/books") is None
        code, out, _ = await command("doctor", "--data", data, database=None, **KEYS)
        assert code == 0
        assert "ignored in a sandbox: STRIPE_SECRET_KEY, STRIPE_PUBLISHABLE_KEY" in out
        assert await process.end(signal.SIGTERM) == 0

    (data / "stripe.json").write_text("{}")
    code, _, error = await command(*up)
    assert code == 1
    assert error.splitlines()[-1].startswith(f"drawdown: {data}/stripe.json can't be read as the")


async def test_stop_while_it_starts_leaves_nothing_running(data: Path) -> None:
    async with running("up", "--port", "0", "--data", data) as process:
        assert process.process.stderr is not None
        line = await process.process.stderr.readline()
        assert b"making a new database" in line
        assert await process.end(signal.SIGTERM) == 0
    assert PidFile.read(data / "postgres") is None


async def test_commands_do_not_make_a_database(data: Path) -> None:
    for arguments in (("migrate",), ("doctor",), ("job", "list"), ("backup", data / "file")):
        code, _, error = await command(*arguments, "--data", data)
        assert code == 1
        assert error.startswith(f"drawdown: {data} holds no embedded database")
    assert os.listdir(data.parent) == []


# Stopping


class Load:
    """Clients that consume as fast as they are answered, each on a connection of its own."""

    def __init__(self, url: str, secret: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.host, self.port, self.secret = host, int(port), secret
        self.keys = count()
        self.statuses: list[int] = []
        self.dropped: list[str] = []
        self.many = asyncio.Event()

    async def run(self) -> None:
        """Until nobody listens any more."""
        await asyncio.gather(*(self._client() for _ in range(LOAD_CLIENTS)))

    async def _client(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(self.host, self.port)
            except ConnectionError:
                return
            try:
                while await self._request(reader, writer):
                    pass
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                self.dropped.append(repr(error))
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send one request and read its answer; False if the connection ends with it."""
        body = b'{"customer_id":"acme","amount":"1"}'
        writer.write(
            b"POST /v1/consume HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            + f"Authorization: Bearer {self.secret}\r\nIdempotency-Key: {next(self.keys)}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        await reader.readexactly(int(fields["content-length"]))
        self.statuses.append(int(head.split(" ", 2)[1]))
        if len(self.statuses) > 10 * LOAD_CLIENTS:
            self.many.set()
        return fields.get("connection") != "close"


async def test_sigterm_under_load_drops_no_request(database: Database) -> None:
    async with running(
        "up", "--port", "0", database=database, DRAWDOWN_DRAIN_SECONDS="1"
    ) as process:
        await process.ready()
        secret = await admin_key(database)
        async with client(process.url, secret) as api:
            await api.customer("acme")
            await api.grant("1000000")
            load = Load(process.url, secret)
            working = asyncio.create_task(load.run())
            await load.many.wait()

            process.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                while (ready := await api.get("/readyz")).status == 200:
                    pass
            assert (ready.status, ready.code) == (503, "draining")
            so_far = len(load.statuses)
            assert await process.end() == 0
            await working

    assert load.dropped == []
    assert set(load.statuses) == {201}
    assert len(load.statuses) > so_far, "it went on accepting"
    async with connected(database.dsn) as conn:
        charges = await conn.fetchval("SELECT count(*) FROM journals WHERE kind = 'charge'")
    assert charges == len(load.statuses)


async def test_second_signal_ends_the_drain(database: Database) -> None:
    loop = asyncio.get_running_loop()
    async with running("serve", "--port", "0", database=database, DRAWDOWN_DRAIN_SECONDS="20") as p:
        await p.ready()
        began = loop.time()
        p.process.send_signal(signal.SIGTERM)
        async with aiohttp.ClientSession() as session, asyncio.timeout(5):
            status = 200
            while status == 200:
                async with session.get(f"{p.url}/readyz") as answer:
                    status = answer.status
        assert await p.end(signal.SIGTERM) == 0
        assert loop.time() - began < 10


# A database of one's own


async def test_serve_and_work_refuse_pending_migrations_and_migrate_applies_them(
    database: Database, databases: Databases
) -> None:
    async with without_schema(databases) as bare:
        for name in ("serve", "work", "up"):
            code, out, error = await command(name, database=bare)
            assert (code, out) == (1, "")
            assert error.startswith("drawdown: the database lacks 0001_ledger")
            assert "run `drawdown migrate`" in error
            assert error.count("\n") == 1
        assert (await command("migrate", "--check", database=bare))[0] == 1
        code, out, _ = await command("migrate", database=bare)
        assert (code, out.splitlines()[0]) == (0, "applied 0001_ledger")
        assert await command("migrate", "--check", database=bare) == (0, "nothing is pending\n", "")
        async with running("serve", "--port", "0", database=bare) as process:
            await process.ready()
            assert await process.end(signal.SIGTERM) == 0
    assert database.name != bare.name


async def test_serve_without_a_database_says_what_to_do() -> None:
    for name in ("serve", "work"):
        code, _, error = await command(name)
        assert code == 1
        assert error.startswith("drawdown: set DATABASE_URL")


async def test_work_alone_does_the_jobs_and_tells_its_metrics(database: Database) -> None:
    async with running("serve", "--port", "0", database=database) as serve:
        await serve.ready()
        async with client(serve.url, await admin_key(database)) as api:
            await api.customer("acme")
            await api.grant("10")
            hold = await api.reserve("4", expires_in=1)
            async with (
                running("work", database=database, DRAWDOWN_METRICS_BIND="127.0.0.1:0") as refused,
            ):
                assert await refused.end() == 1, "port 0 is no place for metrics"
            async with (
                running("work", database=database) as first,
                running("work", database=database) as second,
            ):
                assert [await first.line(), await second.line()] == ["drawdown is working"] * 2
                async with connected(database.dsn) as conn, asyncio.timeout(20):
                    while await conn.fetchval("SELECT status FROM holds, pg_sleep(0.05)") == "open":
                        pass
                    overlaps = await conn.fetchval(
                        "SELECT count(*) FROM job_runs AS a JOIN job_runs AS b USING (job)"
                        " WHERE a.run_no < b.run_no AND b.started_at < a.finished_at"
                    )
                assert overlaps == 0
                assert [await first.end(signal.SIGTERM), await second.end(signal.SIGTERM)] == [0, 0]
            assert (await api.get(f"/v1/holds/{hold['id']}")).body["status"] == "expired"
            assert (await api.post("/v1/jobs/sweep/run", key=None)).status == 200
        assert await serve.end(signal.SIGTERM) == 0
    code, out, _ = await command("job", "list", "--json", database=database)
    assert code == 0
    assert all(job["last_run"]["error"] is None for job in json.loads(out))


async def test_metrics_have_an_address_of_their_own(database: Database) -> None:
    bind = f"127.0.0.1:{free_port()}"
    async with running(
        "up", "--port", "0", database=database, DRAWDOWN_METRICS_BIND=bind
    ) as process:
        await process.ready()
        async with aiohttp.ClientSession() as session:

            async def get(url: str) -> tuple[int, str]:
                async with session.get(url) as answer:
                    return answer.status, await answer.text()

            assert (await get(f"{process.url}/metrics"))[0] == 404
            async with asyncio.timeout(10):
                text = ""
                while "drawdown_job_overdue_seconds{" not in text:
                    _, text = await get(f"http://{bind}/metrics")
            assert (await get(f"http://{bind}/livez")) == (200, "ok\n")
            assert (await get(f"http://{bind}/v1/keys"))[0] == 404
        assert await process.end(signal.SIGTERM) == 0


async def test_what_was_fixed_at_the_first_start_is_checked_at_every_start(
    database: Database, data: Path
) -> None:
    up = ("up", "--port", "0", "--data", data)
    zone = {"DRAWDOWN_BOOKS_TIME_ZONE": "Europe/Berlin"}
    async with running(*up, database=database, **zone) as process:
        await process.ready()
        assert await process.end(signal.SIGTERM) == 0

    code, _, error = await command(*up, database=database, DRAWDOWN_BOOKS_TIME_ZONE="Asia/Tokyo")
    assert code == 1
    assert "DRAWDOWN_BOOKS_TIME_ZONE is Asia/Tokyo" in error
    assert "those of Europe/Berlin since the first start" in error
    code, _, error = await command(*up, "--sandbox", database=database, **zone)
    assert code == 1
    assert "this database holds real books and can't become a sandbox" in error
    async with running(*up, database=database) as process:
        await process.ready()
        assert await process.end(signal.SIGTERM) == 0
    assert not (data / "sandbox.json").exists()


async def test_first_key_of_stripe_fixes_the_mode_and_doctor_says_so(database: Database) -> None:
    async def stripe_line(**keys: str) -> str:
        _, out, _ = await command("doctor", database=database, **keys)
        [line] = [line for line in out.splitlines() if line.split()[1] == "stripe"]
        return line

    serve = ("serve", "--port", "0")
    async with running(*serve, database=database) as process:
        await process.ready()
        assert await process.end(signal.SIGTERM) == 0
    assert "not configured: nothing is sold" in await stripe_line()
    assert (await stripe_line(**LIVE_KEYS)).startswith("ok")
    async with running(*serve, database=database, **KEYS) as process:
        await process.ready()
        assert await process.end(signal.SIGTERM) == 0
    assert "test mode, at https://api.stripe.com" in await stripe_line(**KEYS)
    assert (await stripe_line()).startswith("warn")
    assert (await stripe_line(**LIVE_KEYS)).startswith("FAIL")

    for name in ("serve", "work", "up"):
        code, out, error = await command(name, database=database, **LIVE_KEYS)
        assert (code, out) == (1, "")
        assert error.startswith("drawdown: STRIPE_SECRET_KEY is a live key, but these books are in")
        assert error.count("\n") == 1
        assert "hunter2" not in error
    assert (await command("job", "list", database=database, **LIVE_KEYS))[0] == 1

    unsigned = {**KEYS, "STRIPE_WEBHOOK_SECRET": ""}
    assert (await stripe_line(**unsigned)).startswith("FAIL")
    code, _, error = await command("serve", database=database, **unsigned)
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith("drawdown: STRIPE_WEBHOOK_SECRET: must be set with STRIPE_SECRET_KEY")
    _, out, _ = await command("config", database=None, **KEYS)
    assert "hunter2" not in out
    assert "sk_test_***" in out


async def test_sandbox_is_for_this_machine_only() -> None:
    code, _, error = await command("up", "--sandbox", "--host", "0.0.0.0")
    assert code == 2
    assert error.startswith("drawdown: --sandbox listens on this machine only, not on 0.0.0.0")


async def test_address_in_use_is_one_line(database: Database) -> None:
    async with running("serve", "--port", "0", database=database) as process:
        await process.ready()
        port = process.url.rpartition(":")[2]
        code, out, error = await command("serve", "--port", port, database=database)
        assert (code, out) == (1, "")
        assert error == f"drawdown: can't listen on 127.0.0.1:{port}: Address already in use\n"
        assert await process.end(signal.SIGTERM) == 0
