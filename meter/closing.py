"""Closing a month: the steps in order, each in transactions of its own."""

import asyncio
from typing import Final

from ledger import periods
from ledger.periods import Period, PeriodRefused
from ledger.proofs import Failure, prove
from meter.problems import ProblemError
from meter.recognition import recognise_all
from meter.service import Service
from sql.pool import transaction

WAIT_SECONDS_MAX: Final = 30.0
"""For transactions that began before the month was closed to new facts. Ours take moments."""
WAIT_STEP_SECONDS: Final = 0.05
TOLD_MAX: Final = 5
"""Failures told in a refusal; `drawdown verify` tells them all."""
STATUSES: Final = {"period_not_found": 404}


async def close(service: Service, period: str, *, reason: str | None) -> Period:
    """Close a month; `reason`: also if something is not proved. Closed before: as it is.

    Begun and cut off, or refused half-way, it goes on where it was. Raises ProblemError.
    """
    known = await _known(service, period)
    if known is None:
        # What time has done belongs to its own month, so it is posted while that is open.
        await service.settle_due()
        _check(await _prove(service), reason)
        await service.retried(lambda: _begin(service, period))
    elif known.closed_at is not None:
        return await _read(service, period)
    await _drain(service)
    await recognise_all(service, lambda: transaction(service.pool))
    failures = await _prove(service)
    _check(failures, reason)
    await service.retried(lambda: _summarise(service, period, reason, len(failures)))
    return await _read(service, period)


async def _known(service: Service, period: str) -> Period | None:
    try:
        async with transaction(service.pool) as conn:
            return await periods.check(conn, period)
    except PeriodRefused as refused:
        status = STATUSES.get(refused.code, 409)
        raise ProblemError(status, refused.code, refused.detail) from refused


async def _begin(service: Service, period: str) -> None:
    async with transaction(service.pool) as conn:
        if await periods.check(conn, period) is None:
            await periods.begin(conn, period)


async def _drain(service: Service) -> None:
    """Wait until no transaction is left that may have read that the month was open."""
    async with transaction(service.pool) as conn:
        barrier = await periods.barrier(conn)
    deadline = asyncio.get_running_loop().time() + WAIT_SECONDS_MAX
    while True:
        async with transaction(service.pool) as conn:
            if await periods.has_passed(conn, barrier):
                return
        if asyncio.get_running_loop().time() > deadline:
            raise ProblemError(
                503,
                "busy",
                "A transaction on this database server that began earlier has not ended. Nothing "
                "is lost: send the same request again.",
            )
        await asyncio.sleep(WAIT_STEP_SECONDS)


async def _prove(service: Service) -> list[Failure]:
    async with service.pool.acquire() as conn:
        return await prove(conn)


def _check(failures: list[Failure], reason: str | None) -> None:
    if failures and reason is None:
        told = "; ".join(f"{failure.check}: {failure.what}" for failure in failures[:TOLD_MAX])
        raise ProblemError(
            409,
            "books_not_proved",
            f"{len(failures)} places of the books are not proved: {told}. Run `drawdown verify`; "
            "to close all the same, send force and a reason.",
        )


async def _summarise(service: Service, period: str, reason: str | None, failures: int) -> None:
    async with transaction(service.pool) as conn:
        done = await periods.summarise(conn, period, reason=reason, failures=failures)
    if not done:
        raise ProblemError(
            503, "busy", "Something of the month is not recognised yet: send the request again."
        )


async def _read(service: Service, period: str) -> Period:
    async with transaction(service.pool) as conn:
        found = await periods.read(conn, period)
    assert found is not None, "it was begun"
    return found
