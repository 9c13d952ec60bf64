"""HTML: a customer's statement as a page that a person would send, or print.

One file that asks nothing of any server: no script, no picture, its own style.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from html import escape
from typing import Any, Final

from meter.reports.sheet import Sheet

WORDS: Final[Mapping[str, str]] = {
    "opening": "Balance brought forward",
    "closing": "Balance",
    "grant": "Credits added",
    "activation": "Credits started",
    "charge": "Used",
    "debt_repaid": "Paid back what was owed",
    "hold_end": "Ran out while reserved",
    "expiry": "Ran out",
    "rollover": "Carried over",
    "void": "Taken back",
    "reversal": "Given back",
    "clawback": "Taken back: the payment was returned",
    "restore": "Given back: the payment stands",
    "release": "Released",
}
"""What a customer reads of each kind of journal that moves a wallet."""

_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem;color:#111}
h1{font-size:1.6rem;margin-bottom:0}
p.of{margin-top:.25rem;color:#444}
table{border-collapse:collapse;width:100%;margin-top:1.5rem}
caption{text-align:left;font-weight:600;margin-bottom:.25rem}
th,td{padding:.3rem .5rem;border-top:1px solid #ccc;text-align:left;vertical-align:top}
th{font-weight:600}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.total td{font-weight:600;border-top:2px solid #111}
@media print{body{margin:0;max-width:none}thead{display:table-header-group}tr{break-inside:avoid}}
"""


async def html(sheet: Sheet) -> AsyncIterator[bytes]:
    """The page. Lines are written as they are read; what they come to stands at the end."""
    span, asset = sheet.span, escape(sheet.span.asset)
    who, last = sheet.customer, span.end - timedelta(days=1)
    assert who is not None, "a statement is somebody's"
    name, customer_id = escape(who["name"] or ""), escape(who["customer_id"])
    since = "Up to" if span.first is None else f"{_day(span.first)} to"
    title = f"Statement of {asset}"
    yield (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{title}: {name or customer_id}</title>"
        f"<style>{_STYLE}</style><h1>{title}</h1>"
        f"<p class=of>{name}<br>Customer {customer_id}<br>"
        f"{since} {_day(last)}</p>"
        "<table><thead><tr><th>Day<th>What<th class=n>Amount<th class=n>Balance</thead><tbody>\n"
    ).encode()
    sums: dict[str, Decimal] = {}
    async for batch in sheet.batches:
        lines: list[str] = []
        for row in batch:
            kind, amount = row["kind"], row["amount"]
            if amount is not None:
                sums[kind] = sums.get(kind, Decimal(0)) + amount
            mark = " class=total" if amount is None else ""
            lines.append(
                f"<tr{mark}><td>{_day(row['book_date'])}<td>{_words(kind)}"
                f"<td class=n>{_number(amount)}<td class=n>{_number(row['balance'])}\n"
            )
        yield "".join(lines).encode()
    yield b"</table><table><caption>In all</caption>\n"
    for kind, amount in sums.items():
        yield f"<tr><td>{_words(kind)}<td class=n>{_number(amount)}\n".encode()
    yield b"</table></html>\n"


def _words(kind: str) -> str:
    return escape(WORDS.get(kind, kind))


def _day(day: date | None) -> str:
    return "" if day is None else f"{day.day} {day:%B %Y}"


def _number(amount: Any) -> str:
    """Digits in threes, no zeros at the end."""
    if amount is None:
        return ""
    text = f"{amount:,f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text.replace("-", "\u2212")
