"""The export of one customer: thin over `meter.portability`, streamed."""

from typing import Final

from meter import portability
from meter.http.reports import in_turn
from meter.route import Call, Reply, Route


async def export_customer(call: Call) -> Reply:
    """All that is kept of a customer, a line of JSON for each record, from one snapshot.

    For whoever asks what you know of them, or moves elsewhere. The first line is the customer; each
    line says what it is in `record`. A file that breaks off is not whole: ask again.
    """
    number = await call.service.customer_no(call, call.ids[0])
    parts = in_turn(call.service, portability.stream(call.service.reports_pool, number))
    # Before the answer begins: what fails here is still a problem with a status.
    first = await anext(parts, b"")
    headers = (
        (b"content-type", portability.MEDIA_TYPE.encode()),
        (b"content-disposition", b'attachment; filename="customer.jsonl"'),
    )
    return Reply(200, first, headers, stream=parts)


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/customers/{customer_id}/export",
        operation="export_customer",
        summary="All that is kept of a customer, as JSON lines.",
        scope="books:read",
        handler=export_customer,
        tag="Customers",
        answers={200: None},
        errors=("customer_not_found",),
        produces=(portability.MEDIA_TYPE,),
    ),
)
