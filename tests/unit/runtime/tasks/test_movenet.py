"""One body's keypoints, in pixels of the picture that was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from detection_heads import PREPROCESSES, manifest_of

from runtime.errors import ModelError
from runtime.manifest import Manifest, Preprocess
from runtime.placement import Placement
from runtime.tasks import Pose
from runtime.tasks.movenet import decode_movenet

SIZE = (50, 120)  # (height, width)


def of(preprocess: Preprocess = PREPROCESSES[0], **postprocess: Any) -> Manifest:
    return manifest_of("movenet", preprocess=preprocess, task="pose", **postprocess)


def decode(manifest: Manifest, rows: np.ndarray) -> Pose:
    (found,) = decode_movenet({"out": rows[None, None].astype(np.float32)}, [SIZE], manifest)
    (pose,) = found.poses
    return pose


@pytest.mark.parametrize("preprocess", PREPROCESSES)
def test_keypoints_go_back_to_where_they_were(preprocess: Preprocess) -> None:
    points = np.array([(10.0, 5.0), (60.0, 25.0), (110.0, 45.0)])  # x, y of the picture
    placed = Placement.of(preprocess, *SIZE)
    given = placed.points_to_input(points) / [placed.input_width, placed.input_height]
    pose = decode(of(preprocess), np.column_stack([given[:, 1], given[:, 0], [0.9, 0.3, 0.6]]))
    np.testing.assert_allclose([(one.x, one.y) for one in pose.keypoints], points, atol=1e-3)
    assert [one.score for one in pose.keypoints] == pytest.approx([0.9, 0.3, 0.6])
    assert pose.score == pytest.approx(0.6)
    np.testing.assert_allclose([pose.x1, pose.y1, pose.x2, pose.y2], [10, 5, 110, 45], atol=1e-3)


def test_the_box_encloses_what_is_sure() -> None:
    rows = np.array([(0.0, 0.0, 0.1), (0.5, 0.5, 0.6), (0.75, 0.6, 0.9)])
    exact = PREPROCESSES[2]
    sure = decode(of(exact, score_threshold=0.5), rows)
    np.testing.assert_allclose([sure.x1, sure.y1, sure.x2, sure.y2], [60, 25, 72, 37.5], atol=1e-3)
    unsure = decode(of(exact, score_threshold=0.95), rows)
    np.testing.assert_allclose([unsure.x1, unsure.y1, unsure.x2, unsure.y2], [0, 0, 72, 37.5], atol=1e-3)


def test_a_keypoint_beyond_the_picture_stays_there_and_the_box_does_not() -> None:
    pose = decode(of(PREPROCESSES[2]), np.array([(0.5, 0.5, 0.9), (1.2, -0.1, 0.9)]))
    assert (pose.keypoints[1].x, pose.keypoints[1].y) == (pytest.approx(-12), pytest.approx(60))
    assert (pose.x1, pose.y2) == (0, 50)


def test_a_number_of_names_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="probe@1: 2 keypoints in the output, 1 names"):
        decode(of(keypoints=("nose",)), np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [(1, 2, 17, 3), (1, 1, 17, 4), (1, 17, 3), (2, 1, 17, 3)])
def test_an_output_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"no output fits keypoints: found out float32 .*keypoints, 3\)"):
        decode_movenet({"out": np.zeros(shape, np.float32)}, [SIZE], of())
