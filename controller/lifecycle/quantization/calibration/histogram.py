"""What is kept of a tensor's values: how often each occurs, in bins of one width, zero at an edge.

Rules:
    * The bounds are known before the first value is counted (from an earlier pass), so that nothing is ever
      counted anew and memory does not depend on how many values there are.
    * Zero lies at the edge between two bins: a tensor after a ReLU has all its values on one side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SIDE", "Histogram"]

SIDE = 4096  # bins on each side of zero
CHUNK = 1 << 18  # values at a time: what fits into a core's cache

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values between ``-bound`` and ``bound``.

    Attributes:
        low: The lowest value.
        high: The highest value.
        counts: int64, (2 * SIDE,): bins of one width from ``-bound`` to ``bound``.
    """

    low: float
    high: float
    counts: Counts = field(default_factory=lambda: np.zeros(2 * SIDE, np.int64))

    @property
    def bound(self) -> float:
        """The largest magnitude; where all is zero, 1."""
        return max(abs(self.low), abs(self.high)) or 1.0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count *values*, of any shape; what is out of bounds counts in the outermost bin."""
        flat = values.reshape(-1)
        scale = np.float32(SIDE / self.bound)
        for start in range(0, flat.size, CHUNK):
            places = flat[start : start + CHUNK] * scale + np.float32(SIDE)
            np.clip(places, 0, 2 * SIDE - 1, out=places)
            self.counts[:] += np.bincount(places.astype(np.intp), minlength=2 * SIDE)

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """float64, (2 * SIDE,): the middle of each bin."""
        return np.asarray((np.arange(2 * SIDE) + 0.5 - SIDE) * (self.bound / SIDE), np.float64)

    def magnitudes(self) -> Counts:
        """Return int64, (SIDE,): counts of absolute values, bins from 0 to ``bound``."""
        return self.counts[SIDE:] + self.counts[:SIDE][::-1]
