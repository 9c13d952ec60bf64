"""What the service tells about itself: metrics, log lines, and the ids of requests and traces."""

import logging
import random
import re
import sys
from bisect import bisect_left
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from itertools import accumulate
from typing import Any, Final, TextIO, cast

import prometheus_client
import structlog
from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

# Times of creation double the number of series and serve nobody here.
prometheus_client.disable_created_metrics()

SECONDS_BUCKETS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
SIZE_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _Answers(Collector):
    """Counts answers and times routes: a tenth of the time that the library's own objects take.

    Every request of the hot path is counted here, in one thread, so there is nothing to lock.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, int], int] = {}
        self.seconds: dict[str, list[float]] = {}
        """Per route: answers in each bucket, the last without bound; then the sum of seconds."""

    def add(self, route: str, method: str, status: int, seconds: float) -> None:
        label = (route, method, status)
        self.counts[label] = self.counts.get(label, 0) + 1
        timed = self.seconds.get(route)
        if timed is None:
            timed = self.seconds[route] = [0.0] * (len(SECONDS_BUCKETS) + 2)
        timed[bisect_left(SECONDS_BUCKETS, seconds)] += 1
        timed[-1] += seconds

    def collect(self) -> Iterable[Metric]:
        """What Prometheus asks for."""
        answers = CounterMetricFamily(
            "drawdown_http_requests",
            "Answers by route template.",
            labels=("route", "method", "status"),
        )
        for (route, method, status), count in self.counts.items():
            answers.add_metric((route, method, str(status)), count)
        yield answers
        times = HistogramMetricFamily(
            "drawdown_http_request_seconds",
            "From the headers of a request to its answer.",
            labels=("route",),
        )
        bounds = [*map(str, SECONDS_BUCKETS), "+Inf"]
        for route, timed in self.seconds.items():
            buckets = list(zip(bounds, accumulate(timed[:-1]), strict=True))
            times.add_metric((route,), buckets, timed[-1])
        yield times


class StripeMetrics:
    """What is counted of Stripe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._deliveries = Counter(
            "drawdown_stripe_deliveries",
            "Deliveries of Stripe, by what became of them: marked, ignored, other_mode, known.",
            ("outcome",),
            registry=registry,
        )
        self._outbox_age = Gauge(
            "drawdown_outbox_age_seconds",
            "How long the oldest call to Stripe waits that a job has still to send.",
            registry=registry,
        )
        self._duplicates = Counter(
            "drawdown_duplicate_subscriptions",
            "Live subscriptions that were found beside another one of the same customer.",
            registry=registry,
        )

    def duplicate_subscription(self) -> None:
        """A customer pays for two: a person should look."""
        self._duplicates.inc()

    def delivered(self, outcome: str) -> None:
        """A delivery of Stripe was kept, or was known."""
        self._deliveries.labels(outcome).inc()

    def outbox_age(self, seconds: float) -> None:
        """How long the oldest call waits that a job has to send."""
        self._outbox_age.set(seconds)


class Metrics:
    """The metrics of one process, in a registry of its own. Labels never name a customer."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.stripe = StripeMetrics(registry)
        self._answers = _Answers()
        registry.register(self._answers)
        self._refusals = Counter(
            "drawdown_refusals", "Problems answered, by code.", ("code",), registry=registry
        )
        self._batch_size = Histogram(
            "drawdown_batch_size",
            "Requests in one transaction.",
            buckets=SIZE_BUCKETS,
            registry=registry,
        )
        self._batch_seconds = Histogram(
            "drawdown_batch_seconds",
            "Time of a batch by step: lock, decide (with loading), post, commit; `total`: all.",
            ("step",),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._queue_depth = Gauge(
            "drawdown_queue_depth", "Requests waiting for the books.", registry=registry
        )
        self._queue_wait = Histogram(
            "drawdown_queue_wait_seconds",
            "Longest wait of a request in a batch before its transaction.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._retries = Counter(
            "drawdown_retries", "Batches run again, by reason.", ("reason",), registry=registry
        )
        self._events = Counter(
            "drawdown_events",
            "Events that arrived, by what became of them.",
            ("fate",),
            registry=registry,
        )
        self._holds_overdue = Gauge(
            "drawdown_holds_overdue",
            "Open holds whose deadline has passed and that no sweep has ended yet.",
            registry=registry,
        )
        self._jobs_overdue = Gauge(
            "drawdown_job_overdue_seconds",
            "How long a job should have run already.",
            ("job",),
            registry=registry,
        )
        self._invariant_failures = Counter(
            "drawdown_invariant_failures", "Broken invariants of the books.", registry=registry
        )
        # Children are looked up once: `labels()` costs more than the counting.
        self._refusal_children: dict[str, Counter] = {}
        self._step_children: dict[str, Histogram] = {}
        self._batch_total = self._batch_seconds.labels("total")

    def request(
        self, route: str, method: str, status: int, seconds: float, code: str | None = None
    ) -> None:
        """Count one answer. `route` is a template; `code` the problem code of a refusal."""
        self._answers.add(route, method, status, seconds)
        if code is not None:
            self.refused(code)

    def refused(self, code: str) -> None:
        """Count one problem."""
        child = self._refusal_children.get(code)
        if child is None:
            child = self._refusal_children[code] = self._refusals.labels(code)
        child.inc()

    def batch(self, size: int, seconds: float) -> None:
        """Count one batch, from taken to answered."""
        self._batch_size.observe(size)
        self._batch_total.observe(seconds)

    def batch_step(self, step: str, seconds: float) -> None:
        """Time one step of a batch."""
        child = self._step_children.get(step)
        if child is None:
            child = self._step_children[step] = self._batch_seconds.labels(step)
        child.observe(seconds)

    def retried(self, reason: str) -> None:
        """Count one batch that is run again."""
        self._retries.labels(reason).inc()

    def events(self, fate: str, count: int) -> None:
        """Count events of one transaction that had the same fate."""
        self._events.labels(fate).inc(count)

    def waited(self, seconds: float) -> None:
        """The longest wait in a batch before its transaction."""
        self._queue_wait.observe(seconds)

    def queued(self, depth: int) -> None:
        """Requests waiting now."""
        self._queue_depth.set(depth)

    def holds_overdue(self, count: int) -> None:
        """Open holds past their deadline now."""
        self._holds_overdue.set(count)

    def job_overdue(self, job: str, seconds: float) -> None:
        """How long a job should have run already; 0 if it is in time."""
        self._jobs_overdue.labels(job).set(seconds)

    def invariants_failed(self, count: int) -> None:
        """Count broken invariants that a check has found."""
        self._invariant_failures.inc(count)

    def exposition(self) -> tuple[bytes, str]:
        """All metrics as text for Prometheus, and its content type."""
        return prometheus_client.generate_latest(self.registry), (
            prometheus_client.CONTENT_TYPE_LATEST
        )


# Ids of requests and traces: unique, not secret, so a fast generator will do.
_random = random.Random(random.SystemRandom().getrandbits(256))


def new_request_id() -> str:
    """An id for a request that brought none."""
    return f"req_{_random.getrandbits(128):032x}"


class Trace(Struct, frozen=True):
    """The trace that a request belongs to, and our own place in it (W3C Trace Context)."""

    trace_id: str
    span_id: str
    flags: str

    @property
    def header(self) -> bytes:
        """The `traceparent` that we send on."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}".encode()


_TRACEPARENT = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)


def trace_of(traceparent: bytes | None) -> Trace:
    """The trace of a `traceparent` header, or a new one if there is none or it is not valid."""
    fresh = f"{_random.getrandbits(192):048x}"
    if traceparent is not None and (match := _TRACEPARENT.fullmatch(traceparent)) is not None:
        version, trace_id, parent_id, flags, more = match.groups()
        # A later version may say more; version 00 may not, and ff is no version.
        is_known = version != b"ff" and (more is None or version != b"00")
        if is_known and trace_id != b"0" * 32 and parent_id != b"0" * 16:
            # Only the flag "sampled" has a meaning that we may pass on.
            return Trace(trace_id.decode(), fresh[:16], "01" if int(flags, 16) & 1 else "00")
    return Trace(fresh[:32], fresh[32:], "00")


# Log lines


_SECRETS: Final = (
    (re.compile(r"\b(dd[kt]_|(?:sk|rk)_(?:live_|test_)?|whsec_)[A-Za-z0-9_+/=-]{4,}"), r"\1***"),
    # The password of a URL. It may hold anything but what ends a URL's login.
    (re.compile(r"([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/]*@", re.IGNORECASE), r"\1:***@"),
    (
        re.compile(r"""\b(password|passwd|pwd|secret)(["']?\s*[=:]\s*["']?)[^\s"'&,;]+""", re.I),
        r"\1\2***",
    ),
)
_SECRET_NAME = re.compile("passw|secret|authorization|api_?key$|token$", re.IGNORECASE)
_DIGITS = re.compile(r"(?<![0-9A-Za-z_])[0-9](?:[ -]?[0-9]){12,18}(?![0-9A-Za-z_])")


def redact(text: str) -> str:
    """The text without secrets: keys, signing secrets, passwords of URLs, card numbers."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return _DIGITS.sub(_hide_card, text)


def _hide_card(match: re.Match[str]) -> str:
    digits = [int(digit) for digit in match[0] if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    is_card = (sum(doubled) + sum(digits[-1::-2])) % 10 == 0
    return "***" if is_card else match[0]


def _redact_value(value: Any, depth: int = 0) -> Any:
    if isinstance(value, bool | int | float | None):
        return value
    if depth < 4 and isinstance(value, Mapping):
        members = cast("Mapping[object, object]", value).items()
        return {
            redact(str(name)): _redact_member(str(name), member, depth) for name, member in members
        }
    if depth < 4 and isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(item, depth + 1) for item in cast("Iterable[object]", value)]
    return redact(str(value))


def _redact_member(name: str, value: Any, depth: int) -> Any:
    return "***" if _SECRET_NAME.search(name) else _redact_value(value, depth + 1)


def redact_event(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The structlog processor that lets no secret through, wherever in the event it stands."""
    return {name: _redact_member(name, value, 0) for name, value in event.items()}


class _Tolerant:
    """A stream that loses what can't be written: a full disk or a reader that left ends no work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: it is closed
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def configure_logging(level: str) -> None:
    """JSON lines on stderr from `level` on: our own events and those of the libraries."""
    number: int = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    last: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        redact_event,
        structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Tolerant(sys.stderr))),
    )
    handler = logging.StreamHandler(_Tolerant(sys.stderr))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    logging.getLogger("asyncio").setLevel(max(number, logging.WARNING))
    # Below that it tells of every start, and of every broken request that anybody sends.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
