"""The job `prove_books`: what `drawdown verify` proves, once a day, so that nobody has to ask.

A book that is not proved is never put right by a program: it is counted, logged, and the run fails.
"""

from typing import Final

import structlog

from jobs.runner import Counts, Run
from ledger.proofs import CHECKS, prove

LOGGED_MAX: Final = 20
"""Broken places in the log; `drawdown verify` tells them all."""

log = structlog.get_logger()


async def prove_books(run: Run) -> Counts:
    """Prove every invariant but the chain, in one snapshot; RuntimeError if one is broken."""
    async with run.service.pool.acquire() as conn:
        failures = await prove(conn)
    run.service.metrics.invariants_failed(len(failures))
    for failure in failures[:LOGGED_MAX]:
        log.error(
            "invariant_broken",
            check=failure.check,
            customer_no=failure.customer_no,
            what=failure.what,
        )
    if failures:
        checks = ", ".join(sorted({failure.check for failure in failures}))
        raise RuntimeError(f"the books are NOT proved ({checks}): run `drawdown verify`")
    return {"checks": len(CHECKS)}
