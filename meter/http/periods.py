"""Months of the books: closed once, and what each of them came to."""

from datetime import date
from typing import Annotated, Final

from msgspec import Meta

from ledger import periods
from ledger.periods import Period
from meter import closing, parse
from meter.http.bodies import Body
from meter.http.customers import answer
from meter.http.paging import LIMIT, Page, page, place
from meter.problems import ProblemError
from meter.route import Call, Reply, Route
from sql.pool import transaction


class ClosePeriodBody(Body, frozen=True, kw_only=True):
    """Nothing, or `force` with a `reason`: close it though not everything is proved."""

    force: bool = False
    reason: Annotated[str, Meta(min_length=1, max_length=500)] | None = None


async def close_period(call: Call) -> Reply:
    """Close an ended month; closed before, it is answered as it is."""
    assert call.body is not None
    wanted = parse.decode(call.body, ClosePeriodBody)
    if wanted.force != (wanted.reason is not None):
        raise ProblemError(
            422, "invalid_value", "force and a reason go together.", pointer="/reason"
        )
    return answer(200, await closing.close(call.service, call.ids[0], reason=wanted.reason))


async def list_periods(call: Call) -> Reply:
    """Closed months with what they moved of each account, the latest first."""
    at = place(call, "periods")
    before = None if at.after is None else date.fromisoformat(at.after)
    async with transaction(call.service.pool, snapshot=True) as conn:
        found, more = await periods.read_all(conn, before=before, limit=at.limit)
    return page(call, "periods", found, None if more is None else more.isoformat())


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/periods/{period}/close",
        operation="close_period",
        summary="Close a month of the books that has ended.",
        scope="books:write",
        handler=close_period,
        tag="Books",
        body=ClosePeriodBody,
        answers={200: Period},
        errors=("period_not_found", "period_not_ended", "period_out_of_order", "books_not_proved"),
        example={},
    ),
    Route(
        method="GET",
        path="/v1/periods",
        operation="list_periods",
        summary="Closed months and what they came to, the latest first.",
        scope="books:read",
        handler=list_periods,
        tag="Books",
        answers={200: Page[Period]},
        query=LIMIT,
    ),
)
