"""The directory: our number of each of the callers' customer ids, remembered for ever.

Ids that are asked for while the database answers are looked up together: any number of callers with
ids that this process does not know yet take one connection, and leave the others to the hot path.
"""

import asyncio
from contextlib import suppress
from itertools import islice
from typing import Final

from msgspec import Struct

from ledger import customers
from sql.pool import Pool, transaction

KNOWN_MAX: Final = 200_000
"""How many numbers a process remembers (the mapping never changes)."""
TOGETHER_MAX: Final = 1_000
"""Ids in one look-up."""


class _Wanted(Struct, eq=False):
    number: asyncio.Future[int | None]
    makes: bool
    """Whether somebody who asks may create the customer."""


class Directory:
    """Finds customers, and creates those that may be. One per process; `close` it at the end."""

    def __init__(self, pool: Pool, *, signup_due: bool) -> None:
        """`signup_due`: customers that are made here get the sign-up grant."""
        self._pool, self._signup_due = pool, signup_due
        self._known: dict[str, int] = {}
        self._wanted: dict[str, _Wanted] = {}
        self._finder: asyncio.Task[None] | None = None

    def known(self, customer_id: str) -> int | None:
        """The number, if it was asked for before."""
        return self._known.get(customer_id)

    async def find(self, customer_id: str, *, makes: bool) -> int | None:
        """The number; None for an unknown customer, who is created if `makes`.

        Raises DatabaseFault.
        """
        wanted = self._wanted.get(customer_id)
        if wanted is None:
            wanted = _Wanted(asyncio.get_running_loop().create_future(), makes)
            self._wanted[customer_id] = wanted
            if self._finder is None or self._finder.done():
                self._finder = asyncio.create_task(self._find_wanted())
        wanted.makes = wanted.makes or makes
        # One caller that goes away must not take the others' answer along.
        return await asyncio.shield(wanted.number)

    async def make(self, customer_id: str) -> tuple[int, bool]:
        """Create a customer unless it exists: its number, and whether it is new.

        Raises DatabaseFault.
        """
        async with transaction(self._pool) as conn:
            made = await customers.make(conn, [customer_id], signup_due=self._signup_due)
            # Made by another: committed before the first statement could go on.
            found = made or await customers.find(conn, [customer_id])
        self._remember(found)
        return found[customer_id], bool(made)

    async def close(self) -> None:
        """Stop. Nobody waits any more."""
        if self._finder is not None:
            self._finder.cancel()
            with suppress(asyncio.CancelledError):
                await self._finder

    def _remember(self, found: dict[str, int]) -> None:
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known.update(found)

    async def _find_wanted(self) -> None:
        while self._wanted:
            asked = dict(islice(self._wanted.items(), TOGETHER_MAX))
            # Who asks for the same from now on may have seen a newer state: it is asked again.
            for customer_id in asked:
                del self._wanted[customer_id]
            try:
                found = await self._look_up(asked)
            except Exception as error:
                for wanted in asked.values():
                    wanted.number.set_exception(error)
                    wanted.number.exception()  # told to whoever still waits
            else:
                self._remember(found)
                for customer_id, wanted in asked.items():
                    wanted.number.set_result(found.get(customer_id))

    async def _look_up(self, asked: dict[str, _Wanted]) -> dict[str, int]:
        async with transaction(self._pool) as conn:
            found = await customers.find(conn, list(asked))
            missing = [one for one, wanted in asked.items() if wanted.makes and one not in found]
            if missing:
                found |= await customers.make(conn, missing, signup_due=self._signup_due)
                if late := [one for one in missing if one not in found]:
                    found |= await customers.find(conn, late)
        return found
