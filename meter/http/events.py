"""Events, and corrections of them."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec
from msgspec import UNSET, Struct

from meter import parse
from meter.catalog import hold
from meter.cloud_events import (
    Read,
    Sent,
    data_of,
    name_of,
    read_binary,
    read_list,
    read_single,
)
from meter.corrections import Asked, Corrected, correct
from meter.edge import PARSED_AT_ONCE_MAX
from meter.events import Recorded
from meter.http import bodies
from meter.http.customers import answer
from meter.http.hot import JSON
from meter.intake import Arrived, Verdict
from meter.json_body import read_json
from meter.problems import FieldError, ProblemError
from meter.route import BATCH_BODY_MAX, Call, Reply, Route
from meter.service import customer_missing
from sql.pool import transaction

STRUCTURED: Final = b"application/cloudevents+json"
BATCHED: Final = b"application/cloudevents-batch+json"
PLAIN: Final = b"application/json"


class EventAnswer(Struct, frozen=True):
    """An event that is recorded: now, or before."""

    source: str
    id: str
    duplicate: bool


class EventResult(Struct, frozen=True, omit_defaults=True):
    """What became of one event of a batch: the status that it would have had alone."""

    status: int
    code: str | None = None
    detail: str | None = None
    errors: list[FieldError] | None = None


class BatchAnswer(Struct, frozen=True):
    """One result for each event of the batch, in its order."""

    accepted: int
    duplicates: int
    rejected: int
    results: list[EventResult]


class CorrectionAnswer(Struct, frozen=True, kw_only=True):
    """A correction that is recorded: now, or before."""

    source: str
    id: str
    correction_id: str
    action: str
    duplicate: bool
    created_at: Any


ACCEPTED: Final = EventResult(202)
DUPLICATE: Final = EventResult(200)
CONFLICT: Final = ProblemError(
    409,
    "event_conflict",
    "This source and id came before with other content. Nothing changed: correct that event, or "
    "give this one an id of its own.",
    pointer="/id",
)

_encode = msgspec.json.Encoder().encode


async def record_events(call: Call) -> Reply:
    """Record usage events: one, or a batch of up to 10,000.

    CloudEvents 1.0 in structured, batched and binary mode, or plain JSON with the same members (a
    list is a batch); gzipped if you like. `subject` is the customer_id. An event is known by its
    customer, source and id: sent again it is a duplicate, counted once. One bad event of a batch
    does not fail its neighbours. An event that some meter can't read is still counted by the
    others; one that no meter of its type can read is refused.
    """
    kind = call.headers.get(b"content-type", PLAIN).split(b";", 1)[0].strip().lower()
    if b"ce-id" in call.headers and kind not in (STRUCTURED, BATCHED):
        if kind != PLAIN and not kind.endswith(b"+json"):
            raise ProblemError(
                415, "unsupported_media_type", "In binary mode the data is application/json."
            )
        return await _single(call, read_binary(call.raw, call.headers))
    if kind not in (STRUCTURED, BATCHED, PLAIN):
        kinds = ", ".join(known.decode() for known in (STRUCTURED, BATCHED, PLAIN))
        raise ProblemError(415, "unsupported_media_type", f"Send one of {kinds}.")
    if len(call.raw) <= PARSED_AT_ONCE_MAX:
        found = _read(call.raw, kind)
    else:
        found = await asyncio.to_thread(_read, call.raw, kind)
    if isinstance(found, Sent):
        return await _single(call, found)
    return await _batch(call, found)


def _read(raw: bytes, kind: bytes) -> Sent | list[Read]:
    value, flaws = read_json(raw)
    if isinstance(value, list) and kind != STRUCTURED:
        return read_list(cast("list[Any]", value), flaws)
    if isinstance(value, dict) and kind != BATCHED:
        return read_single(cast("dict[str, Any]", value))
    expected = "one event" if kind == STRUCTURED else "a list of events"
    raise ProblemError(400, "malformed", f"The body can't be read: it is not {expected}.")


async def _single(call: Call, sent: Sent) -> Reply:
    number = await call.service.customer_no(call, sent.customer_id, makes=True, pointer="/subject")
    verdict = await call.service.intake.single(Arrived(number, sent))
    if (problem := _problem(verdict)) is not None:
        raise problem
    is_new = isinstance(verdict, Recorded) and verdict.fate == "new"
    body = _encode(EventAnswer(sent.source, sent.id, not is_new))
    return Reply(202 if is_new else 200, body, (JSON,))


async def _batch(call: Call, events: Sequence[Read]) -> Reply:
    numbers = await _customers(call, {one.customer_id for one in events if isinstance(one, Sent)})
    arrived = [
        Arrived(number, one)
        for one in events
        if isinstance(one, Sent) and (number := numbers[one.customer_id]) is not None
    ]
    verdicts = iter(await call.service.intake.batch(arrived) if arrived else [])
    results: list[EventResult] = []
    missing = _refused(customer_missing())
    for one in events:
        if isinstance(one, ProblemError):
            results.append(_refused(one))
        elif numbers[one.customer_id] is None:
            results.append(missing)
        else:
            verdict = next(verdicts)
            problem = _problem(verdict)
            if problem is not None:
                results.append(_refused(problem))
            else:
                assert isinstance(verdict, Recorded)
                results.append(ACCEPTED if verdict.fate == "new" else DUPLICATE)
    accepted = sum(result is ACCEPTED for result in results)
    duplicates = sum(result is DUPLICATE for result in results)
    rejected = len(results) - accepted - duplicates
    return answer(200, BatchAnswer(accepted, duplicates, rejected, results))


async def _customers(call: Call, ids: set[str]) -> dict[str, int | None]:
    """Our numbers; None for a customer that is not there, or not this key's to see."""
    numbers: dict[str, int | None] = {}
    unknown: list[str] = []
    for customer_id in ids:
        known = call.service.directory.known(customer_id)
        if call.key.customer_no is not None:
            is_own = customer_id == call.key.customer_id
            numbers[customer_id] = call.key.customer_no if is_own else None
        elif known is not None:
            numbers[customer_id] = known
        else:
            unknown.append(customer_id)
    makes = call.service.config.create_customers
    find = call.service.directory.find
    found = await asyncio.gather(*(find(one, makes=makes) for one in unknown))
    return numbers | dict(zip(unknown, found, strict=True))


def _problem(verdict: Verdict) -> ProblemError | None:
    """The refusal that a verdict is; None if the event is recorded."""
    if isinstance(verdict, ProblemError):
        return verdict
    if verdict.fate == "conflict":
        return CONFLICT
    if verdict.fate == "unreadable":
        return ProblemError(422, "unreadable_event", f"data: {verdict.reason}.", pointer="/data")
    return None


def _refused(problem: ProblemError) -> EventResult:
    errors = problem.errors
    if errors is None and problem.pointer is not None:
        errors = [FieldError(problem.pointer, problem.code, problem.detail)]
    return EventResult(problem.status, problem.code, problem.detail, errors)


async def correct_event(call: Call) -> Reply:
    """Cancel an event, or replace its data. The event stays as it was sent; usage follows.

    `correction_id` names the correction: sent again it is a duplicate. The latest correction
    counts; cancelling is final. An event received more than 36 days ago is found with its `time`.
    """
    assert call.body is not None
    wanted = parse.decode(call.body, bodies.CorrectBody)
    for name in ("source", "id", "correction_id"):
        name_of(getattr(wanted, name), name)
    at = parse.time(wanted.time, "/time")
    if (wanted.data is UNSET) == (wanted.action == "replace"):
        words = "replace needs data" if wanted.action == "replace" else "cancel has no data"
        raise ProblemError(422, "invalid_value", f"{words}.", pointer="/data")
    data = None if wanted.data is UNSET else data_of(wanted.data)[0]
    number = await call.service.customer_no(call, wanted.customer_id)
    asked = Asked(
        customer_no=number,
        correction_id=wanted.correction_id,
        source=wanted.source,
        id=wanted.id,
        action=wanted.action,
        data=data,
        time=at,
    )

    async def write() -> Corrected:
        catalog = call.service.catalog
        async with transaction(call.service.pool) as conn:
            await hold(conn, known=catalog.version)
            return await correct(conn, asked, catalog, call.service.follow)

    done = await call.service.retried(write)
    return answer(
        201 if done.is_new else 200,
        CorrectionAnswer(
            source=wanted.source,
            id=wanted.id,
            correction_id=wanted.correction_id,
            action=wanted.action,
            duplicate=not done.is_new,
            created_at=done.created_at,
        ),
    )


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/events",
        operation="record_events",
        summary="Record usage events: one, or a batch.",
        scope="usage:write",
        handler=record_events,
        tag="Metering",
        body=bodies.EventBody,
        answers={202: EventAnswer, 200: (EventAnswer, BatchAnswer)},
        errors=(
            "customer_not_found",
            "invalid_customer_id",
            "event_conflict",
            "invalid_timestamp",
            "invalid_time",
            "invalid_metadata",
            "unreadable_event",
            "queue_full",
            "outcome_unknown",
        ),
        body_max=BATCH_BODY_MAX,
        reads_body=True,
        media=(STRUCTURED.decode(), BATCHED.decode()),
        example={
            "id": "req-5501",
            "source": "chat",
            "type": "llm.usage",
            "subject": "acme",
            "data": {"model": "large", "input_tokens": 1200, "output_tokens": 350},
        },
    ),
    Route(
        method="POST",
        path="/v1/events/correct",
        operation="correct_event",
        summary="Cancel an event, or replace its data.",
        scope="usage:write",
        handler=correct_event,
        tag="Metering",
        body=bodies.CorrectBody,
        answers={201: CorrectionAnswer, 200: CorrectionAnswer},
        errors=(
            "customer_not_found",
            "event_not_found",
            "event_conflict",
            "event_cancelled",
            "invalid_timestamp",
            "invalid_metadata",
            "outcome_unknown",
        ),
        example={
            "customer_id": "acme",
            "source": "chat",
            "id": "req-5500",
            "correction_id": "fix-1",
            "action": "replace",
            "data": {"model": "large", "input_tokens": 1000, "output_tokens": 350},
        },
    ),
)
