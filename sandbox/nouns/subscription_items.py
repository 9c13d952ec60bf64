"""Items of subscriptions, one by one: each change is a change of the subscription."""

from sandbox.errors import missing
from sandbox.lists import page
from sandbox.nouns import subscriptions
from sandbox.nouns.subscribing import items_of
from sandbox.routing import Call, route
from sandbox.shapes import Obj
from sandbox.world import World

ITEM = ("price", "plan", "price_data", "quantity", "metadata", "tax_rates", "discounts")
CHANGE = ("payment_behavior", "proration_behavior", "proration_date", "off_session")


def _owner(world: World, item_id: str) -> tuple[Obj, Obj]:
    for sub in world.every("subscription"):
        for item in items_of(sub):
            if item["id"] == item_id:
                return sub, item
    raise missing("subscription_item", item_id)


def _change(world: World, sub: Obj, item: Obj, given: Obj) -> None:
    how = {name: given[name] for name in CHANGE if name in given}
    subscriptions.change(world, sub, {**how, "items": [item]})


@route("GET /v1/subscription_items")
def list_items(world: World, call: Call) -> Obj:
    sub = world.used("subscription", call.params["subscription"], "subscription")
    return page(call, items_of(sub))


@route("GET /v1/subscription_items/{item}")
def retrieve(world: World, call: Call) -> Obj:
    return _owner(world, call.id)[1]


@route("POST /v1/subscription_items")
def create(world: World, call: Call) -> Obj:
    given = call.params
    sub = world.used("subscription", given["subscription"], "subscription")
    known = {item["id"] for item in items_of(sub)}
    _change(world, sub, {name: given[name] for name in ITEM if name in given}, given)
    fresh = [item for item in items_of(sub) if item["id"] not in known]
    return fresh[0] if fresh else sub["pending_update"]["subscription_items"][-1]


@route("POST /v1/subscription_items/{item}")
def update(world: World, call: Call) -> Obj:
    given = call.params
    sub, item = _owner(world, call.id)
    change = {name: given[name] for name in ITEM if name in given}
    _change(world, sub, {"id": item["id"], **change}, given)
    return _owner(world, call.id)[1]


@route("DELETE /v1/subscription_items/{item}")
def delete(world: World, call: Call) -> Obj:
    sub, item = _owner(world, call.id)
    _change(world, sub, {"id": item["id"], "deleted": True}, call.params)
    return {"id": item["id"], "object": "subscription_item", "deleted": True}
