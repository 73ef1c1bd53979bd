"""Poses as YOLOs give them: a box a body, and its keypoints in the columns behind the class scores.

Rules:
    * A keypoint is x, y and how surely it is visible, or x and y alone, whose score is then 1.
    * The manifest's names say how many there are. Without names the number of columns does; where that
      leaves both ways open, a keypoint has three values.
    * Coordinates are shares of the input's size or pixels of it, as the boxes' are.
    * Keypoints are not clipped: a foot below the picture's edge is below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from runtime.manifest import Manifest
from runtime.placement import Placement
from runtime.tasks.base import Head, Outputs
from runtime.tasks.classification import ACTIVATIONS
from runtime.tasks.detection import finished, yolo
from runtime.tasks.detection.boxes import in_pixels
from runtime.tasks.detection.candidates import Candidates, Objects
from runtime.tasks.detection.given import Given, Read
from runtime.tasks.results import Detection, Keypoint, Pose, Poses

__all__ = ["HEADS"]


def _values(given: Given, objects: Objects) -> int:
    """Return how many values a keypoint has: 3 with a score, 2 without.

    Raises:
        ModelError: The columns hold no keypoints.
    """
    if given.post.keypoints:
        return objects.rest // len(given.post.keypoints)
    for values in (3, 2):
        if objects.rest and objects.rest % values == 0:
            return values
    raise given.refused(objects.output, f"2 or 3 columns a keypoint; it has {objects.rest} left for them")


def _poses(given: Given, found: Candidates, placement: Placement, values: int) -> Poses:
    """Return *found*, in pixels of the original, with their keypoints."""
    bodies, count = len(found), found.rest.shape[1] // values
    table = found.rest.reshape(bodies, count, values)
    flat = table[:, :, :2].reshape(bodies, 2 * count).astype(np.float64)
    points = placement.points_to_original(in_pixels(flat, placement, given.post).reshape(bodies, count, 2))
    scores = np.ones((bodies, count), np.float32)
    if values == 3:
        scores = table[:, :, 2]
    if values == 3 and given.post.activation == "sigmoid":
        scores = ACTIVATIONS["sigmoid"](scores)
    return Poses(
        tuple(
            _pose(detection, body, sure)
            for detection, body, sure in zip(
                given.detections(found).detections, points.tolist(), scores.tolist(), strict=True
            )
        )
    )


def _pose(body: Detection, points: Sequence[tuple[float, float]], scores: Sequence[float]) -> Pose:
    keypoints = tuple(Keypoint(x, y, score) for (x, y), score in zip(points, scores, strict=True))
    return Pose(score=body.score, x1=body.x1, y1=body.y1, x2=body.x2, y2=body.y2, keypoints=keypoints)


@np.errstate(invalid="ignore", over="ignore")  # what is not finite is dropped
def _decode(read: Read, outputs: Outputs, sizes: Sequence[tuple[int, int]], manifest: Manifest) -> list[Poses]:
    """Return one `Poses` an image; see `runtime.tasks.base.Decode`."""
    given = Given(outputs, sizes, manifest)
    names = len(given.post.keypoints)
    objects = read(given, (3 * names, 2 * names) if names else ())
    values = _values(given, objects)
    return [_poses(given, found, placement, values) for placement, found in objects.images]


def _head(read: Read, what: str) -> Head:
    return Head(task="pose", result=Poses, decode=partial(_decode, read), what=what)


HEADS: Mapping[str, Head] = {
    "yolov8-pose": _head(
        partial(yolo.read, yolo.LAYOUTS["yolov8"]),
        "YOLOv8, 11 poses: predictions (N, 4 + classes + 3 * keypoints, boxes), or 2 * keypoints",
    ),
    "boxes-pose": _head(
        finished.read,
        "finished poses (YOLO26): rows (N, M, 6 + 3 * keypoints) of x1 y1 x2 y2 score label keypoints",
    ),
}
