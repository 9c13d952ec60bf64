"""One account at the stand-in: its world, its time, its keys, and what is on order for it."""

import os
import secrets
from collections import deque
from pathlib import Path
from typing import Final

import msgspec

from sandbox import agenda, schema
from sandbox.clock import Clock
from sandbox.faults import Faults
from sandbox.idempotency import Memory
from sandbox.keys import Keys
from sandbox.nouns import endpoints
from sandbox.postman import Delivery, Postman
from sandbox.settings import Settings
from sandbox.shapes import Obj, as_obj
from sandbox.world import World

REQUESTS_MAX: Final = 20_000
STEPS_MAX: Final = 100_000
TICK_SLACK_SECONDS: Final = 5
"""A clock that ticks may be asked for a time that was now when the asking began."""
THIN_TYPES: Final = (
    "v1.billing.meter.error_report_triggered",
    "v1.billing.meter.no_meter_found",
    "v2.core.event_destination.ping",
)


class Account:
    """Everything behind the routes."""

    def __init__(
        self,
        *,
        keys: Keys,
        clock: Clock,
        settings: Settings,
        webhook_url: str | None = None,
        seed: str | None = None,
        is_led: bool = False,
    ) -> None:
        self.keys, self.clock, self.settings = keys, clock, settings
        self.webhook_url = webhook_url
        self.base_url = ""
        self._seed = seed
        self.is_led = is_led
        """Somebody else's clock is this one's too: it is not moved from here."""
        self.faults = Faults()
        self.memory = Memory()
        self.requests: deque[Obj] = deque(maxlen=REQUESTS_MAX)
        self.version = 0
        """Grows with every request that may have changed something."""
        self.world = self._new_world()
        self.postman = Postman(self.world)

    def _new_world(self) -> World:
        seed = self._seed or secrets.token_hex(8)
        world = World(seed=seed, clock=self.clock.now, settings=self.settings)
        world.base_url = self.base_url
        return world

    def open(self, base_url: str) -> None:
        """Begin to serve under this address; the webhooks of `webhook_url` begin with it."""
        self.base_url = self.world.base_url = base_url
        self._register_webhook()

    def _register_webhook(self) -> None:
        """The endpoint that this stand-in was started with, for snapshots and for thin events."""
        if self.webhook_url is None:
            return
        known = self.world.note("stand-in endpoints")
        for found in [self.world.any(str(one)) for one in known.values()]:
            if found is not None:
                self.world.remove(found)
        secret = self.keys.webhook_secret
        version = {"api_version": schema.VERSION}
        known["snapshot"] = endpoints.made_endpoint(
            self.world, self.webhook_url, ["*"], secret=secret, **version
        )["id"]
        known["thin"] = endpoints.made_destination(
            self.world, self.webhook_url, [*THIN_TYPES], secret=secret
        )["id"]

    def reset(self, settings: Settings | None = None) -> None:
        """Begin anew: no objects, events, keys or orders. The time stays."""
        if settings is not None:
            self.settings = settings
        self.world = self._new_world()
        self.postman.load([])
        self.postman.set_mode("deliver")
        self.postman.attach(self.world)
        self.faults.clear()
        self.memory = Memory()
        self.requests.clear()
        self._register_webhook()

    # Time

    def next_due(self) -> float | None:
        """The next instant at which something happens by itself."""
        due, delivery = agenda.soonest(self.world), self.postman.next_due()
        times = [*([due[0]] if due else []), *([delivery] if delivery is not None else [])]
        return max(self.clock.now(), min(times)) if times else None

    async def walk(self, to: float) -> int:
        """Go to a time, from one due instant to the next, and finish each; how many there were.

        Deliveries of an instant are tried before the next one.
        """
        steps = 0
        await self.postman.drain()
        while steps < STEPS_MAX:
            due, delivery = agenda.soonest(self.world), self.postman.next_due()
            times = [*([due[0]] if due else []), *([delivery] if delivery is not None else [])]
            if not times or min(times) > to:
                break
            at = min(times)
            self.clock.forward(at)
            if due is not None and due[0] == at:
                agenda.act(self.world, due[1])
            await self.postman.drain()
            steps += 1
        self.clock.forward(to)
        await self.postman.drain()
        self.memory.prune(self.world.now)
        self.version += 1
        return steps

    # Files

    def dump(self) -> Obj:
        return {
            "clock": self.clock.dump(),
            "keys": msgspec.to_builtins(self.keys),
            "seed": self.world.seed,
            "world": self.world.dump(),
            "deliveries": msgspec.to_builtins(self.postman.deliveries),
            "memory": self.memory.dump(),
        }

    def load(self, dumped: Obj) -> None:
        """Take over what was dumped; the time goes on from there."""
        self.clock.restore(dumped["clock"])
        self.world.seed = dumped["seed"]
        self.world.load(dumped["world"])
        self.postman.load(msgspec.convert(dumped["deliveries"], list[Delivery]))
        self.memory.load(dumped["memory"])


def read_file(path: Path) -> Obj | None:
    """What `write_file` wrote; None if there is no file. Raises ValueError for another content."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    found = as_obj(msgspec.json.decode(text))
    if found is None or "world" not in found:
        raise ValueError(f"{path} is no state of the stand-in")
    return found


def write_file(path: Path, account: Account) -> None:
    """Keep the state, readable for its owner only. A crash leaves the old file or the new one."""
    beside = path.with_name(f"{path.name}.new")
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(file, "wb") as writer:
        writer.write(msgspec.json.encode(account.dump()))
        writer.flush()
        os.fsync(writer.fileno())
    beside.replace(path)
