"""Credit of a bought lot that is to come back, and credit that is restored. Pure.

What is to come back of a lot is in five places, filled in this order: taken out of it (`voided`),
due as holds return it (`clawback_due`), run out before (`lapsed`), and of what was burned a debt
or, by setting, a write-off (`written_off`). A restore empties `clawback_due`, then the write-off,
the debt, what had lapsed, and gives the rest back to the lot.
"""

from collections.abc import Iterable
from datetime import datetime

from ledger.chart import ISSUED_BY
from ledger.entities import Debt, Lot
from ledger.freezes import thaw_for
from ledger.posting import begin, finish, move
from ledger.returning import give_back
from ledger.settle import account_of
from ledger.state import Account, Books, Journal, Settings
from ledger.undo import payments_of, return_to_lots


def debts_of(books: Books, lot: Lot) -> list[Debt]:
    """The debts that clawbacks of a lot left, oldest first."""
    return [debt for debt in books.debts.values() if debt.lot_no == lot.lot_no]


def owed_of(books: Books, lot: Lot) -> int:
    """What of a lot was taken back as a debt, paid or not."""
    return sum(debt.amount - debt.cancelled - debt.returned for debt in debts_of(books, lot))


def booked_of(books: Books, lot: Lot) -> int:
    """What has come back of a lot, or is booked to."""
    return lot.voided + lot.clawback_due + lot.written_off + lot.lapsed + owed_of(books, lot)


def claw(
    books: Books, settings: Settings, journal: Journal, lot: Lot, amount: int, now: datetime
) -> None:
    """Take `amount` more of a lot back: what is free or frozen now, the rest where it is."""
    account = account_of(books, settings, lot.asset)
    if amount > lot.unpinned:
        thaw_for(books, account, lot, amount - lot.unpinned, now)
    taken = min(amount, lot.unpinned)
    source = "upcoming" if lot.is_upcoming else "wallet"
    move(books, journal, account, source, ISSUED_BY[lot.category], taken, lot_no=lot.lot_no)
    lot.remaining -= taken
    lot.voided += taken
    due = min(amount - taken, lot.pinned - lot.clawback_due)
    lot.clawback_due += due
    _book_spent(books, settings, journal, account, lot, amount - taken - due)
    books.change_lot(lot, reshaped=True)


def _book_spent(
    books: Books, settings: Settings, journal: Journal, account: Account, lot: Lot, amount: int
) -> None:
    """Book what is no longer in a lot: what ran out needs nothing; what was burned is owed."""
    lapsed = min(amount, lot.expired - lot.lapsed)
    lot.lapsed += lapsed
    amount -= lapsed
    if settings.clawback == "zero":
        lot.written_off += amount
        return
    if amount == 0:
        return
    debt = Debt(
        debt_no=books.take_no(),
        asset=lot.asset,
        charge_seq=journal.seq,
        amount=amount,
        lot_no=lot.lot_no,
        is_new=True,
    )
    books.debts[debt.debt_no] = books.changed_debts[debt.debt_no] = debt
    move(
        *(books, journal, account, "owed", ISSUED_BY[lot.category], amount),
        lot_no=lot.lot_no,
        debt_no=debt.debt_no,
    )


def overtake(books: Books, settings: Settings, lots: Iterable[Lot], now: datetime) -> None:
    """A capture burned pinned credit that was due back: from now on it is booked as spent."""
    for lot in lots:
        burned = lot.clawback_due - lot.pinned
        if burned <= 0:
            continue
        account = account_of(books, settings, lot.asset)
        journal = begin(books, settings, "clawback", effective_at=now, now=now, origin="purchase")
        journal.lot_no, journal.grant_no = lot.lot_no, lot.grant_no
        lot.clawback_due -= burned
        _book_spent(books, settings, journal, account, lot, burned)
        books.change_lot(lot, reshaped=True)
        finish(books, journal)


def restore(
    books: Books, settings: Settings, journal: Journal, lot: Lot, amount: int, now: datetime
) -> int:
    """Give `amount` of what had come back to the lot again. How many units it keeps again."""
    account = account_of(books, settings, lot.asset)
    due = min(amount, lot.clawback_due)
    lot.clawback_due -= due
    amount -= due
    forgiven = min(amount, lot.written_off)
    lot.written_off -= forgiven
    amount -= forgiven
    amount -= _undo_debts(books, journal, account, lot, amount, now)
    lapsed = min(amount, lot.lapsed)
    lot.lapsed -= lapsed
    back = amount - lapsed
    into = "upcoming" if lot.is_upcoming else "wallet"
    move(books, journal, account, ISSUED_BY[lot.category], into, back, lot_no=lot.lot_no)
    lot.voided -= back
    lot.remaining += back
    books.change_lot(lot, reshaped=True)
    if back:
        give_back(books, journal, account, lot, back, ended=lot.ended_by(now))
    return due + back


def _undo_debts(
    books: Books, journal: Journal, account: Account, lot: Lot, amount: int, now: datetime
) -> int:
    """Undo the debts of a lot's clawbacks, the latest first: the unpaid part, then what was paid,
    back to the lots that paid it. How much that was."""
    issued, left = ISSUED_BY[lot.category], amount
    for debt in reversed(debts_of(books, lot)):
        part = min(left, debt.amount - debt.cancelled - debt.returned)
        if part == 0:
            continue
        left -= part
        no = debt.debt_no
        move(books, journal, account, issued, "owed", part, lot_no=lot.lot_no, debt_no=no)
        unpaid = min(part, debt.open)
        debt.cancelled += unpaid
        if paid := part - unpaid:
            payments = payments_of(books, debt, debt.payments)
            return_to_lots(
                *(books, journal, account, "owed", payments, debt.returned, paid, no, now)
            )
            debt.returned += paid
        books.changed_debts[no] = debt
    return amount - left
