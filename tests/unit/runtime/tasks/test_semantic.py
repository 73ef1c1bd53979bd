"""The class of each pixel, in the picture that was given: held against plain loops, a pixel at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from detection_heads import manifest_of
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ModelError
from runtime.manifest import Manifest, Preprocess, Resize
from runtime.placement import Placement
from runtime.tasks import ClassPixels, Segmentation
from runtime.tasks.semantic import decode_semantic

PICTURE = (4, 6)  # (height, width); the model's input, too, where nothing else is said
AS_IT_IS = Preprocess()
LABELS = ("background", "bird", "cat")
rng = np.random.default_rng(0)


def of(labels: tuple[str, ...] = LABELS, preprocess: Preprocess = AS_IT_IS, **postprocess: Any) -> Manifest:
    return manifest_of("semantic", labels, preprocess=preprocess, task="segmentation", **postprocess)


def decode(manifest: Manifest, output: np.ndarray, *sizes: tuple[int, int]) -> list[Segmentation]:
    return decode_semantic({"out": output}, sizes or (PICTURE,) * len(output), manifest)


def test_the_greatest_channel_is_the_class_in_either_layout() -> None:
    scores = rng.standard_normal((2, 3, *PICTURE)).astype(np.float32)
    for manifest in (of(), of(activation="softmax")):
        for output in (scores, np.ascontiguousarray(np.moveaxis(scores, 1, 3))):
            for found, expected in zip(decode(manifest, output), scores.argmax(axis=1), strict=True):
                assert found.mask.dtype == np.uint8
                np.testing.assert_array_equal(found.mask, expected)


def test_classes_come_most_pixels_first_and_only_those_that_occur() -> None:
    ids = np.zeros((1, *PICTURE), np.int64)
    ids[0, 0, :2] = 2
    (found,) = decode(of(), ids)
    assert found.classes == (ClassPixels(0, "background", 22), ClassPixels(2, "cat", 2))
    ids[0, 0, :] = ids[0, 1, :] = 2
    assert [one.label_id for one in decode(of(), ids)[0].classes] == [0, 2]  # equal numbers: by id


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.float32, np.float16])
@pytest.mark.parametrize("shape", [(1, *PICTURE), (1, 1, *PICTURE), (1, *PICTURE, 1)])
def test_ids_are_taken_as_they_are(dtype: type, shape: tuple[int, ...]) -> None:
    ids = rng.integers(0, 3, PICTURE)
    (found,) = decode(of(), ids.reshape(shape).astype(dtype))
    np.testing.assert_array_equal(found.mask, ids)


def test_an_id_without_a_label_has_its_number_for_a_name() -> None:
    ids = np.full((1, *PICTURE), 255, np.int64)
    assert decode(of(), ids)[0].classes == (ClassPixels(255, "class_255", 24),)


@pytest.mark.parametrize(("activation", "cut"), [("sigmoid", math.log(0.7 / 0.3)), ("none", 0.7)])
@pytest.mark.parametrize("shape", [(1, 1, *PICTURE), (1, *PICTURE, 1), (1, *PICTURE)])
@pytest.mark.parametrize("labels", [("bird",), ("background", "bird")])
def test_one_channel_is_the_foreground(
    activation: str, cut: float, shape: tuple[int, ...], labels: tuple[str, ...]
) -> None:
    values = np.linspace(cut - 0.2, cut + 0.2, 24, dtype=np.float32)
    (found,) = decode(of(labels, activation=activation, score_threshold=0.7), values.reshape(shape))
    np.testing.assert_array_equal(found.mask.ravel(), values > cut)
    assert found.classes == (ClassPixels(0, "background", 12), ClassPixels(1, "bird", 12))


def test_a_sigmoid_of_whole_numbers_is_no_id() -> None:
    logits = np.full((1, 1, *PICTURE), 2.0, np.float32)
    (found,) = decode(of(("bird",), activation="sigmoid"), logits)
    assert found.classes == (ClassPixels(1, "bird", 24),)


@pytest.mark.parametrize(("activation", "scale"), [("sigmoid", 8.0), ("none", 1.0)])
def test_channels_beside_the_background_leave_it_what_none_is_sure_of(activation: str, scale: float) -> None:
    scores = (rng.random((1, 2, *PICTURE)).astype(np.float32) - (0.5 if activation == "sigmoid" else 0)) * scale
    sure = 1 / (1 + np.exp(-scores[0])) if activation == "sigmoid" else scores[0]
    expected = np.where(sure.max(axis=0) >= 0.6, sure.argmax(axis=0) + 1, 0)
    (found,) = decode(of(activation=activation, score_threshold=0.6), scores)
    np.testing.assert_array_equal(found.mask, expected)
    assert 0 < np.count_nonzero(expected) < expected.size


def test_sigmoid_channels_may_have_a_class_for_nothing() -> None:
    scores = np.full((1, 3, *PICTURE), -9.0, np.float32)
    scores[0, 2, 0] = 9.0
    (found,) = decode(of(activation="sigmoid", none_label=0), scores)
    assert found.classes == (ClassPixels(0, "background", 18), ClassPixels(2, "cat", 6))
    scores[0, 1] = -8.0
    assert decode(of(activation="sigmoid"), scores)[0].classes[0].label == "bird"  # the best, however unsure


def test_quantized_scores_are_compared_as_shares() -> None:
    scores = np.full((1, 2, *PICTURE), -128, np.int8)
    scores[0, 1, 0] = 127
    (found,) = decode(of(activation="sigmoid", score_threshold=0.5), scores)
    assert found.classes == (ClassPixels(0, "background", 18), ClassPixels(2, "cat", 6))


@pytest.mark.parametrize(("count", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_more_than_256_classes_need_16_bits(count: int, dtype: type) -> None:
    scores = np.zeros((1, count, *PICTURE), np.float32)
    scores[0, 255, 0] = 1
    (found,) = decode(of(tuple(f"label {index}" for index in range(count))), scores)
    assert found.mask.dtype == dtype
    assert found.classes == (ClassPixels(0, "label 0", 18), ClassPixels(255, "label 255", 6))


def test_without_labels_the_smaller_dimension_is_the_classes() -> None:
    scores = rng.random((1, 3, 40, 30))
    for output in (scores, np.moveaxis(scores, 1, 3)):
        (found,) = decode(of(()), output, (40, 30))
        np.testing.assert_array_equal(found.mask, scores[0].argmax(axis=0))
        assert {one.label for one in found.classes} == {"class_0", "class_1", "class_2"}


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
PREPROCESSES = st.sampled_from(
    [
        AS_IT_IS,
        Preprocess(resize=Resize(mode="exact", size=(16, 24))),
        Preprocess(resize=Resize(mode="letterbox", size=(16, 24))),
        Preprocess(resize=Resize(mode="letterbox", size=(16, 24), anchor="top-left")),
        Preprocess(resize=Resize(mode="shortest-edge", size=20), crop=(16, 16)),
        Preprocess(crop=(16, 24)),
    ]
)


@given(size=SIZES, preprocess=PREPROCESSES, stride=st.sampled_from([1, 2, 3]), seed=st.integers(0, 9))
def test_a_pixel_has_the_class_of_the_cell_that_its_middle_lies_in(
    size: tuple[int, int], preprocess: Preprocess, stride: int, seed: int
) -> None:
    placed = Placement.of(preprocess, *size)
    cells = (-(-placed.input_height // stride), -(-placed.input_width // stride))
    ids = np.random.default_rng(seed).integers(0, 3, (1, *cells))
    (found,) = decode(of(preprocess=preprocess, none_label=2), ids, size)
    assert found.mask.shape == size
    assert sum(one.pixels for one in found.classes) == size[0] * size[1]
    for y in range(size[0]):
        for x in range(size[1]):
            row = (y + 0.5) * placed.resized_height / size[0] + placed.top
            column = (x + 0.5) * placed.resized_width / size[1] + placed.left
            if not (0 <= row < placed.input_height and 0 <= column < placed.input_width):
                assert found.mask[y, x] == 2  # what a crop cut away
                continue
            row, column = row * cells[0] / placed.input_height, column * cells[1] / placed.input_width
            near = {  # an edge between two cells may fall to either
                ids[0, min(int(row + e), cells[0] - 1), min(int(column + f), cells[1] - 1)]
                for e in (-1e-9, 1e-9)
                for f in (-1e-9, 1e-9)
            }
            assert found.mask[y, x] in near


@pytest.mark.parametrize(
    ("shape", "dtype", "changes", "text"),
    [
        ((1, 5, *PICTURE), np.float32, {}, r"5 classes in the output 'out' \[1, 5, 4, 6\], 3 labels"),
        ((1, 9), np.float32, {}, r"no output fits scores: found out float32 \[1, 9\]; expected \(1, classes, h, w\)"),
        ((2, 3, *PICTURE), np.float32, {}, r"found out float32 \[2, 3, 4, 6\]"),
        ((1, 2, *PICTURE), np.float32, {"activation": "softmax"}, "2 classes in the output 'out'"),
    ],
)
def test_an_output_that_does_not_fit_is_refused(shape: Any, dtype: type, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        decode(of(**changes), np.zeros(shape, dtype), PICTURE)


@pytest.mark.parametrize("value", [-1, 65536])
def test_an_id_that_no_mask_can_hold_is_refused(value: int) -> None:
    with pytest.raises(ModelError, match=r"class ids from .*; expected 0 to 65535"):
        decode(of(), np.full((1, *PICTURE), value))


def test_a_softmax_of_one_channel_is_refused() -> None:
    with pytest.raises(ModelError, match="activation 'softmax' of one channel; expected sigmoid or none"):
        decode(of(("bird",), activation="softmax"), np.full((1, 1, *PICTURE), 0.3, np.float32))
