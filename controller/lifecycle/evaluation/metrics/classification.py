"""Classification: top-1, top-5, precision, recall and F1 of each class, and what is taken for what.

Rules:
    * Precision, recall and F1 are those of `runtime.metrics`.
    * ``macro_f1`` and ``macro_recall`` are means over the classes that occur in the data, each counting the same.
    * Top-5 is given where the model has more than five classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.lifecycle.evaluation.metrics.base import ClassTable, Confusion, Figures, Metric, Verdict, mean_of
from runtime.manifest import Manifest
from runtime.metrics import precision_recall_f1
from runtime.tasks import Classification

__all__ = ["METRIC", "ClassificationJudge", "class_figures"]

TOP = 5
COLUMNS = ("precision", "recall", "f1", "support")


def class_figures(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return (C, 4): precision, recall, F1 and support of each class of *confusion* (C, C), rows being the truth.

    Precision is NaN where the class was never said, recall where it does not occur, F1 where neither.
    """
    return precision_recall_f1(np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1))


class ClassificationJudge:
    """Counts answers by what they should have been."""

    def __init__(self, manifest: Manifest) -> None:
        self._labels = manifest.labels
        self._top_k = manifest.postprocess.top_k
        self._answers: list[int] = []
        self._truth: list[int] = []
        self._among_top = 0

    @property
    def changes(self) -> Mapping[str, Any]:
        """The five best, whatever the model is told to give."""
        return {"top_k": max(TOP, self._top_k), "multi_label": False}

    def add(self, prediction: Classification, truth: int, size: tuple[int, int]) -> Verdict:  # noqa: ARG002
        """Take the *prediction* for an image of class *truth*."""
        self._answers.append(prediction.label_id)
        self._truth.append(truth)
        self._among_top += truth in [one.label_id for one in prediction.top_k[:TOP]]
        shown = replace(prediction, top_k=prediction.top_k[: self._top_k])
        return Verdict(shown=shown, said=self._labels[truth], right=prediction.label_id == truth)

    def figures(self) -> Figures:
        """Return the shares of right answers, and the table of classes."""
        answers, truth = np.asarray(self._answers, np.int64), np.asarray(self._truth, np.int64)
        count = len(self._labels)
        counts = np.bincount(truth * count + answers, minlength=count * count).reshape(count, count)
        by_class = class_figures(counts)
        occurs = by_class[:, 3] > 0
        metrics = {"top1": float(np.mean(answers == truth))}
        if count > TOP:
            metrics["top5"] = self._among_top / len(truth)
        metrics |= {"macro_f1": mean_of(by_class[occurs, 2]), "macro_recall": mean_of(by_class[occurs, 1])}
        rows = tuple((label, tuple(map(float, row))) for label, row in zip(self._labels, by_class, strict=True))
        return Figures(
            metrics=metrics,
            answers=answers,
            classes=ClassTable(columns=COLUMNS, rows=rows),
            confusion=Confusion(labels=self._labels, counts=counts, unit="images"),
        )


def _agreement(ours: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64]) -> float:
    """Return the share of the images with the same best class."""
    return float(np.mean(ours == theirs))


METRIC = Metric(primary="top1", truth="label", judge=ClassificationJudge, agreement=_agreement)
