"""Publishing a version of a rate card: what is checked before it is written."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from meter.catalog import PER_EVENT, Catalog, Meter, read_card
from meter.problems import ProblemError
from meter.rate_cards import (
    MeterOfRate,
    RateBody,
    RateCard,
    compile_rates,
    rates_json,
)
from sql import queries
from sql.pool import Connection


def meters_of_rates(meters: Mapping[str, Meter]) -> dict[str, MeterOfRate]:
    """What publishing checks rates against."""
    return {
        key: MeterOfRate(
            frozenset(meter.group_by), meter.aggregation in PER_EVENT, meter.charge != "none"
        )
        for key, meter in meters.items()
    }


async def check_version(
    conn: Connection, known: Catalog, effective_at: datetime | None, rates: Sequence[RateBody]
) -> None:
    """Raise ProblemError 422 where these rates can't be published to take effect then."""
    compile_rates(rates, meters_of_rates(known.meters))
    now: datetime = await conn.fetchval(queries.clock_read)
    if effective_at is not None and effective_at < now:
        raise ProblemError(
            422,
            "invalid_effective_at",
            f"A version takes effect now or later (the service's time is {now.isoformat()}).",
            pointer="/effective_at",
        )


async def publish_version(
    conn: Connection,
    known: Catalog,
    key: str,
    asset: str,
    effective_at: datetime | None,
    rates: Sequence[RateBody],
) -> RateCard:
    """Write the next version of a rate card; the caller has begun a change of the catalog.

    `effective_at` None: now. The caller has checked key and asset. Raises ProblemError 422.
    """
    await check_version(conn, known, effective_at, rates)
    row = await conn.fetchrow(
        queries.rate_card_publish, key, asset, effective_at, rates_json(rates)
    )
    assert row is not None
    return read_card(row)
