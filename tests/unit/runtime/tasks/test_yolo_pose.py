"""Keypoints behind boxes: with a score each or without, named or counted."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from detection_heads import INPUT, LETTERBOX, PREPROCESSES, decode, manifest_of, ordered, to_input
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ModelError
from runtime.manifest import Preprocess
from runtime.tasks import Poses

SIZE = (200, 100)
NAMES = tuple(f"joint {number}" for number in range(5))
points = st.tuples(st.floats(-20, 120), st.floats(-20, 220), st.floats(0, 1))


def row_of(number: int, joints: list[tuple[float, float, float]], preprocess: Preprocess, values: int) -> np.ndarray:
    """Return box, score and keypoints of body *number*, in pixels of the model's input."""
    box = (10.0 + 5 * number, 20.0, 60.0 + 5 * number, 150.0)
    placed = [to_input((x, y, x, y), preprocess, SIZE)[:2] for x, y, _ in joints]
    keypoints = [[*point, joint[2]][:values] for point, joint in zip(placed, joints, strict=True)]
    return np.array([*ordered(to_input(box, preprocess, SIZE), "cxcywh"), 0.9 - 0.1 * number, *np.ravel(keypoints)])


@given(
    st.lists(st.lists(points, min_size=5, max_size=5), max_size=3),
    st.sampled_from(PREPROCESSES),
    st.sampled_from([2, 3]),
    st.booleans(),
    st.booleans(),
)
def test_decoding_undoes_encoding(
    bodies: list, preprocess: Preprocess, values: int, normalized: bool, columns_first: bool
) -> None:
    rows = np.zeros((1, 60, 5 + 5 * values), np.float32)
    for number, joints in enumerate(bodies):
        rows[0, 7 + number] = row_of(number, joints, preprocess, values)
    if normalized:
        rows[:, :, :4] /= (96, 64, 96, 64)
        rows[:, :, 5::values] /= 96
        rows[:, :, 6::values] /= 64
    manifest = manifest_of(
        "yolov8-pose",
        ("person",),
        preprocess=preprocess,
        task="pose",
        normalized=normalized,
        keypoints=NAMES,
        iou_threshold=1.0,
    )
    found = decode(manifest, SIZE, output0=rows.transpose(0, 2, 1) if columns_first else rows)[0].poses
    assert [round(pose.score, 4) for pose in found] == [round(0.9 - 0.1 * number, 4) for number in range(len(bodies))]
    for number, (pose, joints) in enumerate(zip(found, bodies, strict=True)):
        np.testing.assert_allclose(
            (pose.x1, pose.y1, pose.x2, pose.y2), (10 + 5 * number, 20, 60 + 5 * number, 150), atol=1e-2
        )
        expected = [(x, y, score if values == 3 else 1.0) for x, y, score in joints]
        np.testing.assert_allclose([(one.x, one.y, one.score) for one in pose.keypoints], expected, atol=1e-2)


@pytest.mark.parametrize(("columns", "count"), [(5 + 17 * 3, 17), (5 + 4 * 2, 4), (5 + 6, 2)])
def test_without_names_the_columns_are_counted(columns: int, count: int) -> None:
    rows = np.zeros((1, columns, 60), np.float32)
    rows[0, :5, 2] = (30, 30, 20, 20, 0.8)
    for labels in ((), ("person",)):
        found = decode(manifest_of("yolov8-pose", labels, task="pose"), INPUT, output0=rows)[0].poses
        assert [len(pose.keypoints) for pose in found] == [count]


def test_names_decide_where_the_columns_leave_it_open() -> None:
    rows = np.zeros((1, 5 + 6, 60), np.float32)
    rows[0, :5, 2] = (30, 30, 20, 20, 0.8)
    manifest = manifest_of("yolov8-pose", ("person",), task="pose", keypoints=("a", "b", "c"))
    found = decode(manifest, INPUT, output0=rows)[0].poses
    assert [(len(pose.keypoints), pose.keypoints[0].score) for pose in found] == [(3, 1.0)]


def test_keypoints_outside_the_picture_stay_outside() -> None:
    rows = np.zeros((1, 8, 60), np.float32)
    rows[0, :, 2] = (30, 30, 20, 20, 0.8, -5, 70, 0.4)
    pose = decode(manifest_of("yolov8-pose", task="pose"), INPUT, output0=rows)[0].poses[0]
    assert (pose.keypoints[0].x, pose.keypoints[0].y) == (-5, 70)


def test_logits_go_through_a_sigmoid() -> None:
    rows = np.full((1, 8, 60), -9, np.float32)
    rows[0, :, 2] = (30, 30, 20, 20, 2.0, 5, 7, -1.0)
    pose = decode(manifest_of("yolov8-pose", task="pose", activation="sigmoid"), INPUT, output0=rows)[0].poses[0]
    assert pose.score == pytest.approx(1 / (1 + math.exp(-2)))
    assert (pose.keypoints[0].x, pose.keypoints[0].score) == (5, pytest.approx(1 / (1 + math.exp(1))))


def test_finished_poses_are_rows_with_keypoints_behind() -> None:
    joints = [(20.0, 30.0, 0.9), (50.0, 100.0, 0.2)]
    rows = np.zeros((1, 4, 6 + 6), np.float32)
    rows[0, 1, :4] = to_input((10, 20, 60, 150), LETTERBOX, SIZE)
    rows[0, 1, 4] = 0.8
    for place, (x, y, score) in enumerate(joints):
        rows[0, 1, 6 + 3 * place : 9 + 3 * place] = (*to_input((x, y, x, y), LETTERBOX, SIZE)[:2], score)
    for names in ((), ("a", "b")):
        manifest = manifest_of("boxes-pose", ("person",), preprocess=LETTERBOX, task="pose", keypoints=names)
        found = decode(manifest, SIZE, output0=rows)[0].poses
        assert len(found) == 1
        np.testing.assert_allclose((found[0].x1, found[0].y1, found[0].x2, found[0].y2), (10, 20, 60, 150), atol=1e-3)
        np.testing.assert_allclose([(one.x, one.y, one.score) for one in found[0].keypoints], joints, atol=1e-3)


def test_nothing_and_no_numbers() -> None:
    manifest = manifest_of("yolov8-pose", ("person",), task="pose", keypoints=NAMES)
    rows = np.zeros((1, 20, 60), np.float32)
    assert decode(manifest, INPUT, output0=rows) == [Poses(())]
    rows[0, :5, 2] = (30, 30, 20, 20, 0.8)
    rows[0, 9, 2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(manifest, INPUT, output0=rows) == [Poses(())]


@pytest.mark.parametrize(
    ("shape", "names", "says"),
    [
        ((1, 56, 60), NAMES, r"\[1, 56, 60\].*4 \+ 1 \+ 15 or 10 more.*yolov8-pose.*1 labels"),
        ((1, 5, 60), (), r"\[1, 5, 60\].*2 or 3 columns a keypoint"),
        ((1, 6, 60), (), r"\[1, 6, 60\].*2 or 3 columns a keypoint; it has 1"),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], names: tuple[str, ...], says: str) -> None:
    manifest = manifest_of("yolov8-pose", ("person",), task="pose", keypoints=names)
    with pytest.raises(ModelError, match=says):
        decode(manifest, INPUT, output0=np.zeros(shape, np.float32))
