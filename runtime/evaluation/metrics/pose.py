"""Pose: average precision by object keypoint similarity, OKS (https://cocodataset.org/#keypoints-eval).

Rules:
    * OKS of a body is the mean over its labelled keypoints of exp(-d² / (2 s² k²)): d is the distance, s² the area of
      the body, k twice the sigma of the keypoint. It takes the place of the overlap of boxes.
    * The sigmas are COCO's where there are 17 keypoints; otherwise all have the mean of COCO's, and a note says so.
    * Bodies without a labelled keypoint, and crowds, are neither asked for nor held against who finds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.datasets import Objects
from runtime.errors import DatasetError
from runtime.evaluation.metrics.base import Figures, Metric, Verdict, found_of
from runtime.evaluation.metrics.boxes import greedy_pairs
from runtime.evaluation.metrics.coco import (
    COCO_SIGMAS,
    MOST_BODIES,
    PrecisionJudge,
    box_record,
    own_answers,
    whole_curve,
)
from runtime.evaluation.metrics.detection import truth_records
from runtime.manifest import Manifest
from runtime.tasks import Pose, Poses

__all__ = ["METRIC", "Bodies", "PoseJudge", "keypoint_similarity", "sigmas_of"]

SAME = 0.5  # OKS from which two bodies are the same

Floats = npt.NDArray[np.float64]


def sigmas_of(keypoints: int) -> Floats:
    """Return how much people differ in each of *keypoints* points, (K,)."""
    return COCO_SIGMAS if keypoints == len(COCO_SIGMAS) else np.full(keypoints, COCO_SIGMAS.mean())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bodies:
    """The bodies found in one image at the model's own threshold.

    Attributes:
        points: float64, (n, K, 2): x, y.
        areas: float64, (n,): of their boxes.
    """

    points: Floats
    areas: Floats

    @classmethod
    def of(cls, poses: Sequence[Pose]) -> Bodies:
        """Return those of *poses*."""
        points = np.array([[(point.x, point.y) for point in pose.keypoints] for pose in poses], np.float64)
        areas = np.array([max(0.0, one.x2 - one.x1) * max(0.0, one.y2 - one.y1) for one in poses], np.float64)
        return cls(points=points, areas=areas)

    def __len__(self) -> int:
        return len(self.areas)


def keypoint_similarity(ours: Floats, theirs: Floats, areas: Floats, known: npt.NDArray[np.bool_]) -> Floats:
    """Return OKS, (n, m), of each of *ours* with each of *theirs*; 0 for a body of *ours* without a known point.

    Args:
        ours: (n, K, 2), the truth.
        theirs: (m, K, 2).
        areas: (n,), of the bodies of *ours*.
        known: (n, K), which points of *ours* are labelled.
    """
    squares = ((ours[:, None] - theirs[None]) ** 2).sum(axis=3)
    scale = 2 * np.maximum(areas, np.spacing(1))[:, None] * (2 * sigmas_of(ours.shape[1])[None]) ** 2
    alike = np.exp(-squares / scale[:, None]) * known[:, None]
    return np.asarray(alike.sum(axis=2) / np.maximum(1, known.sum(axis=1))[:, None])


class PoseJudge:
    """Lets COCO's code compare bodies."""

    def __init__(self, manifest: Manifest) -> None:
        self._own = manifest.postprocess
        self._keypoints = len(manifest.postprocess.keypoints)
        self._sigmas = sigmas_of(self._keypoints)
        self._bodies = PrecisionJudge(1, "keypoints", self._sigmas)

    @property
    def changes(self) -> Mapping[str, Any]:
        """Almost every body, so that the whole curve is there."""
        return whole_curve(self._own, MOST_BODIES)

    def add(self, prediction: Poses, truth: Objects, size: tuple[int, int]) -> Verdict:
        """Take the *prediction* for an image with the bodies *truth*, whose keypoints are labelled.

        Raises:
            DatasetError: They have another number of keypoints than the model's.
        """
        points = np.zeros((0, self._keypoints, 3)) if truth.keypoints is None else truth.keypoints
        if points.shape[1] != self._keypoints:
            raise DatasetError(f"bodies have {points.shape[1]} labelled keypoints; the model has {self._keypoints}")
        labelled = [
            {
                **record,
                "category_id": 0,
                "keypoints": body.ravel().tolist(),
                "num_keypoints": np.count_nonzero(body[:, 2]),
            }
            for record, body in zip(truth_records(truth), points, strict=True)
        ]
        self._bodies.add(labelled, [_record(pose) for pose in prediction.poses[:MOST_BODIES]], size)
        shown = replace(prediction, poses=own_answers(prediction.poses, self._own))
        right, wanted = _matched(Bodies.of(shown.poses), points, truth)
        return Verdict(shown=shown, said=found_of(right, wanted, "bodies"))

    def figures(self) -> Figures:
        """Return the average precision by OKS."""
        found = self._bodies.figures()
        uniform = f"OKS with the sigma {self._sigmas[0]:.3f} for all {self._keypoints} keypoints: COCO's are for its 17"
        return Figures(
            metrics={"oks_ap": found.ap, "oks_ap50": found.ap50, "oks_ap75": found.ap75, "oks_ar": found.recall},
            notes=() if self._keypoints == len(COCO_SIGMAS) else (uniform,),
        )


def _record(pose: Pose) -> dict[str, Any]:
    """Return *pose* as COCO's result; what a model thinks of a point's visibility does not count there."""
    points = [value for point in pose.keypoints for value in (point.x, point.y, 1.0)]
    box = box_record((pose.x1, pose.y1, pose.x2, pose.y2))
    return {**box, "category_id": 0, "score": pose.score, "keypoints": points}


def _matched(found: Bodies, points: Floats, truth: Objects) -> tuple[int, int]:
    """Return how many labelled bodies were found, and how many there are."""
    wanted = (points[..., 2] > 0).any(axis=1) & ~truth.crowd
    if not wanted.any() or not len(found):
        return 0, int(wanted.sum())
    alike = keypoint_similarity(points[wanted, :, :2], found.points, truth.areas[wanted], points[wanted, :, 2] > 0)
    return len(greedy_pairs(alike, SAME)), int(wanted.sum())


def _agreement(ours: Sequence[Bodies], theirs: Sequence[Bodies]) -> float:
    """Return the mean OKS of the bodies of both with their partners, 0 for one that has none; 1 if there are none."""
    alike = total = 0.0
    for one, other in zip(ours, theirs, strict=True):
        total += len(one) + len(other)
        if len(one) and len(other):
            likeness = keypoint_similarity(one.points, other.points, one.areas, np.ones(one.points.shape[:2], np.bool_))
            alike += 2 * sum(likeness[pair] for pair in greedy_pairs(likeness, np.spacing(1)))
    return float(alike / total) if total else 1.0


METRIC = Metric(
    primary="oks_ap",
    truth="keypoints",
    judge=PoseJudge,
    answer=lambda prediction: Bodies.of(prediction.poses),
    agreement=_agreement,
)
