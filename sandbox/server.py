"""The stand-in on a socket.

`async with running() as sandbox:` gives its address and its secrets, and ends it cleanly.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from sandbox import control_machine, control_people, nouns
from sandbox.account import Account, read_file, write_file
from sandbox.clock import Clock
from sandbox.control import Control
from sandbox.front import Front
from sandbox.keys import Keys, fresh_keys
from sandbox.pages import Pages
from sandbox.settings import Settings

log: Final = logging.getLogger(__name__)

BODY_BYTES_MAX: Final = 2 * 1024 * 1024
BODY_SECONDS_MAX: Final = 10.0
IDLE_SECONDS_MAX: Final = 75.0
STOP_SECONDS_MAX: Final = 1.0
"""For requests that are running when it is stopped."""
TICK_SECONDS: Final = 0.5
SAVE_SECONDS: Final = 2.0
SAVE_SHARE: Final = 20
"""Between two savings, at least so many times what the last one took."""
ROUTES: Final = (control_machine, control_people, nouns)
"""Modules whose import puts their routes in place."""


@dataclass(frozen=True)
class Sandbox:
    """A stand-in that answers."""

    account: Account
    url: str
    """Without a slash at its end. All four base addresses of Stripe's client are this one."""

    @property
    def secret_key(self) -> str:
        return self.account.keys.secret

    @property
    def publishable_key(self) -> str:
        return self.account.keys.publishable

    @property
    def token(self) -> str:
        """Of the control plane: `Authorization: Bearer …` under `/_sandbox/`."""
        return self.account.keys.token

    @property
    def webhook_secret(self) -> str:
        return self.account.keys.webhook_secret

    def set_webhook(self, url: str) -> None:
        """Deliver all events to this address from now on, signed with `webhook_secret`."""
        self.account.webhook_url = url
        self.account.open(self.account.base_url)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.account.clock.now(), UTC)

    def next_due(self) -> datetime | None:
        """The next instant at which something happens by itself; never before now."""
        due = self.account.next_due()
        return None if due is None else datetime.fromtimestamp(due, UTC)

    async def walk(self, to: datetime) -> int:
        """Go to a time from one due instant to the next, deliveries included; how many there were.

        An earlier time than now leaves it.
        """
        return await self.account.walk(to.timestamp())

    def delivery_count(self) -> int:
        """How many deliveries of webhooks there ever were, or are under way."""
        return len(self.account.postman.deliveries)

    def members(self) -> dict[str, str]:
        """What `sandbox.json` says of the stand-in."""
        return {
            "stripe_url": self.url,
            "stripe_secret_key": self.secret_key,
            "stripe_publishable_key": self.publishable_key,
            "sandbox_token": self.token,
            "webhook_secret": self.webhook_secret,
        }


class App:
    """Leads each request to who answers it, with limits of time and size."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.front, self.control, self.pages = Front(account), Control(account), Pages(account)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                body = await request.read()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=408)
        if request.path.startswith("/_sandbox/"):
            return await self.control.answer(request, body)
        if request.path.startswith(("/v1/", "/v2/")):
            return await self.front.answer(request, body)
        return await self.pages.answer(request, body)


@contextlib.asynccontextmanager
async def running(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    webhook_url: str | None = None,
    keys: Keys | None = None,
    settings: Settings | None = None,
    start: datetime | None = None,
    is_ticking: bool = True,
    is_led: bool = False,
    seed: str | None = None,
    state_file: Path | None = None,
) -> AsyncGenerator[Sandbox]:
    """Serve a stand-in until the block ends. Port 0 finds a free one.

    `start` is its earliest time, at first now if it is left out; without `is_ticking` time stands
    still but for `POST /_sandbox/clock`; that route is refused if `is_led`, for only the caller
    moves time then. `seed` makes ids repeatable. `state_file` is read if it is
    there and kept up to date: objects, time, keys; `keys` win over those of the file.
    Raises OSError if the port is taken, ValueError for a file with other content.
    """
    found = None if state_file is None else read_file(state_file)
    if keys is None:
        keys = fresh_keys() if found is None else msgspec.convert(found["keys"], Keys)
    clock = Clock(None if start is None else start.timestamp(), is_ticking=is_ticking)
    account = Account(
        keys=keys,
        clock=clock,
        settings=settings or Settings(),
        webhook_url=webhook_url,
        seed=seed,
        is_led=is_led,
    )
    if found is not None:
        account.load(found)
        if start is not None:
            clock.forward(start.timestamp())
    runner = web.ServerRunner(_server(account), shutdown_timeout=STOP_SECONDS_MAX)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound: Any = runner.addresses[0]
        account.open(f"http://{f'[{host}]' if ':' in host else host}:{bound[1]}")
        async with _upkeep(account, state_file):
            yield Sandbox(account, account.base_url)
    finally:
        account.faults.clear()
        await account.postman.close()
        await runner.cleanup()


def _server(account: Account) -> web.Server:
    app, loop = App(account), asyncio.get_running_loop()

    def factory(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Any:
        return web.BaseRequest(
            message, payload, protocol, writer, task, loop, client_max_size=BODY_BYTES_MAX
        )

    return web.Server(
        app.handle,
        request_factory=factory,
        keepalive_timeout=IDLE_SECONDS_MAX,
        lingering_time=1.0,
        access_log=None,
    )


@contextlib.asynccontextmanager
async def _upkeep(account: Account, state_file: Path | None) -> AsyncGenerator[None]:
    """Let time bring what it brings, and keep the file; a last time at the end."""
    tasks = list[asyncio.Task[None]]()
    if account.clock.is_ticking:
        tasks.append(asyncio.create_task(_tick(account)))
    if state_file is not None:
        tasks.append(asyncio.create_task(_save(account, state_file)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if state_file is not None:
            write_file(state_file, account)


async def _tick(account: Account) -> None:
    while True:
        await asyncio.sleep(TICK_SECONDS)
        due = account.next_due()
        if due is not None and due <= account.clock.now():
            try:
                await account.walk(account.clock.now())
            except Exception:
                log.exception("what was due at %s", due)


async def _save(account: Account, state_file: Path) -> None:
    kept, took, loop = -1, 0.0, asyncio.get_running_loop()
    while True:
        # A large state takes its time: it must not take all of it.
        await asyncio.sleep(max(SAVE_SECONDS, SAVE_SHARE * took))
        if kept != account.version:
            kept, before = account.version, loop.time()
            write_file(state_file, account)
            took = loop.time() - before
