"""Every block of `scenarios.md` through HTTP: every answer, balance and posting.

Twice: with the sandbox's own clock, moved by its route, all blocks that need no exact microsecond;
and with a stopped clock, exactly at the times of the file, all blocks.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sql.pool import Pool
from tests.http import Answer, Api, FrozenClock, serving, set_clock
from tests.scenarios.parse import Line, Scenario, load
from tests.servers import Database

BATCHES = {"S-35"}
"""Blocks whose first lines, all of one time, are one batch."""
EXACT = {
    "S-18": "a hold's deadline and a lot's end at the same microsecond",
    "S-23": "a hold's deadline and a period's end at the same microsecond",
    "S-32": "usage exactly 35 days late",
}
"""Blocks that need exact times though no line says so."""
ROUTES = {
    "grant": "/v1/grants",
    "reserve": "/v1/reserve",
    "consume": "/v1/consume",
    "void-grant": "/v1/grants/{id}/void",
    "capture": "/v1/holds/{id}/capture",
    "void": "/v1/holds/{id}/void",
    "extend": "/v1/holds/{id}/extend",
    "reverse": "/v1/charges/{id}/reverse",
}
PREFIXES = {"void-grant": "grt_", "capture": "hld_", "void": "hld_", "extend": "hld_"}
ABSENT = "f" * 15
"""The end of an id that nothing has."""


def needs_exact_time(scenario: Scenario) -> bool:
    lines = scenario.lines
    return scenario.name in EXACT or any(line.needs_exact_time for line in lines)


def wire(value: str) -> Any:
    """A value of the file as JSON."""
    return {"true": True, "false": False}.get(value, value)


def body_of(line: Line, category: str | None = None) -> dict[str, Any]:
    """The body of a line's request; `category`: of the grant that it names."""
    body: dict[str, Any] = {}
    options = {n: v for n, v in line.options.items() if n not in {"as", "key"}}
    if line.verb in {"grant", "reserve", "consume"}:
        body["customer_id"] = line.who
    if line.verb == "grant":
        body["category"] = line.words[1]
        if line.words[1] == "paid":
            body["cost"] = {"amount": "0.00", "currency": "USD"}
        recurrence = {
            name: options.pop(source)
            for name, source in (("interval", "every"), ("anchor", "anchor"))
            if source in options
        }
        if "rollover_max" in options:
            rollover: dict[str, Any] = {"max": options.pop("rollover_max")}
            if "rollover_expires_in" in options:
                rollover["expires_in"] = int(options.pop("rollover_expires_in"))
            body["recurrence"] = {**recurrence, "rollover": rollover}
        elif recurrence:
            body["recurrence"] = recurrence
    elif line.verb == "void-grant" and category == "paid":
        body["money"] = "refunded"
    if line.words:
        body["amount"] = line.words[0]
    if "add" in options:
        body["add"] = {"amount": options.pop("add")}
    for name, value in options.items():
        body[name] = int(value) if name in {"expires_in", "priority"} else wire(value)
    return body


@dataclass
class Customer:
    """What the file calls the things of one customer, and what was seen of its books."""

    names: dict[str, str] = field(default_factory=dict[str, str])
    categories: dict[str, str] = field(default_factory=dict[str, str])
    grant_of: dict[str, str] = field(default_factory=dict[str, str])
    """Lot → its grant."""
    seq: int = 0
    awaited: list[str] = field(default_factory=list[str])
    """Postings that reads have shown and that no write has posted yet."""

    def name(self, id_: str) -> str:
        return next(name for name, other in self.names.items() if other == id_)

    def lot_name(self, lot_id: str) -> str:
        grant_id = self.grant_of[lot_id]
        name = self.name(grant_id)
        siblings = sorted(lot for lot, other in self.grant_of.items() if other == grant_id)
        if len(siblings) == 1 and name not in self.recurring:
            return name
        return f"{name}.{siblings.index(lot_id) + 1}"

    recurring: set[str] = field(default_factory=set[str])


@dataclass
class Player:
    """Plays lines through the routes and writes what comes as the file writes it."""

    api: Api
    shown: Callable[[datetime], str]
    """A time as it is compared."""
    sent: Callable[[Line], None] = lambda _: None
    """Hears of each line when its answer has come."""
    customers: dict[str, Customer] = field(
        default_factory=lambda: {"c": Customer(), "d": Customer()}
    )
    keys: int = 0

    async def enter(self) -> None:
        for who in self.customers:
            await self.api.customer(who)

    def key(self, line: Line) -> str:
        self.keys += 1
        return line.options.get("key", f"fresh-{self.keys}")

    async def send(self, line: Line) -> Answer:
        if line.verb == "read":
            return await self.api.get(f"/v1/customers/{line.who}/balance")
        if line.verb == "overage":
            limit = {"limit": line.options["limit"]} if "limit" in line.options else {}
            overage = {"policy": line.words[0], **limit}
            return await self.api.put(f"/v1/customers/{line.who}", {"overage": overage})
        customer = self.customers[line.who]
        named = customer.names.get(line.name)
        if named is None and "{id}" in ROUTES[line.verb]:
            named = self.absent(line, customer)
        path = ROUTES[line.verb].format(id=named)
        body = body_of(line, customer.categories.get(line.name))
        return await self.api.post(path, body, key=self.key(line))

    def absent(self, line: Line, customer: Customer) -> str:
        """An id of this customer that nothing has."""
        other = next(iter(customer.names.values()))
        return PREFIXES.get(line.verb, "chg_") + other[4 : -len(ABSENT)] + ABSENT

    # What came back

    async def learn(self, line: Line, answer: Answer) -> None:
        """Remember the names that the answer gives."""
        customer = self.customers[line.who]
        if answer.status not in (200, 201) or line.verb == "read":
            return
        if line.verb == "grant":
            customer.names[line.name] = answer.body["id"]
            customer.categories[line.name] = line.words[1]
            if "every" in line.options:
                customer.recurring.add(line.name)
        elif line.verb in {"reserve", "consume"}:
            customer.names[line.name] = answer.body["id"]
        elif line.verb == "capture" and answer.body["charge"] is not None:
            customer.names[line.options["as"]] = answer.body["charge"]["id"]

    def answer(self, line: Line, answer: Answer) -> str:
        text = f"{answer.status} {self._answer(line, answer)}".rstrip()
        return text + (", replayed" if answer.is_replayed else "")

    def _answer(self, line: Line, answer: Answer) -> str:
        body = answer.body
        if answer.status >= 400:
            available = f", available {body['available']}" if answer.status == 402 else ""
            return body["code"] + available
        match line.verb:
            case "grant":
                return body["status"]
            case "void-grant":
                return f"takes {body['taken']}"
            case "reserve" | "capture" | "void" | "extend":
                return self.hold(line, body)
            case "consume":
                return self.charge(line, line.name, body)
            case "reverse":
                return self.charge(line, line.name, body["charge"])
            case _:
                return ""

    def hold(self, line: Line, hold: Any) -> str:
        text = f"{hold['status']}, captured {hold['captured']}, remaining {hold['remaining']}"
        if hold["overage_held"] != "0":
            text += f", overage_held {hold['overage_held']}"
        if line.verb == "extend":
            text += f", expires_at {self.shown(datetime.fromisoformat(hold['expires_at']))}"
        if hold["charge"] is not None:
            text += f"; {self.charge(line, line.options['as'], hold['charge'])}"
        return text

    def charge(self, line: Line, name: str, charge: Any) -> str:
        customer = self.customers[line.who]
        text = f"{name} {charge['amount']}"
        lots = [f"{customer.lot_name(lot['lot_id'])} {lot['amount']}" for lot in charge["lots"]]
        text += " = " + ", ".join(lots) if lots else ""
        text += f"; overage {charge['overage']}" if charge["overage"] != "0" else ""
        text += "; late" if charge["late"] else ""
        return text + (f"; reversed {charge['reversed']}" if charge["reversed"] != "0" else "")

    async def balance(self, who: str) -> str:
        found = await self.api.balance(who)
        assert found["customer_id"] == who
        numbers = [found[name] for name in ("posted", "held", "available", "owed", "billed")]
        upcoming = f"; upcoming {found['upcoming']}" if found["upcoming"] != "0" else ""
        return " / ".join(numbers) + upcoming

    async def postings(self, who: str) -> list[str]:
        """The journals since the last call, oldest first."""
        customer = self.customers[who]
        journals: list[Any] = []
        path = f"/v1/journals?customer_id={who}&limit=100"
        page = await self.api.get(path)
        while True:
            assert page.status == 200, page
            journals += [j for j in page.body["data"] if j["seq"] > customer.seq]
            if not page.body["has_more"] or len(journals) < len(page.body["data"]):
                break
            page = await self.api.get(f"{path}&cursor={page.body['next_cursor']}")
        journals.reverse()
        for journal in journals:
            self.meet_lots(customer, journal)
        customer.seq = max([customer.seq, *(journal["seq"] for journal in journals)])
        return [self.posting(customer, journal) for journal in journals]

    def meet_lots(self, customer: Customer, journal: Any) -> None:
        """Learn which grant the lots belong to that a journal makes."""
        lots = [t["lot_id"] for t in journal["transfers"] if t["lot_id"] is not None]
        if journal["kind"] == "grant":
            customer.grant_of.update(dict.fromkeys(lots, journal["grant_id"]))
        elif journal["kind"] == "rollover":
            grant_id = customer.grant_of[journal["lot_id"]]
            customer.grant_of.update(dict.fromkeys(lots, grant_id))

    def posting(self, customer: Customer, journal: Any) -> str:
        totals: dict[tuple[str, str], int] = {}
        for transfer in journal["transfers"]:
            pair = (transfer["debit"], transfer["credit"])
            totals[pair] = totals.get(pair, 0) + units(transfer["amount"])
        moves = "; ".join(f"Dr {d} Cr {c} {plain(total)}" for (d, c), total in totals.items())
        at = self.shown(datetime.fromisoformat(journal["effective_at"]))
        return f"{journal['kind']} {self.subject(customer, journal)} @{at}: {moves}"

    def subject(self, customer: Customer, journal: Any) -> str:
        kind = journal["kind"]
        if kind in {"expiry", "activation", "rollover"}:
            return customer.lot_name(journal["lot_id"])
        if kind in {"grant", "void"}:
            return customer.name(journal["grant_id"])
        if kind == "hold_end":
            return customer.name(journal["hold_id"])
        if kind == "charge":
            return customer.name("chg_" + journal["id"].removeprefix("jrn_"))
        return customer.name(journal["charge_id"])

    # What must have come

    async def check(self, line: Line, answer: Answer) -> None:
        """Compare one answer, the balance after it and what it posted with the file."""
        await self.learn(line, answer)
        postings = await self.postings(line.who)
        self.check_answer(line, answer)
        self.check_postings(line, postings)
        assert await self.balance(line.who) == line.balance, line.text

    def check_answer(self, line: Line, answer: Answer) -> None:
        text = self.answer(line, answer)
        if answer.status == 422 and line.answer == "422":
            text = "422"
        assert text == line.answer, line.text
        if answer.is_replayed or line.verb in {"read", "overage"}:
            return
        if (told := answer.body.get("balance")) is not None:
            numbers = [told[name] for name in ("posted", "held", "available", "owed")]
            assert numbers == line.balance.partition(";")[0].split(" / ")[:4], line.text

    def check_postings(self, line: Line, postings: list[str]) -> None:
        """What a read shows may be posted then, by the moved clock, or by the next write."""
        customer = self.customers[line.who]
        if line.verb == "read" and not postings:
            customer.awaited += line.postings
            return
        awaited, customer.awaited = customer.awaited, []
        assert postings[: len(awaited)] == awaited, line.text
        if line.postings:
            assert postings[len(awaited) :] == line.postings, line.text


def units(text: str) -> int:
    whole, _, rest = text.partition(".")
    return int(whole) * 10**9 + int(rest.ljust(9, "0"))


def plain(value: int) -> str:
    whole, rest = divmod(value, 10**9)
    return f"{whole}.{rest:09}".rstrip("0").rstrip(".")


Move = Callable[[Line], Awaitable[None]]


async def play(scenario: Scenario, player: Player, move: Move) -> None:
    """Move the clock to each line's time, send it, and check what comes."""
    await player.enter()
    lines = scenario.lines
    if scenario.name in BATCHES:
        batch = [line for line in lines if line.verb != "read"]
        await move(batch[0])
        await play_batch(player, batch)
        lines = lines[len(batch) :]
    for line in lines:
        await move(line)
        answer = await player.send(line)
        player.sent(line)
        await player.check(line, answer)


async def play_batch(player: Player, lines: list[Line]) -> None:
    operations = [{"op": line.verb, "key": player.key(line), **body_of(line)} for line in lines]
    answer = await player.api.post("/v1/batch", {"operations": operations}, key=None)
    assert answer.status == 200, answer
    results: list[Any] = answer.body["results"]
    assert len(results) == len(lines)
    answers = [BatchAnswer(result) for result in results]
    for line, one in zip(lines, answers, strict=True):
        await player.learn(line, one)  # type: ignore[arg-type]
    posted = {who: await player.postings(who) for who in player.customers}
    for line, one in zip(lines, answers, strict=True):
        player.check_answer(line, one)  # type: ignore[arg-type]
        expected = posted[line.who]
        assert expected[: len(line.postings)] == line.postings
    for who in player.customers:
        last = [line for line in lines if line.who == who][-1]
        assert await player.balance(who) == last.balance


class BatchAnswer:
    """One result of a batch, as if it had come alone."""

    def __init__(self, result: Any) -> None:
        self.status: int = result["status"]
        self.body: Any = result["body"]
        self.is_replayed: bool = result["replayed"]


SCENARIOS = load()


class RunningClock:
    """The sandbox's clock, which runs on; moved by its route to where the file wants it.

    A deadline counts from the moment of its request, a few milliseconds after the file's time. A
    line exactly at such a deadline comes just as many milliseconds later than in the file.
    """

    def __init__(self, api: Api, start: datetime) -> None:
        self.api = api
        self.ahead = start - datetime.now(UTC)
        self.passed: list[tuple[Line, timedelta]] = []

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    async def move(self, line: Line) -> None:
        late = [
            drift
            for other, drift in self.passed
            if ("every" in other.options and "anchor" not in other.options)
            or other.at + timedelta(seconds=int(other.options.get("expires_in", 0))) == line.at
        ]
        at = line.at + max(late, default=timedelta())
        if at > self.now():
            self.ahead = await self.api.clock(at) - datetime.now(UTC)

    def has_passed(self, line: Line) -> None:
        self.passed.append((line, self.now() - line.at))

    @staticmethod
    def shown(at: datetime) -> str:
        """To the second, save for the times that the file gives to the microsecond."""
        if at.microsecond != 999_999:
            at = at.replace(microsecond=0)
        return exact(at)


def exact(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_scenario_played_at_exact_times_gives_its_numbers(
    scenario: Scenario, pool: Pool, database: Database
) -> None:
    clock = FrozenClock(database)
    async with clock.stopped_at(scenario.lines[0].at), serving(pool) as running:

        async def move(line: Line) -> None:
            await clock.set(line.at)

        await play(scenario, Player(running.api, exact), move)


@pytest.mark.parametrize(
    "scenario",
    [scenario for scenario in SCENARIOS if not needs_exact_time(scenario)],
    ids=lambda scenario: scenario.name,
)
async def test_scenario_played_with_the_test_clock_gives_its_numbers(
    scenario: Scenario, pool: Pool
) -> None:
    start = scenario.lines[0].at - timedelta(seconds=5)
    await set_clock(pool, start)
    async with serving(pool) as running:
        clock = RunningClock(running.api, start)
        player = Player(running.api, clock.shown, clock.has_passed)
        await play(scenario, player, clock.move)


def test_blocks_left_out_with_the_running_clock_are_few() -> None:
    left_out = {scenario.name for scenario in SCENARIOS if needs_exact_time(scenario)}
    assert left_out == {"S-08", "S-09", "S-15", "S-16", "S-20", *EXACT}
