"""Stripe's API over HTTP: who asks, what for, whether it was asked before, and the answer."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from sandbox import faults, forms, idempotency, keys, routing, schema
from sandbox.account import Account
from sandbox.errors import StripeError, invalid, unknown_url
from sandbox.expand import check_paths, expanded
from sandbox.idempotency import Answer
from sandbox.nouns import meter_stream
from sandbox.routing import Call
from sandbox.shapes import Obj, as_obj
from sandbox.wire import is_gone, reset

log: Final = logging.getLogger(__name__)

STREAM: Final = "/v2/billing/meter_event_stream"
LOOK_SECONDS: Final = 0.02
METER_EVENTS: Final = ("/v1/billing/meter_events", "/v2/billing/meter_events")
METER_SECONDS: Final = 0.002
"""One event takes that long, so that two at once for one customer and meter meet, and one loses."""
CLOCKED: Final = ("customer", "subscription", "invoice", "payment_intent", "charge")
"""Parameters whose object says which test clock a request lives by."""


class Asked:
    """A request on its way."""

    def __init__(self, request: web.BaseRequest, body: bytes, request_id: str) -> None:
        self.request, self.body, self.id = request, body, request_id
        self.method, self.path = request.method, request.path
        self.key = request.headers.get("Idempotency-Key")
        self.raw: Obj = {}
        self.token = ""
        self.is_replayed = False
        self.fault: str | None = None

    @property
    def is_v2(self) -> bool:
        return self.path.startswith("/v2/")

    @property
    def keeps_answer(self) -> bool:
        """Whether its idempotency key counts."""
        return self.key is not None and (
            self.method == "POST" or (self.is_v2 and self.method == "DELETE")
        )

    def read(self) -> None:
        """The parameters as they were sent. Raises StripeError 400."""
        if self.method == "POST" and self.is_v2:
            self.raw = _json(self.body)
            return
        query = self.request.rel_url.raw_query_string
        try:
            body = self.body.decode()
        except UnicodeDecodeError as error:
            raise invalid("The body is not UTF-8.") from error
        self.raw = forms.parse_form(body if self.method == "POST" else query or body)
        if self.is_v2:
            # The library says so which helper of its own made the request.
            self.raw.pop("usage", None)


def _json(body: bytes) -> Obj:
    try:
        found: Any = msgspec.json.decode(body) if body else {}
    except msgspec.DecodeError as error:
        raise invalid(f"Invalid JSON: {error}") from error
    if (body_obj := as_obj(found)) is None:
        raise invalid("The body must be a JSON object.")
    return body_obj


class Front:
    """Answers API requests for an account."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._metering = set[str]()
        """Event names and customers of events that are being taken."""

    async def answer(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        """One request from its first byte to its last, or to the reset that was ordered."""
        account = self.account
        asked = Asked(request, body, f"req_{account.world.secret(14)}")
        order: faults.Order | None = None
        try:
            asked.token = keys.sent_key(request.headers.get("Authorization"))
            if asked.path != STREAM:
                keys.check(account.keys, asked.token, asked.method, asked.path)
            asked.read()
            order = account.faults.take(asked.method, asked.path)
            if order is not None:
                asked.fault = order.kind
                if order.kind == "reset_before":
                    self._note(asked, None)
                    return reset(request)
                if (refusal := faults.refusal(order, asked.key)) is not None:
                    raise refusal
            answer = await self._act(asked, order)
        except StripeError as error:
            answer = _answer(error)
        self._note(asked, answer.status)
        account.postman.kick()
        if order is not None and order.kind == "reset_after":
            return reset(request)
        return self._response(asked, answer)

    async def _act(self, asked: Asked, order: faults.Order | None) -> Answer:
        """The answer to a request that is let through: a kept one, or a new one."""
        if asked.path in METER_EVENTS and asked.method == "POST":
            async with self._one_at_a_time(asked):
                return await self._act_alone(asked, order)
        return await self._act_alone(asked, order)

    @contextlib.asynccontextmanager
    async def _one_at_a_time(self, asked: Asked) -> AsyncGenerator[None]:
        """Stripe takes one call for a customer and a meter. Raises StripeError 429."""
        payload = as_obj(asked.raw.get("payload")) or {}
        both = f"{asked.raw.get('event_name')} {payload.get('stripe_customer_id')}"
        if both in self._metering:
            message = "Another meter event of this customer and meter is being processed."
            headers = {"Stripe-Rate-Limited-Reason": "resource-specific"}
            raise StripeError(429, message, code="rate_limit", headers=headers)
        self._metering.add(both)
        try:
            await asyncio.sleep(METER_SECONDS)
            yield
        finally:
            self._metering.remove(both)

    async def _act_alone(self, asked: Asked, order: faults.Order | None) -> Answer:
        memory, world = self.account.memory, self.account.world
        if not asked.keeps_answer:
            answer = self._run(asked, order)
            if order is not None and order.kind == "stall":
                await self._stall(asked, order)
            return answer
        key = f"{asked.token} {asked.key}"
        print_ = idempotency.fingerprint(asked.method, asked.path, asked.raw)
        found = memory.recall(key, print_, world.now, is_v2=asked.is_v2)
        if found is not None:
            asked.is_replayed = True
            return found
        answer = self._run(asked, order, key=key, print_=print_)
        if order is not None and order.kind == "stall":
            memory.running[key] = print_
            kept = memory.kept.pop(key, None)
            try:
                await self._stall(asked, order)
            finally:
                del memory.running[key]
                if kept is not None:
                    memory.kept[key] = kept
        return answer

    def _run(
        self,
        asked: Asked,
        order: faults.Order | None,
        *,
        key: str | None = None,
        print_: str = "",
    ) -> Answer:
        """Do it. From where it begins, its outcome is kept under its key, a failure too."""
        call = self._call(asked)
        world, memory = self.account.world, self.account.memory
        world.request = {"id": asked.id, "idempotency_key": asked.key}
        try:
            answer = _done(self.account, call)
        finally:
            world.request = {"id": None, "idempotency_key": None}
            self.account.version += asked.method != "GET"
        if order is not None and order.kind == "500_after":
            answer = _answer(faults.broken())
        is_kept = answer.status < 500 or not asked.is_v2
        if asked.is_v2 and answer.status >= 400:
            is_kept = False  # a repetition runs again
        if key is not None and is_kept:
            memory.keep(key, print_, answer, world.now)
        return answer

    def _call(self, asked: Asked) -> Call:
        """The route and its parameters. Raises StripeError 404, 400."""
        found = routing.find(asked.method, asked.path)
        if found is None:
            raise unknown_url(asked.method, asked.path)
        template, ids = found
        if asked.path == STREAM:
            meter_stream.check_token(self.account.world, asked.token)
        operation = f"{asked.method} {template}"
        params = schema.read_params(operation, asked.raw)
        check_paths(_answer_node(operation), params.get("expand", []))
        return Call(
            asked.method,
            asked.path,
            template,
            ids,
            params,
            asked.token,
            dict(asked.request.headers),
        )

    async def _stall(self, asked: Asked, order: faults.Order) -> None:
        """Keep the client waiting: until it goes, the orders are cleared, or the time is over."""
        cleared, loop = self.account.faults.cleared, asyncio.get_running_loop()
        end = loop.time() + order.seconds
        while loop.time() < end and not cleared.is_set() and not is_gone(asked.request):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(cleared.wait(), LOOK_SECONDS)

    def _note(self, asked: Asked, status: int | None) -> None:
        self.account.requests.append(
            {
                "id": asked.id,
                "at": self.account.world.now,
                "method": asked.method,
                "path": asked.path,
                "params": asked.raw,
                "idempotency_key": asked.key,
                "status": status,
                "replayed": asked.is_replayed,
                "fault": asked.fault,
            }
        )

    def _response(self, asked: Asked, answer: Answer) -> web.Response:
        headers = {
            "Request-Id": asked.id,
            "Stripe-Version": asked.request.headers.get("Stripe-Version", schema.VERSION),
            **answer.headers,
        }
        if asked.key is not None:
            headers["Idempotency-Key"] = asked.key
        if asked.is_replayed:
            headers["Idempotent-Replayed"] = "true"
            if answer.status >= 500:
                headers["Stripe-Should-Retry"] = "false"
        return web.Response(
            status=answer.status,
            text=answer.body,
            content_type="application/json",
            headers=headers,
        )


def _done(account: Account, call: Call) -> Answer:
    """Run the handler on the clock of its customer, expand, and do what was put off."""
    world, handler = account.world, routing.ROUTES[f"{call.method} {call.template}"]
    try:
        with world.on_clock(_clock_of(account, call)):
            result = handler(world, call)
            result = _expanded(account, call, result)
        answer = Answer(200, msgspec.json.encode(result).decode())
    except StripeError as error:
        answer = _answer(error)
    except Exception:
        log.exception("%s %s", call.method, call.path)
        answer = _answer(faults.broken())
    while world.after:
        world.after.pop(0)()
    return answer


def _expanded(account: Account, call: Call, result: Any) -> Any:
    paths: list[str] = call.params.get("expand", [])
    node = _answer_node(f"{call.method} {call.template}")
    return expanded(account.world, node, result, paths)


def _answer_node(operation: str) -> Obj:
    """The schema of an answer, as far as it matters to expansion."""
    described = schema.OPERATIONS[operation]
    if "returns" in described:
        return {"$ref": described["returns"]}
    inner = described.get("lists") or described.get("searches")
    items = {"type": "array", "items": {"$ref": inner} if inner else {}}
    return {"type": "object", "properties": {"data": items}}


def _clock_of(account: Account, call: Call) -> str | None:
    """The test clock of the object in the path, or of one that a parameter names."""
    world = account.world
    names = [call.params.get(name) for name in CLOCKED] + [*call.ids.values()]
    for name in names:
        found = world.any(name) if isinstance(name, str) else None
        if found is not None and "object" in found and (clock := world.clock_of(found)):
            return clock
    return None


def _answer(error: StripeError) -> Answer:
    headers = dict(error.headers)
    if 400 <= error.status < 409:
        headers.setdefault("Stripe-Should-Retry", "false")
    return Answer(error.status, msgspec.json.encode(error.body()).decode(), headers)


def query_of(request: web.BaseRequest) -> dict[str, str]:
    """The query of a page or of the control plane; the last value of a name counts."""
    found = parse_qs(request.rel_url.raw_query_string, keep_blank_values=True)
    return {name: values[-1] for name, values in found.items()}
