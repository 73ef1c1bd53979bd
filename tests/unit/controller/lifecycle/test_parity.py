"""What counts as the same output."""

from __future__ import annotations

import numpy as np
import pytest

from controller.errors import ExportError
from controller.lifecycle.parity import output_difference


def test_difference_counts_relative_to_what_the_output_ranges_over() -> None:
    boxes = np.array([[1.0, 640.0]], np.float32)
    assert output_difference("boxes", 1, boxes + np.float32(0.05), boxes) == pytest.approx(0.05, rel=1e-3)
    scores = boxes / 640
    with pytest.raises(ExportError, match=r"'scores' differs .* by 0\.05 .*less than 0\.0001 .*goes up to 1\)"):
        output_difference("scores", 1, scores + np.float32(0.05), scores)


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
