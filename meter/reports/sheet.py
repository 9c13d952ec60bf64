"""What a writer of files is given: a report's columns and its rows, a batch at a time."""

from collections.abc import AsyncIterator, Sequence
from datetime import date

from asyncpg import Record
from msgspec import Struct

from ledger.reports import Asset, Report, Span


class Sheet(Struct, frozen=True, kw_only=True):
    """One report of one span, and what its journal file needs besides."""

    report: Report
    span: Span
    batches: AsyncIterator[Sequence[Record]]
    assets: tuple[Asset, ...] = ()
    balances: tuple[Record, ...] = ()
    """Rows of the trial balance of the same span and snapshot."""
    customer: Record | None = None
    """Whose statement it is: `customer_id` and `name`."""

    @property
    def name(self) -> str:
        """A file name without its end: `journal_2026-03-01_2026-04-01`."""
        first = "start" if self.span.first is None else self.span.first.isoformat()
        return f"{self.report.name}_{first}_{self.span.end.isoformat()}"

    @property
    def opened_on(self) -> date:
        """The day that a journal file opens its accounts on."""
        return self.span.first or date(1970, 1, 1)
