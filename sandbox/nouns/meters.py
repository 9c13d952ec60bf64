"""Billing meters, their events by API v1, and what they add up to."""

import re
from decimal import Decimal
from typing import Any, Final

from sandbox.calendar import DAY, HOUR
from sandbox.errors import StripeError, invalid
from sandbox.lists import Readable, is_inside, page, readable
from sandbox.routing import Call, route
from sandbox.shapes import Obj
from sandbox.world import World, pick

PAST_DAYS_MAX: Final = 35
FUTURE_SECONDS_MAX: Final = 300
IDENTIFIER_MAX: Final = 100
IDENTIFIER_SECONDS: Final = DAY
DIGITS_MAX: Final = 15
DECIMALS_MAX: Final = 12
CANCEL_SECONDS_MAX: Final = DAY
MESSAGES: Final = {
    "archived_meter": "The meter is archived.",
    "meter_event_customer_not_found": "No customer with this id.",
    "meter_event_no_customer_defined": "The payload names no customer.",
    "meter_event_invalid_value": "The value is no number.",
    "meter_event_value_too_many_digits": "The value has too many digits.",
    "meter_event_value_not_found": "The payload has no value.",
    "meter_event_dimension_count_too_high": "There are too many dimensions.",
    "missing_dimension_payload_keys": "A key of a dimension is missing.",
    "no_meter": "There is no meter with this event name.",
    "timestamp_in_future": "The timestamp is more than 5 minutes ahead.",
    "timestamp_too_far_in_past": "The timestamp is more than 35 days ago.",
    "event_timestamp_out_of_range": "The timestamp is out of range.",
}
_VALUE: Final = re.compile(r"([+-]?)(\d+)(?:\.(\d+))?", re.ASCII)

readable(
    Readable(
        "billing.meter",
        "/v1/billing/meters",
        "id",
        filters={"created": lambda _, meter, bounds: is_inside(meter["created"], bounds)},
    )
)


@route("POST /v1/billing/meters")
def create(world: World, call: Call) -> Obj:
    """A meter. Two active ones cannot listen to one event name."""
    given = call.params
    if any(
        meter["event_name"] == given["event_name"]
        for meter in world.every("billing.meter", status="active")
    ):
        raise invalid(
            f"A meter with the event name {given['event_name']} already exists.",
            param="event_name",
            code="resource_already_exists",
        )
    meter = world.make(
        "billing.meter",
        "mtr",
        customer_mapping={
            "event_payload_key": given.get("customer_mapping", {}).get(
                "event_payload_key", "stripe_customer_id"
            ),
            "type": "by_id",
        },
        default_aggregation=given["default_aggregation"],
        display_name=given["display_name"],
        event_name=given["event_name"],
        event_time_window=given.get("event_time_window"),
        status="active",
        status_transitions={"deactivated_at": None},
        updated=world.now,
        value_settings={
            "event_payload_key": given.get("value_settings", {}).get("event_payload_key", "value")
        },
    )
    return world.add(meter, "billing.meter.created")


@route("POST /v1/billing/meters/{id}")
def update(world: World, call: Call) -> Obj:
    meter = world.get("billing.meter", call.id)
    return world.change(
        meter, "billing.meter.updated", **pick(call.params, "display_name"), updated=world.now
    )


@route("POST /v1/billing/meters/{id}/deactivate")
def deactivate(world: World, call: Call) -> Obj:
    return _switch(world, call.id, "inactive", world.now)


@route("POST /v1/billing/meters/{id}/reactivate")
def reactivate(world: World, call: Call) -> Obj:
    return _switch(world, call.id, "active", None)


def _switch(world: World, meter_id: str, status: str, at: int | None) -> Obj:
    meter = world.get("billing.meter", meter_id)
    if meter["status"] == status:
        raise invalid(f"The meter is already {status}.")
    transitions = {"deactivated_at": at}
    return world.move(meter, status, status_transitions=transitions, updated=world.now)


# Events


def meter_of(world: World, event_name: str) -> Obj | None:
    """The meter of an event name: an active one if there is one."""
    found = [m for m in world.table("billing.meter").values() if m["event_name"] == event_name]
    return min(found, key=lambda meter: meter["status"] != "active", default=None)


def fault_of(world: World, given: Obj, at: int) -> str | None:
    """Why Stripe would not count an event, as a code of its error reports."""
    meter = meter_of(world, given["event_name"])
    if meter is None:
        return "no_meter"
    if meter["status"] != "active":
        return "archived_meter"
    payload: Obj = given["payload"]
    customer = payload.get(meter["customer_mapping"]["event_payload_key"])
    if customer is None:
        return "meter_event_no_customer_defined"
    found = world.table("customer").get(str(customer))
    if found is None or found.get("deleted"):
        return "meter_event_customer_not_found"
    if at > world.now + FUTURE_SECONDS_MAX:
        return "timestamp_in_future"
    if at < world.now - PAST_DAYS_MAX * DAY:
        return "timestamp_too_far_in_past"
    return _fault_of_value(meter, payload)


def _fault_of_value(meter: Obj, payload: Obj) -> str | None:
    value = payload.get(meter["value_settings"]["event_payload_key"])
    if value is None:
        is_count = meter["default_aggregation"]["formula"] == "count"
        return None if is_count else "meter_event_value_not_found"
    match = _VALUE.fullmatch(str(value))
    if match is None:
        return "meter_event_invalid_value"
    whole, decimals = match[2].lstrip("0"), match[3] or ""
    if len(whole) > DIGITS_MAX or len(decimals) > DECIMALS_MAX:
        return "meter_event_value_too_many_digits"
    return None


def is_duplicate(world: World, identifier: str) -> bool:
    at: int | None = world.note("meter identifiers").get(identifier)
    return at is not None and at > world.now - IDENTIFIER_SECONDS


def check_identifier(world: World, identifier: str, event_name: str) -> None:
    """Raises StripeError 400."""
    if len(identifier) > IDENTIFIER_MAX or len(event_name) > IDENTIFIER_MAX:
        raise invalid(f"At most {IDENTIFIER_MAX} characters.", param="identifier")
    if is_duplicate(world, identifier):
        raise StripeError(
            400,
            f"An event already exists with identifier {identifier}.",
            param="identifier",
            headers={"Stripe-Should-Retry": "false"},
        )


def record(world: World, given: Obj, at: int, identifier: str) -> Obj:
    """Count an event that has no fault."""
    meter = meter_of(world, given["event_name"])
    assert meter is not None
    payload: Obj = given["payload"]
    event = {
        "object": "billing.meter_event",
        "created": world.now,
        "event_name": given["event_name"],
        "identifier": identifier,
        "livemode": False,
        "payload": {name: str(value) for name, value in payload.items()},
        "timestamp": at,
    }
    world.note("meter identifiers")[identifier] = world.now
    row = {
        **event,
        "id": identifier,
        "meter": meter["id"],
        "customer": payload[meter["customer_mapping"]["event_payload_key"]],
        "value": str(payload.get(meter["value_settings"]["event_payload_key"], "1")),
        "is_counted": True,
    }
    world.table("billing.meter_event")[identifier] = row
    return event


@route("POST /v1/billing/meter_events")
def create_event(world: World, call: Call) -> Obj:
    """At once right or wrong, unlike the events of the stream."""
    given = call.params
    identifier = given.get("identifier", world.secret())
    check_identifier(world, identifier, given["event_name"])
    at = given.get("timestamp", world.now)
    if (code := fault_of(world, given, at)) is not None:
        raise invalid(MESSAGES[code], code=code, param=param_of(code))
    event = record(world, given, at, identifier)
    world.react("standin.meter_event", world.table("billing.meter_event")[identifier])
    return event


def param_of(code: str) -> str:
    if code.startswith("timestamp"):
        return "timestamp"
    return "event_name" if code in ("no_meter", "archived_meter") else "payload"


@route("POST /v1/billing/meter_event_adjustments")
def adjust(world: World, call: Call) -> Obj:
    given = call.params
    identifier: str | None = given.get("cancel", {}).get("identifier")
    cancel_event(world, given["event_name"], identifier, param="cancel[identifier]")
    return {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": identifier},
        "event_name": given["event_name"],
        "livemode": False,
        "status": "pending",
        "type": "cancel",
    }


def cancel_event(world: World, event_name: str, identifier: str | None, *, param: str) -> None:
    """Take an event out of the sums. Raises StripeError 400 if it is unknown or too old."""
    row = world.table("billing.meter_event").get(str(identifier))
    if row is None or row["event_name"] != event_name:
        message = f"No meter event with identifier {identifier}."
        raise invalid(message, param=param, code="resource_missing")
    if row["created"] < world.now - CANCEL_SECONDS_MAX:
        raise invalid("Only events of the last 24 hours can be cancelled.", param=param)
    row["is_counted"] = False


# Sums


def total(
    world: World, meter: Obj, customer: str, start: int, end: int, *, seen_until: int | None = None
) -> Decimal:
    """The aggregate of [start, end) by the meter's formula. `seen_until`: leave out newer news."""
    rows = [
        row
        for row in world.table("billing.meter_event").values()
        if row["meter"] == meter["id"]
        and row["customer"] == customer
        and row["is_counted"]
        and start <= row["timestamp"] < end
        and (seen_until is None or row["created"] <= seen_until)
    ]
    rows.sort(key=lambda row: row["timestamp"])
    if (window := meter["event_time_window"]) is not None:
        width = HOUR if window == "hour" else DAY
        rows = [*{row["timestamp"] // width: row for row in rows}.values()]
    formula = meter["default_aggregation"]["formula"]
    if formula == "count":
        return Decimal(len(rows))
    values = [Decimal(row["value"]) for row in rows]
    if formula == "last":
        return values[-1] if values else Decimal(0)
    return sum(values, Decimal(0))


@route("GET /v1/billing/meters/{id}/event_summaries")
def summaries(world: World, call: Call) -> Obj:
    """Sums for windows of time, newest first; windows without usage are left out."""
    meter, given = world.get("billing.meter", call.ids["id"]), call.params
    start, end, window = given["start_time"], given["end_time"], given.get("value_grouping_window")
    unit = {"hour": HOUR, "day": DAY}.get(str(window), 60)
    for name in ("start_time", "end_time"):
        if given[name] % unit:
            raise invalid(f"{name} must be on a boundary of {unit} seconds.", param=name)
    if start >= end:
        raise invalid("end_time must be after start_time.", param="end_time")
    width = unit if window else end - start
    seen_until = world.now - world.note("meter lag").get(meter["event_name"], 0)
    rows = list[Obj]()
    for at in range(start, end, width):
        value = total(world, meter, given["customer"], at, at + width, seen_until=seen_until)
        if window is None or value:
            rows.append(_summary(meter, given["customer"], at, at + width, value))
    return page(call, rows[::-1])


def _summary(meter: Obj, customer: str, start: int, end: int, value: Decimal) -> Obj:
    number: Any = int(value) if value == int(value) else float(value)
    return {
        "id": f"mtrusg_test_{meter['id'][-8:]}{customer[-8:]}{start}_{end}",
        "object": "billing.meter_event_summary",
        "aggregated_value": number,
        "end_time": end,
        "livemode": False,
        "meter": meter["id"],
        "start_time": start,
    }
