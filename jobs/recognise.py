"""The job `recognise`: revenue from burned and breakage from expired paid credits, once a day.

It posts what is not recognised yet, whenever that was. So a run that is missed, doubled or killed
changes nothing but when a journal is made: its book day is that of the credits.
"""

from jobs.runner import Counts, Run
from meter.recognition import recognise_all


async def recognise(run: Run) -> Counts:
    """Post what is to be recognised of every customer, a few customers a transaction."""
    return await recognise_all(run.service, run.transaction, run.stopping)
