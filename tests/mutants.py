"""Bugs made by hand in the deciding and posting code, each with the few tests that must find it.

    python -m tests.mutants [NAME …]

A mutant is a piece of text that occurs once in our packages, and what stands there instead. It is
put into a copy of the tree, and only its killers run there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("drawdown", "jobs", "ledger", "meter", "sql")
KILLERS_MAX: Final = 3
PARALLEL: Final = 2
SECONDS_MAX: Final = 180

LAWS: Final = "tests/property/test_laws.py::test_"
CONCURRENCY: Final = "tests/integration/test_concurrency.py::test_"
CONFLICTS: Final = "tests/integration/test_conflicts.py::test_"
MACHINE: Final = (
    "tests/property/test_machine.py::test_random_requests_on_the_database_equal_model_and_oracle"
)
PRICES: Final = "tests/property/test_prices.py::test_"
CHARGING: Final = "tests/unit/test_charging.py::test_"
INVARIANTS: Final = f"{LAWS}any_history_keeps_every_invariant_after_every_decision"


def scenario(*names: str) -> tuple[str, ...]:
    """The played scenarios of these numbers."""
    test = "tests/unit/test_scenarios.py::test_scenario_played_against_decide_gives_its_numbers"
    return tuple(f"{test}[S-{name}]" for name in names)


@dataclass(frozen=True)
class Mutant:
    """One bug: `old` → `new`. `killers`: at most three tests, any of which finds it."""

    name: str
    old: str
    new: str
    killers: tuple[str, ...]


MUTANTS: Final = (
    Mutant(
        "a charge posts its sides swapped",
        '                "wallet",\n                "burned",\n                amount,',
        '                "burned",\n                "wallet",\n                amount,',
        (*scenario("01"), INVARIANTS),
    ),
    Mutant(
        "what falls due now is left for later",
        "if at is not None and at <= self.now:",
        "if at is not None and at < self.now:",
        (*scenario("10"), f"{LAWS}hold_ends_exactly_at_its_deadline"),
    ),
    Mutant(
        "a lot lives through its last instant",
        "self.expires_at is not None and self.expires_at <= now",
        "self.expires_at is not None and self.expires_at < now",
        (f"{LAWS}credit_that_returns_at_the_end_of_its_lot_leaves_with_it",),
    ),
    Mutant(
        "time is not settled first",
        "    settle(books, settings, now)\n    if books.is_unsettled:",
        "    if books.is_unsettled:",
        (*scenario("36"), f"{LAWS}settling_early_or_late_gives_the_same_books"),
    ),
    Mutant(
        "a debt is forgotten",
        "        if self.owed:\n            debt = Debt(",
        "        if self.owed > 10**6:\n            debt = Debt(",
        (INVARIANTS,),
    ),
    Mutant(
        "the newest debt is repaid first",
        "debt = min(open_debts, key=",
        "debt = max(open_debts, key=",
        (*scenario("26"), MACHINE),
    ),
    Mutant(
        "a key answers for any request",
        "if seen.fingerprint != request.fingerprint:",
        "if seen.fingerprint == b'':",
        (*scenario("34"), f"{LAWS}replay_returns_the_first_answer_and_changes_nothing"),
    ),
    Mutant(
        "a key is not remembered within its batch",
        "books.answered[key] = Answered(request.fingerprint,",
        "_ = Answered(request.fingerprint,",
        (*scenario("35"), f"{LAWS}replay_returns_the_first_answer_and_changes_nothing"),
    ),
    Mutant(
        "paid credit burns before promotional",
        '            self.category == "paid",\n            self.effective_at,',
        '            self.category != "paid",\n            self.effective_at,',
        (*scenario("13"), MACHINE),
    ),
    Mutant(
        "a capture may exceed its hold",
        'if amount > remaining and request.above_hold == "deny":',
        "if amount > remaining and not request.final:",
        (*scenario("12"), f"{LAWS}capture_with_deny_never_exceeds_its_hold"),
    ),
    Mutant(
        "held credit is available",
        "        return self.wallet - self.pending\n",
        "        return self.wallet\n",
        (*scenario("02"), INVARIANTS),
    ),
    Mutant(
        "an ended hold stays in pending",
        "lot.pinned -= amount\n        account.pending -= amount",
        "lot.pinned -= amount",
        (f"{LAWS}reserve_then_void_changes_nothing", INVARIANTS),
    ),
    Mutant(
        "a minimum must be exceeded",
        "        if amount < least:",
        "        if amount <= least:",
        (*scenario("07"), MACHINE),
    ),
    Mutant(
        "promises of open holds do not count against the limit",
        "books.limit - taken - used - held + released",
        "books.limit - taken - used + released",
        (*scenario("29", "30"), MACHINE),
    ),
    Mutant(
        "a reversal gives back to the first lot first",
        "for draw in reversed(draws):",
        "for draw in draws:",
        scenario("33"),
    ),
    Mutant(
        "a charge can be reversed twice",
        "    charge.reversed += amount\n",
        "    charge.reversed += 0\n",
        (*scenario("33"), f"{LAWS}reversal_restores_the_lots_it_came_from"),
    ),
    Mutant(
        "pinned credit rolls over too",
        "min(most, lot.unpinned)",
        "min(most, lot.remaining)",
        (*scenario("23"), INVARIANTS),
    ),
    Mutant(
        "usage may be one day too late",
        "LATE_MAX: Final = timedelta(days=35)",
        "LATE_MAX: Final = timedelta(days=36)",
        scenario("32"),
    ),
    Mutant(
        "the chain loses its links",
        "    journal.prev_hash = books.last_hash\n",
        "    journal.prev_hash = bytes(32)\n",
        (INVARIANTS,),
    ),
    Mutant(
        "two journals have one time",
        "created_at = books.last_created_at + MICROSECOND",
        "created_at = books.last_created_at",
        (INVARIANTS,),
    ),
    Mutant(
        "drawing stops where loading did",
        "    if total < amount and horizon is not None:\n        raise NeedMore(books.customer_no)",
        "    if total < amount and horizon is None:\n        raise NeedMore(books.customer_no)",
        (MACHINE,),
    ),
    Mutant(
        "pending is not written",
        "pending = account.pending - account.pending_before",
        "pending = 0",
        (f"{CONCURRENCY}twenty_twins_in_one_process_are_one_effect",),
    ),
    Mutant(
        "answers are not kept",
        "if request.key is not None and outcome.is_remembered and not outcome.is_replayed:",
        "if request.key is not None and outcome.is_replayed:",
        (
            f"{CONCURRENCY}twenty_twins_in_one_process_are_one_effect",
            f"{CONFLICTS}commit_whose_answer_is_lost_is_found_by_its_keys",
        ),
    ),
    Mutant(
        "customers are not locked",
        "\nFOR NO KEY UPDATE SKIP LOCKED;",
        ";",
        ("tests/integration/test_linearizability.py::test_every_history_is_linearizable",),
    ),
    Mutant(
        "a commit whose answer is lost counts as not written",
        'return OutcomeUnknown(f"the connection was lost while committing: {error}")',
        'return DatabaseUnavailable(f"the connection was lost while committing: {error}")',
        (f"{CONFLICTS}commit_whose_answer_is_lost_is_found_by_its_keys",),
    ),
    Mutant(
        "one retry less",
        "RETRIES_MAX: Final = 5",
        "RETRIES_MAX: Final = 4",
        (f"{CONFLICTS}conflict_without_end_is_a_503_after_bounded_retries[40001]",),
    ),
    Mutant(
        "an allowance is not free",
        "counted = max(0, total - rate.allowance)",
        "counted = total",
        (f"{PRICES}price_is_the_naive_price",),
    ),
    Mutant(
        "a period is a period of UTC",
        "local = at.astimezone(zone)\n    first",
        "local = at.astimezone(UTC)\n    first",
        (f"{PRICES}periods_cover_time_without_gaps_and_hold_one_calendar_day_or_month",),
    ),
    Mutant(
        "the first rate that is written wins",
        "meter: tuple(sorted(rates, key=lambda rate: -rate.weight)) for",
        "meter: tuple(rates) for",
        (f"{PRICES}narrowest_rate_wins_or_the_card_is_refused",),
    ),
    Mutant(
        "a request takes and gives back on one counter",
        "    return tuple(settled)\n",
        "    return tuple(lines)\n",
        (f"{CHARGING}cheaper_tier_reached_in_two_items_costs_what_it_costs_in_one",),
    ),
    Mutant(
        "a carry is forgotten",
        "if before.quantity else 0)\n            - before.carry",
        "if before.quantity else 0)",
        (f"{CHARGING}carry_comes_off_the_next_line",),
    ),
    Mutant(
        "a hold is priced by the version of the day",
        "        if pinned is not None:\n            return self.catalog.card(pinned)\n",
        "",
        (f"{CHARGING}pinned_version_goes_before_everything",),
    ),
    Mutant(
        "a cheaper tier gives back to its first charges",
        "usage.charges[key].insert(0, seq)",
        "usage.charges[key].append(seq)",
        (
            "tests/e2e/test_prices.py::test_cheaper_tier_gives_back_on_the_latest_charge_of_its_batch",
        ),
    ),
)


@dataclass(frozen=True)
class Verdict:
    """`is_caught`: a killer failed. `output`: what they said."""

    mutant: Mutant
    is_caught: bool
    output: str


def place_of(mutant: Mutant, root: Path = ROOT) -> Path:
    """The one file with the text of a mutant. Raises ValueError if it is not exactly once there."""
    found = [
        (path, text.count(mutant.old))
        for package in PACKAGES
        for path in sorted((root / package).rglob("*"))
        if path.suffix in {".py", ".sql"} and "migrations" not in path.parts
        if mutant.old in (text := path.read_text())
    ]
    if [count for _, count in found] != [1]:
        raise ValueError(f"{mutant.name!r}: its text is not once in our packages: {found}")
    return found[0][0]


def run(mutants: Sequence[Mutant]) -> list[Verdict]:
    """Put each bug into a copy of the tree and run its killers, two copies at a time.

    Raises RuntimeError if a killer fails without any bug: then its failing tells nothing.
    """
    with tempfile.TemporaryDirectory(prefix="drawdown-mutants-") as folder:
        killers = sorted({killer for mutant in mutants for killer in mutant.killers})
        healthy = _copy(Path(folder) / "healthy")
        with ThreadPoolExecutor(PARALLEL) as pool:
            halves = [pool.submit(_pytest, healthy, half) for half in (killers[::2], killers[1::2])]
            for half in halves:
                if half.result().returncode != 0:
                    raise RuntimeError(f"killers fail without a bug:\n{half.result().stdout}")
            tried = [
                pool.submit(_try, mutant, Path(folder) / str(number))
                for number, mutant in enumerate(mutants)
            ]
            return [one.result() for one in tried]


def _try(mutant: Mutant, folder: Path) -> Verdict:
    place = place_of(mutant)
    copy = _copy(folder) / place.relative_to(ROOT)
    copy.write_text(copy.read_text().replace(mutant.old, mutant.new))
    done = _pytest(folder, mutant.killers)
    shutil.rmtree(folder)
    # 1: tests failed. Anything else (nothing collected, a broken file) has caught nothing.
    return Verdict(mutant, done.returncode == 1, done.stdout)


def _copy(folder: Path) -> Path:
    # With times and compiled files: what is unchanged need not be compiled again.
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def _pytest(folder: Path, tests: Iterable[str]) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "DD_MUTANT": "1",
        # The copy comes before the tree that is installed.
        "PYTHONPATH": str(folder),
    }
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-x", "-q", "--tb=short"),
            *("-p", "no:schemathesis", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *tests,
        ],
        cwd=folder,
        env=environment,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_MAX,
    )


def main() -> int:
    """Run those named on the command line, or all; one line each."""
    wanted = [m for m in MUTANTS if not sys.argv[1:] or m.name in sys.argv[1:]]
    verdicts = run(wanted)
    for verdict in verdicts:
        told = "caught " if verdict.is_caught else "ALIVE  "
        sys.stdout.write(f"{told} {verdict.mutant.name}\n")
        if not verdict.is_caught:
            sys.stdout.write(f"{verdict.output[-2_000:]}\n")
    return 0 if all(verdict.is_caught for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
