"""The suite finds bugs: each of those made by hand is caught by the few tests it names."""

from pathlib import Path

import pytest

from tests.mutants import KILLERS_MAX, MUTANTS, Mutant, place_of, run

PAGE = Path(__file__).parents[2] / "docs" / "internals" / "testing.md"
COUNT_MIN = 15


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_has_its_place_and_few_killers(mutant: Mutant) -> None:
    place_of(mutant)
    assert 1 <= len(mutant.killers) <= KILLERS_MAX
    assert f"| {mutant.name} |" in PAGE.read_text()


def test_every_mutant_is_caught() -> None:
    assert len(MUTANTS) >= COUNT_MIN
    alive = [verdict for verdict in run(MUTANTS) if not verdict.is_caught]
    assert not alive, "\n".join(f"{one.mutant.name}:\n{one.output[-2_000:]}" for one in alive)
