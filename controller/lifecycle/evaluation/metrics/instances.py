"""Instance segmentation: mean average precision of masks as COCO counts it, and of their boxes.

Rules:
    * As in detection, but that masks overlap instead of boxes; ``box_map50_95`` and its like are of the boxes.
    * Masks are kept as run lengths, which is what COCO's code compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from controller.lifecycle.evaluation.metrics.base import Figures, Metric, Verdict, found_of
from controller.lifecycle.evaluation.metrics.coco import MOST_BOXES, average_precision
from controller.lifecycle.evaluation.metrics.detection import (
    LEAST_SCORE,
    Boxes,
    Tally,
    box_agreement,
    found_record,
    precision_metrics,
    precision_table,
    truth_records,
)
from controller.lifecycle.evaluation.outlines import mask_rle, outline_rle
from runtime.datasets import Objects
from runtime.manifest import Manifest
from runtime.tasks import Instance, Instances

__all__ = ["METRIC", "InstancesJudge"]


def _rle(one: Instance, size: tuple[int, int]) -> dict[str, Any]:
    """Return the mask of *one* as run lengths over an image of *size* (height, width)."""
    height, width = one.mask.shape
    whole = np.zeros(size, np.bool_)
    whole[one.top : one.top + height, one.left : one.left + width] = one.mask
    return mask_rle(whole)


class InstancesJudge:
    """Collects masks and boxes, and lets COCO's code compare them."""

    def __init__(self, manifest: Manifest) -> None:
        self._labels = manifest.labels
        self._own = manifest.postprocess
        self._sizes: list[tuple[int, int]] = []
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._answers: list[Boxes] = []
        self._tally = Tally(manifest.labels)

    @property
    def changes(self) -> Mapping[str, Any]:
        """Almost every object, so that the whole curve is there, but no more than count: masks take time."""
        return {"score_threshold": min(LEAST_SCORE, self._own.score_threshold), "max_detections": MOST_BOXES}

    def add(self, prediction: Instances, truth: Objects, size: tuple[int, int]) -> Verdict:
        """Take the *prediction* for an image with the objects *truth*, all with outlines."""
        image = len(self._sizes)
        self._sizes.append(size)
        for record, outline in zip(truth_records(image, truth), truth.outlines or (), strict=True):
            self._truth.append({**record, "segmentation": outline_rle(outline, size)})
        for one in prediction.instances:
            self._found.append({**found_record(image, one), "segmentation": _rle(one, size)})
        shown = replace(
            prediction, instances=tuple(one for one in prediction.instances if one.score >= self._own.score_threshold)
        )
        self._answers.append(Boxes.of(shown.instances))
        right = self._tally.add(self._answers[-1], truth)
        return Verdict(shown=shown, said=found_of(right, int(np.count_nonzero(~truth.crowd)), "objects"))

    def figures(self) -> Figures:
        """Return the average precision of masks and boxes, by class too, and the confusions."""
        count = len(self._labels)
        masks = average_precision(self._truth, self._found, self._sizes, count, "segm")
        boxes = average_precision(self._truth, self._found, self._sizes, count, "bbox")
        return Figures(
            metrics=precision_metrics(masks) | precision_metrics(boxes, "box_"),
            answers=tuple(self._answers),
            classes=precision_table(self._labels, masks, self._truth),
            confusion=self._tally.confusion,
        )


METRIC = Metric(primary="map50_95", truth="outlines", judge=InstancesJudge, agreement=box_agreement)
