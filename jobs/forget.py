"""The job `forget_refusals`: deletes what is kept for a while only.

Refusals under an idempotency key are promised for 30 days. Tokens that have ended and old runs of
jobs serve nobody. Nothing of the books is ever deleted.
"""

from datetime import timedelta
from typing import Final

from jobs.runner import Counts, Run
from sql import queries

REFUSALS_KEPT: Final = timedelta(days=30)
TOKENS_KEPT: Final = timedelta(days=30)
"""After their end: until then the answer is that the token has expired, not that it is unknown."""
RUNS_KEPT: Final = timedelta(days=7)
ROWS_MAX: Final = 1_000
"""In one transaction: some milliseconds, so that nobody waits for it."""
ROUNDS_MAX: Final = 10_000
"""Of each kind in one run: more than a day can bring."""


async def forget_refusals(run: Run) -> Counts:
    """Delete in batches until nothing is left that is too old, or the process stops."""
    return {
        "refusals": await _forget(run, queries.refusals_forget, REFUSALS_KEPT),
        "tokens": await _forget(run, queries.tokens_forget, TOKENS_KEPT),
        "runs": await _forget(run, queries.runs_forget, RUNS_KEPT),
    }


async def _forget(run: Run, statement: str, kept: timedelta) -> int:
    forgotten = 0
    for _ in range(ROUNDS_MAX):
        if run.stopping.is_set():
            break
        async with run.transaction() as conn:
            status = await conn.execute(statement, kept, ROWS_MAX)
        count = int(status.rpartition(" ")[2])
        forgotten += count
        if count < ROWS_MAX:
            break
    return forgotten
