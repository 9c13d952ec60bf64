"""Random lives of paid lots, recognised at random moments: each lot's cost is accounted for.

The database beside a model that finds what moved by walking its journals. After each recognition
all proofs hold, among them that revenue + breakage + returned + deferred = cost of every lot.
"""

from collections import defaultdict
from collections.abc import Generator
from typing import ClassVar

import pytest
from hypothesis.stateful import rule, run_state_machine_as_test

import ledger.load
from ledger.requests import Recognise
from ledger.revenue import Known, Moved, deferred_of
from ledger.state import Books, Journal, Transfer, Unrecognised
from tests.property.bench import Bench
from tests.property.sizes import size, tries
from tests.property.test_machine import set_sizes
from tests.property.test_purchases_machine import PurchasesMachine
from tests.servers import Database

LEFT_AT_ONCE = {"hold_end", "charge", "reversal"}


def moved(books: Books, journal: Journal, t: Transfer) -> Moved | None:
    """What a transfer took of a paid lot, if it has no money half of its own."""
    if t.lot_no is None or not (cost := books.lots[t.lot_no].cost) or cost.amount == 0:
        return None
    sign = 1 if t.debit == "wallet" else -1
    names = {t.debit, t.credit} - {"wallet"}
    burned = (
        t.amount * sign if names <= {"burned", "owed"} and "wallet" in (t.debit, t.credit) else 0
    )
    expired = t.amount * sign if names == {"expired"} else 0
    is_voided = t.credit == "purchased" and journal.kind in LEFT_AT_ONCE
    is_bought = books.lots[t.lot_no].purchase_no is not None
    voided = t.amount if is_voided and not is_bought and t.debit == "wallet" else 0
    if not (burned or expired or voided):
        return None
    return Moved(
        lot_no=t.lot_no,
        book_date=journal.book_date,
        late_for=journal.late_for,
        effective_at=journal.effective_at,
        burned=burned,
        expired=expired,
        voided=voided,
    )


def unrecognised(books: Books) -> Unrecognised:
    """What the database would load, from the journals in memory."""
    by_day: dict[tuple[int, object, object], list[Moved]] = defaultdict(list)
    for journal in books.journals[books.recognised_seq or 0 :]:
        for t in journal.transfers:
            if (move := moved(books, journal, t)) is not None:
                by_day[move.lot_no, move.book_date, move.late_for].append(move)
    work = Unrecognised(books.last_seq, {}, {}, {})
    for (lot_no, _, _), moves in by_day.items():
        work.moves.setdefault(lot_no, []).append(
            Moved(
                lot_no=lot_no,
                book_date=moves[0].book_date,
                late_for=moves[0].late_for,
                effective_at=max(move.effective_at for move in moves),
                burned=sum(move.burned for move in moves),
                expired=sum(move.expired for move in moves),
                voided=sum(move.voided for move in moves),
            )
        )
        work.known[lot_no] = known(books, lot_no)
        void = books.grants.get(books.lots[lot_no].grant_no)
        if void is not None and void.void_money is not None:
            work.voids[lot_no] = void.void_money
    return work


def known(books: Books, lot_no: int) -> Known:
    parts = [part for part in books.recognised if part.lot_no == lot_no]
    return Known(
        sum(part.revenue for part in parts),
        sum(part.breakage for part in parts),
        sum(part.returned for part in parts),
    )


class RecognitionMachine(PurchasesMachine):
    """The lives of purchases, recognised now and then."""

    bench: ClassVar[Bench]

    @rule()
    def recognise(self) -> None:
        books, no = self.world.books, self.world.books.customer_no
        for _ in range(3):  # time settles first, and what it moved is recognised by the next
            books.unrecognised = unrecognised(books)
            self.send(Recognise(customer_no=no))
            if books.recognised_seq == books.last_seq:
                break
        assert books.recognised_seq == books.last_seq
        for lot in books.lots.values():
            if lot.cost is not None:
                found = known(books, lot.lot_no)
                earned = found.revenue + found.breakage
                left = deferred_of(lot, found.returned)
                assert earned + found.returned + left == lot.cost.amount
        assert self.bench.prove() == []


@pytest.fixture
def bench(database: Database) -> Generator[Bench]:
    made = Bench(database)
    sizes = ledger.load.LOTS_FIRST, ledger.load.LOTS_MORE, ledger.load.DEBTS_FIRST
    yield made
    set_sizes(*sizes, 1_000)
    made.close()


def test_cost_of_every_lot_is_accounted_for_at_every_point(bench: Bench) -> None:
    RecognitionMachine.bench = bench
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        RecognitionMachine, settings=tries(30, 250, stateful_step_count=size(25, 40))
    )
