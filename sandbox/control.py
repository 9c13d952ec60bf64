"""The control plane: what people do at Stripe, and what goes wrong there, on order.

Each answer comes after the work that it caused, deliveries included.
"""

import inspect
import re
import secrets
from collections.abc import Callable
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from sandbox.account import TICK_SLACK_SECONDS, Account
from sandbox.calendar import DAY, iso, seconds
from sandbox.errors import StripeError, invalid, unknown_url
from sandbox.faults import Order
from sandbox.front import query_of
from sandbox.nouns import (
    checkout,
    checkout_pays,
    customers,
    disputes,
    meter_stream,
    meters,
    paying,
    payment_methods,
    portal,
    refunds,
    setup_intents,
)
from sandbox.postman import Delivery, Injection, Mode
from sandbox.settings import Settings
from sandbox.shapes import Obj, at

WALK_DAYS_MAX: Final = 1_500
PREFIX: Final = "/_sandbox/"


class Body(Struct, kw_only=True, forbid_unknown_fields=True):
    """Members that a route takes; others are refused, as a typing error is not a wish."""


class Complete(Body):
    payment_method: str = "pm_card_visa"
    delayed: bool = False
    authentication: Literal["succeeded", "failed", "pending"] = "succeeded"
    promotion_code: str | None = None


class Settle(Body):
    outcome: Literal["succeeded", "failed"] = "succeeded"


class Confirm(Body):
    payment_method: str = "pm_card_visa"


class Refund(Body):
    payment_intent: str
    amount: int | None = None
    status: Literal["pending", "requires_action", "succeeded"] = "succeeded"
    reason: Literal["duplicate", "fraudulent", "requested_by_customer"] | None = None


class Dispute(Body):
    payment_intent: str
    amount: int | None = None
    inquiry: bool = False
    reason: str = "fraudulent"


class Warn(Body):
    payment_intent: str


class Reject(Body):
    code: str
    identifier: str | None = None
    sampled: bool = True


class Lag(Body):
    seconds: Annotated[int, Meta(ge=0, le=30 * DAY)]


class Webhooks(Body):
    mode: Mode
    seed: int = 0


class Release(Body):
    order: str | list[str] | None = None
    only: str | list[str] | None = None


class To(Body):
    to: str | float
    """ISO 8601 with a zone, or seconds since 1970."""


class Nothing(Body):
    pass


class Reset(Body):
    settings: Settings | None = None


class _Later:
    """An answer that is read off once the deliveries were tried."""

    def __init__(self, read: Callable[[], Obj]) -> None:
        self.read = read


Handler = Callable[..., Any]
"""Of the account, the ids of the path, and the body (of GET: the query)."""

_ROUTES: Final[list[tuple[str, re.Pattern[str], type[Struct] | None, Handler]]] = []


def _on(operation: str, body: type[Struct] | None = Nothing) -> Callable[[Handler], Handler]:
    """Let a function answer `METHOD path/{id}`."""
    method, _, path = operation.partition(" ")
    pattern = re.compile(re.sub(r"{(\w+)}", r"([^/]+)", path))

    def register(handler: Handler) -> Handler:
        _ROUTES.append((method, pattern, body, handler))
        return handler

    return register


def paths() -> list[str]:
    """Every route, as the documentation lists them."""
    return [
        f"{method} {pattern.pattern.replace('([^/]+)', '{id}')}" for method, pattern, *_ in _ROUTES
    ]


class Control:
    """Answers the routes under `/_sandbox/` for an account."""

    def __init__(self, account: Account) -> None:
        self.account = account

    async def answer(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        try:
            self._admit(request)
            result = self._dispatch(request, body)
            if inspect.isawaitable(result):
                result = await result
            status = 200
        except StripeError as error:
            status, result = error.status, error.body()
        self.account.version += request.method != "GET"
        await self.account.postman.drain()
        if isinstance(result, _Later):
            result = result.read()
        return web.Response(
            status=status, body=msgspec.json.encode(result), content_type="application/json"
        )

    def _admit(self, request: web.BaseRequest) -> None:
        """Only from this machine, and only with the token. Raises StripeError 403, 401."""
        try:
            is_near = ip_address(request.remote or "").is_loopback
        except ValueError:
            is_near = False
        if not is_near:
            raise StripeError(403, "The control plane is for this machine only.")
        kind, _, sent = request.headers.get("Authorization", "").partition(" ")
        token = self.account.keys.token.encode()
        if kind.lower() != "bearer" or not secrets.compare_digest(sent.strip().encode(), token):
            raise StripeError(401, "The control plane needs its own token as bearer.")

    def _dispatch(self, request: web.BaseRequest, body: bytes) -> Any:
        path = request.path.removeprefix(PREFIX).rstrip("/")
        for method, pattern, kind, handler in _ROUTES:
            match = pattern.fullmatch(path) if method == request.method else None
            if match is None:
                continue
            given: Any = query_of(request) if method == "GET" else _read(kind, body)
            return handler(self.account, *match.groups(), given)
        raise unknown_url(request.method, request.path)


def _read(kind: type[Struct] | None, body: bytes) -> Any:
    try:
        if kind is None:
            return msgspec.json.decode(body or b"{}", type=dict[str, Any])
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise invalid(str(error)) from error


# Customers pay


@_on("POST checkout/{id}/complete", Complete)
def _complete(account: Account, session_id: str, asked: Complete) -> Obj:
    session = account.world.get("checkout.session", session_id)
    return checkout_pays.complete(
        account.world,
        session,
        asked.payment_method,
        delayed=asked.delayed,
        authentication=asked.authentication,
        promotion_code=asked.promotion_code,
    )


@_on("POST checkout/{id}/settle", Settle)
def _settle(account: Account, session_id: str, asked: Settle) -> Obj:
    world = account.world
    session = world.get("checkout.session", session_id)
    intent_id = session["payment_intent"]
    if intent_id is None and session["invoice"] is not None:
        intent_id = world.note(session["invoice"]).get("intent")
    if intent_id is None:
        raise invalid("This session has no payment that could be settled.")
    with world.on_clock(world.clock_of(session)):
        paying.settle(world, world.get("payment_intent", intent_id), asked.outcome)
    return session


@_on("POST checkout/{id}/expire")
def _expire(account: Account, session_id: str, _: Nothing) -> Obj:
    session = account.world.get("checkout.session", session_id)
    if session["status"] != "open":
        raise invalid(f"This Checkout Session is {session['status']}.")
    return checkout.expired(account.world, session)


@_on("POST payment-intents/{id}/confirm", Confirm)
def _confirm(account: Account, intent_id: str, asked: Confirm) -> Obj:
    world = account.world
    intent = world.get("payment_intent", intent_id)
    with world.on_clock(world.clock_of(intent)):
        method = payment_methods.used(world, asked.payment_method)
        return paying.confirm(world, intent, method)


@_on("POST payment-intents/{id}/authenticate", Settle)
def _authenticate(account: Account, intent_id: str, asked: Settle) -> Obj:
    world = account.world
    intent = world.get("payment_intent", intent_id)
    with world.on_clock(world.clock_of(intent)):
        return paying.authenticate(world, intent, asked.outcome)


@_on("POST payment-intents/{id}/settle", Settle)
def _settle_intent(account: Account, intent_id: str, asked: Settle) -> Obj:
    world = account.world
    intent = world.get("payment_intent", intent_id)
    with world.on_clock(world.clock_of(intent)):
        return paying.settle(world, intent, asked.outcome)


@_on("POST setup-intents/{id}/confirm", Confirm)
def _confirm_setup(account: Account, intent_id: str, asked: Confirm) -> Obj:
    world = account.world
    intent = world.get("setup_intent", intent_id)
    with world.on_clock(world.clock_of(intent)):
        method = payment_methods.used(world, asked.payment_method)
        return setup_intents.save(world, intent, method)


@_on("POST setup-intents/{id}/authenticate", Settle)
def _authenticate_setup(account: Account, intent_id: str, asked: Settle) -> Obj:
    world = account.world
    return setup_intents.authenticate(world, world.get("setup_intent", intent_id), asked.outcome)


# People at Stripe, at banks, and in the portal


def _charge_of(account: Account, intent_id: str) -> Obj:
    world = account.world
    intent = world.get("payment_intent", intent_id, param="payment_intent")
    if intent["status"] != "succeeded":
        raise invalid(f"This PaymentIntent is {intent['status']}.", param="payment_intent")
    return world.get("charge", intent["latest_charge"])


@_on("POST refunds", Refund)
def _refund(account: Account, asked: Refund) -> Obj:
    charge = _charge_of(account, asked.payment_intent)
    return refunds.refund(
        account.world, charge, asked.amount, status=asked.status, reason=asked.reason
    )


@_on("POST refunds/{id}/succeed")
def _refund_succeed(account: Account, refund_id: str, _: Nothing) -> Obj:
    return refunds.succeed(account.world, account.world.get("refund", refund_id))


@_on("POST refunds/{id}/fail")
def _refund_fail(account: Account, refund_id: str, _: Nothing) -> Obj:
    return refunds.give_up(account.world, account.world.get("refund", refund_id), "failed")


@_on("POST refunds/{id}/cancel")
def _refund_cancel(account: Account, refund_id: str, _: Nothing) -> Obj:
    return refunds.give_up(account.world, account.world.get("refund", refund_id), "canceled")


@_on("POST disputes", Dispute)
def _dispute(account: Account, asked: Dispute) -> Obj:
    charge = _charge_of(account, asked.payment_intent)
    return disputes.open_dispute(
        account.world, charge, asked.amount, inquiry=asked.inquiry, reason=asked.reason
    )


@_on("POST disputes/{id}/{act}")
def _dispute_act(account: Account, dispute_id: str, act: str, _: Nothing) -> Obj:
    acts = {
        "win": disputes.win,
        "lose": disputes.lose,
        "close_inquiry": disputes.close_inquiry,
        "escalate": disputes.escalate,
    }
    if act not in acts:
        raise unknown_url("POST", f"{PREFIX}disputes/{dispute_id}/{act}")
    return acts[act](account.world, account.world.get("dispute", dispute_id))


@_on("POST early-fraud-warnings", Warn)
def _warn(account: Account, asked: Warn) -> Obj:
    return disputes.warn(account.world, _charge_of(account, asked.payment_intent))


@_on("POST customers/{id}/payment-method", Confirm)
def _swap(account: Account, customer_id: str, asked: Confirm) -> Obj:
    customer = account.world.used("customer", customer_id, "customer")
    return portal.replace_method(account.world, customer, asked.payment_method)


@_on("POST customers/{id}/delete")
def _delete(account: Account, customer_id: str, _: Nothing) -> Obj:
    customer = account.world.used("customer", customer_id, "customer")
    return customers.deleted(account.world, customer)


@_on("POST portal/{id}/act", None)
def _portal(account: Account, session_id: str, given: Obj) -> Obj:
    world = account.world
    session = world.get("billing_portal.session", session_id)
    with world.on_clock(world.clock_of(session)):
        return portal.act(world, session, str(given.pop("action", "")), given)


# Metering


@_on("POST meters/{id}/reject", Reject)
def _reject(account: Account, event_name: str, asked: Reject) -> Obj:
    if asked.code not in meters.MESSAGES:
        raise invalid(f"code is one of {', '.join(sorted(meters.MESSAGES))}", param="code")
    taken = meter_stream.reject(
        account.world, event_name, asked.identifier, asked.code, asked.sampled
    )
    return {"rejected": taken, "ordered": 1 - taken}


@_on("POST meters/{id}/lag", Lag)
def _lag(account: Account, event_name: str, asked: Lag) -> Obj:
    account.world.note("meter lag")[event_name] = asked.seconds
    return {"seconds": asked.seconds}


@_on("GET meters/{id}/total")
def _total(account: Account, event_name: str, query: dict[str, str]) -> Obj:
    """Everything that counts, of all time."""
    world = account.world
    meter = meters.meter_of(world, event_name)
    if meter is None:
        raise StripeError(404, f"No meter with the event name {event_name}")
    rows = [
        row
        for row in world.table("billing.meter_event").values()
        if row["meter"] == meter["id"]
        and row["is_counted"]
        and row["customer"] == query.get("customer", row["customer"])
    ]
    owners = dict.fromkeys(row["customer"] for row in rows)
    end = max((row["timestamp"] for row in rows), default=0) + 1
    total = sum(meters.total(world, meter, owner, 0, end) for owner in owners)
    return {"meter": meter["id"], "total": format(total, "f") if rows else "0", "events": len(rows)}


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


@_on("GET webhooks")
def _webhooks(account: Account, query: dict[str, str]) -> Obj:
    rows = [_shown(account, one) for one in account.postman.deliveries]
    kind = query.get("type")
    return {
        "mode": account.postman.mode,
        "data": [row for row in rows if kind in (None, row["type"])],
    }


@_on("POST webhooks", Webhooks)
def _webhook_mode(account: Account, asked: Webhooks) -> Obj:
    account.postman.set_mode(asked.mode, asked.seed)
    return {"mode": asked.mode}


@_on("POST webhooks/release", Release)
def _release(account: Account, asked: Release) -> Obj:
    words = ("created", "reverse", "shuffle")
    if isinstance(asked.order, str) and asked.order not in words:
        raise invalid(f"order is a list of events or one of {', '.join(words)}", param="order")
    only = [asked.only] if isinstance(asked.only, str) else asked.only
    order = None if asked.order == "created" else asked.order
    return {"released": account.postman.release(order, only)}


@_on("POST webhooks/resend/{id}")
def _resend(account: Account, event_id: str, _: Nothing) -> _Later:
    made = account.postman.resend(event_id)
    if made is None:
        raise StripeError(404, f"No such event: {event_id}")
    return _Later(lambda: {"data": [_shown(account, one) for one in made]})


@_on("POST webhooks/inject", Injection)
def _inject(account: Account, asked: Injection) -> _Later:
    made = account.postman.inject(asked)
    event = made[0].event if made else asked.id
    return _Later(lambda: {"event": event, "data": [_shown(account, one) for one in made]})


@_on("POST faults", Order)
def _fault(account: Account, asked: Order) -> Obj:
    account.faults.orders.append(asked)
    return msgspec.to_builtins(asked)


@_on("DELETE faults")
def _no_faults(account: Account, _: Nothing) -> Obj:
    account.faults.clear()
    return {"faults": []}


@_on("GET faults")
def _faults(account: Account, _: dict[str, str]) -> Obj:
    return {"faults": msgspec.to_builtins(account.faults.orders)}


def _times(account: Account, **more: Any) -> Obj:
    now, due = account.clock.now(), account.next_due()
    return {"now": iso(now), "unix": now, "next": None if due is None else iso(due), **more}


@_on("GET clock")
def _clock(account: Account, _: dict[str, str]) -> Obj:
    return _times(account, is_ticking=account.clock.is_ticking)


@_on("GET clock/next")
def _next(account: Account, _: dict[str, str]) -> Obj:
    return _times(account)


@_on("POST clock", To)
async def _walk(account: Account, asked: To) -> Obj:
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


@_on("GET state")
def _state(account: Account, query: dict[str, str]) -> Obj:
    kind = query.get("object")
    return {
        name: list(table.values())
        for name, table in account.world.tables.items()
        if not name.startswith("standin.") and kind in (None, name)
    }


@_on("GET requests")
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


@_on("POST reset", Reset)
def _reset(account: Account, asked: Reset) -> Obj:
    account.reset(asked.settings)
    return _times(account)
