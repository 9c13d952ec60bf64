"""Leases: one run of a job at a time in all processes, and no writes by a run that has lost it.

A lease is a row with an end in real database time and a fence: a number that grows with every run.
A process that was paused past its lease may wake up and go on, while another already runs: whatever
a run writes it writes in a transaction that first holds on to its fence (`hold`), and that fails.
"""

from datetime import timedelta
from typing import Final

from msgspec import Struct

from sql import queries
from sql.pool import Connection

LEASE: Final = timedelta(seconds=15)
"""How long a job stands still if its process dies. Renewed three times in that time."""


class LeaseHeld(Exception):
    """Another run of this job is under way."""

    def __init__(self, job: str, holder: str | None) -> None:
        super().__init__(f"{job} is being run by {holder or 'another process'}")


class LeaseLost(Exception):
    """The lease went to another run: this one must not write any more."""

    def __init__(self, job: str) -> None:
        super().__init__(f"the lease of {job} went to another run")


class Lease(Struct, frozen=True):
    """The right to one run of `job`."""

    job: str
    fence: int


async def take(
    conn: Connection, job: str, holder: str, *, apart: timedelta | None = None
) -> Lease | None:
    """The lease of `job`, or None: another run holds it, or one began less than `apart` ago."""
    fence = await conn.fetchval(queries.lease_take, job, holder, LEASE, apart)
    return None if fence is None else Lease(job, fence)


async def holder(conn: Connection, job: str) -> str | None:
    """Who holds the lease of `job` now."""
    return await conn.fetchval(queries.lease_holder, job)


async def renew(conn: Connection, lease: Lease) -> None:
    """Have the lease for its whole time again. Raises LeaseLost."""
    if await conn.fetchval(queries.lease_renew, lease.job, lease.fence, LEASE) is None:
        raise LeaseLost(lease.job)


async def hold(conn: Connection, lease: Lease) -> None:
    """Keep the lease until the open transaction of `conn` ends. Raises LeaseLost."""
    if await conn.fetchval(queries.lease_check, lease.job, lease.fence) is None:
        raise LeaseLost(lease.job)


async def release(conn: Connection, lease: Lease) -> None:
    """Let the next run begin. Nothing happens if the lease is lost already."""
    await conn.execute(queries.lease_release, lease.job, lease.fence)
