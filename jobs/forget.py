"""The jobs `forget_refusals` and `forget_guards`: delete what is kept for a while only.

Refusals under an idempotency key are promised for 30 days. Tokens that have ended, old runs of jobs
and deliveries of Stripe serve nobody any more. An event's identity is known for as long as the same
event may come again. Nothing of the books is ever deleted.
"""

from datetime import timedelta
from typing import Final

from jobs.runner import Counts, Run
from meter.corrections import GUARDS_KEPT
from sql import queries

REFUSALS_KEPT: Final = timedelta(days=30)
TOKENS_KEPT: Final = timedelta(days=30)
"""After their end: until then the answer is that the token has expired, not that it is unknown."""
RUNS_KEPT: Final = timedelta(days=7)
DELIVERIES_KEPT: Final = timedelta(days=90)
"""Stripe's, with names and addresses of payers: what was booked of them stays."""
ROWS_MAX: Final = 1_000
"""In one transaction: some milliseconds, so that nobody waits for it."""
GUARDS_MAX: Final = 10_000
"""Of identities, which are narrow, in one transaction."""
ROUNDS_MAX: Final = 10_000
"""Of each kind in one run: more than a day can bring."""


async def forget_refusals(run: Run) -> Counts:
    """Delete in batches until nothing is left that is too old, or the process stops."""
    return {
        "refusals": await _forget(run, queries.refusals_forget, REFUSALS_KEPT),
        "tokens": await _forget(run, queries.tokens_forget, TOKENS_KEPT),
        "runs": await _forget(run, queries.runs_forget, RUNS_KEPT),
        "deliveries": await _forget(run, queries.stripe_events_forget, DELIVERIES_KEPT),
    }


async def forget_guards(run: Run) -> Counts:
    """Delete identities of events in batches, as `forget_refusals` does."""
    return {"guards": await _forget(run, queries.event_guards_forget, GUARDS_KEPT, GUARDS_MAX)}


async def _forget(run: Run, statement: str, kept: timedelta, rows_max: int = ROWS_MAX) -> int:
    forgotten = 0
    for _ in range(ROUNDS_MAX):
        if run.stopping.is_set():
            break
        async with run.transaction() as conn:
            status = await conn.execute(statement, kept, rows_max)
        count = int(status.rpartition(" ")[2])
        forgotten += count
        if count < rows_max:
            break
    return forgotten
