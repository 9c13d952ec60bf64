"""The job `rate_usage`: charges events that are not charged yet, and windows that have closed.

Through the batcher, like everybody else: the books decide under the customer's lock, and a fact
that is charged already is left alone. So what is asked twice, or done and not noted, does no harm.
"""

from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Final

import msgspec
from msgspec import Struct

from jobs.runner import Counts, Run, together
from ledger.requests import ChargeEvents, ChargeWindows, EventRef
from ledger.usage_events import EventsCharged, WindowCharged, WindowsCharged
from sql import queries
from sql.pool import transaction

EVENTS_MAX: Final = 2_000
"""Read at a time, over all customers."""
TOGETHER_MAX: Final = 100
"""Events of one customer in one request: some milliseconds under its lock."""
WINDOWS_MAX: Final = 1_000
ROUNDS_MAX: Final = 500
LATER: Final = timedelta(minutes=5)
"""When what has no price is tried again: somebody may have published one."""
DONE: Final = frozenset({"charged", "known"})

_events = msgspec.json.Decoder(EventsCharged).decode
_windows = msgspec.json.Decoder(WindowsCharged).decode


class Window(Struct, frozen=True):
    """One row of `unrated_windows`."""

    customer_no: int
    meter_no: int
    grain: datetime
    version: int


async def rate_usage(run: Run) -> Counts:
    """Charge in bounded rounds until nothing is left that can be charged."""
    events = await _rate(run, _rate_events)
    windows = await _rate(run, _rate_windows)
    return {
        "events": events["charged"],
        "unpriced_events": events["unpriced"],
        "windows": windows["charged"],
        "unpriced_windows": windows["unpriced"],
    }


async def _rate(run: Run, one_round: Any) -> dict[str, int]:
    counts = {"charged": 0, "unpriced": 0}
    for _ in range(ROUNDS_MAX):
        if run.stopping.is_set() or not await one_round(run, counts):
            break
    return counts


# Events


async def _rate_events(run: Run, counts: dict[str, int]) -> bool:
    """Charge the next events that are due; False if there are none."""
    async with transaction(run.service.pool) as conn:
        rows = await conn.fetch(queries.unrated_events_due, EVENTS_MAX)
    if not rows:
        return False
    catalog = run.service.catalog
    if any(row["meter_no"] not in catalog.by_no for row in rows):
        await run.service.refresh()
        catalog = run.service.catalog
    await together(
        _charge_events(run, customer_no, list(mine), counts)
        for customer_no, mine in groupby(rows, key=lambda row: row["customer_no"])
    )
    return True


async def _charge_events(
    run: Run, customer_no: int, rows: list[Any], counts: dict[str, int]
) -> None:
    """Charge events of one customer, the earliest first, and note what became of them."""
    by_no = run.service.catalog.by_no
    rows.sort(key=lambda row: row["time"])
    for first in range(0, len(rows), TOGETHER_MAX):
        some = rows[first : first + TOGETHER_MAX]
        result = await run.service.batcher.submit(
            ChargeEvents(
                customer_no=customer_no,
                operation="charge_events",
                request_id="rate_usage",
                events=tuple(
                    EventRef(
                        by_no[row["meter_no"]].key,
                        row["meter_no"],
                        row["source"],
                        row["id"],
                        row["time"],
                    )
                    for row in some
                ),
            )
        )
        # The service is busy, or something is wrong with just these: the others go on.
        failed = result.code is not None
        results = [result.code or ""] * len(some) if failed else _events(result.body).results
        done = [row for row, what in zip(some, results, strict=True) if what in DONE]
        open_ = [(row, what) for row, what in zip(some, results, strict=True) if what not in DONE]
        counts["charged"] += results.count("charged")
        counts["unpriced"] += len(open_)
        async with run.transaction() as conn:
            if done:
                await conn.execute(queries.unrated_events_done, *_keys(done))
            if open_:
                await conn.execute(
                    queries.unrated_events_later,
                    *_keys([row for row, _ in open_]),
                    [what for _, what in open_],
                    LATER,
                )


def _keys(rows: list[Any]) -> tuple[list[Any], ...]:
    return tuple(
        [row[name] for row in rows] for name in ("customer_no", "meter_no", "source", "id")
    )


# Windows


async def _rate_windows(run: Run, counts: dict[str, int]) -> bool:
    """Charge the next windows that may have closed; False if there are none."""
    async with transaction(run.service.pool) as conn:
        rows = await conn.fetch(queries.unrated_windows_due, WINDOWS_MAX)
        ready_by = await conn.fetchval(queries.clock_read) - run.service.config.late_grace
    if not rows:
        return False
    windows = [Window(*row) for row in rows]
    await together(
        _charge_windows(run, list(mine), ready_by, counts)
        for _, mine in groupby(windows, key=lambda one: (one.customer_no, one.meter_no))
    )
    return True


async def _charge_windows(
    run: Run, rows: list[Window], ready_by: datetime, counts: dict[str, int]
) -> None:
    """Charge the windows of one meter of a customer; rows of one window are one charge."""
    left = sorted(rows, key=lambda row: row.grain)
    while left:
        first = left[0]
        result = await run.service.batcher.submit(
            ChargeWindows(
                customer_no=first.customer_no,
                operation="charge_windows",
                request_id="rate_usage",
                windows=((first.meter_no, first.grain),),
                ready_by=ready_by,
            )
        )
        found = WindowCharged(result.code or "")
        if result.code is None:
            found = _windows(result.body).results[0]
        end = found.end
        mine = [row for row in left if end is None or row.grain < end]
        left = [] if end is None else [row for row in left if row.grain >= end]
        counts["charged"] += found.result == "charged"
        counts["unpriced"] += found.result not in {*DONE, "open"}
        async with run.transaction() as conn:
            if found.result in DONE:
                await conn.execute(queries.unrated_windows_done, *_window_keys(mine))
                continue
            until = None
            if found.result == "open" and end is not None:
                until = end + run.service.config.late_grace
            await conn.execute(
                queries.unrated_windows_later, *_window_keys(mine), found.result, until, LATER
            )


def _window_keys(rows: list[Window]) -> tuple[list[Any], ...]:
    return (
        [row.customer_no for row in rows],
        [row.meter_no for row in rows],
        [row.grain for row in rows],
        [row.version for row in rows],
    )
