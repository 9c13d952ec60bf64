"""Webhook endpoints of API v1, event destinations of API v2, and the events themselves."""

from typing import Any

from sandbox import schema
from sandbox.calendar import iso
from sandbox.errors import invalid
from sandbox.lists import Readable, readable
from sandbox.nouns.meter_stream import emit_thin
from sandbox.routing import Call, route
from sandbox.shapes import Obj, at
from sandbox.world import World, merged_metadata, pick

ENDPOINTS_MAX = 16
URLS = ("http://", "https://")


def _is_type(world: World, event: Obj, wanted: Any) -> bool:
    names: list[str] = [wanted] if isinstance(wanted, str) else wanted
    return any(
        event["type"] == name or (name.endswith("*") and event["type"].startswith(name[:-1]))
        for name in names
    )


def _is_delivered(world: World, event: Obj, wanted: Any) -> bool:
    return (event["pending_webhooks"] == 0) == wanted


readable(
    Readable(
        "event",
        "/v1/events",
        "id",
        filters={"type": _is_type, "types": _is_type, "delivery_success": _is_delivered},
    )
)
readable(
    Readable(
        "webhook_endpoint", "/v1/webhook_endpoints", "webhook_endpoint", view=lambda _, e: shown(e)
    )
)


def shown(endpoint: Obj) -> Obj:
    """An endpoint without its secret, which is only told once."""
    return {name: value for name, value in endpoint.items() if name != "secret"}


def _check_url(world: World, url: str, param: str) -> None:
    if not url.startswith(URLS):
        raise invalid(
            "Invalid URL: An explicit scheme (such as https) must be provided.", param=param
        )
    if len(world.table("webhook_endpoint")) >= ENDPOINTS_MAX:
        message = f"You have reached the maximum of {ENDPOINTS_MAX} test webhook endpoints."
        raise invalid(message)


@route("POST /v1/webhook_endpoints")
def create(world: World, call: Call) -> Obj:
    given = call.params
    _check_url(world, given["url"], "url")
    return dict(
        made_endpoint(
            world,
            given["url"],
            given["enabled_events"],
            metadata=merged_metadata(None, given),
            **pick(given, "description", "api_version"),
        )
    )


def made_endpoint(
    world: World, url: str, events: list[str], *, secret: str | None = None, **members: Any
) -> Obj:
    """A place that snapshot events go to; stored."""
    endpoint = world.make(
        "webhook_endpoint",
        "we",
        enabled_events=events,
        metadata={},
        secret=secret or f"whsec_{world.secret(32)}",
        status="enabled",
        url=url,
    )
    endpoint.update({name: value for name, value in members.items() if value is not None})
    return world.store(endpoint)


@route("POST /v1/webhook_endpoints/{webhook_endpoint}")
def update(world: World, call: Call) -> Obj:
    endpoint, given = world.get("webhook_endpoint", call.id), call.params
    if "url" in given:
        _check_url(world, given["url"], "url")
    if "disabled" in given:
        endpoint["status"] = "disabled" if given["disabled"] else "enabled"
    endpoint.update(pick(given, "description", "enabled_events", "url"))
    endpoint["metadata"] = merged_metadata(endpoint["metadata"], given)
    return shown(endpoint)


@route("DELETE /v1/webhook_endpoints/{webhook_endpoint}")
def delete(world: World, call: Call) -> Obj:
    return world.remove(world.get("webhook_endpoint", call.id))


# Version 2


@route("GET /v2/core/events")
def list_events(world: World, call: Call) -> Obj:
    rows = [
        event
        for event in reversed(world.table("v2.core.event").values())
        if _is_wanted(event, call.params)
    ]
    return _v2_page(call, rows)


def _is_wanted(event: Obj, params: Obj) -> bool:
    related: str | None = at(event, "related_object", "id")
    if (wanted := params.get("object_id")) is not None and related != wanted:
        return False
    return "types" not in params or event["type"] in params["types"]


def _v2_page(call: Call, rows: list[Obj]) -> Obj:
    """The lists of API v2 have addresses of the next pages; all of it fits one here."""
    del call
    return {"data": rows, "next_page_url": None, "previous_page_url": None}


@route("GET /v2/core/events/{id}")
def retrieve_event(world: World, call: Call) -> Obj:
    return world.get("v2.core.event", call.id)


@route("GET /v2/core/event_destinations")
def list_destinations(world: World, call: Call) -> Obj:
    included = call.params.get("include", [])
    table = world.table("v2.core.event_destination")
    return _v2_page(call, [_seen(one, included) for one in reversed(table.values())])


def _seen(destination: Obj, included: list[str]) -> Obj:
    """What is not asked for is not told: the address, and the secret after creation."""
    where: Obj = destination["webhook_endpoint"]
    told = {
        name: where[name] if f"webhook_endpoint.{name}" in included else None
        for name in ("signing_secret", "url")
    }
    return {**destination, "webhook_endpoint": told}


@route("POST /v2/core/event_destinations")
def create_destination(world: World, call: Call) -> Obj:
    """A place for events of API v2; its secret only if that is asked for."""
    given = call.params
    url: str = given.get("webhook_endpoint", {}).get("url", "")
    if given["type"] != "webhook_endpoint":
        raise invalid("Only webhook endpoints are destinations here.", param="type")
    _check_url(world, url, "webhook_endpoint.url")
    made = made_destination(
        world,
        url,
        given["enabled_events"],
        payload=given["event_payload"],
        name=given["name"],
        description=given.get("description", ""),
        metadata=given.get("metadata", {}),
    )
    return _seen(made, [*given.get("include", [])])


def made_destination(
    world: World,
    url: str,
    events: list[str],
    *,
    payload: str = "thin",
    name: str = "stand-in",
    secret: str | None = None,
    description: str = "",
    metadata: Obj | None = None,
) -> Obj:
    """A place that thin (or snapshot) events go to; stored."""
    return world.store(
        {
            "id": f"ed_test_{world.secret()}",
            "object": "v2.core.event_destination",
            "created": iso(world.now),
            "description": description,
            "enabled_events": events,
            "event_payload": payload,
            "events_from": ["self"],
            "livemode": False,
            "metadata": metadata or {},
            "name": name,
            "snapshot_api_version": schema.VERSION if payload == "snapshot" else None,
            "status": "enabled",
            "status_details": None,
            "type": "webhook_endpoint",
            "updated": iso(world.now),
            "webhook_endpoint": {
                "signing_secret": secret or f"whsec_{world.secret(32)}",
                "url": url,
            },
        }
    )


@route("GET /v2/core/event_destinations/{id}")
def retrieve_destination(world: World, call: Call) -> Obj:
    found = world.get("v2.core.event_destination", call.id)
    return _seen(found, call.params.get("include", []))


@route("POST /v2/core/event_destinations/{id}")
def update_destination(world: World, call: Call) -> Obj:
    found, given = world.get("v2.core.event_destination", call.id), call.params
    found.update(pick(given, "description", "enabled_events", "name"))
    if (url := given.get("webhook_endpoint", {}).get("url")) is not None:
        found["webhook_endpoint"]["url"] = url
    found["updated"] = iso(world.now)
    return _seen(found, given.get("include", []))


@route("DELETE /v2/core/event_destinations/{id}")
def delete_destination(world: World, call: Call) -> Obj:
    world.remove(world.get("v2.core.event_destination", call.id))
    return {"id": call.id, "object": "v2.core.event_destination"}


@route("POST /v2/core/event_destinations/{id}/disable")
def disable(world: World, call: Call) -> Obj:
    found = world.get("v2.core.event_destination", call.id)
    found.update(status="disabled", status_details={"disabled": {"reason": "user"}})
    return _seen(found, [])


@route("POST /v2/core/event_destinations/{id}/enable")
def enable(world: World, call: Call) -> Obj:
    found = world.get("v2.core.event_destination", call.id)
    found.update(status="enabled", status_details=None)
    return _seen(found, [])


@route("POST /v2/core/event_destinations/{id}/ping")
def ping(world: World, call: Call) -> Obj:
    found = world.get("v2.core.event_destination", call.id)
    related = {
        "id": found["id"],
        "type": "v2.core.event_destination",
        "url": f"/v2/core/event_destinations/{found['id']}",
    }
    return emit_thin(world, "v2.core.event_destination.ping", related, None)
