"""Stripe's own test clocks: customers that live by a time of their own."""

from typing import Final

from sandbox import agenda
from sandbox.calendar import DAY
from sandbox.errors import StripeError, check_time, invalid
from sandbox.lists import Readable, readable
from sandbox.routing import Call, route
from sandbox.shapes import Obj
from sandbox.world import World

KIND: Final = "test_helpers.test_clock"
KEPT_DAYS: Final = 30
ADVANCE_DAYS_MAX: Final = 2 * 366
STEPS_MAX: Final = 20_000

readable(Readable(KIND, "/v1/test_helpers/test_clocks", "test_clock"))


@route("POST /v1/test_helpers/test_clocks")
def create(world: World, call: Call) -> Obj:
    given = call.params
    clock = world.make(
        KIND,
        "clock",
        deletes_after=world.now + KEPT_DAYS * DAY,
        frozen_time=check_time(given["frozen_time"], "frozen_time"),
        name=given.get("name"),
        status="ready",
        status_details={},
    )
    return world.add(clock, "test_helpers.test_clock.created")


@route("POST /v1/test_helpers/test_clocks/{test_clock}/advance")
def advance(world: World, call: Call) -> Obj:
    clock, target = world.get(KIND, call.id), call.params["frozen_time"]
    if clock["status"] != "ready":
        raise StripeError(429, "The test clock is advancing.", kind="invalid_request_error")
    if target <= clock["frozen_time"]:
        raise invalid("A test clock only goes forward.", param="frozen_time")
    if target > clock["frozen_time"] + ADVANCE_DAYS_MAX * DAY:
        raise invalid("A test clock goes at most two years at once.", param="frozen_time")
    details = {"advancing": {"target_frozen_time": target}}
    world.move(clock, "advancing", status_details=details)
    world.after.append(lambda: _run(world, clock, target))
    return clock


def _run(world: World, clock: Obj, target: int) -> None:
    """Everything that is due up to the target, each at its own time."""
    for _ in range(STEPS_MAX):
        due = agenda.soonest(world, clock["id"])
        if due is None or due[0] > target:
            break
        clock["frozen_time"] = max(clock["frozen_time"], due[0])
        with world.on_clock(clock["id"]):
            agenda.act(world, due[1])
    clock["frozen_time"] = target
    with world.on_clock(clock["id"]):
        world.move(clock, "ready", status_details={})


@route("DELETE /v1/test_helpers/test_clocks/{test_clock}")
def delete(world: World, call: Call) -> Obj:
    """A clock takes its customers with it."""
    clock = world.get(KIND, call.id)
    for customer in world.every("customer", test_clock=clock["id"]):
        world.emit("customer.deleted", customer)
        world.store({"id": customer["id"], "object": "customer", "deleted": True})
    return world.remove(clock, "test_helpers.test_clock.deleted")
