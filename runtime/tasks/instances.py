"""Instance segmentation: boxes as the detection heads give them, and a mask for each.

Rules:
    * A mask is a weighted sum of prototypes, the row's coefficients being the weights, through a sigmoid,
      above one half: so its sign decides, and no sigmoid is computed.
    * It is interpolated, not nearest: bilinear between the centers of the prototypes' cells, at the center
      of every pixel of the original that the box covers. That is Ultralytics' `process_mask_native` to
      within a pixel.
    * Only the box's own pixels are computed, a strip of rows at a time: the cost is that of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from runtime.manifest import Manifest
from runtime.placement import Placement
from runtime.tasks.base import Head, Outputs
from runtime.tasks.detection import finished, yolo
from runtime.tasks.detection.candidates import Candidates
from runtime.tasks.detection.given import Floats, Given, Read, is_float
from runtime.tasks.results import Instance, Instances

__all__ = ["HEADS", "instance_mask", "pixels_of"]

STRIP = 1 << 18  # pixels computed at a time: a megabyte of float32, which stays in the cache

Region = tuple[int, int, int, int]
"""left, top, right, bottom: whole pixels, right and bottom exclusive."""


def pixels_of(box: Sequence[float], width: int, height: int) -> Region:
    """Return the pixels whose centers *box* x1, y1, x2, y2 covers in a picture; at least one a direction."""
    left, top = min(round(box[0]), width - 1), min(round(box[1]), height - 1)
    return left, top, max(left + 1, min(round(box[2]), width)), max(top + 1, min(round(box[3]), height))


def instance_mask(prototypes: Floats, weights: Floats, region: Region, placement: Placement) -> npt.NDArray[np.bool_]:
    """Return which pixels of *region* belong to the object.

    Args:
        prototypes: float32, (K, h, w), over the model's whole input.
        weights: float32, (K,), the coefficients of the object.
        region: Of the upright original.
        placement: Where the original lies in the model's input.

    Returns:
        bool, (bottom - top, right - left).
    """
    left, top, right, bottom = region
    rows, columns = prototypes.shape[1:]
    x = (np.arange(left, right) + 0.5) * placement.scale_x + placement.left
    y = (np.arange(top, bottom) + 0.5) * placement.scale_y + placement.top
    west, east, x_share = _neighbors(x * columns / placement.input_width, columns)
    north, south, y_share = _neighbors(y * rows / placement.input_height, rows)
    first_row, first_column = int(north[0]), int(west[0])
    part = prototypes[:, first_row : south[-1] + 1, first_column : east[-1] + 1]
    logits = np.tensordot(weights, part, axes=1)
    west_logits = logits[:, west - first_column]
    across = west_logits + (logits[:, east - first_column] - west_logits) * x_share
    north, south = north - first_row, south - first_row
    mask = np.empty((bottom - top, right - left), np.bool_)
    step = max(1, STRIP // (right - left))
    for start in range(0, len(mask), step):
        strip = slice(start, start + step)
        upper = across[north[strip]]
        between = across[south[strip]]
        between -= upper
        between *= y_share[strip, None]
        between += upper
        np.greater(between, 0, out=mask[strip])
    return mask


def _neighbors(at: npt.NDArray[np.float64], cells: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    """Return the cells before and behind each position *at*, in cells from the edge, and the latter's share."""
    from_center = np.clip(at - 0.5, 0, cells - 1)  # beyond the outermost centers nothing changes any more
    before = from_center.astype(np.int64)
    return before, np.minimum(before + 1, cells - 1), (from_center - before).astype(np.float32)


@np.errstate(invalid="ignore", over="ignore")  # what is not finite is no object
def _decode(read: Read, outputs: Outputs, sizes: Sequence[tuple[int, int]], manifest: Manifest) -> list[Instances]:
    """Return one `Instances` an image; see `runtime.tasks.base.Decode`."""
    given = Given(outputs, sizes, manifest)
    name = given.find(
        "prototypes",
        lambda array: is_float(array) and array.ndim == 4 and len(array) == len(sizes) and array.size > 0,
        f"floating ({len(sizes)}, coefficients, height, width)",
    )
    prototypes = given.outputs[name]
    objects = read(given, (prototypes.shape[1], prototypes.shape[3]))
    if objects.rest != prototypes.shape[1]:  # TensorFlow's exports have them last
        prototypes = prototypes.transpose(0, 3, 1, 2)
    return [
        _instances(given, found, one.astype(np.float32, copy=False), placement)
        for one, (placement, found) in zip(prototypes, objects.images, strict=True)
    ]


def _instances(given: Given, found: Candidates, prototypes: Floats, placement: Placement) -> Instances:
    """Return *found*, in pixels of the original, with their masks."""
    instances = []
    for detection, weights in zip(given.detections(found).detections, found.rest, strict=True):
        box = (detection.x1, detection.y1, detection.x2, detection.y2)
        region = pixels_of(box, placement.width, placement.height)
        mask = instance_mask(prototypes, weights, region, placement)
        instances.append(
            Instance(detection.label_id, detection.label, detection.score, *box, region[0], region[1], mask)
        )
    return Instances(tuple(instances))


def _head(read: Read, what: str) -> Head:
    return Head(task="segmentation", result=Instances, decode=partial(_decode, read), what=what)


HEADS: Mapping[str, Head] = {
    "yolov8-seg": _head(
        partial(yolo.read, yolo.LAYOUTS["yolov8"]),
        "YOLOv8, 9, 11, 12 with masks: predictions (N, 4 + classes + K, boxes), prototypes (N, K, h, w)",
    ),
    "yolov5-seg": _head(
        partial(yolo.read, yolo.LAYOUTS["yolov5"]),
        "YOLOv5 with masks: predictions (N, boxes, 5 + classes + K), prototypes (N, K, h, w)",
    ),
    "boxes-seg": _head(
        finished.read,
        "finished boxes with masks (YOLO26): rows (N, M, 6 + K) of x1 y1 x2 y2 score label, prototypes (N, K, h, w)",
    ),
}
