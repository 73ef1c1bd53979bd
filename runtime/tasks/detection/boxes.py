"""Boxes: their arithmetic, non-maximum suppression, and the way back to the original picture.

Rules:
    * Inside, a box is x1, y1, x2, y2 in float64; first in pixels of the model's input, at the end in pixels
      of the upright original.
    * Suppression happens in the input's pixels, before anything is clipped, as the models' own code does it.
    * The surest come first; of equals, the one that the model gave first. The same outputs give the same
      answer on every machine.
    * A box without an inside (NaN, infinite, turned inside out, outside the picture) is no object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from runtime.manifest import Postprocess
from runtime.placement import Placement
from runtime.tasks.detection.candidates import Candidates

__all__ = ["corners", "in_pixels", "on_original", "sound", "suppress"]

Boxes = npt.NDArray[np.float64]

FAR = 1e6  # pixels; beyond every picture, and small enough for float64 to set a thousand classes that far apart
FIRST_ROUND = 1024  # candidates; in nearly every picture that is all


def _from_center(boxes: Boxes) -> Boxes:
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([center - half, center + half], axis=1)


def _from_corner(boxes: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


ORDERS: Mapping[str, Callable[[Boxes], Boxes]] = {
    "xyxy": lambda boxes: boxes,
    "cxcywh": _from_center,
    "xywh": _from_corner,
    "yxyx": lambda boxes: boxes[:, [1, 0, 3, 2]],
}


def corners(boxes: npt.NDArray[np.floating], order: str) -> Boxes:
    """Return *boxes* (n, 4), in the *order* that `Postprocess.boxes` names, as x1, y1, x2, y2."""
    return ORDERS[order](np.asarray(boxes, np.float64))


def in_pixels(points: Boxes, placement: Placement, post: Postprocess) -> Boxes:
    """Return *points* (n, 2k), x and y in turn, in pixels of the input; as they are unless ``normalized``."""
    if not post.normalized:
        return points
    size = np.array([placement.input_width, placement.input_height], np.float64)
    return np.asarray(points * np.tile(size, points.shape[1] // 2), np.float64)


def sound(found: Candidates) -> Candidates:
    """Return those of *found* whose box has an inside and all of whose numbers are finite."""
    width, height = found.boxes[:, 2] - found.boxes[:, 0], found.boxes[:, 3] - found.boxes[:, 1]
    finite = np.isfinite(found.boxes).all(axis=1) & np.isfinite(found.rest).all(axis=1)
    keep = finite & (width > 0) & (height > 0)
    return found if keep.all() else found.take(keep)


def suppress(found: Candidates, iou_threshold: float, most: int) -> Candidates:
    """Return the *most* surest of *found* that overlap no surer one of their class by more than *iou_threshold*.

    Args:
        found: Of finite boxes, in any order.
        iou_threshold: Intersection over union, 0 to 1; equal to it is still kept.
        most: How many at most.

    Returns:
        Surest first.
    """
    ordered = found.surest_first()
    boxes = np.clip(ordered.boxes, -FAR, FAR)
    boxes[:, 2:] -= boxes[:, :2]
    # OpenCV 4 moves each class aside by the largest coordinate: negative ones would reach into the class before.
    boxes[:, :2] -= boxes[:, :2].min(axis=0, initial=0)
    ranks = np.arange(len(boxes), 0, -1, dtype=np.float32)  # instead of scores: no ties, and none is 0
    labels = ordered.labels.astype(np.int32)
    taken = max(FIRST_ROUND, 2 * most)
    while True:  # who survives depends on surer ones alone, so the first rounds say all once there are enough
        kept = _nms(boxes[:taken], ranks[:taken], labels[:taken], iou_threshold)
        if len(kept) >= most or taken >= len(boxes):
            return ordered.take(kept[:most])
        taken *= 4


def _nms(
    boxes: Boxes, ranks: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], iou_threshold: float
) -> npt.NDArray[np.int64]:
    """Return the positions of the survivors, by falling rank; *boxes* are x, y, width, height and not negative.

    OpenCV's own limits stay open: its score threshold is exclusive, and ``top_k`` counts candidates,
    not survivors (https://github.com/opencv/opencv/blob/4.x/modules/dnn/src/nms.inl.hpp).
    """
    import cv2  # 17 MB, which those that only name the columns of a task do without

    kept = cv2.dnn.NMSBoxesBatched(boxes.tolist(), ranks.tolist(), labels.tolist(), 0.0, iou_threshold)
    return np.asarray(kept, np.int64).reshape(-1)


def on_original(found: Candidates, placement: Placement) -> Candidates:
    """Return *found* with its boxes in pixels of the upright original, clipped to it; what is outside is dropped."""
    return sound(found.at(placement.boxes_to_original(found.boxes)))
