"""Reads `scenarios.md`: blocks of `time | request | answer` lines with balances and postings."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

FILE = Path(__file__).with_name("scenarios.md")


@dataclass
class Line:
    """One request of a scenario and what must come of it."""

    at: datetime
    who: str
    verb: str
    name: str
    words: list[str]
    options: dict[str, str]
    answer: str
    balance: str = ""
    postings: list[str] = field(default_factory=list[str])
    text: str = ""

    @property
    def needs_exact_time(self) -> bool:
        return self.at.microsecond != 0


@dataclass
class Scenario:
    title: str
    lines: list[Line]

    @property
    def name(self) -> str:
        return self.title.split()[0]


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def parse(text: str) -> list[Scenario]:
    scenarios: list[Scenario] = []
    for title, block in re.findall(r"^## (S-\d+ [^\n]*)\n.*?```text\n(.*?)```", text, re.S | re.M):
        lines: list[Line] = []
        for raw in block.splitlines():
            stripped = raw.strip()
            if stripped.startswith("= "):
                lines[-1].balance = stripped[2:]
            elif stripped.startswith("+ "):
                lines[-1].postings.append(stripped[2:])
            elif stripped:
                lines.append(_request(stripped))
        scenarios.append(Scenario(title, lines))
    return scenarios


def _request(text: str) -> Line:
    at, request, answer = (part.strip() for part in text.split(" | ", 2))
    who = "c"
    if match := re.match(r"([a-z]): ", request):
        who, request = match[1], request[match.end() :]
    verb, *rest = request.split()
    options = dict(word.split("=", 1) for word in rest if "=" in word)
    words = [word for word in rest if "=" not in word]
    if "as" in words:
        place = words.index("as")
        options["as"] = words[place + 1]
        del words[place : place + 2]
    name = words.pop(0) if words and verb not in {"overage", "read"} else ""
    return Line(instant(at), who, verb, name, words, options, answer, text=text)


def load() -> list[Scenario]:
    return parse(FILE.read_text())
