"""Manifests, known objects and plain loops to hold the detection heads against.

Everything here is written the long way, a box at a time, so that it shares no idea with the code it judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.artifact import Artifact
from runtime.manifest import Manifest, Postprocess, Preprocess, Resize, Task
from runtime.placement import Placement
from runtime.probe import probe_root
from runtime.tasks import Prediction, head_of

LETTERBOX = Preprocess(resize=Resize(mode="letterbox", size=(64, 96), antialias=False))
CORNER = Preprocess(resize=Resize(mode="letterbox", size=(64, 96), anchor="top-left", antialias=False))
SQUEEZED = Preprocess(resize=Resize(mode="exact", size=(64, 96)))
PREPROCESSES = (LETTERBOX, CORNER, SQUEEZED)
"""All to an input of 64 rows and 96 columns."""

INPUT = (64, 96)

Box = tuple[float, float, float, float]


def manifest_of(
    kind: str,
    labels: Sequence[str] = (),
    *,
    preprocess: Preprocess = SQUEEZED,
    task: Task = "detection",
    **postprocess: Any,
) -> Manifest:
    """Return a manifest with a head of *kind*; what the head does not read is that of the probe model."""
    postprocess.setdefault("activation", "none")
    return Artifact.open(probe_root()).manifest.model_copy(
        update={
            "task": task,
            "labels": tuple(labels),
            "preprocess": preprocess,
            "postprocess": Postprocess(kind=kind, **postprocess),
        }
    )


def decode(
    manifest: Manifest, sizes: Sequence[tuple[int, int]] | tuple[int, int], **outputs: np.ndarray
) -> list[Prediction]:
    """Return what the manifest's head makes of *outputs* for pictures of *sizes* (height, width)."""
    several = [sizes] if sizes and isinstance(sizes[0], int) else sizes
    return list(head_of(manifest).decode(outputs, several, manifest))


def to_input(box: Box, preprocess: Preprocess, size: tuple[int, int]) -> Box:
    """Return where *box* of a picture of *size* (height, width) lies in the model's input, in pixels."""
    height, width = size
    scale_y, scale_x = INPUT[0] / height, INPUT[1] / width
    if preprocess.resize.mode == "letterbox":
        scale_y = scale_x = min(scale_y, scale_x)
    placed = Placement.of(preprocess, height, width)
    x1, y1, x2, y2 = box
    return (
        x1 * scale_x + placed.left,
        y1 * scale_y + placed.top,
        x2 * scale_x + placed.left,
        y2 * scale_y + placed.top,
    )


def ordered(box: Box, order: str) -> Box:
    """Return *box* x1, y1, x2, y2 in the *order* that `Postprocess.boxes` names."""
    x1, y1, x2, y2 = box
    if order == "cxcywh":
        return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    if order == "xywh":
        return x1, y1, x2 - x1, y2 - y1
    return (y1, x1, y2, x2) if order == "yxyx" else box


def shares(box: Box, order: str) -> Box:
    """Return *box* in *order*, in pixels of the input, as shares of the input's size."""
    height, width = INPUT
    by = (height, width, height, width) if order == "yxyx" else (width, height, width, height)
    return tuple(value / size for value, size in zip(box, by, strict=True))


def iou(first: Box, second: Box) -> float:
    """Return the intersection of two boxes over their union."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def survivors(boxes: Sequence[Box], scores: Sequence[float], labels: Sequence[int], threshold: float) -> list[int]:
    """Return which of *boxes* overlap no surer one of their class by more than *threshold*, surest first."""
    kept: list[int] = []
    for one in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        rivals = [other for other in kept if labels[other] == labels[one]]
        if all(iou(boxes[one], boxes[other]) <= threshold for other in rivals):
            kept.append(one)
    return kept
