"""Erasing the personal fields of one customer, while the books stay provable.

What names or describes a person goes: name, e-mail, free texts and objects, what Stripe was sent
and told, card fingerprints, and of usage events all that no meter reads. What was given, used, paid
and owed stays, with dates, ids and the dimensions that it was priced by. The chain of journals
holds digests of the texts and proves without them.

The profile goes in one transaction with the question whether it may; the rest in short
transactions of some thousand rows. A run that died is run again and goes on.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec
from asyncpg import Record
from msgspec import Struct

from ledger import load
from meter import catalog
from meter.catalog import Catalog
from meter.events import decode_data, definition_of
from meter.json_body import canonical
from meter.problems import ProblemError
from meter.readings import paths_of
from meter.service import Service, customer_missing
from sql import queries
from sql.pool import Connection, transaction

ROWS_MAX: Final = 2_000
"""In one transaction: some tens of milliseconds."""
BLOCKERS: Final[Mapping[str, str]] = {
    "is_open": "it is not closed (close it first)",
    "has_holds": "it has open holds (capture or void them)",
    "has_subscription": "it has a live subscription (cancel it)",
    "has_calls": "Stripe is still to be asked for something, such as a refund (wait for it)",
    "has_top_up": "an automatic top-up is under way (wait for it)",
}
"""What stands in the way, and what to do about it."""
_TEXTS: Final = frozenset({"reference", "reason"})
_BEGINNING: Final = datetime(1, 1, 1, tzinfo=UTC)

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Erased(Struct, frozen=True):
    """The personal fields of a customer are gone."""

    customer_id: str
    erased_at: datetime
    """When that was first asked for."""
    stripe_customer_id: str | None
    """Who it was at Stripe, where it is yours to delete; null: it was not there, or is forgotten
    already."""


async def erase(service: Service, customer_no: int, customer_id: str) -> Erased:
    """Erase; again, it finds what is new since. Raises ProblemError 409 `customer_in_use`."""

    async with transaction(service.pool, snapshot=True) as conn:
        names: list[str] = (await _looked_at(conn, customer_no))["names_at_stripe"]
    # While it is known who it is at Stripe: the profile will not tell any more.
    await _all_pages(service, partial(_erase_deliveries, names=names), customer_no, ("",))

    async def begin() -> Erased:
        async with transaction(service.pool) as conn:
            return await _erase_profile(conn, customer_no, customer_id)

    erased = await service.retried(begin)
    service.keys.forget()
    for step in (_erase_holds, _erase_notes):
        while await _in_transaction(service, step, customer_no) == ROWS_MAX:
            pass
    await _all_pages(service, _erase_answers, customer_no, ("",))
    await _all_pages(service, _erase_events, customer_no, (_BEGINNING, "", ""))
    await _all_pages(service, _erase_corrections, customer_no, ("",))
    return erased


async def _erase_profile(conn: Connection, customer_no: int, customer_id: str) -> Erased:
    """What is one row, or some few: asked and done under the customer's lock."""
    await load.lock(conn, [customer_no], wait=True)
    at_stripe: str | None = (await _looked_at(conn, customer_no))["stripe_customer_id"]
    for statement in (queries.keys_erase, queries.cards_erase, queries.stripe_calls_erase):
        await conn.execute(statement, customer_no)
    erased_at = await conn.fetchval(queries.profile_erase, customer_no)
    return Erased(customer_id, erased_at, at_stripe)


async def _looked_at(conn: Connection, customer_no: int) -> Record:
    """What has to be known of the customer. Raises ProblemError if it may not be erased yet."""
    row = await conn.fetchrow(queries.erase_blockers, customer_no)
    if row is None:
        raise customer_missing()
    if found := [words for name, words in BLOCKERS.items() if row[name]]:
        raise ProblemError(
            409, "customer_in_use", f"Not yet: {'; '.join(found)}. Nothing was erased."
        )
    return row


async def _in_transaction(
    service: Service, step: Callable[[Connection, int], Awaitable[int]], customer_no: int
) -> int:
    async def work() -> int:
        async with transaction(service.pool) as conn:
            return await step(conn, customer_no)

    return await service.retried(work)


async def _erase_holds(conn: Connection, customer_no: int) -> int:
    status = await conn.execute(queries.holds_erase, customer_no, ROWS_MAX)
    return int(status.rpartition(" ")[2])


async def _erase_notes(conn: Connection, customer_no: int) -> int:
    status = await conn.execute(queries.notes_erase, customer_no, ROWS_MAX)
    return int(status.rpartition(" ")[2])


Place = tuple[Any, ...]
"""Up to where rows were looked at."""
Page = Callable[[Service, Connection, int, Place], Awaitable[Place | None]]


async def _all_pages(service: Service, page: Page, customer_no: int, start: Place) -> None:
    """Page by page, each in its own transaction, under the customer's lock."""
    place: Place | None = start
    while place is not None:
        after = place

        async def work(after: Place = after) -> Place | None:
            async with transaction(service.pool) as conn:
                await load.lock(conn, [customer_no], wait=True)
                return await page(service, conn, customer_no, after)

        place = await service.retried(work)


async def _erase_deliveries(
    _: Service, conn: Connection, customer_no: int, after: Place, *, names: list[str]
) -> Place | None:
    row = await conn.fetchrow(queries.deliveries_page, customer_no, names, *after, ROWS_MAX)
    assert row is not None, "it counts"
    if row["event_ids"]:
        await conn.execute(queries.deliveries_erase, row["event_ids"])
    return (row["last_id"],) if row["looked_at"] == ROWS_MAX else None


async def _erase_answers(
    _: Service, conn: Connection, customer_no: int, after: Place
) -> Place | None:
    rows = await conn.fetch(queries.answers_page, customer_no, *after, ROWS_MAX)
    changed = [(row["key"], _encode(wordless(_decode(row["body"])))) for row in rows]
    changed = [new for new, row in zip(changed, rows, strict=True) if new[1] != row["body"]]
    if changed:
        keys, bodies = zip(*changed, strict=True)
        await conn.execute(queries.answers_put, customer_no, keys, bodies)
    return (rows[-1]["key"],) if len(rows) == ROWS_MAX else None


def wordless(answer: Any) -> Any:
    """An answer as it was, without what the caller had written into it."""
    if isinstance(answer, list):
        return [wordless(one) for one in answer]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(answer, dict):
        return answer
    kept: dict[str, Any] = {}
    for name, value in answer.items():  # pyright: ignore[reportUnknownVariableType]
        if name in _TEXTS:
            kept[name] = None
        elif name == "dimensions":  # it was priced by them
            kept[name] = value
        else:
            kept[name] = {} if name == "metadata" else wordless(value)
    return kept


async def _erase_events(
    _: Service, conn: Connection, customer_no: int, after: Place
) -> Place | None:
    known = await catalog.read(conn)
    rows = await conn.fetch(queries.events_page, customer_no, *after, ROWS_MAX)
    changed = [
        (row["time"], row["source"], row["id"], data)
        for row in rows
        if (data := _less(known, row)) != row["data"] or row["extensions"] is not None
    ]
    if changed:
        await conn.execute(queries.events_put, customer_no, *zip(*changed, strict=True))
    last = rows[-1] if len(rows) == ROWS_MAX else None
    return None if last is None else (last["time"], last["source"], last["id"])


async def _erase_corrections(
    _: Service, conn: Connection, customer_no: int, after: Place
) -> Place | None:
    known = await catalog.read(conn)
    rows = await conn.fetch(queries.corrections_page, customer_no, *after, ROWS_MAX)
    changed = [
        (row["correction_id"], data) for row in rows if (data := _less(known, row)) != row["data"]
    ]
    if changed:
        await conn.execute(queries.corrections_put, customer_no, *zip(*changed, strict=True))
    return (rows[-1]["correction_id"],) if len(rows) == ROWS_MAX else None


def _less(known: Catalog, row: Record) -> str:
    """The data of an event, or of its correction, with what its meters read."""
    meters = known.by_type.get(row["type"], ())
    paths = {path for meter in meters for path in paths_of(definition_of(meter))}
    return canonical(kept_of(decode_data(row["data"]), paths)).decode()


def kept_of(data: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """What of an event's data stands at the paths, found as `meter.paths.getter` finds it. Pure.

    An object or a list that stands at one is left empty: a meter refuses it either way.
    """
    kept: dict[str, Any] = {}
    for path in sorted(paths, key=len):  # an object before what is in it
        if path in data:
            kept[path] = _hollow(data[path])
            continue
        *steps, name = path.split(".")
        found: Any = data
        for step in steps:
            found = found.get(step) if isinstance(found, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        if isinstance(found, dict) and name in found:
            into = kept
            for step in steps:
                into = into.setdefault(step, {})
            into[name] = _hollow(found[name])
    return kept


def _hollow(value: Any) -> Any:
    if isinstance(value, dict):
        return {}
    return [] if isinstance(value, list) else value
