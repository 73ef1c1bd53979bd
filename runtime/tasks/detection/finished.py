"""Heads whose graph did all the work: finished objects, in one table or in three or four outputs.

Rules:
    * Nothing is suppressed: what overlaps, the model means so. The threshold still holds.
    * Scores are probabilities as they come; `activation` says nothing here.
    * A table of 6 columns is x1 y1 x2 y2 score label, (N, M, 6) (YOLOv10, YOLO26); one of 7 is image x1 y1
      x2 y2 label score, (M, 7) for the whole batch (YOLOv7's ``end2end``). Separate boxes are ordered as
      ``boxes`` says.
    * Without a batch dimension, (M, 4) or (M, 6), the outputs are about one image.
    * Rows that only fill up are skipped: behind ``count``, below the threshold, of a negative label, or of
      ``none_label``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from runtime.manifest import Manifest
from runtime.tasks.base import Head, Outputs
from runtime.tasks.detection.boxes import corners, in_pixels, on_original, sound
from runtime.tasks.detection.candidates import Candidates
from runtime.tasks.detection.given import Array, Floats, Given, is_float
from runtime.tasks.results import Detections

__all__ = ["HEADS", "finish"]


def finish(given: Given, index: int, found: Candidates) -> Candidates:
    """Return those of *found* that count, in pixels of original *index*, surest first.

    Args:
        given: The outputs that they come from.
        index: Of the image in the batch.
        found: x1, y1, x2, y2 as the graph gave them; scores and labels of any value.

    Raises:
        ModelError: A label is beyond the manifest's.
    """
    post, placement = given.post, given.placement(index)
    counts = (found.scores >= post.score_threshold) & np.isfinite(found.scores) & (found.labels >= 0)
    if post.none_label is not None:
        counts &= found.labels != post.none_label
    kept = found.take(np.flatnonzero(counts))
    given.check_labels(kept.labels)
    pixels = Candidates(
        boxes=in_pixels(kept.boxes, placement, post), scores=kept.scores, labels=kept.labels, rest=kept.rest
    )
    return on_original(sound(pixels).surest_first(), placement).first(post.max_detections)


def _labels(values: Array) -> npt.NDArray[np.int64]:
    """Return *values*, often floating point, as label ids; -1 where they are none."""
    known = np.isfinite(values)
    return np.where(known, np.rint(np.where(known, values, 0)), -1).astype(np.int64)


def _from_rows(given: Given) -> Iterator[Candidates]:
    """Yield what a single table says of each image."""
    images = len(given.sizes)

    def fits(array: Array) -> bool:
        shapes = {(images, array.shape[-2], 6), (array.shape[-2], 7)} | (
            {(array.shape[-2], 6)} if images == 1 else set()
        )
        return is_float(array) and array.shape in shapes

    expected = (
        f"boxes {_boxes_expected(images)}, or rows ({images}, boxes, 6) of x1 y1 x2 y2 score label, "
        "or rows (boxes, 7) of image x1 y1 x2 y2 label score"
    )
    name = given.find("rows", lambda array: array.ndim >= 2 and fits(array), expected)
    rows = given.outputs[name].astype(np.float32, copy=False)
    if rows.shape[-1] == 6:
        yield from (_table(one, one[:, 4], one[:, 5]) for one in rows.reshape(images, rows.shape[-2], 6))
        return
    numbers = _labels(rows[:, 0])
    if (numbers >= images).any():
        raise given.refused(name, f"rows of {images} images; one is of image {numbers.max()}, counted from 0")
    for index in range(images):
        mine = rows[numbers == index]
        yield _table(mine[:, 1:], mine[:, 6], mine[:, 5])


def _table(boxes: npt.NDArray[np.floating], scores: Floats, labels: Array) -> Candidates:
    return Candidates(
        boxes=boxes[:, :4].astype(np.float64),
        scores=scores,
        labels=_labels(labels),
        rest=np.empty((len(scores), 0), np.float32),
    )


def _boxes_expected(images: int) -> str:
    return f"floating ({images}, boxes, 4)" + (" or (boxes, 4)" if images == 1 else "")


def _is_boxes(array: Array, images: int) -> bool:
    shapes = {(images, *array.shape[-2:-1], 4)} | ({(*array.shape[-2:-1], 4)} if images == 1 else set())
    return is_float(array) and array.ndim >= 2 and array.shape in shapes


def _from_parts(given: Given) -> Iterator[Candidates]:
    """Yield what the outputs ``boxes``, ``scores`` and perhaps ``labels`` and ``count`` say of each image."""
    images = len(given.sizes)
    name = given.find("boxes", lambda array: _is_boxes(array, images), _boxes_expected(images))
    boxes = given.outputs[name].reshape(images, *given.outputs[name].shape[-2:])
    scores, labels = _columns(given, boxes.shape[:2])
    lengths = _lengths(given, boxes.shape[:2])
    for index, length in enumerate(lengths):
        ordered = corners(boxes[index, :length], given.post.boxes)
        yield _table(ordered, scores[index, :length], labels[index, :length])


def _columns(given: Given, shape: tuple[int, ...]) -> tuple[Floats, Array]:
    """Return scores and labels, both of *shape* (images, boxes).

    Raises:
        ModelError: One is absent or of another shape, or nothing tells which of several it is.
    """

    def fits(array: Array) -> bool:
        return _squeezed(array.shape) == _squeezed(shape)

    def may_be_scores(array: Array) -> bool:
        return is_float(array) and fits(array)

    if not {"scores", "labels"} & set(given.post.outputs) and len(alike := given.fitting(may_be_scores)) > 1:
        raise given.refused(alike[0], f"one output of scores; {' and '.join(alike)} may be: name it in the manifest")
    name = given.find("scores", may_be_scores, f"floating scores, one a box: {shape}")
    scores = given.outputs[name]
    labels_name = given.find_if_any(
        "labels", lambda array: fits(array) and array is not scores, f"label ids, one a box: {shape}"
    )
    if labels_name is None and len(given.manifest.labels) > 1:
        raise given.refused(name, "an output of label ids too, since there are several labels")
    labels = np.zeros(shape, np.int64) if labels_name is None else given.outputs[labels_name].reshape(shape)
    return scores.reshape(shape).astype(np.float32, copy=False), labels


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _lengths(given: Given, shape: tuple[int, ...]) -> Sequence[int]:
    """Return how many boxes of each image count: as the output ``count`` says, all of them if there is none."""
    images, boxes = shape
    told = "count" in given.post.outputs
    name = given.find_if_any(
        "count", lambda array: array.size == images and (told or boxes != 1), f"one number an image: ({images},)"
    )
    if name is None:
        return [boxes] * images
    return [int(length) for length in np.clip(_labels(given.outputs[name].reshape(-1)), 0, boxes)]


@np.errstate(invalid="ignore", over="ignore")  # what is not finite is dropped
def _decode(outputs: Outputs, sizes: Sequence[tuple[int, int]], manifest: Manifest) -> list[Detections]:
    """Return one `Detections` an image; see `runtime.tasks.base.Decode`."""
    given = Given(outputs, sizes, manifest)
    named = given.post.outputs
    parts = "boxes" in named or ("rows" not in named and given.fitting(lambda array: _is_boxes(array, len(sizes))))
    found = _from_parts(given) if parts else _from_rows(given)
    return [given.detections(finish(given, index, one)) for index, one in enumerate(found)]


HEADS: Mapping[str, Head] = {
    "boxes": Head(
        task="detection",
        result=Detections,
        decode=_decode,
        what="finished: boxes (N, M, 4), scores (N, M), labels (N, M), perhaps count (N,); "
        "or rows (N, M, 6) of x1 y1 x2 y2 score label; or rows (M, 7) of image x1 y1 x2 y2 label score",
    ),
}
