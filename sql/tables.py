"""Whole tables as text, in the order of their primary key: what a backup writes and reads.

The text is that of COPY under `copy_settings`, so the same rows give the same bytes on every
server, and their hash is a hash of the table's contents.
"""

from collections.abc import AsyncIterable, Callable, Coroutine
from typing import Any, NamedTuple

from sql import queries
from sql.pool import Connection


class Table(NamedTuple):
    """A table: its stored columns (generated ones are left out), its parents, its statements."""

    name: str
    columns: list[str]
    parents: list[str]
    read_all: str
    has_rows: str
    clear: str


async def tables(conn: Connection) -> list[Table]:
    """Every table but that of migrations, each after those that it refers to."""
    waiting = [Table(*row) for row in await conn.fetch(queries.tables_read)]
    ordered: list[Table] = []
    while waiting:
        names = {table.name for table in waiting}
        ready = [table for table in waiting if names.isdisjoint(table.parents)]
        assert ready, "tables refer to each other in a circle"
        ordered += ready
        waiting = [table for table in waiting if table not in ready]
    return ordered


async def copy_out(
    conn: Connection, table: Table, write: Callable[[bytes], Coroutine[Any, Any, None]]
) -> int:
    """Give all rows to `write`, piece by piece; answers how many there were."""
    return _count(await conn.copy_from_query(table.read_all, output=write))


async def copy_in(conn: Connection, table: Table, pieces: AsyncIterable[bytes]) -> int:
    """Insert all rows of the text that `pieces` make up; answers how many there were."""
    return _count(await conn.copy_to_table(table.name, source=pieces, columns=table.columns))


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
