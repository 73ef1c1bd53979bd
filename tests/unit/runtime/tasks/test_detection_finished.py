"""Graphs that finish their boxes: tables of six and seven columns, and boxes, scores, labels and count apart."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from detection_heads import INPUT, LETTERBOX, SQUEEZED, Box, decode, manifest_of, ordered, shares, to_input
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ModelError
from runtime.tasks import Detections

LABELS = ("cat", "dog", "owl")
SIZES = ((48, 80), (200, 100))
BOXES: tuple[Box, ...] = ((2, 3, 40, 20), (3, 3, 40, 21), (10, 10, 30, 40))
SCORES = (0.5, 0.9, 0.7)
IDS = (2, 2, 0)
SUREST_FIRST = (1, 2, 0)


def expected(size_index: int) -> list[tuple[str, float, Box]]:
    """Return what is to be found in the picture of that number: the same objects, less one for the second."""
    return [(LABELS[IDS[i]], SCORES[i], BOXES[i]) for i in SUREST_FIRST if size_index == 0 or i != 2]


def found_of(image: Detections) -> list[tuple[str, float, Box]]:
    return [
        (one.label, round(one.score, 4), tuple(round(edge, 2) for edge in (one.x1, one.y1, one.x2, one.y2)))
        for one in image.detections
    ]


def inside(image: int) -> np.ndarray:
    """Return the boxes of that picture in the model's input, (3, 4)."""
    return np.array([to_input(box, LETTERBOX, SIZES[image]) for box in BOXES], np.float32)


def tables() -> np.ndarray:
    """Return (2, 5, 6): x1 y1 x2 y2 score label; the rows at the end only fill up."""
    rows = np.zeros((2, 5, 6), np.float32)
    for image in (0, 1):
        rows[image, :3] = np.column_stack([inside(image), SCORES, IDS])
    rows[1, 2, 4] = 0.1
    return rows


def test_tables_of_six_columns() -> None:
    found = decode(manifest_of("boxes", LABELS, preprocess=LETTERBOX), SIZES, output0=tables())
    assert [found_of(image) for image in found] == [expected(0), expected(1)]
    alone = decode(manifest_of("boxes", LABELS, preprocess=LETTERBOX), SIZES[0], output0=tables()[0])
    assert alone == found[:1]


def test_tables_of_shares_of_the_input() -> None:
    rows = tables()
    rows[:, :, :4] /= np.array([96, 64, 96, 64], np.float32)
    found = decode(manifest_of("boxes", LABELS, preprocess=LETTERBOX, normalized=True), SIZES, output0=rows)
    assert [found_of(image) for image in found] == [expected(0), expected(1)]


def test_a_table_of_seven_columns_for_the_whole_batch() -> None:
    rows = [[image, *inside(image)[i], IDS[i], SCORES[i]] for i in range(3) for image in (1, 0) if image == 0 or i != 2]
    manifest = manifest_of("boxes", LABELS, preprocess=LETTERBOX)
    found = decode(manifest, SIZES, output=np.array(rows, np.float32))
    assert [found_of(image) for image in found] == [expected(0), expected(1)]
    assert decode(manifest, SIZES, output=np.zeros((0, 7), np.float32)) == [Detections(()), Detections(())]
    with pytest.raises(ModelError, match=r"output float32 \[5, 7\].*rows of 1 images; one is of image 1"):
        decode(manifest, SIZES[0], output=np.array(rows, np.float32))


@pytest.mark.parametrize("order", ["xyxy", "yxyx", "cxcywh", "xywh"])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("label_type", [np.int64, np.int32, np.float32])
def test_boxes_scores_and_labels_apart(order: str, normalized: bool, label_type: Any) -> None:
    boxes = np.zeros((2, 4, 4), np.float32)
    for image in (0, 1):
        for place, box in enumerate(inside(image)):
            corner = ordered(tuple(box), order)
            boxes[image, place] = shares(corner, order) if normalized else corner
    boxes[1, 3] = boxes[1, 2]
    outputs = {
        "labels": np.array([[*IDS, 0]] * 2, label_type),
        "boxes": boxes,
        "scores": np.array([[*SCORES, 0], [SCORES[0], SCORES[1], 0.8, 0.8]], np.float32),
        "count": np.array([[3], [2]], np.int32),
    }
    roles = {name: name for name in outputs}
    settings = {"preprocess": LETTERBOX, "boxes": order, "normalized": normalized}
    found = decode(manifest_of("boxes", LABELS, outputs=roles, **settings), SIZES, **outputs)
    assert [found_of(image) for image in found] == [expected(0), expected(1)]
    if label_type != np.float32:  # types tell which is which
        assert decode(manifest_of("boxes", LABELS, **settings), SIZES, **outputs) == found


def test_outputs_without_a_batch_are_of_one_picture() -> None:
    outputs = {
        "boxes": np.array(BOXES, np.float32),
        "labels": np.array(IDS, np.int64),
        "scores": np.array(SCORES, np.float32),
    }
    manifest = manifest_of("boxes", LABELS, boxes="xyxy")
    assert found_of(decode(manifest, INPUT, **outputs)[0]) == expected(0)
    with pytest.raises(ModelError, match=r"no output fits|expected"):
        decode(manifest, (INPUT, INPUT), **outputs)


def test_one_box_and_none() -> None:
    manifest = manifest_of("boxes", LABELS, boxes="xyxy")
    for count in (0, 1):
        for shape in ((1, count), (count,)):
            outputs = {
                "boxes": np.array(BOXES[:count], np.float32).reshape(*shape, 4),
                "labels": np.array(IDS[:count], np.int64).reshape(shape),
                "scores": np.array(SCORES[:count], np.float32).reshape(shape),
            }
            assert len(decode(manifest, INPUT, **outputs)[0].detections) == count


def test_a_model_of_one_class_needs_no_labels_and_one_of_several_does() -> None:
    outputs = {"boxes": np.array([BOXES], np.float32), "scores": np.array([SCORES], np.float32)}
    faces = decode(manifest_of("boxes", ("face",), boxes="xyxy"), INPUT, **outputs)[0].detections
    assert [one.label for one in faces] == ["face"] * 3
    with pytest.raises(ModelError, match="label ids too"):
        decode(manifest_of("boxes", LABELS, boxes="xyxy"), INPUT, **outputs)


def test_scores_and_labels_of_the_same_type_are_not_guessed() -> None:
    alike = {
        "a": np.array([BOXES], np.float32),
        "b": np.array([SCORES], np.float32),
        "c": np.array([IDS], np.float32),
    }
    with pytest.raises(
        ModelError, match=r"b float32 .*, c float32 .* may each be 'scores' or 'labels'.*say in postprocess.outputs"
    ):
        decode(manifest_of("boxes", LABELS, boxes="xyxy"), INPUT, **alike)
    named = manifest_of("boxes", LABELS, boxes="xyxy", outputs={"labels": "c"})
    assert found_of(decode(named, INPUT, **alike)[0]) == expected(0)


def test_nothing_is_suppressed_but_the_surest_are_counted() -> None:
    rows = np.tile(np.array([10, 10, 30, 30, 0.5, 1], np.float32), (1, 9, 1))
    rows[0, 5, 4] = 0.6
    found = decode(manifest_of("boxes", LABELS, max_detections=4, iou_threshold=0.1), INPUT, output0=rows)[0].detections
    assert [one.score for one in found] == [np.float32(0.6), 0.5, 0.5, 0.5]


def test_a_label_beyond_the_names_is_an_error_only_where_it_counts() -> None:
    rows = np.array([[[10, 10, 30, 30, 0.9, 1], [10, 10, 30, 30, 0.8, 3]]], np.float32)
    with pytest.raises(ModelError, match="label 3, counted from 0; the manifest has 3 labels"):
        decode(manifest_of("boxes", LABELS), INPUT, output0=rows)
    assert len(decode(manifest_of("boxes", LABELS, score_threshold=0.85), INPUT, output0=rows)[0].detections) == 1
    assert decode(manifest_of("boxes"), INPUT, output0=rows)[0].detections[1].label == "class_3"


def test_what_fills_up_is_skipped() -> None:
    rows = np.array([[[10, 10, 30, 30, 0.9, 1], [10, 10, 30, 30, 0.8, -1], [10, 10, 30, 30, 0.8, 0]]], np.float32)
    found = decode(manifest_of("boxes", LABELS, score_threshold=0.0, none_label=0), INPUT, output0=rows)[0].detections
    assert [one.label for one in found] == ["dog"]


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 6, 6), (6, 7)]), st.sampled_from([np.float16, np.float32]))
def test_noise_crashes_nothing(seed: int, shape: tuple[int, ...], dtype: Any) -> None:
    size = np.dtype(dtype).itemsize
    noise = np.random.default_rng(seed).integers(0, 256, (*shape[:-1], shape[-1] * size), np.uint8).view(dtype)
    if len(shape) == 2:
        noise[:, 0] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in decode(manifest_of("boxes", score_threshold=0.0), INPUT, output0=noise)[0].detections:
            assert 0 <= one.x1 < one.x2 <= 96
            assert np.isfinite(one.score)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"rows": (1, 300, 5)}, r"no output fits rows: found rows float32 \[1, 300, 5\]; expected.*\(1, boxes, 6\)"),
        ({"rows": (2, 300, 6)}, r"found rows float32 \[2, 300, 6\].*3 labels"),
        ({"boxes": (1, 5, 4), "scores": (1, 6)}, r"no output fits scores.*scores float32 \[1, 6\].*\(1, 5\)"),
        ({"number": ()}, r"no output fits rows: found number float32 \[\]"),
    ],
)
def test_what_does_not_fit_is_refused(shapes: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        decode(
            manifest_of("boxes", LABELS, preprocess=SQUEEZED),
            INPUT,
            **{name: np.zeros(shape, np.float32) for name, shape in shapes.items()},
        )
