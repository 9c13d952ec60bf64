"""What must hold of one customer's books after every decision, checked from their journals up."""

from collections import Counter
from datetime import datetime

from ledger.bought import claw_of
from ledger.clawback import booked_of
from ledger.freezes import frozen_of, lots_of
from ledger.posting import canonical, chain_hash
from ledger.state import GENESIS, Books, Journal, Transfer

ISSUED = {"purchased", "granted"}
LEAVING = {("wallet", "expired"), ("wallet", "purchased"), ("wallet", "granted")}
"""Credit that is back in a lot which has ended or was voided."""
MOVES: dict[str, set[tuple[str, str]]] = {
    "grant": {(issued, to) for issued in ISSUED for to in ("wallet", "upcoming")}
    | {("cash", "deferred_revenue"), ("cash", "tax"), ("opening", "deferred_revenue")},
    "activation": {("upcoming", "wallet")},
    "charge": {(source, "burned") for source in ("wallet", "owed", "billed")}
    | {("expired", "wallet"), *LEAVING},
    "debt_repaid": {("wallet", "owed")},
    "hold_end": LEAVING,
    "expiry": {("wallet", "expired")},
    "rollover": {pair for i in ISSUED for pair in (("wallet", i), (i, "wallet"))},
    "void": {(source, i) for source in ("wallet", "upcoming") for i in ISSUED}
    | {("deferred_revenue", "cash"), ("deferred_revenue", "breakage_revenue")},
    "reversal": {("burned", to) for to in ("wallet", "owed", "billed")} | LEAVING,
    "clawback": {(source, i) for source in ("wallet", "upcoming", "owed") for i in ISSUED}
    | {(of, to) for of in ("deferred_revenue", "refunds", "tax") for to in ("cash", "disputed")}
    | {("wallet", "expired"), ("cash", "disputed"), ("disputed", "cash")},
    "restore": {(i, into) for i in ISSUED for into in ("wallet", "upcoming", "owed")}
    | {(of, to) for of in ("cash", "disputed") for to in ("deferred_revenue", "refunds", "tax")}
    | {("owed", "wallet"), ("cash", "disputed"), ("disputed", "cash"), *LEAVING},
    "release": {("wallet", "expired")},
    "dispute": {("disputed", "cash"), ("cash", "disputed")},
    "fee": {("fees", "cash"), ("cash", "fees")},
    "recognition": {
        pair
        for account in ("revenue", "breakage_revenue", "cash")
        for pair in (("deferred_revenue", account), (account, "deferred_revenue"))
    },
}
"""Kind of journal → the (debit, credit) pairs it may move."""


def check(books: Books, now: datetime) -> None:
    """Assert every invariant. `now`: when the books were last decided on."""
    _check_journals(books)
    balances, of_lot = _replay(books.journals)
    _check_lots(books, of_lot, now)
    _check_accounts(books, balances)
    _check_debts(books)
    _check_purchases(books, balances)
    _check_due(books, now)


def _check_journals(books: Books) -> None:
    before, prev_hash = None, GENESIS
    for place, journal in enumerate(books.journals, 1):
        assert journal.seq == place
        assert before is None or journal.created_at > before
        assert journal.prev_hash == prev_hash
        assert journal.hash == chain_hash(prev_hash, canonical(books.customer_no, journal))
        before, prev_hash = journal.created_at, journal.hash
        assert journal.transfers
        for transfer in journal.transfers:
            assert transfer.amount > 0
            assert (transfer.debit, transfer.credit) in MOVES[journal.kind], journal
    assert books.last_seq == len(books.journals)
    assert books.last_hash == prev_hash


def _replay(journals: list[Journal]) -> tuple[Counter[tuple[str, str]], Counter[tuple[int, str]]]:
    """Credited minus debited: per (asset, account), and per (lot, account)."""
    balances: Counter[tuple[str, str]] = Counter()
    of_lot: Counter[tuple[int, str]] = Counter()
    for journal in journals:
        for t in journal.transfers:
            balances[t.asset, t.credit] += t.amount
            balances[t.asset, t.debit] -= t.amount
            if t.lot_no is not None and not ISSUED.isdisjoint((t.debit, t.credit)):
                of_lot[t.lot_no, "owed back" if "owed" in (t.debit, t.credit) else "issued"] += (
                    t.amount if t.credit in ISSUED else -t.amount
                )
            if t.lot_no is not None and not is_unspent_debt(t):
                of_lot[t.lot_no, t.credit] += t.amount
                of_lot[t.lot_no, t.debit] -= t.amount
    return balances, of_lot


def is_unspent_debt(t: Transfer) -> bool:
    """A clawback of what a lot no longer has: it moves nothing in the lot."""
    return "owed" in (t.debit, t.credit) and not ISSUED.isdisjoint((t.debit, t.credit))


def _check_lots(books: Books, of_lot: Counter[tuple[int, str]], now: datetime) -> None:
    pins: Counter[int] = Counter()
    for hold in books.holds.values():
        assert hold.uncovered >= 0
        assert all(amount >= 0 for amount in hold.pins.values())
        if hold.status == "open":
            assert hold.expires_at > now
            pins.update(hold.pins)
    for freeze in books.freezes.values():
        pins[freeze.lot_no] += freeze.amount
    for no, lot in books.lots.items():
        held = "upcoming" if lot.is_upcoming else "wallet"
        assert lot.remaining == of_lot[no, held]
        assert lot.expired == of_lot[no, "expired"]
        assert lot.pinned == pins[no]
        assert 0 <= lot.pinned <= lot.remaining
        assert lot.expired >= 0
        assert lot.voided >= 0
        assert lot.amount - lot.voided == -of_lot[no, "issued"]
        gone = of_lot[no, "burned"] + of_lot[no, "owed"]
        assert lot.amount == lot.remaining + lot.expired + lot.voided + gone
        has_ended = lot.expires_at is not None and lot.expires_at <= now
        if has_ended or lot.voided_at is not None:
            assert lot.unpinned == 0, "an ended or voided lot keeps only what holds have pinned"
        assert lot.is_upcoming == (lot.effective_at > now and lot.voided_at is None)


def _check_accounts(books: Books, balances: Counter[tuple[str, str]]) -> None:
    for asset, account in books.accounts.items():
        lots = [lot for lot in books.lots.values() if lot.asset == asset]
        holds = [h for h in books.holds.values() if h.asset == asset and h.status == "open"]
        assert account.wallet == balances[asset, "wallet"]
        assert account.wallet == sum(lot.remaining for lot in lots if not lot.is_upcoming)
        assert account.upcoming == balances[asset, "upcoming"]
        assert account.upcoming == sum(lot.remaining for lot in lots if lot.is_upcoming)
        assert account.pending == sum(lot.pinned for lot in lots if not lot.is_upcoming)
        assert account.wallet >= account.pending >= 0
        assert account.owed == -balances[asset, "owed"] >= 0
        assert account.billed == -balances[asset, "billed"] >= 0
        for policy, uncovered in (("owe", account.uncovered_owe), ("bill", account.uncovered_bill)):
            assert uncovered == sum(h.uncovered for h in holds if h.policy == policy)
        assert sum(n for (of, _), n in balances.items() if of == asset) == 0
        assert account.owed == 0 or account.available == 0, "credit repays debt at once"


def _check_debts(books: Books) -> None:
    for debt in books.debts.values():
        assert debt.open >= 0
        assert 0 <= debt.returned <= debt.repaid
    for account in books.accounts.values():
        open_debts = sum(d.open for d in books.debts.values() if d.asset == account.asset)
        assert account.owed == open_debts


def _check_purchases(books: Books, balances: Counter[tuple[str, str]]) -> None:
    """Credits, per lot and purchase; money, over all purchases, alone in their currency."""
    money: Counter[tuple[str, str]] = Counter()
    for purchase in books.purchases.values():
        funds = purchase.funds
        gone = min(purchase.captured, funds.refunded + funds.lost)
        for lot in lots_of(books, purchase):
            booked = booked_of(books, lot)
            assert booked == claw_of(lot.amount, gone, purchase.captured)
            frozen = frozen_of(books, lot)
            assert 0 <= lot.clawback_due <= lot.pinned - frozen
            assert 0 <= lot.lapsed <= lot.expired
            assert lot.written_off >= 0
            if lot.clawback_due or lot.written_off:
                assert lot.unpinned == frozen == 0, "what is there is taken first"
            if lot.written_off:
                assert lot.lapsed == lot.expired
        assert 0 <= purchase.deferred_returned <= purchase.cost
        lots = {lot.lot_no for lot in lots_of(books, purchase)}
        earned = sum(
            part.revenue + part.breakage for part in books.recognised if part.lot_no in lots
        )
        assert purchase.refunds >= 0
        out = funds.refunded + funds.lost + funds.disputed + funds.fees
        for name, amount in (
            ("cash", out - purchase.captured),
            ("fees", -funds.fees),
            ("disputed", -funds.disputed),
            ("refunds", -purchase.refunds),
            ("tax", purchase.tax - purchase.tax_returned),
            ("deferred_revenue", purchase.cost - purchase.deferred_returned - earned),
        ):
            money[purchase.terms.currency, name] += amount
    for place, amount in money.items():
        assert balances[place] == amount, place


def _check_due(books: Books, now: datetime) -> None:
    instants = [hold.expires_at for hold in books.holds.values() if hold.status == "open"]
    instants += [lot.effective_at for lot in books.lots.values() if lot.is_upcoming]
    instants += [
        lot.expires_at for lot in books.lots.values() if lot.expires_at and lot.unpinned > 0
    ]
    instants += [grant.next_start_at for grant in books.grants.values() if grant.next_start_at]
    for at in instants:
        assert books.next_due_at is not None
        assert books.next_due_at <= at
        assert at > now


def check_bound(due_at: datetime | None, books: Books) -> None:
    """What a row says is due next is a lower bound of what is: earlier at most, never later."""
    if books.next_due_at is not None:
        assert due_at is not None
        assert due_at <= books.next_due_at
