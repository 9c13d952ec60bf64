"""A report as a stream of bytes, in any form, out of one snapshot of the books."""

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Final

from asyncpg import Record
from msgspec import Struct

from ledger import reports
from ledger.reports import JOURNAL, TRIAL_BALANCE, Asset, Report, Span
from meter.reports import columnar, letter, plain_text, text, workbook
from meter.reports.sheet import Sheet
from sql.copy import Cell, copy_csv
from sql.pool import Connection, Pool, transaction

CHUNKS_AHEAD_MAX: Final = 8
"""Of a CSV file, each some tens of kilobytes: how far the database runs ahead of a slow reader."""
CSV_CHUNK: Final = 64 * 1024
ACQUIRE_SECONDS_MAX: Final = 5.0


class Form(Struct, frozen=True):
    """A form of files: how it is named on the wire, and who writes it (None: the database)."""

    media_type: str
    suffix: str
    write: Callable[[Sheet], AsyncIterator[bytes]] | None
    is_journal: bool = False
    """It has whole journals, and nothing else."""
    is_packed: bool = False
    """It is compressed already."""
    is_letter: bool = False
    """It is one customer's statement, for people."""


FORMS: Final[dict[str, Form]] = {
    "json": Form("application/json", "json", text.json),
    "csv": Form("text/csv", "csv", None),
    "jsonl": Form("application/jsonl", "jsonl", text.jsonl),
    "parquet": Form("application/vnd.apache.parquet", "parquet", columnar.parquet, is_packed=True),
    "xlsx": Form(
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "xlsx",
        workbook.xlsx,
        is_packed=True,
    ),
    "hledger": Form("text/vnd.hledger", "journal", plain_text.hledger, is_journal=True),
    "html": Form("text/html", "html", letter.html, is_letter=True),
    "beancount": Form("text/vnd.beancount", "beancount", plain_text.beancount, is_journal=True),
}


def forms_of(report: Report) -> list[str]:
    """The names of the forms that a report can be had in."""
    return [
        name
        for name, form in FORMS.items()
        if (report is JOURNAL or not form.is_journal)
        and (report.is_of_customer or not form.is_letter)
    ]


async def stream(
    pool: Pool, report: Report, span: Span, form: Form, *, gzip: bool = False
) -> AsyncGenerator[bytes]:
    """The file, part by part. An error after the first part leaves it visibly cut off.

    Memory is bounded: the database waits for whoever reads.
    """
    async with transaction(pool, snapshot=True, acquire_seconds_max=ACQUIRE_SECONDS_MAX) as conn:
        await reports.prepare(conn)
        source = (
            _csv(conn, report, span) if form.write is None else _written(conn, report, span, form)
        )
        packer = zlib.compressobj(6, wbits=31) if gzip else None
        async with aclosing(source) as parts:
            async for part in parts:
                if packed := part if packer is None else packer.compress(part):
                    yield packed
        if packer is not None:
            yield packer.flush()


async def _written(
    conn: Connection, report: Report, span: Span, form: Form
) -> AsyncGenerator[bytes]:
    assert form.write is not None
    assets: list[Asset] = []
    balances: list[Record] = []
    customer: Record | None = None
    if form.is_letter:
        customer = await reports.customer(conn, span)
    if form.is_journal:
        assets = await reports.assets(conn)
        async for batch in reports.rows(conn, TRIAL_BALANCE, span):
            balances += batch
    async with aclosing(reports.rows(conn, report, span)) as batches:
        # Before anything is written: if it fails, the answer has not begun.
        first = await anext(batches, None)
        sheet = Sheet(
            report=report,
            span=span,
            batches=_with(first, batches),
            assets=tuple(assets),
            balances=tuple(balances),
            customer=customer,
        )
        async for part in form.write(sheet):
            if part:
                yield part


async def _with(
    first: Sequence[Record] | None, rest: AsyncIterator[Sequence[Record]]
) -> AsyncIterator[Sequence[Record]]:
    if first is not None:
        yield first
    async for batch in rest:
        yield batch


class _LineEnds:
    """Line ends of a CSV file as RFC 4180 has them; what is between quotes stays as it is."""

    def __init__(self) -> None:
        self._is_quoted = False

    def made(self, part: bytes) -> bytes:
        """The next part of the file."""
        pieces = part.split(b'"')
        outside = 1 if self._is_quoted else 0
        for place in range(outside, len(pieces), 2):
            pieces[place] = pieces[place].replace(b"\n", b"\r\n")
        self._is_quoted ^= len(pieces) % 2 == 0
        return b'"'.join(pieces)


async def _csv(conn: Connection, report: Report, span: Span) -> AsyncGenerator[bytes]:
    """The database's own CSV: its sink waits until there is room."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(CHUNKS_AHEAD_MAX)
    pending, ends = bytearray(), _LineEnds()

    async def take(part: bytes) -> None:
        pending.extend(part)
        if len(pending) >= CSV_CHUNK:
            await queue.put(bytes(pending))
            pending.clear()

    async def copy() -> None:
        cells: dict[str, Cell] = {"text": "words", "time": "time"}
        columns: list[tuple[str, Cell]] = [
            (column.name, cells.get(column.kind, "as it is")) for column in report.columns
        ]
        arguments, seconds = span.arguments(report), reports.SECONDS_MAX
        try:
            await copy_csv(conn, report.query, arguments, columns, take, seconds_max=seconds)
            await queue.put(bytes(pending))
        except asyncio.CancelledError:
            raise  # nobody reads any more
        except BaseException:
            await queue.put(None)
            raise
        await queue.put(None)

    copying = asyncio.create_task(copy())
    try:
        while (part := await queue.get()) is not None:
            yield ends.made(part)
        await copying
    finally:
        copying.cancel()
        await asyncio.gather(copying, return_exceptions=True)
