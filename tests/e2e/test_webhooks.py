"""Deliveries: verified on their bytes, kept once, applied once, whatever their order."""

import asyncio
import hashlib
import hmac
import random
from collections.abc import AsyncGenerator
from datetime import timedelta
from io import BytesIO
from typing import Any

import msgspec
import pytest

from jobs import stripe_sweep
from jobs.runner import Runner
from jobs.schedule import TIMETABLE
from jobs.stripe_gateway import Gateway
from meter import stripe_news
from meter.service import Service
from meter.stripe_port import StripeFault
from sql import queries
from sql.pool import Pool, transaction
from tests.http import Answer
from tests.shop import START, WEBHOOK, Shop, shop

EVENT: dict[str, Any] = {
    "id": "evt_test",
    "object": "event",
    "type": "payment_intent.succeeded",
    "created": 1_893_499_200,
    "livemode": False,
    "data": {"object": {"id": "pi_test", "object": "payment_intent"}},
}


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        await made.pack()
        yield made


def signed(secret: str, body: bytes, at: int) -> str:
    digest = hmac.new(secret.encode(), b"%d.%s" % (at, body), hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


async def deliver(sale: Shop, body: bytes, header: str | None) -> Answer:
    headers = {} if header is None else {"Stripe-Signature": header}
    return await sale.api.of(None).send("POST", WEBHOOK, raw=body, headers=headers)


async def now(sale: Shop) -> int:
    return int((await sale.api.now()).timestamp())


async def kept(pool: Pool) -> list[tuple[str, str]]:
    """What a test has sent itself."""
    rows = await pool.fetch(
        "SELECT type, outcome FROM stripe_events WHERE event_id = any($1) ORDER BY event_id",
        ["evt_test", "evt_live", "evt_new", "evt_thin"],
    )
    return [(row[0], row[1]) for row in rows]


async def test_delivery_signed_by_any_of_the_secrets_is_kept_once(pool: Pool) -> None:
    async with shop(pool) as sale:
        config = sale.running.service.config
        assert config.stripe is not None
        both = msgspec.structs.replace(config.stripe, webhook_secrets=("whsec_old", "whsec_new"))
        sale.running.service.config = msgspec.structs.replace(config, stripe=both)
        body, at = msgspec.json.encode(EVENT), await now(sale)
        for secret in ("whsec_old", "whsec_new", "whsec_old"):
            answer = await deliver(sale, body, signed(secret, body, at))
            assert (answer.status, answer.body["outcome"]) == (200, "marked")
        assert await kept(pool) == [("payment_intent.succeeded", "marked")]


async def test_what_is_not_signed_by_stripe_is_refused_and_changes_nothing(
    sale: Shop, pool: Pool
) -> None:
    secret, at = sale.standin.webhook_secret, await now(sale)
    body = msgspec.json.encode(EVENT)
    good = signed(secret, body, at)
    wrong: list[tuple[bytes, str | None]] = [
        (body, None),
        (body, ""),
        (body, "t=,v1="),
        (body, f"v1={good.partition('v1=')[2]}"),
        (body, signed("whsec_other", body, at)),
        (body, good.replace("v1=", "v0=")),
        (body, signed(secret, body, at - 301)),
        (body, signed(secret, body, at + 310)),
        (body.replace(b"pi_test", b"pi_tesu"), good),
        (b"\xff\xfe", signed(secret, b"\xff\xfe", at)),
    ]
    for raw, header in wrong:
        answer = await deliver(sale, raw, header)
        assert (answer.status, answer.code) == (400, "invalid_signature"), header
    for raw in (b"not json", b"[]", b"{}"):
        answer = await deliver(sale, raw, signed(secret, raw, at))
        assert (answer.status, answer.code) == (400, "malformed"), raw
    huge = b" " * (1024 * 1024 + 1)
    async with sale.web.post(
        sale.api.url + WEBHOOK,
        data=BytesIO(huge),
        headers={"Stripe-Signature": signed(secret, huge, at)},
    ) as response:
        assert response.status == 413
    assert await kept(pool) == []
    assert await pool.fetchval("SELECT count(*) FROM stripe_objects") == 0


async def test_other_mode_thin_and_unknown_events_are_kept_and_ignored(
    sale: Shop, pool: Pool
) -> None:
    secret, at = sale.standin.webhook_secret, await now(sale)
    thin = {
        "id": "evt_thin",
        "object": "v2.core.event",
        "type": "v1.billing.meter.no_meter_found",
        "created": "2030-01-01T12:00:00.000Z",
        "livemode": False,
        "related_object": None,
    }
    for event in (
        {**EVENT, "id": "evt_live", "livemode": True},
        {**EVENT, "id": "evt_new", "type": "something.new"},
        thin,
    ):
        body = msgspec.json.encode(event)
        assert (await deliver(sale, body, signed(secret, body, at))).status == 200
    assert [outcome for _, outcome in await kept(pool)] == ["other_mode", "ignored", "ignored"]
    assert await sale.apply() == {"applied": 0, "foreign": 0, "failed": 0, "parked": 0}


@pytest.mark.parametrize("mode", ["duplicate", "shuffle", "hold", "drop"])
async def test_any_order_and_number_of_deliveries_credits_once(sale: Shop, mode: str) -> None:
    opened = await sale.checkout()
    await sale.control("webhooks", mode=mode)
    await sale.pay(opened)
    if mode == "hold":
        await sale.control("webhooks", mode="deliver")
        await sale.control("webhooks/release", order="reverse")
    if mode == "drop":
        await sale.apply()
        assert (await sale.purchase(opened))["status"] == "open"
        swept = await sale.job("stripe_sweep")
        assert swept["events"] > 0
        assert (await sale.job("stripe_sweep"))["events"] == 0
    await sale.apply()
    assert (await sale.purchase(opened))["status"] == "credited"
    assert await sale.api.posted() == ("1000", "0", "1000")


async def test_purchase_whose_news_is_lost_for_ever_is_looked_at_by_itself(
    sale: Shop, pool: Pool
) -> None:
    opened = await sale.checkout()
    await sale.control("webhooks", mode="drop")
    await sale.pay(opened)
    await sale.control("clock", to="2030-01-02T12:00:00Z")
    await sale.api.clock(await sale.api.now() + timedelta(days=1))
    await pool.execute("INSERT INTO stripe_cursors VALUES ('events', '2030-01-02T11:59:59Z')")
    assert (await sale.job("stripe_sweep"))["open_purchases"] == 1
    await sale.apply()
    assert (await sale.purchase(opened))["status"] == "credited"


async def test_two_processes_at_once_credit_once(sale: Shop, pool: Pool) -> None:
    opened = [await sale.checkout() for _ in range(5)]
    for one in opened:
        await sale.pay(one)
    config = sale.running.service.config
    other = await Service.start(pool, config)
    assert config.stripe is not None
    other.stripe = gateway = Gateway(config.stripe)
    runner = Runner(other, TIMETABLE)
    await asyncio.gather(sale.apply(), runner.run_now("stripe_inbox"), sale.apply())
    await sale.apply()
    assert await sale.api.posted() == ("5000", "0", "5000")
    await gateway.close()
    await other.close()


async def test_news_that_comes_while_an_object_is_fetched_leaves_it_marked(
    sale: Shop, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bought = await sale.buy()
    intent = await sale.intent_of(bought)
    stripe = sale.running.service.stripe
    assert stripe is not None
    fetch, is_first = stripe.payment, True

    async def late(kind: Any, object_id: str) -> Any:
        nonlocal is_first
        found = await fetch(kind, object_id)
        if is_first:  # after it was fetched, and before it is applied
            is_first = False
            await sale.control("refunds", payment_intent=intent, amount=500)
        return found

    monkeypatch.setattr(stripe, "payment", late)
    await sale.control("refunds", payment_intent=intent, amount=100)
    await sale.apply()
    assert await sale.api.posted() == ("400", "0", "400")


async def test_worker_that_was_overtaken_applies_nothing(
    sale: Shop, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await sale.checkout()
    await sale.pay(opened)
    stripe = sale.running.service.stripe
    assert stripe is not None
    fetch = stripe.payment

    async def overtaken(kind: Any, object_id: str) -> Any:
        found = await fetch(kind, object_id)
        await pool.execute("UPDATE stripe_objects SET fence = fence + 1")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(stripe, "payment", overtaken)
        ran = await sale.api.post("/v1/jobs/stripe_inbox/run", key=None)
    assert ran.body["counts"]["applied"] == 0
    assert (await sale.purchase(opened))["status"] == "open"
    await pool.execute("UPDATE stripe_objects SET lease_until = NULL")
    await sale.apply()
    assert (await sale.purchase(opened))["status"] == "credited"


async def test_no_client_secret_is_kept(sale: Shop, pool: Pool) -> None:
    made = await sale.api.post("/v1/payment-intents", {"customer_id": "acme", "pack": "starter"})
    secret = made.body["client_secret"]
    await sale.control(f"payment-intents/{made.body['id']}/confirm", payment_method="pm_card_visa")
    await sale.apply()
    assert (await sale.purchase(made.body))["status"] == "credited"
    tables = await pool.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    for row in tables:
        found = await pool.fetchval(
            f"SELECT count(*) FROM {row[0]} AS t WHERE position($1 IN t::text) > 0"  # noqa: S608 (from the catalog)
            f" OR position(encode($1::bytea, 'hex') IN t::text) > 0",
            secret,
        )
        assert found == 0, row[0]


@pytest.mark.parametrize(
    "change",
    [
        {"created": 10**30},
        {"created": "yesterday"},
        {"created": "0001-01-01T00:00:00+14:00"},
        {"created": None},
        {"id": "evt\x00"},
        {"id": ""},
        {"id": "e" * 300},
        {"id": 5},
        {"type": "a\x00"},
        {"livemode": "no"},
        {"data": []},
        {"data": "x"},
    ],
)
async def test_signed_nonsense_is_refused_and_changes_nothing(
    sale: Shop, pool: Pool, change: dict[str, Any]
) -> None:
    body = msgspec.json.encode({**EVENT, **change})
    await sale.control("webhooks/release")  # answers once those of the pack were tried
    before = await counts(pool)
    answer = await deliver(sale, body, signed(sale.standin.webhook_secret, body, await now(sale)))
    assert (answer.status, answer.code) == (400, "malformed"), answer
    assert await counts(pool) == before


async def test_deep_and_wide_events_are_no_errors(sale: Shop, pool: Pool) -> None:
    secret, at = sale.standin.webhook_secret, await now(sale)
    deep = b'{"id":"evt_test","type":"a.b","created":1893499200,"data":{"object":%s}}'
    for raw, status in (
        (deep % (b"[" * 100_000 + b"]" * 100_000), 400),
        (deep % (b"[" * 60 + b"]" * 60), 200),
        (b'{"id":"evt_new","type":"a.b","created":1,"data":{"object":{"n":1e400}}}', 400),
        (b'{"id":"evt_thin","type":"v2.x","created":"2030-01-01T12:00:00","data":{"a":1}}', 200),
    ):
        answer = await deliver(sale, raw, signed(secret, raw, at))
        assert answer.status in ({status} | {200, 400}), answer
        assert answer.status < 500
    assert await pool.fetchval("SELECT count(*) FROM stripe_objects") == 0


@pytest.mark.parametrize(
    "target",
    [None, "", 7, {"id": None}, "pi\x00", "p" * 300, ["pi_test"]],
)
async def test_event_whose_object_has_no_name_is_kept_and_marks_nothing(
    sale: Shop, pool: Pool, target: Any
) -> None:
    event = {**EVENT, "type": "refund.created", "data": {"object": {"payment_intent": target}}}
    body = msgspec.json.encode(event)
    answer = await deliver(sale, body, signed(sale.standin.webhook_secret, body, await now(sale)))
    assert (answer.status, answer.body["outcome"]) == (200, "ignored"), answer
    assert await pool.fetchval("SELECT count(*) FROM stripe_objects") == 0


async def counts(pool: Pool) -> tuple[int, int]:
    events: int = await pool.fetchval("SELECT count(*) FROM stripe_events")
    return events, await pool.fetchval("SELECT count(*) FROM stripe_objects")


async def test_header_with_several_signatures_and_times(sale: Shop, pool: Pool) -> None:
    """Two of v1, the second right: a rotation. The first time counts, as for Stripe's library."""
    secret, at = sale.standin.webhook_secret, await now(sale)
    body = msgspec.json.encode({**EVENT, "note": "é"}, order="sorted")
    good = signed(secret, body, at).partition("v1=")[2]
    for header, status in (
        (f"t={at},v1={'0' * 64},v1={good}", 200),
        (f"t={at},v0={'0' * 64},v1={good}", 200),
        (f"t={at - 400},t={at},v1={good}", 400),
        (f"t={at}, v1={good}", 400),
        (f"t={at},v1={good.upper()}", 400),
        (f"t={at},v1={good}é", 400),
        (f"t={10**30},v1={good}", 400),
        (f"t={'9' * 5000},v1={good}", 400),
        (f"t={at},v1=", 400),
    ):
        answer = await deliver(sale, body, header)
        assert answer.status == status, (header[:90], answer)
    assert await kept(pool) == [("payment_intent.succeeded", "marked")]
    again = msgspec.json.encode(msgspec.json.decode(body), order="deterministic")
    spaced = again.replace(b":", b": ")
    refused = await deliver(sale, spaced, f"t={at},v1={good}")
    assert refused.status == 400, "the bytes are signed, not what they say"


async def test_age_counts_both_ways_to_the_second(sale: Shop) -> None:
    secret, body = sale.standin.webhook_secret, msgspec.json.encode(EVENT)
    for offset, status in ((-290, 200), (290, 200), (-302, 400), (310, 400)):
        at = await now(sale) + offset
        assert (await deliver(sale, body, signed(secret, body, at))).status == status, offset


async def test_object_that_stripe_does_not_have_is_parked_until_it_is_told_again(
    sale: Shop, pool: Pool
) -> None:
    body = msgspec.json.encode(EVENT)

    async def send() -> Answer:
        header = signed(sale.standin.webhook_secret, body, await now(sale))
        return await deliver(sale, body, header)

    await send()
    assert (await sale.apply())["parked"] == 1
    assert (await sale.apply())["parked"] == 0, "a person has to look"
    assert (await send()).status == 200
    assert (await sale.apply())["parked"] == 1, "sent again, it is tried again"


@pytest.mark.parametrize("fault", ["429", "500_before", "reset_before", "lock_timeout"])
async def test_object_that_can_not_be_fetched_is_fetched_later(
    sale: Shop, pool: Pool, fault: str
) -> None:
    opened = await sale.checkout()
    await sale.pay(opened)
    await sale.control("faults", method="GET", path="/v1/*", kind=fault, count=12)
    first = await sale.apply()
    assert (first["applied"], first["parked"]) == (0, 0)
    assert first["failed"] >= 1
    assert (await sale.purchase(opened))["status"] == "open"
    for _ in range(8):
        # What is waited for is real time.
        await pool.execute("UPDATE stripe_objects SET not_before = NULL")
        await sale.apply()
    assert (await sale.purchase(opened))["status"] == "credited"
    assert await sale.api.posted() == ("1000", "0", "1000")


async def test_news_that_comes_while_an_object_fails_is_not_parked_with_it(
    sale: Shop, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await sale.checkout()
    await sale.pay(opened)
    port = sale.running.service.stripe
    assert port is not None
    fetch, is_first = port.payment, True

    async def missing(kind: Any, object_id: str) -> Any:
        nonlocal is_first
        if is_first:
            is_first = False
            await pool.execute("UPDATE stripe_objects SET marked = marked + 1")
            raise StripeFault("missing", "No such object.")
        return await fetch(kind, object_id)

    monkeypatch.setattr(port, "payment", missing)
    found = await sale.apply()
    assert found["parked"] <= 1
    assert await pool.fetchval("SELECT count(*) FROM stripe_objects WHERE is_parked") == 0
    assert (await sale.purchase(opened))["status"] == "credited"


async def test_crash_between_fetching_and_writing_is_made_up_for(
    sale: Shop, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await sale.checkout()
    await sale.pay(opened)
    service = sale.running.service
    decide = service.decide_in

    async def fail(conn: Any, request: Any) -> Any:
        await decide(conn, request)
        raise RuntimeError("the process ends here")

    with monkeypatch.context() as patch:
        patch.setattr(service, "decide_in", fail)
        assert (await sale.apply())["applied"] == 0
    assert (await sale.purchase(opened))["status"] == "open", "nothing of it was kept"
    await pool.execute("UPDATE stripe_objects SET not_before = NULL")
    await sale.apply()
    assert await sale.api.posted() == ("1000", "0", "1000")


async def test_endpoint_that_was_down_for_days_misses_nothing(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stripe's list begins with the newest, and a long one is read in parts: none is left out."""
    monkeypatch.setattr(stripe_sweep, "NEWS_MAX", 5)
    monkeypatch.setattr(stripe_sweep, "NEWS_FEW", 3)
    async with shop(pool, has_one_clock=True) as sale:
        await sale.pack()
        await sale.buy()
        await sale.job("stripe_sweep")
        await sale.control("webhooks", mode="drop")
        bought: list[Any] = []
        for day in range(4):
            for _ in range(2):
                bought.append(await sale.checkout())
                await sale.pay(bought[-1])
            await pool.execute(
                "UPDATE installation SET clock_offset = clock_offset + interval '1 day'"
            )
            await sale.standin.walk(START + timedelta(days=day + 1))
        await sale.job("stripe_sweep")
        await sale.apply()
        assert [(await sale.purchase(one))["status"] for one in bought] == ["credited"] * 8
        assert (await sale.job("stripe_sweep"))["events"] == 0, "read once"


async def test_event_that_can_not_be_read_does_not_stop_the_sweep(
    sale: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sale.control("webhooks", mode="drop")
    opened = await sale.checkout()
    await sale.pay(opened)
    read = stripe_news.read_event

    def fail(body: bytes) -> Any:
        event = read(body)
        if event.type == "charge.succeeded":
            raise ValueError("no such thing")
        return event

    monkeypatch.setattr(stripe_news, "read_event", fail)
    assert (await sale.job("stripe_sweep"))["events"] > 0
    await sale.apply()
    assert (await sale.purchase(opened))["status"] == "credited"


async def test_many_deliveries_three_times_each_in_any_order_and_at_once(
    sale: Shop, pool: Pool
) -> None:
    purchases = 12
    await sale.control("webhooks", mode="drop")
    opened = [await sale.checkout() for _ in range(purchases)]
    for number, one in enumerate(opened):
        await sale.pay(one)
        if number % 3 == 0:
            session = await sale.stripe.v1.checkout.sessions.retrieve_async(one["id"])
            await sale.control("refunds", payment_intent=str(session.payment_intent), amount=500)
    bodies = [msgspec.json.encode(event) for event in await sale.state("event")] * 3
    random.Random(7).shuffle(bodies)
    secret, at = sale.standin.webhook_secret, await now(sale)

    async def send(body: bytes) -> None:
        assert (await deliver(sale, body, signed(secret, body, at))).status == 200

    async def work() -> None:
        for _ in range(6):
            await sale.apply()
            await asyncio.sleep(0.05)

    halves = len(bodies) // 2
    await asyncio.gather(work(), *(send(body) for body in bodies[:halves]))
    await asyncio.gather(work(), *(send(body) for body in bodies[halves:]))
    await sale.apply()
    assert await sale.api.posted() == ("10000", "0", "10000"), "12 packs, and 4 halves went back"


async def test_lease_of_a_process_that_is_gone_ends(sale: Shop, pool: Pool) -> None:
    opened = await sale.checkout()
    await sale.pay(opened)
    async with transaction(pool) as conn:
        taken = await conn.fetch(queries.stripe_take, 100, timedelta(seconds=120))
    assert taken
    assert (await sale.apply())["applied"] == 0, "somebody has them"
    await pool.execute("UPDATE stripe_objects SET lease_until = clock_timestamp()")
    await sale.apply()
    assert (await sale.purchase(opened))["status"] == "credited"
