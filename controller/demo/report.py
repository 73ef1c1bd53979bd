"""What the demo saw: one line a step while it runs, one table at the end.

Rules:
    * A step holds or does not; a step that does not hold ends the demo with exit code 1.
    * Figures come from what commands, devices and batch outputs said, never from the script itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import click

from controller.errors import DemoError
from runtime.terminal import table

__all__ = ["Report", "Step", "check"]


@dataclass(slots=True)
class Step:
    """One thing that the demo did."""

    name: str
    held: bool = False
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)

    def note(self, **figures: Any) -> None:
        """Keep *figures* for the report."""
        self.figures.update(figures)

    @property
    def summary(self) -> str:
        """The figures on one line."""
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.figures.items())


def check(truth: bool, text: str) -> None:  # noqa: FBT001 - reads as a sentence: check(a == b, "why not")
    """Raise unless *truth*.

    Raises:
        DemoError: With *text*, which says what was found and what was expected.
    """
    if not truth:
        raise DemoError(text)


class Report:
    """The steps so far."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._started = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Do one step: print its name, time it, print what it found."""
        step = Step(name)
        self.steps.append(step)
        click.echo(f"[{len(self.steps)}] {name} ...", err=True)
        start = time.monotonic()
        try:
            yield step
            step.held = True
        finally:
            step.seconds = round(time.monotonic() - start, 1)
            click.echo(f"    {'held' if step.held else 'DID NOT HOLD'} in {step.seconds} s: {step.summary}", err=True)

    @property
    def seconds(self) -> float:
        """Seconds since the demo began."""
        return round(time.monotonic() - self._started, 1)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "held": all(step.held for step in self.steps),
            "seconds": self.seconds,
            "steps": [asdict(step) for step in self.steps],
        }

    def render(self) -> str:
        """Return the report as a table for people."""
        rows = [(step.name, "yes" if step.held else "NO", step.seconds) for step in self.steps]
        seen = [f"{step.name}\n    {step.summary}" for step in self.steps]
        return "\n\n".join([*seen, table(("step", "held", "seconds"), rows), f"{self.seconds} s in all"])
