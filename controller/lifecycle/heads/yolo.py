"""One-shot detectors with a prediction for every cell of a grid: YOLO in its dialects, with masks and keypoints.

What tells them apart:
    * YOLOv8 and later predict one box a cell, 4 + C numbers each, and lay them out channels first.
    * YOLOv5 and v7 predict three boxes a cell, 5 + C numbers each (objectness), channels last.
    * YOLOX predicts one box a cell, 5 + C numbers, channels last; its coordinates are relative to the cell, so that
      they do not follow the grid. Once decoded inside the graph they do, and it reads like a YOLOv5.
    * A segmentation model gives prototypes (N, K, h, w) too, and K coefficients behind each prediction; a pose model
      two or three numbers a keypoint there. Unless somebody says otherwise, poses are of one class, a body.
    * One box a cell, channels last, decoded, and nobody says how many classes there are: that could be either,
      and both heads say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from controller.lifecycle.heads.base import Array, Certainty, Evidence, Fit, Rule, Seen
from controller.lifecycle.heads.numbers import (
    anchor_grid,
    are_normalized,
    are_probabilities,
    are_whole,
    box_order,
    boxes_a_cell,
    follows_grid,
)
from runtime.drawing.skeleton import COCO_KEYPOINTS

__all__ = ["RULES", "keypoint_names", "keypoint_shapes", "prototypes"]

BOX = 4  # numbers
LEAST_ANCHORS = 3  # times as many as channels, where no grid tells which is which


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """One way to read a 3-D output: which axis counts the boxes, and by what grid.

    Attributes:
        seen: The output.
        rows: (n * anchors, channels).
        anchors: Boxes a picture.
        channels_first: As laid out.
        grid: (strides, boxes a cell), or ``None`` if the number of boxes is none of a grid's.
    """

    seen: Seen
    rows: Array
    anchors: int
    channels_first: bool
    grid: tuple[tuple[int, ...], int] | None

    @property
    def channels(self) -> int:
        return int(self.rows.shape[1])


def _layouts(evidence: Evidence) -> Iterator[_Layout]:
    for seen in evidence.floats(3):
        for channels_first in (True, False):
            laid = seen.values.transpose(0, 2, 1) if channels_first else seen.values
            anchors, channels = laid.shape[1:]
            if anchors * channels == 0:
                continue
            grid = boxes_a_cell(anchors, evidence.height, evidence.width)
            if grid is None and evidence.classes is None and anchors < LEAST_ANCHORS * channels:
                continue
            rows = laid.reshape(-1, channels)
            yield _Layout(seen=seen, rows=rows, anchors=anchors, channels_first=channels_first, grid=grid)


def _is_decoded(layout: _Layout, evidence: Evidence) -> bool:
    """Whether the boxes lie where their cells are; taken for granted where there is no grid to compare with."""
    if layout.grid is None:
        return True
    grid = anchor_grid(*layout.grid, evidence.height, evidence.width)
    return follows_grid(layout.rows[: layout.anchors, :2], grid)


def _fields(rows: Array, scores: Array, evidence: Evidence) -> dict[str, Any]:
    """Return what the numbers in *rows* say of boxes and *scores*, as fields of `Postprocess`."""
    boxes = rows[:, :BOX]
    return {
        "boxes": box_order(boxes, "cxcywh", evidence.height, evidence.width),
        "normalized": bool(are_normalized(boxes)),
        "activation": "none" if are_probabilities(scores) else "sigmoid",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dialect:
    """What distinguishes a family.

    Attributes:
        before: Numbers in front of the class scores.
        a_cell: Boxes a cell where there is a grid.
        channels_first: The only layout that it has; ``None``: either.
        makers: Whose metadata vouch for it.
    """

    before: int
    a_cell: tuple[int, ...]
    channels_first: bool | None
    makers: tuple[str, ...]


V8 = _Dialect(before=BOX, a_cell=(1,), channels_first=None, makers=("ultralytics",))
V5 = _Dialect(before=BOX + 1, a_cell=(1, 3), channels_first=False, makers=("yolov5",))
X = _Dialect(before=BOX + 1, a_cell=(1,), channels_first=False, makers=())


def _speaks(dialect: _Dialect, layout: _Layout) -> bool:
    """Whether *layout* is one that *dialect* has."""
    if dialect.channels_first is not None and layout.channels_first != dialect.channels_first:
        return False
    return layout.grid is None or layout.grid[1] in dialect.a_cell


def _certainty(dialect: _Dialect, layout: _Layout, evidence: Evidence) -> Certainty:
    """Return how sure *layout* makes of *dialect*, the number of classes agreeing."""
    if evidence.facts.maker in dialect.makers and evidence.facts.labels is not None and evidence.classes is not None:
        return Certainty.METADATA
    telling = layout.channels_first or (layout.grid is not None and layout.grid[1] == 3)
    if layout.grid is not None and (telling or evidence.classes is not None):
        return Certainty.GRID
    return Certainty.NUMBERS if telling else Certainty.SHAPE


def _fit(dialect: _Dialect, evidence: Evidence, extra: int = 0, **outputs: str) -> Fit | None:
    """Return how the first output in *dialect* fits, with *extra* numbers behind the class scores."""
    for layout in _layouts(evidence):
        classes = layout.channels - dialect.before - extra
        if not (_speaks(dialect, layout) and evidence.may_have(classes) and _is_decoded(layout, evidence)):
            continue
        scores = layout.rows[:, BOX : dialect.before + classes]
        if _are_no_scores(dialect, layout, scores):
            continue
        return Fit(
            outputs={"predictions": layout.seen.name, **outputs},
            classes=classes,
            fields=_fields(layout.rows, scores, evidence),
            seen=str(layout.seen),
            certainty=_certainty(dialect, layout, evidence),
        )
    return None


def _are_no_scores(dialect: _Dialect, layout: _Layout, scores: Array) -> bool:
    """Whether *scores* end in a finished row's label, or begin with YOLOv6's objectness, which is always 1."""
    objectness = dialect is V8 and not layout.channels_first and bool(np.all(scores[:, 0] == 1))
    return objectness or are_whole(scores[:, -1])


def _detecting(dialect: _Dialect) -> Rule:
    def rule(evidence: Evidence) -> Fit | None:
        masks = next(prototypes(evidence), None)
        return _fit(dialect, evidence) if masks is None else None

    return rule


def _yolox(evidence: Evidence) -> Fit | None:
    for layout in _layouts(evidence):
        classes = layout.channels - X.before
        if layout.grid is None or not _speaks(X, layout) or not evidence.may_have(classes):
            continue
        scores = layout.rows[:, BOX:]
        if _is_decoded(layout, evidence) or _are_no_scores(X, layout, scores):
            continue
        return Fit(
            outputs={"predictions": layout.seen.name},
            classes=classes,
            fields={"strides": layout.grid[0], "activation": "none" if are_probabilities(scores) else "sigmoid"},
            seen=f"{layout.seen}, one box relative to each cell of strides {', '.join(map(str, layout.grid[0]))}",
            certainty=Certainty.GRID,
        )
    return None


def prototypes(evidence: Evidence) -> Iterator[tuple[Seen, int]]:
    """Yield (output, K) of what may be masks' prototypes, (N, K, h, w) or (N, h, w, K).

    They are smaller than the input, of its proportions, and fewer than a side of theirs has pixels.
    """
    for seen in evidence.floats(4):
        for count, height, width in (seen.shape[1:], (seen.shape[3], *seen.shape[1:3])):
            proportions = abs(height * evidence.width - width * evidence.height) <= evidence.width + evidence.height
            if 1 < count < min(height, width) and height < evidence.height and proportions:
                yield seen, count


def _segmenting(dialect: _Dialect) -> Rule:
    def rule(evidence: Evidence) -> Fit | None:
        for seen, count in prototypes(evidence):
            fit = _fit(dialect, evidence, count, prototypes=seen.name)
            if fit is not None:
                return replace(fit, seen=f"{fit.seen} with prototypes {seen.name!r} {list(seen.shape)}")
        return None

    return rule


def _pose(evidence: Evidence) -> Fit | None:
    columns = [layout.channels - BOX - (evidence.classes or 1) for layout in _layouts(evidence)]
    for count, numbers in keypoint_shapes(evidence, columns):
        fit = _fit(V8, evidence, numbers * count)
        if fit is not None:
            fields = {**fit.fields, "keypoints": keypoint_names(count, evidence)}
            return replace(fit, seen=f"{fit.seen}, {count} keypoints", fields=fields)
    return None


def keypoint_shapes(evidence: Evidence, columns: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield (keypoints, numbers a keypoint) that there may be: as is known, or else all that fill *columns*."""
    if evidence.facts.keypoint_shape is not None:
        yield evidence.facts.keypoint_shape
        return
    for numbers in (3, 2):
        for width in columns:
            count = evidence.keypoints or width // numbers
            if count >= 1 and count * numbers == width:
                yield count, numbers


def keypoint_names(count: int, evidence: Evidence) -> tuple[str, ...]:
    """Return names for so many keypoints: the file's own, COCO's if there are 17, otherwise by number."""
    if len(evidence.facts.keypoints) == count:
        return evidence.facts.keypoints
    return COCO_KEYPOINTS if count == len(COCO_KEYPOINTS) else tuple(f"keypoint_{index}" for index in range(count))


RULES: Mapping[str, Callable[[Evidence], Fit | None]] = {
    "yolov8": _detecting(V8),
    "yolov5": _detecting(V5),
    "yolox": _yolox,
    "yolov8-seg": _segmenting(V8),
    "yolov5-seg": _segmenting(V5),
    "yolov8-pose": _pose,
}
