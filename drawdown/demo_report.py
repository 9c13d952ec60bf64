"""What the demo tells: the replay's answers beside sums made from the same rows by other code."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Final

from msgspec import Struct

from drawdown.replay import Report

LABEL_WIDTH: Final = 27
COLUMN_WIDTH: Final = 15

Burned = Counter[str]
"""Credits burned, by category of lot."""


INPUT_PRICE: Final = 1
OUTPUT_PRICE: Final = 4
"""Credits for a token of context and of an answer, as the demo's rate card has them."""


class Sums(Struct, frozen=True):
    """What rows of a trace add up to: tokens, and the credits that they cost."""

    rows: int
    context: int
    generated: int

    @property
    def credits(self) -> int:
        return self.context * INPUT_PRICE + self.generated * OUTPUT_PRICE


class Used(Struct, frozen=True):
    """Tokens that the service counted for one model on one day."""

    model: str
    day: str
    context: int
    generated: int


class Replayed(Struct, frozen=True):
    """One trace after its replay: what the service answered beside what the file says."""

    name: str
    report: Report
    sums: Sums


class Line(Struct, frozen=True):
    """One line of a statement, as the service answers it."""

    kind: str
    created_at: str
    amount: Decimal
    balance: Decimal
    reference: str = ""


class Statement(Struct, frozen=True):
    opening: Decimal
    closing: Decimal
    lines: list[Line]


def add_up(path: Path, row_limit: int | None) -> Sums:
    """Add up the first rows of a trace, all if None. By the columns' names; checks nothing."""
    rows = context = generated = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in islice(csv.DictReader(file), row_limit):
            rows += 1
            context += int(row["ContextTokens"])
            generated += int(row["GeneratedTokens"])
    return Sums(rows, context, generated)


def table(replayed: Sequence[Replayed]) -> list[str]:
    """The traces side by side, and both together where that says something."""
    reports = [one.report for one in replayed]
    sums = [one.sums for one in replayed]

    def counts(label: str, values: Iterable[int | Decimal]) -> str:
        shown = list(values)
        return _row(label, [f"{value:,f}" for value in (*map(Decimal, shown), Decimal(sum(shown)))])

    def times(label: str, show: Callable[[Report], str]) -> str:
        return _row(label, map(show, reports))

    return [
        _row("", [*(one.name for one in replayed), "both"]),
        counts("rows", (report.rows for report in reports)),
        counts("requests", (report.requests for report in reports)),
        counts("refused", (refused(report) for report in reports)),
        counts("sent again after a doubt", (report.retries for report in reports)),
        times("requests per second", lambda report: f"{report.requests_per_second:,.0f}"),
        times(
            "reserve p50 / p99, ms", lambda r: f"{r.reserve.p50_ms:.1f} / {r.reserve.p99_ms:.1f}"
        ),
        times(
            "capture p50 / p99, ms", lambda r: f"{r.capture.p50_ms:.1f} / {r.capture.p99_ms:.1f}"
        ),
        counts("credits captured", (report.captured for report in reports)),
        counts("the same rows' price", (one.credits for one in sums)),
        counts(f"  context, at {INPUT_PRICE}", (one.context for one in sums)),
        counts(f"  generated, at {OUTPUT_PRICE}", (one.generated for one in sums)),
    ]


def _row(label: str, cells: Iterable[str]) -> str:
    return f"{label:<{LABEL_WIDTH}}{''.join(f'{cell:>{COLUMN_WIDTH}}' for cell in cells)}".rstrip()


def refused(report: Report) -> int:
    """Rows that ended in a 402."""
    return report.declined + report.captures_declined


def burned_line(burned: Burned) -> str:
    """What left the lots, by category."""
    parts = [f"{category} {count:,}" for category, count in sorted(burned.items())]
    return f"{' + '.join(parts) or '0'} = {sum(burned.values()):,}"


def usage_lines(used: Sequence[Used]) -> list[str]:
    """What the meters counted, by model and day."""
    return [
        "usage      by model and day, as the meters counted it",
        *(
            f"  {one.model:<14}{one.day:<12}{one.context:>14,} context"
            f"{one.generated:>14,} generated"
            for one in used
        ),
    ]


def uncounted(replayed: Sequence[Replayed], used: Sequence[Used]) -> list[str]:
    """Every way in which meters and files disagree; a trace's model has its name."""
    found: list[str] = []
    for one in replayed:
        mine = [each for each in used if each.model == one.name]
        counted = sum(each.context for each in mine), sum(each.generated for each in mine)
        if counted != (one.sums.context, one.sums.generated):
            found.append(
                f"{one.name}: the meters counted {counted[0]:,} + {counted[1]:,} tokens, the rows"
                f" say {one.sums.context:,} + {one.sums.generated:,}"
            )
    return found


def differences(replayed: Sequence[Replayed], burned: Burned) -> list[str]:
    """Every way in which the service and the files disagree, a line each; empty if in none."""
    found: list[str] = []
    for one in replayed:
        report, sums = one.report, one.sums
        if report.captured != sums.credits:
            found.append(
                f"{one.name}: captured {report.captured:,f}, the rows say {sums.credits:,}:"
                f" a difference of {report.captured - sums.credits:+,f}"
            )
        if report.accepted != sums.rows:
            found.append(f"{one.name}: {report.accepted:,} of {sums.rows:,} rows were accepted")
    used = sum(one.sums.credits for one in replayed)
    if (total := sum(burned.values())) != used:
        found.append(
            f"the lots lost {total:,} credits, the rows say {used:,}:"
            f" a difference of {total - used:+,}"
        )
    return found


def statement_lines(customer: str, statement: Statement) -> list[str]:
    """The beginning of a statement."""

    def line(*cells: str) -> str:
        at, kind, reference, amount, balance = cells
        return f"  {at:<25}{kind:<10}{reference:<32}{amount:>12}{balance:>12}"

    return [
        f"statement of {customer}, its first lines",
        line("", "opening", "", "", f"{statement.opening:,f}"),
        *(
            line(x.created_at[:23], x.kind, x.reference, f"{x.amount:,f}", f"{x.balance:,f}")
            for x in statement.lines
        ),
        line("", "closing", "after all its lines", "", f"{statement.closing:,f}"),
    ]
