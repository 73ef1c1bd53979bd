"""What commands print: results on stdout, progress on stderr.

Rules:
    * A result is JSON (``--json``) or text for people, never a mixture. JSON knows no NaN: it is null.
    * Progress is a bar with rate and ETA on a terminal, and one plain line every few seconds otherwise;
      what is done in less than two seconds shows none.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import click
from tqdm import tqdm

__all__ = ["Progress", "emit", "json_option", "progress", "table"]

PLAIN_INTERVAL = 5.0  # seconds between two plain progress lines
BAR_DELAY = 2.0  # seconds before a bar appears

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
"""Adds the parameter ``as_json: bool`` to a command."""


def emit(value: Any, *, as_json: bool, text: str | Callable[[], str]) -> None:
    """Print *value* as JSON to stdout, or *text* (called if it is a function) if not *as_json*."""
    if as_json:
        click.echo(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False, default=str))
    else:
        click.echo(text if isinstance(text, str) else text())


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an aligned plain-text table; numbers are flush right."""
    originals = [list(row) for row in rows]
    cells = [[" ".join(str(cell).split()) for cell in row] for row in originals]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    numeric = [bool(originals) and all(map(_is_number, column)) for column in zip(*originals, strict=True)]
    numeric = numeric or [False] * len(headers)

    def line(row: Sequence[str]) -> str:
        aligned = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric, strict=True))
        return "  ".join(aligned).rstrip()

    return "\n".join([line(headers), line(["-" * width for width in widths]), *map(line, cells)])


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


class Progress(Protocol):
    """A running display of how far the work is."""

    def advance(self, n: int = 1, **figures: object) -> None:
        """Count *n* more units done, and show *figures* beside."""


class _Bar:
    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar

    def advance(self, n: int = 1, **figures: object) -> None:
        if figures:
            self._bar.set_postfix(figures, refresh=False)
        self._bar.update(n)


class _Lines:
    def __init__(self, total: int | None, label: str, unit: str) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._done, self._started = 0, time.monotonic()
        self._next = self._started + PLAIN_INTERVAL

    def advance(self, n: int = 1, **figures: object) -> None:
        self._done += n
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + PLAIN_INTERVAL
        rate = self._done / max(now - self._started, 1e-9)
        of = f"/{self._total}" if self._total is not None else ""
        left = f", {(self._total - self._done) / rate:.0f} s left" if self._total is not None and rate > 0 else ""
        extra = "".join(f", {name} {value}" for name, value in figures.items())
        click.echo(f"{self._label}: {self._done}{of} {self._unit}, {rate:.1f} {self._unit}/s{left}{extra}", err=True)


@contextmanager
def progress(total: int | None, label: str, unit: str) -> Iterator[Progress]:
    """Show progress towards *total* (``None``: unknown) *unit*s of work called *label*, on stderr."""
    if sys.stderr.isatty():
        with tqdm(
            total=total, desc=label, unit=f" {unit}", dynamic_ncols=True, file=sys.stderr, delay=BAR_DELAY
        ) as bar:
            yield _Bar(bar)
    else:
        yield _Lines(total, label, unit)
