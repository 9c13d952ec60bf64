"""How much the random tests try: a few seconds each, or as long as `--long` asks for."""

import os
import sys
from typing import Any, Final

from hypothesis import HealthCheck, Phase, settings

IS_LONG: Final = "--long" in sys.argv
IS_MUTANT: Final = "DD_MUTANT" in os.environ
"""Run on a copy of the service with a bug (`tests.mutants`): found is found, without shrinking,
and with the same examples every time."""


def size(usual: int, long: int) -> int:
    """The number of examples of this run."""
    return long if IS_LONG else usual


def tries(usual: int, long: int, **more: Any) -> settings:
    """Hypothesis's settings for so many examples. A failure prints how to play it again."""
    if IS_MUTANT:
        more |= {"phases": (Phase.generate,), "derandomize": True, "database": None}
    return settings(
        max_examples=size(usual, long),
        deadline=None,
        print_blob=True,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much),
        **more,
    )
