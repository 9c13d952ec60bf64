"""Reads of now: what time has done counts without being posted, and the numbers add up."""

from datetime import UTC, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from ledger.explain import explain
from ledger.load import DEBTS_MAX, DUE_MAX
from ledger.reads import (
    UnknownCustomer,
    balance,
    grant,
    grants,
    hold,
    holds,
    settled,
)
from ledger.records import charge, charges, journal, journals, request
from ledger.requests import Recurrence, Settle
from ledger.state import Settings
from sql.pool import Connection
from tests.integration.player import SETTINGS, Player, number, units


async def journal_count(player: Player) -> int:
    return await player.conn.fetchval(
        "SELECT count(*) FROM journals WHERE customer_no = $1", player.no
    )


async def all_pages(list_items: Any, *args: Any, limit: int, **filters: Any) -> list[Any]:
    """Every item, page by page."""
    items: list[Any] = []
    position = None
    while True:
        page, position = await list_items(*args, after=position, limit=limit, **filters)
        assert len(page) <= limit
        items += page
        if position is None:
            return items


# Balance


async def test_balance_of_a_customer_without_credit_is_zeros(conn: Connection) -> None:
    player = await Player.enter(conn)

    answer = await balance(conn, player.no, "credits", SETTINGS)

    assert (answer.posted, answer.held, answer.available) == ("0", "0", "0")
    assert (answer.owed, answer.billed, answer.upcoming) == ("0", "0", "0")
    assert answer.lots == []
    assert answer.overage is not None
    assert (answer.overage.policy, answer.overage.limit) == ("deny", None)


async def test_balance_of_an_unknown_customer_is_an_error_and_its_objects_are_not_there(
    conn: Connection,
) -> None:
    await Player.enter(conn)

    for read in (
        balance(conn, 10**9, "credits", SETTINGS),
        holds(conn, 10**9, SETTINGS, limit=1),
        grants(conn, 10**9, SETTINGS, limit=1),
        charges(conn, 10**9, SETTINGS, limit=1),
        journals(conn, 10**9, SETTINGS, limit=1),
    ):
        with pytest.raises(UnknownCustomer):
            await read
    assert await hold(conn, 10**9, 1, SETTINGS) is None
    assert await charge(conn, 10**9, 1, SETTINGS) is None
    assert await grant(conn, 10**9, 1, SETTINGS) is None
    assert await journal(conn, 10**9, 1, SETTINGS) is None
    assert await request(conn, 10**9, "key") is None


async def test_balance_lists_lots_in_burn_order_and_they_add_up(conn: Connection) -> None:
    player = await Player.enter(conn)
    now = await player.now()
    last = await player.grant(30, paid=True)
    first = await player.grant(10, ends=now + timedelta(days=9), priority=10)
    second = await player.grant(20, ends=now + timedelta(days=5))
    await player.grant(40, starts=now + timedelta(days=1))
    await player.reserve(15)

    answer = await balance(conn, player.no, "credits", SETTINGS)

    assert answer.lots is not None
    assert [number(lot.grant_id) for lot in answer.lots] == [first, second, last]
    assert [(lot.remaining, lot.held) for lot in answer.lots] == [
        ("10", "10"),
        ("20", "5"),
        ("30", "0"),
    ]
    assert (answer.posted, answer.held, answer.available) == ("60", "15", "45")
    assert answer.upcoming == "40"
    assert not answer.lots_has_more


async def test_balance_shows_what_time_has_done_and_posts_nothing(conn: Connection) -> None:
    player = await Player.enter(conn)
    now = await player.now()
    await player.grant(100, ends=now + timedelta(hours=1))
    await player.grant(50, starts=now + timedelta(hours=2))
    await player.grant(
        7, recurrence=Recurrence("day"), starts=now - timedelta(hours=1), priority=60
    )
    held = await player.reserve(30, seconds=60)
    assert held is not None
    before = await journal_count(player)
    await player.wait(25 * 3600)

    answer = await balance(conn, player.no, "credits", SETTINGS)
    read = await hold(conn, player.no, held, SETTINGS)
    listed, _ = await grants(conn, player.no, SETTINGS, limit=10)

    assert (answer.posted, answer.held, answer.upcoming) == ("57", "0", "0")
    assert answer.lots is not None
    assert [lot.remaining for lot in answer.lots] == ["50", "7"]
    assert read is not None
    assert (read.status, read.remaining) == ("expired", "0")
    assert [one.status for one in listed] == ["active", "active", "expired"]
    assert await journal_count(player) == before
    await player.settle()
    posted = await balance(conn, player.no, "credits", SETTINGS)
    assert msgspec.structs.replace(posted, as_of=answer.as_of, lots=None) == (
        msgspec.structs.replace(answer, lots=None)
    )


async def test_balance_counts_a_signup_grant_that_is_due(conn: Connection) -> None:
    player = await Player.enter(conn, signup_due=True)
    settings = Settings(scales=SETTINGS.scales, books_time_zone=UTC, signup_amount=5 * 10**9)

    answer = await balance(conn, player.no, "credits", settings)

    assert answer.available == "5"
    assert answer.lots is not None
    assert len(answer.lots) == 1
    assert await journal_count(player) == 0


async def test_balance_with_more_lots_than_shown_says_so(conn: Connection) -> None:
    player = await Player.enter(conn)
    for _ in range(101):
        await player.grant(1)

    answer = await balance(conn, player.no, "credits", SETTINGS)

    assert answer.lots is not None
    assert len(answer.lots) == 100
    assert answer.lots_has_more
    assert answer.posted == "101"


@pytest.mark.parametrize(("policy", "used"), [("owe", "4"), ("bill", "4"), ("deny", "0")])
async def test_balance_overage_counts_under_the_policy_of_the_moment(
    conn: Connection, policy: str, used: str
) -> None:
    player = await Player.enter(conn)
    await player.policy("owe" if policy == "deny" else policy, 10)
    await player.consume(4)
    await player.reserve(3)
    if policy == "deny":
        await player.policy("deny")

    answer = await balance(conn, player.no, "credits", SETTINGS)

    assert answer.overage is not None
    assert answer.overage.used == used
    assert answer.overage.held == ("0" if policy == "deny" else "3")
    assert answer.overage.limit == (None if policy == "deny" else "10")
    assert (answer.owed, answer.billed) == (("0", "4") if policy == "bill" else ("4", "0"))


async def test_balance_with_more_due_than_one_request_posts_is_settled_to_the_end(
    conn: Connection,
) -> None:
    player = await Player.enter(conn)
    await player.grant(10_000)
    numbers = [await player.reserve(1, seconds=60) for _ in range(DUE_MAX + 20)]
    await player.wait(100)

    answer = await balance(conn, player.no, "credits", SETTINGS)
    read = await hold(conn, player.no, numbers[-1] or 0, SETTINGS)

    assert (answer.posted, answer.held) == ("10000", "0")
    assert read is not None
    assert read.status == "expired"


async def settle_in_steps(player: Player) -> int:
    """Post what time has done, request by request; how many said that there is more."""
    busy = 0
    while (await player.send(Settle(customer_no=player.no)))[0] == 503:
        busy += 1
    return busy


async def test_balance_repays_more_debts_than_are_loaded_at_once(conn: Connection) -> None:
    player = await Player.enter(conn)
    await player.policy("owe", 10_000)
    now = await player.now()
    debts = DEBTS_MAX + 20
    for _ in range(debts):
        await player.consume(1)
    await player.grant(600, starts=now + timedelta(hours=1))
    await player.grant(5_000, starts=now + timedelta(hours=2))
    await player.wait(7_300)

    answer = await balance(conn, player.no, "credits", SETTINGS)

    assert (answer.owed, answer.available) == ("0", str(5_600 - debts))
    assert await settle_in_steps(player) == 1
    posted = await balance(conn, player.no, "credits", SETTINGS)
    assert msgspec.structs.replace(posted, as_of=answer.as_of) == answer


async def test_settling_in_steps_repays_before_a_later_step_ends_the_credit(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.settle.STEPS_MAX", 1)
    player = await Player.enter(conn)
    await player.policy("owe", 100)
    await player.grant(5, ends=await player.now() + timedelta(seconds=200))
    await player.reserve(5, seconds=100)
    await player.consume(5)
    await player.wait(300)

    answer = await balance(conn, player.no, "credits", SETTINGS)

    assert (answer.owed, answer.posted) == ("0", "0")
    await settle_in_steps(player)
    posted = await balance(conn, player.no, "credits", SETTINGS)
    assert msgspec.structs.replace(posted, as_of=answer.as_of) == answer
    repaid, _ = await journals(conn, player.no, SETTINGS, kind="debt_repaid", limit=9)
    assert [one.transfers[0].amount for one in repaid] == ["5"]


# Holds, charges, grants, journals, requests


async def test_hold_reads_as_it_was_answered_with_the_balance_of_now(conn: Connection) -> None:
    player = await Player.enter(conn)
    await player.grant(100)
    made = await player.reserve(40, reference="job 7")
    assert made is not None
    await player.capture(made, 15, final=False)
    await player.grant(5)

    read = await hold(conn, player.no, made, SETTINGS)

    assert read is not None
    assert (read.status, read.captured, read.remaining) == ("open", "15", "25")
    assert (read.reference, bytes(read.metadata)) == ("job 7", b'{"a": 1}')
    assert [line.amount for line in read.charges] == ["15"]
    assert read.charge is None
    assert msgspec.to_builtins(read.balance) == {
        "posted": "90",
        "held": "25",
        "available": "65",
        "owed": "0",
    }
    assert await hold(conn, player.no, made + 1000, SETTINGS) is None


async def test_holds_by_status_come_newest_first_in_stable_pages(conn: Connection) -> None:
    player = await Player.enter(conn)
    await player.grant(1_000)
    made: dict[str, list[int]] = {"open": [], "captured": [], "voided": [], "expired": []}
    for turn in range(12):
        status = list(made)[turn % 4]
        one = await player.reserve(2, seconds=30 if status == "expired" else 3_000)
        assert one is not None
        made[status].append(one)
        if status == "captured":
            await player.capture(one, 1)
        elif status == "voided":
            await player.void(one)
    await player.wait(60)

    for status, numbers in made.items():
        found = await all_pages(holds, conn, player.no, SETTINGS, status=status, limit=2)
        assert [number(one.id) for one in found] == numbers[::-1]
        assert {one.status for one in found} == {status}
    page, position = await holds(conn, player.no, SETTINGS, limit=5)
    await player.reserve(1)
    rest = await all_pages(holds, conn, player.no, SETTINGS, limit=100)
    second, _ = await holds(conn, player.no, SETTINGS, after=position, limit=100)
    assert [one.id for one in page + second] == [one.id for one in rest[1:]]


async def test_charges_of_a_customer_a_hold_and_a_time(conn: Connection) -> None:
    player = await Player.enter(conn)
    await player.grant(100, asset="points")
    await player.grant(100)
    first = await player.consume(3, reference="first")
    middle = await player.now()
    made = await player.reserve(20)
    assert first is not None
    assert made is not None
    await player.capture(made, 5, final=False)
    await player.capture(made, 6)
    await player.consume(9, asset="points")
    await player.reverse(first, 1)

    found = await all_pages(charges, conn, player.no, SETTINGS, limit=1)
    assert [(one.amount, one.asset) for one in found] == [
        ("9", "points"),
        ("6", "credits"),
        ("5", "credits"),
        ("3", "credits"),
    ]
    assert (found[3].reference, found[3].reversed) == ("first", "1")
    of_hold = await all_pages(charges, conn, player.no, SETTINGS, hold_no=made, limit=1)
    assert of_hold == found[1:3]
    early, _ = await charges(conn, player.no, SETTINGS, to=middle, limit=9)
    late, _ = await charges(conn, player.no, SETTINGS, from_=middle, limit=9)
    assert (early, late) == (found[3:], found[:3])
    read = await charge(conn, player.no, first, SETTINGS)
    assert read is not None
    assert (read.amount, read.balance and read.balance.posted) == ("3", "87")
    assert await charge(conn, player.no, 1, SETTINGS) is None  # a grant's journal


async def test_charge_with_debt_and_expired_credit_reads_as_it_was_answered(
    conn: Connection,
) -> None:
    player = await Player.enter(conn)
    await player.policy("owe", 100)
    start = await player.now()
    await player.grant(10, ends=start + timedelta(hours=1))
    await player.grant(5)
    await player.wait(2 * 3600)
    made = await player.consume(20, at=await player.now() - timedelta(seconds=7_000))
    assert made is not None

    read = await charge(conn, player.no, made, SETTINGS)

    assert read is not None
    assert (read.amount, read.overage) == ("20", "5")
    assert [lot.amount for lot in read.lots] == ["10", "5"]


async def test_grants_newest_first_with_their_state(conn: Connection) -> None:
    player = await Player.enter(conn)
    now = await player.now()
    numbers = [
        await player.grant(10, paid=True),
        await player.grant(20, ends=now + timedelta(minutes=5)),
        await player.grant(30, starts=now + timedelta(days=2)),
        await player.grant(5, recurrence=Recurrence("month")),
        await player.grant(40),
    ]
    await player.void_grant(numbers[4])
    await player.consume(20)
    await player.wait(600)

    found = await all_pages(grants, conn, player.no, SETTINGS, limit=2)

    assert [number(one.id) for one in found] == numbers[::-1]
    assert [one.status for one in found] == ["voided", "active", "pending", "depleted", "active"]
    assert found[0].reason == "welcome"
    read = await grant(conn, player.no, numbers[0], SETTINGS)
    assert read is not None
    assert (read.remaining, read.cost and read.cost.amount) == ("10", "10")
    assert read.balance is not None
    assert await grant(conn, player.no, 10**6, SETTINGS) is None


async def test_journals_by_kind_and_time_with_transfers_and_chain(conn: Connection) -> None:
    player = await Player.enter(conn)
    await player.grant(10, paid=True)
    spent = await player.consume(4, reference="r")
    assert spent is not None
    middle = await player.now()
    await player.reverse(spent)

    found = await all_pages(journals, conn, player.no, SETTINGS, limit=2)

    assert [one.kind for one in found] == ["reversal", "charge", "grant"]
    assert [one.seq for one in found] == [3, 2, 1]
    for newer, older in pairwise(found):
        assert newer.prev_hash == older.hash
    assert [(t.debit, t.credit, t.amount) for t in found[2].transfers] == [
        ("purchased", "wallet", "10"),
        ("cash", "deferred_revenue", "10"),
    ]
    assert (found[1].reference, found[1].key is not None) == ("r", True)
    assert found[0].charge_id == found[1].charge_id
    by_kind, _ = await journals(conn, player.no, SETTINGS, kind="charge", limit=9)
    assert by_kind == [found[1]]
    early, _ = await journals(conn, player.no, SETTINGS, to=middle, limit=9)
    assert early == found[1:]
    read = await journal(conn, player.no, 2, SETTINGS)
    assert read == found[1]
    assert await journal(conn, player.no, 99, SETTINGS) is None


async def test_journals_of_a_rare_kind_are_looked_for_a_span_at_a_time(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.records.SCAN_MAX", 4)
    player = await Player.enter(conn)
    await player.grant(100)
    for _ in range(10):
        await player.consume(1)

    page, position = await journals(conn, player.no, SETTINGS, kind="grant", limit=9)
    assert (page, position) == ([], 8)
    found = await all_pages(journals, conn, player.no, SETTINGS, kind="grant", limit=9)
    assert [one.seq for one in found] == [1]


async def test_holds_of_a_rare_status_are_looked_for_a_span_at_a_time(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.reads.SCAN_MAX", 3)
    player = await Player.enter(conn)
    await player.grant(100)
    rare = await player.reserve(1)
    assert rare is not None
    await player.void(rare)
    for _ in range(7):
        await player.reserve(1)

    page, position = await holds(conn, player.no, SETTINGS, status="voided", limit=9)
    assert page == []
    assert position is not None
    found = await all_pages(holds, conn, player.no, SETTINGS, status="voided", limit=9)
    assert [number(one.id) for one in found] == [rare]


async def test_request_by_key_gives_the_stored_answer(conn: Connection) -> None:
    player = await Player.enter(conn)
    await player.reserve(5)

    read = await request(conn, player.no, "key-1")

    assert read is not None
    assert (read.operation, read.status) == ("reserve", 402)
    body = msgspec.json.decode(msgspec.json.encode(read))["body"]
    assert (body["code"], body["required"]) == ("insufficient_credits", "5")
    assert await request(conn, player.no, "key-2") is None


# Explain


async def test_explain_adds_up_and_names_the_refusal(conn: Connection) -> None:
    player = await Player.enter(conn)
    now = await player.now()
    await player.policy("owe", 50)
    await player.grant(100, ends=now + timedelta(hours=1))
    await player.grant(60, paid=True)
    await player.grant(25, starts=now + timedelta(days=3))
    voided = await player.grant(11)
    await player.grant(8, recurrence=Recurrence("week"))
    await player.void_grant(voided)
    await player.consume(30)
    await player.reserve(150, seconds=86_400, reference="big job")
    await player.reserve(60)
    await player.wait(2 * 3600)
    await player.consume(2_000)

    read = await explain(conn, player.no, "credits", SETTINGS)
    shown = await balance(conn, player.no, "credits", SETTINGS)

    t = read.totals
    given = units(t.paid) + units(t.promotional) - units(t.upcoming)
    spent = units(t.burned) + units(t.expired) - units(t.owed) - units(t.billed)
    assert given - spent == units(t.posted) == units(t.held) + units(t.available)
    assert (t.posted, t.held, t.available) == (shown.posted, shown.held, shown.available)
    in_lots = sum(units(lot.remaining) for lot in read.lots)
    assert in_lots + units(read.rest_posted) == units(t.posted)
    for lot in (*read.lots, *read.expired_lots):
        gone = sum(map(units, (lot.burned, lot.expired, lot.voided, lot.remaining)))
        assert units(lot.granted) == gone
    assert sum(units(one.held) for one in read.holds) == units(t.held)
    assert [one.reference for one in read.holds] == ["big job"]
    assert [one.what for one in read.next] == [
        "hold_deadline",
        "lot_start",
        "lot_expiry",
        "next_period",
    ]
    assert read.overage.use == shown.overage
    refusal = read.refusals[0]
    assert (refusal.operation, refusal.status) == ("consume", 402)
    assert (refusal.required, refusal.available) == ("2000", t.available)
    assert len(read.refusals) == 2
    assert f"= {t.posted} posted." in " ".join(read.summary)
    assert "insufficient_credits, needed 2000" in read.summary[-1]


async def test_explain_debts_and_billed_usage_add_up(conn: Connection) -> None:
    player = await Player.enter(conn)
    await player.policy("bill")
    await player.consume(7)
    await player.policy("owe", 20)
    await player.consume(5)
    await player.consume(6)
    await player.grant(8)

    read = await explain(conn, player.no, "credits", SETTINGS)

    assert [(debt.amount, debt.repaid, debt.open) for debt in read.debts] == [("6", "3", "3")]
    assert (read.totals.owed, read.totals.billed, read.totals.posted) == ("3", "7", "0")
    assert read.overage.left == "17"
    assert "0 + 8 − 0 − 18 − 0 + 3 + 7 = 0 posted." in read.summary


async def test_explain_of_a_customer_without_credit(conn: Connection) -> None:
    player = await Player.enter(conn)

    read = await explain(conn, player.no, "points", SETTINGS)

    assert (read.totals.posted, read.lots, read.next) == ("0", [], [])
    assert read.overage.left == "0"


async def test_settled_books_of_a_customer_with_nothing_due_are_not_loaded_whole(
    conn: Connection,
) -> None:
    player = await Player.enter(conn)
    await player.grant(10, ends=await player.now() + timedelta(days=1))
    await player.reserve(1)

    books, _ = await settled(conn, player.no, SETTINGS)

    assert not books.is_full
    assert books.journals == []
