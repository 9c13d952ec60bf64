"""Freezes: what is pinned of bought lots without a deadline. Pure.

A freeze is for a reason and belongs to a reference: our refund, a refund or dispute at Stripe, a
warning. No hold can use what it pins, and no capture takes it. It ends as a clawback or is
released; an expiry leaves it until then, as it leaves what a hold has pinned.
"""

from datetime import datetime

from ledger.bought import Freeze, FreezeEnd, FreezeReason, Purchase, claw_of
from ledger.entities import Lot
from ledger.posting import begin, finish
from ledger.returning import give_back
from ledger.settle import account_of
from ledger.state import Account, Books, Journal, Settings
from ledger.usage import repay


def frozen_of(books: Books, lot: Lot, reference: str | None = None) -> int:
    """What is frozen of a lot, for one reference or all."""
    return sum(
        freeze.amount
        for freeze in books.freezes.values()
        if freeze.lot_no == lot.lot_no and reference in (None, freeze.reference)
    )


def lots_of(books: Books, purchase: Purchase) -> list[Lot]:
    """The lots of a purchase: what was paid for, then the bonus."""
    lots = [lot for lot in books.lots.values() if lot.purchase_no == purchase.purchase_no]
    return sorted(lots, key=lambda lot: lot.lot_no)


def freeze(
    books: Books,
    settings: Settings,
    purchase: Purchase,
    reason: FreezeReason,
    reference: str,
    amount: int | None,
    now: datetime,
) -> None:
    """Pin what `amount` of money stands for (None: everything), as far as it is free now.

    More than that is pinned for the reference already: the rest is released.
    """
    gone, captured = purchase.gone, purchase.captured
    released: list[Lot] = []
    for lot in lots_of(books, purchase):
        account = account_of(books, settings, lot.asset)
        wanted = lot.amount
        if amount is not None:
            reached = claw_of(lot.amount, min(captured, gone + amount), captured)
            wanted = reached - claw_of(lot.amount, gone, captured)
        more = min(wanted - frozen_of(books, lot, reference), lot.unpinned)
        if more > 0:
            _pin(books, account, purchase, lot, reason, reference, more, now)
        elif more < 0:
            _thaw(books, account, lot, reference, -more, "released", now)
            released.append(lot)
    post_release(books, settings, released, now)


def _pin(
    books: Books,
    account: Account,
    purchase: Purchase,
    lot: Lot,
    reason: FreezeReason,
    reference: str,
    amount: int,
    now: datetime,
) -> None:
    made = Freeze(
        freeze_no=books.take_no(),
        purchase_no=purchase.purchase_no,
        lot_no=lot.lot_no,
        asset=lot.asset,
        reason=reason,
        reference=reference,
        amount=amount,
        started_at=now,
        created_at=books.moment(now),
        is_new=True,
    )
    books.freezes[made.freeze_no] = made
    books.change_freeze(made)
    _shift(books, account, lot, amount)


def _shift(books: Books, account: Account, lot: Lot, amount: int) -> None:
    """More or less is pinned of a lot. What has not started is no part of the wallet yet."""
    lot.pinned += amount
    if not lot.is_upcoming:
        account.pending += amount
    books.change_lot(lot)


def end(
    books: Books,
    settings: Settings,
    purchase: Purchase,
    references: tuple[str, ...],
    ended_as: FreezeEnd,
    now: datetime,
) -> list[Lot]:
    """End every freeze of these references. The lots concerned, for `let_go`."""
    found: dict[int, Lot] = {}
    for one in list(books.freezes.values()):
        if one.purchase_no == purchase.purchase_no and one.reference in references:
            lot = found[one.lot_no] = books.lots[one.lot_no]
            _end(books, account_of(books, settings, lot.asset), lot, one, ended_as, now)
    return list(found.values())


def _end(
    books: Books, account: Account, lot: Lot, one: Freeze, ended_as: FreezeEnd, now: datetime
) -> None:
    one.ended_at, one.ended_created_at, one.ended_as = now, books.moment(now), ended_as
    del books.freezes[one.freeze_no]
    books.change_freeze(one)
    _shift(books, account, lot, -one.amount)


def thaw_for(books: Books, account: Account, lot: Lot, amount: int, now: datetime) -> None:
    """Free up to `amount` of a lot from whatever freezes are on it, for a clawback."""
    _thaw(books, account, lot, None, min(amount, frozen_of(books, lot)), "clawback", now)


def _thaw(
    books: Books,
    account: Account,
    lot: Lot,
    reference: str | None,
    amount: int,
    ended_as: FreezeEnd,
    now: datetime,
) -> None:
    """End freezes of a lot, oldest first; the rest of one that is too large is frozen anew."""
    for one in list(books.freezes.values()):
        if amount == 0:
            return
        if one.lot_no != lot.lot_no or reference not in (None, one.reference):
            continue
        rest = max(0, one.amount - amount)
        _end(books, account, lot, one, "split" if rest else ended_as, now)
        amount -= one.amount - rest
        if rest:
            purchase = books.purchases[one.purchase_no]
            _pin(books, account, purchase, lot, one.reason, one.reference, rest, now)


def post_release(books: Books, settings: Settings, lots: list[Lot], now: datetime) -> None:
    """What was released is free again; a journal for what of it has run out meanwhile."""
    if lots:
        journal = begin(books, settings, "release", effective_at=now, now=now, origin="purchase")
        journal.lot_no, journal.grant_no = lots[0].lot_no, lots[0].grant_no
        let_go(books, settings, journal, lots, now)
        finish(books, journal)
        repay(books, settings, now)


def let_go(
    books: Books, settings: Settings, journal: Journal, lots: list[Lot], now: datetime
) -> None:
    """Credit that freezes had pinned meets the state of its lot: what has ended leaves."""
    for lot in lots:
        if lot.unpinned and not lot.is_upcoming:
            account = account_of(books, settings, lot.asset)
            give_back(books, journal, account, lot, lot.unpinned, ended=lot.ended_by(now))
