"""Subscription schedules: phases that change a subscription when they begin."""

from sandbox import agenda, calendar, reactions
from sandbox.errors import check_interval, check_time, invalid
from sandbox.lists import Readable, is_inside, readable
from sandbox.nouns import catalogue, sub_changes, sub_clock, subscribing, subscriptions
from sandbox.nouns.subscribing import items_of
from sandbox.routing import Call, route
from sandbox.shapes import Obj, objs_of
from sandbox.world import World, copied, merged_metadata, pick

readable(
    Readable(
        "subscription_schedule",
        "/v1/subscription_schedules",
        "schedule",
        filters={
            "scheduled": lambda _, schedule, wanted: (
                (schedule["status"] == "not_started") == wanted
            ),
            "canceled_at": lambda _, schedule, bounds: is_inside(schedule["canceled_at"], bounds),
        },
    )
)


@route("POST /v1/subscription_schedules")
def create(world: World, call: Call) -> Obj:
    """A schedule over a subscription that runs, or for one that begins later."""
    given = call.params
    schedule = world.make("subscription_schedule", "sub_sched")
    schedule.pop("customer_account", None)
    schedule.update(
        billing_mode={"type": "flexible", "flexible": {"proration_discounts": "included"}},
        default_settings={
            "application_fee_percent": None,
            "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
            "billing_cycle_anchor": "automatic",
            "billing_thresholds": None,
            "collection_method": "charge_automatically",
            "default_payment_method": None,
            "description": None,
            "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
            "on_behalf_of": None,
            "transfer_data": None,
        },
        end_behavior=given.get("end_behavior", "release"),
        metadata=merged_metadata(None, given),
        pause_schedules=[],
        status="not_started",
    )
    if "from_subscription" in given:
        _from_subscription(world, schedule, given)
    else:
        _from_phases(world, schedule, given)
    world.add(schedule, "subscription_schedule.created")
    return schedule


def _from_subscription(world: World, schedule: Obj, given: Obj) -> None:
    """Take over a subscription as it is: one phase, the running period."""
    sub = world.used("subscription", given["from_subscription"], "from_subscription")
    if "phases" in given:
        raise invalid("You cannot set `phases` with `from_subscription`.", param="phases")
    if sub["schedule"] is not None or sub["status"] in subscribing.ENDED:
        raise invalid("The subscription has a schedule, or is over.", param="from_subscription")
    phase = _phase(
        world,
        sub["currency"],
        {
            "items": [
                {"price": item["price"]["id"], **pick(item, "quantity", "metadata")}
                for item in items_of(sub)
            ],
            "trial_end": sub["trial_end"] if sub["status"] == "trialing" else None,
            "metadata": sub["metadata"],
        },
        min(item["current_period_start"] for item in items_of(sub)),
        sub_clock.period_end(sub),
    )
    schedule.update(
        billing_mode=copied(sub["billing_mode"]),
        current_phase=pick(phase, "start_date", "end_date"),
        customer=sub["customer"],
        phases=[phase],
        status="active",
        subscription=sub["id"],
        test_clock=sub["test_clock"],
    )
    schedule["default_settings"]["collection_method"] = sub["collection_method"]
    world.change(sub, "customer.subscription.updated", schedule=schedule["id"])


def _from_phases(world: World, schedule: Obj, given: Obj) -> None:
    if "customer" not in given or not given.get("phases"):
        raise invalid("A schedule needs a customer and phases.", param="phases")
    customer = world.used("customer", given["customer"], "customer")
    start = given.get("start_date", world.now)
    start = world.now if start == "now" else start
    phases = _phases(world, given["phases"], start, given["phases"][0].get("currency"))
    schedule.update(customer=customer["id"], phases=phases, test_clock=customer.get("test_clock"))


def _phases(world: World, asked: list[Obj], start: int, currency: str | None) -> list[Obj]:
    """Phases one after the other; each has an end or a duration."""
    made, at = list[Obj](), start
    for number, given in enumerate(asked):
        begins = given.get("start_date", at)
        at = check_time(world.now if begins == "now" else begins, f"phases[{number}][start_date]")
        if made and made[-1]["end_date"] != at:
            raise invalid(
                "Each phase begins where the one before ends.",
                param=f"phases[{number}][start_date]",
            )
        if not given.get("items"):
            raise invalid("A phase needs items.", param=f"phases[{number}][items]")
        prices = [
            catalogue.price_from(world, item, f"phases[{number}][items][{place}]")
            for place, item in enumerate(given["items"])
        ]
        end = given.get("end_date")
        if end == "now":
            end = world.now
        if end is None:
            unit = given.get("duration") or prices[0]["recurring"]
            count = unit.get("interval_count", 1)
            check_interval(unit["interval"], count, f"phases[{number}][duration]")
            end = calendar.add(at, unit["interval"], count)
        check_time(end, f"phases[{number}][end_date]")
        if end <= at:
            raise invalid("A phase ends after it begins.", param=f"phases[{number}][end_date]")
        made.append(_phase(world, currency or prices[0]["currency"], given, at, end))
        at = end
    return made


def _phase(world: World, currency: str, given: Obj, start: int, end: int) -> Obj:
    return {
        "add_invoice_items": [],
        "application_fee_percent": None,
        "automatic_tax": None,
        "billing_cycle_anchor": given.get("billing_cycle_anchor"),
        "billing_thresholds": None,
        "collection_method": given.get("collection_method"),
        "currency": currency,
        "default_payment_method": given.get("default_payment_method"),
        "default_tax_rates": [],
        "description": given.get("description"),
        "discounts": [
            {"coupon": one.get("coupon"), "discount": None, "promotion_code": None}
            for one in objs_of(given.get("discounts"))
        ],
        "end_date": end,
        "invoice_settings": None,
        "items": [
            {
                "billing_thresholds": None,
                "discounts": [],
                "metadata": item.get("metadata", {}),
                "plan": item.get("price", item.get("plan")),
                "price": item.get("price", item.get("plan")),
                "quantity": item.get("quantity", 1),
                "tax_rates": [],
            }
            for item in given["items"]
        ],
        "metadata": given.get("metadata", {}),
        "on_behalf_of": None,
        "proration_behavior": given.get("proration_behavior", "create_prorations"),
        "start_date": start,
        "transfer_data": None,
        "trial_end": None if given.get("trial_end") == "now" else given.get("trial_end"),
    }


@route("POST /v1/subscription_schedules/{schedule}")
def update(world: World, call: Call) -> Obj:
    """Other phases from the current one on."""
    schedule, given = world.get("subscription_schedule", call.id), call.params
    _check_open(schedule)
    changes = pick(given, "end_behavior")
    changes["metadata"] = merged_metadata(schedule["metadata"], given)
    if "phases" in given:
        first = schedule["phases"][0]
        asked = given["phases"]
        start = asked[0].get("start_date", first["start_date"])
        start = world.now if start == "now" else start
        if schedule["status"] == "active" and start not in (
            schedule["current_phase"]["start_date"],
            first["start_date"],
        ):
            raise invalid(
                "The start of the current phase cannot be changed.",
                param="phases[0][start_date]",
            )
        changes["phases"] = _phases(world, asked, start, first["currency"])
    world.change(schedule, "subscription_schedule.updated", **changes)
    if schedule["status"] == "active" and "phases" in given:
        _enter(world, schedule, given.get("proration_behavior"))
    return schedule


def _check_open(schedule: Obj) -> None:
    if schedule["status"] not in ("active", "not_started"):
        raise invalid(f"The schedule is {schedule['status']}.")


@route("POST /v1/subscription_schedules/{schedule}/release")
def release(world: World, call: Call) -> Obj:
    schedule = world.get("subscription_schedule", call.id)
    _check_open(schedule)
    return _released(world, schedule)


def _released(world: World, schedule: Obj, status: str = "released") -> Obj:
    """Let the subscription go on without its schedule."""
    sub = world.table("subscription").get(str(schedule["subscription"]))
    if sub is not None:
        world.change(sub, "customer.subscription.updated", schedule=None)
    members: Obj = {"current_phase": None}
    if status == "released":
        members.update(
            released_at=world.now,
            released_subscription=schedule["subscription"],
            subscription=None,
        )
    else:
        members["completed_at"] = world.now
    return world.move(schedule, status, **members)


@route("POST /v1/subscription_schedules/{schedule}/cancel")
def cancel(world: World, call: Call) -> Obj:
    """End a schedule together with its subscription."""
    schedule, given = world.get("subscription_schedule", call.id), call.params
    _check_open(schedule)
    sub = world.table("subscription").get(str(schedule["subscription"]))
    world.move(schedule, "canceled", canceled_at=world.now, current_phase=None)
    if sub is not None and sub["status"] not in subscribing.ENDED:
        subscriptions.cancel_now(
            world,
            sub,
            prorate=given.get("prorate", True),
            invoice_now=given.get("invoice_now", True),
        )
    return schedule


@reactions.on("customer.subscription.deleted")
def _subscription_over(world: World, sub: Obj) -> None:
    schedule = world.table("subscription_schedule").get(str(sub["schedule"]))
    if schedule is not None and schedule["status"] == "active":
        world.move(schedule, "canceled", canceled_at=world.now, current_phase=None)


# By the clock


def _due(world: World, schedule: Obj) -> int | None:
    if schedule["status"] == "not_started":
        return schedule["phases"][0]["start_date"]
    if schedule["status"] == "active":
        return schedule["current_phase"]["end_date"]
    return None


def _act(world: World, schedule: Obj) -> None:
    sub = world.table("subscription").get(str(schedule["subscription"]))
    if schedule["status"] == "not_started":
        _start(world, schedule)
    elif sub is None or sub["status"] in subscribing.ENDED:
        world.move(schedule, "canceled", canceled_at=world.now, current_phase=None)
    elif schedule["phases"][-1]["end_date"] <= world.now:
        _end(world, schedule)
    else:
        _enter(world, schedule, None)


# Before subscriptions: at the end of a period the renewal must already have the new price.
agenda.register("subscription_schedule", _due, _act)


def _start(world: World, schedule: Obj) -> None:
    phase = schedule["phases"][0]
    customer = world.get("customer", schedule["customer"])
    sub = subscriptions.start(
        world,
        customer,
        {
            "items": phase["items"],
            "metadata": phase["metadata"],
            **pick({**phase, "trial_end": phase["trial_end"] or "now"}, "trial_end"),
            "payment_behavior": "default_incomplete",
        },
    )
    sub["schedule"] = schedule["id"]
    invoice = world.get("invoice", sub["latest_invoice"])
    world.move(
        schedule,
        "active",
        current_phase=pick(phase, "start_date", "end_date"),
        subscription=sub["id"],
    )
    sub_changes.settle_first(world, invoice)


def _enter(world: World, schedule: Obj, behavior: str | None) -> None:
    """Make the subscription what the phase of now says."""
    now = world.now
    phase = next(one for one in schedule["phases"] if one["start_date"] <= now < one["end_date"])
    sub = world.get("subscription", schedule["subscription"])
    span = pick(phase, "start_date", "end_date")
    if schedule["current_phase"] != span:
        world.change(schedule, "subscription_schedule.updated", current_phase=span)
    wanted = [{**pick(item, "price", "quantity")} for item in phase["items"]]
    have = [{"price": i["price"]["id"], "quantity": i.get("quantity", 1)} for i in items_of(sub)]
    if wanted == have and not phase["discounts"]:
        return
    change: Obj = {"items": _as_change(items_of(sub), wanted)}
    at_boundary = sub_clock.period_end(sub) <= now
    change["proration_behavior"] = (
        "none" if at_boundary else (behavior or phase["proration_behavior"])
    )
    if phase["discounts"]:
        change["discounts"] = [{"coupon": one["coupon"]} for one in phase["discounts"]]
    if phase["metadata"]:
        change["metadata"] = phase["metadata"]
    subscriptions.change(world, sub, change)


def _as_change(items: list[Obj], wanted: list[Obj]) -> list[Obj]:
    """Turn the items that are there into those that are wanted, one by one."""
    changes = [{"id": item["id"], **new} for item, new in zip(items, wanted, strict=False)]
    changes += [{"id": item["id"], "deleted": True} for item in items[len(wanted) :]]
    return changes + wanted[len(items) :]


def _end(world: World, schedule: Obj) -> None:
    sub = world.get("subscription", schedule["subscription"])
    if schedule["end_behavior"] == "cancel":
        _released(world, schedule, "completed")
        if sub["status"] not in subscribing.ENDED:
            subscriptions.cancel_now(world, sub, prorate=False, invoice_now=True)
        return
    _released(world, schedule)
