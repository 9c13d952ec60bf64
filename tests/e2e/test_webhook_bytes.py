"""Deliveries that nobody should take: by their age, their signature, their bytes. Nothing is kept
of them, and no log says what was in them."""

import hmac
import logging
from collections.abc import AsyncGenerator
from datetime import timedelta
from io import BytesIO
from typing import Any, Final

import msgspec
import pytest

from sql.pool import Pool
from tests.e2e.test_webhooks import EVENT, deliver, signed
from tests.http import FrozenClock
from tests.servers import Database
from tests.shop import START, WEBHOOK, Shop, shop

MIB: Final = 1024 * 1024
AT: Final = int(START.timestamp())
BODY: Final = msgspec.json.encode(EVENT)
MARK: Final = "zebra-crossing"


@pytest.fixture
async def sale(pool: Pool, database: Database) -> AsyncGenerator[Shop]:
    """A shop that has sold nothing, and whose clock stands still."""
    async with FrozenClock(database).stopped_at(START), shop(pool) as made:
        yield made


async def rows(pool: Pool) -> tuple[int, int]:
    events: int = await pool.fetchval("SELECT count(*) FROM stripe_events")
    return events, await pool.fetchval("SELECT count(*) FROM stripe_objects")


def of_size(size: int) -> bytes:
    """An event of exactly so many bytes."""
    bare = msgspec.json.encode({**EVENT, "note": ""})
    return msgspec.json.encode({**EVENT, "note": "a" * (size - len(bare))})


@pytest.mark.parametrize(
    ("seconds", "status"),
    [(-301, 400), (-300, 200), (0, 200), (300, 200), (301, 400), (-86_400, 400), (86_400, 400)],
)
async def test_age_of_five_minutes_is_taken_and_a_second_more_is_refused(
    sale: Shop, pool: Pool, seconds: int, status: int
) -> None:
    answer = await deliver(sale, BODY, signed(sale.standin.webhook_secret, BODY, AT + seconds))
    assert answer.status == status, answer
    assert answer.code == (None if status == 200 else "invalid_signature")
    assert await rows(pool) == ((1, 1) if status == 200 else (0, 0))


async def test_age_is_that_of_the_service_and_not_of_this_machine(
    database: Database, pool: Pool
) -> None:
    clock = FrozenClock(database)
    async with clock.stopped_at(START), shop(pool) as sale:
        header = signed(sale.standin.webhook_secret, BODY, AT)
        await clock.set(START + timedelta(seconds=300, microseconds=1))
        assert (await deliver(sale, BODY, header)).code == "invalid_signature"
        assert await rows(pool) == (0, 0)
        await clock.set(START + timedelta(seconds=300))
        assert (await deliver(sale, BODY, header)).status == 200


@pytest.mark.parametrize("count", [2, 1_000])
async def test_any_number_of_wrong_signatures_is_no_right_one(
    sale: Shop, pool: Pool, count: int
) -> None:
    wrong = signed("whsec_other", BODY, AT).partition("v1=")[2]
    header = f"t={AT}" + f",v1={wrong[:16]}" * count
    answer = await deliver(sale, BODY, header)
    assert 400 <= answer.status < 500, answer
    assert await rows(pool) == (0, 0)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "malformed"),
        (b" \n", "malformed"),
        (b"null", "malformed"),
        (BODY[:-1], "malformed"),
        (BODY + b"{}", "malformed"),
        (b"\xef\xbb\xbf" + BODY, "malformed"),
        (b"[" * MIB, "malformed"),
        (BODY.decode().encode("utf-16"), "invalid_signature"),
        (BODY.replace(b"pi_test", "pi_täst".encode("latin-1")), "invalid_signature"),
        (BODY.replace(b"pi_test", b"pi_\xed\xa0\x80"), "invalid_signature"),
    ],
    ids=[
        *("empty", "blank", "null", "cut", "two", "mark", "deep", "utf-16", "latin-1"),
        "surrogate",
    ],
)
async def test_signed_bytes_that_are_no_event_in_utf_8_are_refused(
    sale: Shop, pool: Pool, raw: bytes, code: str
) -> None:
    answer = await deliver(sale, raw, signed(sale.standin.webhook_secret, raw, AT))
    assert (answer.status, answer.code) == (400, code), answer
    assert await rows(pool) == (0, 0)


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-16", "text/plain; charset=latin-1", "a", ""]
)
async def test_bytes_count_and_not_what_they_are_called(sale: Shop, pool: Pool, kind: str) -> None:
    header = signed(sale.standin.webhook_secret, BODY, AT)
    headers = {"Stripe-Signature": header, "Content-Type": kind}
    answer = await sale.api.of(None).send("POST", WEBHOOK, raw=BODY, headers=headers)
    assert answer.status == 200, answer
    assert await rows(pool) == (1, 1)


@pytest.mark.parametrize(("size", "status"), [(MIB, 200), (MIB + 1, 413), (2 * MIB, 413)])
async def test_event_of_one_mebibyte_is_taken_and_a_byte_more_is_not(
    sale: Shop, pool: Pool, size: int, status: int
) -> None:
    body = of_size(size)
    assert len(body) == size
    headers = {"Stripe-Signature": signed(sale.standin.webhook_secret, body, AT)}
    url = sale.api.url + WEBHOOK
    async with sale.web.post(url, data=BytesIO(body), headers=headers) as response:
        assert response.status == status
    assert await rows(pool) == ((1, 1) if status == 200 else (0, 0))


async def test_no_log_says_what_was_in_a_delivery(
    sale: Shop, pool: Pool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = sale.standin.webhook_secret
    told: Any = {**EVENT, "data": {"object": {"id": "pi_test", "note": MARK}}}
    body = msgspec.json.encode(told)
    other = msgspec.json.encode({**told, "id": "evt_live", "livemode": True})
    nonsense = b'{"' + MARK.encode() + b'": 1'
    good = signed(secret, body, AT)
    for raw, header, status in (
        (body, None, 400),
        (body, f"t={AT},v1={MARK}", 400),
        (body, signed(secret, body, AT - 301), 400),
        (nonsense, signed(secret, nonsense, AT), 400),
        (body, good, 200),
        (other, signed(secret, other, AT), 200),
    ):
        assert (await deliver(sale, raw, header)).status == status, header
    await sale.apply()
    out = capfd.readouterr()
    for text in (caplog.text, out.out, out.err):
        for word in (MARK, secret, good.partition("v1=")[2]):
            assert word not in text


async def test_signature_is_compared_in_constant_time(
    sale: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare, compared = hmac.compare_digest, list[Any]()

    def note(one: Any, other: Any) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", note)
    for secret in ("whsec_other", sale.standin.webhook_secret):
        header = signed(secret, BODY, AT)
        await deliver(sale, BODY, header)
        assert header.partition("v1=")[2] in compared
