"""Detection: mean average precision as COCO counts it, and what is taken for what at the model's own threshold.

Rules:
    * Average precision needs the whole curve: answers are taken from a score of `LEAST_SCORE` on, at most 100 an image.
      The boxes that overlap a surer one are left out by the model's own rule.
    * Everything else is counted at the model's own threshold. Leaving out the less sure ones afterwards gives what the
      model gives: a suppression goes from the surest on.
    * An answer confuses two classes if it lies on an object (`LEAST_OVERLAP`) of another class. Answers on nothing, and
      objects without an answer, stand in a row and a column of their own, `NOTHING`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from runtime.datasets import Objects
from runtime.evaluation.metrics.base import ClassTable, Confusion, Figures, Metric, Verdict, found_of
from runtime.evaluation.metrics.boxes import LEAST_OVERLAP, greedy_pairs, overlaps
from runtime.evaluation.metrics.coco import (
    MOST_BOXES,
    AveragePrecision,
    PrecisionJudge,
    box_record,
    own_answers,
    whole_curve,
)
from runtime.manifest import Manifest
from runtime.tasks import Detection, Detections, Instance

__all__ = [
    "METRIC",
    "NOTHING",
    "Boxes",
    "DetectionJudge",
    "Ledger",
    "Tally",
    "box_agreement",
    "found_record",
    "precision_metrics",
    "truth_records",
]

NOTHING = "(nothing)"
COLUMNS = ("ap50", "ap50_95", "support")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Boxes:
    """The answers for one image at the model's own threshold.

    Attributes:
        boxes: float64, (n, 4): x1, y1, x2, y2.
        labels: int64, (n,).
    """

    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]

    @classmethod
    def of(cls, found: Sequence[Detection | Instance]) -> Boxes:
        """Return those of *found*."""
        corners = [(one.x1, one.y1, one.x2, one.y2) for one in found]
        return cls(
            boxes=np.array(corners, np.float64).reshape(-1, 4),
            labels=np.array([one.label_id for one in found], np.int64),
        )


class Tally:
    """Counts which objects were found as what, at the model's own threshold."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = labels
        self._counts = np.zeros((len(labels) + 1, len(labels) + 1), np.int64)

    def add(self, found: Boxes, truth: Objects) -> int:
        """Count *found* against *truth*, both of one image; return how many objects were found as what they are."""
        nothing = len(self._labels)
        wanted = np.flatnonzero(~truth.crowd)
        pairs = greedy_pairs(overlaps(truth.boxes[wanted], found.boxes), LEAST_OVERLAP)
        for row, column in pairs:
            self._counts[truth.labels[wanted[row]], found.labels[column]] += 1
        seen, used = {row for row, _ in pairs}, {column for _, column in pairs}
        for row in set(range(len(wanted))) - seen:
            self._counts[truth.labels[wanted[row]], nothing] += 1
        for column in set(range(len(found.labels))) - used - self._in_crowds(found, truth):
            self._counts[nothing, found.labels[column]] += 1
        return sum(truth.labels[wanted[row]] == found.labels[column] for row, column in pairs)

    def _in_crowds(self, found: Boxes, truth: Objects) -> set[int]:
        """Return which answers lie on a crowd, where nobody counts them."""
        crowds = overlaps(truth.boxes[truth.crowd], found.boxes) > 0
        return set(np.flatnonzero(crowds.any(axis=0)).tolist())

    @property
    def confusion(self) -> Confusion:
        """The counts so far."""
        return Confusion(labels=(*self._labels, NOTHING), counts=self._counts, unit="objects")


def precision_metrics(found: AveragePrecision, prefix: str = "") -> dict[str, float]:
    """Return the figures of *found* by name."""
    return {
        f"{prefix}map50_95": found.ap,
        f"{prefix}map50": found.ap50,
        f"{prefix}map75": found.ap75,
        f"{prefix}ar100": found.recall,
    }


def precision_table(labels: Sequence[str], found: AveragePrecision) -> ClassTable:
    """Return the average precision of each class, and how many objects of it there are."""
    rows = zip(labels, found.by_category.tolist(), found.support.tolist(), strict=True)
    return ClassTable(columns=COLUMNS, rows=tuple((label, (*ap, float(count))) for label, ap, count in rows))


def truth_records(truth: Objects) -> list[dict[str, Any]]:
    """Return the objects of an image as COCO's annotations, without outlines."""
    return [
        {
            **box_record(truth.boxes[number]),
            "area": float(truth.areas[number]),
            "category_id": int(truth.labels[number]),
            "iscrowd": int(truth.crowd[number]),
        }
        for number in range(len(truth))
    ]


def found_record(one: Detection | Instance) -> dict[str, Any]:
    """Return an answer as COCO's result, without outline."""
    box = box_record((one.x1, one.y1, one.x2, one.y2))
    return {**box, "category_id": one.label_id, "score": one.score}


Answer = TypeVar("Answer", Detection, Instance)


class Ledger:
    """What the judges of boxes and of masks keep alike, image by image."""

    def __init__(self, manifest: Manifest) -> None:
        self._labels = manifest.labels
        self._own = manifest.postprocess
        self._tally = Tally(manifest.labels)

    @property
    def changes(self) -> Mapping[str, Any]:
        """Almost every answer, so that the whole curve is there."""
        return whole_curve(self._own, MOST_BOXES)

    def add(self, found: Sequence[Answer], truth: Objects) -> tuple[tuple[Answer, ...], str]:
        """Take the answers *found* for an image with the objects *truth*.

        Returns:
            Those that the model itself gives, and how well they did, in words.
        """
        shown = own_answers(found, self._own)
        right = self._tally.add(Boxes.of(shown), truth)
        return shown, found_of(right, int(np.count_nonzero(~truth.crowd)), "objects")

    def figures(self, metrics: Mapping[str, float], precision: AveragePrecision) -> Figures:
        """Return *metrics* with *precision* by class, and the confusions."""
        return Figures(
            metrics=metrics,
            classes=precision_table(self._labels, precision),
            confusion=self._tally.confusion,
        )


class DetectionJudge:
    """Lets COCO's code compare boxes."""

    def __init__(self, manifest: Manifest) -> None:
        self._ledger = Ledger(manifest)
        self._boxes = PrecisionJudge(len(manifest.labels), "bbox")

    @property
    def changes(self) -> Mapping[str, Any]:
        """Almost every box."""
        return self._ledger.changes

    def add(self, prediction: Detections, truth: Objects, size: tuple[int, int]) -> Verdict:
        """Take the *prediction* for an image with the objects *truth*."""
        self._boxes.add(truth_records(truth), [found_record(one) for one in prediction.detections[:MOST_BOXES]], size)
        shown, said = self._ledger.add(prediction.detections, truth)
        return Verdict(shown=replace(prediction, detections=shown), said=said)

    def figures(self) -> Figures:
        """Return the average precision, by class too, and the confusions."""
        found = self._boxes.figures()
        return self._ledger.figures(precision_metrics(found), found)


def box_agreement(ours: Sequence[Boxes], theirs: Sequence[Boxes]) -> float:
    """Return the share of the boxes of both that have a partner of the same class, overlapping by half; 1 if none."""
    matched = total = 0
    for one, other in zip(ours, theirs, strict=True):
        alike = overlaps(one.boxes, other.boxes) * (one.labels[:, None] == other.labels[None])
        matched += 2 * len(greedy_pairs(alike, LEAST_OVERLAP))
        total += len(one.labels) + len(other.labels)
    return matched / total if total else 1.0


METRIC = Metric(
    primary="map50_95",
    truth="objects",
    judge=DetectionJudge,
    answer=lambda prediction: Boxes.of(prediction.detections),
    agreement=box_agreement,
)
