"""The proofs: clean after a rich life, and each of them fails on the corruption that it is for.

Two customers live the same life. Each corruption is done to the first, as a superuser past every
trigger, and rolled back: exactly the checks named must fail, and none for the second.
"""
# ruff: noqa: S608 (the corruptions are made of parts, all of them written here)

import asyncio
import itertools
import re
import shutil
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drawdown.cli import run
from drawdown.embedded import Embedded
from ledger import customers, periods, proofs
from ledger.bought import Funds, Terms
from ledger.ids import parse_id
from ledger.outcome import Outcome
from ledger.proofs import CHAIN_CHECKS, CHECKS, Failure, prove
from ledger.requests import (
    Capture,
    Consume,
    Cost,
    CreditPurchase,
    Extend,
    FreezePurchase,
    GrantCredit,
    MarkPurchase,
    MovePurchase,
    Notes,
    OpenPurchase,
    Recognise,
    Recurrence,
    ReleasePurchase,
    Request,
    Reserve,
    Reverse,
    Rollover,
    SetOverage,
    Settle,
    StartRefund,
    VoidGrant,
    VoidHold,
)
from ledger.state import Settings
from ledger.transact import Result, transact
from sql.migrate import migrate
from sql.pool import Connection
from tests.metering import pay_for_something, use_something
from tests.servers import Database, Databases, connected, open_folder, quiet

UNIT = 10**9
TEXT = 'Ω "quoted" \\ back, tab\t, bell\x07, del\x7f, line\u2028 and 😀'


def render(_: Request, outcome: Outcome) -> bytes:
    return msgspec.json.encode(outcome.answer)


class Life:
    """Two customers who do the same, each request in a transaction of its own."""

    def __init__(self, conn: Connection, settings: Settings, customer_nos: list[int]) -> None:
        self.conn, self.settings, self.customer_nos = conn, settings, customer_nos
        self.keys = itertools.count()

    async def do(self, kind: type[Request], *, status: int = 200, **members: Any) -> int:
        """The request for both. The number in the first one's answer, which is the second's too."""
        key = f"key-{next(self.keys)}"
        results: list[Result | None] = []
        async with self.conn.transaction():
            requests = [
                kind(customer_no=no, key=key, operation=kind.__name__, **members)
                for no in self.customer_nos
            ]
            results = await transact(self.conn, requests, self.settings, render, wait=True)
            assert await prove(self.conn) == [], (kind, members)
        bodies: list[bytes] = []
        for result in results:
            assert result is not None
            assert result.status == status, result.body
            bodies.append(result.body)
        answer: Any = msgspec.json.decode(bodies[0])
        if answer is None or "id" not in answer:
            return 0
        name: str = (answer.get("charge") or answer)["id"]
        parsed = parse_id(name.partition("_")[0], name)
        assert parsed is not None
        return parsed[1]

    async def now(self) -> datetime:
        return await customers.now(self.conn)

    async def later(self, **time: float) -> None:
        await customers.advance_clock(self.conn, timedelta(**time))


async def open_life(conn: Connection) -> Life:
    """Alice (customer 1) and bob (2), with nothing yet."""
    await customers.make_installation(conn, mode="sandbox", books_time_zone="UTC")
    await customers.put_asset(conn, "tokens", 0)
    await customers.put_asset(conn, "points", 0)
    numbers = await customers.make(conn, ["alice", "bob"], signup_due=False)
    assert numbers == {"alice": 1, "bob": 2}
    scales = {asset.code: asset.scale for asset in await customers.assets(conn)}
    return Life(conn, Settings(scales=scales, books_time_zone=UTC), [1, 2])


async def grants_of_all_kinds(life: Life) -> dict[str, int]:
    now = await life.now()
    day = timedelta(days=1)
    common: dict[str, Any] = {"asset": "credits", "status": 201}
    made = {
        "short": await life.do(
            GrantCredit,
            amount=40 * UNIT,
            category="promotional",
            expires_at=now + 10 * day,
            notes=Notes(b"salt-1", reason=TEXT, metadata='{"a":"' + "ü" + '"}'),
            **common,
        ),
        "paid": await life.do(
            GrantCredit,
            amount=50 * UNIT + 1,
            category="paid",
            cost=Cost(1_000, "USD"),
            priority=60,
            **common,
        ),
        "soon": await life.do(
            GrantCredit,
            amount=5 * UNIT,
            category="promotional",
            effective_at=now + 5 * day,
            **common,
        ),
        "far": await life.do(
            GrantCredit,
            amount=7 * UNIT,
            category="paid",
            cost=Cost(0, "JPY"),
            effective_at=now + 300 * day,
            expires_at=now + 400 * day,
            **common,
        ),
        "series": await life.do(
            GrantCredit,
            amount=9 * UNIT,
            category="paid",
            cost=Cost(333, "USD"),
            recurrence=Recurrence("day", rollover=Rollover(4 * UNIT, 3 * 86_400)),
            **common,
        ),
        "voided": await life.do(
            GrantCredit, amount=8 * UNIT, category="promotional", priority=0, **common
        ),
        "refunded": await life.do(
            GrantCredit, amount=10, category="paid", cost=Cost(99, "KWD"), priority=100, **common
        ),
        "tokens": await life.do(
            GrantCredit, asset="tokens", amount=77, category="promotional", status=201
        ),
    }
    return made


async def holds_of_all_kinds(life: Life, grants: dict[str, int]) -> None:
    reserve: dict[str, Any] = {"asset": "credits", "status": 201}
    # From the grant that is voided while a hold has some of it pinned.
    pinned = await life.do(Reserve, amount=3 * UNIT, **reserve)
    await life.do(VoidGrant, grant_no=grants["voided"])
    await life.do(VoidHold, hold_no=pinned)
    await life.do(VoidGrant, grant_no=grants["refunded"], money="refunded")
    steps = await life.do(
        Reserve, amount=20 * UNIT, notes=Notes(b"s", reference="job 7"), **reserve
    )
    await life.do(Capture, hold_no=steps, amount="6.5", final=False)
    await life.do(Extend, hold_no=steps, add="1.25", expires_in=900)
    await life.do(Capture, hold_no=steps, amount="2")
    late = await life.do(Reserve, amount=4 * UNIT, expires_in=60, **reserve)
    await life.later(minutes=2)
    await life.do(Capture, hold_no=late, amount="1", above_hold="take")
    await life.do(Capture, hold_no=late, amount="1", status=409)
    await life.do(Consume, asset="credits", amount=10_000 * UNIT, status=402)


async def time_passes(life: Life) -> None:
    """Activation, periods, rollover, expiry; then usage dated back draws on what has expired."""
    for _ in range(6):
        await life.later(days=2, hours=1)
        await life.do(Consume, asset="credits", amount=UNIT // 3, status=201)
    back = await life.now() - timedelta(days=4)
    late = await life.do(Consume, asset="credits", amount=15 * UNIT, effective_at=back, status=201)
    await life.do(Reverse, charge_seq=late, amount="3", status=201, notes=Notes(b"x", reason="?"))


async def beyond_the_wallet(life: Life) -> None:
    """Owed, repaid, cancelled and returned; billed and taken back; holds that promise both."""
    await life.do(SetOverage, policy="owe", limit=500 * UNIT)
    owing = await life.do(Consume, asset="credits", amount=120 * UNIT, status=201)
    granted: dict[str, Any] = {"asset": "credits", "category": "promotional", "status": 201}
    await life.do(GrantCredit, amount=11 * UNIT, **granted)
    await life.do(Reverse, charge_seq=owing, amount="20", status=201)
    await life.do(GrantCredit, amount=500 * UNIT, **granted)
    await life.do(Reverse, charge_seq=owing, amount="35.5", status=201)
    await life.do(SetOverage, policy="bill")
    billed = await life.do(Consume, asset="credits", amount=700 * UNIT, status=201)
    await life.do(Reverse, charge_seq=billed, amount="2", status=201)
    week: dict[str, Any] = {"asset": "credits", "expires_in": 600_000, "status": 201}
    await life.do(GrantCredit, amount=6 * UNIT, **granted)
    await life.do(Reserve, amount=13 * UNIT, **week)
    await life.do(SetOverage, policy="owe", limit=500 * UNIT)
    await life.do(Reserve, amount=5 * UNIT, **week)
    await life.do(Consume, asset="credits", amount=9 * UNIT, status=201)


async def bought_and_given_back(life: Life) -> None:
    """Purchases of points: refunded in parts, restored, frozen, disputed; spent, run out."""
    await back_after_it_was_spent(life)
    no = await buy(life, expires_in=86_400)
    held = await life.do(Reserve, asset="points", amount=30, expires_in=600_000, status=201)
    await life.do(StartRefund, purchase_no=no, reference="rfd_1", amount=250, status=202)
    await move(life, no, "rfd_1", refunded=250)
    await life.later(days=2)
    await move(life, no, refunded=900)
    await move(life, no, refunded=840)
    await life.do(Capture, hold_no=held, amount="3", final=False)
    await life.do(VoidHold, hold_no=await run_out_while_frozen(life))
    await move(life, await buy(life, bonus=0), disputed=1_190, fees=1_500)


async def run_out_while_frozen(life: Life) -> int:
    """And a freeze that stays, with a hold; the number of that."""
    no = await buy(life, expires_in=86_400)
    await life.do(FreezePurchase, purchase_no=no, reason="fraud", reference="issfr_1")
    await life.later(days=2)
    await life.do(ReleasePurchase, purchase_no=no, reference="issfr_1")
    no = await buy(life)
    hold = await life.do(Reserve, asset="points", amount=3, expires_in=600_000, status=201)
    await life.do(FreezePurchase, purchase_no=no, reason="dispute", reference="du_1", amount=595)
    await move(life, no, refunded=800)
    await move(life, no, refunded=700)
    return hold


async def back_after_it_was_spent(life: Life) -> None:
    """As a debt that another grant pays and gets back in part; and forgiven."""
    no = await buy(life)
    await life.do(Consume, asset="points", amount=90, status=201)
    await move(life, no, lost=1_190, fees=1_500)
    await life.do(
        GrantCredit, asset="points", amount=500, category="promotional", priority=99, status=201
    )
    await move(life, no, refunded=595)
    life.settings = msgspec.structs.replace(life.settings, clawback="zero")
    no = await buy(life, priority=1)
    spent = await life.do(Consume, asset="points", amount=95, status=201)
    await move(life, no, refunded=1_190)
    await life.do(Reverse, charge_seq=spent, amount="15", status=201)
    failed = await opened(life)
    await life.do(MarkPurchase, purchase_no=failed, mark="failed")


async def opened(life: Life, **terms: Any) -> int:
    common: Any = {"kind": "pack", "product": "p@1", "asset": "points", "credits": 100}
    common |= {"bonus": 7, "currency": "EUR", "amount": 1_190}
    return await life.do(OpenPurchase, status=201, terms=Terms(**{**common, **terms}))


async def buy(life: Life, **terms: Any) -> int:
    no = await opened(life, **terms)
    await life.do(CreditPurchase, purchase_no=no, currency="EUR", captured=1_190, tax=190)
    return no


async def move(life: Life, no: int, *ends: str, **funds: int) -> None:
    await life.do(MovePurchase, purchase_no=no, funds=Funds(**funds), ends=ends)


async def tokens_above_a_hold(life: Life) -> None:
    """After a capture above an open hold and an addition, it has more left than the difference."""
    above = await life.do(Reserve, asset="tokens", amount=5, expires_in=600_000, status=201)
    await life.do(Capture, hold_no=above, amount="7", final=False, above_hold="take")
    await life.do(Extend, hold_no=above, add="3")


async def close_a_month(life: Life) -> None:
    """The month of now, which the service would not close before its end."""
    month = f"{await life.now():%Y-%m}"
    async with life.conn.transaction():
        await periods.begin(life.conn, month)
    async with life.conn.transaction():
        assert await periods.summarise(life.conn, month, reason=None, failures=0)
    assert await prove(life.conn, chain=True) == []


@pytest.fixture(scope="module")
async def lived(databases: Databases) -> AsyncGenerator[Database]:
    """A database in which alice and bob (customers 1 and 2) have lived."""
    made = await databases.make()
    async with connected(made.dsn) as conn:
        life = await open_life(conn)
        grants = await grants_of_all_kinds(life)
        await holds_of_all_kinds(life, grants)
        await time_passes(life)
        await bought_and_given_back(life)
        await beyond_the_wallet(life)
        await use_something(conn, [1, 2])
        await pay_for_something(conn, [1, 2])
        await life.do(Recognise)
        await close_a_month(life)
        await tokens_above_a_hold(life)
    yield made
    await databases.drop(made)


async def test_prove_after_a_rich_life_finds_nothing(lived: Database) -> None:
    async with connected(lived.dsn) as conn:
        assert await prove(conn, chain=True) == []
        async with conn.transaction():
            assert await prove(conn, chain=True) == []


# Corruptions of alice's books (customer 1), and the checks that must tell.

OPEN = "customer_no = 1 AND status = 'open'"
CREDITS = "customer_no = 1 AND asset = 'credits'"
TOKENS = "customer_no = 1 AND asset = 'tokens'"
A_LINE = "customer_no = 1 AND amount = 3"
"""Of the event that was charged."""
GIVEN_BACK = "customer_no = 1 AND amount < 0"
"""The line that made usage before it cheaper."""
FROZEN = (
    "customer_no = 1 AND purchase_no IN"
    " (SELECT purchase_no FROM freezes WHERE customer_no = 1 AND is_open)"
)
DISPUTED = "customer_no = 1 AND disputed_amount > 0"
LAST = "SELECT last_seq FROM customers WHERE customer_no = 1"
"""The last journal: a charge in tokens."""


def journal(kind: str) -> str:
    return f"SELECT min(seq) FROM journals WHERE customer_no = 1 AND kind = '{kind}'"


def extra(asset: str, debit: str, credit: str) -> str:
    """One more transfer of 5 in the last journal, counted as it should be."""
    return (
        f"INSERT INTO transfers SELECT 1, ({LAST}), max(line) + 1, '{asset}', '{debit}',"
        f" '{credit}', 5 FROM transfers WHERE customer_no = 1 AND seq = ({LAST});"
        f"UPDATE accounts SET {debit}_debits = {debit}_debits + 5,"
        f" {credit}_credits = {credit}_credits + 5 WHERE customer_no = 1 AND asset = '{asset}'"
    )


def of_journal(column: str, value: str, kind: str = "expiry") -> str:
    return (
        f"UPDATE journals SET {column} = {value} WHERE customer_no = 1 AND seq = ({journal(kind)})"
    )


def of_meter(key: str) -> str:
    return f"meter_no = (SELECT meter_no FROM meters WHERE meter = '{key}')"


CORRUPTIONS: list[tuple[str, str]] = [
    # Accounts
    (
        "balance counters",
        f"UPDATE accounts SET burned_credits = burned_credits + 5 WHERE {CREDITS}",
    ),
    (
        "counters",
        "UPDATE accounts SET expired_debits = expired_debits + 5,"
        f" expired_credits = expired_credits + 5 WHERE {CREDITS}",
    ),
    (
        "counters",
        "UPDATE money_accounts SET cash_debits = cash_debits + 5,"
        " cash_credits = cash_credits + 5 WHERE customer_no = 1 AND asset = 'USD'",
    ),
    (
        "counters hashes periods",
        "UPDATE transfers SET credit = 'burnt' WHERE customer_no = 1 AND debit = 'billed'",
    ),
    ("opened", f"DELETE FROM accounts WHERE {TOKENS}"),
    ("opened", "DELETE FROM money_accounts WHERE customer_no = 1 AND asset = 'USD'"),
    (
        "floors balance counters",
        "ALTER TABLE accounts DROP CONSTRAINT accounts_billed_floor;"
        f"UPDATE accounts SET billed_credits = billed_debits + 1 WHERE {CREDITS}",
    ),
    ("wallet hashes", extra("tokens", "burned", "wallet")),
    ("wallet hashes", extra("tokens", "granted", "upcoming")),
    # Lots
    (
        "wallet lots",
        f"UPDATE lots SET amount = amount + 1, remaining = remaining + 1 WHERE {TOKENS}",
    ),
    (
        "wallet lots",
        "UPDATE lots SET amount = amount + 1, remaining = remaining + 1"
        " WHERE customer_no = 1 AND is_upcoming",
    ),
    ("lots", f"UPDATE lots SET amount = amount + 1 WHERE {TOKENS}"),
    ("lots", f"UPDATE lots SET amount = amount + 1, expired = expired + 1 WHERE {TOKENS}"),
    (
        "lots",
        "UPDATE lots SET voided = voided - 1 WHERE customer_no = 1 AND voided > 0"
        " AND purchase_no IS NULL",
    ),
    ("lots", f"UPDATE lots SET voided_at = created_at WHERE {TOKENS}"),
    (
        "lots hashes",
        "UPDATE transfers SET lot_no = NULL WHERE customer_no = 1 AND debit = 'expired'",
    ),
    ("lots grants", f"UPDATE lots SET category = 'paid' WHERE {TOKENS}"),
    # Holds
    ("pending", f"UPDATE accounts SET wallet_pending = wallet_pending + 1 WHERE {TOKENS}"),
    ("pins", f"UPDATE lots SET pinned = pinned - 1 WHERE {TOKENS}"),
    ("pins", "UPDATE lots SET pinned = 1 WHERE customer_no = 1 AND is_upcoming"),
    ("pins", f"UPDATE holds SET pin_lots = '{{999999}}' WHERE {OPEN} AND uncovered = 7000000000"),
    (
        "pins",
        f"UPDATE holds SET pin_lots = (SELECT array_agg(lot_no) FROM lots WHERE {TOKENS})"
        f" WHERE {OPEN} AND uncovered = 7000000000",
    ),
    ("holds", f"UPDATE holds SET captured = captured + 1 WHERE {TOKENS} AND status = 'open'"),
    ("holds", f"UPDATE holds SET amount = amount + 1 WHERE {CREDITS} AND status = 'open'"),
    ("holds", f"UPDATE holds SET amount = amount - 1 WHERE {CREDITS} AND status = 'open'"),
    ("holds", "DELETE FROM hold_steps WHERE customer_no = 1 AND step_no = 1"),
    ("uncovered", f"UPDATE accounts SET uncovered_owe = uncovered_owe + 1 WHERE {CREDITS}"),
    ("uncovered", f"UPDATE accounts SET uncovered_bill = uncovered_bill + 1 WHERE {TOKENS}"),
    ("uncovered", f"UPDATE holds SET policy = 'owe' WHERE {OPEN} AND policy = 'bill'"),
    ("uncovered", f"UPDATE holds SET policy = NULL WHERE {OPEN} AND policy = 'bill'"),
    # Debts and reversals
    ("owed billed hashes", extra("credits", "owed", "billed")),
    ("billed", "UPDATE billed_usage SET amount = amount + 1 WHERE customer_no = 1"),
    ("billed", "DELETE FROM billed_usage WHERE customer_no = 1 AND amount < 0"),
    (
        "billed",
        "UPDATE billed_usage SET effective_at = effective_at + interval '1 s'"
        " WHERE customer_no = 1 AND amount < 0",
    ),
    ("owed debts", "UPDATE debts SET repaid = 1 WHERE customer_no = 1 AND is_open"),
    ("owed debts", "DELETE FROM debts WHERE customer_no = 1 AND is_open"),
    (
        "debts",
        "UPDATE debts SET repaid = repaid - 1, cancelled = cancelled + 1, returned = returned - 1"
        " WHERE customer_no = 1 AND returned > 0",
    ),
    (
        "debts",
        f"UPDATE debts SET charge_seq = ({journal('charge')}) WHERE customer_no = 1 AND is_open",
    ),
    ("reversals", "UPDATE reversed_charges SET reversed = reversed + 1 WHERE customer_no = 1"),
    ("reversals", "DELETE FROM reversed_charges WHERE customer_no = 1"),
    (
        "reversals hashes",  # moved to a smaller charge
        f"UPDATE journals SET charge_seq = ({LAST}) WHERE customer_no = 1 AND kind = 'reversal'"
        " AND charge_seq = (SELECT min(charge_seq) FROM reversed_charges);"
        f"UPDATE reversed_charges SET charge_seq = ({LAST}) WHERE customer_no = 1"
        " AND charge_seq = (SELECT min(charge_seq) FROM reversed_charges)",
    ),
    # Journals
    ("sequence", "UPDATE customers SET last_seq = last_seq + 1 WHERE customer_no = 1"),
    (
        "sequence",
        "UPDATE customers SET last_created_at = last_created_at - interval '1 day'"
        " WHERE customer_no = 1",
    ),
    (
        "sequence hashes",
        "UPDATE journals AS j SET created_at = b.created_at FROM journals AS b"
        " WHERE j.customer_no = 1 AND b.customer_no = 1 AND j.seq = 9 AND b.seq = 8",
    ),
    (
        "sequence links journals periods",
        f"DELETE FROM journals WHERE customer_no = 1 AND seq = ({journal('expiry')})",
    ),
    ("links", "UPDATE customers SET last_hash = sha256('') WHERE customer_no = 1"),
    ("links hashes", of_journal("prev_hash", "sha256('')")),
    ("links hashes", of_journal("hash", "sha256('')")),
    ("links hashes", "UPDATE journals SET prev_hash = hash WHERE customer_no = 1 AND seq = 1"),
    (
        "journals counters lots hashes periods",
        f"DELETE FROM transfers WHERE customer_no = 1 AND seq = ({journal('activation')})",
    ),
    (
        "journals",
        "UPDATE transfers SET line = line + 1"
        f" WHERE customer_no = 1 AND seq = ({journal('activation')})",
    ),
    # Lines of usage
    ("lines", f"UPDATE charge_lines SET amount = amount + 1 WHERE {A_LINE}"),
    ("lines", f"UPDATE charge_lines SET amount = amount - 1 WHERE {GIVEN_BACK}"),
    ("lines", f"UPDATE charge_lines SET asset = 'credits' WHERE {GIVEN_BACK}"),
    ("lines", f"UPDATE charge_lines SET seq = 999999 WHERE {A_LINE}"),
    ("tiers", "UPDATE price_counters SET quantity = 13 WHERE customer_no = 1"),
    ("tiers", "DELETE FROM price_counters WHERE customer_no = 1"),
    ("tiers", f"UPDATE charge_lines SET quantity = 3 WHERE {GIVEN_BACK}"),
    ("charged", f"UPDATE charge_lines SET event_id = 'm9' WHERE {A_LINE}"),
    ("charged", f"UPDATE charge_lines SET quantity = 2 WHERE {A_LINE}"),
    ("charged", f"DELETE FROM charge_lines WHERE {A_LINE}"),
    (
        "charged identities rollups",
        "DELETE FROM events WHERE customer_no = 1 AND id = 'm1'",
    ),
    # References
    *(
        ("references hashes", of_journal(column, "999999"))
        for column in ("hold_no", "grant_no", "lot_no", "charge_seq", "debt_no")
    ),
    (
        "references lots hashes",
        "UPDATE transfers SET lot_no = 999999 WHERE customer_no = 1 AND debit = 'upcoming'",
    ),
    (
        "references debts hashes",
        "UPDATE transfers SET debt_no = 999999 WHERE customer_no = 1 AND credit = 'owed'",
    ),
    (
        "references debts",
        "UPDATE debts SET charge_seq = 999999 WHERE customer_no = 1 AND is_open",
    ),
    (
        "references reversals",
        "UPDATE reversed_charges SET charge_seq = 999999 WHERE customer_no = 1"
        " AND reversed = (SELECT min(reversed) FROM reversed_charges)",
    ),
    (
        "references",
        "UPDATE grants SET journal_seq = journal_seq + 1 WHERE customer_no = 1 AND grant_no = 1",
    ),
    ("references", "INSERT INTO hold_steps VALUES (1, 999999, 1, now(), 0)"),
    ("references", "INSERT INTO notes VALUES (1, 999999, '', 'a', 'b', 'c')"),
    # Grants
    ("grants", f"UPDATE grants SET asset = 'JPY' WHERE {TOKENS}"),
    ("grants references", f"DELETE FROM grants WHERE {TOKENS}"),
    (
        "grants",
        "UPDATE grants SET voided_at = now() WHERE customer_no = 1 AND next_start_at > now()",
    ),
    (
        "grants references",  # one without a lot, of another grant's journal
        "INSERT INTO grants SELECT (jsonb_populate_record(g, '{\"grant_no\": 2}')).*"
        " FROM grants AS g WHERE customer_no = 1 AND grant_no = 1",
    ),
    # Purchases
    *(
        ("purchases", f"UPDATE purchases SET {column} = {column} + 1 WHERE {FROZEN}")
        for column in ("credits", "bonus")
    ),
    (
        "purchases references",
        f"UPDATE purchases SET status = 'parked', credited_at = NULL WHERE {DISPUTED}",
    ),
    (
        "purchases money clawbacks",
        f"UPDATE purchases SET captured_amount = captured_amount + 100 WHERE {FROZEN}",
    ),
    ("purchases money", f"UPDATE purchases SET tax_amount = tax_amount + 1 WHERE {DISPUTED}"),
    *(
        (
            "clawbacks",
            f"UPDATE lots SET {column} = {column} - 1 WHERE customer_no = 1 AND {column} > 0",
        )
        for column in ("clawback_due", "written_off", "lapsed")
    ),
    (
        "clawbacks",  # more is to be taken, and there is something
        "UPDATE lots SET written_off = 1, lapsed = 0"
        " WHERE customer_no = 1 AND asset = 'points' AND purchase_no IS NULL",
    ),
    (
        "clawbacks money",
        f"UPDATE purchases SET refunded_amount = refunded_amount + 50 WHERE {FROZEN}",
    ),
    *(
        (checks, f"UPDATE purchases SET {column} = {column} + 1 WHERE {DISPUTED}")
        for checks, column in (
            ("money", "fee_amount"),
            ("money", "disputed_amount"),
            ("money recognised", "deferred_returned"),
        )
    ),
    (
        "money recognised",
        "UPDATE purchases SET tax_returned = tax_returned + 1,"
        f" deferred_returned = deferred_returned - 1 WHERE {FROZEN}",
    ),
    (
        "money",
        "UPDATE lots SET deferred_amount = cost_amount + 1"
        " WHERE customer_no = 1 AND purchase_no IS NOT NULL AND category = 'paid'",
    ),
    ("pins pending", "UPDATE freezes SET amount = amount + 1 WHERE customer_no = 1 AND is_open"),
    ("references", "UPDATE freezes SET purchase_no = 999999 WHERE customer_no = 1 AND NOT is_open"),
    ("references", "INSERT INTO purchase_objects VALUES ('pi_1', 1, 999999, now())"),
    (
        "references debts",
        "UPDATE debts SET charge_seq = 999999 WHERE customer_no = 1 AND lot_no IS NOT NULL",
    ),
    (
        "references clawbacks",
        "UPDATE debts SET lot_no = 999999 WHERE customer_no = 1 AND lot_no IS NOT NULL",
    ),
    ("grants", "UPDATE grants SET has_purchase = NOT has_purchase WHERE customer_no = 1"),
    ("customers", "UPDATE freezes SET freeze_no = 999999 WHERE customer_no = 1 AND is_open"),
    # Recognition and closed months
    *(
        (
            "recognised deferred",
            f"UPDATE recognitions SET {column} = {column} + 1 WHERE customer_no = 1 AND lot_no ="
            " (SELECT min(lot_no) FROM lots WHERE customer_no = 1 AND currency = 'USD')",
        )
        for column in ("revenue", "breakage")
    ),
    (
        "recognised",  # a lot that was recognised has more deferred than is left of it
        "UPDATE customers SET recognised_seq = last_seq WHERE customer_no = 1;"
        "UPDATE lots SET deferred_amount = deferred_amount / 2 WHERE customer_no = 1 AND lot_no ="
        " (SELECT min(lot_no) FROM lots WHERE customer_no = 1 AND deferred_amount > 1"
        " AND remaining > clawback_due)",
    ),
    (
        "recognised",
        "INSERT INTO recognitions SELECT 1, min(lot_no), 1, 0, 0, 0 FROM lots"
        " WHERE customer_no = 1 AND category = 'promotional'",
    ),
    (
        "deferred",
        "UPDATE recognitions SET returned = returned + 1 WHERE customer_no = 1 AND lot_no ="
        " (SELECT min(lot_no) FROM lots WHERE customer_no = 1 AND currency = 'USD')",
    ),
    (
        "periods heads",
        "UPDATE period_totals SET debits = debits + 1 WHERE account = 'cash' AND asset = 'USD'",
    ),
    ("periods heads", "DELETE FROM period_totals WHERE account = 'burned' AND asset = 'credits'"),
    ("periods heads", "UPDATE periods SET journals = journals + 1"),
    ("periods", "UPDATE installation SET closed_through = NULL"),
    ("heads", "UPDATE period_heads SET hash = sha256('') WHERE customer_no = 1"),
    ("heads", "UPDATE periods SET hash = sha256('')"),
    ("heads", "DELETE FROM period_heads WHERE customer_no = 1"),
    (
        "heads links hashes",  # history is cut off, and written anew
        "UPDATE journals SET hash = sha256('') WHERE customer_no = 1 AND seq ="
        " (SELECT seq FROM period_heads WHERE customer_no = 1)",
    ),
    # What is due
    ("due", "UPDATE customers SET next_due_at = NULL WHERE customer_no = 1"),
    (
        "due",
        "UPDATE customers SET next_due_at = next_due_at + interval '1 us' WHERE customer_no = 1",
    ),
    ("due", f"UPDATE holds SET expires_at = created_at WHERE {OPEN}"),
    ("due", "UPDATE lots SET effective_at = created_at WHERE customer_no = 1 AND is_upcoming"),
    ("due", f"UPDATE lots SET expires_at = created_at WHERE {TOKENS}"),
    ("due", "UPDATE grants SET next_start_at = created_at WHERE customer_no = 1 AND grant_no = 1"),
    ("due pending", f"UPDATE accounts SET wallet_pending = wallet_pending - 1 WHERE {CREDITS}"),
    # Requests and customers
    (
        "requests",
        "UPDATE requests SET status = 503 WHERE customer_no = 1 AND key = 'key-1'",
    ),
    (
        "customers",
        "UPDATE customer_directory SET customer_id = 'alicia' WHERE customer_no = 1",
    ),
    ("customers", "DELETE FROM customer_directory WHERE customer_no = 1"),
    ("customers", "UPDATE customers SET last_no = last_no - 1 WHERE customer_no = 1"),
    ("customers sequence due", "DELETE FROM customers WHERE customer_no = 1"),
    # Events
    ("identities", "DELETE FROM event_guards WHERE customer_no = 1 AND id = 'e1'"),
    (
        "identities",
        "UPDATE event_guards SET time = time - interval '1 us' WHERE customer_no = 1 AND id = 'e1'",
    ),
    (
        "identities rollups unrated",
        "DELETE FROM events WHERE customer_no = 1 AND id = 'e1'",
    ),
    (
        "rollups unrated",
        "DELETE FROM events WHERE customer_no = 1 AND source = 'drawdown';"
        "INSERT INTO unrated_events SELECT 1, meter_no, 'drawdown', 'c1', now(), now()"
        " FROM meters WHERE meter = 'calls'",
    ),
    ("corrections", "UPDATE corrections SET number = 2 WHERE customer_no = 1 AND id = 'e4'"),
    (
        "corrections",
        "UPDATE corrections SET is_latest = false WHERE customer_no = 1 AND id = 'e4'",
    ),
    (
        "corrections",
        "UPDATE corrections SET is_latest = false WHERE customer_no = 1 AND id = 'e3';"
        'INSERT INTO corrections SELECT (jsonb_populate_record(c, \'{"number": 2,'
        ' "correction_id": "x", "is_latest": true}\')).*'
        " FROM corrections AS c WHERE customer_no = 1 AND id = 'e3'",
    ),
    ("corrections rollups", "UPDATE corrections SET id = 'e9' WHERE customer_no = 1 AND id = 'e3'"),
    *(
        ("rollups", f"UPDATE rollups SET events = events + 9 WHERE customer_no = 1 AND {meter}")
        for meter in (of_meter("calls"), of_meter("tokens"), of_meter("few"))
    ),
    ("rollups", f"DELETE FROM rollups WHERE customer_no = 1 AND {of_meter('calls')}"),
    ("rollups", "DELETE FROM meter_rejects WHERE customer_no = 1"),
    (
        "rollups",
        "INSERT INTO rollups SELECT 1, meter_no, '2001-01-01Z', '[]', 1"
        " FROM meters WHERE meter = 'calls';"
        "INSERT INTO event_months VALUES ('2001-01-01')",
    ),
    ("values", "DELETE FROM rollup_values WHERE customer_no = 1 AND value = 'u4'"),
    ("values", "UPDATE rollup_values SET events = 5 WHERE customer_no = 1 AND value = 'u4'"),
    (
        "unrated charged",
        "UPDATE unrated_events SET id = 'e9' WHERE customer_no = 1 AND id = 'e1'",
    ),
    ("unrated", "INSERT INTO unrated_windows VALUES (1, 999, now())"),
    # The chain: whatever enters a hash
    *(
        ("hashes", of_journal(column, value))
        for column, value in (
            ("kind", "'activation'"),
            ("effective_at", "effective_at + interval '1 us'"),
            ("book_date", "book_date + 1"),
            ("late_for", "'2020-01'"),
            ("grant_no", "NULL"),
            ("lot_no", "NULL"),
            ("is_late", "true"),
            ("origin", "'api'"),
            ("request_key", "'k'"),
            ("notes_digest", "sha256('')"),
        )
    ),
    ("hashes", of_journal("created_at", "created_at + interval '1 us'", "charge")),
    (
        "hashes",  # the order of a journal's transfers
        "ALTER TABLE transfers DROP CONSTRAINT transfers_pkey;"
        "UPDATE transfers SET line = 3 - line"
        f" WHERE customer_no = 1 AND seq = ({journal('rollover')})",
    ),
    *(
        ("notes", f"UPDATE notes SET {column} = 'other' WHERE customer_no = 1 AND seq = 1")
        for column in ("salt", "reference", "reason", "metadata")
    ),
    (
        "notes hashes",
        "UPDATE journals SET notes_digest = NULL WHERE customer_no = 1 AND seq = 1",
    ),
]


@pytest.fixture
async def superuser(lived: Database) -> AsyncGenerator[Connection]:
    """Past every trigger, in a transaction that is rolled back."""
    async with connected(lived.superuser_dsn) as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("SET LOCAL session_replication_role = replica")
        yield conn
        await transaction.rollback()


@pytest.mark.parametrize(
    ("checks", "corruption"),
    CORRUPTIONS,
    ids=[f"{number}-{checks.split()[0]}" for number, (checks, _) in enumerate(CORRUPTIONS)],
)
async def test_prove_corrupted_books_names_the_customer(
    superuser: Connection, checks: str, corruption: str
) -> None:
    await superuser.execute(corruption)

    failures = await prove(superuser, chain=True)

    assert {failure.check for failure in failures} == set(checks.split()), failures
    named = {failure.customer_no for failure in failures}
    assert named <= {0, 1}  # 0: of the business
    assert named == {1} or not {"periods", "heads"}.isdisjoint(checks.split())


def test_every_check_is_shown_to_fail() -> None:
    """By a corruption that names it first: the one that it is for."""
    shown = {checks.split()[0] for checks, _ in CORRUPTIONS}
    assert shown == {check.name for check in (*CHECKS, *CHAIN_CHECKS)}


async def test_prove_tells_amounts_as_decimals_of_the_asset(superuser: Connection) -> None:
    await superuser.execute(
        f"UPDATE accounts SET wallet_pending = wallet_pending - 1500000001 WHERE {CREDITS};"
        f"UPDATE accounts SET uncovered_bill = 12 WHERE {TOKENS}"
    )

    failures = await prove(superuser)

    assert [f for f in failures if f.check != "due"] == [
        Failure(
            "pending",
            1,
            "alice",
            "pending, which is what open holds and freezes have pinned: "
            "expected 6, found 4.499999999, difference -1.500000001 credits",
        ),
        Failure(
            "uncovered",
            1,
            "alice",
            "uncovered of open holds under bill: expected 0, found 12, difference 12 tokens",
        ),
    ]


async def test_prove_without_chain_makes_no_hash_anew(superuser: Connection) -> None:
    await superuser.execute(of_journal("origin", "'api'"))

    assert await prove(superuser) == []


async def test_prove_after_texts_were_erased_finds_nothing(superuser: Connection) -> None:
    await superuser.execute("DELETE FROM notes WHERE customer_no = 1")

    assert await prove(superuser, chain=True) == []


async def test_prove_with_everything_broken_tells_the_first(
    superuser: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs, "FAILURES_MAX", 7)
    await superuser.execute("UPDATE lots SET amount = amount + 1 WHERE purchase_no IS NULL")

    failures = await prove(superuser)

    assert [failure.check for failure in failures] == ["lots"] * 7
    assert {failure.customer_id for failure in failures} == {"alice"}


async def test_prove_business_wide_answer_names_no_customer(superuser: Connection) -> None:
    await superuser.execute("INSERT INTO requests VALUES (0, 'k', 'o', '', 500, '', NULL, now())")

    assert await prove(superuser) == [
        Failure("requests", 0, None, "the answer to key k was remembered with status 500")
    ]


async def test_reverse_into_a_lot_that_was_empty_makes_its_end_due(database: Database) -> None:
    async with connected(database.dsn) as conn:
        life = await open_life(conn)
        await life.do(
            GrantCredit,
            asset="credits",
            amount=10,
            category="promotional",
            expires_at=await life.now() + timedelta(days=1),
            status=201,
        )
        spent = await life.do(Consume, asset="credits", amount=10, status=201)
        # What falls due is reckoned anew while the lot is empty.
        await conn.execute("UPDATE customers SET next_due_at = now() - interval '1 day'")
        await life.do(Settle)
        await life.do(Reverse, charge_seq=spent, status=201)

        await life.later(days=2)
        await life.do(Consume, asset="credits", amount=1, status=402)


async def test_prove_beside_writers_sees_one_moment(database: Database) -> None:
    async with connected(database.dsn) as conn, connected(database.dsn) as reader:
        life = await open_life(conn)
        await life.do(GrantCredit, asset="credits", amount=UNIT, category="promotional", status=201)

        async def write() -> None:
            for _ in range(20):
                hold = await life.do(Reserve, asset="credits", amount=10, status=201)
                await life.do(Capture, hold_no=hold, amount="0.000000004")

        writing = asyncio.create_task(write())
        count = 0
        while not writing.done():
            assert await prove(reader, chain=True) == []
            count += 1
        await writing
        assert count > 1


def run_verify(url: str, *arguments: str) -> int:
    """The command in this process, with an event loop of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        return run(["verify", *arguments])


async def test_verify_of_true_books_lists_the_checks_and_exits_0(
    lived: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(run_verify, lived.dsn, "--chain") == 0

    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", check.name] for check in (*CHECKS, *CHAIN_CHECKS)
    ]
    assert re.fullmatch(r"the books are proved: 39 checks in \d+\.\d s", last)


@pytest.mark.breaks_books
async def test_verify_of_broken_books_names_the_customer_and_exits_1(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    async with connected(database.dsn) as conn:
        life = await open_life(conn)
        await life.do(GrantCredit, asset="credits", amount=5, category="promotional", status=201)
    async with connected(database.owner_dsn) as owner:
        await owner.execute("UPDATE lots SET pinned = 2 WHERE customer_no = 1")

    assert await asyncio.to_thread(run_verify, database.owner_dsn) == 1
    text = capsys.readouterr().out
    assert await asyncio.to_thread(run_verify, database.dsn, "--json") == 1
    report = msgspec.json.decode(capsys.readouterr().out)

    what = (
        "pinned of lot 2 by open holds and freezes: "
        "expected 0, found 0.000000002, difference 0.000000002 credits"
    )
    assert "FAILED  pins         each lot is pinned by open holds and freezes only" in text
    assert f"        customer alice (no. 1): {what}" in text.splitlines()
    assert text.endswith("the books are NOT proved: 1 of 36 checks failed (pins)\n")
    assert report["ok"] is False
    assert [check["failures"] for check in report["checks"] if not check["ok"]] == [
        [{"check": "pins", "customer_no": 1, "customer_id": "alice", "what": what}]
    ]


def test_verify_without_a_database_says_how_to_name_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert run(["verify"]) == 1
    assert "name its folder (--data), or set DATABASE_URL" in capsys.readouterr().err
    assert run(["verify", "--data", str(tmp_path)]) == 1
    assert f"{tmp_path} holds no embedded database" in capsys.readouterr().err


async def test_verify_of_an_embedded_database_that_is_not_running_starts_and_stops_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = open_folder()
    try:
        async with await Embedded.start(folder, throwaway=True, say=quiet) as embedded:
            lacking = await asyncio.to_thread(run, ["verify", "--data", str(folder)])
            told = capsys.readouterr().err
            async with connected(embedded.owner_dsn) as owner:
                await migrate(owner)

        assert lacking == 1
        assert "lacks 0001_ledger: run `drawdown migrate` first" in told
        assert await asyncio.to_thread(run, ["verify", "--data", str(folder)]) == 0
        assert "the books are proved: 36 checks" in capsys.readouterr().out
        async with await Embedded.start(folder, say=quiet):  # nobody holds it any more
            pass
    finally:
        shutil.rmtree(folder)
