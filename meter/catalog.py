"""The catalog: what the service counts (meters) and what it costs, as one copy of the database's.

Every process holds a copy. `version` grows with every change; who decides by a copy compares it
with `installation.catalog_version` inside the transaction, and reads again where it is older: so no
fact is judged by a catalog that was replaced before the fact was written.
"""

from datetime import date, datetime
from typing import Final, Literal

import msgspec
from asyncpg import Record
from msgspec import Struct

from ledger.rated import CardVersion, CatalogChanged
from meter.rate_cards import RateCard, compile_rates, read_rates
from meter.tally import PER_EVENT
from sql import queries
from sql.pool import Connection

__all__ = ["PER_EVENT", "Aggregation", "Catalog", "CatalogChanged", "ChargedBy", "Meter"]

Aggregation = Literal["count", "sum", "min", "max", "avg", "unique", "latest"]
ChargedBy = Literal["none", "events", "calls"]


class Meter(Struct, frozen=True, kw_only=True):
    """What is counted of one type of event, and how."""

    meter_no: int
    key: str
    event_type: str
    aggregation: Aggregation
    value_property: str | None
    """Path of the value in the event's data, members joined by dots; None: events are counted."""
    group_by: dict[str, str]
    """Dimension → its path in the event's data."""
    filters: str | None
    """JSON; None: every event of the type counts."""
    unit: str | None
    charge: ChargedBy
    created_at: datetime
    changed_at: datetime
    defined_at: datetime
    """Since when it reads events by its present definition."""
    is_used: bool
    """Whether it has counted or rejected an event: then its definition is fixed."""
    is_reported: bool = False
    """Whether a plan bills by it: what it counts is told to Stripe."""


class Catalog(Struct, frozen=True):
    """Meters by key, by number and by the type of event they read; and every rate card."""

    version: int
    meters: dict[str, Meter]
    by_no: dict[int, Meter]
    by_type: dict[str, tuple[Meter, ...]]
    used: set[int]
    """Meters that are known to be marked as used; grows."""
    cards: dict[str, tuple[RateCard, ...]] = {}
    """Of each rate card all versions, by the time they take effect."""
    versions: dict[CardVersion, RateCard] = {}
    months: set[date] = set()
    """Months that are known to have their place among the raw events; grows too."""

    def defined_at(self) -> datetime | None:
        """When the youngest definition began: what is received under this catalog is no older."""
        return max((meter.defined_at for meter in self.by_no.values()), default=None)

    def card(self, version: CardVersion) -> RateCard:
        """A published version: none is ever removed."""
        return self.versions[version]

    def in_force(self, key: str, at: datetime) -> RateCard | None:
        """The version of a rate card that prices usage of the time `at`."""
        found = None
        for version in self.cards.get(key, ()):
            if version.effective_at > at:
                break
            found = version
        return found


EMPTY: Final = Catalog(-1, {}, {}, {}, set())
"""Before the first reading: older than any of the database's."""


async def read(conn: Connection) -> Catalog:
    """The catalog of now."""
    version: int = await conn.fetchval(queries.catalog_version)
    meters = [
        Meter(
            meter_no=row["meter_no"],
            key=row["meter"],
            event_type=row["event_type"],
            aggregation=row["aggregation"],
            value_property=row["value_property"],
            group_by=msgspec.json.decode(row["group_by"], type=dict[str, str]),
            filters=row["filters"],
            unit=row["unit"],
            charge=row["charge"],
            created_at=row["created_at"],
            changed_at=row["changed_at"],
            defined_at=row["defined_at"],
            is_used=row["is_used"],
            is_reported=row["is_reported"],
        )
        for row in await conn.fetch(queries.meters_read)
    ]
    by_type: dict[str, tuple[Meter, ...]] = {}
    for meter in meters:
        by_type[meter.event_type] = (*by_type.get(meter.event_type, ()), meter)
    cards = [read_card(row) for row in await conn.fetch(queries.rate_cards_read)]
    return Catalog(
        version,
        {meter.key: meter for meter in meters},
        {meter.meter_no: meter for meter in meters},
        by_type,
        {meter.meter_no for meter in meters if meter.is_used},
        _by_effect(cards),
        {card.card: card for card in cards},
    )


def read_card(row: Record) -> RateCard:
    """A version of a rate card from its row."""
    rates = read_rates(row["rates"])
    return RateCard(
        card=CardVersion(row["rate_card"], row["version"]),
        asset=row["asset"],
        effective_at=row["effective_at"],
        created_at=row["created_at"],
        rates=rates,
        by_meter=compile_rates(rates),
    )


def _by_effect(cards: list[RateCard]) -> dict[str, tuple[RateCard, ...]]:
    ordered: dict[str, tuple[RateCard, ...]] = {}
    for card in sorted(cards, key=lambda card: (card.effective_at, card.card.version)):
        key = card.card.rate_card
        ordered[key] = (*ordered.get(key, ()), card)
    return ordered


async def hold(conn: Connection, *, known: int) -> None:
    """Keep the catalog as it is until the transaction ends. Raises CatalogChanged if not `known`.

    Shared: many hold it at once. Whoever changes the catalog waits for them.
    """
    await conn.execute(queries.catalog_hold)
    if await conn.fetchval(queries.catalog_version) != known:
        raise CatalogChanged


async def alone(conn: Connection) -> None:
    """Nobody else holds the catalog until the transaction ends: no event is taken in meanwhile."""
    await conn.execute(queries.catalog_change_lock)


async def change(conn: Connection) -> None:
    """Begin a change of the catalog: alone until the transaction ends, and a new version."""
    await alone(conn)
    await conn.execute(queries.catalog_change)
