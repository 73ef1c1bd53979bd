"""Whether a graph gives what its source gives for the same input.

Rules:
    * Floating point numbers: the largest difference is below `PARITY_LIMIT` times the largest magnitude of that
      output, or times 1 where it is smaller. A score lies between 0 and 1, a box reaches 640 pixels: a ten-thousandth
      of what an output ranges over is the same in both, a ten-thousandth of a pixel is less than float32 holds.
    * Integers (class ids, labels): at most `MOST_DIFFERENT` of the elements differ. Where two scores tie, rounding may
      decide either way, and no distance between ids means anything.
    * NaN and infinity are refused whatever the source gives: no head can use them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from controller.errors import ExportError

__all__ = ["MOST_DIFFERENT", "PARITY_LIMIT", "output_difference"]

PARITY_LIMIT = 1e-4
MOST_DIFFERENT = 1e-3  # of the elements

Array = npt.NDArray[Any]


def output_difference(name: str, count: int, ours: Array, theirs: Array) -> float:
    """Return the largest absolute difference of output *name* from the source; 0 for an integer output.

    Args:
        name: Of the output.
        count: Pictures in the batch.
        ours: What the graph gave.
        theirs: What the source gave.

    Raises:
        ExportError: Shapes differ, a number is not finite, or too much differs.
    """
    if ours.shape != theirs.shape:
        raise ExportError(
            f"output {name!r} has shape {ours.shape} for a batch of {count}; the source gives {theirs.shape}"
        )
    if np.issubdtype(ours.dtype, np.floating):
        return _float_difference(name, count, ours, theirs)
    share = float(np.mean(ours != theirs)) if ours.size else 0.0
    if share > MOST_DIFFERENT:
        raise ExportError(
            f"output {name!r} differs from the source in {share:.3%} of its elements for a batch of {count}; at most "
            f"{MOST_DIFFERENT:.1%} is expected of integers"
        )
    return 0.0


def _float_difference(name: str, count: int, ours: Array, theirs: Array) -> float:
    if not np.isfinite(ours).all():
        raise ExportError(f"output {name!r} holds NaN or infinity for a batch of {count}")
    difference = float(np.max(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)), initial=0.0))
    largest = float(np.max(np.abs(theirs.astype(np.float64)), initial=0.0))
    if not difference < PARITY_LIMIT * max(1.0, largest):
        raise ExportError(
            f"output {name!r} differs from the source by {difference:.3g} for a batch of {count}; "
            f"less than {PARITY_LIMIT * max(1.0, largest):.3g} is expected (it goes up to {largest:.3g})"
        )
    return difference
