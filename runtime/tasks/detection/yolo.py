"""YOLO heads: one output, a row an anchor: box, perhaps objectness, class scores, perhaps more.

Rules:
    * `LAYOUTS` says what the columns are; `read` serves detection, instance masks and poses alike.
    * Rows and columns may come either way round. The number of labels says which are the columns; where it
      says nothing, the smaller dimension is (there are more anchors than classes).
    * The score is class score times objectness, where the head has one.
    * One object a row, of its best class, unless ``multi_label`` (see `candidates`).

Sources: Ultralytics `Detect` and `non_max_suppression` (YOLOv8, 9, 11, 12: no objectness), YOLOv5 and YOLOv7
`Detect` (objectness; its TensorFlow exports give shares of the input's size), YOLOX `demo_postprocess`
(numbers relative to grids).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from runtime.errors import ModelError
from runtime.manifest import Manifest
from runtime.placement import Placement
from runtime.tasks.base import Head, Outputs
from runtime.tasks.detection.boxes import corners, in_pixels, on_original, sound, suppress
from runtime.tasks.detection.candidates import Candidates, Objects, choose
from runtime.tasks.detection.given import Array, Given, is_float
from runtime.tasks.results import Detections

__all__ = ["HEADS", "LAYOUTS", "YOLOX_STRIDES", "Layout", "read"]

YOLOX_STRIDES = (8, 16, 32)  # https://github.com/Megvii-BaseDetection/YOLOX, `demo_postprocess` without P6


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the columns of a row are.

    Attributes:
        lead: Columns before the class scores: 4 of the box, then perhaps the objectness.
        grid: Whether boxes are relative to the cells of grids, (raw + cell) * stride and exp(raw) * stride.
    """

    lead: int
    grid: bool = False

    @property
    def objectness(self) -> bool:
        """Whether the fifth column says how surely there is anything at all."""
        return self.lead == 5

    @property
    def columns_first(self) -> bool:
        """Whether models of this kind give (N, columns, rows); decides only where the shape does not."""
        return self.lead == 4


LAYOUTS: Mapping[str, Layout] = {
    "yolov8": Layout(lead=4),
    "yolov5": Layout(lead=5),
    "yolox": Layout(lead=5, grid=True),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """A batch of rows.

    Attributes:
        name: Of the output.
        values: Floating point, (N, A, lead + classes + rest).
        classes: How many columns are class scores.
        rest: How many columns are behind them.
    """

    name: str
    values: Array
    classes: int
    rest: int


def _rows(given: Given, layout: Layout, rests: Sequence[int]) -> _Rows:
    """Return the output ``predictions`` with its columns told apart; see `read`."""
    labels, images = len(given.manifest.labels), len(given.sizes)
    behind = "" if tuple(rests) == (0,) else f" + {' or '.join(map(str, rests)) or 'any number'} more"
    count = f"{layout.lead} + {labels or 'classes'}{behind}"
    expected = f"floating ({images}, {count}, boxes) or ({images}, boxes, {count})"
    name = given.find(
        "predictions", lambda array: is_float(array) and array.ndim == 3 and len(array) == images, expected
    )
    values = given.outputs[name]
    columns_last = (values.shape[2], values)
    columns_first = (values.shape[1], values.transpose(0, 2, 1))
    ways = [columns_first, columns_last] if layout.columns_first else [columns_last, columns_first]
    if not (labels and rests):
        ways = [min(ways, key=lambda way: way[0])]
    for columns, rows in ways:
        for rest in rests or (columns - layout.lead - (labels or 1),):
            classes = columns - layout.lead - rest
            if classes >= 1 and rest >= 0 and classes == (labels or classes):
                return _Rows(name=name, values=rows, classes=classes, rest=rest)
    raise given.refused(name, expected)


def read(layout: Layout, given: Given, rests: Sequence[int] = (0,)) -> Objects:
    """Return the objects that the output ``predictions`` shows.

    Args:
        layout: What the first columns are.
        given: The outputs.
        rests: How many columns may be behind the class scores, likeliest first; empty: any number.

    Raises:
        ModelError: The output does not fit the batch, the layout or the labels, or the manifest says what no
            such head means.
    """
    if given.post.activation == "softmax":
        raise ModelError(
            f"{given.manifest.reference}: a {given.post.kind} head takes activation none (the scores are "
            "probabilities) or sigmoid (they are logits); the manifest says softmax"
        )
    rows = _rows(given, layout, rests)
    return Objects(output=rows.name, rest=rows.rest, images=_objects(given, layout, rows))


def _objects(given: Given, layout: Layout, rows: _Rows) -> Iterator[tuple[Placement, Candidates]]:
    """Yield the objects of one image after the other; see `Objects.images`."""
    post = given.post
    class_ids = given.class_ids(rows.name, rows.classes)
    for index, values in enumerate(rows.values):
        placement = given.placement(index)
        table = values.astype(np.float32, copy=False)
        behind = layout.lead + rows.classes
        objectness = table[:, 4] if layout.objectness else None
        chosen = choose(table[:, layout.lead : behind], class_ids, post, objectness)
        boxes = table[chosen.rows, :4].astype(np.float64)
        if layout.grid:
            boxes = corners(_from_grid(given, rows, boxes, chosen.rows, placement), "cxcywh")
        else:
            boxes = in_pixels(corners(boxes, post.boxes), placement, post)
        found = Candidates(
            boxes=boxes,
            scores=chosen.scores,
            labels=chosen.labels,
            rest=table[chosen.rows, behind:],
        )
        kept = suppress(sound(found), post.iou_threshold, post.max_detections)
        yield placement, on_original(kept, placement)


def _from_grid(
    given: Given, rows: _Rows, boxes: npt.NDArray[np.float64], at: npt.NDArray[np.int64], placement: Placement
) -> npt.NDArray[np.float64]:
    """Return the (n, 4) raw *boxes* of the rows *at* in pixels of the input, center and size."""
    strides = given.post.strides or YOLOX_STRIDES
    cells, steps = _grid(placement.input_height, placement.input_width, strides)
    if len(cells) != rows.values.shape[1]:
        raise given.refused(
            rows.name,
            f"{len(cells)} boxes: the cells of grids of strides {', '.join(map(str, strides))} over an input of "
            f"{placement.input_width}x{placement.input_height}",
        )
    step = steps[at, None]
    return np.concatenate([(boxes[:, :2] + cells[at]) * step, np.exp(boxes[:, 2:]) * step], axis=1)


@lru_cache(maxsize=16)
def _grid(height: int, width: int, strides: tuple[int, ...]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return column and row, (A, 2), and stride, (A,), of the cells of all grids, row by row, grid by grid."""
    shapes = [(-(-height // stride), -(-width // stride)) for stride in strides]
    cells = [np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).reshape(-1, 2) for h, w in shapes]
    steps = np.repeat(np.array(strides, np.float64), [h * w for h, w in shapes])
    return np.concatenate(cells).astype(np.float64), steps


@np.errstate(invalid="ignore", over="ignore")  # what is not finite is dropped
def _decode(layout: Layout, outputs: Outputs, sizes: Sequence[tuple[int, int]], manifest: Manifest) -> list[Detections]:
    """Return one `Detections` an image; see `runtime.tasks.base.Decode`."""
    given = Given(outputs, sizes, manifest)
    return [given.detections(found) for _, found in read(layout, given).images]


WHAT: Mapping[str, str] = {
    "yolov8": "YOLOv8, 9, 11, 12: predictions (N, 4 + classes, boxes) or (N, boxes, 4 + classes), no objectness",
    "yolov5": "YOLOv5, YOLOv7: predictions (N, boxes, 5 + classes), box, objectness, class scores",
    "yolox": "YOLOX: predictions (N, boxes, 5 + classes), boxes relative to the cells of grids",
}

HEADS: Mapping[str, Head] = {
    kind: Head(task="detection", result=Detections, decode=partial(_decode, layout), what=WHAT[kind])
    for kind, layout in LAYOUTS.items()
}
