"""A stand-in for each test, and the real library talking to it over HTTP."""

from collections.abc import AsyncGenerator

import pytest
import stripe

from sandbox.server import running
from tests.stripe.kit import START, CheckedClient, Kit, Receiver, check_world, receiving, session


@pytest.fixture(scope="session")
async def http() -> AsyncGenerator[CheckedClient]:
    """The library's transport, on the client that the project has anyway."""
    async with session() as web:
        yield CheckedClient(timeout=10, session=web)


@pytest.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    async with receiving() as made:
        yield made


@pytest.fixture
async def kit(http: CheckedClient) -> AsyncGenerator[Kit]:
    """A stand-in whose time stands still, and clients for it."""
    stripe.enable_telemetry = False
    async with running(is_ticking=False, start=START, seed="test") as sandbox, session() as web:
        yield Kit(sandbox, http, web)
        check_world(sandbox.account.world)
