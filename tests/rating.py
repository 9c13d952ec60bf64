"""Rates, rate cards and the pricing without a database, for tests of the pure part."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from ledger.rated import QUANTITY_SCALE, CardVersion, Priced, Usage, UsageItem, UsageState
from ledger.state import Books
from meter.catalog import Catalog, Meter
from meter.charging import Pricer
from meter.rate_cards import RateBody, RateCard, compile_rates
from meter.rates import Rate

ONE: Final = 10**QUANTITY_SCALE
"""A quantity of 1."""
NOON: Final = datetime(2030, 5, 15, 12, tzinfo=UTC)
BEGINNING: Final = datetime(2026, 1, 1, tzinfo=UTC)


def compiled(*bodies: Mapping[str, Any]) -> dict[str, tuple[Rate, ...]]:
    """Rates as published, compiled; the meter is `tokens` unless they name another."""
    rates = [{"meter": "tokens", **body} for body in bodies]
    return compile_rates(msgspec.convert(rates, tuple[RateBody, ...]))


def rate(**body: Any) -> Rate:
    """One rate as published, compiled."""
    return compiled(body)["tokens"][0]


def meter(key: str = "tokens", *, no: int = 1, **changes: Any) -> Meter:
    """A sum charged by calls, grouped by model and region."""
    made = Meter(
        meter_no=no,
        key=key,
        event_type=key,
        aggregation="sum",
        value_property="quantity",
        group_by={"model": "model", "region": "region"},
        filters=None,
        unit=None,
        charge="calls",
        created_at=BEGINNING,
        changed_at=BEGINNING,
        defined_at=BEGINNING,
        is_used=False,
    )
    return msgspec.structs.replace(made, **changes)


def card(
    *bodies: Mapping[str, Any],
    key: str = "default",
    version: int = 1,
    asset: str = "credits",
    effective_at: datetime = BEGINNING,
) -> RateCard:
    """One version of a rate card."""
    rates = msgspec.convert([{"meter": "tokens", **body} for body in bodies], tuple[RateBody, ...])
    return RateCard(
        card=CardVersion(key, version),
        asset=asset,
        effective_at=effective_at,
        created_at=BEGINNING,
        rates=rates,
        by_meter=compile_rates(rates),
    )


def pricer(
    *cards: RateCard, meters: Sequence[Meter] = (), scales: Mapping[str, int] | None = None
) -> Pricer:
    """The pricing of these cards; the one meter is `tokens` if none are given."""
    made = list(meters) or [meter()]
    by_key: dict[str, tuple[RateCard, ...]] = {}
    for one in sorted(cards, key=lambda c: (c.effective_at, c.card.version)):
        by_key[one.card.rate_card] = (*by_key.get(one.card.rate_card, ()), one)
    catalog = Catalog(
        1,
        {one.key: one for one in made},
        {one.meter_no: one for one in made},
        {one.event_type: (one,) for one in made},
        set(),
        by_key,
        {one.card: one for one in cards},
    )
    return Pricer(catalog, dict(scales or {"credits": 9}))


def customer(time_zone: str = "UTC", rate_card: str | None = None) -> Books:
    """A customer who has used nothing yet."""
    books = Books(customer_no=1, customer_id="acme", created_at=BEGINNING)
    books.usage = UsageState(time_zone=time_zone, rate_card=rate_card)
    return books


def item(quantity: int = ONE, *, of: str = "tokens", **dimensions: Any) -> UsageItem:
    return UsageItem(of, quantity, dimensions)


def charged(
    pricing: Pricer, books: Books, *items: UsageItem, at: datetime = NOON, **usage: Any
) -> Priced:
    """Price usage that has to have a price, and count it; nothing is given back by charges."""
    priced = pricing.price(books, Usage(items, **usage), at=at, card=None, is_final=True)
    assert isinstance(priced, Priced), priced
    return priced
