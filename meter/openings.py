"""Opening balances of another system: read from CSV, taken over as grants, all or none.

Each row is a grant under a key made of its reference, so the same file again grants nothing. What
was paid for was paid elsewhere: its deferred revenue stands against the account `opening`.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from secrets import token_bytes
from typing import Any, Final, cast, get_args

import msgspec
from msgspec import Struct

from ledger import customers
from ledger.amounts import format_amount
from ledger.chart import Category
from ledger.requests import OPENING, Cost, GrantCredit, Notes
from ledger.transact import transact
from meter import parse
from meter.problems import ProblemError
from meter.service import Service, render
from sql.pool import Connection, transaction

COLUMNS: Final = (
    *("customer_id", "amount", "asset", "category", "cost", "currency", "expires_at", "priority"),
    "reference",
)
NEEDED: Final = ("customer_id", "amount", "category")
ROWS_MAX: Final = 200_000
"""Of one file: in memory some hundred megabytes, in one transaction some minutes."""
BYTES_MAX: Final = 100 * 1024 * 1024
ROWS_AT_ONCE_MAX: Final = 256
REFERENCE_MAX: Final = 200
PRIORITY_MAX: Final = 100
Columns = Mapping[str, str]


class Trouble(Struct, frozen=True):
    """What is wrong with a file, and where."""

    row: int
    """As a spreadsheet counts: the header is row 1. 0: the file as a whole."""
    column: str
    detail: str


class Opening(Struct, frozen=True):
    """A row that can be granted."""

    row: int
    customer_id: str
    grant: GrantCredit
    """Of nobody yet: its customer may have to be made."""


class Total(Struct, frozen=True, kw_only=True):
    """What all rows of one kind come to."""

    asset: str
    category: str
    rows: int
    amount: str
    currency: str | None
    cost: str | None


class Imported(Struct, frozen=True, kw_only=True):
    """What an import did, or would do."""

    is_dry_run: bool
    rows: int
    customers: int
    customers_made: int
    granted: int
    already_granted: int
    """By the same row of an earlier import."""
    totals: list[Total]
    problems: list[Trouble]
    """Empty, or nothing was imported."""


class _Undo(Exception):
    """Rolls a transaction back that has told what it would do."""


def read(service: Service, raw: bytes) -> tuple[list[Opening], list[Trouble]]:
    """The rows of a file, and everything that is wrong with it."""
    if len(raw) > BYTES_MAX:
        return [], [Trouble(0, "", f"The file is over {BYTES_MAX // 1024**2} MiB: split it.")]
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return [], [Trouble(0, "", f"The file is not UTF-8: byte {error.start} is not readable.")]
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, list[str]())]
        if wrong := _check_header(header):
            return [], [Trouble(1, "", wrong)]
        return _read_rows(service, header, enumerate(reader, 2))
    except csv.Error as error:
        return [], [Trouble(reader.line_num, "", f"This is not CSV: {error}.")]


def _check_header(header: Sequence[str]) -> str | None:
    unknown = [name for name in header if name not in COLUMNS]
    missing = [name for name in NEEDED if name not in header]
    if unknown:
        return f"Unknown columns: {', '.join(map(repr, unknown))}. Known: {', '.join(COLUMNS)}."
    if missing:
        return f"These columns are missing: {', '.join(missing)}."
    if len(set(header)) < len(header):
        return "A column stands there twice."
    return None


def _read_rows(
    service: Service, header: Sequence[str], rows: Iterator[tuple[int, list[str]]]
) -> tuple[list[Opening], list[Trouble]]:
    openings: list[Opening] = []
    troubles: list[Trouble] = []
    lots: Counter[str] = Counter()
    seen: dict[tuple[str, str], int] = {}
    for row, cells in rows:
        if not any(cells):
            continue
        if len(openings) + len(troubles) >= ROWS_MAX:
            return openings, [Trouble(row, "", f"More than {ROWS_MAX:,} rows: split the file.")]
        if len(cells) != len(header):
            found = f"This row has {len(cells)} cells and the header {len(header)}."
            troubles.append(Trouble(row, "", found))
            continue
        given = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
        customer_id = given.get("customer_id", "")
        lots[customer_id] += 1
        reference = given.get("reference") or str(lots[customer_id])
        if (before := seen.setdefault((customer_id, reference), row)) != row:
            words = f"Row {before} has the same customer and reference: give each lot its own."
            troubles.append(Trouble(row, "reference", words))
            continue
        try:
            openings.append(Opening(row, customer_id, _grant(service, given, reference)))
        except ProblemError as problem:
            column = (problem.pointer or "").strip("/").replace("/", ".")
            troubles.append(Trouble(row, column, problem.detail))
    return openings, troubles


def _grant(service: Service, given: Columns, reference: str) -> GrantCredit:
    """The grant of one row. Raises ProblemError whose pointer is the column."""
    parse.customer_id(given.get("customer_id", ""))
    asset = given.get("asset", "credits")
    scale = service.credit_scale(asset)
    amount = parse.amount(given.get("amount", ""), scale, "/amount")
    category = given.get("category", "")
    if category not in get_args(Category):
        raise _wrong("category", "is paid or promotional.")
    cost = _cost(service, given, category)
    ends = given.get("expires_at")
    expires_at = None if ends is None else parse.timestamp(ends, "/expires_at")
    if len(reference) > REFERENCE_MAX or not (reference.isascii() and reference.isprintable()):
        raise _wrong("reference", f"is at most {REFERENCE_MAX} printable ASCII characters.")
    priority = _priority(given)
    facts = (asset, amount, category, cost, expires_at, priority)
    return GrantCredit(
        customer_no=0,
        key=f"opening/{reference}",
        operation="grant",
        fingerprint=sha256(msgspec.json.encode(facts)).digest(),
        asset=asset,
        scale=scale,
        amount=amount,
        category=cast("Category", category),
        cost=cost,
        priority=priority,
        expires_at=expires_at,
        origin=OPENING,
        notes=Notes(token_bytes(16), reason="opening balance"),
    )


def _cost(service: Service, given: Columns, category: str) -> Cost | None:
    cost, currency = given.get("cost"), given.get("currency")
    if category == "promotional":
        if cost is not None or currency is not None:
            raise _wrong("cost", "is of paid rows only: leave cost and currency empty.")
        return None
    if cost is None or currency is None:
        missing = "cost" if cost is None else "currency"
        raise _wrong(missing, "is needed: what was paid for these credits, without tax; 0 if free.")
    scale = service.money_scale(currency, "/currency")
    return Cost(parse.amount(cost, scale, "/cost", allow_zero=True), currency)


def _priority(given: Columns) -> int:
    text = given.get("priority", "50")
    if not (len(text) < 4 and text.isascii() and text.isdecimal() and int(text) <= PRIORITY_MAX):
        raise _wrong("priority", f"is a number from 0 to {PRIORITY_MAX}; lower burns first.")
    return int(text)


def _wrong(column: str, words: str) -> ProblemError:
    return ProblemError(422, "invalid_value", f"{column} {words}", pointer=f"/{column}")


async def take_over(service: Service, raw: bytes, *, is_dry_run: bool) -> Imported:
    """Import a file in one transaction: every row, or nothing if one of them is wrong.

    A dry run does the same and takes it back. Customers are locked in order until the end, so who
    of them is at work waits.
    """
    openings, troubles = read(service, raw)
    if troubles:
        return _told(service, openings, Counter(), troubles, is_dry_run=is_dry_run)
    found: list[Imported] = []

    async def attempt() -> None:
        found.clear()
        async with transaction(service.pool) as conn:
            found.append(await _granted(service, conn, openings, is_dry_run=is_dry_run))
            if is_dry_run or found[0].problems:
                raise _Undo

    with suppress(_Undo):
        await service.retried(attempt)
    return found[0]


async def _granted(
    service: Service, conn: Connection, openings: Sequence[Opening], *, is_dry_run: bool
) -> Imported:
    names = sorted({one.customer_id for one in openings})
    numbers: dict[str, int] = {}
    customers_made = 0
    for start in range(0, len(names), ROWS_AT_ONCE_MAX):
        part = names[start : start + ROWS_AT_ONCE_MAX]
        made = await customers.make(conn, part, signup_due=False)
        numbers |= await customers.find(conn, part)
        customers_made += len(made)
    ordered = sorted(openings, key=lambda one: (numbers[one.customer_id], one.row))
    replayed: Counter[bool] = Counter()
    """Of the rows that are granted, whether they were before."""
    troubles: list[Trouble] = []
    for start in range(0, len(ordered), ROWS_AT_ONCE_MAX):
        part = ordered[start : start + ROWS_AT_ONCE_MAX]
        requests = [
            msgspec.structs.replace(one.grant, customer_no=numbers[one.customer_id]) for one in part
        ]
        results = await transact(
            conn, requests, service.settings(), render, wait=True, facts=service.facts
        )
        for one, result in zip(part, results, strict=True):
            assert result is not None, "waited for the lock"
            if result.status == 201:
                replayed[result.is_replayed] += 1
            else:
                troubles.append(_refused(one, msgspec.json.decode(result.body)))
    return _told(service, openings, replayed, troubles, made=customers_made, is_dry_run=is_dry_run)


def _refused(one: Opening, body: Any) -> Trouble:
    if body["code"] == "idempotency_key_reused":
        words = "was imported before with other numbers. What is granted stays: correct it there."
        return Trouble(one.row, "reference", f"This customer's {one.grant.key} {words}")
    column = next((error["pointer"].strip("/") for error in body["errors"]), "")
    return Trouble(one.row, column, body["detail"])


def _told(
    service: Service,
    openings: Iterable[Opening],
    replayed: Counter[bool],
    troubles: list[Trouble],
    *,
    made: int = 0,
    is_dry_run: bool,
) -> Imported:
    rows: Counter[tuple[str, str, str]] = Counter()
    amounts: Counter[tuple[str, str, str]] = Counter()
    costs: Counter[tuple[str, str, str]] = Counter()
    scales: dict[str, int] = {}
    names: set[str] = set()
    for one in openings:
        grant, cost = one.grant, one.grant.cost
        kind = grant.asset, grant.category, "" if cost is None else cost.currency
        rows[kind] += 1
        amounts[kind] += grant.amount
        costs[kind] += 0 if cost is None else cost.amount
        scales[grant.asset] = grant.scale or 0
        names.add(one.customer_id)
    return Imported(
        is_dry_run=is_dry_run,
        rows=sum(rows.values()),
        customers=len(names),
        customers_made=made,
        granted=replayed[False],
        already_granted=replayed[True],
        totals=[
            Total(
                asset=kind[0],
                category=kind[1],
                rows=rows[kind],
                amount=format_amount(amounts[kind], scales[kind[0]]),
                currency=kind[2] or None,
                cost=format_amount(costs[kind], service.money_scale(kind[2], "/currency"))
                if kind[2]
                else None,
            )
            for kind in sorted(rows)
        ],
        problems=sorted(troubles, key=lambda trouble: trouble.row),
    )
