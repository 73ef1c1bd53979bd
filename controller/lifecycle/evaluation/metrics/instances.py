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

from controller.lifecycle.evaluation.metrics.base import Figures, Metric, Verdict
from controller.lifecycle.evaluation.metrics.coco import MOST_BOXES
from controller.lifecycle.evaluation.metrics.detection import (
    Ledger,
    box_agreement,
    found_record,
    precision_metrics,
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
        self._ledger = Ledger(manifest)
        self._found: list[dict[str, Any]] = []

    @property
    def changes(self) -> Mapping[str, Any]:
        """Almost every object, but no more than count: masks take time."""
        return {**self._ledger.changes, "max_detections": MOST_BOXES}

    def add(self, prediction: Instances, truth: Objects, size: tuple[int, int]) -> Verdict:
        """Take the *prediction* for an image with the objects *truth*, all with outlines."""
        image = self._ledger.images
        for record, outline in zip(truth_records(image, truth), truth.outlines or (), strict=True):
            self._ledger.truth.append({**record, "segmentation": outline_rle(outline, size)})
        for one in prediction.instances:
            self._found.append({**found_record(image, one), "segmentation": _rle(one, size)})
        shown, said = self._ledger.add(prediction.instances, truth, size)
        return Verdict(shown=replace(prediction, instances=shown), said=said)

    def figures(self) -> Figures:
        """Return the average precision of masks and boxes, by class too, and the confusions."""
        masks = self._ledger.precision(self._found, "segm")
        boxes = self._ledger.precision(self._found, "bbox")
        return self._ledger.figures(precision_metrics(masks) | precision_metrics(boxes, "box_"), masks)


METRIC = Metric(primary="map50_95", truth="outlines", judge=InstancesJudge, agreement=box_agreement)
