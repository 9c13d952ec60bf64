"""Reports of finance: thin over `meter.reports`, streamed, in the form that is asked for."""

from collections.abc import AsyncGenerator, Mapping
from typing import Final

from ledger.reports import REPORTS, Report
from meter.problems import ProblemError
from meter.reports.asked import form_of, report_of, span_of
from meter.reports.files import FORMS, forms_of, stream
from meter.route import Call, Query, Reply, Route
from meter.service import Service

DAY: Final = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}(-[0-9]{2})?$"}


async def read_report(call: Call) -> Reply:
    """A report as a file, streamed out of one snapshot of the books.

    It is about book days: what it says of a closed month never changes. A file that breaks off
    (the connection ends without its last chunk) is not whole: ask again.
    """
    report = report_of(call.ids[0])
    form = form_of(report, call.query.get("format") or _wanted(report, call.headers))
    customer_id, customer_no = call.query.get("customer_id"), None
    if customer_id is not None:
        customer_no = await call.service.customer_no(call, customer_id)
    span = await span_of(
        call.service,
        report,
        call.query.get("from"),
        call.query.get("to"),
        customer_no=customer_no,
        asset=call.query.get("asset"),
    )
    gzip = not form.is_packed and _takes_gzip(call.headers)
    parts = in_turn(call.service, stream(call.service.reports_pool, report, span, form, gzip=gzip))
    # Before the answer begins: what fails here is still a problem with a status.
    first = await anext(parts, b"")
    name = f"{report.name}.{form.suffix}"
    headers = [
        (b"content-type", form.media_type.encode()),
        (b"content-disposition", f'attachment; filename="{name}"'.encode()),
        (b"vary", b"accept, accept-encoding"),
    ]
    if gzip:
        headers.append((b"content-encoding", b"gzip"))
    return Reply(200, first, tuple(headers), stream=parts)


async def in_turn(service: Service, parts: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The parts, while this process makes no more reports than it may."""
    if service.report_slots.locked():
        raise ProblemError(
            503, "busy", "Other reports are being made here: ask again when one has ended."
        )
    async with service.report_slots:
        try:
            async for part in parts:
                yield part
        finally:
            await parts.aclose()


def _wanted(report: Report, headers: Mapping[bytes, bytes]) -> str:
    """The form that `Accept` asks for; JSON if it doesn't say."""
    given = headers.get(b"accept", b"*/*").decode("latin-1").lower()
    kinds = [kind.partition(";")[0].strip() for kind in given.split(",")]
    names = {FORMS[name].media_type: name for name in forms_of(report)}
    for kind in kinds:
        if kind in names:
            return names[kind]
        if kind in ("*/*", "application/*", ""):
            return "json"
    raise ProblemError(
        406,
        "not_acceptable",
        f"{report.name} can be had as {', '.join(names)}: by Accept, or by ?format=.",
    )


def _takes_gzip(headers: Mapping[bytes, bytes]) -> bool:
    given = headers.get(b"accept-encoding", b"").decode("latin-1").lower().replace(" ", "")
    weights = {name: weight for name, _, weight in (one.partition(";") for one in given.split(","))}
    return weights.get("gzip", "q=0").rstrip("0.") != "q="


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/reports/{report}",
        operation="read_report",
        summary=f"A report of finance as a file: {', '.join(REPORTS)}.",
        scope="books:read",
        handler=read_report,
        tag="Books",
        answers={200: None},
        errors=("report_not_found", "not_acceptable", "customer_not_found", "invalid_asset"),
        produces=tuple(form.media_type for form in FORMS.values()),
        query=(
            Query("from", "From this book day on; a month means its first day.", DAY),
            Query("to", "Before this book day; left out: up to today.", DAY),
            Query("format", "The form; left out: by `Accept`, else json.", {"enum": list(FORMS)}),
            Query("customer_id", "Of `statement`: whose."),
            Query("asset", "Of `statement`: the asset; left out: credits."),
        ),
    ),
)
