"""Post: write what `decide` changed, each table with one set-based statement.

Nothing here decides. The caller holds the customers' locks and ends the transaction.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from asyncpg import Record
from msgspec import Struct

from ledger.chart import CREDIT_ACCOUNTS, MONEY_ACCOUNTS
from ledger.entities import Debt, Grant, Hold, Lot
from ledger.load import ScaleChanged
from ledger.load_purchases import post_purchases
from ledger.load_revenue import post_recognised
from ledger.post_usage import post_usage
from ledger.requests import Request
from ledger.state import Account, Books
from sql import queries
from sql.columns import columns
from sql.pool import Connection
from sql.together import as_one


class Reply(Struct, frozen=True):
    """A remembered answer, rendered: what its key gives from now on."""

    request: Request
    status: int
    body: bytes


async def post(
    conn: Connection, customers: Iterable[Books], replies: Sequence[Reply], now: datetime
) -> None:
    """Write every change of these books, and the answers to be remembered.

    Raises ScaleChanged if an asset's first use met another scale.
    """
    changed = [books for books in customers if books.is_changed]
    await _open_accounts(
        conn,
        [(books, a) for books in changed for a in books.accounts.values() if a.is_new],
    )
    lots = [(books, lot) for books in changed for lot in books.changed_lots.values()]
    holds = [(books, hold) for books in changed for hold in books.changed_holds.values()]
    await _post_usual(conn, changed, lots, holds, replies, now)
    await post_usage(conn, changed)
    await _post_rare(conn, changed, lots)
    await _post_money(conn, changed)
    await post_recognised(conn, changed)
    if any(books.changed_purchases or books.changed_freezes for books in changed):
        await post_purchases(conn, changed)


async def _post_usual(
    conn: Connection,
    changed: list[Books],
    lots: list[tuple[Books, Lot]],
    holds: list[tuple[Books, Hold]],
    replies: Sequence[Reply],
    now: datetime,
) -> None:
    """What the hot path writes, as one statement of the parts that have rows."""
    names: list[str] = []
    values: list[Any] = []
    for name, rows, kinds in (
        ("customers_move", [_customer_row(books) for books in changed], "iii.tt"),
        ("accounts_move", _account_rows(changed), "iss"),
        (
            "lots_move",
            [_lot_row(b, lot) for b, lot in lots if not (lot.is_new or lot.is_reshaped)],
            "iiii",
        ),
        (
            "holds_make",
            [_made_hold(b, hold) for b, hold in holds if hold.is_new],
            "iisiiissstqqtsn",
        ),
        (
            "holds_move",
            [_moved_hold(b, hold) for b, hold in holds if not hold.is_new],
            "iisiiisssittt",
        ),
        ("journals_make", _journal_rows(changed), "iistt.snnnnn.sq..."),
        ("transfers_make", _transfer_rows(changed), "iiisssinn"),
        ("requests_make", [_request_row(reply) for reply in replies], "iqs.i.s"),
    ):
        if rows:
            names.append(name)
            values += columns(rows, kinds)
    if replies:
        values.append(now)
    if names:
        await conn.execute(as_one(*names), *values)


def _customer_row(books: Books) -> Sequence[Any]:
    return (
        books.customer_no,
        books.last_no,
        books.last_seq,
        books.last_hash,
        books.last_created_at,
        books.next_due_at,
    )


def _account_rows(changed: list[Books]) -> list[Sequence[Any]]:
    """What is added to each account's counters, as the text of an array: sums may pass a bigint."""
    rows: list[Sequence[Any]] = []
    for books in changed:
        for account in books.accounts.values():
            debits, credits = account.debits, account.credits
            pending = account.pending - account.pending_before
            owe = account.uncovered_owe - account.uncovered_owe_before
            bill = account.uncovered_bill - account.uncovered_bill_before
            if not (debits or pending or owe or bill):
                continue
            wallet = f"{debits.get('wallet', 0)},{credits.get('wallet', 0)},{pending}"
            others = ",0,0,0,0,0,0,0,0,0,0,0,0,0,0"
            if debits:
                others = "".join(
                    f",{debits.get(name, 0)},{credits.get(name, 0)}" for name in _BESIDE_WALLET
                )
            moves = f"{{{wallet}{others},{owe},{bill}}}"
            rows.append((books.customer_no, account.asset, moves))
    return rows


_BESIDE_WALLET: Final = tuple(name for name in CREDIT_ACCOUNTS if name != "wallet")


def _lot_row(books: Books, lot: Lot) -> Sequence[Any]:
    return books.customer_no, lot.lot_no, lot.remaining, lot.pinned


def _pins(hold: Hold) -> tuple[str, str]:
    """The two arrays as PostgreSQL writes them: arrays of arrays can't differ in length."""
    lots = ",".join(map(str, hold.pins))
    amounts = ",".join(map(str, hold.pins.values()))
    return f"{{{lots}}}", f"{{{amounts}}}"


def _made_hold(books: Books, hold: Hold) -> Sequence[Any]:
    return (
        books.customer_no,
        hold.hold_no,
        hold.asset,
        hold.requested,
        hold.amount,
        hold.uncovered,
        hold.policy,
        *_pins(hold),
        hold.expires_at,
        hold.reference,
        hold.metadata,
        hold.created_at,
        *_card(hold),
    )


def _card(hold: Hold) -> Sequence[Any]:
    return (None, None) if hold.card is None else (hold.card.rate_card, hold.card.version)


def _moved_hold(books: Books, hold: Hold) -> Sequence[Any]:
    return (
        books.customer_no,
        hold.hold_no,
        hold.status,
        hold.amount,
        hold.captured,
        hold.uncovered,
        hold.policy,
        *_pins(hold),
        hold.steps,
        hold.expires_at,
        hold.ended_at,
        hold.ended_created_at,
    )


def _journal_rows(changed: list[Books]) -> list[Sequence[Any]]:
    return [
        (
            books.customer_no,
            journal.seq,
            journal.kind,
            journal.effective_at,
            journal.created_at,
            journal.book_date,
            journal.late_for,
            journal.hold_no,
            journal.grant_no,
            journal.lot_no,
            journal.charge_seq,
            journal.debt_no,
            journal.is_late,
            journal.origin,
            journal.request_key,
            journal.notes_digest,
            journal.prev_hash,
            journal.hash,
        )
        for books in changed
        for journal in books.journals
    ]


def _transfer_rows(changed: list[Books]) -> list[Sequence[Any]]:
    return [
        (
            books.customer_no,
            journal.seq,
            line,
            t.asset,
            t.debit,
            t.credit,
            t.amount,
            t.lot_no,
            t.debt_no,
        )
        for books in changed
        for journal in books.journals
        for line, t in enumerate(journal.transfers, 1)
    ]


def _request_row(reply: Reply) -> Sequence[Any]:
    request = reply.request
    return (
        request.customer_no,
        request.key,
        request.operation,
        request.fingerprint,
        reply.status,
        reply.body,
        request.trace_id,
    )


async def _open_accounts(conn: Connection, pairs: list[tuple[Books, Account]]) -> None:
    if not pairs:
        return
    opened: list[Record] = await conn.fetch(
        queries.accounts_open,
        [books.customer_no for books, _ in pairs],
        [account.asset for _, account in pairs],
        [account.scale for _, account in pairs],
    )
    if len(opened) != len(pairs):
        raise ScaleChanged


async def _post_rare(conn: Connection, changed: list[Books], lots: list[tuple[Books, Lot]]) -> None:
    """What the hot path seldom writes: grants, lots, debts, texts."""
    grants = [(books.customer_no, g) for books in changed for g in books.changed_grants.values()]
    debts = [(books.customer_no, d) for books in changed for d in books.changed_debts.values()]
    for statement, rows in (
        (queries.customers_set, [_redefined(books) for books in changed if books.is_redefined]),
        (queries.grants_make, [_made_grant(no, grant) for no, grant in grants if grant.is_new]),
        (
            queries.grants_move,
            [
                (no, g.grant_no, g.next_start_at, g.voided_at, g.void_money)
                for no, g in grants
                if not g.is_new
            ],
        ),
        (queries.lots_make, [_made_lot(books, lot) for books, lot in lots if lot.is_new]),
        (
            queries.lots_reshape,
            [_reshaped(b, lot) for b, lot in lots if lot.is_reshaped and not lot.is_new],
        ),
        (
            queries.debts_make,
            [_made_debt(no, debt) for no, debt in debts if debt.is_new],
        ),
        (
            queries.debts_move,
            [(no, d.debt_no, d.repaid, d.cancelled, d.returned) for no, d in debts if not d.is_new],
        ),
        (
            queries.holds_price,
            [
                (books.customer_no, h.hold_no, *_card(h))
                for books in changed
                for h in books.changed_holds.values()
                if h.is_card_new and not h.is_new
            ],
        ),
        (
            queries.hold_steps_make,
            [
                (books.customer_no, s.hold_no, s.step_no, s.at, s.pinned_before)
                for books in changed
                for s in books.steps
            ],
        ),
        (
            queries.notes_make,
            [
                (books.customer_no, j.seq, n.salt, n.reference, n.reason, n.metadata)
                for books in changed
                for j in books.journals
                if (n := j.notes) is not None
            ],
        ),
        (queries.billed_usage_add, [row for books in changed for row in _billed(books)]),
        (
            queries.reversed_charges_move,
            [
                (books.customer_no, charge.seq, charge.reversed)
                for books in changed
                for charge in books.changed_charges.values()
            ],
        ),
    ):
        if rows:
            await conn.execute(statement, *zip(*rows, strict=True))


async def _post_money(conn: Connection, changed: list[Books]) -> None:
    for books in changed:
        for currency, moves in books.money.items():
            row: list[int] = []
            for name in MONEY_ACCOUNTS:
                row += (moves.debits.get(name, 0), moves.credits.get(name, 0))
            await conn.execute(queries.money_post, books.customer_no, currency, row)


def _billed(books: Books) -> Iterator[Sequence[Any]]:
    """What each journal moved of `billed`."""
    for journal in books.journals:
        moved = sum(
            t.amount if t.debit == "billed" else -t.amount
            for t in journal.transfers
            if "billed" in (t.debit, t.credit)
        )
        if moved:
            yield books.customer_no, journal.effective_at, journal.seq, moved, journal.charge_seq


def _redefined(books: Books) -> Sequence[Any]:
    return (
        books.customer_no,
        books.policy,
        books.limit,
        books.signup_due,
        books.closed_at,
        books.gated_from,
        books.has_own_overage,
        books.unbilled_from,
        books.billed_before,
    )


def _reshaped(books: Books, lot: Lot) -> Sequence[Any]:
    return (
        books.customer_no,
        lot.lot_no,
        lot.remaining,
        lot.pinned,
        lot.expired,
        lot.voided,
        lot.is_upcoming,
        lot.voided_at,
        lot.deferred_amount,
        lot.deferred_units,
        lot.clawback_due,
        lot.written_off,
        lot.lapsed,
    )


def _made_grant(customer_no: int, grant: Grant) -> Sequence[Any]:
    return (
        customer_no,
        grant.grant_no,
        grant.asset,
        grant.amount,
        grant.category,
        grant.cost.amount if grant.cost else None,
        grant.cost.currency if grant.cost else None,
        grant.priority,
        grant.effective_at,
        grant.expires_at,
        grant.interval,
        grant.count if grant.interval else None,
        grant.anchor,
        grant.rollover_max,
        grant.rollover_expires_in,
        grant.next_start_at,
        grant.voided_at,
        grant.void_money,
        grant.origin,
        grant.journal_seq,
        grant.created_at,
        grant.has_purchase,
    )


def _made_debt(customer_no: int, debt: Debt) -> Sequence[Any]:
    return (
        customer_no,
        debt.debt_no,
        debt.asset,
        debt.charge_seq,
        debt.amount,
        debt.repaid,
        debt.cancelled,
        debt.returned,
        debt.lot_no,
    )


def _made_lot(books: Books, lot: Lot) -> Sequence[Any]:
    return (
        books.customer_no,
        lot.lot_no,
        lot.grant_no,
        lot.asset,
        lot.category,
        lot.amount,
        lot.remaining,
        lot.pinned,
        lot.expired,
        lot.voided,
        lot.priority,
        lot.effective_at,
        lot.expires_at,
        lot.created_at,
        lot.is_upcoming,
        lot.is_rollover,
        lot.voided_at,
        lot.cost.amount if lot.cost else None,
        lot.cost.currency if lot.cost else None,
        lot.deferred_amount,
        lot.deferred_units,
        lot.purchase_no,
        lot.clawback_due,
        lot.written_off,
        lot.lapsed,
    )
