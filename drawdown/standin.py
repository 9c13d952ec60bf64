"""Stripe's stand-in as a part of `up --sandbox`.

Its objects, time and keys are kept in DIR/stripe.json over restarts. Its time is the service's.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import structlog

from drawdown.database import StartError
from drawdown.sandbox_file import SandboxFile
from ledger import customers
from meter.auth import create_key
from meter.scopes import SCOPES
from meter.stripe_port import StripeConfig
from sandbox.server import Sandbox, running
from sql import queries
from sql.errors import DatabaseFault
from sql.pool import Pool, transaction

STATE_FILE: Final = "stripe.json"
WEBHOOK_PATH: Final = "/v1/stripe/webhook"
FOLLOW_SECONDS: Final = 5.0
APART: Final = timedelta(seconds=1)
"""The two clocks run by themselves in between, so they may differ a little."""

log = structlog.get_logger()


class StandIn:
    """A running stand-in, as the service's companion."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._delivered = sandbox.delivery_count()

    def config(self) -> StripeConfig:
        """The account that it plays."""
        return StripeConfig(
            secret_key=self.sandbox.secret_key,
            publishable_key=self.sandbox.publishable_key,
            webhook_secrets=(self.sandbox.webhook_secret,),
            api_base=self.sandbox.url,
        )

    def serve(self, url: str) -> None:
        """Deliver webhooks to the service at `url` from now on."""
        self.sandbox.set_webhook(url + WEBHOOK_PATH)

    async def tell(self, file: Path, pool: Pool, *, url: str, database_url: str) -> None:
        """Write the file that says how to use this sandbox, with a fresh key for all scopes.

        The keys of earlier starts on this folder end, so that they don't pile up.
        """
        name = f"drawdown up --sandbox --data {file.parent}"
        async with transaction(pool) as conn:
            await conn.execute(queries.sandbox_keys_revoke, name)
            _, secret = await create_key(conn, name=name, scopes=SCOPES)
        SandboxFile(
            url=url, api_key=secret, database_url=database_url, **self.sandbox.members()
        ).write(file)

    def next_due(self) -> datetime | None:
        """See `Companion`."""
        return self.sandbox.next_due()

    async def walk(self, to: datetime) -> int:
        """See `Companion`. Deliveries count from the last walk on, whoever caused them."""
        steps = await self.sandbox.walk(to)
        before, self._delivered = self._delivered, self.sandbox.delivery_count()
        return steps + max(0, self._delivered - before)


@asynccontextmanager
async def open_stand_in(pool: Pool, data: Path) -> AsyncGenerator[StandIn]:
    """A stand-in with the state in `data` and the service's time. Raises StartError."""
    now, file = await _now(pool), data / STATE_FILE
    async with AsyncExitStack() as stack:
        try:
            sandbox = await stack.enter_async_context(
                running("127.0.0.1", 0, start=now, is_led=True, state_file=file)
            )
        except (ValueError, KeyError, msgspec.MsgspecError) as error:
            raise StartError(
                f"{file} can't be read as the state of Stripe's stand-in: move it away, and it"
                " begins anew"
            ) from error
        if sandbox.now() - now > APART:
            log.warning(
                "stand_in_ahead",
                now=now.isoformat(),
                stand_in=sandbox.now().isoformat(),
                remedy=f"move {file} away if it belongs to other books, or move the clock ahead",
            )
        following = asyncio.create_task(_follow(pool, sandbox), name="stand-in")
        try:
            yield StandIn(sandbox)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def _follow(pool: Pool, sandbox: Sandbox) -> None:
    """Keep the stand-in's time with ours: it counts no seconds while the machine sleeps."""
    while True:
        await asyncio.sleep(FOLLOW_SECONDS)
        try:
            now = await _now(pool)
            if now - sandbox.now() > APART:
                await sandbox.walk(now)
        except DatabaseFault as fault:
            log.warning("stand_in_not_led", error=str(fault))
        except Exception:
            log.exception("stand_in_not_led")


async def _now(pool: Pool) -> datetime:
    async with transaction(pool) as conn:
        return await customers.now(conn)
