"""What users wait for: reserve, capture, void, extend, consume; reverse, grants; and the batch.

Each operation is read once, here, into a request of the books: the single route and the batch give
the same. The answer comes from the batcher, after commit.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET

from ledger.answers import ChargeAnswer, GrantAnswer, HoldAnswer, ReversalAnswer
from ledger.ids import parse_id
from ledger.requests import (
    Capture,
    Consume,
    Cost,
    Extend,
    GrantCredit,
    Notes,
    Recurrence,
    Request,
    Reserve,
    Reverse,
    Rollover,
    VoidGrant,
    VoidHold,
)
from ledger.transact import Result
from meter import parse
from meter.http import bodies
from meter.parse import Body
from meter.problems import ProblemError, problem_headers
from meter.route import BATCH_BODY_MAX, Call, Reply, Route
from meter.scopes import allows

JSON: Final = (b"content-type", b"application/json")
REPLAYED: Final = (b"idempotent-replayed", b"true")
_RESULT_HEADERS: Final = ((JSON,), (JSON, REPLAYED))

Reader = Callable[[Call, Sequence[str], Body, dict[str, Any]], Any]


async def serve(call: Call, read: Reader, operation: str) -> Reply:
    """Read one request, queue it, and give its answer."""
    body = call.body or Body({}, b"{}")
    request = await _request(call, read, operation, call.ids, body, call.idempotency_key)
    return reply(await call.service.batcher.submit(request))


class _Refusal(msgspec.Struct):
    code: str


def reply(result: Result) -> Reply:
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


async def _request(
    call: Call, read: Reader, operation: str, ids: Sequence[str], body: Body, key: str | None
) -> Request:
    common: dict[str, Any] = {
        "key": key,
        "operation": operation,
        "fingerprint": b"" if key is None else parse.fingerprint(operation, ids, body.canonical),
        "api_key_no": call.key.key_no,
        "trace_id": call.trace_id,
        "request_id": call.request_id,
    }
    made = read(call, ids, body, common)
    return made if isinstance(made, Request) else await made


def notes(
    body: Body,
    metadata: dict[str, Any] | None,
    *,
    reference: str | None = None,
    reason: str | None = None,
) -> Notes | None:
    """The free text of a request, salted for its digest; None if there is none."""
    text = None if metadata is None else parse.metadata(metadata, "/metadata")
    if text is None and reference is None and reason is None:
        return None
    return Notes(os.urandom(16), reference, reason, text)


def owned(call: Call, prefix: str, text: str, code: str) -> tuple[int, int]:
    """The (customer, number) of a public id; 404 for another's, as for what does not exist."""
    found = parse_id(prefix, text)
    bound = call.key.customer_no
    if found is None or (bound is not None and found[0] != bound):
        raise ProblemError(404, code, f"No such {code.removesuffix('_not_found')}.")
    return found


async def read_reserve(
    call: Call, _ids: Sequence[str], body: Body, common: dict[str, Any]
) -> Request:
    wanted = parse.decode(body, bodies.ReserveBody)
    scale = call.service.credit_scale(wanted.asset)
    amount = parse.amount(wanted.amount, scale, "/amount")
    minimum = None
    if wanted.minimum is not UNSET:
        minimum = parse.amount(wanted.minimum, scale, "/minimum")
        if minimum > amount:
            raise ProblemError(
                422, "invalid_minimum", "minimum is above amount.", pointer="/minimum"
            )
    texts = notes(body, wanted.metadata, reference=wanted.reference)
    return Reserve(
        customer_no=await call.service.customer_no(call, wanted.customer_id, makes=True),
        asset=wanted.asset,
        amount=amount,
        minimum=minimum,
        expires_in=wanted.expires_in,
        notes=texts,
        **common,
    )


async def read_consume(
    call: Call, _ids: Sequence[str], body: Body, common: dict[str, Any]
) -> Request:
    wanted = parse.decode(body, bodies.ConsumeBody)
    scale = call.service.credit_scale(wanted.asset)
    amount = parse.amount(wanted.amount, scale, "/amount")
    effective_at = parse.time(wanted.effective_at, "/effective_at")
    texts = notes(body, wanted.metadata, reference=wanted.reference)
    return Consume(
        customer_no=await call.service.customer_no(call, wanted.customer_id, makes=True),
        asset=wanted.asset,
        amount=amount,
        effective_at=effective_at,
        notes=texts,
        **common,
    )


def read_capture(call: Call, ids: Sequence[str], body: Body, common: dict[str, Any]) -> Request:
    wanted = parse.decode(body, bodies.CaptureBody)
    amount = None
    if wanted.amount is not UNSET:
        amount = wanted.amount
        parse.amount(amount, 12, "/amount", allow_zero=True)
    customer_no, hold_no = owned(call, "hld", ids[0], "hold_not_found")
    return Capture(
        customer_no=customer_no,
        hold_no=hold_no,
        amount=amount,
        final=wanted.final,
        above_hold=wanted.above_hold,
        effective_at=parse.time(wanted.effective_at, "/effective_at"),
        notes=notes(body, wanted.metadata),
        **common,
    )


def read_void(call: Call, ids: Sequence[str], body: Body, common: dict[str, Any]) -> Request:
    parse.decode(body, bodies.VoidHoldBody)
    customer_no, hold_no = owned(call, "hld", ids[0], "hold_not_found")
    return VoidHold(customer_no=customer_no, hold_no=hold_no, **common)


def read_extend(call: Call, ids: Sequence[str], body: Body, common: dict[str, Any]) -> Request:
    wanted = parse.decode(body, bodies.ExtendBody)
    if wanted.expires_in is None and wanted.add is UNSET:
        raise ProblemError(422, "missing_member", "Send expires_in, add, or both.")
    add = None
    if wanted.add is not UNSET:
        add = wanted.add.amount
        parse.amount(add, 12, "/add/amount")
        if common["key"] is None:
            raise parse.key_missing()
    customer_no, hold_no = owned(call, "hld", ids[0], "hold_not_found")
    return Extend(
        customer_no=customer_no, hold_no=hold_no, expires_in=wanted.expires_in, add=add, **common
    )


def read_reverse(call: Call, ids: Sequence[str], body: Body, common: dict[str, Any]) -> Request:
    wanted = parse.decode(body, bodies.ReverseBody)
    amount = None
    if wanted.amount is not UNSET:
        amount = wanted.amount
        parse.amount(amount, 12, "/amount")
    customer_no, seq = owned(call, "chg", ids[0], "charge_not_found")
    return Reverse(
        customer_no=customer_no,
        charge_seq=seq,
        amount=amount,
        notes=notes(body, None, reason=wanted.reason),
        **common,
    )


async def read_grant(
    call: Call, _ids: Sequence[str], body: Body, common: dict[str, Any]
) -> Request:
    wanted = parse.decode(body, bodies.GrantBody)
    scale = call.service.credit_scale(wanted.asset)
    cost = _cost(call, wanted)
    recurrence = None
    if wanted.recurrence is not None:
        rollover = None
        if (kept := wanted.recurrence.rollover) is not None:
            most = parse.amount(kept.max, scale, "/recurrence/rollover/max")
            rollover = Rollover(most, kept.expires_in)
        recurrence = Recurrence(
            interval=wanted.recurrence.interval,
            count=wanted.recurrence.count,
            anchor=parse.time(wanted.recurrence.anchor, "/recurrence/anchor"),
            rollover=rollover,
        )
    amount = parse.amount(wanted.amount, scale, "/amount")
    effective_at = parse.time(wanted.effective_at, "/effective_at")
    expires_at = parse.time(wanted.expires_at, "/expires_at")
    texts = notes(body, wanted.metadata, reason=wanted.reason)
    return GrantCredit(
        customer_no=await call.service.customer_no(call, wanted.customer_id, makes=True),
        asset=wanted.asset,
        amount=amount,
        category=wanted.category,
        cost=cost,
        priority=wanted.priority,
        effective_at=effective_at,
        expires_at=expires_at,
        recurrence=recurrence,
        notes=texts,
        **common,
    )


def _cost(call: Call, wanted: bodies.GrantBody) -> Cost | None:
    if wanted.cost is None:
        if wanted.category == "paid":
            raise ProblemError(
                422,
                "missing_member",
                "A paid grant says what was paid: cost {amount, currency}; 0 is allowed.",
                pointer="/cost",
            )
        return None
    if wanted.category == "promotional":
        raise ProblemError(422, "invalid_cost", "A promotional grant has no cost.", pointer="/cost")
    scale = call.service.money_scale(wanted.cost.currency, "/cost/currency")
    amount = parse.amount(wanted.cost.amount, scale, "/cost/amount", allow_zero=True)
    return Cost(amount, wanted.cost.currency)


def read_void_grant(call: Call, ids: Sequence[str], body: Body, common: dict[str, Any]) -> Request:
    wanted = parse.decode(body, bodies.VoidGrantBody)
    customer_no, grant_no = owned(call, "grt", ids[0], "grant_not_found")
    return VoidGrant(
        customer_no=customer_no,
        grant_no=grant_no,
        money=wanted.money,
        notes=notes(body, None, reason=wanted.reason),
        **common,
    )


async def reserve(call: Call) -> Reply:
    return await serve(call, read_reserve, "reserve")


async def consume(call: Call) -> Reply:
    return await serve(call, read_consume, "consume")


async def capture(call: Call) -> Reply:
    return await serve(call, read_capture, "capture")


async def void_hold(call: Call) -> Reply:
    return await serve(call, read_void, "void")


async def extend(call: Call) -> Reply:
    return await serve(call, read_extend, "extend")


async def reverse(call: Call) -> Reply:
    return await serve(call, read_reverse, "reverse")


async def grant(call: Call) -> Reply:
    return await serve(call, read_grant, "grant")


async def void_grant(call: Call) -> Reply:
    return await serve(call, read_void_grant, "void_grant")


class BatchOperation(msgspec.Struct, frozen=True):
    """How one kind of batch operation is read: its reader, its id member, the scope it needs."""

    read: Reader
    id_member: str | None
    scope: str = "usage:write"


BATCH_OPERATIONS: Final = {
    "reserve": BatchOperation(read_reserve, None),
    "capture": BatchOperation(read_capture, "hold_id"),
    "void": BatchOperation(read_void, "hold_id"),
    "extend": BatchOperation(read_extend, "hold_id"),
    "consume": BatchOperation(read_consume, None),
    "reverse": BatchOperation(read_reverse, "charge_id"),
    "grant": BatchOperation(read_grant, None, "grants:write"),
}


class BatchResult(msgspec.Struct, frozen=True):
    status: int
    replayed: bool
    body: msgspec.Raw


class BatchAnswer(msgspec.Struct, frozen=True):
    results: list[BatchResult]


async def batch(call: Call) -> Reply:
    """Run up to 1,000 operations: each has its own key and its own answer, in list order."""
    assert call.body is not None
    wanted = parse.decode(call.body, bodies.BatchBody)
    answers = [await _queued(call, place, item) for place, item in enumerate(wanted.operations)]
    results: list[BatchResult] = []
    for answer in answers:
        result = answer if isinstance(answer, Result) else await answer
        results.append(BatchResult(result.status, result.is_replayed, msgspec.Raw(result.body)))
    return Reply(200, msgspec.json.encode(BatchAnswer(results)), (JSON,))


async def _queued(
    call: Call, place: int, item: dict[str, Any]
) -> "asyncio.Future[Result] | Result":
    """Queue one operation; what is wrong with it before that is its result."""
    assert call.body is not None
    try:
        if (flaw := call.body.item_flaw(f"/operations/{place}")) is not None:
            raise ProblemError(422, flaw.code, flaw.detail, pointer=flaw.pointer)
        name = item.get("op")
        kind = BATCH_OPERATIONS.get(name) if isinstance(name, str) else None
        if kind is None or not isinstance(name, str):
            known = ", ".join(BATCH_OPERATIONS)
            raise ProblemError(422, "invalid_value", f"op is one of {known}.", pointer="/op")
        if not allows(call.key, kind.scope):
            raise ProblemError(403, "scope_missing", f"This key lacks the scope {kind.scope}.")
        key = _item_key(item.get("key"))
        if key is None and not (name == "extend" and "add" not in item):
            raise parse.key_missing("/key")
        members = {n: v for n, v in item.items() if n not in {"op", "key", kind.id_member}}
        ids: list[str] = []
        if kind.id_member is not None:
            given = item.get(kind.id_member)
            if not isinstance(given, str):
                raise ProblemError(
                    422,
                    "missing_member",
                    f"{kind.id_member} is required.",
                    pointer=f"/{kind.id_member}",
                )
            ids = [given]
        body = parse.part(members)
        return call.service.batcher.submit(await _request(call, kind.read, name, ids, body, key))
    except ProblemError as error:
        return Result(error.status, error.body(call.request_id), False, error.code)


def _item_key(given: object) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str):
        raise ProblemError(
            422, "invalid_idempotency_key", "key is a string of printable ASCII.", pointer="/key"
        )
    return parse.idempotency_key(given.encode())


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
        errors=("insufficient_credits", "customer_not_found", "customer_closed", "too_many_lots"),
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
        errors=("hold_not_found", "hold_already_captured", "hold_already_voided", "hold_expired"),
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
        errors=("insufficient_credits", "customer_not_found", "customer_closed", "too_many_lots"),
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
        errors=("charge_not_found", "reversal_exceeds_charge"),
        needs_key=True,
        example={"amount": "1", "reason": "failed job"},
    ),
    Route(
        method="POST",
        path="/v1/batch",
        operation="batch",
        summary="Up to 1,000 operations, each with its own key and answer.",
        scope="usage:write",
        handler=batch,
        tag="Hot path",
        body=bodies.BatchBody,
        answers={200: BatchAnswer},
        body_max=BATCH_BODY_MAX,
        items="/operations",
        example={
            "operations": [
                {"op": "consume", "key": "job-7/charge", "customer_id": "acme", "amount": "1"}
            ]
        },
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
        errors=("customer_not_found", "customer_closed"),
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
        errors=("grant_not_found", "grant_already_voided", "grant_has_purchase"),
        needs_key=True,
        example={"reason": "mistake"},
    ),
)
