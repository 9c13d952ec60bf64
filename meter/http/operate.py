"""Operating: health, metrics, the reference, keys, jobs, the sandbox's clock."""

import asyncio
from datetime import timedelta
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from meter import auth, parse
from meter.auth import KeyAnswer, NewKeyAnswer
from meter.http import bodies
from meter.http.customers import answer
from meter.http.hot import JSON
from meter.http.paging import LIMIT, Page, page, place
from meter.problems import ProblemError
from meter.route import Call, Reply, Route
from sql import migrate
from sql.errors import DatabaseFault
from sql.pool import transaction

READY_SECONDS_MAX: Final = 1.0


class Health(Struct, frozen=True, omit_defaults=True):
    status: str
    stripe: Literal["ok", "key_refused"] | None = None
    """Of `/readyz`, where something is sold: without Stripe all but selling goes on."""


class Clock(Struct, frozen=True):
    now: Any
    steps: int


async def livez(_: Call) -> Reply:
    """The process answers. No database call: a slow database must not get it restarted."""
    return answer(200, Health("ok"))


async def readyz(call: Call) -> Reply:
    """Ready for requests: not draining, the database answers, the schema is this release's."""
    if call.service.is_draining:
        raise ProblemError(503, "draining", "This process is stopping. Another one serves.")
    try:
        async with asyncio.timeout(READY_SECONDS_MAX):
            async with transaction(call.service.pool) as conn:
                waiting = await migrate.pending(conn)
    except (DatabaseFault, TimeoutError) as error:
        raise ProblemError(503, "database_unavailable", "The database does not answer.") from error
    if waiting:
        raise ProblemError(
            503, "database_unavailable", "Migrations are pending: run `drawdown migrate`."
        )
    stripe = call.service.stripe
    if stripe is None:
        return answer(200, Health("ok"))
    return answer(200, Health("ok", "key_refused" if stripe.is_accepted is False else "ok"))


async def metrics(call: Call) -> Reply:
    if not call.service.config.metrics_open:
        raise ProblemError(404, "not_found", "Metrics are served on DRAWDOWN_METRICS_BIND.")
    text, content_type = call.service.metrics.exposition()
    return Reply(200, text, ((b"content-type", content_type.encode()),))


async def create_key(call: Call) -> Reply:
    """The secret is in this answer and nowhere else."""
    assert call.body is not None
    wanted = parse.decode(call.body, bodies.KeyBody)
    number = None
    if wanted.customer_id is not None:
        number = await call.service.customer_no(call, wanted.customer_id)
    expires_at = parse.time(wanted.expires_at, "/expires_at")
    async with transaction(call.service.pool) as conn:
        made = await auth.new_key(
            conn,
            name=wanted.name,
            scopes=wanted.scopes,
            customer_no=number,
            customer_id=wanted.customer_id,
            expires_at=expires_at,
        )
    return answer(201, made)


async def list_keys(call: Call) -> Reply:
    at = place(call, "keys")
    async with transaction(call.service.pool) as conn:
        found, more = await auth.list_keys(conn, after=at.after, limit=at.limit)
    return page(call, "keys", found, more)


async def revoke_key(call: Call) -> Reply:
    async with transaction(call.service.pool) as conn:
        revoked = await auth.revoke_key(conn, call.ids[0])
    if revoked is None:
        raise ProblemError(404, "key_not_found", "No such key.")
    call.service.keys.forget()
    return answer(200, revoked)


async def list_jobs(call: Call) -> Reply:
    jobs = call.service.jobs
    at = place(call, "jobs")
    found = [] if jobs is None else list(await jobs.timetable())
    first = at.after or 0
    end = first + at.limit
    return page(call, "jobs", found[first:end], end if len(found) > end else None)


async def run_job(call: Call) -> Reply:
    assert call.body is not None
    parse.decode(call.body, bodies.CloseBody)
    jobs = call.service.jobs
    run = None if jobs is None else await jobs.run(call.ids[0])
    if run is None:
        raise ProblemError(404, "job_not_found", "No job has this name. See GET /v1/jobs.")
    return answer(200, run)


async def pause_job(call: Call) -> Reply:
    """The clock runs the job no more; by hand it can be run. A run that is under way goes on."""
    return await _paused(call, resume=False)


async def resume_job(call: Call) -> Reply:
    """The clock runs the job again, the next time that it is due."""
    return await _paused(call, resume=True)


async def _paused(call: Call, *, resume: bool) -> Reply:
    assert call.body is not None
    parse.decode(call.body, bodies.CloseBody)
    jobs = call.service.jobs
    found = None if jobs is None else await jobs.pause(call.ids[0], resume=resume)
    if found is None:
        raise ProblemError(404, "job_not_found", "No job has this name. See GET /v1/jobs.")
    return answer(200, found)


async def test_clock(call: Call) -> Reply:
    """Move the sandbox's clock ahead; answers after the work that this causes is done."""
    if call.service.installation.mode != "sandbox":
        raise ProblemError(404, "not_found", "Only a sandbox has a test clock.")
    assert call.body is not None
    wanted = parse.decode(call.body, bodies.TestClockBody)
    to = parse.time(wanted.to, "/to")
    if (wanted.advance is None) == (to is None):
        raise ProblemError(422, "missing_member", "Send advance (seconds) or to (a time).")
    by = None if wanted.advance is None else timedelta(seconds=wanted.advance)
    now, steps = await call.service.advance_clock(by=by, to=to)
    return answer(200, Clock(now, steps))


class Reference:
    """`/openapi.json` and `/docs`, made once from the routes."""

    def __init__(self) -> None:
        self.made: tuple[bytes, bytes] | None = None

    def make(self) -> tuple[bytes, bytes]:
        if self.made is None:
            from meter.http import ROUTES  # the list that this route itself is in
            from meter.openapi import document
            from meter.reference_page import page as reference_page

            described = document(ROUTES)
            self.made = msgspec.json.encode(described), reference_page(described)
        return self.made

    async def openapi(self, _: Call) -> Reply:
        return Reply(200, self.make()[0], (JSON,))

    async def docs(self, _: Call) -> Reply:
        policy = b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        return Reply(
            200,
            self.make()[1],
            (
                (b"content-type", b"text/html; charset=utf-8"),
                (b"content-security-policy", policy),
            ),
        )


_reference = Reference()


def _open(path: str, operation: str, summary: str, handler: Any, kind: Any) -> Route:
    return Route(
        method="GET",
        path=path,
        operation=operation,
        summary=summary,
        scope=None,
        handler=handler,
        tag="Operating",
        answers={200: kind},
    )


ROUTES: Final = (
    _open("/livez", "livez", "Whether the process answers.", livez, Health),
    _open("/healthz", "healthz", "The same as /livez.", livez, Health),
    msgspec.structs.replace(
        _open("/readyz", "readyz", "Whether it is ready for requests.", readyz, Health),
        errors=("draining",),
    ),
    _open("/metrics", "metrics", "Prometheus metrics.", metrics, None),
    _open("/openapi.json", "openapi", "This description.", _reference.openapi, None),
    _open("/docs", "docs", "This description, to read.", _reference.docs, None),
    Route(
        method="POST",
        path="/v1/keys",
        operation="create_key",
        summary="Make an API key; its secret is shown once.",
        scope="admin",
        handler=create_key,
        tag="Keys",
        body=bodies.KeyBody,
        answers={201: NewKeyAnswer},
        errors=("customer_not_found",),
        example={"name": "backend", "scopes": ["usage:write", "usage:read"]},
    ),
    Route(
        method="GET",
        path="/v1/keys",
        operation="list_keys",
        summary="API keys, newest first, without their secrets.",
        scope="admin",
        handler=list_keys,
        tag="Keys",
        answers={200: Page[KeyAnswer]},
        query=LIMIT,
    ),
    Route(
        method="DELETE",
        path="/v1/keys/{key_id}",
        operation="revoke_key",
        summary="Revoke an API key, and with it the tokens made with it.",
        scope="admin",
        handler=revoke_key,
        tag="Keys",
        answers={200: KeyAnswer},
        errors=("key_not_found",),
    ),
    Route(
        method="GET",
        path="/v1/jobs",
        operation="list_jobs",
        summary="The timetable and the last run of each job.",
        scope="admin",
        handler=list_jobs,
        tag="Operating",
        answers={200: Page[dict[str, Any]]},
        query=LIMIT,
    ),
    Route(
        method="POST",
        path="/v1/jobs/{name}/run",
        operation="run_job",
        summary="Run one job now; answers when it is done.",
        scope="admin",
        handler=run_job,
        tag="Operating",
        body=bodies.CloseBody,
        answers={200: dict[str, Any]},
        errors=("job_not_found",),
        example={},
    ),
    Route(
        method="POST",
        path="/v1/jobs/{name}/pause",
        operation="pause_job",
        summary="Let the clock run one job no more.",
        scope="admin",
        handler=pause_job,
        tag="Operating",
        body=bodies.CloseBody,
        answers={200: dict[str, Any]},
        errors=("job_not_found",),
        example={},
    ),
    Route(
        method="POST",
        path="/v1/jobs/{name}/resume",
        operation="resume_job",
        summary="Let the clock run one job again.",
        scope="admin",
        handler=resume_job,
        tag="Operating",
        body=bodies.CloseBody,
        answers={200: dict[str, Any]},
        errors=("job_not_found",),
        example={},
    ),
    Route(
        method="POST",
        path="/v1/test-clock",
        operation="test_clock",
        summary="Move the clock of a sandbox ahead.",
        scope="admin",
        handler=test_clock,
        tag="Operating",
        body=bodies.TestClockBody,
        answers={200: Clock},
        errors=("not_found",),
        example={"advance": 3600},
    ),
)
