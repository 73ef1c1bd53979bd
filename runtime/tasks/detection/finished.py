"""Heads whose graph did all the work: finished objects, in one table or in three or four outputs.

Rules:
    * Nothing is suppressed: what overlaps, the model means so. The threshold still holds.
    * Scores are probabilities as they come; `activation` says nothing here.
    * A table of 6 columns is x1 y1 x2 y2 score label, (N, M, 6) (YOLOv10, YOLO26; with masks or keypoints
      there is more behind); one of 7 is image x1 y1 x2 y2 label score, (M, 7) for the whole batch (YOLOv7's
      ``end2end``). Separate boxes are ordered as ``boxes`` says.
    * Without a batch dimension, (M, 4) or (M, 6), the outputs are about one image.
    * Rows that only fill up are skipped: behind ``count``, below the threshold, of a negative label, or of
      ``none_label``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from runtime.manifest import Manifest
from runtime.placement import Placement
from runtime.tasks.base import Head, Outputs
from runtime.tasks.detection.boxes import corners, in_pixels, on_original, sound
from runtime.tasks.detection.candidates import Candidates, Objects
from runtime.tasks.detection.given import Array, Floats, Given, is_float
from runtime.tasks.results import Detections

__all__ = ["HEADS", "read"]

TABLE = 6  # columns: x1 y1 x2 y2 score label


def read(given: Given, rests: Sequence[int] = (0,)) -> Objects:
    """Return the objects that the table ``rows`` (N, M, 6 + rest) lists.

    Args:
        given: The outputs.
        rests: How many columns may be behind the label, likeliest first; empty: any number.

    Raises:
        ModelError: No output is such a table, or a label is beyond the manifest's.
    """
    images = len(given.sizes)
    widths = tuple(TABLE + rest for rest in rests)

    def fits(array: Array) -> bool:
        if not is_float(array) or array.ndim not in {2, 3} or (array.ndim == 2 and images != 1):
            return False
        return (array.ndim == 2 or len(array) == images) and array.shape[-1] in (widths or range(TABLE + 1, 1 << 16))

    columns = " or ".join(map(str, widths)) or "7 or more"
    expected = f"floating ({images}, boxes, {columns}) of x1 y1 x2 y2 score label and what is behind them"
    name = given.find("rows", fits, expected)
    array = given.outputs[name]
    rows = array.reshape(images, *array.shape[-2:]).astype(np.float32, copy=False)
    found = (_candidates(one[:, :4], one[:, 4], one[:, 5], one[:, TABLE:]) for one in rows)
    return Objects(output=name, rest=rows.shape[2] - TABLE, images=_placed(given, found))


def _placed(given: Given, found: Iterable[Candidates]) -> Iterator[tuple[Placement, Candidates]]:
    """Yield those of *found*, image by image as the graph gave them, that count; see `Objects.images`."""
    post = given.post
    for index, one in enumerate(found):
        placement = given.placement(index)
        counts = (one.scores >= post.score_threshold) & np.isfinite(one.scores) & (one.labels >= 0)
        if post.none_label is not None:
            counts &= one.labels != post.none_label
        kept = one.take(np.flatnonzero(counts))
        given.check_labels(kept.labels)
        inside = sound(kept.at(in_pixels(kept.boxes, placement, post)))
        yield placement, on_original(inside.surest_first(), placement).first(post.max_detections)


def _whole(values: Array) -> npt.NDArray[np.int64]:
    """Return *values*, often floating point, as whole numbers from 0 on; -1 where they are none."""
    known = np.where(np.isfinite(values), values, -1).astype(np.float64)
    return np.rint(np.clip(known, -1, np.iinfo(np.int32).max)).astype(np.int64)


def _candidates(
    boxes: npt.NDArray[np.floating], scores: Floats, labels: Array, rest: Floats | None = None
) -> Candidates:
    nothing = np.empty((len(scores), 0), np.float32)
    return Candidates(
        boxes=boxes.astype(np.float64),
        scores=scores,
        labels=_whole(labels),
        rest=nothing if rest is None else rest,
    )


def _from_rows(given: Given) -> Iterator[tuple[Placement, Candidates]]:
    """Return what a single table says of each image, with or without a column for the image."""
    images = len(given.sizes)
    name = given.post.outputs.get("rows") or next(iter(given.fitting(_is_batch_table)), None)
    if name is None or name not in given.outputs or not _is_batch_table(given.outputs[name]):
        return read(given).images
    rows = given.outputs[name].astype(np.float32, copy=False)
    numbers = _whole(rows[:, 0])
    if (numbers >= images).any():
        raise given.refused(name, f"rows of {images} images; one is of image {numbers.max()}, counted from 0")
    parts = (rows[numbers == index] for index in range(images))
    return _placed(given, (_candidates(part[:, 1:5], part[:, 6], part[:, 5]) for part in parts))


def _is_batch_table(array: Array) -> bool:
    """Whether *array* is (M, 7): image x1 y1 x2 y2 label score."""
    return is_float(array) and array.ndim == 2 and array.shape[1] == 7


def _boxes_expected(images: int) -> str:
    return f"floating ({images}, boxes, 4)" + (" or (boxes, 4)" if images == 1 else "")


def _is_boxes(array: Array, images: int) -> bool:
    shapes = {(images, *array.shape[-2:-1], 4)} | ({(*array.shape[-2:-1], 4)} if images == 1 else set())
    return is_float(array) and array.ndim >= 2 and array.shape in shapes


def _from_parts(given: Given) -> Iterator[tuple[Placement, Candidates]]:
    """Return what the outputs ``boxes``, ``scores`` and perhaps ``labels`` and ``count`` say of each image."""
    images = len(given.sizes)
    name = given.find("boxes", lambda array: _is_boxes(array, images), _boxes_expected(images))
    boxes = given.outputs[name].reshape(images, *given.outputs[name].shape[-2:])
    scores, labels = _columns(given, boxes.shape[:2])
    found = (
        _candidates(corners(boxes[index, :length], given.post.boxes), scores[index, :length], labels[index, :length])
        for index, length in enumerate(_lengths(given, boxes.shape[:2]))
    )
    return _placed(given, found)


def _columns(given: Given, shape: tuple[int, ...]) -> tuple[Floats, Array]:
    """Return scores and labels, both of *shape* (images, boxes).

    Raises:
        ModelError: One is absent or of another shape, or nothing tells which of several it is.
    """

    def fits(array: Array) -> bool:
        return _squeezed(array.shape) == _squeezed(shape)

    def may_be_scores(array: Array) -> bool:
        return is_float(array) and fits(array)

    given.check_clear(("scores", "labels"), may_be_scores)
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
    return [int(length) for length in np.clip(_whole(given.outputs[name].reshape(-1)), 0, boxes)]


@np.errstate(invalid="ignore", over="ignore")  # what is not finite is dropped
def _decode(outputs: Outputs, sizes: Sequence[tuple[int, int]], manifest: Manifest) -> list[Detections]:
    """Return one `Detections` an image; see `runtime.tasks.base.Decode`."""
    given = Given(outputs, sizes, manifest)
    named = given.post.outputs
    parts = "boxes" in named or ("rows" not in named and given.fitting(lambda array: _is_boxes(array, len(sizes))))
    found = _from_parts(given) if parts else _from_rows(given)
    return [given.detections(one) for _, one in found]


HEADS: Mapping[str, Head] = {
    "boxes": Head(
        task="detection",
        result=Detections,
        decode=_decode,
        what="finished: boxes (N, M, 4), scores (N, M), labels (N, M), perhaps count (N,); "
        "or rows (N, M, 6) of x1 y1 x2 y2 score label; or rows (M, 7) of image x1 y1 x2 y2 label score",
    ),
}
