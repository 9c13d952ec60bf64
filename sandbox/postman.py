"""Webhooks: signed, delivered, tried again by the clock; held, shuffled, doubled, lost on order."""

import asyncio
import hashlib
import hmac
import logging
import random
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import aiohttp
import msgspec
from msgspec import Meta

from sandbox import schema
from sandbox.calendar import iso
from sandbox.nouns.meter_stream import emit_thin
from sandbox.shapes import Obj
from sandbox.world import World

log: Final = logging.getLogger(__name__)

TIMEOUT_SECONDS: Final = 10.0
"""As Stripe's, as far as it is known."""
ANSWER_BYTES_MAX: Final = 4_096
ROUNDS_MAX: Final = 200
"""Deliveries that lead to events that lead to deliveries end somewhere."""
USER_AGENT: Final = "Stripe/1.0 (+https://stripe.com/docs/webhooks)"

Mode = Literal["deliver", "hold", "shuffle", "duplicate", "drop"]
State = Literal["waiting", "held", "dropped", "delivered", "failed"]


class Delivery(msgspec.Struct, kw_only=True):
    """One event on its way to one endpoint. The body never changes, its signature does."""

    event: str
    endpoint: str
    url: str
    secret: str
    body: str
    state: State = "waiting"
    next_at: float | None = None
    """Of a failed one: when it is tried again. None: now."""
    t_offset: int = 0
    attempts: list[Obj] = []


class Injection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An event that never happened, or happened otherwise."""

    type: str
    object: Annotated[str, Meta(max_length=255)] | dict[str, Any]
    """An id, for the object as it is now, or the whole object, for one as it never was."""
    livemode: bool = False
    created: int | None = None
    id: str | None = None
    secret: str | None = None
    t_offset: int = 0
    previous_attributes: dict[str, Any] | None = None


def signature(secret: str, body: str, at: int) -> str:
    """The value of `Stripe-Signature`."""
    digest = hmac.new(secret.encode(), f"{at}.{body}".encode(), hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class Postman:
    """Takes every event of a world and brings it where it is asked for."""

    def __init__(self, world: World) -> None:
        self.mode: Mode = "deliver"
        self.deliveries: list[Delivery] = []
        """All there ever were, in the order in which they came to be."""
        self._queue: list[Delivery] = []
        """Those that wait, in the order in which they go."""
        self._random = random.Random(0)
        self._lock = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._tasks = set[asyncio.Task[None]]()
        self.attach(world)

    def attach(self, world: World) -> None:
        """Serve this world from now on."""
        self.world = world
        world.listener = self._take

    # Taking

    def set_mode(self, mode: Mode, seed: int = 0) -> None:
        self.mode, self._random = mode, random.Random(seed)

    def _take(self, event: Obj) -> None:
        targets = self._targets(event)
        if event["object"] == "event":
            event["pending_webhooks"] = len(targets)
            self._twin(event)
        body = body_of(event)
        for endpoint_id, url, secret in targets:
            made = Delivery(
                event=event["id"], endpoint=endpoint_id, url=url, secret=secret, body=body
            )
            self._put(made)

    def _put(self, made: Delivery) -> None:
        if self.mode in ("hold", "drop"):
            made.state = "held" if self.mode == "hold" else "dropped"
        self._add([made])
        if self.mode == "duplicate":
            self._add([msgspec.structs.replace(made, attempts=[])])

    def _add(self, made: list[Delivery]) -> None:
        self.deliveries.extend(made)
        self._queue.extend(one for one in made if one.state == "waiting")

    def load(self, deliveries: list[Delivery]) -> None:
        """Take over these and forget all others."""
        self.deliveries, self._queue = [], []
        self._add(deliveries)

    def _targets(self, event: Obj) -> list[tuple[str, str, str]]:
        is_thin, kind = event["object"] != "event", event["type"]
        found = [
            (one["id"], one["url"], one["secret"])
            for one in self.world.table("webhook_endpoint").values()
            if not is_thin and _wants(one, kind)
        ]
        for one in self.world.table("v2.core.event_destination").values():
            if (one["event_payload"] == "thin") == is_thin and _wants(one, kind):
                where = one["webhook_endpoint"]
                found.append((one["id"], where["url"], where["signing_secret"]))
        return found

    def _twin(self, event: Obj) -> None:
        """The thin event beside a snapshot, for destinations that ask for it by name."""
        kind, obj = f"v1.{event['type']}", event["data"]["object"]
        wanted = any(
            one["event_payload"] == "thin" and kind in one["enabled_events"]
            for one in self.world.table("v2.core.event_destination").values()
        )
        if wanted and kind in schema.THIN_EVENTS and "id" in obj:
            related = {"id": obj["id"], "type": obj["object"], "url": f"/v1/{obj['id']}"}
            emit_thin(self.world, kind, related, None, snapshot_event=event["id"])

    def inject(self, asked: Injection) -> list[Delivery]:
        """Put an event on its way, in any mode, to all endpoints."""
        obj = asked.object
        if isinstance(obj, str):
            found = self.world.any(obj)
            obj = {"id": obj} if found is None else found
        data: Obj = {"object": obj}
        if asked.previous_attributes is not None:
            data["previous_attributes"] = asked.previous_attributes
        event: Obj = {
            "id": asked.id or f"evt_{self.world.secret()}",
            "object": "event",
            "api_version": schema.VERSION,
            "created": self.world.now if asked.created is None else asked.created,
            "data": data,
            "livemode": asked.livemode,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "type": asked.type,
        }
        if event["id"] not in self.world.kinds:
            self.world.store(event)
            self.world.note(event["id"])["is_invented"] = True
        body = body_of(event)
        made = [
            Delivery(
                event=event["id"],
                endpoint=endpoint_id,
                url=url,
                secret=asked.secret or secret,
                body=body,
                t_offset=asked.t_offset,
            )
            for endpoint_id, url, secret in self._targets(event)
        ]
        self._add(made)
        return made

    def release(self, order: str | Sequence[str] | None, only: Sequence[str] | None) -> int:
        """Let held deliveries go: `created`, `reverse`, `shuffle`, or the ids in their order."""
        types = {event_id: self._type(event_id) for event_id in {d.event for d in self.deliveries}}
        going = [
            one
            for one in self.deliveries
            if one.state == "held"
            and (only is None or one.event in only or types[one.event] in only)
        ]
        if order == "reverse":
            going.reverse()
        elif order == "shuffle":
            self._random.shuffle(going)
        elif order is not None and not isinstance(order, str):
            place = {name: number for number, name in enumerate(order)}
            last = len(place)
            going.sort(
                key=lambda one: min(place.get(one.event, last), place.get(types[one.event], last))
            )
        for one in going:
            one.state, one.next_at = "waiting", None
        self._queue.extend(going)
        return len(going)

    def _type(self, event_id: str) -> str:
        event = self.world.any(event_id)
        return "" if event is None else event["type"]

    def resend(self, event_id: str) -> list[Delivery] | None:
        """Send an event again, as the dashboard can; None if there is no such event."""
        event = self.world.any(event_id)
        if event is None or "type" not in event:
            return None
        known = [one for one in self.deliveries if one.event == event_id]
        body = known[0].body if known else body_of(event)
        made = [
            Delivery(event=event_id, endpoint=endpoint, url=url, secret=secret, body=body)
            for endpoint, url, secret in self._targets(event)
        ]
        self._add(made)
        return made

    # Delivering

    def kick(self) -> None:
        """Deliver in the background."""
        if any(self._is_due(one) for one in self._queue):
            task = asyncio.create_task(self.drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _is_due(self, one: Delivery) -> bool:
        return one.next_at is None or one.next_at <= self.world.now

    async def drain(self) -> None:
        """Deliver until nothing is due, also what these deliveries lead to."""
        async with self._lock:
            for _ in range(ROUNDS_MAX):
                self._queue = [one for one in self._queue if one.state == "waiting"]
                due = [one for one in self._queue if self._is_due(one)]
                if not due:
                    return
                if self.mode == "shuffle":
                    self._random.shuffle(due)
                for one in due:
                    await self._try(one)
            log.warning("webhooks lead to webhooks without end")

    async def _try(self, one: Delivery) -> None:
        at = self.world.now + one.t_offset
        status, error = await self._send(one, signature(one.secret, one.body, at))
        one.attempts.append({"at": iso(self.world.now), "t": at, "status": status, "error": error})
        if status is not None and 200 <= status < 300:
            one.state, one.next_at = "delivered", None
            event = self.world.any(one.event)
            if event is not None and event.get("pending_webhooks", 0) > 0:
                event["pending_webhooks"] -= 1
            return
        tries, delays = len(one.attempts), self.world.settings.webhook_retry_seconds
        if tries > len(delays) or not self._still_wanted(one):
            one.state, one.next_at = "failed", None
        else:
            one.next_at = self.world.now + delays[tries - 1]

    def _still_wanted(self, one: Delivery) -> bool:
        endpoint = self.world.any(one.endpoint)
        return endpoint is not None and endpoint["status"] == "enabled"

    async def _send(self, one: Delivery, header: str) -> tuple[int | None, str | None]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": header,
            "User-Agent": USER_AGENT,
        }
        try:
            async with self._session.post(
                one.url, data=one.body.encode(), headers=headers, allow_redirects=False
            ) as answer:
                await answer.content.read(ANSWER_BYTES_MAX)
                return answer.status, None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return None, type(error).__name__

    def next_due(self) -> float | None:
        """When the next failed delivery is tried again."""
        times = [
            one.next_at for one in self._queue if one.state == "waiting" and one.next_at is not None
        ]
        return min(times, default=None)

    async def close(self) -> None:
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None


def _wants(endpoint: Obj, kind: str) -> bool:
    if endpoint["status"] != "enabled":
        return False
    return kind in endpoint["enabled_events"] or "*" in endpoint["enabled_events"]


def body_of(event: Obj) -> str:
    """What goes over the wire. A thin event leaves its data to whoever fetches it."""
    if event["object"] != "event":
        event = {name: value for name, value in event.items() if name != "data"}
    return msgspec.json.encode(event).decode()
