"""The events of charged usage: finding the ones that are stored, storing the new ones."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from ledger.rated import Identity, Line, Readings
from meter.catalog import Catalog
from sql.pool import Connection


class EventFacts:
    """The `Facts` of the books."""

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self.catalog = catalog

    async def find(
        self, conn: Connection, wanted: Collection[tuple[int, Identity]]
    ) -> Mapping[tuple[int, Identity], Readings]:
        """See `ledger.rated.Facts`."""
        return {}

    async def record(
        self, conn: Connection, made: Sequence[tuple[int, int, int, Line]], now: datetime
    ) -> None:
        """See `ledger.rated.Facts`."""
