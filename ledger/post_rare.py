"""Post what the hot path seldom writes: grants, lots, debts, texts; one statement a table."""

from collections.abc import Iterator, Sequence
from typing import Any

from ledger.entities import Debt, Grant, Hold, Lot
from ledger.state import Books
from sql import queries
from sql.pool import Connection


async def post_rare(conn: Connection, changed: list[Books], lots: list[tuple[Books, Lot]]) -> None:
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
                (books.customer_no, h.hold_no, *card_columns(h))
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


def card_columns(hold: Hold) -> Sequence[Any]:
    """The rate card that prices a hold, and its version."""
    return (None, None) if hold.card is None else (hold.card.rate_card, hold.card.version)


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
        books.plan_until,
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
        lot.expires_at,
        lot.is_rollover,
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
