"""Masks and mattes: figures counted by hand, and the F measure the long way."""

from __future__ import annotations

import numpy as np
import pytest
from detection_heads import manifest_of

from runtime.evaluation.metrics import METRICS
from runtime.evaluation.metrics.saliency import SaliencyJudge
from runtime.evaluation.metrics.semantic import IGNORE, SemanticJudge
from runtime.tasks import Matte, Segmentation

LABELS = ("background", "cat", "dog")


def semantic(*pairs: tuple[list[list[int]], list[list[int]]]) -> SemanticJudge:
    judge = SemanticJudge(manifest_of("semantic", LABELS, task="segmentation"))
    for said, truth in pairs:
        judge.add(Segmentation(np.array(said, np.uint8), ()), np.array(truth, np.int64), (2, 2))
    return judge


def test_intersections_over_unions_are_counted_over_all_images() -> None:
    figures = semantic(([[0, 1], [1, 1]], [[0, 0], [1, 1]]), ([[0, 0], [0, 0]], [[0, 0], [0, 1]])).figures()
    background, cat = 4 / 6, 2 / 4  # of 5 labelled and 5 said, 4 the same; of 3 and 3, 2
    assert figures.metrics["miou"] == pytest.approx((background + cat) / 2)  # no dog occurs
    assert figures.metrics["pixel_accuracy"] == pytest.approx(6 / 8)
    assert figures.classes is not None
    assert figures.classes.rows[1] == ("cat", pytest.approx((0.5, 2 / 3, 2 / 3, 3)))


def test_ignored_pixels_count_for_nothing_and_unknown_answers_are_wrong() -> None:
    judge = semantic(([[0, 1], [2, IGNORE]], [[IGNORE, 1], [IGNORE, 1]]))
    assert judge.figures().metrics == pytest.approx({"miou": 0.5, "pixel_accuracy": 0.5, "mean_recall": 0.5})


def test_agreement_of_masks_is_the_share_of_pixels() -> None:
    metric = METRICS[Segmentation]
    one, other = (
        [metric.answer(Segmentation(np.array(mask, np.uint8), ()))] for mask in ([[0, 1], [2, 2]], [[0, 1], [2, 1]])
    )
    assert metric.agreement(one, other) == 0.75


def saliency(*pairs: tuple[np.ndarray, np.ndarray]) -> SaliencyJudge:
    judge = SaliencyJudge(manifest_of("saliency", task="segmentation"))
    for matte, truth in pairs:
        judge.add(Matte(matte, 0.0), truth, matte.shape)
    return judge


def test_the_largest_f_measure_is_that_of_trying_every_threshold() -> None:
    random = np.random.default_rng(0)
    pairs = []
    for _ in range(3):
        truth = np.where(random.random((16, 16)) < 0.3, 255, 0).astype(np.uint8)
        noisy = np.clip(truth * 0.4 + random.normal(80, 40, truth.shape), 0, 255).astype(np.uint8)
        pairs.append((noisy, truth))
    best = 0.0
    for threshold in range(1, 256):
        precisions, recalls = [], []
        for matte, truth in pairs:
            cut, inside = matte >= threshold, truth > 127
            right = np.count_nonzero(cut & inside)
            precisions.append(right / np.count_nonzero(cut) if cut.any() else 1.0)
            recalls.append(right / np.count_nonzero(inside))
        precision, recall = np.mean(precisions), np.mean(recalls)
        if precision + recall:
            best = max(best, 1.3 * precision * recall / (0.3 * precision + recall))
    metrics = saliency(*pairs).figures().metrics
    assert metrics["max_f"] == pytest.approx(best)
    assert metrics["mae"] == pytest.approx(
        np.mean([np.abs(matte / 255 - truth / 255).mean() for matte, truth in pairs])
    )


def test_images_without_a_foreground_count_in_the_error_alone() -> None:
    truth = np.zeros((4, 4), np.uint8)
    truth[:2] = 255
    figures = saliency((truth, truth), (np.full((4, 4), 51, np.uint8), np.zeros((4, 4), np.uint8))).figures()
    assert figures.metrics == pytest.approx({"max_f": 1, "iou": 1, "mae": 0.1})
    assert figures.notes == ("1 images without a foreground do not count in max_f and iou",)


def test_agreement_of_mattes_is_the_share_of_pixels_on_the_same_side() -> None:
    metric = METRICS[Matte]
    one, other = (
        [metric.answer(Matte(np.array(mask, np.uint8), 0.0))]
        for mask in ([[0, 200], [127, 255]], [[90, 128], [128, 255]])
    )
    assert metric.agreement(one, other) == 0.75
