"""The events of charged usage: finding the ones that are stored, storing the new ones."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from ledger.rated import Identity, Line, StoredFact, Window
from meter.catalog import Catalog
from sql.pool import Connection


class EventFacts:
    """The `Facts` of the books."""

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self.catalog = catalog

    async def find(
        self, conn: Connection, wanted: Collection[tuple[int, Identity]]
    ) -> Mapping[tuple[int, Identity], StoredFact]:
        """See `ledger.load_usage.Facts`."""
        return {}

    async def measure(
        self, conn: Connection, customer_no: int, meter_no: int, at: datetime, time_zone: str
    ) -> Mapping[Window, Mapping[str, int]]:
        """See `ledger.load_usage.Facts`."""
        return {}

    async def record(
        self, conn: Connection, made: Sequence[tuple[int, int, int, Line]], now: datetime
    ) -> None:
        """See `ledger.rated.Facts`."""
