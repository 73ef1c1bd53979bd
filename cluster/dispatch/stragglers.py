"""Which running shard deserves a second attempt when nothing else is left to do. Pure.

The rule is that of LATE (Zaharia et al., "Improving MapReduce Performance in Heterogeneous
Environments", OSDI 2008), with shards for tasks: of those that are late, the one whose end is
farthest away.

Rules:
    * Late is who runs longer than `FACTOR` times what this job's shards took, by rows, and than
      `LEAST` seconds; a job with fewer than `SAMPLES` ended shards knows no pace and calls nobody late.
    * The end is estimated from the rows that are through; without any it is farther away than any other.
    * The commit protocol makes a second attempt safe: the first commit counts, the loser's files do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Run", "straggler"]

FACTOR = 2.0
LEAST = 5.0  # seconds
SAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A shard that is running.

    Attributes:
        task: Number of its task.
        rows: Of the shard.
        done: Rows that are through.
        seconds: Since it was given to a worker.
    """

    task: int
    rows: int
    done: int
    seconds: float

    @property
    def left(self) -> float:
        """Estimated seconds until it ends."""
        return self.seconds * (self.rows - self.done) / self.done if self.done else math.inf


def straggler(runs: Iterable[Run], paces: Sequence[float]) -> int | None:
    """Return the task to try a second time, if any.

    Args:
        runs: The running shards that have no second attempt yet.
        paces: Seconds a row of the shards that ended.
    """
    if len(paces) < SAMPLES:
        return None
    pace = median(paces)
    late = [run for run in runs if run.seconds > max(LEAST, FACTOR * pace * run.rows)]
    return max(late, key=lambda run: (run.left, run.seconds)).task if late else None
