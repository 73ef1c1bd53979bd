"""When outputs are the golden ones: relative to their range, rows as sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.comparison import compare
from runtime.errors import ProviderError
from runtime.manifest import Postprocess

PLAIN = Postprocess(kind="classification")
BOXES = Postprocess(kind="boxes", outputs={"boxes": "boxes", "scores": "scores", "labels": "labels"})
ROWS = Postprocess(kind="boxes", outputs={"rows": "rows"})


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_equal_outputs_do_not_differ() -> None:
    found = compare({"a": floats(1, 2)}, {"a": floats(1, 2)}, 1e-3, PLAIN)
    assert (found.relative, found.largest, found.differing) == (0, 0, 0)


def test_a_float_output_is_compared_relative_to_its_own_range() -> None:
    expected = {"boxes": floats(0, 400), "scores": floats(0.5, 0.1)}
    found = compare({"boxes": floats(0, 400.3), "scores": floats(0.5, 0.1)}, expected, 1e-3, PLAIN)
    assert found.relative == pytest.approx(0.3 / 400, rel=1e-3)
    assert found.largest == pytest.approx(0.3, rel=1e-3)
    with pytest.raises(
        ProviderError,
        match=r"output 'scores' differs from the golden output by 0\.01 of its range; the tolerance is 0\.001",
    ):
        compare({"boxes": floats(0, 400), "scores": floats(0.51, 0.1)}, expected, 1e-3, PLAIN)


def test_a_range_is_one_at_least() -> None:
    assert compare({"a": floats(0.0005)}, {"a": floats(0)}, 1e-3, PLAIN).relative == pytest.approx(0.0005, rel=1e-3)
    with pytest.raises(ProviderError):
        compare({"a": floats(0.002)}, {"a": floats(0.0001)}, 1e-3, PLAIN)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_differs_from_every_number(bad: float) -> None:
    with pytest.raises(ProviderError, match=r"differs from the golden output by (nan|inf)"):
        compare({"a": floats(bad, 1)}, {"a": floats(1, 1)}, 0.5, PLAIN)
    with pytest.raises(ProviderError, match="differs"):
        compare({"a": floats(1, 1)}, {"a": floats(bad, 1)}, 0.5, PLAIN)
    assert compare({"a": floats(bad, 1)}, {"a": floats(bad, 1)}, 1e-3, PLAIN).relative == 0


def test_a_nan_in_one_output_is_not_hidden_by_another() -> None:
    expected = {"a": floats(1), "b": floats(1), "c": floats(1)}
    for name in expected:
        with pytest.raises(ProviderError, match=f"output '{name}' differs from the golden output by nan"):
            compare(expected | {name: floats(np.nan)}, expected, 1e-3, PLAIN)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_of_what_is_counted_one_in_a_hundred_may_differ(dtype: type) -> None:
    expected = np.zeros(200, dtype)
    two, three = expected.copy(), expected.copy()
    two[:2] = 1
    three[:3] = 1
    assert compare({"a": two}, {"a": expected}, 1e-3, PLAIN).differing == 0.01
    with pytest.raises(ProviderError, match=r"output 'a' differs from the golden output in 1\.5% of its elements"):
        compare({"a": three}, {"a": expected}, 1e-3, PLAIN)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_scores_of_a_quantized_graph_are_numbers_and_class_ids_are_not(dtype: type) -> None:
    expected = np.arange(100, dtype=dtype)
    off_by_one, off_by_ten = expected + np.ones(100, dtype), expected + np.full(100, 10, dtype)
    assert compare({"a": off_by_one}, {"a": expected}, 0.02, PLAIN).differing == 0
    for found, head in ((off_by_ten, PLAIN), (off_by_one, Postprocess(kind="semantic"))):
        with pytest.raises(
            ProviderError, match=r"output 'a' differs from the golden output in 100\.0% of its elements"
        ):
            compare({"a": found}, {"a": expected}, 0.02, head)


def test_text_is_compared_too() -> None:
    with pytest.raises(ProviderError, match="differs"):
        compare({"a": np.array(["cat"])}, {"a": np.array(["dog"])}, 1e-3, PLAIN)


def test_another_shape_is_named() -> None:
    with pytest.raises(ProviderError, match=r"output 'a' has shape \(2,\); the golden one has \(3,\)"):
        compare({"a": floats(1, 2)}, {"a": floats(1, 2, 3)}, 1e-3, PLAIN)


def test_half_precision_is_compared_without_overflow() -> None:
    half = np.array([60000, -60000], np.float16)
    assert compare({"a": half}, {"a": -half}, 3, PLAIN).relative == pytest.approx(2)


# Rows ordered by score


def detections(scores: list[float], *, images: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of boxes up to 400 pixels, the same for each image."""
    generator = np.random.default_rng(seed)
    rows = len(scores)
    return {
        "boxes": np.tile(generator.uniform(0, 400, (1, rows, 4)), (images, 1, 1)).astype(np.float32),
        "scores": np.tile(np.array(scores, np.float32), (images, 1)),
        "labels": np.tile(generator.integers(0, 80, (1, rows)), (images, 1)),
    }


def permuted(outputs: dict[str, np.ndarray], order: list[int]) -> dict[str, np.ndarray]:
    return {name: array[:, order] for name, array in outputs.items()}


def test_rows_may_change_places() -> None:
    expected = detections([0.9, 0.6, 0.6, 0.3], images=2)
    found = permuted(expected, [0, 2, 1, 3])
    assert compare(found, expected, 1e-3, BOXES).relative == 0
    with pytest.raises(ProviderError):  # where they are not ordered by score, they are not
        compare(found, expected, 1e-3, PLAIN)


def test_a_row_with_another_box_score_or_label_has_no_partner() -> None:
    expected = detections([0.9, 0.6, 0.3])
    for name, change in (("boxes", 2.0), ("scores", 0.01), ("labels", 1)):
        found = {key: array.copy() for key, array in expected.items()}
        found[name][0, 1] += np.array(change, found[name].dtype)
        with pytest.raises(ProviderError, match=r"output 'boxes' differs from the golden output in \d+\.\d% of its"):
            compare(found, expected, 1e-3, BOXES)


def test_partners_may_differ_within_the_tolerance_and_by_how_much_is_told() -> None:
    expected = detections([0.9, 0.6, 0.3])
    found = permuted(expected, [1, 0, 2])
    found["boxes"] = found["boxes"] + np.float32(0.1)
    difference = compare(found, expected, 1e-3, BOXES)
    assert difference.largest == pytest.approx(0.1, rel=1e-2)
    assert difference.relative == pytest.approx(0.1 / expected["boxes"].max(), rel=1e-2)


def test_rows_that_do_not_count_may_be_anything() -> None:
    expected = detections([0.9, 0.02, 0.01])
    found = detections([0.9, 0.04, 0.03], seed=1)
    for name in ("boxes", "labels"):
        found[name][0, 0] = expected[name][0, 0]
    assert compare(found, expected, 1e-3, BOXES).differing == 0


def test_a_row_may_be_on_the_other_side_of_the_floor() -> None:
    expected, found = detections([0.9, 0.0503]), detections([0.9, 0.0497])
    assert compare(found, expected, 1e-3, BOXES).differing == 0
    assert compare(expected, found, 1e-3, BOXES).differing == 0


def test_a_missing_and_an_additional_row_are_both_found() -> None:
    padded, missing = detections([0.9, 0.6, 0.0]), detections([0.9, 0.0, 0.0])
    for one, other in ((padded, missing), (missing, padded)):
        with pytest.raises(ProviderError, match=r"differs from the golden output in 50\.0% of its"):
            compare(one, other, 1e-3, BOXES)


def test_of_a_hundred_rows_the_last_may_be_another() -> None:
    expected, found = detections([0.5] * 100), detections([0.5] * 100)
    found["boxes"][0, 99] += 100
    assert compare(found, expected, 1e-3, BOXES).differing == 0.01
    found["boxes"][0, 98] += 100
    with pytest.raises(ProviderError, match=r"in 2\.0% of its"):
        compare(found, expected, 1e-3, BOXES)


def test_a_dynamic_number_of_rows_may_end_one_earlier_at_the_threshold() -> None:
    expected = {name: array[0] for name, array in detections([0.9, 0.6, 0.2502]).items()}  # (M, 4), (M,)
    found = {name: array[:2] for name, array in expected.items()}
    assert compare(found, expected, 1e-3, BOXES).differing == 0
    assert compare(expected, found, 1e-3, BOXES).differing == 0
    best_gone = {name: array[1:] for name, array in expected.items()}  # that was no threshold
    for one, other in ((best_gone, expected), (expected, best_gone)):
        with pytest.raises(ProviderError):
            compare(one, other, 1e-3, BOXES)


def test_nothing_found_is_like_nothing_expected_and_unlike_something() -> None:
    nothing = {"boxes": np.zeros((0, 4), np.float32), "scores": floats(), "labels": np.zeros(0, np.int64)}
    something = {name: array[0] for name, array in detections([0.9]).items()}
    assert compare(nothing, nothing, 1e-3, BOXES).relative == 0
    for one, other in ((nothing, something), (something, nothing)):
        with pytest.raises(ProviderError):
            compare(one, other, 1e-3, BOXES)


def test_no_number_counts_as_a_row_without_a_partner() -> None:
    expected, found = detections([0.9, 0.6]), detections([0.9, 0.6])
    found["scores"][0, 1] = np.nan
    with pytest.raises(ProviderError):
        compare(found, expected, 1e-3, BOXES)


def test_rows_behind_the_count_are_not_looked_at() -> None:
    counted = BOXES.model_copy(update={"outputs": {**BOXES.outputs, "count": "count"}})
    expected = detections([0.9, 0.8]) | {"count": np.array([1], np.int32)}
    found = detections([0.9, 0.95]) | {"count": np.array([1], np.int32)}
    assert compare(found, expected, 1e-3, counted).differing == 0
    with pytest.raises(ProviderError):
        compare(found | {"count": np.array([2], np.int32)}, expected, 1e-3, counted)


def test_what_belongs_to_the_rows_is_moved_with_them() -> None:
    masks = np.random.default_rng(0).uniform(size=(1, 3, 5, 5)).astype(np.float32)
    expected = detections([0.9, 0.6, 0.3]) | {"masks": masks}
    assert compare(permuted(expected, [2, 0, 1]), expected, 1e-3, BOXES).relative == 0
    with pytest.raises(ProviderError, match="output 'masks' differs"):
        compare(permuted(expected, [2, 0, 1]) | {"masks": masks}, expected, 1e-3, BOXES)


def test_a_table_of_six_columns_and_more() -> None:
    parts = detections([0.9, 0.6, 0.3])
    rest = np.random.default_rng(1).uniform(size=(1, 3, 4)).astype(np.float32)
    table = np.concatenate([parts["boxes"], parts["scores"][..., None], parts["labels"][..., None], rest], axis=2)
    expected = {"rows": table.astype(np.float32)}
    assert compare({"rows": expected["rows"][:, [1, 0, 2]]}, expected, 1e-3, ROWS).relative == 0
    changed = expected["rows"].copy()
    changed[0, 0, 8] += 0.5
    with pytest.raises(ProviderError, match="output 'rows' differs"):
        compare({"rows": changed}, expected, 1e-3, ROWS)


def test_a_table_of_the_whole_batch() -> None:
    rows = floats(0, 10, 10, 50, 50, 3, 0.9, 0, 20, 20, 60, 60, 4, 0.9, 1, 30, 30, 90, 90, 5, 0.8).reshape(3, 7)
    assert compare({"rows": rows[[1, 0, 2]]}, {"rows": rows}, 1e-3, ROWS).differing == 0
    with pytest.raises(ProviderError):  # the second image's only row is gone
        compare({"rows": rows[:2]}, {"rows": rows}, 1e-3, ROWS)
    other_image = rows.copy()
    other_image[2, 0] = 0
    with pytest.raises(ProviderError):
        compare({"rows": other_image}, {"rows": rows}, 1e-3, ROWS)


def test_rows_are_found_by_their_shape_where_no_role_is_named() -> None:
    unnamed = Postprocess(kind="boxes")
    expected = detections([0.9, 0.6, 0.6])
    assert compare(permuted(expected, [0, 2, 1]), expected, 1e-3, unnamed).relative == 0
    table = np.concatenate([expected["boxes"], expected["scores"][..., None], expected["labels"][..., None]], axis=2)
    assert compare({"x": table[:, [2, 1, 0]]}, {"x": table}, 1e-3, unnamed).relative == 0


def test_neighbours_are_matched_so_that_nobody_is_left_alone() -> None:
    """The nearest partner of two rows is the same one; only one way of sharing serves both."""
    expected = {"boxes": np.zeros((2, 4), np.float32), "scores": floats(0.50, 0.52), "labels": np.zeros(2, np.int64)}
    found = expected | {"scores": floats(0.515, 0.46)}
    assert compare(found, expected, 0.045, BOXES).relative == pytest.approx(0.04, abs=1e-3)


@settings(max_examples=60)
@given(st.data())
def test_any_order_and_any_small_noise_is_the_same(data: st.DataObject) -> None:
    scores = data.draw(st.lists(st.floats(0.0625, 0.984375, width=32), min_size=1, max_size=12))
    order = data.draw(st.permutations(range(len(scores))))
    expected = detections(scores, seed=data.draw(st.integers(0, 99)))
    found = permuted(expected, list(order))
    noise = data.draw(st.floats(-0.0009, 0.0009))
    found["scores"] = found["scores"] + np.float32(noise)
    assert compare(found, expected, 1e-3, BOXES).relative <= 1e-3
