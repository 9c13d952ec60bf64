"""Every block of `scenarios.md`, played against `decide` with its own times."""

import pytest

from tests.scenarios.model import Model
from tests.scenarios.parse import Scenario, load


@pytest.mark.parametrize("scenario", load(), ids=lambda scenario: scenario.name)
def test_scenario_played_against_decide_gives_its_numbers(scenario: Scenario) -> None:
    model = Model()
    for line in scenario.lines:
        answer, balance, postings = model.play(line)
        if answer.startswith("422") and line.answer == "422":
            answer = "422"
        assert answer == line.answer, line.text
        assert balance == line.balance, line.text
        if line.postings:
            assert postings == line.postings, line.text


def test_scenarios_file_has_all_its_blocks() -> None:
    assert len(load()) == 36
