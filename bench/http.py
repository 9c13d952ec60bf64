"""Through HTTP, closed loop: drawdown against the naive way and against a no-op."""

from bench.gate import Gate
from bench.place import CUSTOMERS, Child, Place, median, wrk

POOLS = (8, 16, 32)
"""Pool sizes tried for the naive way; it is measured with its best."""


async def measure(place: Place, runs: int, seconds: int) -> list[Gate]:
    ours, nothing = Child("drawdown", place.dsn), Child("noop", place.dsn)
    naive = {size: Child("naive", place.dsn, pool_size=size) for size in POOLS}
    try:
        best = max(
            naive,
            key=lambda size: wrk(
                naive[size], place, "reserve", connections=128, seconds=seconds, customers=CUSTOMERS
            ),
        )
        return [
            _against(place, ours, naive[best], runs, seconds, "reserve", CUSTOMERS, 128, 3.0, best),
            _against(place, ours, naive[best], runs, seconds, "consume", 1, 64, 7.0, best),
            _against(place, ours, naive[best], runs, seconds, "consume", 1, 128, 10.0, best),
            _against(place, ours, nothing, runs, seconds, "reserve", CUSTOMERS, 128, 0.35, 0),
            _against(place, ours, naive[best], runs, seconds, "pairs", CUSTOMERS, 128, 3.0, best),
        ]
    finally:
        for child in (ours, nothing, *naive.values()):
            child.stop()


def _against(
    place: Place,
    ours: Child,
    other: Child,
    runs: int,
    seconds: int,
    kind: str,
    customers: int,
    connections: int,
    target: float,
    pool: int,
) -> Gate:
    rates: list[list[float]] = [[], []]
    for _ in range(runs):
        for place_in, child in enumerate((ours, other)):
            rates[place_in].append(
                wrk(
                    child,
                    place,
                    kind,
                    connections=connections,
                    seconds=seconds,
                    customers=customers,
                )
            )
    whom = f"naive (pool {pool})" if pool else "no-op"
    spread = f"{customers:,} customers" if customers > 1 else "one hot customer"
    return Gate(
        f"HTTP {kind}, {spread}, {connections} connections, against {whom}",
        [mine / its for mine, its in zip(*rates, strict=True)],
        at_least=target,
        notes=[f"{median(rates[0]):,.0f}/s against {median(rates[1]):,.0f}/s (medians)"],
    )
