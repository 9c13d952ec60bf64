"""The stand-in beside the service: one clock for both, and keys of one mode for the books."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog

from drawdown import standin
from drawdown.database import StartError
from drawdown.settings import SettingsError, load
from drawdown.standin import StandIn, open_stand_in
from drawdown.stripe_keys import fixed_account
from jobs.runner import Counts, Job, Run, Runner
from ledger import customers
from meter import clock_walk
from meter.service import Service
from sandbox.server import running as standing_in
from sql.pool import Pool, transaction
from tests.http import Api, serving, wire_time
from tests.stripe.kit import Receiver, receiving

HOUR = timedelta(hours=1)
KEYS = {"STRIPE_SECRET_KEY": "sk_test_hunter2", "STRIPE_WEBHOOK_SECRET": "whsec_hunter2"}
LIVE_KEYS = KEYS | {"STRIPE_SECRET_KEY": "rk_live_hunter2"}


class Pair:
    """A service and the stand-in that lives by its clock."""

    def __init__(self, service: Service, api: Api, stand_in: StandIn, receiver: Receiver) -> None:
        self.service, self.api, self.stand_in, self.receiver = service, api, stand_in, receiver

    async def ask(self, path: str, form: dict[str, str]) -> Any:
        """A request to the stand-in, as Stripe's library would send it."""
        key = {"Authorization": f"Bearer {self.stand_in.sandbox.secret_key}"}
        url = self.stand_in.sandbox.url + path
        async with self.api.session.post(url, data=form, headers=key) as answer:
            found = msgspec.json.decode(await answer.read())
            assert answer.status == 200, found
            return found

    async def session_until(self, end: datetime) -> Any:
        """A checkout session that nobody pays until then."""
        return await self.ask(
            "/v1/checkout/sessions",
            {
                "mode": "setup",
                "currency": "usd",
                "success_url": "https://example.com/done",
                "expires_at": str(int(end.timestamp())),
            },
        )

    async def advance(self, by: timedelta) -> tuple[datetime, int]:
        answer = await self.api.post(
            "/v1/test-clock", {"advance": int(by.total_seconds())}, key=None
        )
        assert answer.status == 200, answer
        return datetime.fromisoformat(answer.body["now"]), answer.body["steps"]


@asynccontextmanager
async def paired(pool: Pool, data: Path) -> AsyncGenerator[Pair]:
    async with (
        serving(pool) as made,
        open_stand_in(pool, data) as stand_in,
        receiving() as receiver,
    ):
        made.service.companion = stand_in
        stand_in.sandbox.set_webhook(receiver.url)
        yield Pair(made.service, made.api, stand_in, receiver)


@pytest.fixture
async def pair(pool: Pool, tmp_path: Path) -> AsyncGenerator[Pair]:
    async with paired(pool, tmp_path) as made:
        yield made


async def now_of(pool: Pool) -> datetime:
    async with transaction(pool) as conn:
        return await customers.now(conn)


def news_job(work: Any) -> Job:
    return Job(
        name="stripe_news",
        every=timedelta(days=1),
        seconds_max=60,
        work=work,
        about="for a test",
    )


# One clock


async def test_clock_walks_from_instant_to_instant_of_both_sides(pair: Pair) -> None:
    begin = await pair.api.now()
    await pair.api.customer()
    for hours in (2, 6):
        await pair.api.grant("10", expires_at=wire_time(begin + hours * HOUR))
    await pair.session_until(begin + 4 * HOUR)
    seen: list[tuple[int, int, str]] = []

    async def look(run: Run) -> Counts:
        async with transaction(run.service.pool) as conn:
            now = await customers.now(conn)
            posted = await conn.fetchval("SELECT sum(remaining)::text FROM lots")
        assert abs(now - pair.stand_in.sandbox.now()) < timedelta(seconds=2)
        hours = round((now - begin) / HOUR)
        seen.append((hours, pair.receiver.types().count("checkout.session.expired"), posted))
        return {}

    pair.service.jobs = Runner(pair.service, [news_job(look)])
    now, steps = await pair.advance(8 * HOUR)

    assert steps == 3
    assert abs(now - begin - 8 * HOUR) < timedelta(seconds=5)
    # At each instant its own work is done and applied, and no later one's.
    first = list(dict.fromkeys(seen))
    ten = 10**10
    assert first == [
        (0, 0, str(2 * ten)),
        (2, 0, str(ten)),
        (4, 1, str(ten)),
        (6, 1, "0"),
        (8, 1, "0"),
    ]


async def test_clock_webhooks_of_a_step_are_signed_at_its_instant(pair: Pair) -> None:
    begin = await pair.api.now()
    await pair.session_until(begin + 4 * HOUR)
    await pair.advance(30 * HOUR)

    [(at, created)] = [
        (int(header.partition(",")[0].removeprefix("t=")), event["created"])
        for event, (_, header) in zip(pair.receiver.events(), pair.receiver.seen, strict=True)
        if event["type"] == "checkout.session.expired"
    ]
    assert abs(at - (begin + 4 * HOUR).timestamp()) < 5
    assert abs(at - created) < 5


async def test_clock_news_that_leads_to_news_is_applied_before_the_next_step(pair: Pair) -> None:
    begin = await pair.api.now()
    await pair.session_until(begin + 2 * HOUR)
    await pair.session_until(begin + 4 * HOUR)
    applied: list[tuple[str, int]] = []

    async def apply(_: Run) -> Counts:
        hours = round((pair.stand_in.sandbox.now() - begin) / HOUR)
        for kind in pair.receiver.types()[len(applied) :]:
            applied.append((kind, hours))
            if kind == "checkout.session.expired":
                await pair.ask("/v1/customers", {"name": "answered"})
        return {}

    pair.service.jobs = Runner(pair.service, [news_job(apply)])
    await pair.advance(6 * HOUR)

    assert applied == [
        ("checkout.session.expired", 2),
        ("customer.created", 2),
        ("checkout.session.expired", 4),
        ("customer.created", 4),
    ]


async def test_clock_runs_no_other_jobs_and_outlives_one_that_fails(pair: Pair) -> None:
    runs: list[str] = []

    async def fail(_: Run) -> Counts:
        runs.append("stripe_news")
        raise ValueError("of a test")

    async def other(_: Run) -> Counts:
        runs.append("other")
        return {}

    named = msgspec.structs.replace(news_job(other), name="other")
    pair.service.jobs = Runner(pair.service, [news_job(fail), named])
    await pair.advance(HOUR)
    assert set(runs) == {"stripe_news"}


class Restless:
    """A companion that is never done."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def next_due(self) -> datetime | None:
        return self.now + timedelta(seconds=1)

    async def walk(self, to: datetime) -> int:
        self.now = max(self.now, to)
        return 1


async def test_clock_that_gets_too_far_says_so_and_stays_where_it_is(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_walk, "STEPS_MAX", 3)
    async with serving(pool) as made:
        begin = await made.api.now()
        made.service.companion = Restless(begin)
        answer = await made.api.post("/v1/test-clock", {"advance": 3600}, key=None)
        assert (answer.status, answer.code) == (503, "busy")
        assert await now_of(pool) - begin < timedelta(minutes=1)


async def test_two_moves_at_once_are_done_one_after_the_other(pair: Pair) -> None:
    begin = await pair.api.now()
    ends = await asyncio.gather(*(pair.advance(HOUR) for _ in range(3)))
    assert [round((now - begin) / HOUR) for now, _ in sorted(ends)] == [1, 2, 3]


async def test_stand_in_is_moved_by_nobody_else(pair: Pair) -> None:
    sandbox = pair.stand_in.sandbox
    token = {"Authorization": f"Bearer {sandbox.token}"}
    url = f"{sandbox.url}/_sandbox/clock"
    async with pair.api.session.post(url, json={"to": "2035-01-01"}, headers=token) as answer:
        assert answer.status == 409
        assert "POST /v1/test-clock" in await answer.text()
    async with pair.api.session.get(url, headers=token) as answer:
        assert answer.status == 200


async def test_stand_in_follows_a_clock_that_went_on_without_it(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standin, "FOLLOW_SECONDS", 0.02)
    async with paired(pool, tmp_path) as pair:
        async with transaction(pool) as conn:
            await customers.advance_clock(conn, HOUR)
        async with asyncio.timeout(10):
            while await now_of(pool) - pair.stand_in.sandbox.now() > timedelta(seconds=2):
                pass


async def test_stand_in_begins_at_the_time_of_the_books_however_old_its_file(
    pool: Pool, tmp_path: Path
) -> None:
    async with serving(pool):
        for _ in ("no file yet", "a file that was written before"):
            async with transaction(pool) as conn:
                await customers.advance_clock(conn, 100 * HOUR)
            async with open_stand_in(pool, tmp_path) as stand_in:
                ahead = stand_in.sandbox.now() - await now_of(pool)
                assert abs(ahead) < timedelta(seconds=2)


async def test_stand_in_of_later_books_is_told(pool: Pool, tmp_path: Path) -> None:
    async with serving(pool):
        later = await now_of(pool) + 5 * HOUR
        async with standing_in(start=later, state_file=tmp_path / "stripe.json"):
            pass
        with structlog.testing.capture_logs() as told:
            async with open_stand_in(pool, tmp_path) as stand_in:
                assert stand_in.sandbox.now() > later
        assert [line["event"] for line in told] == ["stand_in_ahead"]


async def test_stand_in_with_a_broken_file_says_which(pool: Pool, tmp_path: Path) -> None:
    async with serving(pool):
        for text in ("", "[]", "{", '{"world": {}}'):
            (tmp_path / "stripe.json").write_text(text)
            with pytest.raises(StartError, match=r"stripe\.json can't be read"):
                async with open_stand_in(pool, tmp_path):
                    pass


async def test_stand_in_answers_until_the_end_and_no_longer(pool: Pool, tmp_path: Path) -> None:
    async with paired(pool, tmp_path) as pair:
        config = pair.stand_in.config()
        await pair.ask("/v1/customers", {"name": "kept"})
    assert (config.is_live, len(config.webhook_secrets)) == (False, 1)
    assert "kept" in (tmp_path / "stripe.json").read_text()
    async with aiohttp.ClientSession() as web:
        with pytest.raises(aiohttp.ClientConnectorError):
            await web.get(f"{config.api_base}/v1/customers")


# One mode


async def installed(pool: Pool, mode: str | None) -> customers.Installation:
    async with transaction(pool) as conn:
        await customers.make_installation(conn, mode=mode, books_time_zone="UTC")
        found = await customers.installation(conn)
    assert found is not None
    return found


async def test_first_key_fixes_the_mode_for_ever(pool: Pool) -> None:
    books = await installed(pool, None)
    assert await fixed_account(pool, load({}), books) is None
    assert (await installed(pool, None)).mode is None, "no key, no mode"

    account = await fixed_account(pool, load(KEYS), books)
    assert account is not None
    books = await installed(pool, None)
    assert books.mode == "test"
    for _ in range(2):
        with pytest.raises(StartError, match="STRIPE_SECRET_KEY is a live key, but these books"):
            await fixed_account(pool, load(LIVE_KEYS), books)
    assert (await installed(pool, None)).mode == "test"
    assert await fixed_account(pool, load({}), books) is None, "without a key nothing is sold"
    assert await fixed_account(pool, load(KEYS), books) is not None


async def test_keys_of_both_modes_at_once_one_is_refused(pool: Pool) -> None:
    books = await installed(pool, None)
    ends = await asyncio.gather(
        *(fixed_account(pool, load(keys), books) for keys in (KEYS, LIVE_KEYS) * 3),
        return_exceptions=True,
    )
    refused = {n % 2 for n, end in enumerate(ends) if isinstance(end, StartError)}
    assert len(refused) == 1
    mode = (await installed(pool, None)).mode
    assert mode == ("live" if refused == {0} else "test")


async def test_misfitting_keys_fix_no_mode(pool: Pool) -> None:
    books = await installed(pool, None)
    with pytest.raises(SettingsError):
        await fixed_account(pool, load({"STRIPE_SECRET_KEY": "sk_live_1"}), books)
    assert (await installed(pool, None)).mode is None


async def test_sandbox_takes_no_keys_even_wrong_ones(pool: Pool) -> None:
    books = await installed(pool, "sandbox")
    with structlog.testing.capture_logs() as told:
        for keys in (LIVE_KEYS, {"STRIPE_SECRET_KEY": "sk_live_hunter2"}):
            assert await fixed_account(pool, load(keys), books) is None
    assert [line["event"] for line in told] == ["stripe_settings_ignored"] * 2
    assert "hunter2" not in repr(told)
    assert (await installed(pool, None)).mode == "sandbox"
