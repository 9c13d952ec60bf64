"""Consume and reverse: taking credits for what was used, and undoing it. Pure."""

from datetime import datetime

from ledger.amounts import AmountError, format_amount, parse_amount
from ledger.answers import charge_answer, reversal_answer
from ledger.burn_down import LATE_MAX, Source, merge, past, plan, present
from ledger.outcome import Outcome, refuse
from ledger.overage import fits, insufficient, limit_left, policy_for
from ledger.posting import begin, finish, move
from ledger.requests import Consume, Policy, Request, Reverse
from ledger.settle import account_of, give_back, repay_debts
from ledger.state import Account, Books, Charge, Debt, Draw, Journal, Lot, Settings


def consume(books: Books, request: Consume, settings: Settings, now: datetime) -> Outcome:
    """Take `amount` at once: available first, then the policy, or 402 and nothing."""
    if (refused := refuse_start(books, request, request.asset, settings)) is not None:
        return refused
    if (wrong := check_effective_at(request.effective_at, now)) is not None:
        return wrong
    account = account_of(books, settings, request.asset)
    source = source_at(books, account, request.amount, request.effective_at, now)
    over = max(0, request.amount - source.available)
    left = limit_left(books, account)
    if not fits(left, over):
        return insufficient(
            books, account, required=request.amount, available=source.available, left=left
        )
    at = request.effective_at or now
    writer = ChargeWriter(books, settings, account, at, now)
    writer.draw(source, request.amount - over)
    writer.cover(policy_for(books, request.asset), over)
    writer.journal.request_key, writer.journal.notes = request.key, request.notes
    charge = writer.finish()
    if request.notes is not None:
        charge.reference, charge.metadata = request.notes.reference, request.notes.metadata
    repay(books, settings, now)
    return Outcome(201, charge_answer(books, charge, account.scale, account))


def refuse_start(books: Books, request: Request, asset: str, settings: Settings) -> Outcome | None:
    """Why nothing new may start now, if so: the customer is closed, or the amounts mean others."""
    return refuse_closed(books) or refuse_scale(request, asset, settings)


def refuse_scale(request: Request, asset: str, settings: Settings) -> Outcome | None:
    """503 if the amounts were read with another scale than the asset has: read them again."""
    if request.scale is None or request.scale == settings.scales.get(asset):
        return None
    return refuse(
        503, "busy", f"The scale of {asset} has just been changed: send the same request again."
    )


def refuse_closed(books: Books) -> Outcome | None:
    if books.closed_at is None:
        return None
    return refuse(
        409,
        "customer_closed",
        "This customer is closed: open holds can still be captured or voided, nothing new starts.",
    )


def check_effective_at(effective_at: datetime | None, now: datetime) -> Outcome | None:
    """Usage may be dated up to 35 days back and never ahead of the service's clock."""
    if effective_at is None or now - LATE_MAX <= effective_at <= now:
        return None
    return refuse(
        422,
        "invalid_effective_at",
        f"effective_at must lie within the last {LATE_MAX.days} days and not in the future "
        f"(the service's time is {now.isoformat()}).",
        pointer="/effective_at",
    )


def source_at(
    books: Books, account: Account, amount: int, effective_at: datetime | None, now: datetime
) -> Source:
    """What usage of this time may draw on: the lots of now, or those of its own time."""
    if effective_at is None or effective_at == now:
        return Source(
            present(books, account.asset, min(amount, account.available)).lots, account.available
        )
    return past(books, account.asset, effective_at)


def repay(books: Books, settings: Settings, now: datetime) -> None:
    """After every decision: open debts take what has become available."""
    if not repay_debts(books, settings, now, now):
        books.due(now)


class ChargeWriter:
    """Builds one charge: its journal, its draws, and what it leaves to the policy."""

    def __init__(
        self, books: Books, settings: Settings, account: Account, at: datetime, now: datetime
    ) -> None:
        self.books, self.account = books, account
        self.journal: Journal = begin(books, settings, "charge", effective_at=at, now=now)
        self.draws: list[Draw] = []
        self.billed = self.owed = 0

    def burn(self, lot: Lot, amount: int) -> None:
        """Burn from what a lot has remaining (a pin the caller has released, or unpinned)."""
        if amount:
            lot.remaining -= amount
            self.books.change_lot(lot)
            self.draws.append(Draw(lot.lot_no, amount))
            move(
                self.books,
                self.journal,
                self.account,
                "wallet",
                "burned",
                amount,
                lot_no=lot.lot_no,
            )

    def draw(self, source: Source, amount: int) -> int:
        """Burn up to `amount` from a source; expired credit is un-expired first. What is left."""
        taken, left = plan(source, amount)
        for lot, unpinned, expired in taken:
            if expired:
                no = lot.lot_no
                move(
                    self.books, self.journal, self.account, "expired", "wallet", expired, lot_no=no
                )
                lot.expired -= expired
                lot.remaining += expired
                self.books.change_lot(lot, reshaped=True)
            self.burn(lot, unpinned + expired)
        return left

    def cover(self, policy: Policy | None, amount: int) -> None:
        """Let the policy cover what lots did not."""
        if amount == 0:
            return
        account = "owed" if policy == "owe" else "billed"
        move(self.books, self.journal, self.account, account, "burned", amount)
        if policy == "owe":
            self.owed += amount
        else:
            self.billed += amount

    def finish(self, *, late: bool = False) -> Charge:
        """Keep the journal and the debt; the charge as it will be shown."""
        books, journal = self.books, self.journal
        journal.is_late = late
        charge = Charge(
            seq=journal.seq,
            asset=self.account.asset,
            draws=merge(self.draws),
            billed=self.billed,
            owed=self.owed,
            reversed=0,
            effective_at=journal.effective_at,
            created_at=journal.created_at,
            hold_no=journal.hold_no,
            late=late,
        )
        if self.owed:
            debt = Debt(
                debt_no=books.take_no(),
                asset=self.account.asset,
                charge_seq=journal.seq,
                amount=self.owed,
                is_new=True,
            )
            charge.debt_no = debt.debt_no
            books.debts[debt.debt_no] = debt
            books.changed_debts[debt.debt_no] = debt
        books.charges[charge.seq] = charge
        finish(books, journal)
        return charge


def reverse(books: Books, request: Reverse, settings: Settings, now: datetime) -> Outcome:
    """Undo a charge, whole or in part: last drawn first, back to the lots it came from."""
    charge = books.charges.get(request.charge_seq)
    if charge is None:
        return refuse(404, "charge_not_found", "No such charge.")
    account = account_of(books, settings, charge.asset)
    left = charge.amount - charge.reversed
    amount = left
    if request.amount is not None:
        try:
            amount = parse_amount(request.amount, account.scale)
        except AmountError as error:
            return refuse(422, error.code, f"amount {error}", pointer="/amount")
    if left == 0 or amount > left:
        return refuse(
            409,
            "reversal_exceeds_charge",
            f"{format_amount(left, account.scale)} of this charge is left to reverse.",
            left=format_amount(left, account.scale),
        )
    journal = begin(books, settings, "reversal", effective_at=now, now=now)
    journal.charge_seq, journal.hold_no = charge.seq, charge.hold_no
    journal.request_key, journal.notes = request.key, request.notes
    undone, overage = _Undo(books, journal, account, charge, now).run(amount)
    charge.reversed += amount
    books.changed_charges[charge.seq] = charge
    finish(books, journal)
    repay(books, settings, now)
    reason = request.notes.reason if request.notes else None
    return Outcome(
        201,
        reversal_answer(
            books, journal.seq, charge, undone, overage, account, journal.created_at, reason
        ),
    )


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
        payments = (self.charge.payments or []) + [
            Draw(transfer.lot_no or 0, transfer.amount)
            for journal in self.books.journals
            if journal.debt_no == debt.debt_no and journal.kind == "debt_repaid"
            for transfer in journal.transfers
        ]
        self._to_lots(payments, debt.returned, paid, debt.debt_no)
        debt.returned += paid
        self.books.changed_debts[debt.debt_no] = debt

    def _to_lots(self, draws: list[Draw], done: int, amount: int, debt_no: int | None) -> None:
        """Give `amount` back to the lots of `draws`, last first, past the `done` of before."""
        for draw in reversed(draws):
            skipped = min(done, draw.amount)
            done -= skipped
            part = min(amount, draw.amount - skipped)
            if part == 0:
                continue
            amount -= part
            lot = self.books.lots[draw.lot_no]
            no = lot.lot_no
            move(
                self.books,
                self.journal,
                self.account,
                "burned",
                "wallet",
                part,
                lot_no=no,
                debt_no=debt_no,
            )
            lot.remaining += part
            self.undone.append(Draw(no, part))
            ended = lot.ended_by(self.now)
            give_back(self.books, self.journal, self.account, lot, part, ended=ended)
