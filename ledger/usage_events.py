"""Charging for usage events: facts, so what lots and limit don't cover is owed. Pure."""

from datetime import datetime

import msgspec
from msgspec import Struct

from ledger.answers import Problem
from ledger.outcome import Outcome
from ledger.overage import limit_left, policy_for
from ledger.posting import begin, finish
from ledger.priced import ORIGIN, keep, settle_lines
from ledger.rated import Priced, Usage, UsageItem
from ledger.requests import ChargeEvents, ChargeWindows, CorrectEvent, EventRef
from ledger.settle import account_of
from ledger.state import Books, Settings
from ledger.usage import ChargeWriter, repay, source_at


class EventsCharged(Struct, frozen=True):
    """What became of each event, in order.

    `charged`; `known`: it was charged before, or nothing reads it any more; else the code why it
    has no price.
    """

    results: list[str]


class WindowCharged(Struct, frozen=True):
    """What became of a window: as of an event, or `open`: it has not closed. None: no price."""

    result: str
    start: datetime | None = None
    end: datetime | None = None


class WindowsCharged(Struct, frozen=True):
    results: list[WindowCharged]


def charge_events(
    books: Books, request: ChargeEvents, settings: Settings, now: datetime
) -> Outcome:
    """Charge each event by its own time, on the lots of that time."""
    return Outcome(
        200,
        EventsCharged([_charge_event(books, event, settings, now) for event in request.events]),
    )


def _charge_event(books: Books, event: EventRef, settings: Settings, now: datetime) -> str:
    assert books.usage is not None
    assert settings.pricing is not None
    fact = books.usage.events.get((event.source, event.event_id))
    reading = None if fact is None else fact.readings.get(event.meter_no)
    marked = (event.source, event.event_id, event.meter_no) in books.usage.charged
    if reading is None or marked:
        return "known"
    quantity, dimensions = reading
    item = UsageItem(
        event.meter, quantity, msgspec.json.decode(dimensions), event.source, event.event_id
    )
    priced = settings.pricing.price(books, Usage((item,)), at=event.at, card=None, is_final=True)
    if isinstance(priced, Outcome):
        assert isinstance(priced.answer, Problem)
        return priced.answer.code
    _book(books, settings, priced, event.at, now)
    return "charged"


def _book(books: Books, settings: Settings, priced: Priced, at: datetime, now: datetime) -> None:
    """Give back what lines give back, charge the others, and keep all beside one journal.

    What is charged comes from lots, then from what `bill` leaves, and the rest is owed.
    """
    priced = settle_lines(books, settings, priced, now)
    if all(line.quantity < 0 and line.amount <= 0 for line in priced.lines):
        keep(books, _reversal(books, settings, now), priced.lines)
        repay(books, settings, now)
        return
    account = account_of(books, settings, priced.asset)
    source = source_at(books, account, priced.amount, at, now)
    over = max(0, priced.amount - source.available)
    billed = 0
    if policy_for(books, priced.asset) == "bill":
        left = limit_left(books, account)
        billed = over if left is None else min(over, left)
    writer = ChargeWriter(books, settings, account, at, now)
    writer.journal.origin = ORIGIN
    writer.draw(source, priced.amount - over)
    writer.cover("bill", billed)
    writer.cover("owe", over - billed)
    writer.finish(priced)
    repay(books, settings, now)


def _reversal(books: Books, settings: Settings, now: datetime) -> int:
    """The journal of this request's last reversal; one that moves nothing if there was none."""
    if books.journals and books.journals[-1].kind == "reversal":
        return books.journals[-1].seq
    journal = begin(books, settings, "reversal", effective_at=now, now=now, origin=ORIGIN)
    finish(books, journal, is_fact=True)
    return journal.seq


def correct_event(
    books: Books, request: CorrectEvent, settings: Settings, now: datetime
) -> Outcome:
    """Undo what a fact was charged, and charge what it says now. Nothing if it was not charged."""
    assert books.usage is not None
    assert settings.pricing is not None
    identity = request.source, request.event_id
    fact = books.usage.events.get(identity)
    assert fact is not None, "the caller has just corrected it"
    latest = {line.meter_no: (seq, line) for seq, line in books.usage.lines.get(identity, ())}
    corrected = 0
    for meter_no, (seq, line) in latest.items():
        reading = fact.readings.get(meter_no)
        if line.quantity < 0 or reading == (line.quantity, line.dimensions):
            continue  # cancelled before, or as it was
        item = None
        if reading is not None:
            item = UsageItem(line.meter, reading[0], msgspec.json.decode(reading[1]), *identity)
        named = msgspec.structs.replace(
            line, source=request.source, event_id=request.event_id, event_at=request.at
        )
        priced = settings.pricing.correct(books, named, item, seq=seq, revision=fact.revision)
        if isinstance(priced, Outcome):
            return priced
        _book(books, settings, priced, request.at, now)
        corrected += 1
    return Outcome(200, EventsCharged(["charged"] * corrected))


def charge_windows(
    books: Books, request: ChargeWindows, settings: Settings, now: datetime
) -> Outcome:
    """Charge closed windows: what they come to, less what was charged for them before."""
    assert settings.pricing is not None
    results: list[WindowCharged] = []
    for meter_no, at in request.windows:
        window = settings.pricing.window(books, meter_no, at=at, ready_by=request.ready_by)
        if isinstance(window, Outcome):
            assert isinstance(window.answer, Problem)
            results.append(WindowCharged(window.answer.code))
            continue
        result = "open" if window.priced is None else "known"
        if window.priced is not None and window.priced.lines:
            _book(books, settings, window.priced, window.priced.lines[0].event_at, now)
            result = "charged"
        results.append(WindowCharged(result, window.start, window.end))
    return Outcome(200, WindowsCharged(results))
