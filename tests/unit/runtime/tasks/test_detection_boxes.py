"""Box arithmetic, suppression and choice, against plain loops."""

from __future__ import annotations

import time

import numpy as np
import pytest
from detection_heads import Box, iou, ordered, survivors
from hypothesis import given
from hypothesis import strategies as st

from runtime.manifest import Postprocess
from runtime.tasks.detection.boxes import ORDERS, corners, sound, suppress
from runtime.tasks.detection.candidates import Candidates, choose

edges = st.floats(-50, 150, width=32)
spans = st.floats(0.5, 80, width=32)
boxes_of_any_kind = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), edges, edges, spans, spans)


def candidates(boxes: list[Box], scores: list[float] | None = None, labels: list[int] | None = None) -> Candidates:
    count = len(boxes)
    return Candidates(
        boxes=np.array(boxes, np.float64).reshape(count, 4),
        scores=np.array(scores if scores is not None else [0.5] * count, np.float32),
        labels=np.array(labels if labels is not None else [0] * count, np.int64),
        rest=np.arange(count, dtype=np.float32)[:, None],
    )


def positions(found: Candidates) -> list[int]:
    return found.rest[:, 0].astype(int).tolist()


@given(st.lists(boxes_of_any_kind, max_size=5), st.sampled_from(sorted(ORDERS)))
def test_every_order_of_corners_is_undone(boxes: list[Box], order: str) -> None:
    given_order = np.array([ordered(box, order) for box in boxes]).reshape(-1, 4)
    np.testing.assert_allclose(corners(given_order, order), np.array(boxes).reshape(-1, 4), atol=1e-6)


@given(
    st.lists(st.tuples(boxes_of_any_kind, st.integers(0, 2)), max_size=25),
    st.sampled_from([0.0, 0.3, 0.45, 0.7]),
    st.randoms(use_true_random=False),
)
def test_suppression_is_that_of_a_plain_loop(found: list[tuple[Box, int]], threshold: float, random) -> None:
    boxes, labels = [box for box, _ in found], [label for _, label in found]
    close = [
        abs(iou(first, second) - threshold) < 1e-5 and iou(first, second) != 0
        for index, first in enumerate(boxes)
        for second in boxes[:index]
    ]
    if any(close):  # equal up to rounding: either answer is right
        return
    scores = random.sample([index / 100 for index in range(1, 100)], len(boxes))
    kept = suppress(candidates(boxes, scores, labels), threshold, 300)
    assert positions(kept) == survivors(boxes, scores, labels, threshold)


def test_classes_do_not_suppress_each_other_even_left_of_the_origin() -> None:
    boxes = [(-11.0, 0.0, -1.0, 10.0), (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 10.0)]
    assert positions(suppress(candidates(boxes, [0.9, 0.8, 0.7], [1, 0, 1]), 0.45, 300)) == [0, 1, 2]


def test_of_equally_sure_ones_the_first_wins() -> None:
    boxes = [(0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 9.0), (50.0, 0.0, 60.0, 10.0)]
    assert positions(suppress(candidates(boxes), 0.45, 300)) == [0, 2]
    assert positions(suppress(candidates(boxes), 1.0, 300)) == [0, 1, 2]


def test_a_score_of_zero_survives() -> None:
    assert len(suppress(candidates([(0.0, 0.0, 1.0, 1.0)], [0.0]), 0.5, 300)) == 1


def test_the_most_are_counted_after_suppression_not_before() -> None:
    pile = [(0.0, 0.0, 10.0, 10.0)] * 5000
    others = [(20.0 * n, 0.0, 20.0 * n + 10, 10.0) for n in range(1, 6)]
    scores = np.linspace(0.9, 0.1, len(pile) + len(others)).tolist()
    assert positions(suppress(candidates(pile + others, scores), 0.5, 4)) == [0, 5000, 5001, 5002]


def test_thirty_thousand_boxes_that_overlap_nowhere_are_no_hang() -> None:
    corner = np.stack(np.meshgrid(np.arange(200.0), np.arange(150.0)), axis=-1).reshape(-1, 2)
    boxes = np.concatenate([corner, corner + 0.9], axis=1)
    start = time.perf_counter()
    assert len(suppress(candidates(boxes.tolist()), 0.45, 300)) == 300
    assert time.perf_counter() - start < 1


def test_boxes_without_an_inside_are_none() -> None:
    boxes = [(0, 0, 1, 1), (1, 0, 1, 1), (2, 0, 1, 1), (0, np.nan, 1, 1), (0, 0, np.inf, 1)]
    found = candidates([tuple(map(float, box)) for box in boxes])
    assert positions(sound(found)) == [0]
    found.rest[0] = np.nan
    assert positions(sound(found)) == []


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
@pytest.mark.parametrize("objectness", [False, True])
def test_choice_is_that_of_a_plain_loop(activation: str, objectness: bool, multi_label: bool) -> None:
    random = np.random.default_rng(5)
    raw = random.uniform(0, 1, (40, 6)).astype(np.float32)
    certain = random.uniform(0, 1, 40).astype(np.float32) if objectness else None
    post = Postprocess(kind="yolov5", activation=activation, score_threshold=0.3, multi_label=multi_label)
    if activation == "softmax":
        raw, certain = raw * 5, None
    expected = []
    for row in range(40):
        probabilities = {
            "none": raw[row],
            "sigmoid": 1 / (1 + np.exp(-raw[row])),
            "softmax": np.exp(raw[row]) / np.exp(raw[row]).sum(),
        }[activation]
        factor = 1.0 if certain is None else certain[row] if activation == "none" else 1 / (1 + np.exp(-certain[row]))
        scores = probabilities * factor
        columns = range(6) if multi_label else [int(np.argmax(scores))]
        expected += [(row, column, scores[column]) for column in columns if scores[column] >= 0.3]
    chosen = choose(raw, np.arange(6), post, certain)
    found = sorted(zip(chosen.rows.tolist(), chosen.labels.tolist(), chosen.scores.tolist(), strict=True))
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    np.testing.assert_allclose([one[2] for one in found], [one[2] for one in expected], rtol=1e-5)
    assert expected


def test_the_score_is_exactly_the_product_and_reaches_the_threshold_inclusively() -> None:
    post = Postprocess(kind="yolov5", activation="none", score_threshold=0.25)
    chosen = choose(np.array([[0.5, 0.1], [0.49, 0.2]], np.float32), np.arange(2), post, np.full(2, 0.5, np.float32))
    assert (chosen.rows.tolist(), chosen.scores.tolist()) == ([0], [0.25])


def test_a_class_that_means_nothing_is_never_an_answer_and_takes_its_share_of_a_softmax() -> None:
    logits = np.log(np.array([[0.2, 0.7, 0.1], [0.3, 0.1, 0.6]], np.float32))
    post = Postprocess(kind="detr", activation="softmax", score_threshold=0.25)
    chosen = choose(logits, np.array([0, 1, -1]), post)
    assert (chosen.rows.tolist(), chosen.labels.tolist()) == ([0, 1], [1, 0])
    np.testing.assert_allclose(chosen.scores, [0.7, 0.3], rtol=1e-5)


def test_scores_that_are_no_numbers_are_dropped() -> None:
    scores = np.array([[np.nan, 0.9], [np.inf, 0.1], [-np.inf, 0.8]], np.float32)
    for multi_label in (False, True):
        post = Postprocess(kind="yolov8", activation="none", multi_label=multi_label)
        chosen = choose(scores, np.arange(2), post)
        assert 2 in chosen.rows
        assert np.isfinite(chosen.scores).all()
