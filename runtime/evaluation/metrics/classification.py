"""Classification: top-1, top-5, precision, recall and F1 of each class, and what is taken for what.

Rules:
    * Precision of a class is the share of its answers that are right, recall the share of its images that are found, F1
      their harmonic mean, 2TP / (2TP + FP + FN): van Rijsbergen, Information Retrieval, 1979, chapter 7.
    * ``macro_f1`` and ``macro_recall`` are means over the classes that occur in the data, each counting the same.
    * Top-5 is given where the model has more than five classes, and the answers name the five best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.evaluation.metrics.base import ClassTable, Confusion, Figures, Metric, Verdict, mean_of
from runtime.manifest import Manifest
from runtime.tasks import Classification

__all__ = ["METRIC", "TOP", "ClassTally", "ClassificationJudge", "precision_recall_f1"]

TOP = 5
COLUMNS = ("precision", "recall", "f1", "support")

Ids = npt.NDArray[np.int64]


def precision_recall_f1(right: Ids, said: Ids, support: Ids) -> npt.NDArray[np.float64]:
    """Return (C, 4): precision, recall, F1 and support of each class.

    Precision is NaN where the class was never said, recall where it does not occur, F1 where neither.

    Args:
        right: (C,) images of the class that were answered with it.
        said: (C,) images that were answered with the class.
        support: (C,) images of the class.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([right / said, right / support, 2 * right / (said + support), support], axis=1)


class ClassTally:
    """Counts answers by class, many images at a time: three numbers a class, however many images there are.

    Args:
        labels: Of the C classes.
        top: Whether the answers name the five best.
    """

    def __init__(self, labels: Sequence[str], *, top: bool) -> None:
        self._labels = tuple(labels)
        self._top = top and len(self._labels) > TOP
        self._right, self._said, self._support = (np.zeros(len(self._labels), np.int64) for _ in range(3))
        self._among_top = 0

    def add(self, truth: Ids, answers: Ids, among_top: int = 0) -> None:
        """Take n images.

        Args:
            truth: (n,), their classes.
            answers: (n,), what the model said; -1 is an answer that is no class.
            among_top: For how many the class is among the five best.
        """
        np.add.at(self._support, truth, 1)
        np.add.at(self._said, answers[answers >= 0], 1)
        np.add.at(self._right, truth[truth == answers], 1)
        self._among_top += among_top

    def figures(self, confusion: Confusion | None = None) -> Figures:
        """Return the shares of right answers and the table of classes, of one image at least."""
        images = int(self._support.sum())
        by_class = precision_recall_f1(self._right, self._said, self._support)
        occurs = self._support > 0
        metrics = {"top1": float(self._right.sum() / images)}
        if self._top:
            metrics["top5"] = self._among_top / images
        metrics |= {"macro_f1": mean_of(by_class[occurs, 2]), "macro_recall": mean_of(by_class[occurs, 1])}
        rows = tuple((label, tuple(map(float, row))) for label, row in zip(self._labels, by_class, strict=True))
        return Figures(metrics=metrics, classes=ClassTable(columns=COLUMNS, rows=rows), confusion=confusion)


class ClassificationJudge:
    """Counts answers by what they should have been."""

    def __init__(self, manifest: Manifest) -> None:
        self._labels = manifest.labels
        self._top_k = manifest.postprocess.top_k
        self._tally = ClassTally(manifest.labels, top=True)
        self._counts = np.zeros((len(self._labels), len(self._labels)), np.int64)

    @property
    def changes(self) -> Mapping[str, Any]:
        """The five best, whatever the model is told to give."""
        return {"top_k": max(TOP, self._top_k), "multi_label": False}

    def add(self, prediction: Classification, truth: int, size: tuple[int, int]) -> Verdict:  # noqa: ARG002
        """Take the *prediction* for an image of class *truth*."""
        among_top = truth in [one.label_id for one in prediction.top_k[:TOP]]
        self._tally.add(np.array([truth]), np.array([prediction.label_id]), among_top)
        self._counts[truth, prediction.label_id] += 1
        shown = replace(prediction, top_k=prediction.top_k[: self._top_k])
        return Verdict(shown=shown, said=self._labels[truth], right=prediction.label_id == truth)

    def figures(self) -> Figures:
        """Return the shares of right answers, the table of classes, and the confusions."""
        return self._tally.figures(Confusion(labels=self._labels, counts=self._counts, unit="images"))


def _agreement(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Return the share of the images with the same best class."""
    return float(np.mean(np.asarray(ours) == np.asarray(theirs)))


METRIC = Metric(
    primary="top1",
    truth="label",
    judge=ClassificationJudge,
    answer=lambda prediction: prediction.label_id,
    agreement=_agreement,
)
