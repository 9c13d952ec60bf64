"""Charging for priced usage: its lines, its counters, and what cheaper tiers give back. Pure."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from ledger.outcome import Outcome, refuse
from ledger.rated import CardVersion, Counted, Line, Priced, Usage
from ledger.state import Books, NeedMore, Settings
from ledger.undo import undo

ORIGIN = "usage"
"""Of reversals that follow from usage: a cheaper tier, a cancelled or replaced event."""


def price(
    books: Books,
    settings: Settings,
    usage: Usage,
    *,
    at: datetime,
    is_final: bool,
    card: CardVersion | None = None,
    asset: str | None = None,
) -> Priced | Outcome:
    """What usage of the time `at` comes to; a refusal where it has no price in `asset`."""
    assert settings.pricing is not None, "the edge brings the pricing with every usage"
    priced = settings.pricing.price(books, usage, at=at, card=card, is_final=is_final)
    if isinstance(priced, Priced) and asset is not None and priced.asset != asset:
        return refuse(
            422,
            "invalid_asset",
            f"The rate card {priced.card} has prices in {priced.asset}, not in {asset}.",
            pointer="/usage",
        )
    return priced


def settle_lines(books: Books, settings: Settings, priced: Priced, now: datetime) -> Priced:
    """Book what lines give back; the lines as they were booked. Before the charge is begun."""
    if all(line.amount >= 0 for line in priced.lines):
        return priced
    lines = tuple(
        give_back(books, settings, line, now) if line.amount < 0 else line for line in priced.lines
    )
    return msgspec.structs.replace(priced, lines=lines)


def give_back(books: Books, settings: Settings, line: Line, now: datetime) -> Line:
    """Undo what was charged too much: of one charge, or of a counter's, the latest first.

    What a counter's charges at hand don't have is carried, and taken off its next lines. What a
    charge does not have any more was given back before. Returns the line as it was booked.
    """
    assert books.usage is not None
    counter = line.counter_key
    if counter is None:
        charges = [] if line.undoes is None else [line.undoes]
    elif counter in books.usage.charges:
        charges = books.usage.charges[counter]
    else:
        raise NeedMore(books.customer_no, counter=counter)
    left = -line.amount
    for seq in charges:
        charge = books.charges[seq]
        part = min(left, charge.amount - charge.reversed)
        if part > 0:
            undo(books, settings, charge, part, now, origin=ORIGIN)
            left -= part
    carry = 0 if line.counter is None else left
    return msgspec.structs.replace(line, amount=line.amount + left, carry=carry)


def keep(books: Books, seq: int, lines: Sequence[Line]) -> None:
    """Write lines beside their journal, and move what they were counted on."""
    usage = books.usage
    assert usage is not None
    first = sum(known == seq for known, _, _ in books.lines)
    for place, line in enumerate(lines, first + 1):
        books.lines.append((seq, place, line))
        if line.source is not None and line.event_id is not None:
            usage.charged[line.source, line.event_id, line.meter_no] = seq
        key = line.counter_key
        if key is None or line.period_end is None:
            continue
        group = line.dimensions if line.is_window else None
        usage.counters[key] = Counted(line.total_before + line.quantity, line.carry, group)
        books.counted[key] = line.period_end
        if key in usage.charges and line.amount > 0:
            usage.charges[key].insert(0, seq)
