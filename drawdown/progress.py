"""How far a long work is: a bar on a terminal, else a plain line now and then. On stderr."""

import sys
from time import monotonic
from typing import Final, Self

import click

SECONDS_BETWEEN_LINES: Final = 5.0
STEPS_PER_DRAW: Final = 50
"""Drawing the bar costs more than a step of most works."""


class Progress:
    """A work of `length` steps; `step` after each of them."""

    def __init__(self, length: int, label: str, unit: str) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._bar = click.progressbar(length=length, label=label, file=sys.stderr, show_pos=True)
        self._length, self._label, self._unit = length, label, unit
        self._done = self._undrawn = 0
        self._told_at = monotonic()

    def __enter__(self) -> Self:
        if self._is_terminal:
            self._bar.render_progress()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            self._bar.update(self._undrawn)
            self._bar.render_finish()

    def step(self) -> None:
        """One step is done."""
        self._done += 1
        if self._is_terminal:
            self._undrawn += 1
            if self._undrawn == STEPS_PER_DRAW:
                self._bar.update(self._undrawn)
                self._undrawn = 0
        elif (now := monotonic()) - self._told_at >= SECONDS_BETWEEN_LINES:
            self._told_at = now
            click.echo(f"{self._label}: {self._done:,} of {self._length:,} {self._unit}", err=True)
