"""Undoing a charge: credit goes back where it came from, last drawn first. Pure."""

from datetime import datetime

from msgspec import Struct

from ledger.burn_down import merge
from ledger.entities import Charge, Debt, Draw
from ledger.posting import begin, finish, move
from ledger.requests import Notes
from ledger.returning import give_back
from ledger.settle import account_of
from ledger.state import Account, Books, Journal, Settings


class Undone(Struct, frozen=True):
    """What an undoing came to: its journal, what each lot got back in order, and the overage."""

    journal: Journal
    lots: list[Draw]
    overage: int


def undo(
    books: Books,
    settings: Settings,
    charge: Charge,
    amount: int,
    now: datetime,
    *,
    origin: str = "api",
    key: str | None = None,
    notes: Notes | None = None,
) -> Undone:
    """Undo `amount` of a charge, at most what is left of it, as a journal of its own."""
    account = account_of(books, settings, charge.asset)
    journal = begin(books, settings, "reversal", effective_at=now, now=now, origin=origin)
    journal.charge_seq, journal.hold_no = charge.seq, charge.hold_no
    journal.request_key, journal.notes = key, notes
    lots, overage = _Undo(books, journal, account, charge, now).run(amount)
    charge.reversed += amount
    books.changed_charges[charge.seq] = charge
    finish(books, journal)
    return Undone(journal, lots, overage)


class _Undo:
    """The order of undoing: billed, owed (unpaid, then repaid, last payment first), then lots."""

    def __init__(
        self, books: Books, journal: Journal, account: Account, charge: Charge, now: datetime
    ) -> None:
        self.books, self.journal, self.account = books, journal, account
        self.charge, self.now = charge, now
        self.undone: list[Draw] = []

    def run(self, amount: int) -> tuple[list[Draw], int]:
        """What each lot got back, in order, and how much overage was undone."""
        charge, done = self.charge, self.charge.reversed
        billed = min(amount, charge.billed - min(done, charge.billed))
        move(self.books, self.journal, self.account, "burned", "billed", billed)
        done = max(0, done - charge.billed)
        owed = min(amount - billed, charge.owed - min(done, charge.owed))
        if owed:
            self._undo_debt(owed)
        done = max(0, done - charge.owed)
        self._to_lots(charge.draws, done, amount - billed - owed, None)
        return merge(self.undone), billed + owed

    def _undo_debt(self, amount: int) -> None:
        assert self.charge.debt_no is not None
        debt = self.books.debts[self.charge.debt_no]
        unpaid = min(amount, debt.open)
        move(self.books, self.journal, self.account, "burned", "owed", unpaid, debt_no=debt.debt_no)
        debt.cancelled += unpaid
        paid = amount - unpaid
        payments = payments_of(self.books, debt, self.charge.payments)
        self._to_lots(payments, debt.returned, paid, debt.debt_no)
        debt.returned += paid
        self.books.changed_debts[debt.debt_no] = debt

    def _to_lots(self, draws: list[Draw], done: int, amount: int, debt_no: int | None) -> None:
        self.undone += return_to_lots(
            *(self.books, self.journal, self.account, "burned"),
            *(draws, done, amount, debt_no, self.now),
        )


def payments_of(books: Books, debt: Debt, stored: list[Draw] | None) -> list[Draw]:
    """What each repayment of a debt took from each lot, in order: stored, and of this batch."""
    return (stored or []) + [
        Draw(transfer.lot_no or 0, transfer.amount)
        for journal in books.journals
        if journal.debt_no == debt.debt_no and journal.kind == "debt_repaid"
        for transfer in journal.transfers
    ]


def return_to_lots(
    books: Books,
    journal: Journal,
    account: Account,
    debit: str,
    draws: list[Draw],
    done: int,
    amount: int,
    debt_no: int | None,
    now: datetime,
) -> list[Draw]:
    """Give `amount` back to the lots of `draws`, last first, past the `done` of before."""
    returned: list[Draw] = []
    for draw in reversed(draws):
        skipped = min(done, draw.amount)
        done -= skipped
        part = min(amount, draw.amount - skipped)
        if part == 0:
            continue
        amount -= part
        lot, no = books.lots[draw.lot_no], draw.lot_no
        move(books, journal, account, debit, "wallet", part, lot_no=no, debt_no=debt_no)
        lot.remaining += part
        returned.append(Draw(no, part))
        give_back(books, journal, account, lot, part, ended=lot.ended_by(now))
    return returned
