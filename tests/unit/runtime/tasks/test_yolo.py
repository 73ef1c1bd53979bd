"""YOLO heads: what is encoded as their training code does comes back."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import numpy as np
import pytest
from detection_heads import INPUT, PREPROCESSES, SQUEEZED, Box, decode, manifest_of, ordered, shares, to_input
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ModelError
from runtime.manifest import Preprocess, Resize
from runtime.tasks import Detections

LABELS = ("cat", "dog", "owl")
ANCHORS = 126  # of an input of 64x96 with the strides 8, 16 and 32
SIZES = ((48, 80), (200, 100), (64, 96))

Object = tuple[Box, int, float]
"""Box in the original, label id, score."""


@st.composite
def scenes(draw: st.DrawFn, size: tuple[int, int]) -> list[Object]:
    """A few objects in a picture of *size* (height, width), surest first."""
    height, width = size
    scores = draw(st.lists(st.integers(30, 99), unique=True, max_size=6))
    found = []
    for score in sorted(scores, reverse=True):
        x1, y1 = draw(st.floats(0, width - 4)), draw(st.floats(0, height - 4))
        x2, y2 = draw(st.floats(x1 + 2, width)), draw(st.floats(y1 + 2, height))
        found.append(((x1, y1, x2, y2), draw(st.integers(0, 2)), score / 100))
    return found


def rows_of(scene: list[Object], preprocess: Preprocess, size: tuple[int, int], lead: int, order: str) -> np.ndarray:
    """Return (ANCHORS, lead + 3): the objects of *scene* in every seventh row, the rest below any threshold."""
    rows = np.full((ANCHORS, lead + len(LABELS)), 0.01, np.float32)
    rows[:, :4] = 5.0
    for place, (box, label, score) in enumerate(reversed(scene)):
        row = rows[3 + 7 * place]
        row[:4] = ordered(to_input(box, preprocess, size), order)
        row[lead + label] = score if lead == 4 else 0.995
        if lead == 5:
            row[4] = score / 0.995
    return rows


def assert_scene(found: Detections, scene: list[Object], tolerance: float = 0.02) -> None:
    assert [one.label for one in found.detections] == [LABELS[label] for _, label, _ in scene]
    for one, (box, label, score) in zip(found.detections, scene, strict=True):
        assert one.label_id == label
        assert one.score == pytest.approx(score, abs=2e-3)
        np.testing.assert_allclose((one.x1, one.y1, one.x2, one.y2), box, atol=tolerance)


@given(
    st.tuples(*map(scenes, SIZES)),
    st.sampled_from(["yolov8", "yolov5"]),
    st.sampled_from(PREPROCESSES),
    st.sampled_from(["cxcywh", "xyxy", "xywh", "yxyx"]),
    st.booleans(),
    st.booleans(),
)
def test_decoding_undoes_encoding(
    batch: Any, kind: str, preprocess: Preprocess, order: str, columns_first: bool, normalized: bool
) -> None:
    lead = 4 if kind == "yolov8" else 5
    rows = np.stack([rows_of(scene, preprocess, size, lead, order) for scene, size in zip(batch, SIZES, strict=True)])
    if normalized:
        rows[:, :, :4] = np.apply_along_axis(lambda box: shares(tuple(box), order), 2, rows[:, :, :4])
    manifest = manifest_of(
        kind, LABELS, preprocess=preprocess, boxes=order, normalized=normalized, iou_threshold=1.0, score_threshold=0.2
    )
    found = decode(manifest, SIZES, output0=rows.transpose(0, 2, 1) if columns_first else rows)
    for one, scene in zip(found, batch, strict=True):
        assert_scene(one, scene)


@given(scenes(SIZES[1]), st.sampled_from(PREPROCESSES))
def test_yolox_boxes_are_relative_to_the_cells_of_three_grids(scene: list[Object], preprocess: Preprocess) -> None:
    rows = rows_of(scene, preprocess, SIZES[1], 5, "cxcywh")
    number = 0
    for stride in (8, 16, 32):
        for y in range(INPUT[0] // stride):
            for x in range(INPUT[1] // stride):
                row = rows[number]
                row[0], row[1] = row[0] / stride - x, row[1] / stride - y
                row[2], row[3] = math.log(row[2] / stride), math.log(row[3] / stride)
                number += 1
    assert number == ANCHORS
    manifest = manifest_of(
        "yolox", LABELS, preprocess=preprocess, strides=(8, 16, 32), iou_threshold=1.0, score_threshold=0.2
    )
    assert_scene(decode(manifest, SIZES[1], output=rows[None])[0], scene)


def test_yolox_without_strides_has_the_usual_ones_and_another_grid_is_refused() -> None:
    rows = np.zeros((1, ANCHORS, 8), np.float32)
    rows[0, 0] = (0.5, 0.5, 0, 0, 1, 1, 0, 0)
    found = decode(manifest_of("yolox", LABELS), INPUT, output=rows)[0].detections
    assert [(one.x1, one.y1, one.x2, one.y2) for one in found] == [(0, 0, 8, 8)]
    with pytest.raises(ModelError, match=r"output float32 \[1, 126, 8\].*30 boxes.*strides 16, 32.*96x64"):
        decode(manifest_of("yolox", LABELS, strides=(16, 32)), INPUT, output=rows)


def row(box: Box, *scores: float) -> np.ndarray:
    return np.array([*ordered(box, "cxcywh"), *scores], np.float32)


def test_a_surer_box_suppresses_its_class_alone() -> None:
    rows = np.stack(
        [
            row((10, 10, 30, 30), 0.8, 0, 0),
            row((11, 10, 31, 30), 0.9, 0, 0),
            row((11, 10, 31, 30), 0, 0.7, 0),
            row((50, 10, 70, 30), 0.6, 0, 0),
        ]
    )[None]
    found = decode(manifest_of("yolov8", LABELS), INPUT, output0=rows)[0].detections
    assert [(one.label, round(one.score, 2), round(one.x1)) for one in found] == [
        ("cat", 0.9, 11),
        ("dog", 0.7, 11),
        ("cat", 0.6, 50),
    ]
    fewer = decode(manifest_of("yolov8", LABELS, max_detections=2), INPUT, output0=rows)[0].detections
    assert fewer == found[:2]


def test_one_row_is_one_object_or_one_a_class() -> None:
    rows = row((10, 10, 30, 30), 0.8, 0.6, 0.1)[None, None]
    best = decode(manifest_of("yolov8", LABELS), INPUT, output0=rows)[0].detections
    every = decode(manifest_of("yolov8", LABELS, multi_label=True), INPUT, output0=rows)[0].detections
    assert [one.label for one in best] == ["cat"]
    assert [one.label for one in every] == ["cat", "dog"]


def test_logits_go_through_a_sigmoid_objectness_too() -> None:
    rows = np.concatenate([row((10, 10, 30, 30)), [2.0, -1.0, 3.0, 0.0]]).astype(np.float32)[None, None]
    found = decode(manifest_of("yolov5", LABELS, activation="sigmoid"), INPUT, predictions=rows)[0].detections
    assert found[0].label == "dog"
    assert found[0].score == pytest.approx(1 / (1 + math.exp(-2)) / (1 + math.exp(-3)), abs=1e-6)


def test_boxes_are_clipped_to_the_picture_and_dropped_outside_it() -> None:
    rows = np.stack([row((-10, -5, 20, 90), 0.9, 0, 0), row((100, 10, 120, 30), 0.8, 0, 0)])[None]
    found = decode(manifest_of("yolov8", LABELS), INPUT, output0=rows)[0].detections
    assert [(one.x1, one.y1, one.x2, one.y2) for one in found] == [(0, 0, 20, 64)]


def test_a_letterbox_margin_holds_no_object() -> None:
    preprocess = Preprocess(resize=Resize(mode="letterbox", size=INPUT))
    rows = np.stack([row((2, 2, 20, 60), 0.9, 0, 0), row((40, 10, 50, 60), 0.8, 0, 0)])[None]
    found = decode(manifest_of("yolov8", LABELS, preprocess=preprocess), (640, 320), output0=rows)[0].detections
    assert [(one.x1, one.y1, one.x2, one.y2) for one in found] == [(80, 100, 180, 600)]  # scale 1/10, left 32


def test_without_labels_classes_have_numbers_and_the_smaller_dimension_is_the_columns() -> None:
    rows = np.zeros((1, 20, 7), np.float32)
    rows[0, 4] = row((10, 10, 30, 30), 0.1, 0.2, 0.9)
    for output in (rows, rows.transpose(0, 2, 1)):
        found = decode(manifest_of("yolov8"), INPUT, output0=output)[0].detections
        assert [(one.label_id, one.label) for one in found] == [(2, "class_2")]


def test_known_labels_tell_columns_from_rows_where_size_would_not() -> None:
    rows = np.zeros((1, 3, 7), np.float32)  # three boxes only
    rows[0, 1] = row((10, 10, 30, 30), 0.1, 0.2, 0.9)
    for output in (rows, rows.transpose(0, 2, 1)):
        assert [one.label for one in decode(manifest_of("yolov8", LABELS), INPUT, output0=output)[0].detections] == [
            "owl"
        ]


def test_as_many_boxes_as_columns_are_read_as_the_family_writes_them() -> None:
    square = np.zeros((1, 7, 7), np.float32)
    square[0, :, 2] = row((10, 10, 30, 30), 0.1, 0.9, 0.2)
    assert [one.label for one in decode(manifest_of("yolov8", LABELS), INPUT, output0=square)[0].detections] == ["dog"]
    square = np.zeros((1, 8, 8), np.float32)
    square[0, 2] = row((10, 10, 30, 30), 1, 0.1, 0.9, 0.2)
    assert [one.label for one in decode(manifest_of("yolov5", LABELS), INPUT, output0=square)[0].detections] == ["dog"]


def test_half_precision_is_reckoned_in_single() -> None:
    rows = row((10.5, 10.5, 30.5, 30.5), 0.5, 0, 0)[None, None].astype(np.float16)
    rows[0, 0, 4:] = 0.7
    single = decode(manifest_of("yolov5", LABELS[:2]), INPUT, output0=rows)[0].detections
    assert single[0].score == float(np.float32(np.float16(0.7)) ** 2)


@pytest.mark.parametrize("kind", ["yolov8", "yolov5", "yolox"])
@pytest.mark.parametrize("activation", ["none", "sigmoid"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("multi_label", [False, True])
def test_numbers_that_are_none_cost_their_row_alone(kind: str, activation: str, dtype: Any, multi_label: bool) -> None:
    columns = 7 if kind == "yolov8" else 8
    rows = np.zeros((1, ANCHORS, columns), dtype)
    rows[:, :, 4:] = 0 if activation == "none" else -9
    rows[0, -1] = 1
    rows[0, -1, 4:] = (1, 0, 0) if columns == 7 else (1, 1, 0, 0)
    poison = [np.nan, np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).min]
    for number, value in enumerate(poison * columns):
        rows[0, number] = 1
        rows[0, number, number // len(poison)] = value
    manifest = manifest_of(kind, LABELS, activation=activation, multi_label=multi_label, iou_threshold=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode(manifest, INPUT, output0=rows)[0].detections
    assert found
    assert np.isfinite([(one.score, one.x1, one.y1, one.x2, one.y2) for one in found]).all()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["yolov8", "yolov5", "yolox"]))
def test_noise_crashes_nothing(seed: int, kind: str) -> None:
    columns = 7 if kind == "yolov8" else 8
    bits = np.random.default_rng(seed).integers(0, 2**32, (2, ANCHORS, columns), np.uint32)
    found = decode(manifest_of(kind, LABELS, score_threshold=0.0), (INPUT, INPUT), output0=bits.view(np.float32))
    for one in (one for image in found for one in image.detections):
        assert 0 <= one.x1 < one.x2 <= 96
        assert 0 <= one.y1 < one.y2 <= 64


def test_nothing_is_found_in_nothing() -> None:
    assert decode(manifest_of("yolov8", LABELS), INPUT, output0=np.zeros((1, 7, 30), np.float32)) == [Detections(())]
    assert decode(manifest_of("yolov8", LABELS), INPUT, output0=np.zeros((1, 7, 0), np.float32)) == [Detections(())]
    assert decode(manifest_of("yolov8", LABELS), [], output0=np.zeros((0, 7, 30), np.float32)) == []


def test_the_output_is_the_named_one_or_the_first_of_three_dimensions() -> None:
    rows = row((10, 10, 30, 30), 0.9, 0, 0)[None, None]
    others = {"features": np.zeros((1, 3, 8, 8), np.float32), "count": np.array(3), "a": rows, "b": rows * 0}
    assert len(decode(manifest_of("yolov8", LABELS), INPUT, **others)[0].detections) == 1
    named = manifest_of("yolov8", LABELS, outputs={"predictions": "b"})
    assert len(decode(named, INPUT, **others)[0].detections) == 0


@pytest.mark.parametrize(
    ("kind", "labels", "shape", "dtype", "says"),
    [
        ("yolov8", LABELS, (1, 84, 30), "float32", r"output0 float32 \[1, 84, 30\].*4 \+ 3.*yolov8.*3 labels"),
        ("yolov5", LABELS, (1, 30, 7), "float32", r"output0 float32 \[1, 30, 7\].*5 \+ 3.*yolov5.*3 labels"),
        ("yolov8", LABELS, (2, 7, 30), "float32", r"predictions: found output0 float32 \[2, 7, 30\].*\(1, 4 \+ 3"),
        ("yolov8", LABELS, (1, 7, 30), "uint8", r"output0 uint8 \[1, 7, 30\].*floating"),
        ("yolov8", LABELS, (7, 30), "float32", r"output0 float32 \[7, 30\]"),
        ("yolov8", (), (1, 4, 30), "float32", r"\[1, 4, 30\].*4 \+ classes.*no labels"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_shape(kind, labels, shape, dtype, says) -> None:
    with pytest.raises(ModelError, match=says):
        decode(manifest_of(kind, labels), INPUT, output0=np.zeros(shape, dtype))


def test_an_output_that_is_not_there_and_a_softmax_are_refused() -> None:
    rows = np.zeros((1, 7, 30), np.float32)
    with pytest.raises(ModelError, match=r"'boxes' for predictions.*output0 float32 \[1, 7, 30\]"):
        decode(manifest_of("yolov8", LABELS, outputs={"predictions": "boxes"}), INPUT, output0=rows)
    with pytest.raises(ModelError, match=r"yolov8 head takes activation none .* or sigmoid .* softmax"):
        decode(manifest_of("yolov8", LABELS, activation="softmax"), INPUT, output0=rows)


def test_a_full_output_is_decoded_in_milliseconds() -> None:
    random = np.random.default_rng(0)
    output = random.uniform(0, 0.2, (1, 84, 8400)).astype(np.float32)
    output[0, :4] = random.uniform(20, 600, (4, 8400))
    output[0, 4 + 7, ::80] = 0.9
    manifest = manifest_of("yolov8", [f"class {n}" for n in range(80)], preprocess=SQUEEZED)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        decode(manifest, (720, 1280), output0=output)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02  # half a millisecond where it was written; benchmarks/heads.py measures
