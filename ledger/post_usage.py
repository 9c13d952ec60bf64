"""Write what charging for usage leaves: charge lines, and where counters stand."""

from collections.abc import Sequence
from typing import Any, Final

from ledger.amounts import format_amount
from ledger.rated import QUANTITY_SCALE
from ledger.state import Books
from sql import queries
from sql.columns import columns
from sql.pool import Connection

_LINES: Final = "iiiisqsiisisttsqqti"


async def post_usage(conn: Connection, changed: Sequence[Books]) -> None:
    """Write the new charge lines and counters of these books, if there are any."""
    lines = _line_rows(changed)
    if not lines:
        return
    await conn.execute(queries.charge_lines_make, *columns(lines, _LINES))
    counters = _counter_rows(changed)
    if counters:
        await conn.execute(queries.price_counters_move, *zip(*counters, strict=True))


def _line_rows(changed: Sequence[Books]) -> list[Sequence[Any]]:
    return [
        (
            books.customer_no,
            seq,
            place,
            line.meter_no,
            format_amount(line.quantity, QUANTITY_SCALE),
            line.dimensions,
            line.card.rate_card,
            line.card.version,
            line.rate_no,
            line.asset,
            line.amount,
            line.counter,
            line.period_start,
            line.period_end,
            format_amount(line.total_before, QUANTITY_SCALE),
            line.source,
            line.event_id,
            line.event_at,
            line.revision,
        )
        for books in changed
        for seq, place, line in books.lines
    ]


def _counter_rows(changed: Sequence[Books]) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = []
    for books in changed:
        for (counter, period_start), period_end in books.counted.items():
            assert books.usage is not None
            counted = books.usage.counters[counter, period_start]
            quantity = format_amount(counted.quantity, QUANTITY_SCALE)
            rows.append(
                (
                    books.customer_no,
                    period_end,
                    period_start,
                    counter,
                    quantity,
                    counted.carry,
                    counted.dimensions,
                )
            )
    return rows
