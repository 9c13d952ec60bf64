"""Planted secrets: in headers, addresses and bodies of requests that fail, with logs at debug.

None of them may be found again: not in logs, metrics and answers, nor, for keys, in the database.
"""

import base64
import io
import logging
import math
import random
import sys
import traceback
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from secrets import token_urlsafe
from statistics import fmean, variance
from time import perf_counter
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
import structlog

from meter.observe import configure_logging
from meter.problems import ProblemError
from sql.errors import DatabaseFault
from sql.pool import STATEMENT_CACHE, open_pool
from tests.http import Answer, Api, Running, fresh_key, serving
from tests.servers import Database, Databases, connected

CANARIES = {
    "api key": "ddk_CANARY0abcdefghijklmnopqrstuvwxyz0123456789ABCD",
    "token": "ddt_CANARY1abcdefghijklmnopqrstuvwxyz0123456789ABCD",
    "stripe key": "sk_live_CANARY2abcdefghijklmnop",
    "stripe test key": "sk_test_CANARY3abcdefghijklmnop",
    "restricted key": "rk_live_CANARY4abcdefghijklmnop",
    "signing secret": "whsec_CANARY5abcdefghijklmnopqrstuvwx",
    "address with a password": "postgresql://drawdown:CANARY6password@db.example.com/books",
    "card": "4242424242424242",
    "card with spaces": "4000 0566 5566 5556",
    "card with dashes": "5555-5555-5555-4444",
}
MARKS = [
    *(f"CANARY{n}" for n in range(9)),
    *(text for name, text in CANARIES.items() if name.startswith("card")),
]
PASSWORD = "CANARY7ofTheDatabase"
TIMED = 20_000


def hits(text: str) -> list[str]:
    return [mark for mark in MARKS if mark in text]


@contextmanager
def logged_at_debug() -> Generator[io.StringIO]:
    """Everything that is logged, as production writes it; afterwards all is as before."""
    root, written, stderr = logging.getLogger(), io.StringIO(), sys.stderr
    before = root.handlers[:], root.level, structlog.get_config()
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "uvicorn.error")}
    sys.stderr = written
    try:
        configure_logging("debug")
        yield written
    finally:
        sys.stderr = stderr
        root.handlers[:], root.level = before[0], before[1]
        structlog.configure(**before[2])
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def with_password(database: Database) -> str:
    dsn = database.dsn.replace("drawdown_app@", f"drawdown_app:{PASSWORD}@")
    assert PASSWORD in dsn
    return dsn


@pytest.fixture
async def planted(
    database: Database,
) -> AsyncGenerator[tuple[Running, io.StringIO]]:
    """A service whose database address has a password in it, and its log."""
    with logged_at_debug() as written:
        pool = await open_pool(with_password(database), size=4, statement_cache=STATEMENT_CACHE)
        async with serving(pool) as running:
            await running.api.customer("acme")
            await running.api.grant("1000")
            yield running, written
        await pool.close()


async def failing_requests(api: Api, secret: str) -> list[Answer]:
    """One secret in every place of requests that are refused."""
    quoted = quote(secret, safe="")
    answers = [
        await api.get(path)
        for path in (
            f"/v1/holds/{quoted}",
            f"/v1/customers/{quoted}/balance",
            f"/v1/{quoted}",
            f"/{quoted}",
            f"/v1/customers?cursor={quoted}",
            f"/v1/customers?limit={quoted}",
            f"/v1/customers?api_key={quoted}",
            f"/v1/holds?customer_id={quoted}",
            f"/v1/holds?customer_id=acme&status={quoted}",
            f"/v1/journals?customer_id=acme&from={quoted}",
            f"/v1/customers/acme/balance?asset={quoted}",
            f"/v1/customers/acme/requests/{quoted}",
        )
    ]
    credentials = base64.b64encode(f"user:{secret}".encode()).decode()
    for value in (f"Bearer {secret}", f"Basic {credentials}", secret):
        answers.append(await api.send("GET", "/v1/customers", headers={"Authorization": value}))
    for name in ("Cookie", "X-Api-Key", "Stripe-Signature", "traceparent", "User-Agent", "Referer"):
        headers = {name: secret, "Content-Type": "text/plain"}
        answers.append(await api.send("POST", "/v1/consume", headers=headers, key=fresh_key()))
    acme: dict[str, Any] = {"customer_id": "acme", "amount": "1"}
    for body in (
        {**acme, "amount": secret},
        {**acme, "customer_id": secret},
        {**acme, "asset": secret},
        {**acme, "effective_at": secret},
        {**acme, "password": secret},
        {**acme, "metadata": secret},
        {**acme, "metadata": {"card": [secret, "\0"]}},
        {**acme, "amount": "999999", "reference": secret, "metadata": {"note": secret}},
    ):
        answers.append(await api.post("/v1/consume", body))
    answers += [
        await api.put("/v1/customers/acme", {"time_zone": secret}),
        await api.put("/v1/customers/acme", {"currency": secret}),
        await api.put("/v1/customers/acme", {"name": secret, "overage": {"policy": secret}}),
        await api.post("/v1/grants", {**acme, "category": secret}),
        await api.post("/v1/keys", {"name": secret, "scopes": [secret]}, key=None),
        await api.post("/v1/customers/acme/tokens", {"scopes": [secret], "expires_in": 1}),
        await api.post("/v1/test-clock", {"to": secret}, key=None),
        await api.send("POST", "/v1/consume", raw=f'{{"amount": "{secret}'.encode(), key="k"),
        await api.send("POST", "/v1/consume", raw=secret.encode(), key="k"),
        await api.send("POST", "/v1/reserve", raw=b"{}", key=secret + "\u00e9"),
        await api.send("POST", f"/v1/jobs/{quoted}/run", {}),
        await api.delete(f"/v1/keys/{quoted}"),
    ]
    item = {"op": secret, "key": secret, **acme}
    answers.append(await api.post("/v1/batch", {"operations": [item]}, key=None))
    return answers


@pytest.mark.parametrize("secret", CANARIES.values(), ids=CANARIES.keys())
async def test_secrets_of_refused_requests_are_nowhere(
    planted: tuple[Running, io.StringIO], secret: str
) -> None:
    running, written = planted
    answers = await failing_requests(running.api, secret)
    assert all(answer.status >= 400 or answer.body.get("results") for answer in answers)
    assert all(answer.status < 500 for answer in answers)
    for answer in answers:
        assert hits(answer.raw.decode()) == [], answer
        assert hits(repr(answer.headers)) == [], answer.headers
    metrics = await running.api.get("/metrics")
    assert hits(metrics.raw.decode()) == []
    assert hits(written.getvalue()) == []


async def test_secrets_of_crashing_requests_are_not_logged(
    planted: tuple[Running, io.StringIO], database: Database
) -> None:
    """The database refuses what it never should: answers are 500, with everything in the log."""
    running, written = planted
    api = running.api
    async with connected(database.owner_dsn) as conn:
        await conn.execute("ALTER TABLE profiles ADD CHECK (name <> email)")
        await conn.execute("ALTER TABLE requests ADD CHECK (key NOT LIKE '%boom%') NOT VALID")
    answers: list[Answer] = []
    for secret in CANARIES.values():
        answers.append(await api.put("/v1/customers/acme", {"name": secret, "email": secret}))
        body = {
            "customer_id": "acme",
            "amount": "1",
            "reference": secret,
            "metadata": {"note": secret, "password": secret},
        }
        answers.append(await api.post("/v1/consume", body, key=f"{secret} boom"))
    assert {answer.status for answer in answers} == {500}
    for answer in answers:
        assert hits(answer.raw.decode()) == []
    assert "request_failed" in written.getvalue()
    assert hits(written.getvalue()) == []


async def test_secrets_of_a_lost_database_are_not_logged(
    planted: tuple[Running, io.StringIO], database: Database, databases: Databases
) -> None:
    """The address with the password is what fails."""
    running, written = planted
    api, name = running.api, database.name
    async with connected(databases.url) as conn:
        await conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
        )
        try:
            body = {"customer_id": "acme", "amount": "1"}
            answers = [await api.get("/readyz"), await api.get("/v1/customers/acme")]
            answers += [await api.post("/v1/consume", body) for _ in range(3)]
            with pytest.raises((DatabaseFault, asyncpg.PostgresError)) as refused:
                await open_pool(with_password(database), size=1, statement_cache=0)
        finally:
            await conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert {answer.status for answer in answers} == {503}
    told = "".join(answer.raw.decode() for answer in answers) + written.getvalue()
    assert "database" in told
    assert PASSWORD not in told + "".join(traceback.format_exception(refused.value))
    assert hits(told) == []


async def test_request_ids_that_look_like_secrets_are_not_logged(
    planted: tuple[Running, io.StringIO], database: Database
) -> None:
    """A caller's id goes into the log as it is, unless it is what must not be there."""
    running, written = planted
    async with connected(database.owner_dsn) as conn:
        await conn.execute("ALTER TABLE profiles ADD CHECK (name <> email)")
    for secret in CANARIES.values():
        answer = await running.api.send(
            "PUT",
            "/v1/customers/acme",
            {"name": "x", "email": "x"},
            headers={"X-Request-Id": secret},
        )
        assert answer.status == 500
    assert hits(written.getvalue()) == []


async def test_keys_and_tokens_are_not_in_the_database(
    planted: tuple[Running, io.StringIO], database: Database
) -> None:
    running, written = planted
    made = await running.api.key("customers:write", "customers:read")
    token = await made.token("acme", "customers:read")
    secrets = [running.api.secret, made.secret, token.secret]
    assert None not in secrets
    await token.get("/v1/customers/acme")
    async with connected(database.superuser_dsn) as conn:
        tables = await conn.fetch(
            "SELECT oid::regclass::text FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        rows = [
            str(tuple(row.values()))
            for table in tables
            for row in await conn.fetch(f"TABLE {table[0]}")
        ]
    everything = "\n".join(rows)
    assert "acme" in everything
    for secret in filter(None, secrets):
        assert secret not in everything
        assert secret not in written.getvalue()


@pytest.mark.long
async def test_time_to_refuse_a_key_tells_nothing_of_how_much_is_right(
    planted: tuple[Running, io.StringIO],
) -> None:
    """20,000 keys that begin like a good one against 20,000 random ones, in no order."""
    running, _ = planted
    assert running.api.secret is not None
    start, length = running.api.secret[:30], len(running.api.secret)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    order = [True, False] * TIMED
    random.shuffle(order)
    for is_near in order:
        rest = token_urlsafe(64)
        key = (start + rest if is_near else f"ddk_{rest}")[:length]
        began = perf_counter()
        # Without a socket in between: what it adds is noise.
        with pytest.raises(ProblemError):
            await running.service.keys.authenticate(f"Bearer {key}".encode())
        seconds[is_near].append(perf_counter() - began)
    # What the machine did meanwhile is not the point: the slowest fiftieth is left out.
    near, far = (sorted(times)[: TIMED * 49 // 50] for times in seconds.values())
    apart = abs(fmean(near) - fmean(far))
    error = math.sqrt(variance(near) / len(near) + variance(far) / len(far))
    is_significant = apart / error > 2.576  # p = 0.01, both sides
    assert apart / fmean(far) < 0.02 or not is_significant
