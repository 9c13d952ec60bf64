"""The batch: many operations in one request, each with its own key and its own answer."""

import asyncio
from typing import Any, Final

import msgspec

from ledger.requests import Request
from ledger.transact import Result
from meter import parse
from meter.http import bodies, readers
from meter.http.hot import JSON
from meter.http.readers import Reader
from meter.problems import ProblemError, of_fault
from meter.route import BATCH_BODY_MAX, Call, Reply, Route
from meter.scopes import allows
from sql.errors import DatabaseFault


class BatchOperation(msgspec.Struct, frozen=True):
    """How one kind of batch operation is read: its reader, its id member, the scope it needs."""

    read: Reader
    id_member: str | None
    scope: str = "usage:write"


BATCH_OPERATIONS: Final = {
    "reserve": BatchOperation(readers.read_reserve, None),
    "capture": BatchOperation(readers.read_capture, "hold_id"),
    "void": BatchOperation(readers.read_void, "hold_id"),
    "extend": BatchOperation(readers.read_extend, "hold_id"),
    "consume": BatchOperation(readers.read_consume, None),
    "reverse": BatchOperation(readers.read_reverse, "charge_id"),
    "grant": BatchOperation(readers.read_grant, None, "grants:write"),
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
    # Read all first: then the whole list is queued in its order, or nothing of it.
    items = await asyncio.gather(
        *(_read(call, place, item) for place, item in enumerate(wanted.operations))
    )
    submit = call.service.batcher.submit
    answers = [item if isinstance(item, Result) else submit(item) for item in items]
    results: list[BatchResult] = []
    for answer in answers:
        result = answer if isinstance(answer, Result) else await answer
        results.append(BatchResult(result.status, result.is_replayed, msgspec.Raw(result.body)))
    return Reply(200, msgspec.json.encode(BatchAnswer(results)), (JSON,))


async def _read(call: Call, place: int, item: dict[str, Any]) -> Request | Result:
    """The request that one operation asks for; what is wrong with it is its result."""
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
        return await readers.request_of(call, kind.read, name, ids, parse.part(members), key)
    except ProblemError as error:
        return _refused(call, error)
    except DatabaseFault as fault:
        return _refused(call, of_fault(fault))


def _refused(call: Call, error: ProblemError) -> Result:
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
)
