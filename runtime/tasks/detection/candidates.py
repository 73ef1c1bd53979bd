"""Candidates: which rows of an output are objects, of what class, and how surely.

Rules:
    * The score is what the model says: the class score, times the objectness where the head has one.
    * Scores are compared before boxes are computed: of thousands of rows, a few matter.
    * A row is one object of its best class, as Ultralytics' `predict` takes it; with ``multi_label`` one
      object for every class at or above the threshold, as its `val` does.
    * Rows whose numbers are not finite are no objects; they are dropped, never an error: one overflow in one
      corner of one picture costs that row, not the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from runtime.manifest import Postprocess
from runtime.placement import Placement
from runtime.tasks.classification import ACTIVATIONS

__all__ = ["Candidates", "Chosen", "Objects", "choose"]

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Objects in one image, perhaps: one array a property, all of the same length n.

    Attributes:
        boxes: float64, (n, 4), x1, y1, x2, y2 in pixels (of the input or the original: the holder knows).
        scores: float32, (n,).
        labels: int64, (n,), label ids.
        rest: float32, (n, E): what else the head says of each (mask coefficients, keypoints), E may be 0.
    """

    boxes: npt.NDArray[np.float64]
    scores: Floats
    labels: Ids
    rest: Floats

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Self:
        """Return those that *index*, positions or a mask, names, in its order."""
        return type(self)(
            boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index], rest=self.rest[index]
        )

    def at(self, boxes: npt.NDArray[np.float64]) -> Self:
        """Return them with other *boxes*."""
        return type(self)(boxes=boxes, scores=self.scores, labels=self.labels, rest=self.rest)

    def first(self, most: int) -> Self:
        """Return the *most* first of them."""
        return self.take(np.arange(min(most, len(self))))

    def surest_first(self) -> Self:
        """Return them by falling score; of equals, the one that the model gave first comes first."""
        return self.take(np.argsort(-self.scores, kind="stable"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Objects:
    """The objects in a batch of images.

    Attributes:
        output: Name of the output that they come from.
        rest: How many numbers that output has besides box, score and label: columns of `Candidates.rest`.
        images: Where each image lies in the model's input, and its objects, in pixels of the upright
            original and surest first; to be read once.
    """

    output: str
    rest: int
    images: Iterator[tuple[Placement, Candidates]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """Which rows are candidates; a row comes more than once where it counts for several classes.

    Attributes:
        rows: int64, (n,), rising.
        labels: int64, (n,), label ids.
        scores: float32, (n,), finite and at or above the threshold.
    """

    rows: Ids
    labels: Ids
    scores: Floats


def choose(scores: Floats, class_ids: Ids, post: Postprocess, objectness: Floats | None = None) -> Chosen:
    """Return the rows of *scores* that reach ``post.score_threshold``.

    Args:
        scores: float32, (A, C), as the graph gives them; ``post.activation`` makes probabilities of them.
        class_ids: int64, (C,), the label id of each column; -1: never an answer.
        post: ``activation``, ``score_threshold``, ``multi_label``.
        objectness: float32, (A,), a factor of all scores of its row, before the same activation.
    """
    activate = ACTIVATIONS[post.activation]
    rows = np.arange(len(scores))
    certain = np.ones(len(scores), np.float32)
    if objectness is not None:  # a product with a probability is never above it: most rows go here
        certain = activate(objectness[:, None])[:, 0]
        rows = np.flatnonzero(certain >= post.score_threshold)
        scores, certain = scores[rows], certain[rows]
    if post.activation == "softmax":  # over all classes, also those that are no answers
        scores, activate = activate(scores), ACTIVATIONS["none"]
    if (class_ids < 0).any():
        scores, class_ids = scores[:, class_ids >= 0], class_ids[class_ids >= 0]
    if not scores.size:
        return Chosen(rows=rows[:0], labels=class_ids[:0], scores=certain[:0])
    pick = _every if post.multi_label else _best
    at, columns, confidences = pick(scores, certain, activate, post.score_threshold)
    finite = np.isfinite(confidences)
    return Chosen(rows=rows[at[finite]], labels=class_ids[columns[finite]], scores=confidences[finite])


def _best(
    scores: Floats, certain: Floats, activate: Callable[[Floats], Floats], threshold: float
) -> tuple[Ids, Ids, Floats]:
    """Return (row, column, score) of each row whose best class reaches *threshold*."""
    confidences = activate(scores.max(axis=1)[:, None])[:, 0] * certain  # no activation here changes the order
    at = np.flatnonzero(confidences >= threshold)
    return at, scores[at].argmax(axis=1), confidences[at]


def _every(
    scores: Floats, certain: Floats, activate: Callable[[Floats], Floats], threshold: float
) -> tuple[Ids, Ids, Floats]:
    """Return (row, column, score) of each class that reaches *threshold*."""
    confidences = activate(scores) * certain[:, None]
    at, columns = np.nonzero(confidences >= threshold)
    return at, columns, confidences[at, columns]
