"""What may be asked of a report, read from text: by the route and by the command alike."""

import re
from datetime import date, timedelta
from typing import Final

from ledger import customers
from ledger.reports import REPORTS, Report, Span
from meter import parse
from meter.problems import ProblemError
from meter.reports import columnar
from meter.reports.files import FORMS, Form, forms_of
from meter.service import Service
from sql.pool import transaction

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}(-[0-9]{2})?", re.ASCII)


def report_of(name: str) -> Report:
    """A report by its name. Raises ProblemError 404 `report_not_found`."""
    if (report := REPORTS.get(name)) is None:
        raise ProblemError(
            404, "report_not_found", f"There is no such report. There are: {', '.join(REPORTS)}."
        )
    return report


def form_of(report: Report, name: str) -> Form:
    """A form that the report can be had in. Raises ProblemError 422 `invalid_query`."""
    offered = forms_of(report)
    if name not in offered:
        raise ProblemError(
            422,
            "invalid_query",
            f"format: {report.name} can be had as {', '.join(offered)}.",
        )
    if name == "parquet" and not columnar.is_installed():
        raise ProblemError(
            422,
            "invalid_query",
            "format: Parquet needs the optional package pyarrow on the server: install "
            "`drawdown[parquet]`, or ask for csv.",
        )
    return FORMS[name]


def day(text: str, name: str) -> date:
    """A day `YYYY-MM-DD`, or a month `YYYY-MM` for its first day. Raises ProblemError 422."""
    if _DAY.fullmatch(text):
        try:
            found = date.fromisoformat(text if len(text) == 10 else f"{text}-01")
        except ValueError:
            found = None
        if found is not None and parse.YEAR_MIN <= found.year <= parse.YEAR_MAX:
            return found
    raise ProblemError(
        422,
        "invalid_query",
        f"{name}: a book day such as 2026-03-31, or a month such as 2026-03 for its first day.",
    )


async def span_of(
    service: Service,
    report: Report,
    first: str | None,
    end: str | None,
    *,
    customer_no: int | None,
    asset: str | None,
) -> Span:
    """What the report is about. Without `end`: up to today. Raises ProblemError 422."""
    if report.is_of_customer and customer_no is None:
        raise ProblemError(422, "invalid_query", "Say whose: customer_id is needed here.")
    if not report.is_of_customer and (customer_no is not None or asset is not None):
        raise ProblemError(
            422, "invalid_query", f"{report.name} is about all customers and all assets."
        )
    code = asset or "credits"
    await service.asset_scale(code, "/asset")
    last = await _tomorrow(service) if end is None else day(end, "to")
    begin = None if first is None else day(first, "from")
    if begin is not None and begin >= last:
        raise ProblemError(
            422, "invalid_query", f"from must be before to: to ({last}) itself is not part of it."
        )
    return Span(first=begin, end=last, customer_no=customer_no, asset=code)


async def _tomorrow(service: Service) -> date:
    async with transaction(service.pool) as conn:
        now = await customers.now(conn)
    zone = service.config.books_time_zone
    return now.astimezone(zone).date() + timedelta(days=1)
