"""Heads of two outputs: boxes, and one score a box and class (DETR and its kin, SSD).

Rules:
    * Both outputs have a row a query or anchor, in one dimension or several: (N, anchors, 4) or (N, cells, 6, 4).
    * DETR's queries are objects already, so nothing is suppressed; SSD's anchors overlap, so the surest of
      a class wins.
    * ``none_label`` is the column that means "nothing here" (DETR's last one, SSD's background); it takes
      its share of a softmax, and is never an answer.
    * One object a row, of its best class, unless ``multi_label``: RT-DETR's own postprocessing takes the
      best pairs of query and class, which is ``multi_label``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from runtime.manifest import Manifest
from runtime.tasks.base import Head, Outputs
from runtime.tasks.detection.boxes import corners, in_pixels, on_original, sound, suppress
from runtime.tasks.detection.candidates import Candidates, choose
from runtime.tasks.detection.given import Array, Given, is_float
from runtime.tasks.results import Detections

__all__ = ["HEADS"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """How a head of two outputs is read: the role of its scores, and whether its boxes overlap."""

    scores: str
    overlapping: bool


PAIRS: Mapping[str, Pair] = {
    "detr": Pair(scores="logits", overlapping=False),
    "ssd": Pair(scores="scores", overlapping=True),
}


def _table(array: Array) -> Array:
    """Return *array* (N, ..., columns) as (N, rows, columns)."""
    return array.reshape(len(array), math.prod(array.shape[1:-1]), array.shape[-1])


def _tables(given: Given, pair: Pair) -> tuple[str, Array, Array]:
    """Return the name of the scores, the boxes (N, A, 4) and the scores (N, A, C).

    Raises:
        ModelError: An output is absent, or does not fit the batch or the other one.
    """
    images = len(given.sizes)

    def fits(array: Array) -> bool:
        return is_float(array) and array.ndim >= 3 and len(array) == images

    def may_be_boxes(array: Array) -> bool:
        return fits(array) and array.shape[-1] == 4

    given.check_clear(("boxes", pair.scores), may_be_boxes)
    name = given.find("boxes", may_be_boxes, f"floating ({images}, rows, 4)")
    boxes = _table(given.outputs[name])
    expected = f"floating ({images}, {boxes.shape[1]}, classes), a row for each of output {name!r}"
    scores_name = given.find(
        pair.scores,
        lambda array: fits(array) and array is not given.outputs[name] and _table(array).shape[:2] == boxes.shape[:2],
        expected,
    )
    return scores_name, boxes, _table(given.outputs[scores_name])


@np.errstate(invalid="ignore", over="ignore")  # what is not finite is dropped
def _decode(pair: Pair, outputs: Outputs, sizes: Sequence[tuple[int, int]], manifest: Manifest) -> list[Detections]:
    """Return one `Detections` an image; see `runtime.tasks.base.Decode`."""
    given = Given(outputs, sizes, manifest)
    post = given.post
    name, all_boxes, all_scores = _tables(given, pair)
    class_ids = given.class_ids(name, all_scores.shape[2])
    found = []
    for index, (boxes, scores) in enumerate(zip(all_boxes, all_scores, strict=True)):
        placement = given.placement(index)
        chosen = choose(scores.astype(np.float32, copy=False), class_ids, post)
        candidates = Candidates(
            boxes=in_pixels(corners(boxes[chosen.rows], post.boxes), placement, post),
            scores=chosen.scores,
            labels=chosen.labels,
            rest=np.empty((len(chosen.rows), 0), np.float32),
        )
        candidates = sound(candidates)
        if pair.overlapping:
            candidates = suppress(candidates, post.iou_threshold, post.max_detections)
        placed = on_original(candidates.surest_first(), placement)
        found.append(given.detections(placed.first(post.max_detections)))
    return found


WHAT: Mapping[str, str] = {
    "detr": "DETR and its kin, raw: logits (N, queries, classes) and boxes (N, queries, 4)",
    "ssd": "SSD: boxes (N, anchors, 4) and scores (N, anchors, classes), suppressed here",
}

HEADS: Mapping[str, Head] = {
    kind: Head(task="detection", result=Detections, decode=partial(_decode, pair), what=WHAT[kind])
    for kind, pair in PAIRS.items()
}
