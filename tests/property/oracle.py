"""A second opinion on the simple operations, written from the rules and sharing no code with them.

It knows posted, held, available, owed and billed of one customer after grants, reserves, captures,
voids, extends, consumes and time. Undoing, series and late usage are beyond it.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

LIFETIME = timedelta(days=2)


@dataclass
class Parcel:
    """A lot: what is free in it, and until when."""

    rank: tuple[object, ...]
    start: datetime
    end: datetime | None
    free: int
    waits: bool
    voided: bool = False


@dataclass
class Pledge:
    """A hold: what it has of each parcel, and what was promised beyond."""

    born: datetime
    deadline: datetime
    policy: str | None
    promised: int
    parts: dict[int, int] = field(default_factory=dict[int, int])
    state: str = "open"
    had: int = 0
    """What was left at its deadline."""

    @property
    def left(self) -> int:
        return sum(self.parts.values()) + self.promised if self.state == "open" else 0


class Oracle:
    """Each operation returns the status that the caller should see."""

    def __init__(self) -> None:
        self.parcels: list[Parcel] = []
        self.pledges: list[Pledge] = []
        self.policy: str = "deny"
        self.limit: int | None = None
        self.owed = self.billed = 0

    @property
    def held(self) -> int:
        return sum(sum(p.parts.values()) for p in self.pledges if p.state == "open")

    @property
    def available(self) -> int:
        return sum(p.free for p in self.parcels if not p.waits and not p.voided)

    def tick(self, now: datetime) -> None:
        """Everything that the clock does until now, in order."""
        while True:
            due: list[tuple[datetime, int, Pledge | Parcel]] = []
            due += [(p.deadline, 0, p) for p in self.pledges if p.state == "open"]
            due += [(p.end, 1, p) for p in self.parcels if p.end and (p.free or p.waits)]
            due += [(p.start, 2, p) for p in self.parcels if p.waits]
            due = [one for one in due if one[0] <= now]
            if not due:
                return
            at, _, what = min(due, key=lambda one: one[:2])
            if isinstance(what, Pledge):
                what.had, what.state = what.left, "expired"
                self._return(what, at, by_time=True)
            elif what.waits:
                what.waits = False
            else:
                what.free = 0
            self._repay()

    def grant(
        self,
        amount: int,
        prio: int,
        paid: bool,
        start: datetime,
        end: datetime | None,
        now: datetime,
    ) -> int:
        if end is not None and end <= max(start, now):
            return 422
        far = datetime.max.replace(tzinfo=now.tzinfo)
        rank = (prio, end is None, end or far, paid, start, len(self.parcels))
        self.parcels.append(Parcel(rank, start, end, amount, waits=start > now))
        self._repay()
        return 201

    def void_grant(self, parcel: Parcel) -> int:
        if parcel.voided:
            return 409
        parcel.voided, parcel.waits, parcel.free = True, False, 0
        return 200

    def overage(self, policy: str, limit: int | None) -> int:
        self.policy, self.limit = policy, limit
        return 200

    def reserve(self, amount: int, least: int, seconds: int, now: datetime) -> int:
        room = self._room()
        if room is not None:
            amount = min(amount, self.available + room)
        if amount < least:
            return 402
        pledge = Pledge(now, now + timedelta(seconds=seconds), None, 0)
        self._promise(pledge, amount)
        self.pledges.append(pledge)
        return 201

    def extend(self, pledge: Pledge, seconds: int | None, add: int, now: datetime) -> int:
        if pledge.state != "open":
            return 409
        beyond, room = max(0, add - self.available), self._room()
        if beyond and pledge.promised and pledge.policy != self.policy:
            return 402
        if room is not None and beyond > room:
            return 402
        self._promise(pledge, add)
        if seconds is not None:
            wanted = min(now + timedelta(seconds=seconds), pledge.born + LIFETIME)
            pledge.deadline = max(pledge.deadline, wanted)
        return 200

    def void(self, pledge: Pledge, now: datetime) -> int:
        if pledge.state != "open":
            return 409
        pledge.state = "voided"
        self._return(pledge, now)
        self._repay()
        return 200

    def consume(self, amount: int) -> int:
        beyond, room = max(0, amount - self.available), self._room()
        if room is not None and beyond > room:
            return 402
        self._draw(amount - beyond)
        self._owe(self.policy, beyond)
        return 201

    def capture(
        self, pledge: Pledge, amount: int | None, final: bool, take: bool, now: datetime
    ) -> int:
        if amount is None:
            amount = pledge.had if pledge.state == "expired" else pledge.left
        if pledge.state == "expired" and take and amount:
            status = self.consume(amount)
            pledge.state = "captured" if status == 201 else "expired"
            return 200 if status == 201 else status
        if pledge.state != "open":
            return 409
        if amount > pledge.left and not take:
            return 409
        pinned = min(amount, sum(pledge.parts.values()))
        promised = min(amount - pinned, pledge.promised)
        excess = amount - pinned - promised
        covered = min(promised, self.available)
        rest = promised - covered
        beyond = max(0, excess - (self.available - covered))
        if excess and not self._fits_excess(pledge, rest, beyond):
            return 402
        for place in sorted(pledge.parts, key=lambda n: self.parcels[n].rank):
            part = min(pinned, pledge.parts[place])
            pledge.parts[place] -= part
            pinned -= part
        self._draw(covered)
        self._owe(pledge.policy, rest)
        pledge.promised -= promised
        self._draw(excess - beyond)
        self._owe(self.policy, beyond)
        if final or amount == 0:
            pledge.state = "captured"
            self._return(pledge, now)
        self._repay()
        return 200

    def _fits_excess(self, pledge: Pledge, rest: int, beyond: int) -> bool:
        if self.policy == "deny" or self.limit is None:
            return self.policy != "deny" or beyond == 0
        room = self.limit - self._used()
        if pledge.policy == self.policy:
            # This capture ends the whole promise, or what it keeps open is 0 by then.
            room += pledge.promised - rest
        return beyond <= max(0, room)

    def _used(self) -> int:
        held = sum(
            p.promised for p in self.pledges if p.state == "open" and p.policy == self.policy
        )
        return (self.owed if self.policy == "owe" else self.billed) + held

    def _room(self) -> int | None:
        if self.policy == "deny":
            return 0
        return None if self.limit is None else max(0, self.limit - self._used())

    def _promise(self, pledge: Pledge, amount: int) -> None:
        pinned = min(amount, self.available)
        for parcel, part in self._plan(pinned):
            place = self.parcels.index(parcel)
            parcel.free -= part
            pledge.parts[place] = pledge.parts.get(place, 0) + part
        if amount > pinned:
            pledge.policy = self.policy
            pledge.promised += amount - pinned

    def _plan(self, amount: int) -> list[tuple[Parcel, int]]:
        taken: list[tuple[Parcel, int]] = []
        for parcel in sorted(self.parcels, key=lambda p: p.rank):
            if amount and parcel.free and not parcel.waits and not parcel.voided:
                part = min(amount, parcel.free)
                taken.append((parcel, part))
                amount -= part
        assert amount == 0
        return taken

    def _draw(self, amount: int) -> None:
        for parcel, part in self._plan(amount):
            parcel.free -= part

    def _owe(self, policy: str | None, amount: int) -> None:
        if amount and policy == "owe":
            self.owed += amount
        elif amount:
            self.billed += amount

    def _return(self, pledge: Pledge, at: datetime, *, by_time: bool = False) -> None:
        for place, part in pledge.parts.items():
            end = self.parcels[place].end
            ended = end is not None and (end < at or (end == at and not by_time))
            if not ended and not self.parcels[place].voided:
                self.parcels[place].free += part
        pledge.promised = 0

    def _repay(self) -> None:
        paid = min(self.owed, self.available)
        self._draw(paid)
        self.owed -= paid
