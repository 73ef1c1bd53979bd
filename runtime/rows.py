"""Rows that a graph has ordered by score: which row of one output is which of another.

Two rows of nearly equal score change places for a difference in the last digit, and the last of a fixed
number of rows gives way to the next. So rows are compared as sets:

    * A row counts if its score is `FLOOR` or more; what is below it fills up, or is noise.
    * Every row that counts needs a partner of its own on the other side (counting or not): the same
      label, box and score within the tolerance. The partners are found as a maximum matching of a
      bipartite graph, the nearest tried first; matchings from both sides that each cover what counts
      make one that covers both (Mendelsohn and Dulmage, 1958).
    * Where a graph drops what is below a threshold of its own, the two sides may have different numbers of
      rows: one without a partner is forgiven if it may have been dropped on the other side, which is when
      no row has a lower score (by more than the tolerance) and another one has a partner.
    * What else belongs to the rows (masks, keypoints) is compared between partners.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from runtime.manifest import Postprocess

__all__ = ["FLOOR", "Match", "Table", "match", "tables"]

FLOOR: Final = 0.05  # score; no threshold keeps what is below
TABLE: Final = 6  # columns: x1 y1 x2 y2 score label, and what is behind them

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
Indices = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of one image.

    Attributes:
        boxes: float64 (M, 4), in whatever order and unit the graph has them.
        scores: float64 (M,).
        labels: float64 (M,); zeros where the graph has none.
        rest: By output, or ``NAME columns``, what else the rows have, (M, ...).
        names: The outputs that it was made of; empty for an image without rows.
    """

    boxes: Floats
    scores: Floats
    labels: Floats
    rest: Mapping[str, Array] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @classmethod
    def empty(cls) -> Self:
        """Return the table of an image without rows."""
        nothing = np.zeros(0)
        return cls(boxes=np.zeros((0, 4)), scores=nothing, labels=nothing)

    @property
    def counting(self) -> npt.NDArray[np.bool_]:
        """Which rows are to have a partner; also those whose score is no number, so that they have none."""
        return ~(self.scores < FLOOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which rows are the same.

    Attributes:
        found: Indices of the matched rows on one side, (K,).
        expected: Their partners, (K,).
        relative: Largest difference between partners, relative to the range of the box or score.
        largest: The same in the output's own unit.
        lonely: Share of one side's counting rows that have no partner and are not forgiven; the larger one.
    """

    found: Indices
    expected: Indices
    relative: float
    largest: float
    lonely: float


def tables(outputs: Outputs, postprocess: Postprocess) -> list[Table]:
    """Return the rows of each image in *outputs*; none if the head's outputs are not ordered by score."""
    roles = postprocess.outputs
    if postprocess.kind != "boxes" and "rows" not in roles:
        return []
    boxes = roles.get("boxes") or ("" if "rows" in roles else _first(outputs, _is_boxes))
    if boxes:
        return _from_parts(outputs, boxes, roles)
    rows = roles.get("rows") or _first(outputs, _is_table)
    return _from_table(rows, outputs[rows]) if rows else []


def _first(outputs: Outputs, fits: Any, but: Sequence[str] = ()) -> str:
    return next((name for name, array in outputs.items() if name not in but and fits(array)), "")


def _is_float(array: Array) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def _is_boxes(array: Array) -> bool:
    return _is_float(array) and array.ndim in {2, 3} and array.shape[-1] == 4


def _is_table(array: Array) -> bool:
    return _is_float(array) and array.ndim in {2, 3} and array.shape[-1] >= TABLE


def _from_table(name: str, array: Array) -> list[Table]:
    """Return the tables of ``rows``: (N, M, 6 + k) or (M, 6), or (M, 7) with the image in front and the score last."""
    if array.ndim == 2 and array.shape[1] == TABLE + 1:
        parts = [array[array[:, 0] == image] for image in range(int(array[:, 0].max(initial=-1)) + 1)]
        ordered = [part[:, [1, 2, 3, 4, 6, 5]] for part in parts]
    else:
        ordered = list(array.reshape(-1, *array.shape[-2:]))
    return [_table_of(name, part) for part in ordered]


def _table_of(name: str, part: Array) -> Table:
    wide = part.astype(np.float64)
    rest = {name: part[:, TABLE:]} if part.shape[1] > TABLE else {}
    return Table(boxes=wide[:, :4], scores=wide[:, 4], labels=wide[:, 5], rest=rest, names=(name,))


def _from_parts(outputs: Outputs, boxes: str, roles: Mapping[str, str]) -> list[Table]:
    """Return the tables of boxes (N, M, 4) or (M, 4), and of what shares their first dimensions."""
    leading = outputs[boxes].shape[:-1]
    images, rows = (1, *leading)[-2:]

    def alike(array: Array) -> bool:
        return array.shape[: len(leading)] == leading

    def column(array: Array) -> bool:
        return array.size == images * rows and alike(array)

    scores = roles.get("scores") or _first(outputs, lambda array: column(array) and _is_float(array), (boxes,))
    labels = roles.get("labels") or _first(outputs, column, (boxes, scores))
    if not scores:
        return []
    counted = roles.get("count", "")
    rest = [n for n, array in outputs.items() if n not in {boxes, scores, labels, counted} and alike(array)]
    names = tuple(filter(None, (boxes, scores, labels, counted, *rest)))

    def part(name: str, image: int, length: int) -> Array:
        return outputs[name].reshape(images, rows, *outputs[name].shape[len(leading) :])[image, :length]

    def flat(name: str, image: int, length: int) -> Floats:
        return part(name, image, length).reshape(length).astype(np.float64)

    lengths = _lengths(outputs, counted, images, rows)
    return [
        Table(
            boxes=part(boxes, image, length).astype(np.float64),
            scores=flat(scores, image, length),
            labels=flat(labels, image, length) if labels else np.zeros(length),
            rest={name: part(name, image, length) for name in rest},
            names=names,
        )
        for image, length in enumerate(lengths)
    ]


def _lengths(outputs: Outputs, counted: str, images: int, rows: int) -> list[int]:
    if not counted:
        return [rows] * images
    return [int(length) for length in np.clip(outputs[counted].reshape(-1).astype(np.int64), 0, rows)]


def match(found: Table, expected: Table, tolerance: float) -> Match:
    """Return which rows of *found* are which of *expected*; two are the same only within *tolerance*."""
    scale = max(1.0, float(np.abs(expected.boxes[np.isfinite(expected.boxes)]).max(initial=0.0)))
    ours, theirs = np.flatnonzero(found.counting), np.flatnonzero(expected.counting)
    forth = _distances(expected, theirs, found, scale)
    back = _distances(found, ours, expected, scale)
    partners, lonely_theirs = _partners(forth, tolerance)
    _, lonely_ours = _partners(back, tolerance)
    forgiven = -np.inf
    if partners and len(found.scores) != len(expected.scores):
        forgiven = min(found.scores.min(), expected.scores.min()) + tolerance
    shares = [
        np.count_nonzero(~(side.scores[counting[alone]] <= forgiven)) / max(1, len(counting))
        for side, counting, alone in ((expected, theirs, lonely_theirs), (found, ours, lonely_ours))
    ]
    rows = np.array(sorted(partners), np.intp)
    columns = np.array([partners[row] for row in rows], np.intp)
    return Match(
        found=columns,
        expected=theirs[rows],
        relative=float(forth[rows, columns].max(initial=0.0)),
        largest=_largest(found, columns, expected, theirs[rows]),
        lonely=float(max(shares)),
    )


def _distances(one: Table, rows: Indices, other: Table, scale: float) -> Floats:
    """Return how far each of the *rows* of *one* is from each row of *other*, relative; infinite for another label."""
    distance = np.abs(one.scores[rows, None] - other.scores[None])
    for column in range(4):
        edges = np.abs(one.boxes[rows, None, column] - other.boxes[None, :, column]) / scale
        np.maximum(distance, edges, out=distance)
    distance[one.labels[rows, None] != other.labels[None]] = np.inf
    return np.where(np.isnan(distance), np.inf, distance)


def _partners(distances: Floats, tolerance: float) -> tuple[dict[int, int], list[int]]:
    """Return a maximum matching, row to column, of what is within *tolerance*, and the rows that it leaves out."""
    choices = [[int(c) for c in np.argsort(row, kind="stable") if row[c] <= tolerance] for row in distances]
    taken: dict[int, int] = {}  # column to row
    lonely = [row for row in range(len(choices)) if not _augment(row, choices, taken)]
    return {row: column for column, row in taken.items()}, lonely


def _augment(start: int, choices: Sequence[Sequence[int]], taken: dict[int, int]) -> bool:
    """Find *start* a column by the shortest way of moving others; returns whether there is one."""
    came_from: dict[int, int] = {}  # column to the row that would take it
    waiting = deque([start])
    while waiting:
        row = waiting.popleft()
        for column in choices[row]:
            if column in came_from:
                continue
            came_from[column] = row
            if column in taken:
                waiting.append(taken[column])
                continue
            _move(column, came_from, taken, start)
            return True
    return False


def _move(column: int, came_from: Mapping[int, int], taken: dict[int, int], start: int) -> None:
    """Give *column* away, and on the way back to *start* each row's old column to the one before."""
    held = {row: held for held, row in taken.items()}
    while True:
        row = came_from[column]
        taken[column] = row
        if row == start:
            return
        column = held[row]


def _largest(found: Table, rows: Indices, expected: Table, others: Indices) -> float:
    boxes = np.abs(found.boxes[rows] - expected.boxes[others]).max(initial=0.0)
    scores = np.abs(found.scores[rows] - expected.scores[others]).max(initial=0.0)
    return float(max(boxes, scores))
