"""JSON and JSON Lines: amounts are decimal strings, times RFC 3339, as everywhere in the API."""

from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from asyncpg import Record

from meter.reports.sheet import Sheet

_encoder = msgspec.json.Encoder()


def plain(value: Any) -> Any:
    """A value that the encoder writes as it should: it would give small decimals an exponent."""
    return f"{value:f}" if isinstance(value, Decimal) else value


def _objects(sheet: Sheet, batch: Sequence[Record]) -> list[dict[str, Any]]:
    names = [column.name for column in sheet.report.columns]
    return [dict(zip(names, map(plain, row), strict=True)) for row in batch]


async def jsonl(sheet: Sheet) -> AsyncIterator[bytes]:
    """An object a line."""
    async for batch in sheet.batches:
        yield _encoder.encode_lines(_objects(sheet, batch))


async def json(sheet: Sheet) -> AsyncIterator[bytes]:
    """One object: what was asked, and `rows`."""
    head = {
        "report": sheet.report.name,
        "from": sheet.span.first,
        "to": sheet.span.end,
    }
    yield _encoder.encode(head)[:-1] + b',"rows":['
    glue = b"\n"
    async for batch in sheet.batches:
        yield glue + b",\n".join(map(_encoder.encode, _objects(sheet, batch)))
        glue = b",\n"
    yield b"\n]}\n"
