"""Recognition: the money halves of what left paid lots, posted by book day. Pure.

The hot path moves credits only. What they were worth leaves `deferred_revenue` here: burned credit
as revenue, expired credit as breakage, each on the day of its own fact. What is earned is the
difference between what is booked of a lot and `deferred_of`, so a run that comes late, twice or
never in between changes nothing but when it is posted.
"""

from datetime import datetime
from typing import Final

from msgspec import Struct

from ledger.entities import Lot
from ledger.outcome import Outcome
from ledger.posting import begin, finish, move_money
from ledger.revenue import Earned, earn
from ledger.state import Books, Recognised, Settings, Unrecognised

JOURNALS_MAX: Final = 1_000
"""Posted by one request (about 50 ms of work under the customer's lock); the next one goes on."""


class RecogniseAnswer(Struct, frozen=True):
    """What one run posted of a customer."""

    journals: int
    is_done: bool
    """Nothing is left to recognise."""


def recognise(books: Books, settings: Settings, now: datetime) -> Outcome:
    """Post what each paid lot earned since it was recognised last, a journal per lot and book day.

    Not done if time moved something in this batch, which the loaded moves lack, or if it was too
    much: then ask again.
    """
    work = books.unrecognised
    assert work is not None, "loaded with the request"
    if books.last_seq != work.last_seq:
        return Outcome(200, RecogniseAnswer(0, False))
    posted = 0
    for lot_no, moves in sorted(work.moves.items()):
        if posted >= JOURNALS_MAX:
            return Outcome(200, RecogniseAnswer(posted, False))
        lot = books.lots[lot_no]
        earned = earn(lot, work.known[lot_no], moves)
        posted += sum(_post(books, settings, work, lot, part, now) for part in earned)
        books.recognised.append(
            Recognised(
                lot_no,
                revenue=sum(part.revenue for part in earned),
                breakage=sum(part.breakage + _kept(work, lot, part) for part in earned),
                returned=sum(part.voided - _kept(work, lot, part) for part in earned),
                recognised_seq=work.last_seq,
            )
        )
    books.recognised_seq = books.last_seq
    books.is_changed = True
    return Outcome(200, RecogniseAnswer(posted, True))


def _kept(work: Unrecognised, lot: Lot, part: Earned) -> int:
    """What of the money of returned credit of a voided lot stays here: all, or it is refunded."""
    return 0 if work.voids.get(lot.lot_no) == "refunded" else part.voided


def _post(
    books: Books, settings: Settings, work: Unrecognised, lot: Lot, part: Earned, now: datetime
) -> bool:
    assert lot.cost is not None
    moved = part.moved
    journal = begin(
        books, settings, "recognition", effective_at=moved.effective_at, now=now, origin="time"
    )
    journal.book_date, journal.late_for = moved.book_date, moved.late_for
    journal.lot_no, journal.grant_no = lot.lot_no, lot.grant_no
    kept = _kept(work, lot, part)
    for account, amount in (
        ("revenue", part.revenue),
        ("breakage_revenue", part.breakage + kept),
        ("cash", part.voided - kept),
    ):
        if amount > 0:
            move_money(books, journal, lot.cost.currency, "deferred_revenue", account, amount)
        else:
            move_money(books, journal, lot.cost.currency, account, "deferred_revenue", -amount)
    return finish(books, journal)
