"""The state of the account: every object, and the one place where objects change and events begin.

Nothing here waits, so a request is done as a whole or not at all as others see it.
"""

import hashlib
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from sandbox import reactions, schema
from sandbox.errors import missing
from sandbox.lives import LIVES
from sandbox.settings import Settings
from sandbox.shapes import Obj, as_obj

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH: Final = 24


def copied(value: Any) -> Any:
    """The same JSON, sharing nothing."""
    return msgspec.json.decode(msgspec.json.encode(value))


class World:
    """All objects by kind and id, and what only the stand-in knows of them (`notes`)."""

    def __init__(self, *, seed: str, clock: Callable[[], float], settings: Settings) -> None:
        self.seed, self.settings, self._clock = seed, settings, clock
        self.counter = 0
        self.tables: dict[str, dict[str, Obj]] = {}
        self.kinds: dict[str, str] = {}
        self.live: dict[str, dict[str, Obj]] = {}
        """Objects that time may still do something to; the agenda takes out what is over."""
        self.notes: dict[str, Obj] = {}
        self.base_url = ""
        self.request: Obj = {"id": None, "idempotency_key": None}
        self.after: list[Callable[[], None]] = []
        """What is to be done once the answer of the running request is made."""
        self.listener: Callable[[Obj], None] | None = None
        """Told each new event, snapshot or thin."""
        self._frozen: int | None = None
        self._original: World | None = None
        """Of a fork: what it was made from."""

    # Time and names

    @property
    def now(self) -> int:
        """In whole seconds; of the test clock if one is in force."""
        return int(self._clock()) if self._frozen is None else self._frozen

    @contextmanager
    def on_clock(self, clock_id: str | None) -> Generator[None]:
        """Let a test clock be the time."""
        before = self._frozen
        if clock_id is not None and (clock := self.table("test_helpers.test_clock").get(clock_id)):
            self._frozen = clock["frozen_time"]
        try:
            yield
        finally:
            self._frozen = before

    def clock_of(self, obj: Obj) -> str | None:
        """The test clock that an object lives by, if any."""
        if obj["object"] == "test_helpers.test_clock":
            return obj["id"]
        if (clock_id := obj.get("test_clock")) is not None:
            return clock_id
        customer = self.table("customer").get(str(obj.get("customer")))
        return customer.get("test_clock") if customer else None

    def secret(self, length: int = ID_LENGTH) -> str:
        """Letters and digits that never come again; the same ones for the same seed."""
        self.counter += 1
        digest = hashlib.blake2b(f"{self.seed}/{self.counter}".encode()).digest()
        number, made = int.from_bytes(digest), ""
        while len(made) < length:
            number, rest = divmod(number, len(_ALPHABET))
            made += _ALPHABET[rest]
        return made

    # Reading

    @property
    def is_fork(self) -> bool:
        return self._original is not None

    def table(self, kind: str) -> dict[str, Obj]:
        """All objects of a kind. A fork copies them when it looks for the first time."""
        if kind not in self.tables:
            original = self._original
            self.tables[kind] = {} if original is None else copied(original.table(kind))
        return self.tables[kind]

    def every(self, kind: str, **members: Any) -> list[Obj]:
        """Objects with these members, oldest first."""
        return [
            obj
            for obj in self.table(kind).values()
            if all(obj.get(name) == value for name, value in members.items())
        ]

    def get(self, kind: str, object_id: str, *, param: str = "id") -> Obj:
        """The object. Raises StripeError 404 `resource_missing`."""
        if (obj := self.table(kind).get(object_id)) is None:
            raise missing(kind, object_id, param=param)
        return obj

    def used(self, kind: str, object_id: str, param: str) -> Obj:
        """An object that a parameter names. Raises StripeError 400 `resource_missing`."""
        obj = self.table(kind).get(object_id)
        if obj is None or obj.get("deleted"):
            raise missing(kind, object_id, param=param, status=400)
        return obj

    def any(self, object_id: str) -> Obj | None:
        kind = self.kinds.get(object_id)
        if kind is None and self._original is not None:
            kind = self._original.kinds.get(object_id)
        return None if kind is None else self.table(kind).get(object_id)

    def note(self, object_id: str) -> Obj:
        """What only the stand-in knows of an object."""
        if object_id not in self.notes:
            original = self._original
            self.notes[object_id] = {} if original is None else copied(original.note(object_id))
        return self.notes[object_id]

    # Changing

    def make(self, kind: str, prefix: str, **members: Any) -> Obj:
        """A new object with every member that Stripe sends; not stored yet."""
        made = schema.blank(kind)
        made.update(id=f"{prefix}_{self.secret()}", object=kind)
        if "created" in made:
            made["created"] = self.now
        if "livemode" in made:
            made["livemode"] = False
        made.update(members)
        return made

    def store(self, obj: Obj) -> Obj:
        """Keep an object that nobody is told about."""
        self.table(obj["object"])[obj["id"]] = obj
        self.kinds[obj["id"]] = obj["object"]
        self._watch(obj)
        return obj

    def _watch(self, obj: Obj) -> None:
        kind = obj["object"]
        if kind in LIVES or kind.startswith("standin."):
            self.live.setdefault(kind, {})[obj["id"]] = obj

    def add(self, obj: Obj, *events: str) -> Obj:
        """Keep a new object and tell it."""
        self.store(obj)
        for event in events:
            self.emit(event, obj)
        return obj

    def change(self, obj: Obj, *events: str, **members: Any) -> Obj:
        """Change members, and tell it with what they were, unless nothing is new."""
        before = {
            name: copied(obj.get(name))
            for name, value in members.items()
            if obj.get(name) != value or name not in obj
        }
        obj.update(members)
        if before:
            for event in events:
                self.emit(event, obj, before)
        return obj

    def move(self, obj: Obj, status: str, **members: Any) -> Obj:
        """Let an object enter another status, with the events that belong to it.

        Raises RuntimeError for a way that does not exist: whoever calls has asked before.
        """
        life, old = LIVES[obj["object"]], obj["status"]
        if not life.may(old, status):
            raise RuntimeError(f"{obj['id']}: {old} cannot become {status}")
        before = {
            name: copied(obj.get(name))
            for name, value in {"status": status, **members}.items()
            if obj.get(name) != value
        }
        obj.update(status=status, **members)
        for event in life.told(status):
            self.emit(event, obj, before if event.endswith(".updated") else None)
        return obj

    def remove(self, obj: Obj, *events: str) -> Obj:
        """Forget an object. The answer that Stripe gives for it."""
        self.table(obj["object"]).pop(obj["id"], None)
        self.live.get(obj["object"], {}).pop(obj["id"], None)
        for event in events:
            self.emit(event, obj)
        return {"id": obj["id"], "object": obj["object"], "deleted": True}

    # Events

    def emit(self, kind: str, obj: Obj, previous: Obj | None = None) -> None:
        """Tell a change: to the outside as an event, and to what else here depends on it."""
        if not self.is_fork:
            data: Obj = {"object": copied(obj)}
            if previous:
                data["previous_attributes"] = previous
            event = {
                "id": f"evt_{self.secret()}",
                "object": "event",
                "api_version": schema.VERSION,
                "created": self.now,
                "data": data,
                "livemode": False,
                "pending_webhooks": 0,
                "request": dict(self.request),
                "type": kind,
            }
            self.store(event)
            if self.listener is not None:
                self.listener(event)
        self.react(kind, obj)

    def react(self, kind: str, obj: Obj) -> None:
        """Let what depends on a change follow, without telling the outside."""
        for reaction in reactions.of(kind):
            reaction(self, obj)

    # Copies

    def dump(self) -> Obj:
        """Everything that `load` needs."""
        return {
            "counter": self.counter,
            "tables": self.tables,
            "notes": {name: note for name, note in self.notes.items() if note},
        }

    def load(self, dumped: Obj) -> None:
        """Take over what was dumped."""
        self.counter, self.tables = dumped["counter"], dumped["tables"]
        self.notes = dumped["notes"]
        self.kinds = {key: kind for kind, table in self.tables.items() for key in table}
        self.live = {}
        for table in self.tables.values():
            for obj in table.values():
                self._watch(obj)

    def fork(self) -> "World":
        """A copy in which things can be tried. It tells nobody."""
        fork = World(seed=f"{self.seed}/fork", clock=self._clock, settings=self.settings)
        fork.counter, fork.base_url, fork._frozen = self.counter, self.base_url, self._frozen
        fork._original = self
        return fork


def pick(given: Obj, *names: str) -> Obj:
    """Those members that are there; an empty string clears, inside too."""
    return {name: _cleared(given[name]) for name in names if name in given}


def _cleared(value: Any) -> Any:
    if value == "":
        return None
    if (members := as_obj(value)) is not None:
        return {name: _cleared(inner) for name, inner in members.items()}
    return value


def merged_metadata(old: Obj | None, given: Obj, name: str = "metadata") -> Obj:
    """Metadata after a request: an empty value deletes its key, an empty string all."""
    change = given.get(name, {})
    if change == "":
        return {}
    merged = {**(old or {}), **change}
    return {key: value for key, value in merged.items() if value != ""}


def listed(data: Iterable[Obj], url: str) -> Obj:
    """A list inside an object."""
    return {"object": "list", "data": list(data), "has_more": False, "url": url}
