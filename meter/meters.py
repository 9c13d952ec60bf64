"""Meters: defining them, changing them, and seeing what they could not read."""

import re
from datetime import datetime
from typing import Any, Final

from msgspec import Struct

from meter import genai
from meter.catalog import Aggregation, ChargedBy, Meter, change, read
from meter.events import definition_of
from meter.filters import FilterError, test_of
from meter.json_body import escape, json_text
from meter.paths import PathError, getter
from meter.problems import ProblemError
from meter.readings import BILLABLE, reader_of
from sql import queries
from sql.columns import array_text
from sql.pool import Connection

DIMENSIONS_MAX: Final = 10
FILTER_BYTES_MAX: Final = 8_192
WAITING_MAX: Final = 1_000
"""Events, and windows, of a meter that are counted while they wait to be charged."""
METERS_MAX: Final = 1_000
"""Every process keeps all of them, and every event asks those of its type."""

METER_KEY: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)
_DIMENSION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)


class Wanted(Struct, frozen=True, kw_only=True):
    """A meter as it is asked for."""

    key: str
    event_type: str
    aggregation: Aggregation
    value_property: str | None
    group_by: dict[str, str]
    filters: dict[str, Any] | None
    unit: str | None
    charge: ChargedBy


class Reject(Struct, frozen=True, kw_only=True):
    """An event that one meter could not read."""

    customer_id: str
    source: str
    id: str
    time: datetime
    reason: str
    received_at: datetime


def check(wanted: Wanted) -> None:
    """Raise ProblemError 422 unless a meter can be defined like this."""
    if METER_KEY.fullmatch(wanted.key) is None:
        raise _bad("", "A meter's key is 1-64 of a-z, 0-9, `_`, `-` and `.`.")
    for name, text in (("event_type", wanted.event_type), ("unit", wanted.unit)):
        if text is not None and (not text.strip() or not text.isprintable()):
            raise _bad(f"/{name}", f"{name} must not be blank or hold control characters.")
    if (wanted.aggregation == "count") != (wanted.value_property is None):
        is_count = wanted.aggregation == "count"
        words = "count counts events: leave it out" if is_count else "say where the value stands"
        raise _bad("/value_property", f"value_property: {words}.")
    _check_paths(wanted)
    if wanted.filters is not None:
        if len(json_text(wanted.filters).encode()) > FILTER_BYTES_MAX:
            raise _bad("/filters", f"filters have more than {FILTER_BYTES_MAX} bytes.")
        try:
            test_of(wanted.filters)
        except FilterError as error:
            raise _bad(f"/filters{error.pointer}", f"{error}.") from None


def _check_paths(wanted: Wanted) -> None:
    if len(wanted.group_by) > DIMENSIONS_MAX:
        raise _bad("/group_by", f"group_by has more than {DIMENSIONS_MAX} dimensions.")
    places = [("/value_property", wanted.value_property)] if wanted.value_property else []
    for name, path in wanted.group_by.items():
        if _DIMENSION.fullmatch(name) is None:
            raise _bad(
                f"/group_by/{escape(name)}",
                "A dimension's name is 1-64 letters, digits, `_`, `-` and `.`, beginning with a "
                "letter.",
            )
        places.append((f"/group_by/{name}", path))
    for pointer, path in places:
        try:
            getter(path)
        except PathError as error:
            raise _bad(pointer, f"{pointer.rpartition('/')[2]} {error}.") from None
        first, _, rest = (path or "").partition(".")
        if wanted.event_type == genai.EVENT_TYPE and first == BILLABLE and rest not in genai.NAMES:
            names = ", ".join(f"{BILLABLE}.{name}" for name in genai.NAMES)
            raise _bad(pointer, f"Of {genai.EVENT_TYPE} a meter may read {names}.")


def _bad(pointer: str, words: str) -> ProblemError:
    return ProblemError(422, "invalid_value", words, pointer=pointer)


async def put(conn: Connection, wanted: Wanted) -> tuple[Meter, bool]:
    """Define a meter, or change one; whether it is new. A new version of the catalog.

    What decides its readings is fixed once it has counted or rejected an event: 409 `meter_in_use`.
    """
    filters = None if wanted.filters is None else json_text(wanted.filters)
    known = (await read(conn)).meters.get(wanted.key)
    if known is not None and _is_same(known, wanted, filters):
        return known, False
    await change(conn)
    catalog = await read(conn)
    known = catalog.meters.get(wanted.key)
    if known is None and len(catalog.meters) >= METERS_MAX:
        raise ProblemError(409, "too_many_meters", f"There are {METERS_MAX} meters already.")
    if known is not None and known.is_reported and wanted.charge != "none":
        raise _bad(
            "/charge", "A plan bills by this meter: what it counts can't be charged in credits too."
        )
    is_redefined = known is not None and not _is_same(known, wanted, filters, whole=False)
    if known is not None and is_redefined:
        if known.is_used:
            raise ProblemError(
                409,
                "meter_in_use",
                "This meter has counted events: only its unit and charge can change. Make another "
                "meter, and `drawdown usage rebuild` it.",
            )
        await conn.execute(queries.meter_rebuilds_forget, known.meter_no)
    await conn.execute(
        queries.meter_put,
        wanted.key,
        wanted.event_type,
        wanted.aggregation,
        wanted.value_property,
        json_text(wanted.group_by),
        filters,
        wanted.unit,
        wanted.charge,
        is_redefined,
    )
    made = (await read(conn)).meters[wanted.key]
    reader_of(definition_of(made))
    return made, known is None


def _is_same(known: Meter, wanted: Wanted, filters: str | None, *, whole: bool = True) -> bool:
    """Whether a meter is as wanted; without `whole`: whether it reads events as wanted."""
    reads = (
        known.event_type == wanted.event_type
        and known.aggregation == wanted.aggregation
        and known.value_property == wanted.value_property
        and list(known.group_by.items()) == list(wanted.group_by.items())
        and known.filters == filters
    )
    return reads and (not whole or (known.unit, known.charge) == (wanted.unit, wanted.charge))


async def rejects(conn: Connection, meter_nos: list[int]) -> dict[int, tuple[int, datetime | None]]:
    """Of each meter: how many events it could not read, and when the latest came."""
    rows = await conn.fetch(queries.meter_rejects_count, meter_nos)
    return {row[0]: (row[1], row[2]) for row in rows}


class Refused(Struct, frozen=True):
    """Why so much waits."""

    code: str
    count: int


class Waiting(Struct, frozen=True):
    """What is still to be charged: single events, or changed quarters of an hour; up to a limit."""

    count: int = 0
    refusals: list[Refused] = []


async def waiting(conn: Connection, meter_nos: list[int]) -> dict[int, Waiting]:
    """Of each meter what waits to be charged, of at most WAITING_MAX events and windows."""
    found: dict[int, Waiting] = dict.fromkeys(meter_nos, Waiting())
    rows = await conn.fetch(queries.meters_waiting, array_text(meter_nos), WAITING_MAX)
    for number, refusal, count in rows:
        known = found[number]
        refusals = [] if refusal is None else [Refused(refusal, count)]
        found[number] = Waiting(known.count + count, [*known.refusals, *refusals])
    return found


async def latest_rejects(conn: Connection, meter_no: int, limit: int) -> list[Reject]:
    """The latest events that a meter could not read."""
    rows = await conn.fetch(queries.meter_rejects_list, meter_no, limit)
    return [Reject(**dict(row)) for row in rows]
