"""Plays scenario lines against `decide` alone: whole books in memory, the given times as `now`.

The same `decide` runs behind the service; here everything a customer has is always loaded.
"""

import copy
import hashlib
from datetime import UTC, datetime
from typing import Any

from ledger.amounts import AmountError, format_amount, parse_amount
from ledger.answers import (
    ChargeAnswer,
    GrantAnswer,
    HoldAnswer,
    Problem,
    ReversalAnswer,
)
from ledger.decide import decide
from ledger.ids import parse_id
from ledger.outcome import Outcome
from ledger.requests import (
    Capture,
    Consume,
    Cost,
    Extend,
    GrantCredit,
    Recurrence,
    Request,
    Reserve,
    Reverse,
    Rollover,
    SetOverage,
    Settle,
    VoidGrant,
    VoidHold,
)
from ledger.settle import account_of
from ledger.state import Books, Journal, Settings
from tests.scenarios.parse import Line, instant

SCALE = 9
SETTINGS = Settings(scales={"credits": SCALE, "USD": 2}, books_time_zone=UTC)


def amount(text: str) -> int:
    return parse_amount(text, SCALE)


def plain(value: int) -> str:
    return format_amount(value, SCALE)


class Model:
    """Customers `c` and `d`, and the names a scenario gives to what comes back."""

    def __init__(self) -> None:
        start = datetime(2020, 1, 1, tzinfo=UTC)
        self.books = {
            no: Books(customer_no=no, customer_id=who, created_at=start)
            for no, who in ((1, "c"), (2, "d"))
        }
        self.numbers = {"c": 1, "d": 2}
        self.names_of: dict[str, dict[str, int]] = {"c": {}, "d": {}}
        """Per customer: name in the scenario → number (a charge's seq, a hold's or grant's no)."""
        self.names = self.names_of["c"]
        self.keys = 0
        self.listed: dict[str, int] = {}
        """How many of a customer's unwritten postings reads have shown already."""

    def play(self, line: Line) -> tuple[str, str, list[str]]:
        """The answer, the balance and the postings of a line, written as the scenario writes."""
        books = self.books[self.numbers[line.who]]
        self.names = self.names_of[line.who]
        before = len(books.journals)
        if line.verb == "read":
            # A read shows what the next write posts: decide on a copy that is thrown away.
            books = copy.deepcopy(books)
            no = books.customer_no
            decide({no: books}, [Settle(customer_no=no)], SETTINGS, line.at)
            return "200", self.balance(books), self.unlisted(line, books, before)
        try:
            request = self.request(line, books)
        except AmountError:
            return "422", self.balance(books), []
        outcome = decide({books.customer_no: books}, [request], SETTINGS, line.at)[0]
        for hold in books.holds.values():
            hold.is_new = False  # written, and its id known
        answer = self.answer(line, books, outcome)
        postings = self.unlisted(line, books, before)
        self.listed[line.who] = 0
        return answer, self.balance(books), postings

    def unlisted(self, line: Line, books: Books, before: int) -> list[str]:
        """What was posted since `before`, without what reads since the last write have shown."""
        postings = self.postings(books, before)
        shown = self.listed.get(line.who, 0)
        self.listed[line.who] = len(postings)
        return postings[shown:]

    def request(self, line: Line, books: Books) -> Request:
        options = dict(line.options)
        self.keys += 1
        key = options.pop("key", f"fresh-{self.keys}")
        members = {name: value for name, value in options.items() if name != "as"}
        compared = [line.verb, line.name, line.words, members]
        if line.verb in {"grant", "reserve", "consume"}:
            del compared[1]  # the name is what comes back, not a part of the body
        common: dict[str, Any] = {
            "customer_no": books.customer_no,
            "key": key,
            "operation": line.verb,
            "fingerprint": hashlib.sha256(repr(compared).encode()).digest(),
        }
        return getattr(self, "_" + line.verb.replace("-", "_"))(line, options, common)

    def _grant(self, line: Line, options: dict[str, str], common: dict[str, Any]) -> Request:
        recurrence = None
        if "every" in options:
            rollover = None
            if "rollover_max" in options:
                seconds = options.get("rollover_expires_in")
                rollover = Rollover(
                    amount(options["rollover_max"]), None if seconds is None else int(seconds)
                )
            anchor = options.get("anchor")
            recurrence = Recurrence(
                interval=options["every"],  # type: ignore[arg-type]
                anchor=None if anchor is None else instant(anchor),
                rollover=rollover,
            )
        category: Any = line.words[1]
        return GrantCredit(
            **common,
            asset="credits",
            amount=amount(line.words[0]),
            category=category,
            cost=Cost(0, "USD") if category == "paid" else None,
            priority=int(options.get("priority", 50)),
            effective_at=instant(options["effective_at"]) if "effective_at" in options else None,
            expires_at=instant(options["expires_at"]) if "expires_at" in options else None,
            recurrence=recurrence,
        )

    def _void_grant(self, line: Line, options: dict[str, str], common: dict[str, Any]) -> Request:
        return VoidGrant(**common, grant_no=self.names.get(line.name, 999))

    def _reserve(self, line: Line, options: dict[str, str], common: dict[str, Any]) -> Request:
        minimum = amount(options["minimum"]) if "minimum" in options else None
        if minimum is not None and minimum > amount(line.words[0]):
            raise AmountError("invalid_minimum", "minimum above amount")
        return Reserve(
            **common,
            asset="credits",
            amount=amount(line.words[0]),
            minimum=minimum,
            expires_in=int(options.get("expires_in", 600)),
        )

    def _capture(self, line: Line, options: dict[str, str], common: dict[str, Any]) -> Request:
        above_hold: Any = options.get("above_hold", "deny")
        return Capture(
            **common,
            hold_no=self.names.get(line.name, 999),
            amount=line.words[0] if line.words else None,
            final=options.get("final", "true") == "true",
            above_hold=above_hold,
            effective_at=instant(options["effective_at"]) if "effective_at" in options else None,
        )

    def _void(self, line: Line, options: dict[str, str], common: dict[str, Any]) -> Request:
        return VoidHold(**common, hold_no=self.names.get(line.name, 999))

    def _extend(self, line: Line, options: dict[str, str], common: dict[str, Any]) -> Request:
        seconds = options.get("expires_in")
        return Extend(
            **common,
            hold_no=self.names.get(line.name, 999),
            expires_in=None if seconds is None else int(seconds),
            add=options.get("add"),
        )

    def _consume(self, line: Line, options: dict[str, str], common: dict[str, Any]) -> Request:
        return Consume(
            **common,
            asset="credits",
            amount=amount(line.words[0]),
            effective_at=instant(options["effective_at"]) if "effective_at" in options else None,
        )

    def _reverse(self, line: Line, options: dict[str, str], common: dict[str, Any]) -> Request:
        return Reverse(
            **common,
            charge_seq=self.names.get(line.name, 999),
            amount=line.words[0] if line.words else None,
        )

    def _overage(self, line: Line, options: dict[str, str], common: dict[str, Any]) -> Request:
        policy: Any = line.words[0]
        limit = amount(options["limit"]) if "limit" in options else None
        unkeyed: dict[str, Any] = {**common, "key": None}
        return SetOverage(**unkeyed, policy=policy, limit=limit)

    # What comes back

    def answer(self, line: Line, books: Books, outcome: Outcome) -> str:
        text = self._answer(line, books, outcome)
        return f"{text}, replayed" if outcome.is_replayed else text

    def _answer(self, line: Line, books: Books, outcome: Outcome) -> str:
        answer = outcome.answer
        if isinstance(answer, Problem):
            text = f"{outcome.status} {answer.code}"
            if outcome.status == 402:
                text += f", available {answer.facts['available']}"
            return text
        match answer:
            case GrantAnswer():
                self.names[line.name] = number("grt", answer.id)
                if line.verb == "void-grant":
                    return f"{outcome.status} takes {answer.taken}"
                return f"{outcome.status} {answer.status}"
            case HoldAnswer():
                if line.verb == "reserve":
                    self.names[line.name] = number("hld", answer.id)
                return f"{outcome.status} {self.hold(line, books, answer)}"
            case ChargeAnswer():
                self.names[line.name] = number("chg", answer.id)
                return f"{outcome.status} {self.charge(line.name, books, answer)}"
            case ReversalAnswer():
                return f"{outcome.status} {self.charge(line.name, books, answer.charge)}"
            case _:
                return str(outcome.status)

    def hold(self, line: Line, books: Books, hold: HoldAnswer) -> str:
        text = f"{hold.status}, captured {hold.captured}, remaining {hold.remaining}"
        if hold.overage_held != "0":
            text += f", overage_held {hold.overage_held}"
        if line.verb == "extend":
            text += f", expires_at {wire_time(hold.expires_at)}"
        if hold.charge is not None:
            name = line.options["as"]
            self.names[name] = number("chg", hold.charge.id)
            text += f"; {self.charge(name, books, hold.charge)}"
        return text

    def charge(self, name: str, books: Books, charge: ChargeAnswer) -> str:
        text = f"{name} {charge.amount}"
        if charge.lots:
            text += " = " + ", ".join(
                f"{self.lot_name(books, number('lot', lot.lot_id))} {lot.amount}"
                for lot in charge.lots
            )
        if charge.overage != "0":
            text += f"; overage {charge.overage}"
        if charge.late:
            text += "; late"
        if charge.reversed != "0":
            text += f"; reversed {charge.reversed}"
        return text

    def lot_name(self, books: Books, lot_no: int) -> str:
        lot = books.lots[lot_no]
        grant = books.grants[lot.grant_no]
        name = next(
            name for name, no in self.names.items() if no == lot.grant_no and name.startswith("G")
        )
        if grant.interval is None:
            return name
        siblings = sorted(no for no, other in books.lots.items() if other.grant_no == lot.grant_no)
        return f"{name}.{siblings.index(lot_no) + 1}"

    def balance(self, books: Books) -> str:
        account = account_of(books, SETTINGS, "credits")
        numbers = (account.wallet, account.pending, account.available, account.owed, account.billed)
        text = " / ".join(plain(value) for value in numbers)
        return text + (f"; upcoming {plain(account.upcoming)}" if account.upcoming else "")

    def postings(self, books: Books, before: int) -> list[str]:
        return [self.posting(books, journal) for journal in books.journals[before:]]

    def posting(self, books: Books, journal: Journal) -> str:
        totals: dict[tuple[str, str], int] = {}
        for transfer in journal.transfers:
            pair = (transfer.debit, transfer.credit)
            totals[pair] = totals.get(pair, 0) + transfer.amount
        moves = "; ".join(f"Dr {d} Cr {c} {plain(total)}" for (d, c), total in totals.items())
        name = self.subject(books, journal)
        return f"{journal.kind} {name} @{wire_time(journal.effective_at)}: {moves}"

    def subject(self, books: Books, journal: Journal) -> str:
        if journal.kind in {"expiry", "activation", "rollover"}:
            return self.lot_name(books, journal.lot_no or 0)
        wanted, prefix = {
            "grant": (journal.grant_no, "G"),
            "void": (journal.grant_no, "G"),
            "hold_end": (journal.hold_no, "H"),
            "charge": (journal.seq, "C"),
        }.get(journal.kind, (journal.charge_seq, "C"))
        return next(
            name for name, no in self.names.items() if no == wanted and name.startswith(prefix)
        )


def number(prefix: str, text: str) -> int:
    parsed = parse_id(prefix, text)
    assert parsed is not None, text
    return parsed[1]


def wire_time(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
