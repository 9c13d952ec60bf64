"""Post: write what `decide` changed, each table with one set-based statement.

Nothing here decides. The caller holds the customers' locks and ends the transaction.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from asyncpg import Record
from msgspec import Struct

from ledger.chart import CREDIT_ACCOUNTS, MONEY_ACCOUNTS
from ledger.entities import Hold, Lot
from ledger.load import ScaleChanged
from ledger.load_purchases import post_purchases
from ledger.load_revenue import post_recognised
from ledger.post_rare import card_columns, post_rare
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
    await post_rare(conn, changed, lots)
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
        *card_columns(hold),
    )


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


async def _post_money(conn: Connection, changed: list[Books]) -> None:
    for books in changed:
        for currency, moves in books.money.items():
            row: list[int] = []
            for name in MONEY_ACCOUNTS:
                row += (moves.debits.get(name, 0), moves.credits.get(name, 0))
            await conn.execute(queries.money_post, books.customer_no, currency, row)
