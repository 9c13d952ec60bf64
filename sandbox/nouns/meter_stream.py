"""Meter events by API v2: single ones, the stream with its sessions, and the reports of errors.

The stream takes everything and says later, in thin events, what it could not count.
"""

from typing import Any, Final

from sandbox import agenda, reactions
from sandbox.calendar import iso, seconds
from sandbox.errors import StripeError, invalid
from sandbox.nouns import meters
from sandbox.routing import Call, route
from sandbox.shapes import Obj
from sandbox.world import World

TOKEN_SECONDS: Final = 900
BATCH_MAX: Final = 100
SAMPLES_MAX: Final = 5


def _time_of(world: World, given: Obj, param: str) -> int:
    if (text := given.get("timestamp")) is None:
        return world.now
    try:
        return int(seconds(text))
    except ValueError as error:
        raise invalid(f"Invalid timestamp: {text}", param=param) from error


def _as_v2(event: Obj) -> Obj:
    return {
        **event,
        "object": "v2.billing.meter_event",
        "created": iso(event["created"]),
        "timestamp": iso(event["timestamp"]),
    }


@route("POST /v2/billing/meter_events")
def create(world: World, call: Call) -> Obj:
    given = call.params
    identifier = given.get("identifier", world.secret())
    meters.check_identifier(world, identifier, given["event_name"])
    at = _time_of(world, given, "timestamp")
    if (code := meters.fault_of(world, given, at)) is not None:
        raise invalid(meters.MESSAGES[code], code=code, param=meters.param_of(code))
    event = meters.record(world, given, at, identifier)
    world.react("standin.meter_event", world.table("billing.meter_event")[identifier])
    return _as_v2(event)


@route("POST /v2/billing/meter_event_adjustments")
def adjust(world: World, call: Call) -> Obj:
    """Take an event back."""
    given = call.params
    identifier = given["cancel"]["identifier"]
    meters.cancel_event(world, given["event_name"], identifier, param="cancel.identifier")
    return {
        "id": f"mtr_adj_{world.secret()}",
        "object": "v2.billing.meter_event_adjustment",
        "cancel": {"identifier": identifier},
        "created": iso(world.now),
        "event_name": given["event_name"],
        "livemode": False,
        "status": "complete",
        "type": "cancel",
    }


@route("POST /v2/billing/meter_event_session")
def open_session(world: World, call: Call) -> Obj:
    token = f"mes_test_{world.secret(40)}"
    expires_at = world.now + TOKEN_SECONDS
    world.note("meter tokens")[token] = expires_at
    return {
        "id": f"mtr_sess_{world.secret()}",
        "object": "v2.billing.meter_event_session",
        "authentication_token": token,
        "created": iso(world.now),
        "expires_at": iso(expires_at),
        "livemode": False,
    }


def check_token(world: World, token: str) -> None:
    """Raises StripeError 401 for a session that is over or never was."""
    expires_at: int | None = world.note("meter tokens").get(token)
    if expires_at is None or expires_at <= world.now:
        raise StripeError(
            401,
            "The temporary session token has expired.",
            kind="temporary_session_expired",
            code="billing_meter_event_session_expired",
        )


@route("POST /v2/billing/meter_event_stream")
def stream(world: World, call: Call) -> Obj:
    """Take all events; what cannot be counted is reported later."""
    events: list[Obj] = call.params["events"]
    if not 1 <= len(events) <= BATCH_MAX:
        raise invalid(f"Between 1 and {BATCH_MAX} events.", param="events")
    for number, given in enumerate(events):
        at = _time_of(world, given, f"events[{number}].timestamp")
        identifier = given.get("identifier", world.secret())
        if meters.is_duplicate(world, identifier):
            continue
        if (code := meters.fault_of(world, given, at)) is not None:
            report(world, given["event_name"], identifier, code)
            continue
        meters.record(world, given, at, identifier)
        world.react("standin.meter_event", world.table("billing.meter_event")[identifier])
    return {}


# What went wrong, told later


def report(
    world: World, event_name: str, identifier: str, code: str, *, sampled: bool = True
) -> None:
    """Put a fault into the running report of its meter. Not sampled: counted, but not named."""
    meter = meters.meter_of(world, event_name)
    key = "none" if meter is None else meter["id"]
    kind = "standin.meter_report"
    found = world.table(kind).get(key)
    if found is None:
        made: Obj = {
            "id": key,
            "object": kind,
            "start": world.now,
            "end": world.now + world.settings.meter_report_seconds,
            "faults": [],
        }
        found = world.store(made)
    found["faults"].append({"code": code, "identifier": identifier, "sampled": sampled})


def _tell(world: World, found: Obj) -> None:
    """The report of one window as a thin event."""
    world.remove(found)
    codes = dict.fromkeys(fault["code"] for fault in found["faults"])
    types = [_error_type(found["faults"], code) for code in codes]
    total = len(found["faults"])
    data = {
        "developer_message_summary": f"There is {total} invalid event",
        "reason": {"error_count": total, "error_types": types},
        "validation_start": iso(found["start"]),
        "validation_end": iso(found["end"]),
    }
    if found["id"] == "none":
        emit_thin(world, "v1.billing.meter.no_meter_found", None, data)
        return
    related = {
        "id": found["id"],
        "type": "billing.meter",
        "url": f"/v1/billing/meters/{found['id']}",
    }
    emit_thin(world, "v1.billing.meter.error_report_triggered", related, data)


def _error_type(faults: list[Obj], code: str) -> Obj:
    of_code = [fault for fault in faults if fault["code"] == code]
    samples = [
        {
            "error_message": meters.MESSAGES.get(code, code),
            "request": {"identifier": fault["identifier"]},
        }
        for fault in of_code
        if fault["sampled"]
    ]
    return {"code": code, "error_count": len(of_code), "sample_errors": samples[:SAMPLES_MAX]}


def emit_thin(
    world: World, kind: str, related: Obj | None, data: Obj | None, **members: Any
) -> Obj:
    """Tell an event of API v2: delivered without its data, which is fetched."""
    event: Obj = {
        "id": f"evt_test_{world.secret(40)}",
        "object": "v2.core.event",
        "created": iso(world.now),
        "livemode": False,
        "type": kind,
        **members,
    }
    if related is not None:
        event["related_object"] = related
    if data is not None:
        event["data"] = data
    if not world.is_fork:
        world.store(event)
        if world.listener is not None:
            world.listener(event)
    return event


agenda.register("standin.meter_report", lambda _, found: found["end"], _tell)


# Faults on order


def reject(world: World, event_name: str, identifier: str | None, code: str, sampled: bool) -> int:
    """Refuse events after they were taken: the one of this identifier, already here or to come;
    without one, the next that comes. How many were taken back at once."""
    row = world.table("billing.meter_event").get(identifier or "")
    if row is not None and row["event_name"] == event_name and row["is_counted"]:
        row["is_counted"] = False
        report(world, event_name, row["identifier"], code, sampled=sampled)
        return 1
    orders: list[Obj] = world.note("meter rejects").setdefault("orders", [])
    orders.append(
        {"event_name": event_name, "identifier": identifier, "code": code, "sampled": sampled}
    )
    return 0


@reactions.on("standin.meter_event")
def _reject_ordered(world: World, row: Obj) -> None:
    orders: list[Obj] = world.note("meter rejects").setdefault("orders", [])
    for order in orders:
        if order["event_name"] == row["event_name"] and order["identifier"] in (
            None,
            row["identifier"],
        ):
            orders.remove(order)
            row["is_counted"] = False
            report(
                world,
                row["event_name"],
                row["identifier"],
                order["code"],
                sampled=order["sampled"],
            )
            return
