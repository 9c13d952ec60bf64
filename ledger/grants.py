"""Grants: giving credits, once or per period, and voiding what is left of them. Pure."""

from datetime import datetime, timedelta
from typing import Final

from ledger.answers import grant_answer
from ledger.calendar import next_start
from ledger.chart import ISSUED_BY
from ledger.entities import Grant, Lot
from ledger.outcome import Outcome, refuse
from ledger.posting import begin, finish, move, move_money
from ledger.requests import GrantCredit, Recurrence, VoidGrant
from ledger.revenue import deferred_after
from ledger.settle import STEPS_MAX, account_of, catch_up, grant_lot
from ledger.state import Books, Journal, Settings
from ledger.usage import refuse_start, repay

STEPS_PER_PERIOD: Final = 3
"""What time does at each start: a lot ends, the next one starts, debts are repaid."""
STEPS_PER_ROLLOVER: Final = 3
"""And with rollover: credit moves on; at its own end it runs out, and debts are repaid."""


def grant(books: Books, request: GrantCredit, settings: Settings, now: datetime) -> Outcome:
    """Give credits: a lot now, later, or one per period."""
    if (refused := refuse_start(books, request, request.asset, settings)) is not None:
        return refused
    starts = request.effective_at or now
    if (wrong := _check_times(request, starts, now)) is not None:
        return wrong
    given = _make_grant(books, request, starts, now)
    end = request.expires_at
    if request.recurrence is not None:
        following = _next(given, request.recurrence, starts)
        given.next_start_at = following if end is None or following < end else None
        end = given.next_start_at or end
    journal = begin(books, settings, "grant", effective_at=starts, now=now, origin=request.origin)
    journal.request_key, journal.notes = request.key, request.notes
    given.journal_seq = journal.seq
    grant_lot(books, settings, given, starts, end, journal, upcoming=starts > now)
    books.grants[given.grant_no] = given
    books.changed_grants[given.grant_no] = given
    books.due(given.next_start_at)
    if not catch_up(books, settings, now):
        books.is_unsettled = True  # what follows in this batch comes again
    repay(books, settings, now)
    account = account_of(books, settings, request.asset)
    lots = _lots_of(books, given)
    return Outcome(201, grant_answer(books, given, lots, settings.scales, now, account=account))


def _next(given: Grant, recurrence: Recurrence, after: datetime) -> datetime:
    anchor = given.anchor or given.effective_at
    return next_start(anchor, recurrence.interval, recurrence.count, after)


def _check_times(request: GrantCredit, starts: datetime, now: datetime) -> Outcome | None:
    expires_at = request.expires_at
    if expires_at is not None and (expires_at <= now or expires_at <= starts):
        return refuse(
            422,
            "invalid_expires_at",
            "expires_at must lie in the future and after effective_at "
            f"(the service's time is {now.isoformat()}).",
            pointer="/expires_at",
        )
    recurrence = request.recurrence
    if recurrence is None or starts > now:
        return None
    anchor, at = recurrence.anchor or starts, starts
    most = _periods_back_max(recurrence)
    for _ in range(most):
        at = next_start(anchor, recurrence.interval, recurrence.count, at)
        if at > now:
            return None
    return refuse(
        422,
        "invalid_effective_at",
        f"A recurring grant may start at most {most} of its periods in the past.",
        pointer="/effective_at",
    )


def _periods_back_max(recurrence: Recurrence) -> int:
    """How many periods in the past a series may start: one request catches up on all of them."""
    per_period = STEPS_PER_PERIOD + (STEPS_PER_ROLLOVER if recurrence.rollover else 0)
    return STEPS_MAX // per_period


def _make_grant(books: Books, request: GrantCredit, starts: datetime, now: datetime) -> Grant:
    notes, recurrence = request.notes, request.recurrence
    given = Grant(
        grant_no=books.take_no(),
        asset=request.asset,
        amount=request.amount,
        category=request.category,
        priority=request.priority,
        effective_at=starts,
        created_at=now,
        origin=request.origin,
        journal_seq=0,
        expires_at=request.expires_at,
        cost=request.cost,
        reason=notes.reason if notes else None,
        metadata=notes.metadata if notes else None,
        is_new=True,
    )
    if recurrence is not None:
        given.interval, given.count = recurrence.interval, recurrence.count
        given.anchor = recurrence.anchor or starts
        if recurrence.rollover is not None:
            given.rollover_max = recurrence.rollover.max
            given.rollover_expires_in = recurrence.rollover.expires_in
    return given


def _lots_of(books: Books, given: Grant) -> list[Lot]:
    return [lot for lot in books.lots.values() if lot.grant_no == given.grant_no]


def sign_up(books: Books, settings: Settings, now: datetime) -> None:
    """The sign-up grant, exactly once: the mark on the customer is cleared under its lock."""
    books.signup_due = False
    books.redefine()
    if settings.signup_amount is None or books.closed_at is not None:
        return
    seconds = settings.signup_expires_in
    request = GrantCredit(
        customer_no=books.customer_no,
        asset="credits",
        amount=settings.signup_amount,
        category="promotional",
        priority=settings.signup_priority,
        expires_at=None if seconds is None else now + timedelta(seconds=seconds),
        origin="signup",
    )
    grant(books, request, settings, now)


def void(books: Books, request: VoidGrant, settings: Settings, now: datetime) -> Outcome:
    """End a grant: what is unpinned and unburned of every lot that has not ended is taken."""
    given = books.grants.get(request.grant_no)
    if given is None:
        return refuse(404, "grant_not_found", "No such grant.")
    if (wrong := _check_void(given, request)) is not None:
        return wrong
    account = account_of(books, settings, given.asset)
    journal = begin(books, settings, "void", effective_at=now, now=now)
    journal.grant_no, journal.request_key, journal.notes = (
        given.grant_no,
        request.key,
        request.notes,
    )
    lots = _lots_of(books, given)
    taken = 0
    for lot in lots:
        if lot.voided_at is None and not lot.ended_by(now):
            taken += _void_lot(books, journal, lot, request.money, now)
    given.voided_at, given.void_money, given.next_start_at = now, request.money, None
    books.changed_grants[given.grant_no] = given
    books.is_changed = True
    finish(books, journal)
    return Outcome(
        200,
        grant_answer(books, given, lots, settings.scales, now, account=account, taken=taken),
    )


def _check_void(given: Grant, request: VoidGrant) -> Outcome | None:
    if given.has_purchase:
        return refuse(
            409, "grant_has_purchase", "These credits were bought: refund the purchase instead."
        )
    if given.voided_at is not None:
        return refuse(
            409, "grant_already_voided", f"This grant was voided at {given.voided_at.isoformat()}."
        )
    was_paid = given.cost is not None and given.cost.amount > 0
    if was_paid and request.money is None:
        return refuse(
            422,
            "invalid_money",
            'Money was paid for this grant: say where it goes, money="refunded" or "breakage".',
            pointer="/money",
        )
    if request.money is not None and given.category != "paid":
        return refuse(422, "invalid_money", "No money was paid for this grant.", pointer="/money")
    return None


def _void_lot(books: Books, journal: Journal, lot: Lot, money: str | None, now: datetime) -> int:
    account = books.accounts[lot.asset]
    taken = lot.unpinned
    source = "upcoming" if lot.is_upcoming else "wallet"
    issued = ISSUED_BY[lot.category]
    move(books, journal, account, source, issued, taken, lot_no=lot.lot_no)
    if lot.cost is not None:
        units = lot.deferred_units
        before = deferred_after(lot.deferred_amount, units, units - lot.remaining)
        after = deferred_after(lot.deferred_amount, units, units - lot.pinned)
        to = "cash" if money == "refunded" else "breakage_revenue"
        move_money(books, journal, lot.cost.currency, "deferred_revenue", to, before - after)
        lot.deferred_amount, lot.deferred_units = after, lot.pinned
        books.undefer(lot.lot_no, before - after)
    lot.remaining -= taken
    lot.voided += taken
    lot.is_upcoming = False
    lot.voided_at = now
    books.change_lot(lot, reshaped=True)
    return taken
