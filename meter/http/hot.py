"""What users wait for: reserve, capture, void, extend, consume; and reverse, grant, void a grant.

Every answer comes from the batcher, after commit.
"""

from typing import Final

import msgspec

from ledger.answers import ChargeAnswer, GrantAnswer, HoldAnswer, ReversalAnswer
from ledger.transact import Result
from meter.http import bodies, readers
from meter.http.readers import Reader
from meter.parse import Body
from meter.problems import problem_headers
from meter.route import Call, Reply, Route

JSON: Final = (b"content-type", b"application/json")
REPLAYED: Final = (b"idempotent-replayed", b"true")
_RESULT_HEADERS: Final = ((JSON,), (JSON, REPLAYED))


async def serve(call: Call, read: Reader, operation: str) -> Reply:
    """Read one request, queue it, and give its answer."""
    body = call.body or Body({}, b"{}")
    request = await readers.request_of(call, read, operation, call.ids, body, call.idempotency_key)
    return reply(await call.service.batcher.submit(request))


class _Refusal(msgspec.Struct):
    code: str


def reply(result: Result) -> Reply:
    """A result of the books as the answer of its route."""
    code = result.code
    if code is None:
        if result.status < 400:
            return Reply(result.status, result.body, _RESULT_HEADERS[result.is_replayed])
        # A refusal that was stored: only its body knows.
        code = msgspec.json.decode(result.body, type=_Refusal).code
    headers = problem_headers(result.status, code)
    if result.is_replayed:
        headers = [*headers, REPLAYED]
    return Reply(result.status, result.body, tuple(headers), code)


async def reserve(call: Call) -> Reply:
    """Set credits aside until captured, voided or expired. Nothing is taken yet."""
    return await serve(call, readers.read_reserve, "reserve")


async def consume(call: Call) -> Reply:
    """Take credits at once: available first, then what the overage policy allows."""
    return await serve(call, readers.read_consume, "consume")


async def capture(call: Call) -> Reply:
    """Charge all or part of a hold; what is left returns unless `final` is false."""
    return await serve(call, readers.read_capture, "capture")


async def void_hold(call: Call) -> Reply:
    """End a hold; what it had set aside returns."""
    return await serve(call, readers.read_void, "void")


async def extend(call: Call) -> Reply:
    """A streaming caller's heartbeat: the deadline never moves back."""
    return await serve(call, readers.read_extend, "extend")


async def reverse(call: Call) -> Reply:
    """Put credit back where it came from, last drawn first."""
    return await serve(call, readers.read_reverse, "reverse")


async def grant(call: Call) -> Reply:
    """Give credits, with their cost if they were paid for."""
    return await serve(call, readers.read_grant, "grant")


async def void_grant(call: Call) -> Reply:
    """Take back what is neither burned nor held; a recurring grant ends."""
    return await serve(call, readers.read_void_grant, "void_grant")


USAGE_ERRORS: Final = ("no_rate", "invalid_usage", "invalid_quantity", "invalid_rate_card")
EVENT_ERRORS: Final = ("event_already_charged", "event_conflict")

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/reserve",
        operation="reserve",
        summary="Set credits aside before work is done.",
        scope="usage:write",
        handler=reserve,
        tag="Hot path",
        body=bodies.ReserveBody,
        answers={201: HoldAnswer},
        errors=(
            "insufficient_credits",
            "customer_not_found",
            "customer_closed",
            "too_many_lots",
            *USAGE_ERRORS,
        ),
        needs_key=True,
        example={"customer_id": "acme", "amount": "40", "expires_in": 600},
    ),
    Route(
        method="POST",
        path="/v1/holds/{hold_id}/capture",
        operation="capture",
        summary="Charge all or part of a hold.",
        scope="usage:write",
        handler=capture,
        tag="Hot path",
        body=bodies.CaptureBody,
        answers={200: HoldAnswer},
        errors=(
            "insufficient_credits",
            "hold_not_found",
            "hold_already_captured",
            "hold_already_voided",
            "hold_expired",
            "capture_exceeds_hold",
            "too_many_lots",
            *USAGE_ERRORS,
            *EVENT_ERRORS,
        ),
        needs_key=True,
        example={"amount": "22.5"},
    ),
    Route(
        method="POST",
        path="/v1/holds/{hold_id}/void",
        operation="void",
        summary="End a hold with nothing more taken.",
        scope="usage:write",
        handler=void_hold,
        tag="Hot path",
        body=bodies.VoidHoldBody,
        answers={200: HoldAnswer},
        errors=(
            "hold_not_found",
            "hold_already_captured",
            "hold_already_voided",
            "hold_expired",
            "too_many_lots",
        ),
        needs_key=True,
        example={},
    ),
    Route(
        method="POST",
        path="/v1/holds/{hold_id}/extend",
        operation="extend",
        summary="Move a hold's deadline, add to its amount, or both.",
        scope="usage:write",
        handler=extend,
        tag="Hot path",
        body=bodies.ExtendBody,
        answers={200: HoldAnswer},
        errors=(
            "insufficient_credits",
            "hold_not_found",
            "hold_already_captured",
            "hold_already_voided",
            "hold_expired",
            "customer_closed",
            "too_many_lots",
            *USAGE_ERRORS,
        ),
        takes_key=True,
        example={"expires_in": 600},
    ),
    Route(
        method="POST",
        path="/v1/consume",
        operation="consume",
        summary="Take credits at once for what was used.",
        scope="usage:write",
        handler=consume,
        tag="Hot path",
        body=bodies.ConsumeBody,
        answers={201: ChargeAnswer},
        errors=(
            "insufficient_credits",
            "customer_not_found",
            "customer_closed",
            "too_many_lots",
            *USAGE_ERRORS,
            *EVENT_ERRORS,
        ),
        needs_key=True,
        example={"customer_id": "acme", "amount": "3"},
    ),
    Route(
        method="POST",
        path="/v1/charges/{charge_id}/reverse",
        operation="reverse",
        summary="Undo a charge, whole or in part.",
        scope="usage:write",
        handler=reverse,
        tag="Charges",
        body=bodies.ReverseBody,
        answers={201: ReversalAnswer},
        errors=("charge_not_found", "reversal_exceeds_charge", "too_many_lots"),
        needs_key=True,
        example={"amount": "1", "reason": "failed job"},
    ),
    Route(
        method="POST",
        path="/v1/grants",
        operation="grant",
        summary="Give credits: now, later, or once per period.",
        scope="grants:write",
        handler=grant,
        tag="Grants",
        body=bodies.GrantBody,
        answers={201: GrantAnswer},
        errors=("customer_not_found", "customer_closed", "too_many_lots"),
        needs_key=True,
        example={"customer_id": "acme", "amount": "100", "category": "promotional"},
    ),
    Route(
        method="POST",
        path="/v1/grants/{grant_id}/void",
        operation="void_grant",
        summary="Take back what is left of a grant; a recurring one ends.",
        scope="grants:write",
        handler=void_grant,
        tag="Grants",
        body=bodies.VoidGrantBody,
        answers={200: GrantAnswer},
        errors=(
            "grant_not_found",
            "grant_already_voided",
            "grant_has_purchase",
            "too_many_lots",
        ),
        needs_key=True,
        example={"reason": "mistake"},
    ),
)
