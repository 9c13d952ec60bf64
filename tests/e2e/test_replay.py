"""A backend goes on charging while the service dies and comes back: nothing is lost or doubled."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from drawdown.demo import FILES, SAMPLES
from drawdown.demo_report import INPUT_PRICE, OUTPUT_PRICE, add_up
from drawdown.replay import INPUT_METER, OUTPUT_METER, Plan, Report, replay
from drawdown.sandbox_process import own_environment, run_command
from drawdown.traces import survey
from tests.servers import open_folder

ROWS = 600
CUSTOMERS = ("c1", "c2", "c3")
GRANTED = 3_000_000
SECONDS_MAX = 60


class Service:
    """`drawdown up --sandbox` on one folder, as often as it takes."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.port = 0
        self.process = self.start()

    def start(self) -> "subprocess.Popen[str]":
        command = ("up", "--sandbox", "--port", str(self.port), "--data", str(self.data))
        return subprocess.Popen(
            [sys.executable, "-m", "drawdown", *command],
            env=own_environment(os.environ),
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> str:
        """Returns its address."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("drawdown ready on "), line
        url = line.split()[-1]
        self.port = int(url.rpartition(":")[2])
        return url

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.communicate(timeout=SECONDS_MAX)

    def restart(self, number: int) -> None:
        """End it and start it again at the same port, without waiting until it is ready."""
        self.end(number)
        self.process = self.start()


@pytest.fixture
def service() -> Iterator[Service]:
    folder = open_folder()
    made = Service(folder)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.end(signal.SIGTERM)
        shutil.rmtree(folder)


async def call(url: str, key: str, method: str, path: str, body: object = None) -> Any:
    """One request that must succeed."""
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": f"seed-{path}-{body}"[:255]}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, url + path, json=body) as response,
    ):
        answer = msgspec.json.decode(await response.read())
        assert response.status in (200, 201), answer
        return answer


def admin_key(service: Service) -> str:
    return msgspec.json.decode((service.data / "sandbox.json").read_bytes())["api_key"]


async def price_tokens(url: str, key: str) -> None:
    """The meters of the replay, and what their tokens cost in the demo."""
    rates: list[dict[str, str]] = []
    for meter, price in ((INPUT_METER, INPUT_PRICE), (OUTPUT_METER, OUTPUT_PRICE)):
        definition = {"event_type": "llm.usage", "aggregation": "sum", "value_property": meter}
        await call(url, key, "PUT", f"/v1/meters/{meter}", {**definition, "charge": "calls"})
        rates.append({"meter": meter, "unit_price": str(price)})
    await call(url, key, "POST", "/v1/rate-cards", {"key": "default", "rates": rates})


async def remaining(url: str, key: str) -> list[int]:
    pages = [await call(url, key, "GET", f"/v1/grants?customer_id={name}") for name in CUSTOMERS]
    return [int(page["data"][0]["remaining"]) for page in pages]


async def send(url: str, key: str, on_row: Any) -> Report:
    trace = survey(SAMPLES / FILES["conversation"])
    plan = Plan(
        trace=trace,
        run="r1",
        customers=CUSTOMERS,
        longest_answer=trace.longest_answer,
        row_limit=ROWS,
    )
    return await replay(plan, url=url, api_key=key, concurrency=16, on_row=on_row)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_replay_over_a_restart_charges_each_row_once(
    service: Service, number: signal.Signals
) -> None:
    url = await asyncio.to_thread(service.wait_until_ready)
    made = {"name": "backend", "scopes": ["usage:write"]}
    # Not the sandbox's own key: that one is new at each start.
    key = (await call(url, admin_key(service), "POST", "/v1/keys", made))["key"]
    await price_tokens(url, admin_key(service))
    for name in CUSTOMERS:
        await call(url, admin_key(service), "PUT", f"/v1/customers/{name}", {})
        grant = {"customer_id": name, "amount": str(GRANTED), "category": "promotional"}
        await call(url, admin_key(service), "POST", "/v1/grants", grant)
    done = 0
    restarts: list[asyncio.Task[None]] = []

    def on_row() -> None:
        nonlocal done
        done += 1
        if done == ROWS // 3:
            restart = asyncio.to_thread(service.restart, number)
            restarts.append(asyncio.create_task(restart))

    report = await send(url, key, on_row)
    await restarts[0]
    await asyncio.to_thread(service.wait_until_ready)
    used = add_up(SAMPLES / FILES["conversation"], ROWS).credits
    assert (report.accepted, report.declined, report.captured) == (ROWS, 0, used)
    assert report.retries > 0
    left = await remaining(url, admin_key(service))
    assert sum(left) == len(CUSTOMERS) * GRANTED - used

    # The whole run again: every answer was given before, nothing moves.
    again = await send(url, key, lambda: None)
    assert again.replayed == again.requests == 2 * ROWS
    assert again.captured == used
    assert await remaining(url, admin_key(service)) == left
    code, told = await run_command("verify", "--data", str(service.data))
    assert code == 0, told
