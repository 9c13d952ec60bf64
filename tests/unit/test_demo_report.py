"""What the demo compares, and what its service gets to see."""

from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from drawdown.demo import FILES, SAMPLES, DemoError, find_traces
from drawdown.demo_report import Replayed, Sums, add_up, differences, table
from drawdown.replay import Latency, Report
from drawdown.sandbox_process import own_environment


def replayed(captured: int, *, accepted: int = 2) -> Replayed:
    quick = Latency(1.0, 2.0)
    report = Report(
        run="r",
        file="t.csv",
        rows=2,
        accepted=accepted,
        declined=2 - accepted,
        captures_declined=0,
        captured=Decimal(captured),
        requests=4,
        retries=0,
        replayed=0,
        elapsed_seconds=1.0,
        requests_per_second=4.0,
        reserve=quick,
        capture=quick,
    )
    return Replayed("code", report, Sums(2, 1000, 50))


def test_differences_of_equal_sums_are_none() -> None:
    assert differences([replayed(1200)], Counter(paid=1000, promotional=200)) == []


def test_differences_name_what_is_too_much_or_too_little() -> None:
    wrong = differences([replayed(1199, accepted=1)], Counter(paid=1201))
    assert wrong == [
        "code: captured 1,199, the rows say 1,200: a difference of -1",
        "code: 1 of 2 rows were accepted",
        "the lots lost 1,201 credits, the rows say 1,200: a difference of +1",
    ]


def test_table_lines_up() -> None:
    lines = table([replayed(1200), replayed(1200)])
    assert "credits captured                     1,200          1,200          2,400" in lines
    assert "the same rows' price                 1,200          1,200          2,400" in lines
    assert "  generated, at 4                       50             50            100" in lines
    assert "reserve p50 / p99, ms            1.0 / 2.0      1.0 / 2.0" in lines


def test_samples_are_whole_and_add_up() -> None:
    sums = [add_up(SAMPLES / name, None) for name in FILES.values()]
    assert [one.rows for one in sums] == [1000, 1000]
    assert add_up(SAMPLES / FILES["code"], 2) == Sums(2, 4808 + 3180, 10 + 8)


def test_find_traces_named_folder_must_have_both(tmp_path: Path) -> None:
    assert find_traces(str(SAMPLES)) == SAMPLES
    (tmp_path / FILES["code"]).touch()
    with pytest.raises(DemoError, match=r"has no azure_llm_conv_2023\.csv"):
        find_traces(str(tmp_path))


def test_own_environment_leaves_out_other_services() -> None:
    environ = {
        "PATH": "/bin",
        "DATABASE_URL": "postgresql://live",
        "DATABASE_URL_FILE": "/run/secrets/url",
        "STRIPE_SECRET_KEY": "sk_live_1",
        "DRAWDOWN_RATE_LIMIT": "1/60",
        "DRAWDOWN_EMBEDDED_USER": "someone",
    }
    assert own_environment(environ) == {
        "PATH": "/bin",
        "DRAWDOWN_EMBEDDED_USER": "someone",
        "DRAWDOWN_DRAIN_SECONDS": "0",
        "DRAWDOWN_LOG_LEVEL": "warning",
    }
