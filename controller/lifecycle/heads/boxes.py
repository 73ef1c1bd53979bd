"""Detectors that give boxes and scores apart, or finished rows.

What tells them apart:
    * A DETR gives logits (N, Q, C) and boxes (N, Q, 4) for some hundred queries, centre and size as shares of the
      picture. The first DETR has a softmax over the classes and one more for "nothing", the last, which is then
      best nearly always; the later ones have sigmoids.
    * An SSD gives boxes (N, A, 4) and scores (N, A, C) for thousands of anchors.
    * Finished rows have one label and one score a box: (N, M, 6), (M, 7), or boxes, scores and labels apart; behind the
      six there may be coefficients for the prototypes of masks, or keypoints.
      How many classes there are, nothing says but the names.
    * Outputs of the same shape are told apart by their names, then by their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

from controller.lifecycle.heads.base import Array, Certainty, Evidence, Fit, Seen
from controller.lifecycle.heads.numbers import (
    are_normalized,
    are_probabilities,
    are_whole,
    background_class,
    box_order,
)
from controller.lifecycle.heads.yolo import keypoint_names, keypoint_shapes, prototypes

__all__ = ["RULES"]

TABLE = 6  # columns of finished rows: x1 y1 x2 y2 score label
MOST_QUERIES = 1000
MOST_ROWS = 1000  # finished ones a picture
NO_ROWS = "the run gave no boxes, so they are taken for x1, y1, x2, y2 in pixels; give --evaluation with real pictures"


def _pairs(evidence: Evidence) -> Iterator[tuple[Seen, Seen]]:
    """Yield (boxes, class scores) of the same number of boxes; boxes (N, A, 1, 4) count as (N, A, 4)."""
    several = [seen for seen in evidence.outputs if seen.is_float and seen.values.ndim in {3, 4}]
    for boxes, scores in permutations(several, 2):
        shape = boxes.shape if boxes.values.ndim == 3 else (boxes.shape[0], boxes.shape[1] * boxes.shape[2], 4)
        if boxes.shape[-1] != 4 or scores.values.ndim != 3 or shape[:2] != scores.shape[:2]:
            continue
        if boxes.shape[0] == evidence.batch and not _swapped(boxes, scores):
            yield boxes, scores


def _swapped(boxes: Seen, scores: Seen) -> bool:
    """Whether two outputs that may both be boxes are the other way round, by their names."""
    names = ("box", "dets", "loc")
    return scores.shape[-1] == 4 and scores.called(*names) and not boxes.called(*names)


def _column_classes(scores: Seen, evidence: Evidence, background: int) -> tuple[int, int | None] | None:
    """Return (classes, the column for "nothing") of *scores* (N, A, C); ``None`` if they are not the known number.

    Args:
        scores: The output.
        evidence: May know the number.
        background: 0 or -1: where the family has it, if there is one column more than there are classes.
    """
    columns = scores.shape[-1]
    none = background_class(scores.values.reshape(-1, columns))
    if evidence.classes == columns - 1:
        return columns - 1, none if none is not None else background % columns
    if evidence.classes not in {None, columns}:
        return None
    return columns - int(none is not None and evidence.classes is None), none


def _detr(evidence: Evidence) -> Fit | None:
    for boxes, scores in _pairs(evidence):
        counted = _column_classes(scores, evidence, -1)
        named = scores.called("logits") or (boxes.called("dets") and scores.called("labels"))
        if counted is None or not (named or scores.shape[1] <= MOST_QUERIES):
            continue
        classes, none = counted
        geometry = _geometry(boxes.values, "cxcywh", evidence)
        return Fit(
            outputs={"logits": scores.name, "boxes": boxes.name},
            classes=classes,
            fields={**geometry, "activation": _activation(scores), "none_label": none},
            seen=f"{scores} and boxes {boxes.name!r} {list(boxes.shape)}",
            certainty=Certainty.NAMES if named else Certainty.NUMBERS,
        )
    return None


def _ssd(evidence: Evidence) -> Fit | None:
    for boxes, scores in _pairs(evidence):
        counted = _column_classes(scores, evidence, 0)
        many = scores.shape[1] > MOST_QUERIES
        geometry = _geometry(boxes.values, "xyxy" if many else "cxcywh", evidence)
        corners = geometry["boxes"] == "xyxy"
        if counted is None or not (many or (corners and are_probabilities(scores.values))):
            continue
        classes, none = counted
        return Fit(
            outputs={"boxes": boxes.name, "scores": scores.name},
            classes=classes,
            fields={**geometry, "activation": _activation(scores), "none_label": none},
            seen=f"{boxes} and scores {scores.name!r} {list(scores.shape)}",
            certainty=Certainty.NAMES if scores.called("score", "conf") else Certainty.NUMBERS,
        )
    return None


def _activation(scores: Seen) -> str:
    """Return what makes probabilities of *scores*; a background that is surely best is a softmax's."""
    if are_probabilities(scores.values):
        return "none"
    background = background_class(scores.values.reshape(-1, scores.shape[-1]))
    return "sigmoid" if background is None else "softmax"


def _geometry(boxes: Array, usual: str, evidence: Evidence) -> dict[str, Any]:
    order = box_order(boxes, "xyxy" if usual == "xyxy" else "cxcywh", evidence.height, evidence.width)
    return {"boxes": order, "normalized": bool(are_normalized(boxes))}


def _boxes(evidence: Evidence) -> Fit | None:
    for form in (_rows_of_six, _rows_of_seven, _columns):
        fit = form(evidence)
        if fit is not None:
            return fit
    return None


def _rows_of_six(evidence: Evidence) -> Fit | None:
    return _table(evidence, 0)


def _table(evidence: Evidence, rest: int, **outputs: str) -> Fit | None:
    """Return the fit of rows (N, M, 6 + *rest*): x1 y1 x2 y2 score label, and what else a head has."""
    for seen in evidence.floats(3):
        _, count, columns = seen.shape
        if columns != TABLE + rest or count > MOST_ROWS:
            continue
        rows = seen.values.reshape(evidence.batch * count, columns)
        if are_probabilities(rows[:, 4]) and _labels_fit(rows[:, 5], evidence):
            said = evidence.facts.end2end or evidence.facts.maker == "ultralytics"
            certainty = Certainty.METADATA if said else Certainty.NUMBERS if len(rows) else Certainty.SHAPE
            return _finished({"rows": seen.name, **outputs}, rows[:, :4], str(seen), certainty, evidence)
    return None


def _with_masks(evidence: Evidence) -> Fit | None:
    for seen, count in prototypes(evidence):
        fit = _table(evidence, count, prototypes=seen.name)
        if fit is not None:
            return replace(fit, seen=f"{fit.seen} with prototypes {seen.name!r} {list(seen.shape)}")
    return None


def _with_keypoints(evidence: Evidence) -> Fit | None:
    columns = [seen.shape[2] - TABLE for seen in evidence.floats(3)]
    for count, numbers in keypoint_shapes(evidence, columns):
        fit = _table(evidence, count * numbers)
        if fit is not None:
            fields = {**fit.fields, "keypoints": keypoint_names(count, evidence)}
            return replace(fit, seen=f"{fit.seen}, {count} keypoints", fields=fields)
    return None


def _rows_of_seven(evidence: Evidence) -> Fit | None:
    """(M, 7): picture x1 y1 x2 y2 label score."""
    for seen in evidence.outputs:
        if not seen.is_float or seen.values.ndim != 2 or seen.shape[1] != 7:
            continue
        rows = seen.values
        pictures_fit = are_whole(rows[:, 0]) and (rows[:, 0] < evidence.batch).all()
        if pictures_fit and _labels_fit(rows[:, 5], evidence) and are_probabilities(rows[:, 6]):
            certainty = Certainty.NUMBERS if len(rows) else Certainty.SHAPE
            return _finished({"rows": seen.name}, rows[:, 1:5], str(seen), certainty, evidence)
    return None


def _labels_fit(labels: Array, evidence: Evidence) -> bool:
    known = evidence.classes
    return are_whole(labels) and (known is None or not labels.size or float(labels.max()) < known)


def _columns(evidence: Evidence) -> Fit | None:
    """Boxes (N, M, 4) or (M, 4), scores and labels of one number a box, perhaps their count; of one class no labels."""
    for boxes in evidence.outputs:
        if not boxes.is_float or boxes.values.ndim not in {2, 3} or boxes.shape[-1] != 4:
            continue
        alike = [s for s in evidence.outputs if s is not boxes and s.shape == boxes.shape[:-1]]
        chosen = _scores_and_labels(alike, evidence)
        if not chosen:
            continue
        roles = {"boxes": boxes.name} | {role: seen.name for role, seen in chosen.items()}
        count = _count(evidence)
        if count is not None and boxes.values.ndim == 3:
            roles["count"] = count.name
        seen = f"{boxes} with {', '.join(f'{role} {one.name!r}' for role, one in chosen.items())}"
        return _finished(roles, boxes.values, seen, Certainty.NAMES, evidence, boxes)
    return None


def _scores_and_labels(alike: Sequence[Seen], evidence: Evidence) -> dict[str, Seen]:
    """Return which of the outputs *alike* are scores and labels, by role: by type, then by name, then by numbers."""
    likely = [seen for seen in alike if seen.is_float and are_probabilities(seen.values)]
    found = [
        (scores, labels)
        for scores, labels in permutations(alike, 2)
        if scores in likely and _labels_fit(labels.values, evidence)
    ]
    if not found:
        return {"scores": likely[0]} if len(alike) == 1 and likely and evidence.classes == 1 else {}

    def rank(pair: tuple[Seen, Seen]) -> tuple[bool, bool, bool]:
        scores, labels = pair
        named = scores.called("score", "conf") or labels.called("label", "class", "categor")
        return not labels.is_integer, not named, are_whole(scores.values)

    scores, labels = min(found, key=rank)
    return {"scores": scores, "labels": labels}


def _count(evidence: Evidence) -> Seen | None:
    for seen in evidence.outputs:
        if seen.shape in {(evidence.batch,), (evidence.batch, 1)} and are_whole(seen.values) and seen.called("num"):
            return seen
    return None


def _finished(
    roles: Mapping[str, str],
    boxes: Array,
    seen: str,
    certainty: Certainty,
    evidence: Evidence,
    output: Seen | None = None,
) -> Fit:
    """Return the fit of finished rows; TensorFlow's give y before x."""
    geometry = _geometry(boxes, "xyxy", evidence)
    tensorflow = output is not None and (
        output.called("detection_boxes") or (geometry["normalized"] and evidence.producer.startswith("tf2onnx"))
    )
    if tensorflow and geometry["boxes"] == "xyxy":
        geometry["boxes"] = "yxyx"
    return Fit(
        outputs=roles,
        classes=evidence.classes,
        fields={**geometry, "activation": "none"},
        seen=seen,
        certainty=certainty,
        notes=(NO_ROWS,) if are_normalized(boxes) is None else (),
    )


RULES: Mapping[str, Callable[[Evidence], Fit | None]] = {
    "detr": _detr,
    "ssd": _ssd,
    "boxes": _boxes,
    "boxes-seg": _with_masks,
    "boxes-pose": _with_keypoints,
}
