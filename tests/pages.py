"""The pages as tests read them: links, commands with their output, and a small part of jq."""

import re
import shlex
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.http import Api

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
)
PUBLIC_ID: Final = re.compile(r"\b[a-z]{3}_[0-9A-F]{32}\b")
_TIME = re.compile(r"\b\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?Z")


def name_of(page: Path) -> str:
    """A page as failures name it."""
    return str(page.relative_to(ROOT))


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """What a link into a page may name."""
    found = set(re.findall(r'<a id="([^"]+)">', text))
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(plain.replace(" ", "-"))
    return found


def table_rows(text: str) -> Iterator[list[str]]:
    """The cells of every line of every table, heads and rules left out."""
    for line in prose(text).splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if line.startswith("|") and not set(line) <= set("|-: "):
            yield cells


# Commands with their output


@dataclass
class Step:
    """A command that a page shows, and what it printed."""

    command: str
    output: str


def steps(text: str) -> list[Step]:
    """The commands of all `console` blocks, in order."""
    found: list[Step] = []
    for block in blocks(text, "console"):
        waiting: list[str] = []
        for line in block.splitlines():
            if line.startswith("$ ") or waiting:
                waiting.append(line.removeprefix("$ ") if not waiting else line)
                command = "\n".join(waiting)
                if not line.endswith("\\") and _is_closed(command):
                    found.append(Step(command, ""))
                    waiting = []
            else:
                found[-1].output += line + "\n"
    return found


def _is_closed(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


@dataclass
class Story:
    """A page's commands run anew: ids and times differ, so each stands for the one shown."""

    api: Api
    folder: Path | None = None
    """Where its files are."""
    drawdown: Callable[[list[str]], Awaitable[str]] | None = None
    """Runs the command on the same database, in that folder; what it printed."""
    known: dict[str, str] = field(default_factory=dict[str, str])

    async def play(self, step: Step) -> None:
        """Send what the command sends; assert that it prints what is shown.

        A file that is shown with `cat` is the file that later commands find.
        """
        words = shlex.split(step.command.replace("\\\n", " "))
        if words[0] == "cat":
            assert self.folder is not None, step.command
            (self.folder / words[1]).write_text(step.output)
            return
        if words[0] == "drawdown":
            assert self.drawdown is not None, step.command
            printed = (await self.drawdown(words[1:])).splitlines()
            assert self._same(step.output.splitlines(), printed), (step, printed)
            return
        bar = words.index("|")
        assert (words[0], words[bar + 1]) == ("curl", "jq"), step.command
        answer = await self._send(words[1:bar])
        options, program = words[bar + 2 : -1], words[-1]
        found = list(jq(program, answer))
        if "-r" in options:
            assert self._same(step.output.splitlines(), found), (step, found)
            return
        shown = _values(step.output)
        assert self._same(shown, found), (step, found)

    async def _send(self, words: list[str]) -> Any:
        method, path, headers = "GET", "", dict[str, str]()
        body: str | None = None
        rest = iter(words)
        for word in rest:
            match word:
                case "-s":
                    pass
                case "-X":
                    method = next(rest)
                case "-H":
                    header = next(rest)
                    if header != "$AUTH":
                        name, _, value = header.partition(": ")
                        headers[name] = value
                case "--json":
                    body, method = next(rest), "POST" if method == "GET" else method
                case _:
                    assert word.startswith("$URL/"), word
                    path = word.removeprefix("$URL")
        for old, new in self.known.items():
            path = path.replace(old, new)
        raw = None if body is None else body.encode()
        return (await self.api.send(method, path, raw=raw, headers=headers)).body

    def _same(self, shown: Any, found: Any) -> bool:
        """Equal but for ids and times, of which the pairs are remembered."""
        if isinstance(shown, dict) and isinstance(found, dict):
            return list(shown) == list(found) and all(  # pyright: ignore[reportUnknownArgumentType]
                self._same(shown[name], found[name])
                for name in shown  # pyright: ignore[reportUnknownVariableType]
            )
        if isinstance(shown, list) and isinstance(found, list):
            return len(shown) == len(found) and all(  # pyright: ignore[reportUnknownArgumentType]
                map(self._same, shown, found)  # pyright: ignore[reportUnknownArgumentType]
            )
        if isinstance(shown, str) and isinstance(found, str):
            for pattern in (PUBLIC_ID, _TIME):
                old, new = pattern.findall(shown), pattern.findall(found)
                if len(old) != len(new):
                    return False
                self.known.update(zip(old, new, strict=True))
                shown, found = pattern.sub("…", shown), pattern.sub("…", found)
        return shown == found


def _values(text: str) -> list[Any]:
    """JSON values one after the other, each on lines of its own."""
    if text.startswith("{\n"):
        return [msgspec.json.decode(text)]
    return [msgspec.json.decode(line) for line in text.splitlines()]


# jq: paths, `[]`, objects, arrays and pipes, as far as the pages use them

_TOKEN = re.compile(r"\s*([A-Za-z_]\w*|\[\]|[][{}|:,.])")


def jq(program: str, value: Any) -> Iterator[Any]:
    """What `jq PROGRAM` gives for a value."""
    tokens = _TOKEN.findall(program)
    assert "".join(tokens) == "".join(program.split()), program
    yield from _Program(tokens).pipe(value)


class _Program:
    """One pass over the tokens for each value: the programs are a line long."""

    def __init__(self, tokens: list[str], at: int = 0) -> None:
        self.tokens, self.at = tokens, at

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str | None = None) -> str:
        token = self.peek()
        assert wanted is None or token == wanted, (wanted, self.tokens)
        self.at += 1
        return token

    def pipe(self, value: Any) -> list[Any]:
        values = self.term(value)
        while self.peek() == "|":
            self.take()
            start, piped = self.at, list[Any]()
            for one in values or [None]:
                self.at = start
                found = self.term(one)
                piped += found if values else []
            values = piped
        return values

    def term(self, value: Any) -> list[Any]:
        token = self.take()
        if token == "{":
            return [self.object(value)]
        if token == "[":
            found = self.pipe(value)
            self.take("]")
            return [found]
        assert token == ".", self.tokens
        values = [value]
        while True:
            if self.peek() == "[]":
                self.take()
                values = [one for whole in values for one in whole or ()]
            elif re.match(r"\w", self.peek()):
                name = self.take()
                values = [None if one is None else one.get(name) for one in values]
                if self.peek() == ".":
                    self.take()
            else:
                return values

    def object(self, value: Any) -> dict[str, Any]:
        made: dict[str, Any] = {}
        while True:
            name = self.take()
            if self.peek() == ":":
                self.take()
                [made[name]] = self.pipe(value)
            else:
                made[name] = None if value is None else value.get(name)
            if self.take() == "}":
                return made
