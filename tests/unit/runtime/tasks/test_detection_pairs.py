"""Boxes and scores in two outputs: DETR and its kin, and SSD."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from detection_heads import INPUT, LETTERBOX, Box, decode, manifest_of, ordered, shares, survivors, to_input
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ModelError
from runtime.tasks import Detections

LABELS = ("cat", "dog", "owl")
SIZES = ((48, 80), (200, 100))

pieces = st.tuples(st.floats(0, 0.7), st.floats(0, 0.7), st.floats(0.1, 0.3), st.floats(0.1, 0.3), st.integers(0, 2))


def box_of(piece: tuple[float, float, float, float, int], size: tuple[int, int]) -> Box:
    """Return the box x1, y1, x2, y2 of a piece of a picture, given as shares of it."""
    x, y, w, h, _ = piece
    return x * size[1], y * size[0], (x + w) * size[1], (y + h) * size[0]


@given(st.lists(st.lists(pieces, max_size=5), min_size=2, max_size=2), st.sampled_from(["sigmoid", "softmax", "none"]))
def test_a_detr_is_decoded_to_what_was_encoded(batch: list[list], activation: str) -> None:
    queries = 9
    boxes, logits = np.full((2, queries, 4), 0.5, np.float32), np.full((2, queries, 4), -9.0, np.float32)
    logits[:, :, 3] = 9.0  # nothing
    for image, scene in enumerate(batch):
        for place, piece in enumerate(scene):
            inside = to_input(box_of(piece, SIZES[image]), LETTERBOX, SIZES[image])
            boxes[image, place + 2] = shares(ordered(inside, "cxcywh"), "cxcywh")
            logits[image, place + 2, 3] = -9.0
            logits[image, place + 2, piece[4]] = 4.0 + place
    if activation == "none":
        logits = 1 / (1 + np.exp(-logits))
    roles = {"logits": "pred_logits", "boxes": "pred_boxes"}
    manifest = manifest_of(
        "detr", LABELS, preprocess=LETTERBOX, activation=activation, normalized=True, none_label=3, outputs=roles
    )
    found = decode(manifest, SIZES, pred_logits=logits, pred_boxes=boxes)
    for image, scene in enumerate(batch):
        assert [one.label for one in found[image].detections] == [LABELS[piece[4]] for piece in reversed(scene)]
        for one, piece in zip(found[image].detections, reversed(scene), strict=True):
            np.testing.assert_allclose((one.x1, one.y1, one.x2, one.y2), box_of(piece, SIZES[image]), atol=1e-3)


def test_a_detr_suppresses_nothing_and_gives_the_surest_ones() -> None:
    boxes = np.full((1, 5, 4), 0.5, np.float32)
    logits = np.array([[0, -9], [2, -9], [1, -9], [-9, 3], [2, -9]], np.float32)[None]
    manifest = manifest_of("detr", ("a", "b"), activation="sigmoid", normalized=True, max_detections=4)
    found = decode(manifest, INPUT, logits=logits, boxes=boxes)[0].detections
    expected = 1 / (1 + np.exp(-np.array([3.0, 2.0, 2.0, 1.0])))
    np.testing.assert_allclose([one.score for one in found], expected, rtol=1e-6)
    assert [one.label for one in found] == ["b", "a", "a", "a"]


def test_one_query_is_one_object_or_one_a_class() -> None:
    outputs = {"logits": np.array([[[2.0, 1.0]]], np.float32), "boxes": np.full((1, 1, 4), 0.5, np.float32)}
    for multi_label, count in ((False, 1), (True, 2)):
        manifest = manifest_of("detr", ("a", "b"), activation="sigmoid", normalized=True, multi_label=multi_label)
        assert len(decode(manifest, INPUT, **outputs)[0].detections) == count


@given(st.lists(pieces, max_size=12))
def test_an_ssd_is_thinned_out_class_by_class(scene: list) -> None:
    boxes = np.zeros((1, 20, 1, 4), np.float32)
    scores = np.zeros((1, 20, 4), np.float32)
    scores[:, :, 0] = 1.0  # background
    corner_boxes = [box_of(piece, INPUT) for piece in scene]
    certain = [0.9 - 0.01 * place for place in range(len(scene))]
    for place, (piece, box) in enumerate(zip(scene, corner_boxes, strict=True)):
        boxes[0, place, 0] = box
        scores[0, place, 1 + piece[4]] = certain[place]
    manifest = manifest_of("ssd", LABELS, boxes="xyxy", none_label=0, iou_threshold=0.45, outputs={"boxes": "boxes"})
    found = decode(manifest, INPUT, boxes=boxes, scores=scores)[0].detections
    kept = survivors([tuple(np.float32(box)) for box in corner_boxes], certain, [piece[4] for piece in scene], 0.45)
    assert [(one.label, round(one.score, 2)) for one in found] == [
        (LABELS[scene[index][4]], round(certain[index], 2)) for index in kept
    ]


@pytest.mark.parametrize("labels", [("none", *LABELS), LABELS])
def test_the_background_may_have_a_name_or_not(labels: tuple[str, ...]) -> None:
    boxes = np.array([[[10, 10, 30, 30]]], np.float32)
    scores = np.array([[[0.95, 0.1, 0.8, 0.1]]], np.float32)
    manifest = manifest_of("ssd", labels, boxes="xyxy", none_label=0, outputs={"boxes": "boxes"})
    found = decode(manifest, INPUT, boxes=boxes, scores=scores)
    assert [(one.label, one.label_id) for one in found[0].detections] == [("dog", labels.index("dog"))]


def test_four_columns_of_both_are_told_apart_by_the_manifest_or_not_at_all() -> None:
    boxes = np.array([[[10, 10, 30, 30]]], np.float32)
    scores = np.array([[[0.1, 0.2, 0.9, 0.3]]], np.float32)
    manifest = manifest_of("ssd", boxes="xyxy", outputs={"boxes": "b"})
    assert decode(manifest, INPUT, s=scores, b=boxes)[0].detections[0].label == "class_2"
    manifest = manifest_of("ssd", boxes="xyxy", outputs={"scores": "s"})
    assert decode(manifest, INPUT, s=scores, b=boxes)[0].detections[0].x2 == 30
    with pytest.raises(ModelError, match=r"s float32 \[1, 1, 4\], b float32.*'boxes' or 'scores'"):
        decode(manifest_of("ssd", boxes="xyxy"), INPUT, s=scores, b=boxes)


def test_no_objects_and_no_numbers() -> None:
    outputs = {"boxes": np.zeros((1, 0, 4), np.float32), "logits": np.zeros((1, 0, 3), np.float32)}
    assert decode(manifest_of("detr", LABELS), INPUT, **outputs) == [Detections(())]
    nothing = {"boxes": np.full((1, 6, 4), np.nan, np.float16), "logits": np.full((1, 6, 3), np.inf, np.float16)}
    for activation in ("softmax", "sigmoid", "none"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert decode(manifest_of("detr", LABELS, activation=activation), INPUT, **nothing) == [Detections(())]


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"boxes": (1, 5, 4), "logits": (1, 5, 7)}, r"logits float32 \[1, 5, 7\].*it has 7 for classes.*3 labels"),
        ({"boxes": (1, 5, 4), "logits": (1, 6, 3)}, r"found .*logits float32 \[1, 6, 3\].*\(1, 5, classes\)"),
        ({"boxes": (2, 5, 4), "logits": (2, 5, 3)}, r"boxes float32 \[2, 5, 4\].*\(1, rows, 4\).*3 labels"),
        ({"boxes": (1, 5, 4)}, r"no output fits logits"),
        ({"scale": ()}, r"no output fits boxes.*scale float32 \[\]"),
    ],
)
def test_what_does_not_fit_is_refused(shapes: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        decode(manifest_of("detr", LABELS), INPUT, **{n: np.zeros(shape, np.float32) for n, shape in shapes.items()})
