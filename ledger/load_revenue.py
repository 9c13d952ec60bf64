"""Recognition as rows: what left paid lots since they were recognised last, and what is noted."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ledger.requests import Recognise, Request
from ledger.revenue import Known, Moved
from ledger.state import Books, Unrecognised
from sql import queries
from sql.pool import Connection


async def load_unrecognised(
    conn: Connection, customers: dict[int, Books], requests: Iterable[Request]
) -> set[tuple[int, int]]:
    """What is to be recognised of the customers that requests name so.

    Returns the lots that it is about, which are still to be loaded.
    """
    wanted = {r.customer_no for r in requests if isinstance(r, Recognise)}
    for no in wanted:
        customers[no].unrecognised = Unrecognised(customers[no].last_seq, {}, {}, {})
    if not wanted:
        return set()
    lots: set[tuple[int, int]] = set()
    for row in await conn.fetch(queries.moves_unrecognised, sorted(wanted)):
        work = customers[row["customer_no"]].unrecognised
        assert work is not None
        no: int = row["lot_no"]
        lots.add((row["customer_no"], no))
        work.known[no] = Known(row["revenue"], row["breakage"], row["returned"])
        if row["void_money"] is not None:
            work.voids[no] = row["void_money"]
        work.moves.setdefault(no, []).append(
            Moved(
                lot_no=no,
                book_date=row["book_date"],
                late_for=row["late_for"],
                effective_at=row["effective_at"],
                burned=int(row["burned"]),
                expired=int(row["expired"]),
                voided=int(row["voided"]),
            )
        )
    return lots


async def post_recognised(conn: Connection, changed: Sequence[Books]) -> None:
    """Note what left the deferred revenue of lots, and how far customers are recognised."""
    if rows := _sums(changed):
        await conn.execute(queries.recognitions_add, *zip(*rows, strict=True))
    done = [(b.customer_no, b.recognised_seq) for b in changed if b.recognised_seq is not None]
    if done:
        await conn.execute(queries.customers_recognised, *zip(*done, strict=True))


def _sums(changed: Sequence[Books]) -> list[Sequence[Any]]:
    """One row a lot: a statement can't add to the same row twice."""
    return [row for books in changed for row in _sums_of(books)]


def _sums_of(books: Books) -> Iterator[Sequence[Any]]:
    for lot_no in sorted({part.lot_no for part in books.recognised}):
        parts = [part for part in books.recognised if part.lot_no == lot_no]
        yield (
            books.customer_no,
            lot_no,
            sum(part.revenue for part in parts),
            sum(part.breakage for part in parts),
            sum(part.returned for part in parts),
            max(part.recognised_seq for part in parts),
        )
