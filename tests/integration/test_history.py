"""The past on both axes against a plain recomputation, statements that add up, and read costs."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
import pytest

from ledger.explain import explain
from ledger.history import FutureMoment, StatementLine, balance_at, statement
from ledger.reads import SCAN_MAX, balance, grants, hold, holds, settled
from ledger.records import charge, charges, journals, request
from ledger.requests import Recurrence, Rollover
from sql.pool import Connection, Pool, transaction
from tests.integration.player import SETTINGS, UNIT, Player, units

DAY = 86_400


# A plain recomputation


Figures = tuple[int, int, int]
"""posted, owed, billed."""


async def recompute(
    conn: Connection, customer_no: int, at: datetime, axis: Literal["effective", "created"]
) -> Figures:
    """Every transfer of the customer in credits up to a moment, added up one by one."""
    rows = await conn.fetch(
        "SELECT j.effective_at, j.created_at, t.debit, t.credit, t.amount"
        " FROM journals j JOIN transfers t USING (customer_no, seq)"
        " WHERE j.customer_no = $1 AND t.asset = 'credits'",
        customer_no,
    )
    sums = {"wallet": 0, "owed": 0, "billed": 0}
    for row in rows:
        if row[f"{axis}_at"] <= at:
            for name, credited in ((row["debit"], -row["amount"]), (row["credit"], row["amount"])):
                if name in sums:
                    sums[name] += credited
    return sums["wallet"], -sums["owed"], -sums["billed"]


async def past(
    player: Player, at: datetime, axis: Literal["effective", "created"]
) -> tuple[Figures, int]:
    """The figures and what was held, as the read gives them."""
    answer = await balance_at(player.conn, player.no, "credits", at, axis, SETTINGS)
    assert (answer.available, answer.lots, answer.as_of) == (None, None, at)
    return (units(answer.posted), units(answer.owed), units(answer.billed)), units(answer.held)


async def stored(player: Player) -> tuple[Figures, int]:
    """What the book has at this moment, unsettled."""
    row = await player.conn.fetchrow(
        "SELECT wallet_credits - wallet_debits, owed_debits - owed_credits,"
        " billed_debits - billed_credits, wallet_pending FROM accounts"
        " WHERE customer_no = $1 AND asset = 'credits'",
        player.no,
    )
    return ((0, 0, 0), 0) if row is None else ((int(row[0]), int(row[1]), int(row[2])), int(row[3]))


class Life:
    """A customer to whom random things happen, with what was so at many moments."""

    def __init__(self, player: Player, seed: int) -> None:
        self.player, self.dice = player, random.Random(seed)
        self.holds: list[int] = []
        self.charges: list[int] = []
        self.grants: list[int] = []
        self.known: list[tuple[datetime, tuple[Figures, int]]] = []
        """Moments with what the book had then."""
        self.held: list[tuple[datetime, int]] = []
        """Moments with what was held then, time settled."""
        self.moments: list[datetime] = []

    async def step(self) -> None:
        kinds: list[Callable[[], Awaitable[object]]] = [
            self.grant,
            self.reserve,
            self.reserve,
            self.capture,
            self.capture,
            self.extend,
            self.void,
            self.consume,
            self.consume_late,
            self.reverse,
            self.void_grant,
            self.policy,
        ]
        await self.dice.choice(kinds)()
        await self.look()
        if self.dice.random() < 0.6:
            seconds = self.dice.choice((0.5, 60, 700, 5_000, 40_000, 3 * DAY))
            await self.player.wait(seconds * self.dice.random())
            await self.look()

    async def look(self) -> None:
        player = self.player
        before = await player.now()
        known = await stored(player)
        shown = await balance(player.conn, player.no, "credits", SETTINGS)
        self.known.append((before, known))
        self.held.append((shown.as_of, units(shown.held)))
        self.moments.append(before)

    async def grant(self) -> None:
        dice, now = self.dice, await self.player.now()
        starts = dice.choice((None, None, now - timedelta(days=2), now + timedelta(days=1)))
        ends = dice.choice((None, now + timedelta(days=dice.choice((1.5, 4, 30)))))
        recurrence = None
        if dice.random() < 0.2:
            recurrence = Recurrence(
                "day", rollover=Rollover(3 * UNIT, DAY) if dice.random() < 0.7 else None
            )
        self.grants.append(
            await self.player.grant(
                dice.randint(1, 60),
                starts=starts,
                ends=ends,
                paid=dice.random() < 0.3,
                priority=dice.randint(0, 100),
                recurrence=recurrence,
            )
        )

    async def reserve(self) -> None:
        seconds = self.dice.choice((30, 600, 20_000, DAY))
        made = await self.player.reserve(self.dice.randint(1, 25), seconds=seconds)
        if made is not None:
            self.holds.append(made)

    async def capture(self) -> None:
        if self.holds:
            await self.player.capture(
                self.dice.choice(self.holds[-4:]),
                self.dice.choice((None, 0, self.dice.randint(1, 20))),
                final=self.dice.random() < 0.4,
                above_hold=self.dice.choice(("deny", "take")),
            )

    async def extend(self) -> None:
        if self.holds:
            hold = self.dice.choice(self.holds[-4:])
            await self.player.extend(hold, expires_in=5_000, add=str(self.dice.randint(1, 9)))

    async def void(self) -> None:
        if self.holds:
            await self.player.void(self.dice.choice(self.holds[-4:]))

    async def consume(self) -> None:
        made = await self.player.consume(self.dice.randint(1, 20))
        if made is not None:
            self.charges.append(made)

    async def consume_late(self) -> None:
        at = await self.player.now() - timedelta(seconds=self.dice.randint(1, 6 * DAY))
        made = await self.player.consume(self.dice.randint(1, 20), at=at)
        if made is not None:
            self.charges.append(made)

    async def reverse(self) -> None:
        if self.charges:
            amount = self.dice.choice((None, 1, 3))
            await self.player.reverse(self.dice.choice(self.charges), amount)

    async def void_grant(self) -> None:
        if self.grants and self.dice.random() < 0.3:
            await self.player.void_grant(self.dice.choice(self.grants))

    async def policy(self) -> None:
        await self.player.policy(self.dice.choice(("deny", "owe", "bill")), 40)


@pytest.mark.parametrize("seed", range(6))
async def test_balance_at_random_moments_equals_a_plain_recomputation(
    conn: Connection, seed: int
) -> None:
    life = Life(await Player.enter(conn), seed)
    player = life.player
    for _ in range(60):
        await life.step()
        if life.dice.random() < 0.2:  # while things still happen
            moment, then = life.dice.choice(life.known)
            assert await past(player, moment, "created") == then
    await player.wait(life.dice.choice((0, 900, 10 * DAY)))

    unposted = {at: await past(player, at, "effective") for at in life.moments}
    for at, then in life.known:
        figures = await past(player, at, "created")
        assert figures == then
        assert figures[0] == await recompute(conn, player.no, at, "created")
    await player.settle()
    for at in life.moments:
        figures = await past(player, at, "effective")
        assert figures == unposted[at]
        assert figures[0] == await recompute(conn, player.no, at, "effective")
    for at, held in life.held:
        assert (await past(player, at, "effective"))[1] == held


async def test_balance_at_exact_instants_counts_the_instant_itself(conn: Connection) -> None:
    player = await Player.enter(conn)
    start = await player.now()
    await player.grant(10, ends=start + timedelta(seconds=100))
    made = await player.reserve(4, seconds=50)
    assert made is not None
    read = await hold(conn, player.no, made, SETTINGS)
    assert read is not None
    await player.wait(1_000)
    tick = timedelta(microseconds=1)
    created = await conn.fetchval("SELECT created_at FROM journals WHERE customer_no=$1", player.no)

    async def at(moment: datetime, axis: Literal["effective", "created"]) -> tuple[int, int]:
        figures, held = await past(player, moment, axis)
        return figures[0] // UNIT, held // UNIT

    assert await at(created - tick, "created") == (0, 0)
    assert await at(created, "created") == (10, 0)
    assert await at(read.created_at - tick, "effective") == (10, 0)
    assert await at(read.created_at, "effective") == (10, 4)
    assert await at(read.expires_at - tick, "effective") == (10, 4)
    assert await at(read.expires_at, "effective") == (10, 0)
    assert await at(start + timedelta(seconds=100) - tick, "effective") == (10, 0)
    assert await at(start + timedelta(seconds=100), "effective") == (0, 0)
    # The book has not learned of either end.
    assert await at(start + timedelta(seconds=500), "created") == (10, 4)


async def test_balance_at_of_a_hold_the_book_took_for_open_long_after_its_deadline(
    conn: Connection,
) -> None:
    player = await Player.enter(conn)
    await player.grant(10)
    await player.reserve(4, seconds=50)
    await player.wait(30 * DAY)
    late = await player.now()
    await player.wait(DAY)
    await player.settle()

    assert (await past(player, late, "created"))[1] == 4 * UNIT
    assert (await past(player, late, "effective"))[1] == 0


@pytest.mark.parametrize("axis", ["effective", "created"])
async def test_balance_at_a_future_moment_is_refused(
    conn: Connection, axis: Literal["effective", "created"]
) -> None:
    player = await Player.enter(conn)
    ahead = await player.now() + timedelta(seconds=60)

    with pytest.raises(FutureMoment):
        await balance_at(conn, player.no, "credits", ahead, axis, SETTINGS)
    with pytest.raises(FutureMoment):
        await statement(conn, player.no, "credits", SETTINGS, from_=ahead, limit=1)


async def test_balance_at_of_an_asset_never_used_is_zeros(conn: Connection) -> None:
    player = await Player.enter(conn)
    await player.grant(1)
    now = await player.now()

    for axis in ("effective", "created"):
        answer = await balance_at(conn, player.no, "points", now, axis, SETTINGS)
        assert (answer.posted, answer.held, answer.owed, answer.billed) == ("0", "0", "0", "0")


async def test_balance_at_created_waits_for_a_write_under_way_and_then_stays(pool: Pool) -> None:
    async with pool.acquire() as conn, pool.acquire() as other:
        async with conn.transaction():
            player = await Player.enter(conn)
            await player.grant(10)
        writing = conn.transaction()
        await writing.start()
        await player.consume(3)
        at = await player.now()

        async def ask() -> str:
            async with other.transaction():
                answer = await balance_at(other, player.no, "credits", at, "created", SETTINGS)
                return answer.posted

        asked = asyncio.create_task(ask())
        while not await conn.fetchval("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)"):
            pass
        await writing.commit()
        assert await asked == "7"
        async with conn.transaction():
            await player.consume(2)
        assert await ask() == "7"


# Statement


async def whole_statement(player: Player, *, limit: int, **span: Any) -> list[StatementLine]:
    """All lines; every page is checked against its own opening and closing."""
    lines: list[StatementLine] = []
    position, first = None, None
    while True:
        page, position = await statement(
            player.conn, player.no, "credits", SETTINGS, after=position, limit=limit, **span
        )
        first = first or page
        assert (page.opening, page.closing, page.to) == (first.opening, first.closing, first.to)
        lines += page.lines
        if position is None:
            break
        # As a cursor would carry it.
        position = msgspec.convert(msgspec.to_builtins(position), type(position), strict=False)
    running = units(first.opening)
    for line in lines:
        running += units(line.amount)
        assert units(line.balance) == running
    assert running == units(first.closing)
    return lines


@pytest.mark.parametrize("seed", [11, 12])
async def test_statement_adds_up_across_pages_and_meets_the_balances(
    conn: Connection, seed: int
) -> None:
    life = Life(await Player.enter(conn), seed)
    player = life.player
    for _ in range(50):
        await life.step()

    everything = await whole_statement(player, limit=7)
    for limit in (1, 100):
        assert await whole_statement(player, limit=limit) == everything
    assert [line.created_at for line in everything] == sorted(
        line.created_at for line in everything
    )
    moments = sorted(life.dice.sample(life.moments, 6))
    parts: list[StatementLine] = []
    for from_, to in zip([None, *moments], [*moments, None], strict=True):
        page, _ = await statement(conn, player.no, "credits", SETTINGS, from_=from_, to=to, limit=1)
        if to is not None:
            then = await past(player, to - timedelta(microseconds=1), "created")
            assert units(page.closing) == then[0][0]
        parts += await whole_statement(player, limit=3, from_=from_, to=to)
    assert parts == everything


async def test_statement_lines_name_what_they_belong_to(conn: Connection) -> None:
    player = await Player.enter(conn)
    await player.grant(100)
    held = await player.reserve(20, reference="job 1")
    assert held is not None
    await player.capture(held, 20)
    spent = await player.consume(5, reference="r 2")
    assert spent is not None
    await player.reverse(spent, 2)
    await player.grant(9, asset="points")

    lines = await whole_statement(player, limit=100)

    assert [(line.kind, line.amount, line.balance) for line in lines] == [
        ("grant", "100", "100"),
        ("charge", "-20", "80"),
        ("charge", "-5", "75"),
        ("reversal", "2", "77"),
    ]
    first = await charge(conn, player.no, 2, SETTINGS)
    assert first is not None
    assert (lines[1].charge_id, lines[1].hold_id) == (first.id, first.hold_id)
    assert (lines[1].reference, lines[2].reference) == ("job 1", "r 2")
    assert lines[3].charge_id == lines[2].charge_id
    assert lines[0].grant_id


async def test_statement_of_a_customer_without_journals_is_empty(conn: Connection) -> None:
    player = await Player.enter(conn)

    answer, position = await statement(conn, player.no, "credits", SETTINGS, limit=5)

    assert (answer.opening, answer.lines, answer.closing, position) == ("0", [], "0", None)
    assert b'"from":null' in msgspec.json.encode(answer)


async def test_statement_pages_show_what_the_first_one_saw(conn: Connection) -> None:
    player = await Player.enter(conn)
    await player.grant(10)
    await player.consume(1)
    page, position = await statement(conn, player.no, "credits", SETTINGS, limit=1)
    await player.consume(2)

    rest, end = await statement(conn, player.no, "credits", SETTINGS, after=position, limit=5)

    assert [line.amount for line in page.lines + rest.lines] == ["10", "-1"]
    assert (rest.closing, end) == ("9", None)


# What reads need and cost


async def test_reads_write_nothing_and_lock_nothing_but_the_recent_created_axis(
    pool: Pool,
) -> None:
    async with transaction(pool) as conn:
        player = await Player.enter(conn)
        await player.grant(10, ends=await player.now() + timedelta(seconds=50))
        held = await player.reserve(4, seconds=30)
        await player.consume(1)
        await player.wait(100)
        now = await player.now()
    no = player.no

    async with transaction(pool, snapshot=True) as conn:
        await balance(conn, no, "credits", SETTINGS)
        await hold(conn, no, held or 0, SETTINGS)
        await holds(conn, no, SETTINGS, status="expired", limit=5)
        await grants(conn, no, SETTINGS, limit=5)
        await charge(conn, no, 2, SETTINGS)
        await charges(conn, no, SETTINGS, limit=5)
        await journals(conn, no, SETTINGS, limit=5)
        await request(conn, no, "key-1")
        await explain(conn, no, "credits", SETTINGS)
        early = await balance_at(conn, no, "credits", now, "effective", SETTINGS)
        await balance_at(conn, no, "credits", now - timedelta(days=1), "created", SETTINGS)
    async with transaction(pool) as conn:
        late = await balance_at(conn, no, "credits", now, "created", SETTINGS)
        await statement(conn, no, "credits", SETTINGS, limit=5)
    assert (early.posted, early.held, late.posted, late.held) == ("0", "0", "9", "4")


HISTORY = 50_000
SEED = """
INSERT INTO journals (customer_no, seq, kind, effective_at, created_at, book_date, hold_no,
    is_late, origin, prev_hash, hash)
SELECT $1, i, 'charge', $2 + i * interval '1 min', $2 + i * interval '1 min',
    ($2)::date, i + 10, false, 'api', '\\x00', '\\x00'
FROM generate_series(2, $3) AS i;
INSERT INTO transfers (customer_no, seq, line, asset, debit, credit, amount, lot_no)
SELECT $1, i, 1, 'credits', 'wallet', 'burned', 1, 2 FROM generate_series(2, $3) AS i;
INSERT INTO holds (customer_no, hold_no, asset, status, requested, amount, captured, uncovered,
    pin_lots, pin_amounts, steps, expires_at, created_at, ended_at, ended_created_at)
SELECT $1, i + 10, 'credits', 'captured', 1, 1, 1, 0, '{2}', '{1}', 0, at + interval '600 s', at,
    at, at
FROM (SELECT i, $2 + i * interval '1 min' AS at
    FROM generate_series(2, $3) AS i) AS v;
INSERT INTO requests (customer_no, key, operation, fingerprint, status, body, created_at)
SELECT $1, 'seed-' || i, 'consume', '\\x00', CASE WHEN i % 50 = 0 THEN 402 ELSE 201 END, '{}',
    $2 + i * interval '1 min'
FROM generate_series(2, $3) AS i;
INSERT INTO lots (customer_no, lot_no, grant_no, asset, category, amount, remaining, pinned,
    expired, voided, priority, effective_at, expires_at, created_at, is_upcoming, is_rollover,
    deferred_amount, deferred_units)
SELECT $1, i + 100000, i, 'credits', 'promotional', 5, 0, 0, i % 2, 0, 50, $2,
    $2 + i * interval '1 min', $2, false, false, 0, 0
FROM generate_series(2, $3) AS i;
UPDATE customers SET last_seq = $3, last_no = $3 + 200000,
    last_created_at = $2 + $3 * interval '1 min' WHERE customer_no = $1;
UPDATE accounts SET wallet_debits = wallet_debits + $3 - 1 WHERE customer_no = $1;
UPDATE lots SET remaining = remaining - $3 + 1 WHERE customer_no = $1 AND lot_no = 2;
"""


async def rows_read(conn: Connection) -> int:
    """Rows that this transaction has fetched from tables so far."""
    return await conn.fetchval(
        "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint"
        " FROM pg_stat_xact_user_tables"
    )


@pytest.mark.breaks_books
async def test_reads_of_a_long_history_touch_few_rows(conn: Connection) -> None:
    player = await Player.enter(conn)
    no = player.no
    start = await player.now() - timedelta(days=40)
    await player.grant(1_000_000)
    script = SEED.replace("$1", str(no)).replace("$2", f"'{start.isoformat()}'::timestamptz")
    await conn.execute(script.replace("$3", str(HISTORY)))
    near = start + timedelta(minutes=HISTORY - 200)
    far = start + timedelta(minutes=1_000)

    week = 7 * 24 * 60 + 1_000  # the holds of a week may have been open, and the journals since

    async def cost(read: Awaitable[object]) -> int:
        before = await rows_read(conn)
        await read
        return await rows_read(conn) - before

    reads: dict[str, tuple[Awaitable[object], int]] = {
        "settled": (settled(conn, no, SETTINGS), 60),
        "balance": (balance(conn, no, "credits", SETTINGS), 60),
        "hold": (hold(conn, no, HISTORY, SETTINGS), 60),
        "holds": (holds(conn, no, SETTINGS, limit=25), 400),
        "holds open": (holds(conn, no, SETTINGS, status="open", limit=25), 60),
        "holds voided": (holds(conn, no, SETTINGS, status="voided", limit=25), SCAN_MAX + 100),
        "charge": (charge(conn, no, 500, SETTINGS), 60),
        "charges": (charges(conn, no, SETTINGS, limit=25), 400),
        "charges of a time": (charges(conn, no, SETTINGS, from_=far, to=near, limit=25), 400),
        "charges of a hold": (charges(conn, no, SETTINGS, hold_no=777, limit=25), 100),
        "journals": (journals(conn, no, SETTINGS, limit=25), 200),
        "expiries": (journals(conn, no, SETTINGS, kind="expiry", limit=25), SCAN_MAX + 100),
        "grants": (grants(conn, no, SETTINGS, limit=25), 60),
        "request": (request(conn, no, "seed-77"), 5),
        "explain": (explain(conn, no, "credits", SETTINGS), 150),
        "created": (balance_at(conn, no, "credits", near, "created", SETTINGS), week),
        "effective": (balance_at(conn, no, "credits", near, "effective", SETTINGS), week),
        "statement": (statement(conn, no, "credits", SETTINGS, from_=near, limit=25), 1_200),
        "whole statement": (statement(conn, no, "credits", SETTINGS, limit=25), 300),
    }
    costs = {name: (await cost(read), limit) for name, (read, limit) in reads.items()}

    assert {name: pair for name, pair in costs.items() if pair[0] > pair[1]} == {}
