"""What finance reports there are: their columns, and their rows out of one snapshot of the books.

A report is about book days. What it says of a closed month comes from journals alone, so it never
changes, whenever and however often it is asked for.
"""

from collections.abc import AsyncGenerator, Sequence
from datetime import date
from typing import Final, Literal

from asyncpg import Record
from msgspec import Struct

from sql import queries
from sql.pool import Connection

SECONDS_MAX: Final = 3_600
"""A report that takes longer is given up: its snapshot keeps the database from tidying up."""
ROWS_AT_ONCE: Final = 2_000
"""Of a report in memory: about a megabyte."""

Kind = Literal["text", "id", "date", "time", "integer", "amount", "quantity"]
"""`id` is text that we make; `text` may be a caller's words. Amounts are exact decimals."""


class Column(Struct, frozen=True):
    """A member of every row of a report."""

    name: str
    kind: Kind = "id"
    asset: str | None = None
    """Of an amount: the column that says of which asset."""


class Report(Struct, frozen=True, kw_only=True):
    """A report by its name in the API."""

    name: str
    title: str
    query: str
    columns: tuple[Column, ...]
    is_of_customer: bool = False
    """It is about one customer's wallet of one asset."""


class Asset(Struct, frozen=True):
    """What amounts are counted in."""

    code: str
    scale: int
    is_money: bool


class Span(Struct, frozen=True, kw_only=True):
    """What a report is about: book days from `first` (None: the first one) on, before `end`."""

    first: date | None
    end: date
    customer_no: int | None = None
    asset: str = "credits"

    def arguments(self, report: Report) -> list[object]:
        """The parameters of the report's statement."""
        of_customer = [self.customer_no, self.asset] if report.is_of_customer else []
        return [self.first, self.end, *of_customer]


def _amounts(asset: str, *names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "amount", asset) for name in names)


TRIAL_BALANCE: Final = Report(
    name="trial-balance",
    title="Trial balance",
    query=queries.report_trial_balance,
    columns=(
        Column("asset"),
        Column("account"),
        *_amounts("asset", "opening", "debits", "credits", "closing"),
    ),
)
JOURNAL: Final = Report(
    name="journal",
    title="Journal",
    query=queries.report_journal,
    columns=(
        Column("book_date", "date"),
        Column("journal_id"),
        Column("line", "integer"),
        Column("customer_id", "text"),
        Column("kind"),
        Column("debit"),
        Column("credit"),
        Column("asset"),
        Column("amount", "amount", "asset"),
        Column("lot_id"),
        Column("late_for"),
        Column("effective_at", "time"),
        Column("created_at", "time"),
    ),
)

FOCUS: Final = Report(
    name="focus",
    title="FOCUS",
    query=queries.report_focus,
    columns=(
        *_amounts("BillingCurrency", "BilledCost"),
        Column("BillingAccountId", "text"),
        Column("BillingAccountName"),
        Column("BillingCurrency"),
        Column("BillingPeriodEnd", "time"),
        Column("BillingPeriodStart", "time"),
        Column("ChargeCategory"),
        Column("ChargeClass"),
        Column("ChargeDescription", "text"),
        Column("ChargeFrequency"),
        Column("ChargePeriodEnd", "time"),
        Column("ChargePeriodStart", "time"),
        Column("ConsumedQuantity", "quantity"),
        Column("ConsumedUnit"),
        *_amounts("BillingCurrency", "ContractedCost", "EffectiveCost"),
        Column("InvoiceId", "text"),
        Column("InvoiceIssuerName"),
        *_amounts("BillingCurrency", "ListCost"),
        Column("PricingCurrency"),
        *_amounts("PricingCurrency", "PricingCurrencyEffectiveCost"),
        Column("PricingQuantity", "quantity"),
        Column("PricingUnit"),
        Column("ProviderName"),
        Column("PublisherName"),
        Column("ServiceCategory"),
        Column("ServiceName"),
        Column("ServiceSubcategory"),
        Column("x_Dimensions", "text"),
        Column("x_GrantId"),
        Column("x_Kind"),
        Column("x_Meter"),
        Column("x_PurchaseId"),
        Column("x_RateCard"),
        Column("x_ReturnedInvoiceId", "text"),
    ),
)
"""Names are of the FinOps Open Cost and Usage Specification 1.2, `x_` ours."""

REPORTS: Final[dict[str, Report]] = {
    report.name: report
    for report in (
        TRIAL_BALANCE,
        JOURNAL,
        Report(
            name="statement",
            title="Statement",
            query=queries.report_statement,
            is_of_customer=True,
            columns=(
                Column("book_date", "date"),
                Column("journal_id"),
                Column("kind"),
                Column("effective_at", "time"),
                Column("asset"),
                *_amounts("asset", "amount", "balance"),
            ),
        ),
        Report(
            name="deferred-revenue",
            title="Deferred revenue",
            query=queries.report_deferred_revenue,
            columns=(
                Column("month"),
                Column("currency"),
                *_amounts(
                    *("currency", "opening", "imported", "sold", "recognised"),
                    *("breakage", "refunded", "closing"),
                ),
            ),
        ),
        Report(
            name="breakage",
            title="Breakage",
            query=queries.report_breakage,
            columns=(
                Column("book_date", "date"),
                Column("journal_id"),
                Column("customer_id", "text"),
                Column("kind"),
                Column("lot_id"),
                Column("late_for"),
                Column("currency"),
                *_amounts("currency", "breakage"),
            ),
        ),
        Report(
            name="lots",
            title="Lots",
            query=queries.report_lots,
            columns=(
                Column("customer_id", "text"),
                Column("lot_id"),
                Column("category"),
                Column("effective_at", "time"),
                Column("expires_at", "time"),
                Column("good_for"),
                Column("age_days", "integer"),
                Column("asset"),
                *_amounts("asset", "amount", "remaining"),
                Column("currency"),
                *_amounts("currency", "cost"),
            ),
        ),
        Report(
            name="usage",
            title="Usage",
            query=queries.report_usage,
            columns=(
                Column("customer_id", "text"),
                Column("what"),
                Column("meter"),
                Column("dimensions", "text"),
                Column("rate_card"),
                Column("quantity", "quantity"),
                Column("asset"),
                *_amounts("asset", "amount"),
            ),
        ),
        Report(
            name="purchases",
            title="Purchases",
            query=queries.report_purchases,
            columns=(
                Column("sold_on", "date"),
                Column("customer_id", "text"),
                Column("purchase_id"),
                Column("grant_id"),
                Column("kind"),
                Column("product", "text"),
                Column("invoice_id", "text"),
                Column("currency"),
                *_amounts(
                    *("currency", "gross", "tax", "deferred_revenue", "refunds", "disputed"),
                    *("fees", "cash"),
                ),
            ),
        ),
        FOCUS,
    )
}


async def prepare(conn: Connection) -> None:
    """Settings of the transaction that reports are read in: a snapshot, for long reads."""
    await conn.execute(queries.report_settings, f"{SECONDS_MAX}s")


async def assets(conn: Connection) -> list[Asset]:
    """The assets that the books were ever kept in."""
    return [Asset(*row) for row in await conn.fetch(queries.report_assets)]


async def customer(conn: Connection, span: Span) -> Record | None:
    """Whom a statement is sent to: the id, and the name of today."""
    return await conn.fetchrow(queries.report_customer, span.customer_no)


async def rows(conn: Connection, report: Report, span: Span) -> AsyncGenerator[Sequence[Record]]:
    """The rows of a report, some at a time: never all in memory."""
    cursor = await conn.cursor(report.query, *span.arguments(report), timeout=SECONDS_MAX)
    while found := await cursor.fetch(ROWS_AT_ONCE, timeout=SECONDS_MAX):
        yield found
