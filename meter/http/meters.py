"""Meters, and the usage that they count."""

from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from msgspec import Raw, Struct

from ledger import customers
from meter import catalog, meters, parse, usage, windows
from meter.catalog import Aggregation, ChargedBy, Meter
from meter.http import bodies
from meter.http.customers import answer, zone_of
from meter.http.paging import LIMIT, Page, page, place
from meter.http.reads import CUSTOMER, FROM, TO, guarded
from meter.meters import Reject, Waiting, Wanted
from meter.problems import ProblemError
from meter.route import Call, Query, Reply, Route
from meter.service import customer_missing
from meter.tally import GRAIN, grain_of
from meter.usage import TooMuchUsage, UsageAnswer
from meter.windows import Width, WindowError
from sql.pool import transaction

REJECTS_SHOWN: Final = 20
"""In the list of meters: the latest that one meter could not read."""
WIDTHS: Final = ("minute", "hour", "day", "month")


class MeterAnswer(Struct, frozen=True, kw_only=True):
    """A meter. `rejected`: how many events it could not read; `rejects`: the latest of them.

    `waiting`: what is still to be charged, up to 1,000 events and 1,000 windows, and why.
    """

    key: str
    event_type: str
    aggregation: Aggregation
    value_property: str | None
    group_by: dict[str, str]
    filters: Any
    unit: str | None
    charge: ChargedBy
    rejected: int
    rejects: list[Reject]
    waiting: Waiting
    created_at: datetime
    changed_at: datetime


def _answer(meter: Meter, rejected: int, rejects: list[Reject], waiting: Waiting) -> MeterAnswer:
    return MeterAnswer(
        key=meter.key,
        event_type=meter.event_type,
        aggregation=meter.aggregation,
        value_property=meter.value_property,
        group_by=meter.group_by,
        filters=None if meter.filters is None else Raw(meter.filters.encode()),
        unit=meter.unit,
        charge=meter.charge,
        rejected=rejected,
        rejects=rejects,
        waiting=waiting,
        created_at=meter.created_at,
        changed_at=meter.changed_at,
    )


async def put_meter(call: Call) -> Reply:
    """Define a meter, or change one: its unit and charge at any time, the rest until it is used.

    It reads events of one type. `value_property` is the place of the value in the event's data
    (members joined by dots; numbers, or decimal strings), `group_by` names dimensions and their
    places. `filters` is `{"property": path, OPERATOR: value}` with one of eq, ne, in, gt, gte, lt,
    lte, like; or `{"and": [...]}`, `{"or": [...]}` of such. A meter counts what is received from
    now on; `drawdown usage rebuild` lets it count the past. Of the type `llm.usage` it may read
    billable.input_tokens, output_tokens, cache_read_tokens, cache_write_tokens and
    reasoning_tokens: no token is in two of them.
    """
    assert call.body is not None
    given = parse.decode(call.body, bodies.MeterBody)
    wanted = Wanted(
        key=call.ids[0],
        event_type=given.event_type,
        aggregation=given.aggregation,
        value_property=given.value_property,
        group_by=given.group_by,
        filters=given.filters,
        unit=given.unit,
        charge=given.charge,
    )
    meters.check(wanted)

    async def write() -> tuple[MeterAnswer, bool]:
        async with transaction(call.service.pool) as conn:
            meter, is_new = await meters.put(conn, wanted)
            rejected, _ = (await meters.rejects(conn, [meter.meter_no]))[meter.meter_no]
            latest = await meters.latest_rejects(conn, meter.meter_no, REJECTS_SHOWN)
            waiting = await meters.waiting(conn, [meter.meter_no])
            return _answer(meter, rejected, latest, waiting[meter.meter_no]), is_new

    made, is_new = await call.service.retried(write)
    await call.service.refresh()
    return answer(201 if is_new else 200, made)


async def list_meters(call: Call) -> Reply:
    """All meters, by key, each with what it could not read."""
    at = place(call, "meters")
    async with transaction(call.service.pool, snapshot=True) as conn:
        found = sorted((await catalog.read(conn)).meters.items())
        found = [meter for key, meter in found if key > (at.after or "")]
        shown = found[: at.limit]
        numbers = [meter.meter_no for meter in shown]
        counts = await meters.rejects(conn, numbers)
        waiting = await meters.waiting(conn, numbers)
        data: list[MeterAnswer] = []
        for meter in shown:
            rejected, _ = counts[meter.meter_no]
            no = meter.meter_no
            latest = await meters.latest_rejects(conn, no, REJECTS_SHOWN) if rejected else []
            data.append(_answer(meter, rejected, latest, waiting[no]))
    more = shown[-1].key if len(found) > at.limit else None
    return page(call, "meters", data, more)


@guarded
async def get_usage(call: Call) -> Reply:
    """What a meter counted for a customer between two times, by window and by group.

    Windows are cut at the time zone's hours, days and months (its daylight-saving days have 23 or
    25 hours); the first and the last are cut to `from` and `to`. Those are whole quarters of an
    hour, for minutes whole minutes. The windows of count and sum add up to `value`. In groups a
    missing dimension and null are the same, the empty string is another.
    """
    meter = await _meter(call)
    if call.query.get("customer_id") is None and call.key.customer_no is None:
        raise ProblemError(422, "invalid_query", "Say whose: ?customer_id=…")
    customer_id = call.query.get("customer_id") or call.key.customer_id or ""
    number = await call.service.customer_no(call, customer_id, pointer="/customer_id")
    async with transaction(call.service.pool, snapshot=True) as conn:
        profile = await customers.read(conn, number, call.service.credit_scale("credits"))
        if profile is None:
            raise customer_missing()
        zone = zone_of(call.query.get("time_zone") or profile.time_zone)
        asked = usage.Asked(
            customer_no=number,
            customer_id=profile.customer_id,
            meter=meter,
            edges=_edges(call, zone, await customers.now(conn)),
            width=_width(call),
            zone=zone,
            group_by=_group_by(call, meter),
            filters=_filters(call, meter),
        )
        try:
            return answer(200, await usage.read(conn, asked))
        except TooMuchUsage as error:
            raise ProblemError(422, "invalid_query", f"Too much at once: {error}.") from None


async def _meter(call: Call) -> Meter:
    meter = call.service.catalog.meters.get(call.ids[0])
    if meter is None:
        await call.service.refresh()  # another process may have made it
        meter = call.service.catalog.meters.get(call.ids[0])
    if meter is None:
        raise ProblemError(404, "meter_not_found", "No such meter. See GET /v1/meters.")
    return meter


def _width(call: Call) -> Width | None:
    width = call.query.get("window")
    if width is not None and width not in WIDTHS:
        raise ProblemError(422, "invalid_query", f"window is one of {', '.join(WIDTHS)}.")
    return width


def _moment(call: Call, name: str) -> datetime | None:
    given = call.query.get(name)
    return None if given is None else parse.timestamp(given.replace(" ", "+"), f"/{name}")


def _edges(call: Call, zone: ZoneInfo, now: datetime) -> list[datetime]:
    to = _moment(call, "to") or grain_of(now) + GRAIN
    first = (to - timedelta(microseconds=1)).astimezone(zone).date().replace(day=1)
    from_ = _moment(call, "from") or windows.start_of(first, zone)
    try:
        width = _width(call)
        if width is None:
            return windows.whole(from_, to)
        return windows.edges(from_, to, width, zone)
    except WindowError as error:
        raise ProblemError(422, "invalid_query", f"These windows can't be made: {error}.") from None


def _group_by(call: Call, meter: Meter) -> list[str]:
    given = call.query.get("group_by")
    names = [] if not given else given.split(",")
    if len(set(names)) < len(names):
        raise ProblemError(422, "invalid_query", "group_by names a dimension twice.")
    for name in names:
        _check_dimension(name, meter)
    return names


def _filters(call: Call, meter: Meter) -> dict[str, str]:
    filters: dict[str, str] = {}
    for name, value in call.query.items():
        base, _, member = name.partition("[")
        if base == "filter" and member:
            _check_dimension(member[:-1], meter)
            filters[member[:-1]] = value
    return filters


def _check_dimension(name: str, meter: Meter) -> None:
    if name not in meter.group_by:
        known = ", ".join(meter.group_by) or "none"
        raise ProblemError(
            422, "invalid_query", f"This meter has no such dimension; it has: {known}."
        )


ROUTES: Final = (
    Route(
        method="PUT",
        path="/v1/meters/{meter}",
        operation="put_meter",
        summary="Define what is counted, or change its unit and charge.",
        scope="catalog:write",
        handler=put_meter,
        tag="Metering",
        body=bodies.MeterBody,
        answers={200: MeterAnswer, 201: MeterAnswer},
        errors=("meter_in_use", "too_many_meters"),
        example={
            "event_type": "llm.usage",
            "aggregation": "sum",
            "value_property": "billable.input_tokens",
            "group_by": {"model": "model"},
            "filters": {"property": "model", "like": "%"},
            "unit": "token",
        },
    ),
    Route(
        method="GET",
        path="/v1/meters",
        operation="list_meters",
        summary="Meters, by key, and what they could not read.",
        scope="catalog:read",
        handler=list_meters,
        tag="Metering",
        answers={200: Page[MeterAnswer]},
        query=LIMIT,
    ),
    Route(
        method="GET",
        path="/v1/meters/{meter}/usage",
        operation="get_usage",
        summary="What a meter counted for a customer, by window and group.",
        scope="usage:read",
        handler=get_usage,
        tag="Metering",
        answers={200: UsageAnswer},
        errors=("meter_not_found", "customer_not_found", "invalid_time_zone"),
        query=(
            CUSTOMER,
            FROM,
            TO,
            Query("window", "Left out: the whole.", {"type": "string", "enum": list(WIDTHS)}),
            Query("time_zone", "IANA name; left out: the customer's."),
            Query("group_by", "Dimensions, joined by commas."),
            Query(
                "filter",
                "`filter[model]=large`: only this value of a dimension.",
                {"type": "object", "additionalProperties": {"type": "string"}},
            ),
        ),
    ),
)
