"""Proofs: every invariant of the books as a statement of its own, in one snapshot.

A statement gives the rows that break its invariant, so a clean database gives none. Nothing here
locks or writes: it runs beside the service. The statements and their comments (`proofs.sql`) say
what each check means.
"""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from asyncpg import Record
from msgspec import Struct

from ledger.amounts import format_amount
from ledger.outcome import REMEMBERED
from sql import queries
from sql.pool import Connection

FAILURES_MAX: Final = 100
"""Failures told of one check: more of them say no more."""
SECONDS_MAX: Final = 3_600
"""For one check: seconds on a million transfers, so an hour is enough for hundreds of them."""


class Check(Struct, frozen=True):
    """One invariant. `title` completes "proved: …"; `statement` finds where it is broken."""

    name: str
    title: str
    statement: str
    args: tuple[object, ...] = ()


class Failure(Struct, frozen=True):
    """One place where an invariant is broken.

    `customer_no` 0 and no `customer_id`: it is the business's own. `what` is a sentence; amounts in
    it are plain decimals of the asset.
    """

    check: str
    customer_no: int
    customer_id: str | None
    what: str


CHECKS: Final = (
    Check("balance", "debits equal credits", queries.proof_balance),
    Check("counters", "account counters equal their transfers", queries.proof_counters),
    Check("opened", "every asset in use has its accounts", queries.proof_opened),
    Check("floors", "no balance is below its floor", queries.proof_floors),
    Check("wallet", "wallet and upcoming equal the lots", queries.proof_wallet),
    Check("lots", "each lot equals its transfers", queries.proof_lots),
    Check("pending", "pending equals the pins of open holds and freezes", queries.proof_pending),
    Check("pins", "each lot is pinned by open holds and freezes only", queries.proof_pins),
    Check("holds", "each hold equals its charges and pins", queries.proof_holds),
    Check("uncovered", "uncovered equals that of open holds", queries.proof_uncovered),
    Check("owed", "owed equals the open debts", queries.proof_owed),
    Check("billed", "billed usage is known by its own time", queries.proof_billed),
    Check("debts", "each debt equals its transfers", queries.proof_debts),
    Check("reversals", "reversed equals the reversals", queries.proof_reversals),
    Check("sequence", "journals are numbered and dated in order", queries.proof_sequence),
    Check("links", "each journal holds the hash of the one before", queries.proof_links),
    Check("journals", "journals and transfers belong together", queries.proof_journals),
    Check("lines", "charge lines come to what was charged and given back", queries.proof_lines),
    Check("tiers", "what a price depends on is what was charged", queries.proof_tiers),
    Check("charged", "what is to be charged is charged once, or waits", queries.proof_charged),
    Check("references", "what is named exists", queries.proof_references),
    Check("grants", "each lot belongs to its grant", queries.proof_grants),
    Check("purchases", "each purchase was credited as expected, once", queries.proof_purchases),
    Check(
        "clawbacks", "what has come back of each bought lot is its share", queries.proof_clawbacks
    ),
    Check("money", "the money of each purchase equals its journals", queries.proof_money),
    Check("recognised", "the cost of each paid lot is accounted for", queries.proof_recognised),
    Check("deferred", "deferred revenue is that of the lots", queries.proof_deferred),
    Check("periods", "closed months say what their journals do", queries.proof_periods),
    Check("due", "nothing falls due before it is expected", queries.proof_due),
    Check(
        "requests",
        "only final answers are remembered",
        queries.proof_requests,
        (sorted(REMEMBERED),),
    ),
    Check("customers", "customers, directory and numbers agree", queries.proof_customers),
    Check("identities", "events and their identities agree", queries.proof_identities),
    Check("corrections", "corrections follow each other", queries.proof_corrections),
    Check("rollups", "rollups count the events that there are", queries.proof_rollups),
    Check("values", "distinct values count the events of rollups", queries.proof_values),
    Check("unrated", "what is to be priced is there", queries.proof_unrated),
)
CHAIN_CHECKS: Final = (
    Check("hashes", "each hash is that of its journal's rows", queries.proof_hashes),
    Check("heads", "chains go on from where months were closed", queries.proof_heads),
    Check("notes", "texts are those that were hashed", queries.proof_notes),
)

Told = Callable[[Check, list[Failure]], None]


async def prove(
    conn: Connection, *, chain: bool = False, told: Told | None = None
) -> list[Failure]:
    """Every place where an invariant of the books is broken; empty if they hold.

    Opens one read-only snapshot for all checks. Inside a transaction of the caller it runs there
    instead, as that sees the books and with its settings. With `chain` every hash is made anew from
    the stored rows too. Of one check at most FAILURES_MAX are told. `told` hears of each check as
    it ends.
    """
    failures: list[Failure] = []
    async with _snapshot(conn):
        rows = await conn.fetch(queries.proofs_scales, timeout=SECONDS_MAX)
        scales: dict[str, int] = {row["asset"]: row["scale"] for row in rows}
        for check in (*CHECKS, *(CHAIN_CHECKS if chain else ())):
            found = await _run(conn, check, scales)
            failures += found
            if told is not None:
                told(check, found)
    return failures


@asynccontextmanager
async def _snapshot(conn: Connection) -> AsyncGenerator[None]:
    if conn.is_in_transaction():
        yield
        return
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        await conn.execute(queries.proofs_settings, f"{SECONDS_MAX}s")
        yield


async def _run(conn: Connection, check: Check, scales: dict[str, int]) -> list[Failure]:
    args = (FAILURES_MAX, *check.args)
    rows = await conn.fetch(check.statement, *args, timeout=SECONDS_MAX)
    names = await _names(conn, {row["customer_no"] for row in rows})
    return [Failure(check.name, row[0], names.get(row[0]), _sentence(row, scales)) for row in rows]


async def _names(conn: Connection, customer_nos: Iterable[int]) -> dict[int, str]:
    numbers = list(customer_nos)
    if not numbers:
        return {}
    rows = await conn.fetch(queries.proofs_names, numbers, timeout=SECONDS_MAX)
    return {row["customer_no"]: row["customer_id"] for row in rows}


def _sentence(row: Record, scales: dict[str, int]) -> str:
    what: str = row["what"]
    numbers: tuple[Any, Any] = (row["expected"], row["found"])
    if None in numbers:
        return what
    asset: str = row["asset"]
    scale = scales.get(asset, 0)
    expected, found = map(int, numbers)
    return (
        f"{what}: expected {format_amount(expected, scale)}, found {format_amount(found, scale)}, "
        f"difference {format_amount(found - expected, scale)} {asset}"
    )
