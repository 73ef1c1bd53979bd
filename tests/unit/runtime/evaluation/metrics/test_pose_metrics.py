"""Poses: OKS as pycocotools computes it, and what follows from it."""

from __future__ import annotations

import numpy as np
import pytest
from detection_heads import manifest_of
from pycocotools.cocoeval import COCOeval

from runtime.datasets import Objects
from runtime.drawing.skeleton import COCO_KEYPOINTS
from runtime.errors import DatasetError
from runtime.evaluation.metrics import METRICS
from runtime.evaluation.metrics.pose import PoseJudge, keypoint_similarity
from runtime.tasks import Keypoint, Pose, Poses

SIZE = (100, 100)


def judge_of(keypoints: tuple[str, ...] = COCO_KEYPOINTS) -> PoseJudge:
    return PoseJudge(manifest_of("movenet", task="pose", keypoints=keypoints, score_threshold=0.5))


def body(points: np.ndarray, score: float = 0.9) -> Pose:
    lower, upper = points.min(axis=0), points.max(axis=0)
    return Pose(score, *lower.tolist(), *upper.tolist(), tuple(Keypoint(x, y, 1.0) for x, y in points.tolist()))


def bodies(*points: np.ndarray) -> Objects:
    """Labelled bodies of (K, 3) points each, of 40 x 40 pixels."""
    count = len(points)
    return Objects(
        boxes=np.tile([10.0, 10, 50, 50], (count, 1)),
        labels=np.zeros(count, np.int64),
        crowd=np.zeros(count, np.bool_),
        areas=np.full(count, 1600.0),
        keypoints=np.stack(points),
    )


@pytest.fixture
def points() -> np.ndarray:
    """Seventeen labelled keypoints, (17, 3)."""
    return np.concatenate([np.random.default_rng(0).uniform(10, 50, (17, 2)), np.full((17, 1), 2.0)], axis=1)


def test_similarity_is_that_of_coco(points: np.ndarray) -> None:
    moved = points[:, :2] + np.random.default_rng(1).normal(0, 2, (17, 2))
    known = np.arange(17) % 3 > 0
    judge = COCOeval(iouType="keypoints")
    flat = np.concatenate([points[:, :2], np.where(known, 2, 0)[:, None]], axis=1).ravel()
    judge._gts[0, 0] = [{"keypoints": flat, "bbox": [10, 10, 40, 40], "area": 1600.0, "id": 1}]
    judge._dts[0, 0] = [{"keypoints": np.insert(moved, 2, 1, axis=1).ravel(), "score": 1.0}]
    expected = judge.computeOks(0, 0)[0, 0]
    found = keypoint_similarity(points[None, :, :2], moved[None], np.array([1600.0]), known[None])
    assert found[0, 0] == pytest.approx(expected)
    assert 0.2 < expected < 0.95


def test_right_bodies_have_an_average_precision_of_one_and_far_ones_none(points: np.ndarray) -> None:
    right, wrong = judge_of(), judge_of()
    verdict = right.add(Poses((body(points[:, :2]),)), bodies(points), SIZE)
    wrong.add(Poses((body(points[:, :2] + 40),)), bodies(points), SIZE)
    assert right.figures().metrics == pytest.approx({"oks_ap": 1, "oks_ap50": 1, "oks_ap75": 1, "oks_ar": 1})
    assert wrong.figures().metrics["oks_ap"] == 0
    assert right.figures().notes == ()
    assert verdict.said == "1 of 1 bodies found"


def test_a_body_without_labelled_points_is_not_asked_for(points: np.ndarray) -> None:
    judge = judge_of()
    verdict = judge.add(Poses((body(points[:, :2]),)), bodies(points, np.zeros((17, 3))), SIZE)
    assert judge.figures().metrics["oks_ap"] == pytest.approx(1)
    assert verdict.said == "1 of 1 bodies found"


def test_other_skeletons_have_one_sigma_and_a_note_says_so(points: np.ndarray) -> None:
    judge = judge_of(("head", "tail"))
    judge.add(Poses((body(points[:2, :2]),)), bodies(points[:2]), SIZE)
    figures = judge.figures()
    assert figures.metrics["oks_ap"] == pytest.approx(1)
    assert figures.notes == ("OKS with the sigma 0.067 for all 2 keypoints: COCO's are for its 17",)


def test_another_number_of_keypoints_is_an_error(points: np.ndarray) -> None:
    with pytest.raises(DatasetError, match="17 labelled keypoints; the model has 2"):
        judge_of(("head", "tail")).add(Poses(()), bodies(points), SIZE)


def test_agreement_is_the_mean_similarity_of_partners(points: np.ndarray) -> None:
    def answers(*found: Pose) -> object:
        return [METRICS[Poses].answer(judge_of().add(Poses(found), bodies(points), SIZE).shown)]

    here, there = body(points[:, :2]), body(points[:, :2] + 45)
    agreement = METRICS[Poses].agreement
    assert agreement(answers(here), answers(here)) == pytest.approx(1)
    assert agreement(answers(here, there), answers(here)) == pytest.approx(2 / 3)
    assert agreement(answers(), answers()) == 1
    assert agreement(answers(here), answers(body(points[:, :2], 0.4))) == 0  # below the model's threshold
