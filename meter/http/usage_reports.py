"""What Stripe was told of usage, piece by piece."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct

from ledger import customers
from meter import parse, reconciliation
from meter.http.customers import answer
from meter.http.paging import LIMIT, Page, page, place
from meter.http.reads import CUSTOMER, FROM, TO, moment
from meter.problems import ProblemError
from meter.reconciliation import Reconciliation
from meter.report_pieces import value_text
from meter.route import Call, Query, Reply, Route
from sql import queries
from sql.pool import transaction

STATUSES: Final = (
    "due",
    "sending",
    "sent",
    "confirmed",
    "billed",
    "rejected",
    "disputed",
    "unknown",
    "superseded",
    "unreportable",
    "missed_invoice",
    "next_invoice",
)


class UsageReport(Struct, frozen=True, kw_only=True):
    """One piece of usage; what it says never changes.

    `due`: it is to be told; `sent`: Stripe has taken it; `confirmed`: Stripe's sum of its hour
    agrees; `billed`: the invoice of its period is final; `unknown`: Stripe did not answer, it is
    told again under the same identifier; `superseded`: another piece took its place before it was
    told, or Stripe never had it; `rejected`: Stripe does not count it, `error` says why;
    `disputed`: Stripe's sum differed for long, what it lacks is told again; `unreportable`: it is
    older than Stripe takes; `missed_invoice`: its invoice was final before it was known;
    `next_invoice`: that is so, and an item on the subscription's next invoice bills it.
    """

    identifier: str
    customer_id: str
    subscription_id: str
    event_name: str
    meter: str | None
    """null: usage beyond the wallet, in report units of credits."""
    window_start: datetime
    window_end: datetime
    value: str
    """Negative: less than was told before."""
    status: str
    created_at: datetime
    sent_at: datetime | None
    error: str | None
    invoice_id: str | None
    """Of its period, once it is final."""
    invoice_item_id: str | None
    """That bills it on the next invoice; null until Stripe has it."""
    not_billed: str | None
    """Of what missed its invoice, why no later one bills it: `written_off` (by the setting),
    `no_next_invoice` (its subscription has ended), `no_price`, `refused` by
    Stripe, or `unsure`: it was told before and after its invoice was final."""


async def list_reports(call: Call) -> Reply:
    """Pieces of usage that Stripe was told, or is to be, the latest window first."""
    service, at = call.service, place(call, "usage-reports")
    status = call.query.get("status")
    if status is not None and status not in STATUSES:
        raise ProblemError(422, "invalid_query", f"status is one of {', '.join(STATUSES)}.")
    number = call.key.customer_no
    if (customer := call.query.get("customer_id")) is not None:
        number = await service.customer_no(call, customer)
    after: list[Any] = [None] * 5
    if at.after is not None:
        after = [parse.timestamp(at.after[0], "/cursor"), *at.after[1:]]
    async with transaction(service.pool, snapshot=True) as conn:
        rows = await conn.fetch(
            queries.usage_reports_read,
            number,
            status,
            moment(call, "from"),
            moment(call, "to"),
            *after,
            at.limit + 1,
        )
    shown = [
        UsageReport(
            identifier=row["identifier"],
            customer_id=row["customer_id"],
            subscription_id=row["subscription_id"],
            event_name=row["event_name"],
            meter=row["meter"],
            window_start=row["window_at"],
            window_end=row["window_end"],
            value=value_text(Decimal(row["value"])),
            status=row["status"],
            created_at=row["created_at"],
            sent_at=row["sent_at"],
            error=row["error"],
            invoice_id=row["invoice_id"],
            invoice_item_id=row["invoice_item_id"],
            not_billed=row["not_billed"],
        )
        for row in rows[: at.limit]
    ]
    more = None
    if len(rows) > at.limit:
        last = rows[at.limit - 1]
        names = ("customer_no", "item_no", "seq", "part")
        more = [last["window_at"].isoformat(), *(last[name] for name in names)]
    return page(call, "usage-reports", shown, more)


async def reconcile(call: Call) -> Reply:
    """Usage three ways, by day: what was used, what Stripe was told, what Stripe has.

    Stripe's sums are those of the last comparison (the job `confirm_usage`): nothing is asked of
    Stripe here. Left out, the days are the last 31.
    """
    service, number = call.service, call.key.customer_no
    if (customer := call.query.get("customer_id")) is not None:
        number = await service.customer_no(call, customer)
    async with transaction(service.pool, snapshot=True) as conn:
        now = await customers.now(conn)
        from_, to = reconciliation.span(moment(call, "from"), moment(call, "to"), now)
        found = await reconciliation.read(conn, from_, to, number, now)
    return answer(200, found)


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/reconciliation",
        operation="get_reconciliation",
        summary="Usage, what Stripe was told of it, and what Stripe has.",
        scope="books:read",
        handler=reconcile,
        tag="Money in",
        answers={200: Reconciliation},
        errors=("customer_not_found",),
        query=(CUSTOMER, FROM, TO),
    ),
    Route(
        method="GET",
        path="/v1/usage-reports",
        operation="list_usage_reports",
        summary="What Stripe was told of usage.",
        scope="books:read",
        handler=list_reports,
        tag="Money in",
        answers={200: Page[UsageReport]},
        errors=("customer_not_found",),
        query=(
            CUSTOMER,
            Query("status", "Of one status.", {"type": "string", "enum": list(STATUSES)}),
            FROM,
            TO,
            *LIMIT,
        ),
    ),
)
