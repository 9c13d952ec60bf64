"""XLSX: real numbers, dates and times, a frozen header, and totals per asset as formulas.

A spreadsheet's number has 15 digits. What has more is written as text, so that nothing is rounded.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import xlsxwriter  # pyright: ignore[reportMissingTypeStubs]
from asyncpg import Record
from xlsxwriter.utility import (  # pyright: ignore[reportMissingTypeStubs]
    xl_col_to_name,
)

from ledger.reports import Column
from meter.reports.sheet import Sheet

ROWS_MAX: Final = 1_048_575
"""Of one sheet below its header; what is more goes on in the next sheet. The format's limit."""
DIGITS_MAX: Final = 15
CHUNK: Final = 256 * 1024
MADE: Final = datetime(2020, 1, 1, tzinfo=UTC)
"""Written as the time of making: the same report is the same file."""
WIDTHS: Final = {"date": 12, "time": 22, "amount": 22, "quantity": 18, "integer": 10, "text": 24}
NARROW: Final = 18
OPTIONS: Final = {
    "constant_memory": True,
    "strings_to_formulas": False,
    "strings_to_numbers": False,
    "strings_to_urls": False,
}


async def xlsx(sheet: Sheet) -> AsyncIterator[bytes]:
    """The file, made on disk first: its parts refer to each other."""
    with TemporaryDirectory(prefix="drawdown-report-") as folder:
        path = Path(folder) / "report.xlsx"
        book = _Book(path, sheet)
        async for batch in sheet.batches:
            await asyncio.to_thread(book.write, batch)
        await asyncio.to_thread(book.close)
        with path.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK):
                yield chunk


class _Book:
    """A workbook that grows by rows."""

    def __init__(self, path: Path, sheet: Sheet) -> None:
        self._sheet, self._columns = sheet, sheet.report.columns
        self._book: Any = xlsxwriter.Workbook(str(path), {**OPTIONS, "tmpdir": str(path.parent)})
        self._book.set_properties({"title": sheet.name, "created": MADE.replace(tzinfo=None)})
        self._bold = self._book.add_format({"bold": True})
        self._date = self._book.add_format({"num_format": "yyyy-mm-dd"})
        self._time = self._book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        self._decimals: dict[int, Any] = {}
        self._pages: list[Any] = []
        self._row = ROWS_MAX
        self._sums: dict[tuple[str, str], Decimal] = {}
        """(asset, column) → its total."""

    def write(self, batch: Sequence[Record]) -> None:
        """Add rows."""
        for row in batch:
            if self._row == ROWS_MAX:
                self._turn()
            self._row += 1
            for place, (column, value) in enumerate(zip(self._columns, row, strict=True)):
                if value is not None:
                    self._cell(place, column, value)
                    if column.asset is not None:
                        sum_of = row[column.asset], column.name
                        self._sums[sum_of] = self._sums.get(sum_of, Decimal(0)) + value

    def close(self) -> None:
        """Write the totals and the file."""
        if not self._pages:
            self._turn()
        if self._sums:
            self._write_totals()
        self._book.close()

    def _turn(self) -> None:
        number = len(self._pages) + 1
        name = self._sheet.report.title if number == 1 else f"{self._sheet.report.title} {number}"
        page = self._book.add_worksheet(name)
        page.freeze_panes(1, 0)
        for place, column in enumerate(self._columns):
            page.set_column(place, place, WIDTHS.get(column.kind, NARROW))
            page.write_string(0, place, column.name, self._bold)
        self._pages.append(page)
        self._row = 0

    def _cell(self, place: int, column: Column, value: Any) -> None:
        page, row = self._pages[-1], self._row
        match column.kind:
            case "date":
                page.write_datetime(row, place, value, self._date)
            case "time":
                at = value.astimezone(UTC).replace(tzinfo=None)
                page.write_datetime(row, place, at, self._time)
            case "integer":
                page.write_number(row, place, value)
            case "amount" | "quantity":
                self._number(page, row, place, value)
            case _:
                page.write_string(row, place, value)

    def _number(
        self, page: Any, row: int, place: int, value: Decimal, formula: str | None = None
    ) -> None:
        _, digits, exponent = value.as_tuple()
        decimals = max(-int(exponent), 0)
        style = self._decimals.get(decimals)
        if style is None:
            shown = "#,##0" + ("." + "0" * decimals if decimals else "")
            style = self._decimals[decimals] = self._book.add_format({"num_format": shown})
        if formula is not None:
            page.write_formula(row, place, formula, style, float(value))
        elif len("".join(map(str, digits)).rstrip("0")) > DIGITS_MAX:
            page.write_string(row, place, f"{value:f}")
        else:
            page.write_number(row, place, float(value), style)

    def _write_totals(self) -> None:
        """A sheet with a line an asset, and a formula a column that is counted in assets."""
        counted = [
            (place, column)
            for place, column in enumerate(self._columns)
            if column.asset is not None
        ]
        page = self._book.add_worksheet("Totals")
        page.freeze_panes(1, 0)
        page.set_column(0, len(counted), WIDTHS["amount"])
        page.write_string(0, 0, "asset", self._bold)
        for place, (_, column) in enumerate(counted, 1):
            page.write_string(0, place, column.name, self._bold)
        names = [column.name for column in self._columns]
        for row, asset in enumerate(sorted({asset for asset, _ in self._sums}), 1):
            page.write_string(row, 0, asset)
            for place, (source, column) in enumerate(counted, 1):
                value = self._sums.get((asset, column.name))
                if value is not None and column.asset is not None:
                    formula = self._sum_formula(names.index(column.asset), row, source)
                    self._number(page, row, place, value, formula)

    def _sum_formula(self, asset_place: int, row: int, source: int) -> str:
        of, what = xl_col_to_name(asset_place), xl_col_to_name(source)
        parts = [
            f"SUMIF('{page.get_name()}'!${of}:${of},$A{row + 1},'{page.get_name()}'!{what}:{what})"
            for page in self._pages
        ]
        return "=" + "+".join(parts)
