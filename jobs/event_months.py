"""The job `event_partitions`: makes months of raw events ahead, drops those past their retention.

Intake makes a month that it lacks by itself; made ahead, nobody waits for it. A month is dropped
only when nothing of it is still to be priced: what it counted stays in the rollups.
"""

import structlog

from jobs.runner import Counts, Run
from sql import queries
from sql.errors import DatabaseBusy

log = structlog.get_logger()


async def event_partitions(run: Run) -> Counts:
    """Make and drop months. One that can't be dropped now is tried again at the next run."""
    async with run.transaction() as conn:
        made: int = await conn.fetchval(queries.event_months_ahead)
        retention = run.service.config.event_retention
        old = [row["month"] for row in await conn.fetch(queries.event_months_old, retention)]
    dropped = 0
    for month in old:
        if run.stopping.is_set():
            break
        try:
            async with run.transaction() as conn:
                await conn.execute(queries.event_month_lock_time)
                is_dropped: bool = await conn.fetchval(queries.event_month_drop, month)
        except DatabaseBusy:
            is_dropped = False
        if not is_dropped:
            log.warning("event_month_kept", month=str(month))
        dropped += is_dropped
    return {"months made": made, "months dropped": dropped}
