"""The demo as a user runs it: a service and its database, two traces, equal sums, proved books.

A process of its own that starts others; afterwards nothing of it runs and nothing is left.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drawdown.demo import FILES, SAMPLES, find_traces
from drawdown.demo_report import add_up
from tests.servers import open_folder

DRAWDOWN = Path(sys.executable).with_name("drawdown")
SECONDS_MAX = 300  # a laden machine is slow; alone it takes a tenth of that
FULL = {"code": (18_059_974, 245_896), "conversation": (22_361_870, 4_088_665)}
"""Context and generated tokens of the full files."""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where the demo makes its folder."""
    folder = open_folder()
    yield folder
    shutil.rmtree(folder)


def environment(temporary: Path) -> dict[str, str]:
    # A database of another service is named on purpose: the demo must not touch it.
    return {**os.environ, "TMPDIR": str(temporary), "DATABASE_URL": "postgresql://nobody@nowhere/x"}


def run_demo(temporary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DRAWDOWN, "demo", *arguments],
        env=environment(temporary),
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


def processes_in(folder: Path) -> list[str]:
    """Command lines of running processes that name the folder."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line.replace("\0", " "))
    return found


def cells(out: str, label: str) -> list[int]:
    """The numbers of one row of the table."""
    [line] = re.findall(rf"^ *{re.escape(label)}  +(.*)$", out, re.MULTILINE)
    return [int(cell.replace(",", "")) for cell in line.split()]


def assert_is_equal(out: str, traces: Path, limit: int | None) -> None:
    sums = [add_up(traces / name, limit) for name in FILES.values()]
    used = [one.credits for one in sums]
    rows = [one.rows for one in sums]
    assert cells(out, "rows") == [*rows, sum(rows)]
    assert cells(out, "requests") == [2 * count for count in (*rows, sum(rows))]
    assert cells(out, "refused") == [0, 0, 0]
    assert cells(out, "credits captured") == cells(out, "the same rows' price")
    assert cells(out, "credits captured") == [*used, sum(used)]
    [burned] = re.findall(r"^burned +paid ([\d,]+) \+ promotional ([\d,]+) = ([\d,]+)", out, re.M)
    paid, promotional, both = (int(number.replace(",", "")) for number in burned)
    assert paid > 0
    assert promotional > 0
    assert paid + promotional == both == sum(used)
    counted = {
        model: (int(context.replace(",", "")), int(generated.replace(",", "")))
        for model, context, generated in re.findall(
            r"^  (code|conversation) +[0-9-]{10} +([\d,]+) context +([\d,]+) generated$", out, re.M
        )
    }
    if len(counted) == len(sums):  # on one day; a midnight between makes more lines
        assert list(counted.values()) == [(one.context, one.generated) for one in sums]
    assert "DIFFERENT" not in out
    [(accepted, refused)] = re.findall(
        r"^demo-poor +20 rows: (\d+) accepted, (\d+) refused", out, re.M
    )
    assert int(accepted) >= 1
    assert int(refused) >= 1
    assert "the books are proved" in out
    assert "statement of demo-01" in out


def test_demo_ends_by_itself_with_equal_sums_and_leaves_nothing(temporary: Path) -> None:
    done = run_demo(temporary, "--limit", "200")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(line.startswith("replay ") for line in done.stderr.splitlines())
    assert_is_equal(done.stdout, find_traces(None), 200)
    assert list(temporary.iterdir()) == []
    assert processes_in(temporary) == []


def test_demo_again_in_a_kept_folder_is_equal_again(temporary: Path) -> None:
    data = temporary / "with a space"
    for _ in range(2):
        done = run_demo(temporary, "--limit", "60", "--data", str(data), "--traces", str(SAMPLES))
        assert done.returncode == 0, done.stdout + done.stderr
        assert_is_equal(done.stdout, SAMPLES, 60)
    assert data.is_dir()
    assert not (data / "sandbox.json").exists()
    assert processes_in(data) == []


@pytest.fixture
def running(temporary: Path) -> Iterator["subprocess.Popen[str]"]:
    """A demo whose service is ready."""
    with subprocess.Popen(
        [DRAWDOWN, "demo", "--traces", SAMPLES],
        env=environment(temporary),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert any(line.startswith("customers") for line in process.stdout)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_demo_stopped_by_a_signal_leaves_nothing(
    running: "subprocess.Popen[str]", temporary: Path, number: int, code: int
) -> None:
    running.send_signal(number)
    _, err = running.communicate(timeout=SECONDS_MAX)
    assert running.returncode == code
    assert err.splitlines()[-1] == ("drawdown: stopped before the end; the service is stopped too")
    assert processes_in(temporary) == []
    assert list(temporary.iterdir()) == []


def test_demo_killed_takes_its_service_along(
    running: "subprocess.Popen[str]", temporary: Path
) -> None:
    running.kill()
    running.wait(SECONDS_MAX)
    deadline = time.monotonic() + SECONDS_MAX
    while processes_in(temporary):
        assert time.monotonic() < deadline, processes_in(temporary)


def test_demo_that_can_not_start_says_why_in_one_line(temporary: Path) -> None:
    file = temporary / "file"
    file.touch()
    done = run_demo(temporary, "--data", str(file / "below"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert str(file) in done.stderr


@pytest.mark.long
def test_demo_full_traces_give_the_known_totals(temporary: Path) -> None:
    traces = find_traces(os.environ.get("DRAWDOWN_TRACES"))
    if traces == SAMPLES:
        pytest.skip("the full traces are not here")
    done = run_demo(temporary, "--traces", str(traces))
    assert done.returncode == 0, done.stdout + done.stderr
    assert_is_equal(done.stdout, traces, None)
    assert cells(done.stdout, "context, at 1")[:2] == [context for context, _ in FULL.values()]
    assert cells(done.stdout, "generated, at 4")[:2] == [
        generated for _, generated in FULL.values()
    ]
