"""The billing portal: configurations, sessions, and what a customer does there."""

from typing import Any

from sandbox.errors import invalid
from sandbox.lists import Readable, readable
from sandbox.nouns import payment_methods, subscriptions
from sandbox.nouns.subscribing import ENDED, items_of
from sandbox.routing import Call, route
from sandbox.shapes import Obj, as_obj, inside, objs_of
from sandbox.world import World, merged_metadata, pick

readable(
    Readable("billing_portal.configuration", "/v1/billing_portal/configurations", "configuration")
)

OFF: Obj = {
    "customer_update": {"allowed_updates": [], "enabled": False},
    "invoice_history": {"enabled": False},
    "payment_method_update": {"enabled": False, "payment_method_configuration": None},
    "subscription_cancel": {
        "cancellation_reason": {"enabled": False, "options": []},
        "enabled": False,
        "mode": "at_period_end",
        "proration_behavior": "none",
    },
    "subscription_pause": {
        "duration": {"type": "indefinite", "interval_options": []},
        "enabled": False,
    },
    "subscription_update": {
        "billing_cycle_anchor": None,
        "default_allowed_updates": [],
        "enabled": False,
        "products": [],
        "proration_behavior": "none",
        "schedule_at_period_end": {"conditions": []},
        "trial_update_behavior": "end_trial",
    },
}
ALL_ON: Obj = {
    "customer_update": {"allowed_updates": ["email", "name", "address"], "enabled": True},
    "invoice_history": {"enabled": True},
    "payment_method_update": {"enabled": True},
    "subscription_cancel": {"enabled": True},
    "subscription_pause": {"enabled": True},
    "subscription_update": {"enabled": True, "default_allowed_updates": ["price", "quantity"]},
}


def _features(asked: Obj, before: Obj | None = None) -> Obj:
    made: Obj = {}
    for name, off in OFF.items():
        given = inside(asked, name)
        if name == "subscription_update" and "products" in given:
            given = {**given, "products": [_product(one) for one in objs_of(given["products"])]}
        made[name] = _over(_over(off, inside(before or {}, name)), given)
    duration: Obj = made["subscription_pause"]["duration"]
    for option in duration["interval_options"]:
        option.setdefault("interval_count", 1)
    return made


def _over(base: Obj, given: Obj) -> Obj:
    """One object laid over another, with all that is inside; an empty string clears a list."""
    made = dict(base)
    for name, value in given.items():
        below = as_obj(value)
        if below is not None:
            made[name] = _over(inside(base, name), below)
        else:
            made[name] = [] if value == "" else value
    return made


def _product(given: Obj) -> Obj:
    adjustable = {"enabled": False, "maximum": None, "minimum": 0}
    return {**given, "adjustable_quantity": {**adjustable, **given.get("adjustable_quantity", {})}}


def _profile(given: Obj) -> Obj:
    profile: Obj = given.get("business_profile", {})
    names = ("headline", "privacy_policy_url", "terms_of_service_url")
    return {name: profile.get(name) or None for name in names}


@route("POST /v1/billing_portal/configurations")
def create_configuration(world: World, call: Call) -> Obj:
    return world.add(_configuration(world, call.params), "billing_portal.configuration.created")


def _configuration(world: World, given: Obj, *, is_default: bool = False) -> Obj:
    login: bool = given.get("login_page", {}).get("enabled", False)
    configuration = world.make("billing_portal.configuration", "bpc")
    configuration.update(
        active=True,
        business_profile=_profile(given),
        features=_features(given.get("features", {})),
        is_default=is_default,
        login_page={"enabled": login, "url": None},
        metadata=merged_metadata(None, given),
        updated=world.now,
        **pick(given, "default_return_url", "name"),
    )
    return configuration


@route("POST /v1/billing_portal/configurations/{configuration}")
def update_configuration(world: World, call: Call) -> Obj:
    configuration, given = world.get("billing_portal.configuration", call.id), call.params
    changes: dict[str, Any] = pick(given, "active", "default_return_url", "name")
    changes["features"] = _features(given.get("features", {}), configuration["features"])
    if "business_profile" in given:
        changes["business_profile"] = _profile(given)
    changes["metadata"] = merged_metadata(configuration["metadata"], given)
    return world.change(
        configuration, "billing_portal.configuration.updated", updated=world.now, **changes
    )


def _default(world: World) -> Obj:
    """The configuration that is used when none is named; everything is allowed in it."""
    found = world.every("billing_portal.configuration", is_default=True)
    if found:
        return found[0]
    return world.store(_configuration(world, {"features": ALL_ON}, is_default=True))


@route("POST /v1/billing_portal/sessions")
def create_session(world: World, call: Call) -> Obj:
    """An address where one customer can act, by one configuration."""
    given = call.params
    if "customer" not in given:
        raise invalid(
            "Missing required param: customer.", param="customer", code="parameter_missing"
        )
    customer = world.used("customer", given["customer"], "customer")
    if "configuration" in given:
        configuration = world.used(
            "billing_portal.configuration", given["configuration"], "configuration"
        )
    else:
        configuration = _default(world)
    session = world.make("billing_portal.session", "bps")
    for absent in ("after_expiration", "customer_account", "flow"):
        session.pop(absent, None)
    session.update(
        configuration=configuration["id"],
        customer=customer["id"],
        return_url=given.get("return_url", configuration["default_return_url"]),
        url=f"{world.base_url}/portal/{session['id']}",
    )
    if (flow := given.get("flow_data")) is not None:
        session["flow"] = _flow(world, customer, flow)
    return world.store(session)


def _flow(world: World, customer: Obj, given: Obj) -> Obj:
    kind = given["type"]
    target: Obj = given.get(kind, {})
    if kind.startswith("subscription_"):
        sub = world.used(
            "subscription", target.get("subscription", ""), f"flow_data[{kind}][subscription]"
        )
        if sub["customer"] != customer["id"]:
            message = "The subscription belongs to another customer."
            raise invalid(message, param=f"flow_data[{kind}][subscription]")
    return {
        "after_completion": given.get("after_completion", {"type": "portal_homepage"}),
        "type": kind,
        **{
            name: given.get(name) if name == kind else None
            for name in (
                *("subscription_cancel", "subscription_pause", "subscription_update"),
                "subscription_update_confirm",
            )
        },
    }


# What the customer does


def act(world: World, session: Obj, action: str, given: Obj) -> Obj:
    """One action in the portal, if its configuration allows it. Raises StripeError 400, 402."""
    customer = world.used("customer", session["customer"], "customer")
    configuration = world.get("billing_portal.configuration", session["configuration"])
    feature = {
        "cancel": "subscription_cancel",
        "undo_cancel": "subscription_cancel",
        "update_subscription": "subscription_update",
        "update_payment_method": "payment_method_update",
        "update_customer": "customer_update",
        "pause": "subscription_pause",
        "resume": "subscription_pause",
    }.get(action)
    if feature is None:
        raise invalid(f"No such action in the portal: {action}", param="action")
    if not configuration["features"][feature]["enabled"]:
        raise invalid(f"The portal's configuration does not allow {action}.", param="action")
    if action == "update_payment_method":
        return replace_method(world, customer, given.get("payment_method", "pm_card_visa"))
    if action == "update_customer":
        allowed = configuration["features"][feature]["allowed_updates"]
        return world.change(customer, "customer.updated", **pick(given, *allowed))
    sub = _subscription(world, customer, given)
    return _act_on(world, sub, action, given, configuration["features"][feature])


def replace_method(world: World, customer: Obj, name: str) -> Obj:
    """A customer saves another card, which becomes the default of everything."""
    method = payment_methods.attached(world, name, customer["id"])
    world.note(method["id"])["is_set_up"] = True
    settings = {**customer["invoice_settings"], "default_payment_method": method["id"]}
    world.change(customer, "customer.updated", invoice_settings=settings)
    for sub in world.every("subscription", customer=customer["id"]):
        if sub["status"] not in ENDED and sub["default_payment_method"] is not None:
            world.change(sub, "customer.subscription.updated", default_payment_method=method["id"])
    return method


def _subscription(world: World, customer: Obj, given: Obj) -> Obj:
    if (sub_id := given.get("subscription")) is not None:
        return world.used("subscription", sub_id, "subscription")
    live = [
        sub
        for sub in world.every("subscription", customer=customer["id"])
        if sub["status"] not in ENDED
    ]
    if not live:
        raise invalid("The customer has no subscription.", param="subscription")
    return live[-1]


def _act_on(world: World, sub: Obj, action: str, given: Obj, feature: Obj) -> Obj:
    if action == "undo_cancel":
        return subscriptions.change(world, sub, {"cancel_at_period_end": False})
    if action == "cancel":
        if (given.get("mode") or feature["mode"]) == "immediately":
            prorate = feature["proration_behavior"] != "none"
            return subscriptions.cancel_now(world, sub, prorate=prorate, invoice_now=prorate)
        details = {"cancellation_details": pick(given, "comment", "feedback")}
        return subscriptions.change(world, sub, {"cancel_at_period_end": True, **details})
    if action in ("pause", "resume"):
        template = f"/v1/subscriptions/{{subscription}}/{action}"
        path = template.replace("{subscription}", sub["id"])
        call = Call("POST", path, template, {"subscription": sub["id"]}, {"type": "subscription"})
        return {"pause": subscriptions.pause, "resume": subscriptions.resume}[action](world, call)
    item = items_of(sub)[0]
    change = {
        "items": [{"id": item["id"], **pick(given, "price", "quantity")}],
        "proration_behavior": feature["proration_behavior"],
        "payment_behavior": "pending_if_incomplete",
    }
    return subscriptions.change(world, sub, change)
