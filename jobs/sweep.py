"""The job `sweep`: posts early what time has done, for customers that nobody asks about.

Every write settles its customer's time first, so the books are right without this job: it only
keeps them from lagging. It writes through the batcher, like everybody else; two sweeps at once
would do no harm.
"""

from jobs.runner import Counts, Run


async def sweep(run: Run) -> Counts:
    """Settle the customers that are due, in bounded rounds."""
    return await run.service.settle_due()
