"""Replays a usage trace against a running service, as a backend would use it.

For each row: reserve the worst case (the context and the longest answer), then capture what was
used, both as tokens of two meters, which the customer's rate card prices. Every request has a key
made of run, file, row and operation, so that any doubt (a lost connection, a timeout, a 503) is
settled by sending it again, in this run or in a later one under the same name.
"""

import asyncio
import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from itertools import islice
from time import perf_counter  # a loop's own clock may tick in milliseconds
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
import uvloop
from msgspec import Struct

from drawdown.traces import Row, Trace, TraceError, read_rows

KEY_BYTES_MAX: Final = 255
INPUT_METER: Final = "llm_input_tokens"
OUTPUT_METER: Final = "llm_output_tokens"
RETRIED: Final = frozenset({429, 502, 503, 504})
"""Statuses after which the same key is sent again: ours, and those of a proxy before us."""


class ReplayError(Exception):
    """The replay can't go on. The message is one line that says what to do."""


class Patience(Struct, frozen=True):
    """How long one request is tried before the replay gives up."""

    attempts_max: int = 15  # with the pauses below half a minute: a service that restarts is back
    pause_seconds_first: float = 0.05
    pause_seconds_max: float = 5.0
    asked_seconds_max: float = 60.0  # of what the service may ask for
    answer_seconds_max: float = 30.0

    def pause(self, attempt: int, asked: float) -> float:
        """Seconds before the next attempt: those the service asked for, and some of our own."""
        own = min(self.pause_seconds_first * 2 ** (attempt - 1), self.pause_seconds_max)
        # A random part, so that the workers do not come back all at once.
        return min(asked, self.asked_seconds_max) + own * random.uniform(0.5, 1.0)


class Plan(Struct, frozen=True, kw_only=True):
    """What is sent. The same plan sent again changes nothing."""

    trace: Trace
    run: str
    customers: Sequence[str]
    """Row n belongs to customer n modulo their number."""
    longest_answer: int
    """Tokens, reserved for each row on top of its context."""
    model: str | None = None
    """The dimension `model` of both meters; None: they have none."""
    input_meter: str = INPUT_METER
    output_meter: str = OUTPUT_METER
    row_limit: int | None = None

    @property
    def row_count(self) -> int:
        count = self.trace.row_count
        return count if self.row_limit is None else min(count, self.row_limit)


class Latency(Struct, frozen=True):
    """Milliseconds from first sending a request to knowing its answer, retries included."""

    p50_ms: float
    p99_ms: float


class Report(Struct, frozen=True, kw_only=True):
    """What the service answered. `captured` is summed from its answers, not from the file."""

    run: str
    file: str
    rows: int
    accepted: int
    """Rows reserved and captured."""
    declined: int
    """Rows whose reserve was refused for lack of credits (402)."""
    captures_declined: int
    """Rows reserved, but captured only after their hold had ended and then refused (402)."""
    captured: Decimal
    requests: int
    """Requests that have their answer; each counts once, however often it was sent."""
    retries: int
    replayed: int
    """Answers that the service had given before."""
    elapsed_seconds: float
    requests_per_second: float
    reserve: Latency
    capture: Latency


class _Charge(Struct, frozen=True):
    amount: str


class _Hold(Struct, frozen=True):
    """What we read of a hold."""

    id: str
    charge: _Charge | None = None


class _Problem(Struct, frozen=True):
    """What we read of a refusal."""

    code: str = ""
    detail: str = ""


class _Answer(Struct, frozen=True):
    status: int
    body: bytes


_decode_hold: Final = msgspec.json.Decoder(_Hold).decode
_decode_problem: Final = msgspec.json.Decoder(_Problem).decode
_encode: Final = msgspec.json.Encoder().encode


def run_replay(
    plan: Plan,
    *,
    url: str,
    api_key: str,
    concurrency: int,
    on_row: Callable[[], object],
) -> Report:
    """`replay` in an event loop of its own, the fastest one."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(
            replay(plan, url=url, api_key=api_key, concurrency=concurrency, on_row=on_row)
        )


async def replay(
    plan: Plan,
    *,
    url: str,
    api_key: str,
    concurrency: int,
    on_row: Callable[[], object],
    patience: Patience | None = None,
) -> Report:
    """Send every row of the plan over `concurrency` connections; `on_row` is called after each.

    Raises ReplayError if the service can't be reached, stays away, or answers what it should not;
    TraceError if the file has changed since it was surveyed.
    """
    base = service_url(url)
    check_keys(plan)
    patience = patience or Patience()
    async with open_session(api_key, concurrency, patience.answer_seconds_max) as session:
        await _check_reachable(session, base)
        run = _Run(plan, session, base, patience, on_row)
        rows = islice(read_rows(plan.trace.path), plan.row_count)
        started = perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(run.work(rows))
        except* (ReplayError, TraceError) as errors:
            # They failed together, for one reason.
            raise errors.exceptions[0] from None
        return run.report(perf_counter() - started)


def open_session(api_key: str, concurrency: int, seconds: float) -> aiohttp.ClientSession:
    """A client of the service: connections are kept, and every request carries the key."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency),
        timeout=aiohttp.ClientTimeout(total=seconds),
        headers={
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
        },
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def service_url(text: str) -> str:
    """The address of the service without a slash at its end. Raises ReplayError."""
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise ReplayError(f"{text!r} is not an address such as http://127.0.0.1:8377")
    return text.rstrip("/")


def check_keys(plan: Plan) -> None:
    """Raises ReplayError if the name of the run and the file make keys that are too long."""
    if len(_key(plan, plan.row_count, "reserve")) > KEY_BYTES_MAX:
        raise ReplayError("the name of the run and the name of the file are too long together")


def _key(plan: Plan, row: int, operation: str) -> str:
    return f"{plan.run}/{plan.trace.name}/{row}/{operation}"


async def _check_reachable(session: aiohttp.ClientSession, base: str) -> None:
    """A wrong address is told at once; only later a lost connection may be a restart."""
    try:
        async with session.get(f"{base}/livez"):
            pass
    except (aiohttp.ClientError, OSError) as exc:
        raise ReplayError(f"can't reach {base}: {exc}") from exc


class _Run:
    """One replay while it runs: the workers share it."""

    def __init__(
        self,
        plan: Plan,
        session: aiohttp.ClientSession,
        base: str,
        patience: Patience,
        on_row: Callable[[], object],
    ) -> None:
        self.plan, self.session, self.patience, self.on_row = plan, session, patience, on_row
        self.base = base
        self.reserve_url = f"{base}/v1/reserve"
        self.accepted = self.declined = self.captures_declined = 0
        self.retries = self.replayed = 0
        self.captured = Decimal(0)
        self.reserve_seconds, self.capture_seconds = array("d"), array("d")

    async def work(self, rows: Iterator[Row]) -> None:
        """One worker: rows from the common source until there are none."""
        for row in rows:
            await self._row(row)
            self.on_row()

    async def _row(self, row: Row) -> None:
        plan = self.plan
        customer = plan.customers[row.number % len(plan.customers)]
        body = {
            "customer_id": customer,
            "usage": self._usage(row.context, plan.longest_answer),
            "reference": f"{plan.trace.name}:{row.number}",
        }
        answer = await self._send(self.reserve_url, body, row, "reserve", self.reserve_seconds)
        if answer.status == 402:
            self.declined += 1
            return
        if answer.status != 201:
            raise self._refused(answer, row, "reserve", customer)
        hold = self._read(answer, row, "reserve")
        url = f"{self.base}/v1/holds/{hold.id}/capture"
        # If our hold has run out meanwhile, the work is done all the same: take what it cost.
        body = {"usage": self._usage(row.context, row.generated), "above_hold": "take"}
        answer = await self._send(url, body, row, "capture", self.capture_seconds)
        if answer.status == 402:
            self.captures_declined += 1
            return
        if answer.status != 200:
            raise self._refused(answer, row, "capture", customer)
        charge = self._read(answer, row, "capture").charge
        self.accepted += 1
        if charge is not None:
            self.captured += Decimal(charge.amount)

    def _usage(self, context: int, generated: int) -> list[dict[str, Any]]:
        """Tokens as the usage of a request."""
        plan = self.plan
        dimensions = {} if plan.model is None else {"dimensions": {"model": plan.model}}
        return [
            {"meter": plan.input_meter, "quantity": context, **dimensions},
            {"meter": plan.output_meter, "quantity": generated, **dimensions},
        ]

    async def _send(
        self, url: str, body: object, row: Row, operation: str, seconds: "array[float]"
    ) -> _Answer:
        """Send until there is an answer that says what happened. Raises ReplayError."""
        content = _encode(body)
        headers = {"Idempotency-Key": _key(self.plan, row.number, operation)}
        started = perf_counter()
        attempt = 0
        while True:
            attempt += 1
            asked = 0.0
            try:
                async with self.session.post(
                    url, data=content, headers=headers, allow_redirects=False
                ) as response:
                    answer = _Answer(response.status, await response.read())
                    if answer.status not in RETRIED:
                        seconds.append(perf_counter() - started)
                        self.replayed += "Idempotent-Replayed" in response.headers
                        return answer
                    asked = _retry_after(response.headers.get("Retry-After", ""))
                    doubt = _told(answer)
            except (aiohttp.ClientError, OSError) as exc:
                # Sent or not, done or not: the same key tells. A timeout is an OSError too.
                doubt = str(exc) or "no answer in time"
            if attempt == self.patience.attempts_max:
                raise ReplayError(
                    f"row {row.number}: {operation} has no answer after {attempt} attempts: {doubt}"
                )
            self.retries += 1
            await asyncio.sleep(self.patience.pause(attempt, asked))

    def _read(self, answer: _Answer, row: Row, operation: str) -> _Hold:
        try:
            return _decode_hold(answer.body)
        except msgspec.MsgspecError as exc:
            raise ReplayError(
                f"row {row.number}: the answer to {operation} is not a hold ({exc});"
                f" is {self.base} the address of drawdown?"
            ) from exc

    def _refused(self, answer: _Answer, row: Row, operation: str, customer: str) -> ReplayError:
        try:
            code = _decode_problem(answer.body).code
        except msgspec.MsgspecError:
            code = ""
        if answer.status == 401:
            return ReplayError(f"the service does not know this API key ({_told(answer)})")
        if answer.status == 403:
            return ReplayError(f"the API key may not do this ({_told(answer)})")
        if code == "customer_not_found":
            return ReplayError(
                f"row {row.number}: there is no customer {customer}: create it, or start the"
                " service with DRAWDOWN_CREATE_CUSTOMERS=true"
            )
        if code in {"no_rate", "invalid_usage"}:
            return ReplayError(
                f"row {row.number}: the service can't price this ({_told(answer)}): it needs the"
                f" meters {self.plan.input_meter} and {self.plan.output_meter}, and a rate card"
                " with a price for each"
            )
        if code == "idempotency_key_reused":
            return ReplayError(
                f"row {row.number}: {operation} was sent with other content under the run"
                f" {self.plan.run}: another file, or another longest answer"
            )
        return ReplayError(f"row {row.number}: {operation} was refused: {_told(answer)}")

    def report(self, elapsed: float) -> Report:
        requests = len(self.reserve_seconds) + len(self.capture_seconds)
        return Report(
            run=self.plan.run,
            file=self.plan.trace.name,
            rows=self.plan.row_count,
            accepted=self.accepted,
            declined=self.declined,
            captures_declined=self.captures_declined,
            captured=self.captured,
            requests=requests,
            retries=self.retries,
            replayed=self.replayed,
            elapsed_seconds=round(elapsed, 3),
            requests_per_second=round(requests / elapsed, 1) if elapsed > 0 else 0.0,
            reserve=_latency(self.reserve_seconds),
            capture=_latency(self.capture_seconds),
        )


def _retry_after(text: str) -> float:
    """Seconds; 0 if the header is missing or a date, which only proxies send."""
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _told(answer: _Answer) -> str:
    """Status, code and words of a refusal in one line, from us or from a proxy."""
    try:
        problem = _decode_problem(answer.body)
    except msgspec.MsgspecError:
        return f"status {answer.status}"
    words = " ".join(filter(None, [problem.code, problem.detail]))
    return f"{answer.status} {words}".rstrip()


def _latency(seconds: "array[float]") -> Latency:
    ordered = sorted(seconds)
    return Latency(_percentile(ordered, 50), _percentile(ordered, 99))


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """In milliseconds by nearest rank; 0 of nothing."""
    if not ordered:
        return 0.0
    rank = -(-len(ordered) * percent // 100)
    return round(ordered[rank - 1] * 1000, 2)
