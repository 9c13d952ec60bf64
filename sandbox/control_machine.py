"""The control plane's routes for the machine: webhooks, faults, time, and looking in."""

from typing import Any, Final

import msgspec

from sandbox.account import TICK_SLACK_SECONDS, Account
from sandbox.calendar import DAY, iso, seconds
from sandbox.control import Body, Later, Nothing, on
from sandbox.errors import StripeError, invalid
from sandbox.faults import Order
from sandbox.postman import Delivery, Injection, Mode
from sandbox.settings import Settings
from sandbox.shapes import Obj, at

WALK_DAYS_MAX: Final = 1_500


class Webhooks(Body):
    mode: Mode
    seed: int = 0


class Release(Body):
    order: str | list[str] | None = None
    only: str | list[str] | None = None


class To(Body):
    to: str | float
    """ISO 8601 with a zone, or seconds since 1970."""


class Reset(Body):
    settings: Settings | None = None


# Webhooks, faults, time


def _shown(account: Account, one: Delivery) -> Obj:
    event = account.world.any(one.event) or {}
    return {
        "event": one.event,
        "type": event.get("type"),
        "object": at(event, "data", "object", "id"),
        "endpoint": one.endpoint,
        "url": one.url,
        "state": one.state,
        "next_at": None if one.next_at is None else iso(one.next_at),
        "attempts": one.attempts,
    }


@on("GET webhooks")
def _webhooks(account: Account, query: dict[str, str]) -> Obj:
    rows = [_shown(account, one) for one in account.postman.deliveries]
    kind = query.get("type")
    return {
        "mode": account.postman.mode,
        "data": [row for row in rows if kind in (None, row["type"])],
    }


@on("POST webhooks", Webhooks)
def _webhook_mode(account: Account, asked: Webhooks) -> Obj:
    account.postman.set_mode(asked.mode, asked.seed)
    return {"mode": asked.mode}


@on("POST webhooks/release", Release)
def _release(account: Account, asked: Release) -> Obj:
    words = ("created", "reverse", "shuffle")
    if isinstance(asked.order, str) and asked.order not in words:
        raise invalid(f"order is a list of events or one of {', '.join(words)}", param="order")
    only = [asked.only] if isinstance(asked.only, str) else asked.only
    order = None if asked.order == "created" else asked.order
    return {"released": account.postman.release(order, only)}


@on("POST webhooks/resend/{id}")
def _resend(account: Account, event_id: str, _: Nothing) -> Later:
    made = account.postman.resend(event_id)
    if made is None:
        raise StripeError(404, f"No such event: {event_id}")
    return Later(lambda: {"data": [_shown(account, one) for one in made]})


@on("POST webhooks/inject", Injection)
def _inject(account: Account, asked: Injection) -> Later:
    made = account.postman.inject(asked)
    event = made[0].event if made else asked.id
    return Later(lambda: {"event": event, "data": [_shown(account, one) for one in made]})


@on("POST faults", Order)
def _fault(account: Account, asked: Order) -> Obj:
    account.faults.orders.append(asked)
    return msgspec.to_builtins(asked)


@on("DELETE faults")
def _no_faults(account: Account, _: Nothing) -> Obj:
    account.faults.clear()
    return {"faults": []}


@on("GET faults")
def _faults(account: Account, _: dict[str, str]) -> Obj:
    return {"faults": msgspec.to_builtins(account.faults.orders)}


def _times(account: Account, **more: Any) -> Obj:
    now, due = account.clock.now(), account.next_due()
    return {"now": iso(now), "unix": now, "next": None if due is None else iso(due), **more}


@on("GET clock")
def _clock(account: Account, _: dict[str, str]) -> Obj:
    return _times(account, is_ticking=account.clock.is_ticking)


@on("GET clock/next")
def _next(account: Account, _: dict[str, str]) -> Obj:
    return _times(account)


@on("POST clock", To)
async def _walk(account: Account, asked: To) -> Obj:
    if account.is_led:
        raise StripeError(409, "This time is drawdown's: move it with POST /v1/test-clock there.")
    now = account.clock.now()
    try:
        to = seconds(asked.to) if isinstance(asked.to, str) else float(asked.to)
    except ValueError as error:
        raise invalid(f"to: {error}", param="to") from error
    slack = TICK_SLACK_SECONDS if account.clock.is_ticking else 0
    if to < now - slack:
        raise StripeError(422, f"Time only goes forward: it is {iso(now)}.", param="to")
    if to > now + WALK_DAYS_MAX * DAY:
        raise StripeError(422, f"At most {WALK_DAYS_MAX} days at once.", param="to")
    steps = await account.walk(to)
    return _times(account, steps=steps)


# Looking in, and beginning anew


@on("GET state")
def _state(account: Account, query: dict[str, str]) -> Obj:
    kind = query.get("object")
    return {
        name: list(table.values())
        for name, table in account.world.tables.items()
        if not name.startswith("standin.") and kind in (None, name)
    }


@on("GET requests")
def _requests(account: Account, query: dict[str, str]) -> Obj:
    path, method = query.get("path"), query.get("method")
    return {
        "data": [
            row
            for row in account.requests
            if (path is None or Order(kind="429", path=path).matches("*", row["path"]))
            and method in (None, row["method"])
        ]
    }


@on("POST reset", Reset)
def _reset(account: Account, asked: Reset) -> Obj:
    account.reset(asked.settings)
    return _times(account)
