"""One measurement in a process of its own: ``python -m controller.lifecycle.look.cell`` reads a `Cell` as JSON.

Rules:
    * A process measures one session: its memory is its own, and a provider that crashes takes nothing with it.
    * The first run is measured apart: engines are compiled and memory is allocated in it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from controller.lifecycle.look.target import noise
from runtime.errors import VedetteError
from runtime.manifest import CustomOps
from runtime.session import Session, SessionOptions

__all__ = ["Cell", "Figures", "measure"]

WARM_UPS = 5
LEAST_RUNS, MOST_RUNS = 10, 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What to measure.

    Attributes:
        path: Of the ONNX file.
        provider: Reference of the execution provider.
        batch: Pictures in a run.
        threads: Within an operator.
        seconds: That the runs may take in all.
        custom_ops: Libraries of operators, as the manifest's JSON.
    """

    path: str
    provider: str
    batch: int
    threads: int
    seconds: float
    custom_ops: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured: milliseconds of a run of the whole batch, pictures a second, MiB.

    Attributes:
        batch: Pictures in a run, as run: a graph of a fixed batch knows one size only.
        runs: That the percentiles are of.
        build_ms: Until the session was there.
        first_ms: Of the first run.
        p50_ms: Median.
        p90_ms: Of ten runs, nine are as fast.
        p99_ms: Of a hundred, ninety-nine.
        images_per_second: By the median.
        memory_mb: Most resident memory of the process; ``None`` where the system does not tell.
    """

    batch: int
    runs: int
    build_ms: float
    first_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    images_per_second: float
    memory_mb: float | None


def measure(cell: Cell) -> Figures:
    """Measure *cell* in this process.

    Raises:
        VedetteError: The session cannot be built, or does not run.
    """
    options = SessionOptions(intra_op_threads=cell.threads)
    began = time.perf_counter()
    operators = [CustomOps.model_validate(one) for one in cell.custom_ops]
    session = Session(Path(cell.path), cell.provider, options, custom_ops=operators)
    build = time.perf_counter() - began
    batch = noise(session, cell.batch)
    first = _seconds(session, batch)
    for _ in range(WARM_UPS):
        _seconds(session, batch)
    times: list[float] = []
    until = time.perf_counter() + cell.seconds
    while len(times) < LEAST_RUNS or (time.perf_counter() < until and len(times) < MOST_RUNS):
        times.append(_seconds(session, batch))
    p50, p90, p99 = (1000 * float(value) for value in np.percentile(times, [50, 90, 99]))
    return Figures(
        batch=len(batch),
        runs=len(times),
        build_ms=1000 * build,
        first_ms=1000 * first,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        images_per_second=1000 * len(batch) / p50,
        memory_mb=_peak_memory(),
    )


def _seconds(session: Session, batch: Any) -> float:
    began = time.perf_counter()
    session.run(batch)
    return time.perf_counter() - began


def _peak_memory() -> float | None:
    """Return the high-water mark of this process's own resident memory (``ru_maxrss`` would be its parent's too)."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    except OSError:
        return None
    return round(int(found[1]) / 1024, 1) if found else None


def _main(arguments: Sequence[str]) -> None:
    try:
        answer: dict[str, Any] = asdict(measure(Cell(**json.loads(arguments[0]))))
    except VedetteError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main(sys.argv[1:])
