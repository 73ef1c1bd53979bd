"""Predictions drawn on the pictures that they are about, for people to look at.

Rules:
    * One row of `DRAWERS` a kind of result that can be seen; an embedding cannot.
    * A class has the colour of `runtime.palette`, whatever else is in the picture.
    * What is surest lies on top; text comes last, on a ground of its own, and is never covered by a shape.
    * The same picture and prediction give the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.drawing.canvas import Canvas
from runtime.drawing.skeleton import bones
from runtime.manifest import Postprocess
from runtime.palette import color_of
from runtime.tasks import (
    Classification,
    Detection,
    Detections,
    Instance,
    Instances,
    Matte,
    Pose,
    Poses,
    Prediction,
    Segmentation,
)

__all__ = ["BACKGROUNDS", "DRAWERS", "draw"]

Draw = Callable[[Canvas, Any, Postprocess], None]

CAPTION = (0, 0, 0)  # ground of a text that is about the whole picture
BACKGROUNDS = frozenset({"background", "__background__", "_background_", "bg", "unlabeled", "unlabelled", "void"})
LEGEND = 12  # classes at most


def draw(picture: npt.NDArray[np.uint8], prediction: Prediction, postprocess: Postprocess) -> npt.NDArray[np.uint8]:
    """Return *picture* with what *prediction* says of it.

    Args:
        picture: uint8, (H, W, 3), RGB: the upright original.
        prediction: Of a kind that `DRAWERS` has.
        postprocess: Of the model: the names of keypoints, the threshold below which they are left out, and which class
            means that nothing is there.

    Returns:
        uint8, (f·H, f·W, 3), RGB: *f* is 1 unless the picture is too small for a readable text.
    """
    canvas = Canvas(picture)
    DRAWERS[type(prediction)](canvas, prediction, postprocess)
    return canvas.finish()


def _draw_classification(canvas: Canvas, prediction: Classification, _: Postprocess) -> None:
    canvas.caption([(f"{one.label} {one.score:.2f}", CAPTION) for one in prediction.top_k])


def _draw_box(canvas: Canvas, one: Detection | Instance) -> None:
    color = color_of(one.label_id)
    canvas.box((one.x1, one.y1, one.x2, one.y2), color)
    canvas.label(f"{one.label} {one.score:.2f}", (one.x1, one.y1, one.x2, one.y2), color)


def _draw_detections(canvas: Canvas, prediction: Detections, _: Postprocess) -> None:
    for one in reversed(prediction.detections):
        _draw_box(canvas, one)


def _draw_instances(canvas: Canvas, prediction: Instances, _: Postprocess) -> None:
    for one in reversed(prediction.instances):
        canvas.tint(one.mask, color_of(one.label_id), left=one.left, top=one.top, outlined=True)
    for one in reversed(prediction.instances):
        _draw_box(canvas, one)


def _draw_segmentation(canvas: Canvas, prediction: Segmentation, postprocess: Postprocess) -> None:
    seen = [
        one
        for one in prediction.classes
        if one.label_id != postprocess.none_label and one.label.lower() not in BACKGROUNDS
    ]
    for one in seen:
        canvas.tint(prediction.mask == one.label_id, color_of(one.label_id), outlined=True)
    size = prediction.mask.size
    canvas.caption([(f"{one.label} {one.pixels / size:.1%}", color_of(one.label_id)) for one in seen[:LEGEND]])


def _draw_matte(canvas: Canvas, prediction: Matte, _: Postprocess) -> None:
    canvas.dim(prediction.mask)
    canvas.caption([(f"foreground {prediction.coverage:.1%}", CAPTION)])


def _draw_poses(canvas: Canvas, prediction: Poses, postprocess: Postprocess) -> None:
    for number, pose in reversed(list(enumerate(prediction.poses))):
        _draw_pose(canvas, pose, number, postprocess)


def _draw_pose(canvas: Canvas, pose: Pose, number: int, postprocess: Postprocess) -> None:
    sure = {
        index: (point.x, point.y)
        for index, point in enumerate(pose.keypoints)
        if point.score >= postprocess.score_threshold
    }
    color = color_of(number)
    box = (pose.x1, pose.y1, pose.x2, pose.y2)
    canvas.box(box, color)
    for one, other in bones(postprocess.keypoints):
        if one in sure and other in sure:
            canvas.line(sure[one], sure[other], color)
    for index, point in sure.items():
        canvas.point(point, color_of(index))
    canvas.label(f"{pose.score:.2f}", box, color)


DRAWERS: Mapping[type[Prediction], Draw] = {
    Classification: _draw_classification,
    Detections: _draw_detections,
    Instances: _draw_instances,
    Segmentation: _draw_segmentation,
    Matte: _draw_matte,
    Poses: _draw_poses,
}
"""By kind of result: how it is drawn."""
