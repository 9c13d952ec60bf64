"""Price lists as files: YAML of the form of the API's body, and CSV with one rate a row.

Every number is read as the text that it is, so a price never passes through a float. What is wrong
is told with its place in the file.
"""

import csv
import io
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
import yaml
from msgspec import UNSET, Meta, Struct, UnsetType
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from drawdown.price_text import read_tiers, tiers_text
from meter import parse
from meter.problems import ProblemError
from meter.rate_cards import RATES_MAX, RateBody, rates_json
from meter.route import BODY_MAX

Format = Literal["yaml", "csv"]

DEPTH_MAX: Final = 10
"""A tier of a rate of a card stands five deep."""
MATCH: Final = "match."
COLUMNS: Final = (
    *("key", "asset", "meter", "unit_price", "per", "tiers", "tier_mode", "package_size"),
    *("package_price", "allowance", "minimum", "accumulate", "rounding"),
)
"""Columns of CSV; those of `match.` stand after the meter."""


class PriceFileError(Exception):
    """What is wrong with a file, and where."""


class PriceList(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file says: a body of POST /v1/rate-cards of which all but the rates may be missing."""

    key: str | None = None
    asset: str | None = None
    effective_at: str | None = None
    rates: Annotated[list[RateBody], Meta(min_length=1, max_length=RATES_MAX)]


class PriceFile(Struct, frozen=True):
    """A file that was read."""

    prices: PriceList
    places: Mapping[str, str]
    """JSON Pointer → where that stands in the file, in words."""

    def error(self, problem: ProblemError) -> PriceFileError:
        """A refusal of the prices, at its place in the file."""
        return _at(self.places, problem)


def _at(places: Mapping[str, str], problem: ProblemError) -> PriceFileError:
    pointer = problem.pointer
    if pointer is None and problem.errors:
        pointer = problem.errors[0].pointer
    while pointer and pointer not in places:
        pointer = pointer.rpartition("/")[0]
    place = places.get(pointer or "")
    detail = problem.detail.removesuffix(".")
    return PriceFileError(detail if place is None else f"{place}: {detail}")


def format_of(name: str) -> Format | None:
    """The format that a file's ending says."""
    ending = name.lower().rpartition(".")[2]
    return "csv" if ending == "csv" else "yaml" if ending in {"yaml", "yml"} else None


def read(data: bytes, form: Format) -> PriceFile:
    """A price list from the bytes of its file. Raises PriceFileError."""
    if len(data) > BODY_MAX:
        raise PriceFileError(f"it is over {BODY_MAX // 1024**2} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PriceFileError(f"it is not UTF-8 at byte {error.start}") from None
    value, places = _read_csv(text) if form == "csv" else _read_yaml(text)
    try:
        return PriceFile(parse.decode(value, PriceList), places)
    except ProblemError as problem:
        raise _at(places, problem) from None


def write(key: str, asset: str, rates: tuple[RateBody, ...], form: Format, note: str) -> str:
    """A file that reads as the same rates again. `note` stands on top where there are comments."""
    if form == "csv":
        return _write_csv(key, asset, rates)
    value = {"key": key, "asset": asset, "rates": msgspec.json.decode(rates_json(rates))}
    return f"# {note}\n" + yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=LINE_CHARS_MAX
    )


# YAML


LINE_CHARS_MAX: Final = 10_000
"""No text is folded into lines: folding is where spaces get lost."""
_PLAIN = re.compile(r"[\x20-\x7e\xa0-\u2027\u202a-\ud7ff]*")


class _Dumper(yaml.SafeDumper):
    """Writes texts with unusual characters, line breaks among them, as escapes."""


def _text(dumper: yaml.SafeDumper, value: str) -> ScalarNode:
    style = None if _PLAIN.fullmatch(value) else '"'
    return dumper.represent_scalar(  # pyright: ignore[reportUnknownMemberType]
        "tag:yaml.org,2002:str", value, style=style
    )


_Dumper.add_representer(str, _text)
_EMPTY: Final = frozenset({"", "~", "null", "Null", "NULL"})
_PER = re.compile(r"/rates/[0-9]+/per")
_WHOLE = re.compile(r"[0-9]{1,18}")


def _read_yaml(text: str) -> tuple[Any, dict[str, str]]:
    try:
        for event in yaml.parse(text, yaml.BaseLoader):
            if isinstance(event, yaml.AliasEvent):
                raise PriceFileError(f"{_line(event.start_mark)}: aliases are not read")
        # The nodes, not their values: a price is the text that stands there.
        node = yaml.compose(text, yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        words = error.problem or "this is no YAML"
        raise PriceFileError(f"{_line(error.problem_mark)}: {words}") from None
    except yaml.YAMLError as error:
        raise PriceFileError(f"this is no YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise PriceFileError("it is nested too deep") from None
    if not isinstance(node, MappingNode):
        raise PriceFileError("a price list has the members key, asset and rates")
    places: dict[str, str] = {}
    return _yaml_value(node, "", places), places


def _line(mark: Any) -> str:
    return "line 1" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"


def _yaml_value(node: Node, pointer: str, places: dict[str, str]) -> Any:
    places[pointer] = _line(node.start_mark)
    if pointer.count("/") > DEPTH_MAX:
        raise PriceFileError(f"{places[pointer]}: it is nested too deep")
    if isinstance(node, SequenceNode):
        return [
            _yaml_value(item, f"{pointer}/{index}", places) for index, item in enumerate(node.value)
        ]
    if isinstance(node, MappingNode):
        members: dict[str, Any] = {}
        for name, value in node.value:
            if not isinstance(name, ScalarNode):
                raise PriceFileError(f"{_line(name.start_mark)}: a member's name is a text")
            if name.value in members:
                raise PriceFileError(f"{_line(name.start_mark)}: {name.value} stands here twice")
            members[name.value] = _yaml_value(value, f"{pointer}/{_step(name.value)}", places)
        return members
    assert isinstance(node, ScalarNode), "there are three kinds of nodes"
    if node.style is None and node.value in _EMPTY:
        return None
    if _PER.fullmatch(pointer) and _WHOLE.fullmatch(node.value):
        return int(node.value)
    return node.value


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


# CSV


def _read_csv(text: str) -> tuple[Any, dict[str, str]]:
    head = text.partition("\n")[0]
    delimiter = ";" if ";" in head and "," not in head else ","
    try:
        records = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise PriceFileError(f"this is no CSV: {error}") from None
    if not records:
        raise PriceFileError("the first row names the columns")
    columns = [name.strip() for name in records[0]]
    _check_columns(columns)
    card: dict[str, Any] = {"rates": []}
    places: dict[str, str] = {"": "row 1"}
    for number, cells in enumerate(records[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(columns):
            raise PriceFileError(f"row {number}: there are more cells than columns")
        row = {
            name: _unguarded(cell) if name.startswith(MATCH) else _unguarded(cell.strip())
            for name, cell in zip(columns, cells, strict=False)
            if cell
        }
        _add_row(card, row, number, places)
    return card, places


def _check_columns(columns: list[str]) -> None:
    for place, name in enumerate(columns):
        if name not in COLUMNS and not (name.startswith(MATCH) and name != MATCH):
            known = ", ".join(COLUMNS)
            raise PriceFileError(
                f"row 1: {name or 'an empty name'} is no column; there are {known} and match.…"
            )
        if name in columns[:place]:
            raise PriceFileError(f"row 1: the column {name} stands here twice")


def _add_row(
    card: dict[str, Any], row: dict[str, str], number: int, places: dict[str, str]
) -> None:
    """One row as a rate; key and asset are the card's and the same in all rows."""
    index = len(card["rates"])
    pointer = f"/rates/{index}"
    places[pointer] = f"row {number}"
    rate: dict[str, Any] = {}
    for name, text in row.items():
        where = f"row {number}, column {name}"
        if name in {"key", "asset"}:
            if card.setdefault(name, text) != text:
                raise PriceFileError(f"{where}: it is {card[name]} in the rows above")
            places.setdefault(f"/{name}", where)
        elif name.startswith(MATCH):
            dimension = name.removeprefix(MATCH)
            rate.setdefault("match", {})[dimension] = text
            places[f"{pointer}/match/{_step(dimension)}"] = where
        elif name in {"package_size", "package_price"}:
            member = name.removeprefix("package_")
            rate.setdefault("package", {})[member] = text
            places[f"{pointer}/package/{member}"] = where
        elif name == "tiers":
            try:
                rate["tiers"] = read_tiers(text)
            except ValueError as error:
                raise PriceFileError(f"{where}: {error}") from None
            places[f"{pointer}/tiers"] = where
        else:
            is_number = name == "per" and _WHOLE.fullmatch(text)
            rate[name] = int(text) if is_number else text
            places[f"{pointer}/{name}"] = where
    card["rates"].append(rate)


def _write_csv(key: str, asset: str, rates: tuple[RateBody, ...]) -> str:
    dimensions = list(dict.fromkeys(name for rate in rates for name in rate.match))
    rows = [_csv_row(key, asset, rate) for rate in rates]
    used = [name for name in COLUMNS if any(row.get(name) for row in rows)]
    after = used.index("meter") + 1
    columns = [*used[:after], *(MATCH + name for name in dimensions), *used[after:]]
    table = [dict(zip(columns, columns, strict=True)), *rows]
    return "".join(",".join(_cell(row.get(name, "")) for name in columns) + "\n" for row in table)


def _cell(text: str) -> str:
    """A cell in quotes if it needs them: Python's writer leaves a carriage return bare."""
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


_QUOTED = re.compile(r'[",\r\n]')


def _csv_row(key: str, asset: str, rate: RateBody) -> dict[str, str]:
    row = {"key": key, "asset": asset, "meter": _guarded(rate.meter)}
    row |= {MATCH + name: _guarded(pattern) for name, pattern in rate.match.items()}
    if rate.tiers is not UNSET:
        row["tiers"] = tiers_text(rate.tiers)
    if rate.package is not UNSET:
        row |= {"package_size": rate.package.size, "package_price": rate.package.price}
    if rate.per != 1:
        row["per"] = str(rate.per)
    if rate.rounding != "half_even":
        row["rounding"] = rate.rounding
    given: dict[str, str | UnsetType] = {
        "unit_price": rate.unit_price,
        "tier_mode": rate.tier_mode,
        "allowance": rate.allowance,
        "minimum": rate.minimum,
        "accumulate": rate.accumulate,
    }
    return row | {name: value for name, value in given.items() if value is not UNSET}


_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "'")


def _guarded(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe in front makes it text."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _unguarded(text: str) -> str:
    return text.removeprefix("'")
