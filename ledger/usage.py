"""Consume and reverse: taking credits for what was used, and undoing it. Pure."""

from datetime import datetime

from ledger.amounts import AmountError, format_amount, parse_amount
from ledger.answers import charge_answer, reversal_answer
from ledger.burn_down import LATE_MAX, Source, merge, past, plan, present
from ledger.entities import Charge, Debt, Draw, Lot
from ledger.outcome import Outcome, refuse
from ledger.overage import fits, insufficient, limit_left, policy_for
from ledger.posting import begin, finish, move
from ledger.priced import keep, price, settle_lines
from ledger.rated import Priced
from ledger.requests import Consume, Policy, Request, Reserve, Reverse
from ledger.settle import account_of, repay_debts
from ledger.state import Account, Books, Journal, Settings
from ledger.undo import undo


def consume(books: Books, request: Consume, settings: Settings, now: datetime) -> Outcome:
    """Take `amount`, or what usage comes to: available first, then the policy, or 402."""
    if (wrong := check_effective_at(request.effective_at, now)) is not None:
        return wrong
    asked = ask(books, request, settings, request.effective_at or now, is_final=True)
    if isinstance(asked, Outcome):
        return asked
    asset, amount, priced = asked
    account = account_of(books, settings, asset)
    source = source_at(books, account, amount, request.effective_at, now)
    over = max(0, amount - source.available)
    left = limit_left(books, account)
    if not fits(left, over):
        return insufficient(books, account, required=amount, available=source.available, left=left)
    at = request.effective_at or now
    if priced is not None:
        priced = settle_lines(books, settings, priced, now)
    writer = ChargeWriter(books, settings, account, at, now)
    writer.draw(source, amount - over)
    writer.cover(policy_for(books, asset), over)
    writer.journal.request_key, writer.journal.notes = request.key, request.notes
    charge = writer.finish(priced)
    if request.notes is not None:
        charge.reference, charge.metadata = request.notes.reference, request.notes.metadata
    repay(books, settings, now)
    return Outcome(201, charge_answer(books, charge, account.scale, account))


def ask(
    books: Books, request: Reserve | Consume, settings: Settings, at: datetime, *, is_final: bool
) -> tuple[str, int, Priced | None] | Outcome:
    """What a request wants: (asset, amount, its lines if it states usage), or why not."""
    if (gated := refuse_gated(books, at)) is not None:
        return gated
    if request.usage is None:
        assert request.asset is not None
        refused = refuse_start(books, request, request.asset, settings)
        return refused or (request.asset, request.amount, None)
    if (closed := refuse_closed(books)) is not None:
        return closed
    priced = price(books, settings, request.usage, at=at, is_final=is_final, asset=request.asset)
    return priced if isinstance(priced, Outcome) else (priced.asset, priced.amount, priced)


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


def refuse_gated(books: Books, now: datetime) -> Outcome | None:
    """Why nothing new may start: the customer's plan asks for a subscription in good standing."""
    if books.gated_from is None or now < books.gated_from:
        return None
    return refuse(
        403,
        "subscription_required",
        "The customer's plan requires a subscription in good standing, and there is none since "
        f"{books.gated_from.isoformat()}. Let the customer pay the open invoice (GET "
        "/v1/invoices) or subscribe again (POST /v1/checkout).",
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

    def finish(self, priced: Priced | None = None, *, late: bool = False) -> Charge:
        """Keep the journal, the debt and the lines; the charge as it will be shown."""
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
        finish(books, journal, is_fact=priced is not None)
        if priced is not None:
            charge.lines = list(priced.lines)
            keep(books, journal.seq, priced.lines)
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
    undone = undo(books, settings, charge, amount, now, key=request.key, notes=request.notes)
    repay(books, settings, now)
    reason = request.notes.reason if request.notes else None
    return Outcome(
        201,
        reversal_answer(
            books,
            undone.journal.seq,
            charge,
            undone.lots,
            undone.overage,
            account,
            undone.journal.created_at,
            reason,
        ),
    )
