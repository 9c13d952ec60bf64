"""Parquet: exact decimals with twelve places, as no asset has more. Needs the extra `parquet`."""

import asyncio
import io
from collections.abc import AsyncIterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from asyncpg import Record

from meter.reports.sheet import Sheet

ROWS_OF_A_GROUP: Final = 50_000
"""In memory until they are written: some ten megabytes."""


def is_installed() -> bool:
    """Whether the library is there: it is large, and only this form needs it."""
    return find_spec("pyarrow") is not None


async def parquet(sheet: Sheet) -> AsyncIterator[bytes]:
    """Row groups as they fill, then the file's end."""
    file = _File(sheet)
    async for batch in sheet.batches:
        file.rows += batch
        if len(file.rows) >= ROWS_OF_A_GROUP:
            yield await asyncio.to_thread(file.flush)
    if file.rows:
        yield await asyncio.to_thread(file.flush)
    yield file.end()


class _Sink(io.RawIOBase):
    """A file that is written once, from start to end, and whose parts are taken away meanwhile."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._length

    def write(self, text: Any) -> int:
        self._parts.append(bytes(text))
        self._length += len(self._parts[-1])
        return len(self._parts[-1])

    def take(self) -> bytes:
        """What was written since the last time."""
        text = b"".join(self._parts)
        self._parts.clear()
        return text


class _File:
    """A Parquet file of which what is written is taken away at once."""

    def __init__(self, sheet: Sheet) -> None:
        pa: Any = import_module("pyarrow")
        pq: Any = import_module("pyarrow.parquet")

        kinds: dict[str, Any] = {
            "text": pa.string(),
            "id": pa.string(),
            "date": pa.date32(),
            "time": pa.timestamp("us", tz="UTC"),
            "integer": pa.int64(),
            "amount": pa.decimal128(38, 12),
            "quantity": pa.decimal256(76, 18),
        }
        columns = sheet.report.columns
        self._schema = pa.schema([(column.name, kinds[column.kind]) for column in columns])
        self._pa, self._sink = pa, _Sink()
        self._writer = pq.ParquetWriter(self._sink, self._schema)
        self.rows: list[Record] = []

    def flush(self) -> bytes:
        """Write the rows as a group; the bytes that are new."""
        cells = list(zip(*self.rows, strict=True))
        self.rows = []
        arrays = [
            self._pa.array(values, type=field.type)
            for values, field in zip(cells, self._schema, strict=True)
        ]
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))
        return self._sink.take()

    def end(self) -> bytes:
        """The rest of the file."""
        self._writer.close()
        return self._sink.take()
