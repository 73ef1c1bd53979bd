"""How fast a model is here: execution providers x batches x threads x variants.

Rules:
    * Every cell is measured in a process of its own, one after the other, on random pictures.
    * A cell that cannot run says why, and the others go on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from controller.lifecycle.look.cell import Cell, Figures
from controller.lifecycle.look.target import Target
from runtime.errors import UsageError
from runtime.providers.explain import last_error
from runtime.terminal import progress, table

__all__ = ["Row", "as_table", "benchmark", "draw"]

START = 600.0  # seconds that a session may take to be built, on a provider that compiles
HEADERS = ("variant", "provider", "batch", "threads", "p50 ms", "p90 ms", "p99 ms", "images/s", "first ms", "MB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One cell and what came of it: figures, or why there are none."""

    target: str
    variant: str
    provider: str
    batch: int
    threads: int
    figures: Figures | None
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as one flat JSON object."""
        found = asdict(self)
        return {**found, **(found.pop("figures") or {})}


def benchmark(
    targets: Sequence[Target],
    *,
    providers: Sequence[str],
    batches: Sequence[int],
    threads: Sequence[int],
    seconds: float,
) -> list[Row]:
    """Measure every combination.

    Args:
        targets: Graphs.
        providers: References of execution providers.
        batches: Pictures in a run.
        threads: Within an operator; 0: one a core.
        seconds: For the runs of each cell.

    Raises:
        UsageError: A number is out of range.
    """
    for what, numbers, least in (("--batch", batches, 1), ("--threads", threads, 0)):
        if wrong := [number for number in numbers if number < least]:
            raise UsageError(f"{what} is {wrong[0]}; expected {least} or more")
    if not seconds > 0:
        raise UsageError(f"--seconds is {seconds:g}; expected more than 0")
    cells = list(product(targets, providers, batches, threads))
    with progress(len(cells), "measuring", "cells") as bar:
        rows = []
        for target, provider, batch, count in cells:
            rows.append(_measured(target, provider, batch, count, seconds))
            bar.advance(variant=target.variant or target.name, provider=provider, batch=batch)
        return rows


def _measured(target: Target, provider: str, batch: int, threads: int, seconds: float) -> Row:
    cell = Cell(
        path=str(target.path),
        provider=provider,
        batch=batch,
        threads=threads,
        seconds=seconds,
        custom_ops=tuple(one.model_dump() for one in target.custom_ops),
    )
    figures, problem = _in_a_process(cell)
    return Row(
        target=target.name,
        variant=target.variant,
        provider=provider,
        batch=batch,
        threads=threads,
        figures=figures,
        problem=problem,
    )


def _in_a_process(cell: Cell) -> tuple[Figures | None, str | None]:
    command = [sys.executable, "-P", "-m", "controller.lifecycle.look.cell", json.dumps(asdict(cell))]
    limit = START + 10 * cell.seconds
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return None, f"it took more than {limit:g} seconds"
    if done.returncode:
        return None, f"the process ended with {done.returncode}: {last_error(done.stderr)}"
    answer = json.loads(done.stdout)
    return (None, answer["error"]) if "error" in answer else (Figures(**answer), None)


def as_table(rows: Sequence[Row]) -> str:
    """Return *rows* for people: the figures as a table, and below it what was not measured, each reason once."""
    measured = [_cells(row, row.figures) for row in rows if row.figures is not None]
    problems = dict.fromkeys(f"not measured on {row.provider}: {row.problem}" for row in rows if row.problem)
    return "\n\n".join([*[table(HEADERS, measured)][: len(measured)], *problems])


def _cells(row: Row, found: Figures) -> tuple[object, ...]:
    times = [f"{value:.2f}" for value in (found.p50_ms, found.p90_ms, found.p99_ms)]
    memory = "-" if found.memory_mb is None else f"{found.memory_mb:.0f}"
    speed = f"{found.images_per_second:.1f}"
    where = (row.variant or row.target, row.provider, found.batch, row.threads)
    return (*where, *times, speed, f"{found.first_ms:.1f}", memory)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG to *path*: pictures a second by batch, a line for each variant, provider and number of threads.

    Raises:
        UsageError: Nothing was measured, or matplotlib is not installed.
    """
    lines = dict(_lines(rows))
    if not lines:
        raise UsageError("nothing was measured that could be drawn")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("a plot needs matplotlib: pip install 'vedette[train]'") from None
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    figure.suptitle(", ".join(dict.fromkeys(row.target for row in rows)))
    speed, latency = figure.subplots(1, 2)
    measured = sorted({one.batch for found in lines.values() for one in found})
    for name, found in lines.items():
        batches = [one.batch for one in found]
        speed.plot(batches, [one.images_per_second for one in found], marker="o", label=name)
        middle = [one.p50_ms for one in found]
        spread = [[0.0] * len(found), [one.p99_ms - one.p50_ms for one in found]]
        latency.errorbar(batches, middle, yerr=spread, marker="o", capsize=3, label=name)
    for axes, label in ((speed, "images/s"), (latency, "ms a run: median, whisker to the 99th percentile")):
        axes.set_xlabel("batch")
        axes.set_xscale("log", base=2)
        axes.set_xticks(measured, labels=list(map(str, measured)))
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path, dpi=120)


def _lines(rows: Sequence[Row]) -> Iterator[tuple[str, list[Figures]]]:
    lines: dict[str, list[Figures]] = {}
    for row in rows:
        if row.figures is not None:
            count = f"{row.threads} thread{'s' * (row.threads != 1)}" if row.threads else "a thread a core"
            lines.setdefault(f"{row.variant or row.target}, {row.provider}, {count}", []).append(row.figures)
    for name, found in lines.items():
        yield name, sorted(found, key=lambda one: one.batch)
