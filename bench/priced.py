"""Usage that prices itself: `consume` with `usage[]` against `consume` with an amount."""

from bench.gate import Gate
from bench.place import CUSTOMERS, Child, Place, median, wrk
from meter import catalog, meters
from meter.publishing import publish_version
from meter.rate_cards import RateBody
from sql.pool import connect

CONNECTIONS = 128
ITEMS = {"priced": "one item", "priced2": "two items"}


async def measure(place: Place, runs: int, seconds: int) -> list[Gate]:
    """In turn on one server: an amount, one item of usage, two items."""
    await _price(place)
    child = Child("drawdown", place.dsn)
    rates: dict[str, list[float]] = {"consume": [], **{kind: [] for kind in ITEMS}}
    try:
        for _ in range(runs):
            for kind, found in rates.items():
                how = {"connections": CONNECTIONS, "seconds": seconds, "customers": CUSTOMERS}
                found.append(wrk(child, place, kind, **how))
    finally:
        child.stop()
    return [
        Gate(
            f"HTTP consume with {words} of usage, {CUSTOMERS:,} customers, {CONNECTIONS} "
            "connections, against an amount",
            [mine / its for mine, its in zip(rates[kind], rates["consume"], strict=True)],
            at_least=0.8,
            notes=[f"{median(rates[kind]):,.0f}/s against {median(rates['consume']):,.0f}/s"],
        )
        for kind, words in ITEMS.items()
    ]


async def _price(place: Place) -> None:
    """Two meters by model, and a rate card with a price for each."""
    conn = await connect(place.dsn)
    for key in ("input", "output"):
        async with conn.transaction():
            wanted = meters.Wanted(
                key=key,
                event_type="request",
                aggregation="sum",
                value_property=f"{key}_tokens",
                group_by={"model": "model"},
                filters=None,
                unit="token",
                charge="calls",
            )
            await meters.put(conn, wanted)
    known = await catalog.read(conn)
    async with conn.transaction():
        await catalog.change(conn)
        rates = [
            RateBody(meter="input", match={"model": "large*"}, unit_price="2.5", per=1_000_000),
            RateBody(meter="output", unit_price="10", per=1_000_000),
        ]
        await publish_version(conn, known, "default", "credits", None, rates)
    await conn.close()
