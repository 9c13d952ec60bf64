"""COPY of a statement's rows as CSV: by the server, so the fastest way to a file.

A spreadsheet takes a cell that begins with one of `= + - @` for a formula. Where a column may hold
a caller's words, such a cell gets an apostrophe before it, as OWASP's "CSV Injection" advises.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

from sql.pool import Connection

Cell = Literal["as it is", "words", "time"]
_SHOWN: dict[Cell, str] = {
    "as it is": '"{0}"',
    "words": "regexp_replace(\"{0}\", E'^([=+@\\\\t\\\\r-])', E'''\\\\1')",
    "time": 'to_char("{0}", \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\')',
}


async def copy_csv(
    conn: Connection,
    query: str,
    arguments: Sequence[object],
    columns: Sequence[tuple[str, Cell]],
    output: Callable[[bytes], Coroutine[Any, Any, None]],
    *,
    seconds_max: float,
) -> None:
    """Write a header and the rows of `query` to `output`; lines end by a line feed alone.

    The transaction's time zone must be UTC if there are times.
    """
    shown = ", ".join(f'{_SHOWN[cell].format(name)} AS "{name}"' for name, cell in columns)
    await conn.copy_from_query(
        f"SELECT {shown} FROM ({query}) AS r",  # noqa: S608 (both are texts of this package)
        *arguments,
        output=output,
        format="csv",
        header=True,
        timeout=seconds_max,
    )
