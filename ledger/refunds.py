"""Money that goes back, and comes again: a purchase moved to its current state. Pure.

Credits and money move in one journal: `clawback` where more has gone back, `restore` where less
has. What a dispute withdraws and what Stripe charges are facts of their own, `dispute` and `fee`.
"""

from datetime import datetime

from msgspec import Struct

from ledger.amounts import format_amount
from ledger.bought import Funds, Purchase, claw_of, tax_of
from ledger.clawback import booked_of, claw, restore
from ledger.entities import Lot
from ledger.freezes import end, freeze, let_go, lots_of
from ledger.outcome import Outcome, refuse
from ledger.posting import begin, finish, move_money
from ledger.purchases import (
    PurchaseAnswer,
    kept_of,
    not_credited,
    not_found,
    purchase_answer,
    unspent,
)
from ledger.requests import MovePurchase, StartRefund
from ledger.revenue import deferred_of, split_refund, split_restore
from ledger.state import Books, Journal, Settings
from ledger.usage import repay


class RefundAnswer(Struct, frozen=True):
    """A refund that may now be asked of Stripe."""

    amount: str
    purchase: PurchaseAnswer


def move_purchase(
    books: Books, request: MovePurchase, settings: Settings, now: datetime
) -> Outcome:
    """Move lots and money by the difference between what is booked and the state told.

    So news may come in any order, late, twice or never: the last state decides.
    """
    purchase = books.purchases.get(request.purchase_no)
    if purchase is None:
        return not_found()
    if purchase.status != "credited":
        return not_credited(purchase)
    before, after = purchase.funds, request.funds
    paid = lots_of(books, purchase)[0]
    withdrawn = after.disputed + after.lost - before.disputed - before.lost
    _post_alone(books, settings, purchase, paid, "dispute", "disputed", withdrawn, now)
    _move(books, settings, purchase, request, now)
    _post_alone(books, settings, purchase, paid, "fee", "fees", after.fees - before.fees, now)
    repay(books, settings, now)
    return Outcome(200, purchase_answer(books, settings, purchase))


def _move(
    books: Books, settings: Settings, purchase: Purchase, request: MovePurchase, now: datetime
) -> None:
    """The credit half, the money half, and the end of freezes, as one journal."""
    before, after = purchase.funds, request.funds
    change = after.returned - before.returned
    is_news = (after.refunded, after.lost) != (before.refunded, before.lost)
    kind = "release" if not is_news else "restore" if change < 0 else "clawback"
    ended_as = "clawback" if change > 0 else "released"
    thawed = end(books, settings, purchase, request.ends, ended_as, now)
    lots = lots_of(books, purchase)
    paid = lots[0]
    journal = begin(books, settings, kind, effective_at=now, now=now, origin="purchase")
    journal.lot_no, journal.grant_no = paid.lot_no, paid.grant_no
    if after != before:
        kept, deferred = paid.kept, deferred_of(paid, purchase.deferred_returned)
        gone = min(purchase.captured, after.returned)
        back = 0
        for lot in lots:
            target = claw_of(lot.amount, gone, purchase.captured)
            moved = _move_lot(books, settings, journal, lot, target, now)
            back += moved if lot is paid else 0
        if change >= 0:
            back = paid.kept - kept
        _move_money(books, journal, purchase, paid, after, deferred, kept, kept + back)
    let_go(books, settings, journal, thawed, now)
    finish(books, journal)


def _move_lot(
    books: Books, settings: Settings, journal: Journal, lot: Lot, target: int, now: datetime
) -> int:
    """Bring what has come back of a lot to its target. How many units a restore gives it."""
    more = target - booked_of(books, lot)
    if more > 0:
        claw(books, settings, journal, lot, more, now)
    return restore(books, settings, journal, lot, -more, now) if more < 0 else 0


def _move_money(
    books: Books,
    journal: Journal,
    purchase: Purchase,
    paid: Lot,
    after: Funds,
    deferred: int,
    kept_before: int,
    kept_after: int,
) -> None:
    """Book what went back or came again: out of deferred by units, the rest out of earnings.

    What is deferred of the lot counts anew from here: `kept_after` units, restored ones included
    though they may have run out.
    """
    before, refunds = purchase.funds, purchase.refunds
    purchase.funds = after
    change = after.returned - before.returned
    taxed = tax_of(purchase.tax, purchase.gone, purchase.captured) - purchase.tax_returned
    net = change - taxed
    if net >= 0:
        split = split_refund(net, deferred, kept_before, kept_after)
    else:
        split = split_restore(net, refunds)
    if change:
        paid.deferred_amount, paid.deferred_units = deferred - split.deferred, kept_after
        books.change_lot(paid, reshaped=True)
    purchase.tax_returned += taxed
    purchase.deferred_returned += split.deferred
    books.undefer(paid.lot_no, split.deferred)
    books.change_purchase(purchase)
    moves = {
        "deferred_revenue": split.deferred,
        "refunds": split.refunds,
        "tax": taxed,
        "cash": before.refunded - after.refunded,
        "disputed": before.lost - after.lost,
    }
    _post_money(books, journal, purchase.terms.currency, moves)


def _post_alone(
    books: Books,
    settings: Settings,
    purchase: Purchase,
    paid: Lot,
    kind: str,
    account: str,
    amount: int,
    now: datetime,
) -> None:
    """What moves between an account and cash only: `amount` out of cash, or back if negative."""
    journal = begin(books, settings, kind, effective_at=now, now=now, origin="purchase")
    journal.lot_no, journal.grant_no = paid.lot_no, paid.grant_no
    _post_money(books, journal, purchase.terms.currency, {account: amount, "cash": -amount})
    finish(books, journal)


def _post_money(books: Books, journal: Journal, currency: str, moves: dict[str, int]) -> None:
    """Transfers that debit each account by its amount (credit it, if negative); the sum is 0."""
    left = {name: -amount for name, amount in moves.items() if amount < 0}
    for debit, amount in moves.items():
        for credit in left if amount > 0 else ():
            part = min(amount, left[credit])
            move_money(books, journal, currency, debit, credit, part)
            amount -= part
            left[credit] -= part


def start_refund(books: Books, request: StartRefund, settings: Settings, now: datetime) -> Outcome:
    """How much a refund of ours comes to, and the freeze that keeps its credit for it."""
    purchase = books.purchases.get(request.purchase_no)
    if purchase is None:
        return not_found()
    if purchase.status != "credited":
        return not_credited(purchase)
    amount, is_too_much = request.amount, False
    left = max(0, purchase.captured - purchase.gone - request.waiting)
    if amount is None:
        amount = unspent(books, purchase, request.credits)
        if amount < left:
            amount -= amount % request.step
        is_too_much = (request.credits or 0) > kept_of(books, purchase)
    scale = settings.scales[purchase.terms.currency]
    if amount == 0 or amount > left or is_too_much:
        return refuse(
            409,
            "nothing_refundable",
            f"{format_amount(left, scale)} {purchase.terms.currency} of this purchase can still "
            "be refunded, and nothing of what is left of it is unspent."
            if amount == 0
            else f"{format_amount(left, scale)} {purchase.terms.currency} of this purchase can "
            "still be refunded.",
            left=format_amount(left, scale),
        )
    freeze(books, settings, purchase, "refund", request.reference, amount, now)
    answer = purchase_answer(books, settings, purchase)
    return Outcome(202, RefundAnswer(format_amount(amount, scale), answer))
