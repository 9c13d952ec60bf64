"""From usage to charge lines: which card, which version, which rate, counted on what. Pure."""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from ledger.amounts import AMOUNT_MAX, format_amount
from ledger.outcome import Outcome, refuse
from ledger.rated import (
    QUANTITY_SCALE,
    CardVersion,
    Counted,
    CounterKey,
    Identity,
    Line,
    Priced,
    PricedWindow,
    Usage,
    UsageItem,
    UsageState,
    netted,
)
from ledger.state import MICROSECOND, Books
from meter.catalog import PER_EVENT, Catalog, Meter
from meter.rate_cards import DEFAULT_CARD, RateCard
from meter.rates import Rate, find, matched, period, price

QUANTITY_ONE: Final = 10**QUANTITY_SCALE

_sorted_json = msgspec.json.Encoder(order="sorted").encode


class Pricer(Struct, frozen=True):
    """The prices of one copy of the catalog: the `Pricing` that the books ask."""

    catalog: Catalog
    scales: dict[str, int]

    @property
    def version(self) -> int:
        return self.catalog.version

    def price(
        self,
        books: Books,
        usage: Usage,
        *,
        at: datetime,
        card: CardVersion | None,
        is_final: bool,
    ) -> Priced | Outcome:
        """See `ledger.rated.Pricing`. Refusals: `no_rate`, `invalid_usage`, `event_conflict`, …"""
        state = books.usage
        assert state is not None, "loaded for every request that states usage"
        chosen = self.choose(state, usage.rate_card, card, at)
        if isinstance(chosen, Outcome):
            return chosen
        counters: dict[CounterKey, Counted] = {}
        lines: list[Line] = []
        named: dict[Identity, list[tuple[Meter, UsageItem]]] = {}
        for place, item in enumerate(usage.items):
            pointer = f"/usage/{place}"
            meter = self.catalog.meters.get(item.meter)
            refused = self._refuse_item(books, state, meter, item, pointer, is_final=is_final)
            if refused is not None:
                return refused
            assert meter is not None
            if is_final and (wrong := self._refuse_event(meter, item, named, pointer)) is not None:
                return wrong
            line = self.line(state, chosen, meter, item, at, counters)
            if line is None:
                return _unmatched(chosen, item, pointer)
            lines.append(line)
        priced = Priced(chosen.asset, chosen.card, netted(lines))
        if priced.amount > AMOUNT_MAX:
            limit = format_amount(AMOUNT_MAX, self.scales[chosen.asset])
            return refuse(
                422,
                "amount_out_of_range",
                f"This usage comes to more than the limit of {limit} {chosen.asset}.",
                pointer="/usage",
            )
        return priced

    def correct(
        self, books: Books, line: Line, item: UsageItem | None, *, seq: int, revision: int
    ) -> Priced | Outcome:
        """See `ledger.rated.Pricing`. By the version that the fact was charged by."""
        state = books.usage
        assert state is not None
        card = self.catalog.card(line.card)
        meter = self.catalog.by_no[line.meter_no]
        counters: dict[CounterKey, Counted] = {}
        # The undoing and the new charge are two revisions of the fact's lines.
        undone = msgspec.structs.replace(
            self._undo(state, card, line, counters), undoes=seq, revision=2 * revision - 1
        )
        if item is None:
            return Priced(card.asset, card.card, (undone,))
        at, starts, ends = line.event_at, line.period_start, line.period_end
        if starts is not None and ends is not None and not starts <= at < ends:
            at = starts  # a call charged it, by its own time
        again = self.line(state, card, meter, item, at, counters)
        if again is None:
            return _unmatched(card, item)
        again = msgspec.structs.replace(
            again, event_at=line.event_at, makes_event=False, revision=2 * revision
        )
        return Priced(card.asset, card.card, netted((undone, again)))

    def _undo(
        self, state: UsageState, card: RateCard, line: Line, counters: dict[CounterKey, Counted]
    ) -> Line:
        """The line that takes another back: the difference it makes to its counter now."""
        amount, total = -line.amount, 0
        if line.counter is not None and line.period_start is not None:
            rate = next(r for r in card.by_meter[line.meter] if r.rate_no == line.rate_no)
            scale = self.scales[card.asset]
            before = state.counters.get((line.counter, line.period_start)) or Counted()
            total = before.quantity
            after = max(0, total - line.quantity)
            amount = price(rate, after, scale) - price(rate, total, scale) - before.carry
            counters[line.counter, line.period_start] = Counted(total - line.quantity, 0)
        return msgspec.structs.replace(
            line,
            quantity=-line.quantity,
            amount=amount,
            total_before=total,
            carry=0,
            makes_event=False,
        )

    def window(
        self, books: Books, meter_no: int, *, at: datetime, ready_by: datetime
    ) -> PricedWindow | Outcome:
        """See `ledger.rated.Pricing`. Each group of dimension values is priced by itself."""
        state = books.usage
        assert state is not None
        meter = self.catalog.by_no[meter_no]
        # What is priced already stays with its card, whatever the customer has now.
        card = self.choose(state, _card_of_window(state, meter), None, at)
        if isinstance(card, Outcome):
            return card
        rates = card.by_meter.get(meter.key, ())
        if not rates:
            return _unmatched(card, UsageItem(meter.key, 0))
        zone = _zone(state.time_zone)
        periods = [period(rate.accumulate, at, zone) for rate in rates]
        start, end = max(p[0] for p in periods), min(p[1] for p in periods)
        if max(p[1] for p in periods) > ready_by:
            return PricedWindow(start, max(p[1] for p in periods), None)
        counters: dict[CounterKey, Counted] = {}
        lines: list[Line] = []
        for rate, (first, last) in zip(rates, periods, strict=True):
            measured = state.measured.get((meter_no, first, last), {})
            prefix = counter_prefix(card.card, rate)
            known = {
                counted.dimensions
                for (counter, at_), counted in state.counters.items()
                if at_ == first and counted.dimensions is not None and counter.startswith(prefix)
            }
            for dimensions in sorted({*measured, *known}):
                line = self._window_line(
                    state, card, meter, rate, at, counters, dimensions, measured.get(dimensions, 0)
                )
                if line is not None:
                    lines.append(msgspec.structs.replace(line, event_at=last - MICROSECOND))
        return PricedWindow(start, end, Priced(card.asset, card.card, tuple(lines)))

    def _window_line(
        self,
        state: UsageState,
        card: RateCard,
        meter: Meter,
        rate: Rate,
        at: datetime,
        counters: dict[CounterKey, Counted],
        dimensions: str,
        total: int,
    ) -> Line | None:
        """What a group's window comes to, less what was priced of it before; None if nothing."""
        item = UsageItem(meter.key, 0, msgspec.json.decode(dimensions))
        if find(card.by_meter[meter.key], matched(item.dimensions)) is not rate:
            return None
        start, _ = period(rate.accumulate, at, _zone(state.time_zone))
        known = state.counters.get((counter_name(card.card, rate, dimensions), start)) or Counted()
        if total == known.quantity:
            return None
        item = msgspec.structs.replace(item, quantity=total - known.quantity)
        line = self.line(state, card, meter, item, at, counters, dimensions_counted=True)
        assert line is not None
        return msgspec.structs.replace(line, makes_event=False, is_window=True)

    def choose(
        self, state: UsageState, asked: str | None, pinned: CardVersion | None, at: datetime
    ) -> RateCard | Outcome:
        """The version that was pinned; else the one in force at `at` of the request's card, the
        customer's, or `default`."""
        if pinned is not None:
            return self.catalog.card(pinned)
        key = asked or state.rate_card or DEFAULT_CARD
        found = self.catalog.in_force(key, at)
        if found is not None:
            return found
        if versions := self.catalog.cards.get(key):
            return _no_rate(
                f"No version of the rate card {key} is in force at {at.isoformat()}: the first "
                f"takes effect at {versions[0].effective_at.isoformat()}.",
                missing="version",
                rate_card=key,
            )
        return _no_rate(
            f"There is no rate card {key}: publish it with POST /v1/rate-cards.",
            missing="rate_card",
            rate_card=key,
        )

    def line(
        self,
        state: UsageState,
        card: RateCard,
        meter: Meter,
        item: UsageItem,
        at: datetime,
        counters: dict[CounterKey, Counted],
        *,
        dimensions_counted: bool = False,
    ) -> Line | None:
        """The charge line of one item, on the counters as the items before it left them.

        `dimensions_counted`: each group of dimension values has a counter of its own. None if no
        rate matches.
        """
        rate = find(card.by_meter.get(meter.key, ()), matched(item.dimensions))
        if rate is None:
            return None
        scale = self.scales[card.asset]
        text = dimensions_text(item.dimensions)
        counter = start = end = None
        before = Counted()
        if rate.accumulate != "line":
            start, end = period(rate.accumulate, at, _zone(state.time_zone))
            counter = counter_name(card.card, rate, text if dimensions_counted else "")
            key = counter, start
            before = counters.get(key) or state.counters.get(key) or before
        after = before.quantity + item.quantity
        amount = (
            price(rate, after, scale)
            - (price(rate, before.quantity, scale) if before.quantity else 0)
            - before.carry
        )
        if counter is not None and start is not None:
            counters[counter, start] = Counted(after, 0)
        fact = None
        if item.source is not None and item.event_id is not None:
            fact = state.events.get((item.source, item.event_id))
        return Line(
            meter_no=meter.meter_no,
            meter=meter.key,
            quantity=item.quantity,
            dimensions=text,
            card=card.card,
            rate_no=rate.rate_no,
            asset=card.asset,
            amount=amount,
            counter=counter,
            period_start=start,
            period_end=end,
            total_before=before.quantity,
            source=item.source,
            event_id=item.event_id,
            # Where the event is found. What the call is charged by is the call's own time.
            event_at=at if fact is None else fact.at,
            makes_event=fact is None,
        )

    def _refuse_event(
        self,
        meter: Meter,
        item: UsageItem,
        named: dict[Identity, list[tuple[Meter, UsageItem]]],
        pointer: str,
    ) -> Outcome | None:
        """What is wrong if items share an event: it has one type, and one value a dimension."""
        if item.source is None or item.event_id is None:
            return None
        others = named.setdefault((item.source, item.event_id), [])
        mine = _paths(meter, item)
        for other, known in others:
            if other.meter_no == meter.meter_no or other.event_type != meter.event_type:
                return _wrong(
                    "An event stands here twice for one meter, or for meters of different types.",
                    pointer,
                )
            theirs = _paths(other, known)
            if any(theirs.get(path, value) != value for path, value in mine.items()):
                return _wrong("Items of one event differ in a dimension.", pointer)
        others.append((meter, item))
        return None

    def _refuse_item(
        self,
        books: Books,
        state: UsageState,
        meter: Meter | None,
        item: UsageItem,
        pointer: str,
        *,
        is_final: bool,
    ) -> Outcome | None:
        """What is wrong with an item, if anything: its meter, its dimensions, its event."""
        if meter is None:
            return _wrong(
                f"There is no meter {item.meter}: GET /v1/meters lists them.", f"{pointer}/meter"
            )
        if meter.charge == "none" or meter.aggregation not in PER_EVENT:
            return _wrong(
                f"Usage of the meter {item.meter} is not charged by calls: its charge has to be "
                '"calls" or "events", and its aggregation sum or count.',
                f"{pointer}/meter",
            )
        if meter.aggregation == "count" and is_final and item.quantity != QUANTITY_ONE:
            return _wrong(
                "A meter that counts events has quantity 1: one item per event, or a meter that "
                "sums.",
                f"{pointer}/quantity",
            )
        for name in item.dimensions:
            if name not in meter.group_by:
                known = ", ".join(meter.group_by) or "nothing"
                return _wrong(
                    f"The meter {item.meter} is grouped by {known}, not by {name}.",
                    f"{pointer}/dimensions",
                )
        if not is_final or item.source is None or item.event_id is None:
            return None
        charged = state.charged.get((item.source, item.event_id, meter.meter_no))
        if charged is not None:
            return refuse(
                409,
                "event_already_charged",
                "This event was charged for this meter before: nothing was taken again.",
                pointer=pointer,
                charge_id=books.public("chg", charged),
            )
        stored = state.events.get((item.source, item.event_id))
        if stored is not None:
            reading = stored.readings.get(meter.meter_no)
            if reading != (item.quantity, dimensions_text(item.dimensions)):
                return refuse(
                    409,
                    "event_conflict",
                    "An event of this source and id is stored, and says something else of this "
                    "meter.",
                    pointer=pointer,
                )
        return None


def _paths(meter: Meter, item: UsageItem) -> dict[str, str | None]:
    """Where an event has the values of an item's dimensions."""
    values = matched(item.dimensions)
    return {path: values.get(name) for name, path in meter.group_by.items()}


def _wrong(words: str, pointer: str) -> Outcome:
    return refuse(422, "invalid_usage", words, pointer=pointer)


def _unmatched(card: RateCard, item: UsageItem, pointer: str | None = None) -> Outcome:
    return _no_rate(
        f"The rate card {card.card} has no rate for this usage of the meter {item.meter}.",
        missing="rate",
        meter=item.meter,
        dimensions=dict(item.dimensions),
        rate_card=str(card.card),
        pointer=pointer,
    )


def _no_rate(words: str, *, pointer: str | None = None, **facts: object) -> Outcome:
    return refuse(422, "no_rate", words, pointer=pointer, **facts)


def dimensions_text(dimensions: Mapping[str, Any]) -> str:
    """Dimensions as JSON with sorted members; a missing one and null are the same."""
    if not dimensions:
        return "{}"
    return _sorted_json({n: v for n, v in matched(dimensions).items() if v is not None}).decode()


def _card_of_window(state: UsageState, meter: Meter) -> str | None:
    """The rate card by which the window that is loaded was priced before; None: it was not."""
    for (counter, _), counted in state.counters.items():
        card, of, _ = counter.split("/", 2)
        if counted.dimensions is not None and of == meter.key:
            return card
    return None


def counter_name(card: CardVersion, rate: Rate, group: str) -> str:
    """What a rate's quantities are counted on: the same for every version of the card.

    A version that changes the price goes on with the quantity of the period.
    """
    return _counter_name(card.rate_card, rate.meter, rate.accumulate, rate.match, group)


@lru_cache(maxsize=4_096)
def _counter_name(
    card: str, meter: str, accumulate: str, match: tuple[tuple[str, str], ...], group: str
) -> str:
    said = _sorted_json([dict(match), group])
    return f"{card}/{meter}/{accumulate}/{sha256(said).hexdigest()[:16]}"


def counter_prefix(card: CardVersion, rate: Rate) -> str:
    """What the names of a rate's counters begin with, and those of rates with other matches."""
    return f"{card.rate_card}/{rate.meter}/{rate.accumulate}/"


@lru_cache(maxsize=1_024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
