"""The demo: a service of its own, seeded customers, two real traces, a report, a proof.

What the service took is compared with sums that are made here, from the same rows, by other code
than the replay's.
"""

import asyncio
import csv
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import Struct

from drawdown.progress import Progress
from drawdown.replay import Plan, Report, open_session, replay
from drawdown.sandbox_process import Sandbox, SandboxProcess, run_command
from drawdown.traces import Trace, survey

FILES: Final = {
    "code": "azure_llm_code_2023.csv",
    "conversation": "azure_llm_conv_2023.csv",
}
"""The two traces, and the names of their files."""
ROOT: Final = Path(__file__).parents[1]
SAMPLES: Final = Path(__file__).with_name("samples")

CUSTOMERS: Final = tuple(f"demo-{number:02}" for number in range(1, 51))
POOR: Final = "demo-poor"
POOR_ROWS: Final = 20
CENTS_PER_CREDITS: Final = (1, 1_000)
"""The price of the paid lots: one cent for a thousand credits."""
ANSWER_SECONDS_MAX: Final = 30
STATEMENT_LINES: Final = 5

Say = Callable[[str], object]
Burned = Counter[str]
"""Credits burned by category of lot."""


class DemoError(Exception):
    """The demo can't go on. The message is one line."""


class Options(Struct, frozen=True, kw_only=True):
    """What the demo is asked for."""

    run: str
    data: Path
    port: int
    traces: Path
    concurrency: int
    row_limit: int | None = None


class Sums(Struct, frozen=True):
    """What the rows of one file add up to, in tokens."""

    rows: int
    context: int
    generated: int

    @property
    def used(self) -> int:
        return self.context + self.generated


class Replayed(Struct, frozen=True):
    """One trace after its replay: what the service answered beside what the file says."""

    name: str
    report: Report
    sums: Sums


class _Grant(Struct, frozen=True):
    category: str
    amount: Decimal
    remaining: Decimal
    held: Decimal
    created_at: str


class _Grants(Struct, frozen=True):
    data: list[_Grant]
    next_cursor: str | None


class _Line(Struct, frozen=True):
    kind: str
    created_at: str
    amount: Decimal
    balance: Decimal
    reference: str = ""


class _Statement(Struct, frozen=True):
    opening: Decimal
    closing: Decimal
    lines: list[_Line]
    has_more: bool = False


def find_traces(named: str | None) -> Path:
    """The folder of the two traces: `named`, else beside the clone, else the samples.

    Raises DemoError if `named` lacks one of them.
    """
    if named is not None:
        if missing := [name for name in FILES.values() if not (Path(named) / name).is_file()]:
            raise DemoError(f"{named} has no {' and no '.join(missing)}")
        return Path(named)
    beside = ROOT.parent / "shared" / "data"
    return beside if all((beside / name).is_file() for name in FILES.values()) else SAMPLES


async def demo(options: Options, say: Say) -> bool:
    """Run it all. False if a sum differs or the books are not proved.

    Raises DemoError, SandboxError, and what a replay raises. The service is stopped in any case.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    say(f"run        {options.run}")
    say(f"traces     {options.traces}{' (samples)' if options.traces == SAMPLES else ''}")
    traces = {name: survey(options.traces / file) for name, file in FILES.items()}
    async with SandboxProcess(options.data, options.port) as process:
        say(
            f"service    {process.sandbox.url}, with its own PostgreSQL, ready after"
            f" {clock() - began:.1f} s"
        )
        is_good = await process.during(_Demo(options, process.sandbox, traces, say).run())
    say(f"{'done' if is_good else 'FAILED':<10} in {clock() - began:.1f} s; the service has stopped")
    return is_good


class _Demo:
    """What happens while the service runs."""

    def __init__(
        self, options: Options, sandbox: Sandbox, traces: dict[str, Trace], say: Say
    ) -> None:
        self.options, self.sandbox, self.traces, self.say = options, sandbox, traces, say
        self.session: aiohttp.ClientSession

    async def run(self) -> bool:
        async with open_session(
            self.sandbox.api_key, self.options.concurrency, ANSWER_SECONDS_MAX
        ) as self.session:
            await self._seed()
            before = await self._burned(CUSTOMERS)
            poor_before = await self._burned([POOR])
            replayed = [await self._replay(name) for name in self.traces]
            poor = await self._replay_poor()
            burned = await self._burned(CUSTOMERS) - before
            poor_burned = await self._burned([POOR]) - poor_before
            are_equal = self._tell(replayed, burned)
            are_equal &= self._tell_poor(poor, poor_burned)
            await self._tell_statement(CUSTOMERS[0])
        return await self._verify() and are_equal

    async def _replay(self, name: str) -> Replayed:
        trace = self.traces[name]
        report = await self._send(
            Plan(
                trace=trace,
                run=self.options.run,
                customers=CUSTOMERS,
                longest_answer=trace.longest_answer,
                row_limit=self.options.row_limit,
            ),
            name,
            self.options.concurrency,
        )
        return Replayed(name, report, add_up(trace.path, self.options.row_limit))

    async def _replay_poor(self) -> Report:
        """One row after the other: the first fits, what is left then fits no longer."""
        trace = next(iter(self.traces.values()))
        plan = Plan(
            trace=trace,
            run=f"{self.options.run}-poor",
            customers=[POOR],
            longest_answer=trace.longest_answer,
            row_limit=POOR_ROWS,
        )
        return await self._send(plan, POOR, concurrency=1)

    async def _send(self, plan: Plan, label: str, concurrency: int) -> Report:
        with Progress(plan.row_count, f"replay {label}", "rows") as progress:
            return await replay(
                plan,
                url=self.sandbox.url,
                api_key=self.sandbox.api_key,
                concurrency=concurrency,
                on_row=progress.step,
            )

    # Seeding

    async def _seed(self) -> None:
        """Customers with promotional credits that run out, and paid ones for all the rest."""
        limit = self.options.row_limit
        worst = used = 0
        for trace in self.traces.values():
            sums = add_up(trace.path, limit)
            used += sums.used
            worst += sums.context + sums.rows * trace.longest_answer
        # Twice the average of the worst case: rows differ, and so do the sums of the customers.
        paid = _round_up(2 * worst // len(CUSTOMERS) + self._row_max(), 1_000)
        promotional = _round_up(used // len(CUSTOMERS) // 10, 100)
        await asyncio.gather(
            *(self._seed_customer(customer, promotional, paid) for customer in CUSTOMERS)
        )
        first = add_up(next(iter(self.traces.values())).path, 1)
        poor = first.context + next(iter(self.traces.values())).longest_answer
        await self._put_customer(POOR)
        await self._grant(POOR, "promotional", poor)
        self.say(
            f"customers  {len(CUSTOMERS)}, each with {promotional:,} promotional credits and"
            f" {paid:,} paid ones for USD {_price(paid)}; and {POOR} with {poor:,}"
        )

    def _row_max(self) -> int:
        """More than any row reserves."""
        return max(trace.context + trace.longest_answer for trace in self.traces.values())
