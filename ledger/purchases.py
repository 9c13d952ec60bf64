"""Purchases: recorded before they are paid, credited once, shown. Pure."""

from datetime import datetime, timedelta

from msgspec import UNSET, Struct, UnsetType

from ledger.amounts import format_amount
from ledger.answers import Balance, balance_answer
from ledger.bought import Purchase, Terms, claw_of
from ledger.chart import Category
from ledger.clawback import owed_of
from ledger.entities import Grant
from ledger.freezes import end as end_freezes
from ledger.freezes import freeze, frozen_of, lots_of, post_release
from ledger.outcome import Outcome, refuse
from ledger.posting import begin
from ledger.requests import (
    Cost,
    CreditPurchase,
    FreezePurchase,
    MarkPurchase,
    OpenPurchase,
    ReleasePurchase,
    Rollover,
)
from ledger.settle import account_of, catch_up, grant_lot
from ledger.state import Books, Settings
from ledger.usage import repay


class PurchasedLot(Struct, frozen=True, kw_only=True):
    """A lot of a purchase, and what of it came back or is to."""

    id: str
    grant_id: str
    category: str
    amount: str
    remaining: str
    frozen: str
    taken_back: str
    clawback_due: str
    """Pinned by holds: taken as it returns."""
    clawback_owed: str
    """Spent, and now a debt or repaid."""
    written_off: str
    lapsed: str
    """Ran out before it was to come back."""
    expires_at: datetime | None


class PurchaseAnswer(Struct, frozen=True, kw_only=True):
    """A purchase: what was expected, what is booked of its money, its lots."""

    id: str
    customer_id: str
    kind: str
    status: str
    product: str
    quantity: int
    asset: str
    credits: str
    bonus: str
    currency: str
    amount: str
    captured: str
    tax: str
    refunded: str
    lost: str
    disputed: str
    fees: str
    lots: list[PurchasedLot]
    created_at: datetime
    credited_at: datetime | None
    balance: Balance | UnsetType = UNSET


def not_found() -> Outcome:
    return refuse(404, "purchase_not_found", "No such purchase.")


def not_credited(purchase: Purchase) -> Outcome:
    return refuse(
        409,
        "purchase_not_credited",
        f"This purchase is {purchase.status}: there are no credits of it yet.",
    )


def purchase_answer(books: Books, settings: Settings, purchase: Purchase) -> PurchaseAnswer:
    """A purchase as it is shown, with the balance beside it."""
    terms, funds = purchase.terms, purchase.funds
    account = account_of(books, settings, terms.asset)

    def money(amount: int) -> str:
        return format_amount(amount, settings.scales[terms.currency])

    def plain(amount: int) -> str:
        return format_amount(amount, account.scale)

    return PurchaseAnswer(
        id=books.public("pur", purchase.purchase_no),
        customer_id=books.customer_id,
        kind=terms.kind,
        status=purchase.status,
        product=terms.product,
        quantity=terms.quantity,
        asset=terms.asset,
        credits=plain(terms.credits),
        bonus=plain(terms.bonus),
        currency=terms.currency,
        amount=money(terms.amount),
        captured=money(purchase.captured),
        tax=money(purchase.tax),
        refunded=money(funds.refunded),
        lost=money(funds.lost),
        disputed=money(funds.disputed),
        fees=money(funds.fees),
        lots=[
            PurchasedLot(
                id=books.public("lot", lot.lot_no),
                grant_id=books.public("grt", lot.grant_no),
                category=lot.category,
                amount=plain(lot.amount),
                remaining=plain(lot.remaining),
                frozen=plain(frozen_of(books, lot)),
                taken_back=plain(lot.voided),
                clawback_due=plain(lot.clawback_due),
                clawback_owed=plain(owed_of(books, lot)),
                written_off=plain(lot.written_off),
                lapsed=plain(lot.lapsed),
                expires_at=lot.expires_at,
            )
            for lot in lots_of(books, purchase)
        ],
        created_at=purchase.created_at,
        credited_at=purchase.credited_at,
        balance=balance_answer(account),
    )


def open_purchase(
    books: Books, request: OpenPurchase, settings: Settings, now: datetime
) -> Outcome:
    """Record a purchase; of one line of an invoice the one that there is."""
    terms = request.terms
    if terms.line_id is not None:
        for known in books.purchases.values():
            if (known.terms.invoice_id, known.terms.line_id) == (terms.invoice_id, terms.line_id):
                return Outcome(200, purchase_answer(books, settings, known))
    if (wrong := _check_terms(terms)) is not None:
        return wrong
    ordered = None if request.ordered_no is None else books.purchases.get(request.ordered_no)
    if ordered is not None and _is_order(ordered):
        ordered.terms, ordered.status, ordered.is_filled = terms, "open", True
        books.change_purchase(ordered)
        return Outcome(201, purchase_answer(books, settings, ordered))
    purchase = Purchase(purchase_no=books.take_no(), terms=terms, created_at=now, is_new=True)
    books.purchases[purchase.purchase_no] = purchase
    books.change_purchase(purchase)
    return Outcome(201, purchase_answer(books, settings, purchase))


def _is_order(purchase: Purchase) -> bool:
    """Whether it is a plan that was ordered, and no line has paid it yet."""
    terms = purchase.terms
    return terms.kind == "plan" and terms.line_id is None and purchase.status in {"open", "failed"}


def _check_terms(terms: Terms) -> Outcome | None:
    """A plan's line has a period of its own; a pack counts from its crediting, as does an order."""
    starts, ends = terms.effective_at, terms.expires_at
    if terms.invoice_id is None and terms.line_id is None:
        fits = starts is None and ends is None
    else:
        fits = terms.kind == "plan" and terms.invoice_id is not None and terms.line_id is not None
        fits = fits and starts is not None and ends is not None and starts < ends
    if fits:
        return None
    return refuse(
        422,
        "invalid_purchase",
        "A line of an invoice is of a plan, with its period (effective_at before expires_at); what "
        "has no line has no period.",
    )


def mark_purchase(
    books: Books, request: MarkPurchase, settings: Settings, now: datetime
) -> Outcome:
    """Say that it was not paid, or that a person has to look at it. What is credited stays so."""
    purchase = books.purchases.get(request.purchase_no)
    if purchase is None:
        return not_found()
    if purchase.status != "credited" and purchase.status != request.mark:
        purchase.status = request.mark
        books.change_purchase(purchase)
    return Outcome(200, purchase_answer(books, settings, purchase))


def credit(books: Books, request: CreditPurchase, settings: Settings, now: datetime) -> Outcome:
    """Give the credits of a paid purchase, once: what was paid for, and the bonus.

    Another currency or list price than expected parks it, as does a person: then nothing is given
    until it is marked open. Asked again it answers as it is.
    """
    purchase = books.purchases.get(request.purchase_no)
    if purchase is None:
        return not_found()
    if not 0 <= request.tax <= request.captured:
        return refuse(422, "invalid_purchase", "tax is a part of what was captured.")
    paid = request.captured, request.tax, request.currency
    if purchase.status == "credited":
        if paid != (purchase.captured, purchase.tax, purchase.terms.currency):
            return refuse(
                409,
                "purchase_already_credited",
                "This purchase was credited for another payment. Nothing was changed.",
            )
    elif _is_order(purchase):
        return not_credited(purchase)
    elif purchase.status != "parked":
        _credit(books, request, settings, purchase, now)
    return Outcome(200, purchase_answer(books, settings, purchase))


def _credit(
    books: Books,
    request: CreditPurchase,
    settings: Settings,
    purchase: Purchase,
    now: datetime,
) -> None:
    terms = purchase.terms
    books.change_purchase(purchase)
    if request.currency != terms.currency or request.listed not in (None, terms.amount):
        purchase.status = "parked"
        return
    purchase.status, purchase.credited_at = "credited", now
    purchase.captured, purchase.tax = request.captured, request.tax
    ends = terms.expires_at
    if ends is None and terms.expires_in is not None:
        ends = now + timedelta(seconds=terms.expires_in)
    _give(books, settings, purchase, "paid", terms.credits, ends, now, request.rollover)
    if terms.bonus:
        if terms.bonus_expires_in is not None:
            ends = now + timedelta(seconds=terms.bonus_expires_in)
        _give(books, settings, purchase, "promotional", terms.bonus, ends, now)
    if not catch_up(books, settings, now):
        books.is_unsettled = True  # what follows in this batch comes again
    repay(books, settings, now)


def _give(
    books: Books,
    settings: Settings,
    purchase: Purchase,
    category: Category,
    amount: int,
    expires_at: datetime | None,
    now: datetime,
    rollover: Rollover | None = None,
) -> None:
    """A grant with its lot; the money half stands in the journal of what was paid for."""
    terms, is_paid = purchase.terms, category == "paid"
    starts = terms.effective_at or now
    paid_at = min(starts, now)  # a later month of a year that is paid: its money is here
    journal = begin(*(books, settings, "grant"), effective_at=paid_at, now=now, origin="purchase")
    given = Grant(
        grant_no=books.take_no(),
        asset=terms.asset,
        amount=amount,
        category=category,
        priority=terms.priority if is_paid else terms.bonus_priority,
        effective_at=starts,
        created_at=now,
        origin="purchase",
        journal_seq=journal.seq,
        expires_at=expires_at,
        cost=Cost(purchase.cost, terms.currency) if is_paid else None,
        has_purchase=True,
        is_new=True,
    )
    if rollover is not None:
        given.rollover_max, given.rollover_expires_in = rollover.max, rollover.expires_in
        given.next_start_at = expires_at
    books.grants[given.grant_no] = books.changed_grants[given.grant_no] = given
    grant_lot(
        *(books, settings, given, starts, expires_at, journal),
        upcoming=starts > now,
        tax=purchase.tax if is_paid else 0,
        purchase_no=purchase.purchase_no,
    )


def freeze_purchase(
    books: Books, request: FreezePurchase, settings: Settings, now: datetime
) -> Outcome:
    """Pin what is unspent of what an amount of money stands for."""
    purchase = books.purchases.get(request.purchase_no)
    if purchase is None:
        return not_found()
    if purchase.status != "credited":
        return not_credited(purchase)
    freeze(*(books, settings, purchase, request.reason, request.reference, request.amount, now))
    return Outcome(200, purchase_answer(books, settings, purchase))


def release_purchase(
    books: Books, request: ReleasePurchase, settings: Settings, now: datetime
) -> Outcome:
    """End the freezes of a reference; what has run out meanwhile leaves, the rest is free again."""
    purchase = books.purchases.get(request.purchase_no)
    if purchase is None:
        return not_found()
    lots = end_freezes(books, settings, purchase, (request.reference,), "released", now)
    post_release(books, settings, lots, now)
    return Outcome(200, purchase_answer(books, settings, purchase))


def kept_of(books: Books, purchase: Purchase) -> int:
    """How many of the credits that were paid for have not come back."""
    paid = lots_of(books, purchase)[0]
    return paid.amount - claw_of(paid.amount, purchase.gone, purchase.captured)


def unspent(books: Books, purchase: Purchase, credits: int | None = None) -> int:
    """The money that what is unspent of a purchase stands for, or that `credits` of it do.

    Of what was paid for, not of the bonus; what holds or freezes have pinned counts as spent.
    Rounded down, so that refunding it takes back no more credit than that.
    """
    lots = lots_of(books, purchase)
    if not lots or purchase.captured == 0:
        return 0
    paid, gone, captured = lots[0], purchase.gone, purchase.captured
    back = claw_of(paid.amount, gone, captured)
    free = paid.unpinned if credits is None else credits
    reached = min(paid.amount, back + free)
    return max(0, captured * reached // paid.amount - gone)
