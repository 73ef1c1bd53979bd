"""What counts as the same output."""

from __future__ import annotations

import numpy as np
import pytest

from controller.errors import ExportError, ParityError
from controller.lifecycle.gate.parity import allowed_difference, answers_all_alike, label_difference, output_difference


def test_difference_counts_relative_to_what_the_output_ranges_over() -> None:
    boxes = np.array([[1.0, 640.0]], np.float32)
    assert output_difference("boxes", 1, boxes + np.float32(0.05), boxes) == pytest.approx(0.05, rel=1e-3)
    scores = boxes / 640
    with pytest.raises(ExportError, match=r"'scores' differs .* by 0\.05 .*at most 0\.0001 .*goes up to 1\)"):
        output_difference("scores", 1, scores + np.float32(0.05), scores)


def test_limits_are_absolute_for_small_outputs_and_relative_for_large_ones() -> None:
    assert allowed_difference(np.array([-1.0, 0.0, 0.5])).tolist() == [1e-4] * 3
    assert allowed_difference(np.array([-640.0, 64.0, 1.0, 0.0])) == pytest.approx([0.64, 0.064, 0.064, 0.064])
    with pytest.raises(ParityError) as caught:
        output_difference("y", 2, np.array([2.1, 500.0]), np.array([2.0, 500.0]))
    assert caught.value.output == "y"


def test_labels_of_trees_are_compared_and_their_scores_are_not() -> None:
    scores = np.eye(4, dtype=np.float32)
    assert label_difference([scores * 0.3], [scores]) == 0
    assert label_difference([np.arange(200)], [np.arange(200)]) == 0
    other = np.arange(200)
    other[:2] = 7
    assert label_difference([other], [np.arange(200)]) == 0.01
    other[:3] = 9
    with pytest.raises(ParityError, match=r"1\.5% of the pictures get another label .* at most 1%"):
        label_difference([other], [np.arange(200)])
    with pytest.raises(ParityError, match=r"other shapes than the source's: \(4, 4\) and \(4, 3\)"):
        label_difference([scores], [scores[:, :3]])


def test_a_source_that_answers_all_pictures_alike_is_noticed() -> None:
    scores = np.array([[0.1, 0.9], [0.1, 0.9], [0.1, 0.90005]], np.float32)
    assert answers_all_alike([[scores[:1]], [scores]])
    assert not answers_all_alike([[scores[:1]], [scores * [[1], [1], [1.01]]]])
    assert not answers_all_alike([[scores[:1]]])  # one picture has no other to be like
    assert not answers_all_alike([[np.zeros((1, 7), np.int64)], [np.zeros((3, 7), np.int64)]])


def test_of_integers_one_in_a_thousand_may_differ() -> None:
    ids = np.zeros(10_000, np.int64)
    other = ids.copy()
    other[:10] = 7
    assert output_difference("ids", 1, other, ids) == 0
    other[:11] = 7
    with pytest.raises(ExportError, match=r"'ids' differs from the source in 0\.110% of its elements"):
        output_difference("ids", 1, other, ids)


def test_outputs_without_rows_are_the_same_and_of_other_rows_are_not() -> None:
    none = np.zeros((0, 6), np.float32)
    assert output_difference("rows", 1, none, none) == 0
    assert output_difference("labels", 1, none.astype(np.int64), none.astype(np.int64)) == 0
    with pytest.raises(ExportError, match=r"shape \(0, 6\) for a batch of 1; the source gives \(1, 6\)"):
        output_difference("rows", 1, none, np.zeros((1, 6), np.float32))


def test_infinity_and_nan_are_refused_even_if_the_source_gives_them() -> None:
    for bad in (np.nan, np.inf):
        values = np.array([bad], np.float32)
        with pytest.raises(ExportError, match="holds NaN or infinity"):
            output_difference("y", 1, values, values)
