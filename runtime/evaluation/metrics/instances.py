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

from runtime.datasets import Objects
from runtime.evaluation.metrics.base import Figures, Metric, Verdict
from runtime.evaluation.metrics.coco import MOST_BOXES, PrecisionJudge
from runtime.evaluation.metrics.detection import (
    Boxes,
    Ledger,
    box_agreement,
    found_record,
    precision_metrics,
    truth_records,
)
from runtime.evaluation.outlines import mask_rle, outline_rle
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
    """Lets COCO's code compare masks and boxes."""

    def __init__(self, manifest: Manifest) -> None:
        self._ledger = Ledger(manifest)
        self._masks = PrecisionJudge(len(manifest.labels), "segm")
        self._boxes = PrecisionJudge(len(manifest.labels), "bbox")

    @property
    def changes(self) -> Mapping[str, Any]:
        """Almost every object, but no more than count: masks take time."""
        return {**self._ledger.changes, "max_detections": MOST_BOXES}

    def add(self, prediction: Instances, truth: Objects, size: tuple[int, int]) -> Verdict:
        """Take the *prediction* for an image with the objects *truth*, all with outlines."""
        wanted, counted = truth_records(truth), prediction.instances[:MOST_BOXES]
        found = [found_record(one) for one in counted]
        self._boxes.add(wanted, found, size)
        outlines = [outline_rle(outline, size) for outline in truth.outlines or ()]
        self._masks.add(
            [{**one, "segmentation": outline} for one, outline in zip(wanted, outlines, strict=True)],
            [{**one, "segmentation": _rle(object_, size)} for one, object_ in zip(found, counted, strict=True)],
            size,
        )
        shown, said = self._ledger.add(prediction.instances, truth)
        return Verdict(shown=replace(prediction, instances=shown), said=said)

    def figures(self) -> Figures:
        """Return the average precision of masks and boxes, by class too, and the confusions."""
        masks, boxes = self._masks.figures(), self._boxes.figures()
        return self._ledger.figures(precision_metrics(masks) | precision_metrics(boxes, "box_"), masks)


METRIC = Metric(
    primary="map50_95",
    truth="outlines",
    judge=InstancesJudge,
    answer=lambda prediction: Boxes.of(prediction.instances),
    agreement=box_agreement,
)
