"""Journals for plain-text accounting: hledger and beancount, with the balances asserted.

One transaction a journal, an account of the business each; the customer stands beside it. Amounts
are debits minus credits, so an opening transaction takes over what was before, and at the end every
account's balance is asserted.
"""

import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from hashlib import sha256
from typing import Final

from asyncpg import Record

from ledger.reports import Asset
from meter.reports.sheet import Sheet

ACCOUNTS: Final = {
    "wallet": "Liabilities:Credits:Wallet",
    "upcoming": "Liabilities:Credits:Upcoming",
    "purchased": "Equity:Credits:Purchased",
    "granted": "Equity:Credits:Granted",
    "burned": "Equity:Credits:Burned",
    "expired": "Equity:Credits:Expired",
    "owed": "Assets:Credits:Owed",
    "billed": "Assets:Credits:Billed",
    "cash": "Assets:Cash",
    "fees": "Expenses:Fees",
    "refunds": "Income:Refunds",
    "disputed": "Assets:Disputed",
    "deferred_revenue": "Liabilities:DeferredRevenue",
    "revenue": "Income:Revenue",
    "breakage_revenue": "Income:Breakage",
    "tax": "Liabilities:Tax",
    "opening": "Equity:Opening",
}
"""The account of the chart → its name in the file. Credits are counted, not worth money."""
COMMODITY_MAX: Final = 20
"""Letters of a commodity that is made of an asset's code; beancount takes 24."""
_BREAKS: Final = re.compile(r"[\s\x00-\x1f\x7f\u2028\u2029]+")


async def hledger(sheet: Sheet) -> AsyncIterator[bytes]:
    """A journal for hledger."""
    names = {asset.code: f'"{asset.code}"' for asset in sheet.assets}
    lines = [f"; {sheet.name}: debits minus credits", "decimal-mark ."]
    lines += [f"commodity 1000.{'0' * asset.scale} {names[asset.code]}" for asset in sheet.assets]
    lines += [f"account {account}" for account in _used(sheet)]
    if opening := list(_postings(sheet, names, "opening")):
        lines += ["", f"{sheet.opened_on} opening balances", *opening]
    yield "\n".join((*lines, "")).encode()
    async for batch in _journals(sheet):
        told: list[str] = []
        for journal in batch:
            head = journal[0]
            late = f", late_for:{head['late_for']}" if head["late_for"] else ""
            customer = _one_line(head["customer_id"]).replace(",", " ")
            told += [
                "",
                f"{head['book_date']} ({head['journal_id']}) {head['kind']}"
                f"  ; customer:{customer}{late}",
                *_moves(journal, names),
            ]
        yield "\n".join((*told, "")).encode()
    last = sheet.span.end - timedelta(days=1)
    if closing := list(_assertions(sheet, names)):
        yield "\n".join(("", f"{last} closing balances", *closing, "")).encode()


async def beancount(sheet: Sheet) -> AsyncIterator[bytes]:
    """A ledger for beancount."""
    names = _commodities(sheet.assets)
    lines = [f'option "title" "{sheet.name}"', ""]
    lines += [f"{sheet.opened_on} commodity {names[asset.code]}" for asset in sheet.assets]
    lines += [f"{sheet.opened_on} open {account}" for account in _used(sheet)]
    if opening := list(_postings(sheet, names, "opening")):
        lines += ["", f'{sheet.opened_on} * "opening balances"', *opening]
    yield "\n".join((*lines, "")).encode()
    async for batch in _journals(sheet):
        told: list[str] = []
        for journal in batch:
            head = journal[0]
            told += [
                "",
                f'{head["book_date"]} * {_quoted(head["customer_id"])} "{head["kind"]}"',
                f'  id: "{head["journal_id"]}"',
            ]
            if head["late_for"]:
                told.append(f'  late_for: "{head["late_for"]}"')
            told += _moves(journal, names)
        yield "\n".join((*told, "")).encode()
    closing = [
        f"{sheet.span.end} balance {ACCOUNTS[row['account']]}  {row['closing']:f} ~ 0"
        f" {names[row['asset']]}"
        for row in sheet.balances
    ]
    if closing:
        yield "\n".join(("", *closing, "")).encode()


async def _journals(sheet: Sheet) -> AsyncIterator[list[list[Record]]]:
    """Whole journals, some at a time: a journal's transfers come one after the other."""
    journal: list[Record] = []
    async for batch in sheet.batches:
        whole: list[list[Record]] = []
        for row in batch:
            if journal and row["journal_id"] != journal[0]["journal_id"]:
                whole.append(journal)
                journal = []
            journal.append(row)
        yield whole
    if journal:
        yield [journal]


def _moves(journal: list[Record], names: dict[str, str]) -> Iterator[str]:
    for row in journal:
        amount, commodity = f"{row['amount']:f}", names[row["asset"]]
        yield f"  {ACCOUNTS[row['debit']]}  {amount} {commodity}"
        yield f"  {ACCOUNTS[row['credit']]}  -{amount} {commodity}"


def _postings(sheet: Sheet, names: dict[str, str], column: str) -> Iterator[str]:
    for row in sheet.balances:
        if row[column]:
            yield f"  {ACCOUNTS[row['account']]}  {row[column]:f} {names[row['asset']]}"


def _assertions(sheet: Sheet, names: dict[str, str]) -> Iterator[str]:
    for row in sheet.balances:
        name = names[row["asset"]]
        yield f"  {ACCOUNTS[row['account']]}  0 {name} = {row['closing']:f} {name}"


def _used(sheet: Sheet) -> list[str]:
    return sorted({ACCOUNTS[row["account"]] for row in sheet.balances})


def _commodities(assets: tuple[Asset, ...]) -> dict[str, str]:
    """A commodity an asset, in the letters that beancount takes; currencies as they are."""
    names = {asset.code: asset.code for asset in assets if asset.is_money}
    for asset in assets:
        if not asset.is_money:
            name = asset.code.upper().rstrip("_")
            if len(name) < 2 or len(name) > COMMODITY_MAX or name in names.values():
                mark = sha256(asset.code.encode()).hexdigest()[:8].upper()
                name = f"{name[:10]}-X{mark}"
            names[asset.code] = name
    return names


def _one_line(text: str) -> str:
    return _BREAKS.sub(" ", text).strip()


def _quoted(text: str) -> str:
    escaped = _one_line(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
