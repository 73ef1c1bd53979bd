"""Which boxes are which: the overlap of boxes, and pairs of them.

Rules:
    * Overlap is intersection over union (Jaccard), of x1, y1, x2, y2.
    * Pairs are made greedily, the greatest overlap first, as COCO matches the surest answer first; each box has one
      partner at most.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["LEAST_OVERLAP", "greedy_pairs", "overlaps"]

LEAST_OVERLAP = 0.5  # the same object

Floats = npt.NDArray[np.float64]


def overlaps(ours: Floats, theirs: Floats) -> Floats:
    """Return the overlap, (n, m), of each of *ours* (n, 4) with each of *theirs* (m, 4)."""
    upper = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    lower = np.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    common = np.clip(lower - upper, 0, None).prod(axis=2)
    both = _areas(ours)[:, None] + _areas(theirs)[None] - common
    return np.asarray(np.divide(common, both, out=np.zeros_like(common), where=both > 0))


def _areas(boxes: Floats) -> Floats:
    return np.asarray(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1))


def greedy_pairs(likeness: Floats, least: float) -> list[tuple[int, int]]:
    """Return (row, column) of the likest pairs of *likeness* (n, m) that reach *least*; each is used once."""
    rows, columns = np.nonzero(likeness >= least)
    order = np.argsort(-likeness[rows, columns], kind="stable")
    taken_rows: set[int] = set()
    taken_columns: set[int] = set()
    pairs = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken_rows and column not in taken_columns:
            taken_rows.add(row)
            taken_columns.add(column)
            pairs.append((row, column))
    return pairs
