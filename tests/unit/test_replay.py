"""The replay of a trace: what is read from a file, and what is sent when answers are in doubt.

The service is a stand-in of a few lines with faults of its own making; `tests/e2e/test_demo.py`
runs the real one.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from drawdown.cli import run as run_command
from drawdown.replay import Patience, Plan, ReplayError, Report, replay
from drawdown.traces import TraceError, read_rows, survey

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
AT = "2023-11-16 18:17:03.9799600"
QUICK = Patience(attempts_max=4, pause_seconds_first=0.0, answer_seconds_max=0.25)


def tokens(body: dict[str, Any]) -> int:
    """What a request asks for, at one credit a token."""
    assert [item["meter"] for item in body["usage"]] == ["llm_input_tokens", "llm_output_tokens"]
    return sum(item["quantity"] for item in body["usage"])


class Service:
    """Reserve and capture with idempotency keys, and faults for chosen keys."""

    def __init__(self) -> None:
        self.faults: dict[str, list[str]] = {}
        """By the end of a key: what happens to its first, second, … arrival."""
        self.answers: dict[str, tuple[bytes, int, bytes]] = {}
        """By key: the body that was sent, and its answer."""
        self.reserved: dict[str, int] = {}
        self.charged: Counter[str] = Counter()
        self.arrivals: Counter[str] = Counter()
        self.poor = {"customer-0009"}
        self.unknown = {"customer-0404"}
        self.headers: dict[str, str] = {}
        self.url = ""
        self.end = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/livez":
            return web.Response()
        key = request.headers["Idempotency-Key"]
        body = await request.read()
        row = key.split("/", 1)[1]
        self.arrivals[row] += 1
        self.headers = dict(request.headers)
        faults = self.faults.get(row, [])
        fault = faults.pop(0) if faults else ""
        if fault == "reset_before":
            return self.drop(request)
        if fault.isdigit():
            return web.Response(status=int(fault), headers={"Retry-After": "0"}, body=b"<busy>")
        was_here = key in self.answers
        if not was_here:
            status, text = self.act(request.path, row, json.loads(body))
            self.answers[key] = (body, status, text)
        sent, status, text = self.answers[key]
        if sent != body:
            status, text = 422, b'{"code":"idempotency_key_reused"}'
        if fault == "reset_after":
            return self.drop(request)
        if fault == "stall":
            await self.end.wait()
        headers = {"Idempotent-Replayed": "true"} if was_here else {}
        if fault == "cut":
            headers["Content-Length"] = str(len(text) + 1)
            response = web.StreamResponse(status=status, headers=headers)
            await response.prepare(request)
            await response.write(text)
            return self.drop(request)
        return web.Response(status=status, body=text, headers=headers)

    def act(self, path: str, row: str, body: dict[str, Any]) -> tuple[int, bytes]:
        if path == "/v1/reserve":
            if body["customer_id"] in self.unknown:
                return 404, b'{"code":"customer_not_found"}'
            if body["customer_id"] in self.poor:
                return 402, b'{"code":"insufficient_credits"}'
            hold = f"hld_{row.replace('/', '_')}"
            self.reserved[hold] = tokens(body)
            return 201, json.dumps({"id": hold, "charge": None, "new": 1}).encode()
        hold = path.split("/")[3]
        assert path.endswith("/capture")
        assert body["above_hold"] == "take"
        self.charged[hold] += tokens(body)
        charge = {"amount": str(tokens(body))}
        return 200, json.dumps({"id": hold, "charge": charge}).encode()

    @staticmethod
    def drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()


@pytest.fixture
async def service() -> AsyncGenerator[Service]:
    made = Service()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    server = TestServer(app)
    await server.start_server()
    made.url = str(server.make_url(""))
    yield made
    made.end.set()
    await server.close()


def write_trace(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def plan_of(path: Path, *, run: str = "r1", customers: tuple[str, ...] = ("c1", "c2")) -> Plan:
    trace = survey(path)
    return Plan(trace=trace, run=run, customers=customers, longest_answer=trace.longest_answer)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Four rows: 100 + 5, 200 + 7, 300 + 9, 0 + 0."""
    lines = [HEADER, f"{AT},100,5", f"{AT},200,7", f"{AT},300,9", f"{AT},0,0"]
    return write_trace(tmp_path, "\r\n".join(lines))


async def send(service: Service, plan: Plan, *, concurrency: int = 2) -> Report:
    return await replay(
        plan,
        url=service.url,
        api_key="ddk_x",
        concurrency=concurrency,
        on_row=lambda: None,
        patience=QUICK,
    )


# Reading


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n", "\r\n", "\r\n\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_read_rows_any_line_ends_gives_the_same_rows(
    tmp_path: Path, end: str, last: str, mark: str
) -> None:
    lines = [HEADER, f"{AT},4808,10", "2023-11-16T18:17:04Z,3180,8", "2023-11-16 18:17:05.5,0,0"]
    rows = list(read_rows(write_trace(tmp_path, mark + end.join(lines) + last)))
    assert [(row.number, row.context, row.generated) for row in rows] == [
        (1, 4808, 10),
        (2, 3180, 8),
        (3, 0, 0),
    ]
    assert [row.at.isoformat() for row in rows] == [
        "2023-11-16T18:17:03.979960+00:00",
        "2023-11-16T18:17:04+00:00",
        "2023-11-16T18:17:05.500000+00:00",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"line 1: the columns must be {HEADER}, not 'nothing'"),
        ("a,b,c\n", f"line 1: the columns must be {HEADER}, not 'a,b,c'"),
        (f"{HEADER}\n", "has no rows after its header"),
        (f"{HEADER}\n{AT},1,2\n{AT},1\n", "line 3: 2 columns instead of 3"),
        (f"{HEADER}\n\n{AT},1,2,\n", "line 3: 4 columns instead of 3"),
        (f"{HEADER}\n{AT},-1,2\n", "line 2: ContextTokens must be a whole number, not '-1'"),
        (f"{HEADER}\n{AT},1,2.0\n", "line 2: GeneratedTokens must be a whole number, not '2.0'"),
        (f"{HEADER}\n{AT},1,٣\n", "line 2: GeneratedTokens must be a whole number, not '٣'"),
        (f"{HEADER}\n{AT},1,1234567890", "line 2: GeneratedTokens must be a whole number"),
        (f"{HEADER}\nyesterday,1,2\n", "line 2: TIMESTAMP must be like 2023-11-16"),
        (f"{HEADER}\n2023-02-30 00:00:00,1,2\n", "line 2: day is out of range"),
        (f'{HEADER}\n"{AT},1,2\n', "line 2: unexpected end of data"),
    ],
)
def test_survey_wrong_file_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = write_trace(tmp_path, text)
    with pytest.raises(TraceError) as caught:
        survey(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_survey_not_text_or_not_a_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(HEADER.encode() + b"\n\xff\n")
    with pytest.raises(TraceError, match="not UTF-8 text"):
        survey(path)
    with pytest.raises(TraceError, match="No such file"):
        survey(tmp_path / "none.csv")
    with pytest.raises(TraceError, match="not a regular file"):
        survey(tmp_path)


def test_survey_sums_the_file(trace: Path) -> None:
    found = survey(trace)
    assert (found.row_count, found.context, found.generated, found.longest_answer) == (
        4,
        600,
        21,
        9,
    )


# Sending


async def test_replay_reserves_the_worst_case_and_captures_what_was_used(
    service: Service, trace: Path
) -> None:
    report = await send(service, plan_of(trace))
    assert service.reserved == {
        "hld_t.csv_1_reserve": 109,
        "hld_t.csv_2_reserve": 209,
        "hld_t.csv_3_reserve": 309,
        "hld_t.csv_4_reserve": 9,
    }
    assert sorted(service.charged.values()) == [0, 105, 207, 309]
    assert (report.accepted, report.declined, report.captured) == (4, 0, Decimal(621))
    assert (report.requests, report.retries, report.replayed) == (8, 0, 0)
    assert sorted(service.answers) == [
        f"r1/t.csv/{row}/{operation}" for row in range(1, 5) for operation in ("capture", "reserve")
    ]
    assert service.headers["Authorization"] == "Bearer ddk_x"


@pytest.mark.parametrize(
    "fault", ["reset_before", "reset_after", "cut", "stall", "429", "502", "503", "504"]
)
@pytest.mark.parametrize("operation", ["reserve", "capture"])
async def test_replay_a_doubt_is_settled_by_the_same_key(
    service: Service, trace: Path, fault: str, operation: str
) -> None:
    service.faults[f"t.csv/2/{operation}"] = [fault, fault] if fault != "stall" else [fault]
    report = await send(service, plan_of(trace))
    assert (report.accepted, report.captured) == (4, Decimal(621))
    assert sorted(service.charged.values()) == [0, 105, 207, 309]
    assert report.retries == service.arrivals[f"t.csv/2/{operation}"] - 1 > 0
    assert report.replayed == (1 if fault in ("reset_after", "cut", "stall") else 0)
    assert report.requests == 8


async def test_replay_the_same_run_again_charges_nothing(service: Service, trace: Path) -> None:
    first = await send(service, plan_of(trace))
    again = await send(service, plan_of(trace))
    assert again.captured == first.captured
    assert again.replayed == again.requests == 8
    assert sum(service.charged.values()) == 621
    other = await send(service, plan_of(trace, run="r2"))
    assert other.replayed == 0
    assert sum(service.charged.values()) == 2 * 621


async def test_replay_goes_on_where_it_was_broken_off(service: Service, trace: Path) -> None:
    service.faults["t.csv/3/capture"] = ["reset_after"] * 4
    with pytest.raises(ReplayError, match="row 3: capture has no answer after 4 attempts"):
        await send(service, plan_of(trace), concurrency=1)
    report = await send(service, plan_of(trace), concurrency=1)
    assert (report.accepted, report.captured, report.replayed) == (4, Decimal(621), 6)
    assert sum(service.charged.values()) == 621


async def test_replay_declined_rows_are_counted_and_not_captured(
    service: Service, trace: Path
) -> None:
    report = await send(service, plan_of(trace, customers=("c1", "customer-0009")))
    assert (report.accepted, report.declined) == (2, 2)
    assert report.captured == 207
    assert report.requests == 6


async def test_replay_waits_as_long_as_the_service_asks() -> None:
    patience = Patience()
    assert 7.0 <= patience.pause(1, 7.0) < 7.1
    assert patience.pause(1, 1e9) < 61
    assert patience.pause(60, 0.0) <= patience.pause_seconds_max


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("401", "does not know this API key"),
        ("403", "may not do this"),
        ("500", "row 1: reserve was refused: status 500"),
        ("200", "row 1: reserve was refused: status 200"),
        ("302", "row 1: reserve was refused: status 302"),
        ("201", "row 1: the answer to reserve is not a hold"),
    ],
)
async def test_replay_wrong_answer_ends_it_with_words(
    service: Service, trace: Path, status: str, message: str
) -> None:
    service.faults["t.csv/1/reserve"] = [status]
    with pytest.raises(ReplayError, match=message):
        await send(service, plan_of(trace), concurrency=1)


async def test_replay_unknown_customer_and_changed_plan_are_told(
    service: Service, trace: Path
) -> None:
    with pytest.raises(ReplayError, match="no customer customer-0404: create it, or start"):
        await send(service, plan_of(trace, customers=("customer-0404",)))
    plan = plan_of(trace, run="r2")
    await send(service, plan)
    changed = Plan(trace=plan.trace, run="r2", customers=plan.customers, longest_answer=1)
    with pytest.raises(ReplayError, match="was sent with other content under the run r2"):
        await send(service, changed)


async def test_replay_nobody_there_is_told_at_once(trace: Path, unused_tcp_port: int) -> None:
    with pytest.raises(ReplayError, match=f"can't reach http://127.0.0.1:{unused_tcp_port}: "):
        await replay(
            plan_of(trace),
            url=f"http://127.0.0.1:{unused_tcp_port}/",
            api_key="k",
            concurrency=1,
            on_row=lambda: None,
        )


# The command


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--run", "a/b"], 2, "--run must be 1 to 64 printable ASCII characters"),
        (["--customers", "0"], 2, "0 is not in the range"),
        (["--key", "a b"], 1, "the API key has characters that no key has"),
        (["--key", "k", "--url", "localhost:1"], 1, "'localhost:1' is not an address such as"),
        ([], 1, "no API key: set DRAWDOWN_API_KEY, or use --key"),
    ],
)
def test_replay_command_wrong_use_is_told_on_stderr(
    trace: Path,
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DRAWDOWN_API_KEY", raising=False)
    if "--run" in arguments:
        monkeypatch.setenv("DRAWDOWN_API_KEY", "ddk_x")
    assert run_command(["replay", str(trace), *arguments]) == code
    assert message in capsys.readouterr().err


async def test_replay_command_prints_a_report(
    service: Service,
    trace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DRAWDOWN_API_KEY", "ddk_x")
    command = ["replay", str(trace), "--url", service.url, "--run", "r1", "--customers", "3"]
    assert await asyncio.to_thread(run_command, command) == 0
    out = capsys.readouterr().out
    assert "accepted   4 of 4 rows" in out
    assert "captured   621 credits" in out
    assert await asyncio.to_thread(run_command, [*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["captured"] == "621"
    assert report["replayed"] == 8
    assert report["run"] == "r1"
