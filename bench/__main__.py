"""`python -m bench [NAME …]`: measure, compare with the targets, print one table.

Every ratio compares things run in turn on the same machine in the same minutes. A target is met
when the median of the runs reaches it and no run falls under 0.85 of it.
"""

import argparse
import asyncio
import os
import platform
import sys
from collections.abc import Awaitable, Callable

from bench import direct, events, export, http, latency, priced, reports
from bench.gate import Gate
from bench.place import Place, place

Measure = Callable[[Place, int, int], Awaitable[list[Gate]]]

MEASURES: dict[str, Measure] = {
    "http": http.measure,
    "bulk": direct.measure,
    "idle": latency.idle,
    "open": latency.open_loop,
    "history": latency.history,
    "wal": direct.wal,
    "events": events.intake,
    "priced": priced.measure,
    "usage": events.usage,
    "reports": reports.prepared,
    "export": export.measure,
}


async def run(names: list[str], runs: int, seconds: int) -> bool:
    gates: list[Gate] = []
    for name in names:
        async with place() as here:
            print(f"# {name} (PostgreSQL {here.version})", flush=True)  # noqa: T201
            for gate in await MEASURES[name](here, runs, seconds):
                gates.append(gate)
                print(gate.line(), flush=True)  # noqa: T201
    return all(gate.is_met for gate in gates)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help=", ".join(MEASURES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    wanted = parser.parse_args()
    names = wanted.names or list(MEASURES)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    print(  # noqa: T201
        f"{os.cpu_count()} cores, {memory} GiB, Python {platform.python_version()}; "
        f"{wanted.runs} runs of {wanted.seconds} s, in turn",
        flush=True,
    )
    sys.exit(0 if asyncio.run(run(names, wanted.runs, wanted.seconds)) else 1)


if __name__ == "__main__":
    main()
