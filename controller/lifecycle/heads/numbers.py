"""What the numbers of one run tell that shapes do not: order and scale of boxes, probabilities, class indices.

Rules:
    * Boxes are looked at as a whole: single ones may lie anywhere, most of them may not.
    * A family's usual way counts unless the numbers clearly speak against it: a network that sees nothing it
      knows may answer with boxes as large as the picture, which look right in either order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "GRIDS",
    "anchor_grid",
    "are_normalized",
    "are_probabilities",
    "are_whole",
    "background_class",
    "box_order",
    "boxes_a_cell",
    "follows_grid",
]

Array = npt.NDArray[Any]
BoxOrder = Literal["xyxy", "cxcywh"]

GRIDS: Sequence[tuple[int, ...]] = ((8, 16, 32), (8, 16, 32, 64), (16, 32), (4, 8, 16, 32))
"""Strides in pixels of the grids that one-shot detectors have: YOLO, its P6 models, its tiny ones, its P2 ones."""

BOXES_A_CELL = (1, 3)
MOST_NORMALIZED = 2.0  # shares of the input's size hardly go beyond 1, pixels hardly stay below
MARGIN = 0.1  # of the input's size, that boxes may reach beyond it
GRID_CORRELATION = 0.5


def boxes_a_cell(count: int, height: int, width: int) -> tuple[tuple[int, ...], int] | None:
    """Return the (strides, boxes a cell) by which *count* boxes cover an input of *height* and *width* pixels."""
    for boxes in BOXES_A_CELL:
        for strides in GRIDS:
            if boxes * sum(-(-height // stride) * -(-width // stride) for stride in strides) == count:
                return strides, boxes
    return None


def _centres(strides: Sequence[int], boxes: int, height: int, width: int) -> Iterator[Array]:
    for stride in strides:
        rows, columns = np.mgrid[0 : -(-height // stride), 0 : -(-width // stride)]
        centres = np.stack([columns, rows], axis=-1).reshape(-1, 2) * stride + stride / 2
        yield np.tile(centres, (boxes, 1))


def anchor_grid(strides: Sequence[int], boxes: int, height: int, width: int) -> Array:
    """Return the centres (n, 2), x and y in pixels, of the cells in the order of YOLO's predictions."""
    return np.concatenate(list(_centres(strides, boxes, height, width)))


def follows_grid(points: Array, grid: Array) -> bool:
    """Whether *points* (n, 2) lie where their cells in *grid* (n, 2) do, in whatever unit: they are decoded."""
    for found, expected in zip(points.astype(np.float64).T, grid.T, strict=True):
        if np.ptp(found) == 0 or np.ptp(expected) == 0 or np.corrcoef(found, expected)[0, 1] < GRID_CORRELATION:
            return False
    return True


def _present(boxes: Array) -> Array:
    """Return *boxes* as (n, 4) without the rows that only fill up: all zeros, or all -1."""
    rows = boxes.reshape(-1, 4).astype(np.float64)
    return np.asarray(rows[~((rows == 0).all(axis=1) | (rows == -1).all(axis=1))])


def are_normalized(boxes: Array) -> bool | None:
    """Whether *boxes* (..., 4) are shares of the input's size; ``None`` if there are no boxes."""
    rows = _present(boxes)
    return bool(np.percentile(np.abs(rows), 99) <= MOST_NORMALIZED) if len(rows) else None


def box_order(boxes: Array, usual: BoxOrder, height: int, width: int) -> BoxOrder:
    """Return the order of coordinates in *boxes* (..., 4), pixels or shares; *usual* unless they speak against it."""
    rows = _present(boxes)
    if not len(rows):
        return usual
    corners = np.mean((rows[:, 2] >= rows[:, 0]) & (rows[:, 3] >= rows[:, 1]))
    if usual == "xyxy":
        return "xyxy" if corners >= 0.9 else "cxcywh"
    size = np.ones(2) if are_normalized(boxes) else np.array([width, height], np.float64)
    half, centre = rows[:, 2:] / 2, rows[:, :2]
    inside = ((centre - half >= -MARGIN * size) & (centre + half <= (1 + MARGIN) * size)).all(axis=1)
    return "xyxy" if corners >= 0.95 and np.mean(inside) < 0.5 else "cxcywh"


def are_probabilities(values: Array) -> bool:
    """Whether all *values* lie between 0 and 1, and some strictly between them; true of none at all."""
    return not values.size or bool(values.min() >= 0 and values.max() <= 1)


def are_whole(values: Array) -> bool:
    """Whether all *values* are whole numbers from 0 on, as class indices are (-1 fills up)."""
    return not values.size or bool((values >= -1).all() and (values == np.rint(values)).all())


def background_class(scores: Array) -> int | None:
    """Return the class of *scores* (n, C) that means "nothing here"; ``None`` if there is none.

    It is the first or the last, best in nearly all rows, and surely so. In a sigmoid's scores some class
    may be best nearly everywhere too, but all of them are small.
    """
    if not len(scores) or scores.shape[1] < 2:
        return None
    best = scores.argmax(axis=1)
    most = int(np.bincount(best).argmax())
    sure = 0.5 if are_probabilities(scores) else 0.0
    background = most in {0, scores.shape[1] - 1} and np.mean(best == most) >= 0.8
    return most if background and float(np.median(scores[:, most])) > sure else None
