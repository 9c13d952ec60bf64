"""Time settles first: what the clock has done to one customer, posted in time order. Pure.

At one instant the order is: hold deadlines, lot expiry, rollover, activation and recurrence, debt
repayment. Each journal's `effective_at` is its own instant. Every write runs this first, reads run
it without writing, and the sweeper only does early what the next write would do.
"""

from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Final, Literal

from ledger.burn_down import plan, present
from ledger.calendar import next_start
from ledger.chart import ISSUED_BY
from ledger.entities import Grant, Hold, Lot
from ledger.posting import begin, finish, move, move_money
from ledger.requests import OPENING, Cost
from ledger.returning import give_back
from ledger.revenue import deferred_after
from ledger.state import Account, Books, Journal, NeedMore, Settings

STEPS_MAX: Final = 1_000
"""How much of what time has done one request posts (about 50 ms of work). More: 503, try again."""

HOLD, EXPIRY, ROLLOVER, START, REPAY = range(5)
REPAY_LEFT: Final = -1
"""Repayment that an earlier request did not finish: before all that is still due."""


def account_of(books: Books, settings: Settings, asset: str) -> Account:
    """The customer's accounts in `asset`; all zero before the first use."""
    account = books.accounts.get(asset)
    if account is None:
        account = Account(asset=asset, scale=settings.scales[asset], is_new=True)
        books.accounts[asset] = account
    return account


def settle(books: Books, settings: Settings, now: datetime) -> None:
    """Post everything that fell due by `now`, once per instant of deciding.

    Sets `books.is_unsettled` when more than STEPS_MAX steps are due: those are kept and posted, and
    whoever asked has to come again. Raises NeedMore if the customer was loaded in part.
    """
    if books.settled_at == now:
        return
    if books.next_due_at is not None and books.next_due_at <= now:
        if not books.has_due:
            raise NeedMore(books.customer_no, wants_due=True)
        books.is_unsettled = not _Timeline(books, settings, now).run()
        reckon_next_due(books, now)
    books.settled_at = now


def catch_up(books: Books, settings: Settings, now: datetime) -> bool:
    """Post what a new grant with a past start owes to time. False if that is too much."""
    if books.next_due_at is None or books.next_due_at > now:
        return True
    if not books.has_due:
        raise NeedMore(books.customer_no, wants_due=True)
    done = _Timeline(books, settings, now).run()
    reckon_next_due(books, now)
    return done


def reckon_next_due(books: Books, now: datetime) -> None:
    """Find again when something falls due next: of what is loaded, and of what is not."""
    instants = [
        lot.effective_at if lot.is_upcoming else lot.expires_at
        for lot in books.lots.values()
        if lot.is_upcoming
        or (
            (lot.remaining > 0 and lot.voided_at is None)
            and (lot.unpinned > 0 or not lot.ended_by(now))
        )
    ]
    instants += [hold.expires_at for hold in books.holds.values() if hold.status == "open"]
    instants += [grant.next_start_at for grant in books.grants.values()]
    instants.append(books.later_due_at)
    if books.is_cut or any(
        account.owed and account.available for account in books.accounts.values()
    ):
        instants.append(now)
    books.next_due_at = min((at for at in instants if at is not None), default=None)
    books.is_changed = True


class _Timeline:
    """Due steps of one customer in time order; new steps may come up while it runs."""

    def __init__(self, books: Books, settings: Settings, now: datetime) -> None:
        self.books, self.settings, self.now = books, settings, now
        self.heap: list[tuple[datetime, int, int, Hold | Lot | Grant | str]] = []
        for hold in books.holds.values():
            if hold.status == "open":
                self.push(hold.expires_at, HOLD, hold.hold_no, hold)
        for lot in books.lots.values():
            self.push_lot(lot)
        for grant in books.grants.values():
            self.push(grant.next_start_at, START, grant.grant_no, grant)
        if any(account.owed and account.available for account in books.accounts.values()):
            heappush(self.heap, (self.heap[0][0] if self.heap else now, REPAY_LEFT, 0, ""))

    def push(
        self, at: datetime | None, phase: int, no: int, what: Hold | Lot | Grant | str
    ) -> None:
        if at is not None and at <= self.now:
            heappush(self.heap, (at, phase, no, what))

    def push_lot(self, lot: Lot) -> None:
        if lot.is_upcoming:
            self.push(lot.effective_at, START, lot.grant_no, lot)
        if lot.remaining > 0 and lot.voided_at is None:
            self.push(lot.expires_at, EXPIRY, lot.lot_no, lot)

    def run(self) -> bool:
        """Post step by step; False if that was too much for one request, with something left."""
        heap, repay_at, steps = self.heap, None, 0
        while heap:
            # A step is never parted from the repayment of its instant: credit that a later step
            # would end has to pay first.
            if steps >= STEPS_MAX and heap[0][1] != REPAY:
                return False
            steps += 1
            at, phase, _no, what = heappop(heap)
            if phase != REPAY and repay_at != at:
                repay_at = at
                heappush(heap, (at, REPAY, 0, ""))
            if isinstance(what, Hold):
                end_hold(self.books, self.settings, what, "expired", at, self.now)
            elif isinstance(what, Grant):
                self.start_period(what, at)
            elif isinstance(what, str):
                if not repay_debts(self.books, self.settings, at, self.now):
                    return False
            elif phase == START:
                self.activate(what, at)
            elif phase == EXPIRY:
                self.expire(what, at)
            else:
                self.roll_over(what, at)
        return True

    def begin(self, kind: str, at: datetime) -> Journal:
        return begin(self.books, self.settings, kind, effective_at=at, now=self.now, origin="time")

    def activate(self, lot: Lot, at: datetime) -> None:
        if not lot.is_upcoming:
            return
        account = account_of(self.books, self.settings, lot.asset)
        journal = self.begin("activation", at)
        journal.lot_no, journal.grant_no = lot.lot_no, lot.grant_no
        move(self.books, journal, account, "upcoming", "wallet", lot.remaining, lot_no=lot.lot_no)
        lot.is_upcoming = False
        account.pending += lot.pinned  # frozen before it started
        self.books.offer(lot)
        self.books.change_lot(lot, reshaped=True)
        finish(self.books, journal)

    def expire(self, lot: Lot, at: datetime) -> None:
        """End a lot: what is unpinned leaves, save what rolls over."""
        if lot.voided_at is not None or lot.unpinned == 0:
            return
        kept = self.kept(lot, at)
        account = account_of(self.books, self.settings, lot.asset)
        journal = self.begin("expiry", at)
        journal.lot_no, journal.grant_no = lot.lot_no, lot.grant_no
        amount = lot.unpinned - kept
        move(self.books, journal, account, "wallet", "expired", amount, lot_no=lot.lot_no)
        lot.remaining -= amount
        lot.expired += amount
        self.books.change_lot(lot, reshaped=True)
        finish(self.books, journal)
        if lot.purchase_no is not None:
            if kept or 0 < lot.pinned <= self.most(lot, at):
                self.prolong(lot, at)
        elif kept:
            self.push(at, ROLLOVER, lot.lot_no, lot)

    def kept(self, lot: Lot, at: datetime) -> int:
        """What of an ending lot moves on, if its series goes on and it was not kept before."""
        most = self.most(lot, at)
        if lot.purchase_no is not None:
            most = max(0, most - lot.pinned)
        return min(most, lot.unpinned)

    def most(self, lot: Lot, at: datetime) -> int:
        """What may be kept of a lot that ends at `at`, if its series, or its plan, goes on."""
        grant = self.books.grants.get(lot.grant_no)
        if grant is None or grant.rollover_max is None or lot.is_rollover:
            return 0
        until = None if lot.purchase_no is None else self.books.plan_until
        goes_on = grant.next_start_at == at and (until is None or until > at)
        return grant.rollover_max if goes_on else 0

    def prolong(self, lot: Lot, at: datetime) -> None:
        """Keep what is left of a plan's lot: the same lot, as refunds are of it, with a later end.

        What holds have pinned stays in it too, and counts first.
        """
        seconds = self.books.grants[lot.grant_no].rollover_expires_in
        lot.expires_at = None if seconds is None else at + timedelta(seconds=seconds)
        lot.is_rollover = True
        self.books.offer_again(lot)
        self.books.due(lot.expires_at)
        self.push_lot(lot)

    def roll_over(self, old: Lot, at: datetime) -> None:
        """Move what is kept out of the ending lot and into a new one, its deferred share along."""
        books, grant = self.books, self.books.grants[old.grant_no]
        amount = old.unpinned
        share = 0
        if old.cost is not None:
            left = deferred_after(
                old.deferred_amount, old.deferred_units, old.deferred_units - old.remaining
            )
            rest = deferred_after(
                old.deferred_amount,
                old.deferred_units,
                old.deferred_units - old.remaining + amount,
            )
            share = left - rest
            old.deferred_amount, old.deferred_units = rest, old.remaining - amount
            books.undefer(old.lot_no, share)
        account = account_of(books, self.settings, old.asset)
        issued = ISSUED_BY[old.category]
        journal = self.begin("rollover", at)
        journal.lot_no, journal.grant_no = old.lot_no, grant.grant_no
        move(books, journal, account, "wallet", issued, amount, lot_no=old.lot_no)
        old.remaining -= amount
        old.voided += amount
        books.change_lot(old, reshaped=True)
        lot = make_lot(
            books,
            grant,
            amount,
            at,
            None
            if grant.rollover_expires_in is None
            else at + timedelta(seconds=grant.rollover_expires_in),
            journal.created_at,
            cost=None if old.cost is None else Cost(share, old.cost.currency),
        )
        lot.is_rollover = True
        move(books, journal, account, issued, "wallet", amount, lot_no=lot.lot_no)
        books.offer(lot)
        finish(books, journal)
        self.push_lot(lot)

    def start_period(self, grant: Grant, at: datetime) -> None:
        """Make the lot of the period that starts at `at`."""
        if grant.next_start_at != at:
            return
        if grant.interval is None:  # of a plan, whose next period is another purchase
            grant.next_start_at = None
            self.books.changed_grants[grant.grant_no] = grant
            return
        following = period_after(grant, at)
        end = following if following is not None else grant.expires_at
        lot = grant_lot(
            self.books, self.settings, grant, at, end, self.begin("grant", at), upcoming=False
        )
        grant.next_start_at = following
        self.books.changed_grants[grant.grant_no] = grant
        self.push_lot(lot)
        self.push(following, START, grant.grant_no, grant)


def period_after(grant: Grant, at: datetime) -> datetime | None:
    """The start after `at` of a recurring grant; None if the series ends before it."""
    assert grant.interval is not None
    start = next_start(grant.anchor or grant.effective_at, grant.interval, grant.count, at)
    return None if grant.expires_at is not None and start >= grant.expires_at else start


def make_lot(
    books: Books,
    grant: Grant,
    amount: int,
    effective_at: datetime,
    expires_at: datetime | None,
    created_at: datetime,
    *,
    cost: Cost | None,
) -> Lot:
    """A new lot of a grant. Its credit is moved by the caller's journal."""
    lot = Lot(
        lot_no=books.take_no(),
        grant_no=grant.grant_no,
        asset=grant.asset,
        category=grant.category,
        amount=amount,
        remaining=amount,
        pinned=0,
        expired=0,
        voided=0,
        priority=grant.priority,
        effective_at=effective_at,
        expires_at=expires_at,
        created_at=created_at,
        cost=cost,
        deferred_amount=cost.amount if cost else 0,
        deferred_units=amount if cost else 0,
        is_new=True,
    )
    books.lots[lot.lot_no] = lot
    books.change_lot(lot)
    books.due(expires_at)
    return lot


def grant_lot(
    books: Books,
    settings: Settings,
    grant: Grant,
    effective_at: datetime,
    expires_at: datetime | None,
    journal: Journal,
    *,
    upcoming: bool,
    tax: int = 0,
    purchase_no: int | None = None,
) -> Lot:
    """Issue one lot of a grant, with the money half if it was paid for: its cost, and tax on it."""
    account = account_of(books, settings, grant.asset)
    journal.grant_no = grant.grant_no
    lot = make_lot(
        books, grant, grant.amount, effective_at, expires_at, journal.created_at, cost=grant.cost
    )
    journal.lot_no = lot.lot_no
    lot.is_upcoming = upcoming
    lot.purchase_no = purchase_no
    into = "upcoming" if upcoming else "wallet"
    move(books, journal, account, ISSUED_BY[grant.category], into, lot.amount, lot_no=lot.lot_no)
    if grant.cost is not None:
        cost = grant.cost
        source = "opening" if grant.origin == OPENING else "cash"
        move_money(books, journal, cost.currency, source, "deferred_revenue", cost.amount)
        move_money(books, journal, cost.currency, source, "tax", tax)
    if upcoming:
        books.due(effective_at)
    books.offer(lot)
    finish(books, journal)
    return lot


def end_hold(
    books: Books,
    settings: Settings,
    hold: Hold,
    status: Literal["captured", "voided", "expired"],
    at: datetime,
    now: datetime,
    journal: Journal | None = None,
) -> None:
    """End an open hold at `at`: its pins go back to their lots, and what ended meanwhile leaves.

    With `journal` (a charge's) what leaves is part of it, else of a journal of its own. At its own
    deadline a hold comes before the lots that end at the same instant; later such a lot has ended.
    """
    account = account_of(books, settings, hold.asset)
    by_time = status == "expired"
    own = journal or begin(
        books,
        settings,
        "hold_end",
        effective_at=at,
        now=now,
        origin="time" if by_time else "api",
    )
    own.hold_no = hold.hold_no
    for lot in pinned_lots(books, hold):
        amount = hold.pins[lot.lot_no]
        lot.pinned -= amount
        account.pending -= amount
        books.change_lot(lot)
        ended = lot.ended_by(at) and not (by_time and lot.expires_at == at)
        give_back(books, own, account, lot, amount, ended=ended)
    release_uncovered(account, hold, hold.uncovered)
    hold.status = status
    hold.ended_at = at
    hold.ended_created_at = books.moment(now)
    books.change_hold(hold)
    books.is_changed = True
    if journal is None:
        finish(books, own)


def pinned_lots(books: Books, hold: Hold) -> list[Lot]:
    """The lots a hold has pinned, in burn order."""
    return sorted((books.lots[no] for no in hold.pins), key=lambda lot: lot.burn_key)


def release_uncovered(account: Account, hold: Hold, amount: int) -> None:
    """The part of a hold that was promised under its policy is promised no more."""
    if hold.policy == "owe":
        account.uncovered_owe -= amount
    elif hold.policy == "bill":
        account.uncovered_bill -= amount


def repay_debts(books: Books, settings: Settings, at: datetime, now: datetime) -> bool:
    """While credit is available and debts are open, pay the oldest: one journal each.

    False if it stopped with debts and credit left: after STEPS_MAX journals, or where the loaded
    debts of a customer loaded whole end.
    """
    done = 0
    for account in books.accounts.values():
        while account.owed > 0 and account.available > 0:
            if done == STEPS_MAX or not _repay_oldest(books, settings, account, at, now):
                return False
            done += 1
    return True


def _repay_oldest(
    books: Books, settings: Settings, account: Account, at: datetime, now: datetime
) -> bool:
    """Pay the oldest debt in part or whole. False if it is not loaded, and no more can be."""
    open_debts = (d for d in books.debts.values() if d.asset == account.asset and d.open)
    debt = min(open_debts, key=lambda d: d.debt_no, default=None)
    if debt is None or (books.debts_until is not None and debt.debt_no > books.debts_until):
        if books.has_due and books.debts_until is not None:
            return False
        raise NeedMore(books.customer_no, wants_due=True)
    amount = min(debt.open, account.available)
    journal = begin(books, settings, "debt_repaid", effective_at=at, now=now, origin="time")
    journal.debt_no = debt.debt_no
    journal.charge_seq = debt.charge_seq if debt.lot_no is None else None
    taken, _ = plan(present(books, account.asset, amount), amount)
    for lot, part, _expired in taken:
        no = lot.lot_no
        move(books, journal, account, "wallet", "owed", part, lot_no=no, debt_no=debt.debt_no)
        lot.remaining -= part
        books.change_lot(lot)
    debt.repaid += amount
    books.changed_debts[debt.debt_no] = debt
    finish(books, journal)
    return True
