"""Embeddings: whether the nearest other image is of the same class.

Rules:
    * ``recall1`` is the share of images whose nearest neighbour among all others, by cosine, has their label:
      Jégou et al., IEEE TPAMI 33, 2011. An image that is alone in its class has nothing to be found and does not count.
    * Of two that are equally near the first one counts.
    * Without labels nothing is measured: near and far mean nothing by themselves.
    * Neighbours are looked for among vectors that pass by in blocks: only those that are asked for are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import DatasetError
from runtime.evaluation.metrics.base import Figures, Metric, Verdict
from runtime.manifest import Manifest
from runtime.tasks import Embedding

__all__ = ["METRIC", "EmbeddingJudge", "Neighbours"]

ROWS = 1024  # vectors of a block, and of those that are asked for, compared at a time

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Neighbours:
    """Finds the nearest of all vectors to each of some.

    Args:
        vectors: (n, D), all of length 1: those that are asked for.
        labels: (n,), of them.
        numbers: (n,), which of all vectors they are.
    """

    def __init__(self, vectors: Vectors, labels: Ids, numbers: Ids) -> None:
        self._vectors, self._labels, self._numbers = vectors, labels, numbers
        self._nearest = np.full(len(vectors), -np.inf, np.float32)
        self._found = np.zeros(len(vectors), np.int64)  # the label of the nearest so far
        self._findable = np.zeros(len(vectors), np.bool_)  # whether another one has the same label

    def see(self, vectors: Vectors, labels: Ids, numbers: Ids) -> None:
        """Look at more of all *vectors*.

        Args:
            vectors: (m, D).
            labels: (m,), of them; where it is none of those that are asked for, any number that is none of theirs.
            numbers: (m,), which of all vectors they are.
        """
        for start in range(0, len(vectors), ROWS):
            part = slice(start, start + ROWS)
            for place in range(0, len(self._vectors), ROWS):
                self._compare(slice(place, place + ROWS), vectors[part], labels[part], numbers[part])

    def _compare(self, asked: slice, block: Vectors, theirs: Ids, others: Ids) -> None:
        itself = self._numbers[asked, None] == others[None]
        cosines = self._vectors[asked] @ block.T
        cosines[itself] = -np.inf
        best = cosines.argmax(axis=1)
        nearest = cosines[np.arange(len(best)), best]
        nearer = nearest > self._nearest[asked]
        self._nearest[asked][nearer] = nearest[nearer]
        self._found[asked][nearer] = theirs[best][nearer]
        self._findable[asked] |= ((self._labels[asked, None] == theirs[None]) & ~itself).any(axis=1)

    def recall(self) -> float:
        """Return the share of those asked for whose nearest has their label; NaN if all are alone with theirs."""
        if not self._findable.any():
            return float("nan")
        return float((self._found == self._labels)[self._findable].mean())


class EmbeddingJudge:
    """Collects vectors and labels."""

    def __init__(self, _: Manifest) -> None:
        self._vectors: list[Vectors] = []
        self._labels: list[int] = []

    @property
    def changes(self) -> Mapping[str, Any]:
        """None: a vector has no settings."""
        return {}

    def add(self, prediction: Embedding, truth: int, size: tuple[int, int]) -> Verdict:  # noqa: ARG002
        """Take the *prediction* for an image with the label *truth*."""
        self._vectors.append(prediction.embedding)
        self._labels.append(truth)
        return Verdict(shown=prediction, said=f"label {truth}")

    def figures(self) -> Figures:
        """Return the share of images whose nearest neighbour is of their class.

        Raises:
            DatasetError: No two images have the same label.
        """
        vectors, labels = np.stack(self._vectors), np.asarray(self._labels, np.int64)
        if len(np.unique(labels)) == len(labels):
            raise DatasetError("no two images have the same label; embeddings are judged by finding one of the same")
        numbers = np.arange(len(labels))
        neighbours = Neighbours(vectors, labels, numbers)
        neighbours.see(vectors, labels, numbers)
        return Figures(metrics={"recall1": neighbours.recall()})


def _agreement(ours: Sequence[Vectors], theirs: Sequence[Vectors]) -> float:
    """Return the mean cosine of the two vectors of each image, at least 0."""
    one, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return max(0.0, float(np.mean(np.sum(one * other, axis=1))))


METRIC = Metric(
    primary="recall1",
    truth="label",
    judge=EmbeddingJudge,
    answer=lambda prediction: prediction.embedding,
    agreement=_agreement,
)
