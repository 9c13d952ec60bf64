"""The stand-in as a process: start, stop, files, time, strangers."""

import ast
import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
import stripe

from sandbox import control, faults, routing, schema, server
from sandbox.cards import MEANS
from sandbox.server import running
from sandbox.settings import Settings
from tests.pages import blocks, prose
from tests.stripe.kit import START, CheckedClient, Kit, Receiver, session

ROOT = Path(__file__).parents[2]


def test_it_imports_nothing_of_ours_and_not_the_library() -> None:
    foreign = set[str]()
    for path in (ROOT / "sandbox").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "."]
            foreign |= {name.partition(".")[0] for name in names}
    theirs = {name for name in foreign if name not in sys.stdlib_module_names}
    assert theirs == {"aiohttp", "msgspec", "sandbox"}


def test_description_is_of_the_version_that_the_library_pins() -> None:
    assert stripe.api_version == schema.VERSION
    known = {operation for operation in schema.OPERATIONS if operation not in routing.ROUTES}
    assert known == set()


def test_description_keeps_its_licence() -> None:
    text = (ROOT / "sandbox" / "data" / "LICENSE.stripe").read_text()
    assert "Copyright (c) 2011- Stripe" in text
    assert "Permission is hereby granted, free of charge" in text


async def test_stop_is_quick_with_silent_and_half_clients(http: CheckedClient) -> None:
    async with running(is_ticking=False) as sandbox, session() as web:
        kit = Kit(sandbox, http, web)
        port = int(sandbox.url.rpartition(":")[2])
        silent = await asyncio.open_connection("127.0.0.1", port)
        half = await asyncio.open_connection("127.0.0.1", port)
        half[1].write(b"POST /v1/customers HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        await half[1].drain()
        await kit.do("faults", method="*", path="/v1/customers", kind="stall")
        slow = asyncio.create_task(kit.v1.customers.list_async())
        while (await kit.look("faults"))["faults"]:
            pass  # asking gives it its turn
        started = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - started < 2
    await asyncio.gather(slow, return_exceptions=True)
    for _, writer in (silent, half):
        writer.close()
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection("127.0.0.1", port)


async def test_slow_bodies_are_cut_off(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS_MAX", 0.05)
    port = int(kit.sandbox.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/customers HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_large_bodies_are_refused(kit: Kit) -> None:
    body = io.BytesIO(b"name=" + b"x" * (3 * 1024 * 1024))
    headers = {"Authorization": f"Bearer {kit.sandbox.secret_key}"}
    async with kit.web.post(
        f"{kit.sandbox.url}/v1/customers", data=body, headers=headers
    ) as answer:
        assert answer.status == 413


@pytest.mark.parametrize(
    "raw", [b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/customers\r\n\r\n"]
)
async def test_noise_is_answered_or_closed(kit: Kit, raw: bytes) -> None:
    port = int(kit.sandbox.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    writer.write_eof()
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer == b"" or answer.startswith(b"HTTP/1.")
    writer.close()


async def test_state_survives_a_restart(
    http: CheckedClient, receiver: Receiver, tmp_path: Path
) -> None:
    file = tmp_path / "stripe.json"
    how: Any = {"is_ticking": False, "state_file": file, "webhook_url": receiver.url}
    async with running(start=START, **how) as sandbox, session() as web:
        kit = Kit(sandbox, http, web)
        customer = await kit.customer("pm_card_visa")
        sub = await kit.subscription(customer, await kit.price(2000, "month"))
        await kit.clock(timedelta(days=10))
        first = await kit.v1.customers.create_async({}, {"idempotency_key": "k"})
        secrets, then = sandbox.members(), kit.now
    assert file.stat().st_mode & 0o777 == 0o600
    receiver.seen.clear()
    async with running(**how) as sandbox, session() as web:
        kit = Kit(sandbox, http, web)
        assert {**sandbox.members(), "stripe_url": ""} == {**secrets, "stripe_url": ""}
        assert kit.now >= then
        again = await kit.v1.customers.create_async({}, {"idempotency_key": "k"})
        assert again.id == first.id
        await kit.clock(datetime(2026, 2, 28, 13, tzinfo=UTC))
        invoices = await kit.v1.invoices.list_async({"subscription": sub.id})
        assert [one.status for one in invoices.data] == ["paid", "paid"]
        assert receiver.types().count("invoice.paid") == 1
        assert len((await kit.v1.webhook_endpoints.list_async()).data) == 1


async def test_file_with_other_content_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="no state"):
        async with running(state_file=file):
            pass
    assert file.read_text() == '{"a": 1}'


async def test_ticking_time_brings_what_is_due(
    http: CheckedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TICK_SECONDS", 0.01)
    settings = Settings(delayed_days=0)
    async with running(settings=settings) as sandbox, session() as web:
        kit = Kit(sandbox, http, web)
        intent = await kit.paid_intent(card="pm_usBankAccount_success")
        # Reading is what gives the tick its turn.
        async with asyncio.timeout(5):
            while (await kit.v1.payment_intents.retrieve_async(intent.id)).status != "succeeded":
                pass


async def test_reset_begins_anew_but_keeps_time_and_webhook(kit: Kit, receiver: Receiver) -> None:
    kit.sandbox.set_webhook(receiver.url)
    await kit.customer()
    await kit.clock(timedelta(days=1))
    now = kit.now
    await kit.do("reset")
    assert await kit.state("customer") == await kit.state("event") == []
    assert (await kit.look("requests"))["data"] == []
    assert kit.now == now
    receiver.seen.clear()
    await kit.customer()
    await kit.do("webhooks", mode="deliver")
    assert receiver.types() == ["customer.created"]


# The control plane


async def test_control_plane_wants_its_token(kit: Kit) -> None:
    for headers in ({}, {"Authorization": f"Bearer {kit.sandbox.secret_key}"}):
        async with kit.web.get(f"{kit.sandbox.url}/_sandbox/state", headers=headers) as answer:
            assert answer.status == 401


async def test_control_plane_is_for_this_machine_only(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiohttp.web.BaseRequest.remote", "10.0.0.7")
    assert (await kit.ask("GET", "state"))[0] == 403


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "nothing", {}, 404),
        ("GET", "reset", None, 404),
        ("POST", "disputes/du_1/dance", {}, 404),
        ("POST", "checkout/cs_none/complete", {}, 404),
        ("POST", "webhooks", {"mode": "sing"}, 400),
        ("POST", "webhooks", {"mode": "hold", "sede": 1}, 400),
        ("POST", "clock", {"to": "yesterday"}, 400),
        ("POST", "clock", {"to": "2026-01-01T00:00:00"}, 400),
        ("POST", "clock", {"to": "2026-01-01T00:00:00Z"}, 422),
        ("POST", "clock", {"to": "2099-01-01T00:00:00Z"}, 422),
        ("POST", "refunds", {"payment_intent": "pi_none"}, 404),
        ("POST", "meters/tokens/reject", {"code": "nothing"}, 400),
    ],
)
async def test_control_plane_refuses_what_makes_no_sense(
    kit: Kit, method: str, path: str, body: Any, status: int
) -> None:
    found, answer = await kit.ask(method, path, body)
    assert (found, "error" in answer) == (status, True)


async def test_clock_is_walked_without_http_too(kit: Kit) -> None:
    customer = await kit.customer("pm_card_visa")
    await kit.subscription(customer, await kit.price(2000, "month"))
    seen = list[datetime]()
    while (due := kit.sandbox.next_due()) is not None and len(seen) < 3:
        assert await kit.sandbox.walk(due) == 1
        assert kit.sandbox.now() == due
        seen.append(due)
    assert seen[1:] == [
        datetime(2026, 2, 28, 12, tzinfo=UTC),
        datetime(2026, 2, 28, 13, tzinfo=UTC),
    ]
    assert await kit.sandbox.walk(START) == 0
    assert kit.sandbox.now() == seen[-1]


async def test_clock_tells_the_time_in_both_forms(kit: Kit) -> None:
    answer = await kit.look("clock")
    assert answer == {
        "now": "2026-01-31T12:00:00.000Z",
        "unix": START.timestamp(),
        "next": None,
        "is_ticking": False,
    }
    answer = await kit.do("clock", to=START.timestamp() + 60)
    assert (answer["now"], answer["steps"]) == ("2026-01-31T12:01:00.000Z", 0)


# The guide

GUIDE = (ROOT / "docs" / "guides" / "sandbox.md").read_text()


def test_guide_lists_every_route_fault_card_and_setting() -> None:
    shown = set(re.findall(r"`([^`]+)`", prose(GUIDE)))
    assert set(control.paths()) <= shown
    assert set(get_args(faults.Kind)) <= shown
    assert set(Settings.__struct_fields__) <= shown
    short = {name for name in MEANS if "Declined" not in name and "threeDSecureR" not in name}
    assert short - {"pm_card_visa_debit", "pm_card_discover"} - shown == {
        "pm_card_authenticationRequiredOnSetup"
    }


async def test_guide_has_an_example_that_works() -> None:
    [code] = blocks(GUIDE, "python")
    names: dict[str, Any] = {}
    exec(compile(code, "sandbox.md", "exec"), names)
    assert await names["sell_a_pack"]() == ("paid", "2030-01-01T00:00:00.000Z")


# Test clocks of Stripe's own


async def test_test_clock_moves_its_customers_only(kit: Kit) -> None:
    frozen = int(datetime(2027, 1, 31, tzinfo=UTC).timestamp())
    clock = await kit.v1.test_helpers.test_clocks.create_async({"frozen_time": frozen})
    customer = await kit.customer("pm_card_visa", test_clock=clock.id)
    sub = await kit.subscription(customer, await kit.price(2000, "month"))
    assert (sub.created, sub.test_clock) == (frozen, clock.id)
    target = frozen + 29 * 86_400
    moving = await kit.v1.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": target})
    assert moving.status == "advancing"
    found = await kit.v1.test_helpers.test_clocks.retrieve_async(clock.id)
    assert (found.status, found.frozen_time) == ("ready", target)
    invoices = await kit.v1.invoices.list_async({"subscription": sub.id})
    assert [one.status for one in invoices.data] == ["paid", "paid"]
    assert invoices.data[0].created == frozen + 28 * 86_400
    assert kit.now == START
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": frozen})
    await kit.v1.test_helpers.test_clocks.delete_async(clock.id)
    assert (await kit.v1.subscriptions.retrieve_async(sub.id)).status == "canceled"


# By hand


def test_command_serves_and_stops_cleanly(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "sandbox", "--port", str(port), "--frozen"]
    command += ["--state", str(tmp_path / "state.json")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        text = b""
        while not text.endswith(b"}\n"):
            text += process.stdout.readline()
        told = json.loads(text)
        assert told["stripe_url"] == f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert (tmp_path / "state.json").exists()
