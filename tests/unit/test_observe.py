"""Metrics, ids of requests and traces, and log lines without secrets."""

import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from meter.observe import Metrics, configure_logging, new_request_id, redact, trace_of

NAMES = {
    "drawdown_http_requests",
    "drawdown_http_request_seconds",
    "drawdown_batch_size",
    "drawdown_batch_seconds",
    "drawdown_queue_depth",
    "drawdown_queue_wait_seconds",
    "drawdown_events",
    "drawdown_retries",
    "drawdown_refusals",
    "drawdown_holds_overdue",
    "drawdown_job_overdue_seconds",
    "drawdown_invariant_failures",
    "drawdown_duplicate_subscriptions",
    "drawdown_stripe_deliveries",
    "drawdown_outbox_age_seconds",
}


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name and labels, as Prometheus reads them."""
    text, content_type = metrics.exposition()
    assert content_type.startswith("text/plain")
    return {
        sample.name + json.dumps(sample.labels, sort_keys=True): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_metrics_have_the_published_names() -> None:
    text, _ = Metrics().exposition()
    assert {family.name for family in text_string_to_metric_families(text.decode())} == NAMES


def test_metrics_request_is_counted_by_route_method_status_and_code() -> None:
    metrics = Metrics()
    metrics.request("/v1/reserve", "POST", 201, 0.001)
    metrics.request("/v1/reserve", "POST", 201, 0.0011)
    metrics.request("/v1/reserve", "POST", 402, 99, "insufficient_credits")
    found = samples(metrics)
    label = '{"method": "POST", "route": "/v1/reserve", "status": "%d"}'
    assert found["drawdown_http_requests_total" + label % 201] == 2
    assert found["drawdown_http_requests_total" + label % 402] == 1
    bucket = 'drawdown_http_request_seconds_bucket{"le": "%s", "route": "/v1/reserve"}'
    assert [found[bucket % le] for le in ("0.001", "0.0025", "10.0", "+Inf")] == [1, 2, 2, 3]
    route = '{"route": "/v1/reserve"}'
    assert found["drawdown_http_request_seconds_count" + route] == 3
    assert found["drawdown_http_request_seconds_sum" + route] == pytest.approx(99.0021)
    assert found['drawdown_refusals_total{"code": "insufficient_credits"}'] == 1


def test_metrics_two_in_one_process_do_not_mix() -> None:
    one, other = Metrics(), Metrics()
    one.queued(7)
    one.retried("conflict")
    assert samples(one)["drawdown_queue_depth{}"] == 7
    assert samples(other)["drawdown_queue_depth{}"] == 0


def test_request_ids_are_unique_and_plain() -> None:
    ids = {new_request_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", id_) for id_ in ids)


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        (f"00-{TRACE}-{PARENT}-01", "01"),
        (f"00-{TRACE}-{PARENT}-00", "00"),
        (f"00-{TRACE}-{PARENT}-ff", "01"),
        (f"01-{TRACE}-{PARENT}-01-more", "01"),
        (f"fe-{TRACE}-{PARENT}-01", "01"),
    ],
)
def test_trace_goes_on_under_a_span_of_ours(header: str, flags: str) -> None:
    trace = trace_of(header.encode())
    assert (trace.trace_id, trace.flags) == (TRACE, flags)
    assert trace.span_id != PARENT
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-{flags}", trace.header.decode())


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "garbage",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{TRACE[:-1]}-{PARENT}-01",
    ],
)
def test_trace_bad_header_begins_a_new_one(header: str | None) -> None:
    trace = trace_of(None if header is None else header.encode())
    assert trace.trace_id != TRACE
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", trace.header.decode())


CANARIES = [
    "ddk_Vb3x-_9QhZk2mT7pLwYs0aRcE5uGdJfXnBoIiHqKzMt",
    "ddt_Vb3x-_9QhZk2mT7pLwYs0aRcE5uGdJfXnBoIiHqKzMt",
    "sk_live_51HcanarySecret",
    "sk_test_51HcanarySecret",
    "rk_live_51HcanarySecret",
    "whsec_canarySecret+/=",
    "4242424242424242",
    "4242 4242 4242 4242",
    "5555-5555-5555-4444",
]
URLS = [
    ("postgresql://app:c4n:a@ry@db:5432/books", "postgresql://app:***@db:5432/books"),
    ("redis://:canary@host/0", "redis://:***@host/0"),
    ("host=db password=canary user=app", "host=db password=*** user=app"),
    ('{"password": "canary", "a": 1}', '{"password": "***", "a": 1}'),
]


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("around", ["{}", "key {}.", "'{}'", "a={}&b", "<{}>", "Bearer {}"])
def test_redact_hides_secrets(canary: str, around: str) -> None:
    assert canary not in redact(around.format(canary))
    assert "anary" not in redact(around.format(canary))


@pytest.mark.parametrize(("text", "shown"), URLS)
def test_redact_hides_passwords(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "hld_0000000000001000000000000A",
        "req_4bf92f3577b34da6a3ce929d0e0e4736",
        "customer 1234567890123456",
        "took 12.5 s at 2026-05-04T09:00:00.123456Z",
        "https://example.com/a:b@c",
        "task_1234567",
        "ddk_",
    ],
)
def test_redact_leaves_other_text(text: str) -> None:
    assert redact(text) == text


@pytest.fixture
def _logging() -> Iterator[None]:
    """Logging as it was, afterwards."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "uvicorn.error")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)
    structlog.configure(**before)


@pytest.mark.usefixtures("_logging")
def test_log_lines_are_json_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    log = structlog.get_logger()
    secret, dsn = CANARIES[0], URLS[0][0]
    log.debug("below the level")
    log.info("plain", request_id="req_1", count=3, at=None)
    log.warning(f"text {secret}", nested={"list": [secret, {"dsn": dsn}]}, key=secret.encode())
    log.warning("names", password="canary", headers={"Authorization": "Basic canary"})
    try:
        raise ValueError(dsn)
    except ValueError as error:
        log.error("failed", exc_info=error)
        logging.getLogger("library").exception("also %s", secret)
    out, err = capsys.readouterr()
    assert out == ""
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["event"].split()[0] for line in lines] == [
        *("plain", "text", "names", "failed", "also")
    ]
    assert {"request_id": "req_1", "count": 3, "at": None, "level": "info"}.items() <= (
        lines[0].items()
    )
    assert all(line["time"].endswith("Z") for line in lines)
    assert "ValueError" in lines[3]["exception"]
    assert secret not in err
    assert "canary" not in err
    assert "a@ry" not in err
