"""The demo: a service of its own, seeded customers, two traces, a report, a proof."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
from msgspec import Struct

from drawdown.demo_report import (
    INPUT_PRICE,
    OUTPUT_PRICE,
    Burned,
    Replayed,
    Statement,
    Used,
    add_up,
    burned_line,
    differences,
    refused,
    statement_lines,
    table,
    uncounted,
    usage_lines,
)
from drawdown.demo_sale import Sale
from drawdown.progress import Progress
from drawdown.replay import INPUT_METER, OUTPUT_METER, Plan, Report, open_session, replay
from drawdown.sandbox_process import Sandbox, open_sandbox, run_command
from drawdown.traces import Trace, read_rows, survey

T = TypeVar("T")

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
CREDITS_PER_CENT: Final = 1_000
ANSWER_SECONDS_MAX: Final = 30
STATEMENT_LINES: Final = 6

RATE_CARD: Final = "demo"
METERS: Final = (INPUT_METER, OUTPUT_METER)

Say = Callable[[str], object]
UsedTokens = Counter[tuple[str, str, int]]
"""Tokens by model, day and meter (its place in METERS)."""


class DemoError(Exception):
    """The demo can't go on. The message is one line."""


class Options(Struct, frozen=True, kw_only=True):
    """What the demo is asked for."""

    run: str
    data: Path
    port: int
    """0: a free one."""
    traces: Path
    concurrency: int
    row_limit: int | None = None


class _Grant(Struct, frozen=True):
    """What we read of a grant."""

    category: str
    amount: Decimal
    remaining: Decimal
    created_at: str


class _Grants(Struct, frozen=True):
    data: list[_Grant]
    next_cursor: str | None


class _Group(Struct, frozen=True):
    dimensions: dict[str, str | None]
    value: Decimal | None


class _Window(Struct, frozen=True, rename={"from_": "from"}):
    """What we read of a window of usage."""

    from_: str
    groups: list[_Group] = []


class _Usage(Struct, frozen=True):
    windows: list[_Window]


def find_traces(named: str | None) -> Path:
    """The folder of the two traces: `named`, else beside the clone, else the samples.

    Raises DemoError if `named` lacks one of them.
    """
    if named is not None:
        if missing := [name for name in FILES.values() if not (Path(named) / name).is_file()]:
            raise DemoError(f"the folder {named} has no {' and no '.join(missing)}")
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
    async with open_sandbox(options.data, options.port) as process:
        say(
            f"service    {process.sandbox.url}, on its own PostgreSQL, ready after"
            f" {clock() - began:.1f} s"
        )
        is_good = await process.during(_Demo(options, process.sandbox, traces, say).run())
    verdict = "done" if is_good else "FAILED"
    say(f"{verdict:<11}in {clock() - began:.1f} s; the service is stopped")
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
            started_at = await self._seed()
            before, poor_before = await self._burned(CUSTOMERS), await self._burned([POOR])
            counted = await self._used(started_at)
            replayed = [await self._replay(name) for name in self.traces]
            poor = await self._replay_poor()
            burned = await self._burned(CUSTOMERS) - before
            poor_burned = await self._burned([POOR]) - poor_before
            wrong = self._tell_sums(replayed, burned) + self._tell_poor(poor, poor_burned)
            wrong += self._tell_usage(replayed, await self._used(started_at) - counted)
            await self._tell_statement(CUSTOMERS[0], started_at)
            wrong += await self._sell()
        return await self._verify() and not wrong

    # Seeding

    async def _seed(self) -> str:
        """Make the customers and their lots. Returns the service's time before the first one."""
        promotional, paid = self._needs()
        poor = self._poor_amount()
        await self._price()
        await asyncio.gather(*(self._put_customer(name) for name in (*CUSTOMERS, POOR)))
        grants = [(name, promotional, paid) for name in CUSTOMERS]
        made = await asyncio.gather(*(self._fund(*grant) for grant in grants))
        await self._fund(POOR, poor, 0)
        self.say(
            f"customers  {len(CUSTOMERS)}, each with {promotional:,} promotional credits and"
            f" {paid:,} paid ones (USD {_price(paid)}); {POOR} with {poor:,}"
        )
        return made[0]

    async def _price(self) -> None:
        """Two meters of tokens by model, and a rate card that prices them."""
        for meter in METERS:
            body = {
                "event_type": "llm.usage",
                "aggregation": "sum",
                "value_property": meter,
                "group_by": {"model": "model"},
                "unit": "token",
                "charge": "calls",
            }
            await self._call("PUT", f"/v1/meters/{meter}", body, (200, 201))
        found = msgspec.json.decode(await self._call("GET", f"/v1/rate-cards?key={RATE_CARD}"))
        if not found["data"]:
            prices = zip(METERS, (INPUT_PRICE, OUTPUT_PRICE), strict=True)
            rates = [{"meter": meter, "unit_price": str(price)} for meter, price in prices]
            body = {"key": RATE_CARD, "rates": rates}
            await self._call("POST", "/v1/rate-cards", body, (201,), f"{self.options.run}/prices")
        self.say(
            f"prices     rate card {RATE_CARD}: {INPUT_PRICE} credit a token of context,"
            f" {OUTPUT_PRICE} a token generated"
        )

    def _needs(self) -> tuple[int, int]:
        """Credits for each customer: promotional ones that run out, paid ones for all the rest.

        A customer may have all its rows under way at once, each with its worst case reserved.
        """
        worst: Counter[int] = Counter()
        used = 0
        for trace in self.traces.values():
            for row in read_rows(trace.path):
                if self.options.row_limit is not None and row.number > self.options.row_limit:
                    break
                worst[row.number % len(CUSTOMERS)] += _cost(row.context, trace.longest_answer)
                used += _cost(row.context, row.generated)
        promotional = _round_up(used // len(CUSTOMERS) // 5, 100)
        return promotional, _round_up(max(worst.values()), CREDITS_PER_CENT * 100)

    def _poor_amount(self) -> int:
        """Enough to reserve the first row, and less than all of them will use."""
        trace = next(iter(self.traces.values()))
        return _cost(next(read_rows(trace.path)).context, trace.longest_answer)

    async def _put_customer(self, name: str) -> None:
        body = {"name": name, "rate_card": RATE_CARD}
        await self._call("PUT", f"/v1/customers/{name}", body, (200, 201))

    async def _fund(self, customer: str, promotional: int, paid: int) -> str:
        """Give one customer its lots. Returns when the first one was made."""
        body: dict[str, Any] = {
            "customer_id": customer,
            "amount": str(promotional),
            "category": "promotional",
            "reason": "demo",
        }
        first = await self._grant(body)
        if paid:
            cost = {"amount": _price(paid), "currency": "USD"}
            await self._grant(
                {**body, "amount": str(paid), "category": "paid", "cost": cost},
            )
        return first.created_at

    async def _grant(self, body: dict[str, Any]) -> _Grant:
        key = f"{self.options.run}/grant/{body['customer_id']}/{body['category']}"
        made = await self._call("POST", "/v1/grants", body, (201,), key)
        return msgspec.json.decode(made, type=_Grant)

    # Replaying

    async def _replay(self, name: str) -> Replayed:
        trace, limit = self.traces[name], self.options.row_limit
        report = await self._send(trace, name, self.options.run, CUSTOMERS, limit)
        return Replayed(name, report, add_up(trace.path, limit))

    async def _replay_poor(self) -> Report:
        trace = next(iter(self.traces.values()))
        run = f"{self.options.run}-poor"
        # One row after the other: the first fits, and of the others only what is left allows.
        return await self._send(trace, POOR, run, [POOR], POOR_ROWS, concurrency=1)

    async def _send(
        self,
        trace: Trace,
        label: str,
        run: str,
        customers: Sequence[str],
        row_limit: int | None,
        concurrency: int | None = None,
    ) -> Report:
        plan = Plan(
            trace=trace,
            run=run,
            customers=customers,
            model=label,
            longest_answer=trace.longest_answer,
            row_limit=row_limit,
        )
        with Progress(plan.row_count, f"replay {label}", "rows") as progress:
            return await replay(
                plan,
                url=self.sandbox.url,
                api_key=self.sandbox.api_key,
                concurrency=concurrency or self.options.concurrency,
                on_row=progress.step,
            )

    # Reading the books

    async def _burned(self, customers: Sequence[str]) -> Burned:
        """What has left the lots of these customers so far, by category."""
        total: Burned = Counter()
        for burned in await asyncio.gather(*map(self._burned_by, customers)):
            total.update(burned)
        return total

    async def _burned_by(self, customer: str) -> Burned:
        burned: Burned = Counter()
        query = {"customer_id": customer, "limit": "100"}
        while True:
            body = await self._call("GET", f"/v1/grants?{urlencode(query)}")
            page = msgspec.json.decode(body, type=_Grants)
            for grant in page.data:
                burned[grant.category] += int(grant.amount - grant.remaining)
            if page.next_cursor is None:
                return burned
            query["cursor"] = page.next_cursor

    async def _used(self, since: str) -> UsedTokens:
        """What the meters count of all customers from the day of `since` on."""
        total: UsedTokens = Counter()
        for used in await asyncio.gather(*(self._used_by(name, since) for name in CUSTOMERS)):
            total.update(used)
        return total

    async def _used_by(self, customer: str, since: str) -> UsedTokens:
        day = datetime.fromisoformat(since).replace(hour=0, minute=0, second=0, microsecond=0)
        used: UsedTokens = Counter()
        for place, meter in enumerate(METERS):
            query = urlencode(
                {
                    "customer_id": customer,
                    "from": day.isoformat(),
                    "to": (day + timedelta(days=2)).isoformat(),
                    "window": "day",
                    "time_zone": "UTC",
                    "group_by": "model",
                }
            )
            body = await self._call("GET", f"/v1/meters/{meter}/usage?{query}")
            for window in msgspec.json.decode(body, type=_Usage).windows:
                for group in window.groups:
                    model = group.dimensions["model"] or ""
                    used[model, window.from_[:10], place] += int(group.value or 0)
        return used

    def _tell_usage(self, replayed: Sequence[Replayed], counted: UsedTokens) -> list[str]:
        keys = sorted({(model, day) for model, day, _ in counted if model in self.traces})
        used = [Used(*key, counted[(*key, 0)], counted[(*key, 1)]) for key in keys]
        self.say("")
        for line in usage_lines(used):
            self.say(line)
        wrong = uncounted(replayed, used)
        for line in wrong:
            self.say(f"DIFFERENT  {line}")
        return wrong

    async def _call(
        self,
        method: str,
        path: str,
        body: object = None,
        good: Sequence[int] = (200,),
        key: str | None = None,
    ) -> bytes:
        """One request that must succeed. Raises DemoError."""
        headers = {} if key is None else {"Idempotency-Key": key}
        data = None if body is None else msgspec.json.encode(body)
        async with self.session.request(
            method, self.sandbox.url + path, data=data, headers=headers
        ) as response:
            text = await response.read()
            if response.status not in good:
                raise DemoError(
                    f"{method} {path}: {response.status} {text.decode(errors='replace')}"
                )
            return text

    # Telling

    def _tell_sums(self, replayed: Sequence[Replayed], burned: Burned) -> list[str]:
        self.say("")
        for line in table(replayed):
            self.say(line)
        self.say("")
        self.say(f"burned     {burned_line(burned)}, by the lots' remainders")
        wrong = differences(replayed, burned)
        for line in wrong:
            self.say(f"DIFFERENT  {line}")
        if not wrong:
            self.say("equal      what was captured, what left the lots, and the sum over the rows")
        return wrong

    def _tell_poor(self, report: Report, burned: Burned) -> list[str]:
        self.say(
            f"{POOR}  {report.rows} rows: {report.accepted} accepted,"
            f" {refused(report)} refused (402); burned {burned_line(burned)}"
        )
        if report.captured == sum(burned.values()):
            return []
        wrong = f"{POOR}: captured {report.captured:,f}, the lots lost {sum(burned.values()):,}"
        self.say(f"DIFFERENT  {wrong}")
        return [wrong]

    async def _tell_statement(self, customer: str, since: str) -> None:
        query = urlencode({"from": since, "limit": STATEMENT_LINES})
        body = await self._call("GET", f"/v1/customers/{customer}/statement?{query}")
        self.say("")
        for line in statement_lines(customer, msgspec.json.decode(body, type=Statement)):
            self.say(line)

    async def _sell(self) -> list[str]:
        told, wrong = await Sale(self._call, self.session, self.sandbox, self.options.run).run()
        self.say("")
        for line in (*told, *(f"DIFFERENT  {line}" for line in wrong)):
            self.say(line)
        return wrong

    async def _verify(self) -> bool:
        """Prove the books beside the running service."""
        self.say("")
        code, told = await run_command("verify", "--data", str(self.options.data))
        for line in told.splitlines():
            self.say(f"verify     {line}")
        return code == 0


def _cost(context: int, generated: int) -> int:
    """Credits, by the demo's rate card."""
    return context * INPUT_PRICE + generated * OUTPUT_PRICE


def _round_up(value: int, step: int) -> int:
    """The next multiple of `step`, at least one."""
    return max(-(-value // step), 1) * step


def _price(credits: int) -> str:
    """In dollars."""
    return f"{Decimal(credits // CREDITS_PER_CENT) / 100:.2f}"
