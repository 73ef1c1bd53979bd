"""Embeddings: whether the nearest other image is of the same class.

Rules:
    * ``recall1`` is the share of images whose nearest neighbour among all others, by cosine, has their label:
      Jégou et al., IEEE TPAMI 33, 2011. An image that is alone in its class has nothing to be found and does not count.
    * Without labels nothing is measured: near and far mean nothing by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.lifecycle.evaluation.metrics.base import Figures, Metric, Verdict
from runtime.errors import DatasetError
from runtime.manifest import Manifest
from runtime.tasks import Embedding

__all__ = ["METRIC", "EmbeddingJudge", "nearest"]

ROWS = 1024  # compared with all others at a time

Vectors = npt.NDArray[np.float32]


def nearest(vectors: Vectors) -> npt.NDArray[np.int64]:
    """Return which other one of *vectors* (n, D), all of length 1, is nearest to each, (n,); n is 2 at least."""
    found = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), ROWS):
        cosines = vectors[start : start + ROWS] @ vectors.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        found[start : start + ROWS] = cosines.argmax(axis=1)
    return found


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
        vectors, labels = np.stack(self._vectors), np.asarray(self._labels)
        _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
        findable = counts[places] > 1
        if not findable.any():
            raise DatasetError("no two images have the same label; embeddings are judged by finding one of the same")
        right = labels[nearest(vectors)] == labels
        return Figures(metrics={"recall1": float(right[findable].mean())}, answers=vectors)


def _agreement(ours: Vectors, theirs: Vectors) -> float:
    """Return the mean cosine of the two vectors of each image, at least 0."""
    return max(0.0, float(np.mean(np.sum(ours.astype(np.float64) * theirs, axis=1))))


METRIC = Metric(primary="recall1", truth="label", judge=EmbeddingJudge, agreement=_agreement)
