"""Masks against the long way: the whole picture, one bilinear resize after the other, as Ultralytics does it."""

from __future__ import annotations

import time
import tracemalloc
import warnings

import cv2
import numpy as np
import pytest
from detection_heads import CORNER, LETTERBOX, PREPROCESSES, Box, decode, manifest_of, ordered, to_input
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ModelError
from runtime.manifest import Preprocess, Resize
from runtime.placement import Placement
from runtime.tasks import Instances
from runtime.tasks.instances import instance_mask, pixels_of

LABELS = ("cat", "dog", "owl")
COEFFICIENTS = 5
CELLS = (16, 24)  # of the prototypes, for an input of 64x96


def smooth(random: np.random.Generator, count: int, shape: tuple[int, int]) -> np.ndarray:
    """Return (count, h, w) float32 whose signs change along curves, as prototypes' do."""
    coarse = random.normal(size=(count, 5, 5)).astype(np.float32)
    return np.stack([cv2.resize(one, shape[::-1], interpolation=cv2.INTER_CUBIC) for one in coarse])


def whole_logits(prototypes: np.ndarray, weights: np.ndarray, placed: Placement) -> np.ndarray:
    """Return the logits of the whole original: to the input's size, margins cut away, to the original's size."""
    logits = sum(weight * one for weight, one in zip(weights, prototypes, strict=True))
    on_input = cv2.resize(logits, (placed.input_width, placed.input_height), interpolation=cv2.INTER_LINEAR)
    top, left = placed.top, placed.left
    picture = on_input[top : top + placed.resized_height, left : left + placed.resized_width]
    return cv2.resize(picture, (placed.width, placed.height), interpolation=cv2.INTER_LINEAR)


def differs_inside(found: np.ndarray, expected: np.ndarray, width: int) -> int:
    """Return how many pixels differ that are farther than *width* from where *expected* changes."""
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    surely = cv2.erode(expected.astype(np.uint8), kernel).astype(bool)
    possibly = cv2.dilate(expected.astype(np.uint8), kernel).astype(bool)
    return int((surely & ~found).sum() + (found & ~possibly).sum())


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(PREPROCESSES),
    st.sampled_from([(48, 80), (200, 100), (64, 96), (90, 70)]),
)
def test_a_mask_differs_from_that_of_the_long_way_only_where_its_logits_change_sign(
    seed: int, preprocess: Preprocess, size: tuple[int, int]
) -> None:
    random = np.random.default_rng(seed)
    prototypes, weights = smooth(random, COEFFICIENTS, CELLS), random.normal(size=COEFFICIENTS).astype(np.float32)
    placed = Placement.of(preprocess, *size)
    logits = whole_logits(prototypes, weights, placed)
    found = instance_mask(prototypes, weights, (0, 0, size[1], size[0]), placed)
    assert found.shape == logits.shape == size
    differs = found != (logits > 0)
    assert np.abs(logits[differs]).max(initial=0) <= 0.05 * np.ptp(logits)  # one resize for two: 0.034 of 4,000 seeds
    assert differs.mean() < 0.03


def test_a_part_of_a_mask_is_the_part_of_the_mask() -> None:
    random = np.random.default_rng(3)
    prototypes, weights = smooth(random, COEFFICIENTS, CELLS), random.normal(size=COEFFICIENTS).astype(np.float32)
    placed = Placement.of(LETTERBOX, 700, 900)
    whole = instance_mask(prototypes, weights, (0, 0, 900, 700), placed)  # several strips
    assert 0.1 < whole.mean() < 0.9
    for left, top, right, bottom in [(0, 0, 1, 1), (899, 699, 900, 700), (130, 77, 650, 612), (5, 300, 899, 301)]:
        part = instance_mask(prototypes, weights, (left, top, right, bottom), placed)
        np.testing.assert_array_equal(part, whole[top:bottom, left:right])


@pytest.mark.parametrize(
    ("box", "region"),
    [
        ((1.6, 2.4, 5.5, 7.4), (2, 2, 6, 7)),
        ((0.0, 0.0, 10.0, 8.0), (0, 0, 10, 8)),
        ((3.1, 3.1, 3.3, 3.2), (3, 3, 4, 4)),
        ((9.9, 7.9, 10.0, 8.0), (9, 7, 10, 8)),
    ],
)
def test_a_box_has_the_pixels_whose_centers_it_covers_and_at_least_one(box: Box, region: tuple[int, ...]) -> None:
    assert pixels_of(box, 10, 8) == region


def rows_of(boxes: list[Box], labels: list[int], weights: np.ndarray, size: tuple[int, int], lead: int) -> np.ndarray:
    rows = np.zeros((1, 60, lead + 3 + COEFFICIENTS), np.float32)
    for place, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        rows[0, 10 * place, :4] = ordered(to_input(box, LETTERBOX, size), "cxcywh")
        rows[0, 10 * place, 4:lead] = 1
        rows[0, 10 * place, lead + label] = 0.9 - 0.1 * place
        rows[0, 10 * place, lead + 3 :] = weights[place]
    return rows


@pytest.mark.parametrize("kind", ["yolov8-seg", "yolov5-seg", "boxes-seg"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_object_has_its_own_mask_in_its_own_box(kind: str, channels_last: bool, dtype: type) -> None:
    random = np.random.default_rng(8)
    size, boxes, labels = (200, 150), [(20.0, 30.0, 120.0, 180.0), (0.0, 70.0, 140.0, 200.0)], [2, 0]
    prototypes = smooth(random, COEFFICIENTS, CELLS)
    weights = random.normal(size=(2, COEFFICIENTS)).astype(np.float32)
    rows = rows_of(boxes, labels, weights, size, 5 if kind == "yolov5-seg" else 4)
    if kind == "yolov8-seg":
        rows = rows.transpose(0, 2, 1)
    if kind == "boxes-seg":
        corners = [to_input(box, LETTERBOX, size) for box in boxes]
        rows = np.column_stack([corners, [0.9, 0.8], labels, weights])[None].astype(np.float32)
    masks = prototypes.transpose(1, 2, 0) if channels_last else prototypes
    manifest = manifest_of(kind, LABELS, preprocess=LETTERBOX, task="segmentation")
    found = decode(manifest, size, output0=rows.astype(dtype), output1=masks[None].astype(dtype))
    placed = Placement.of(LETTERBOX, *size)
    assert [one.label for one in found[0].instances] == ["owl", "cat"]
    for one, box, own in zip(found[0].instances, boxes, weights, strict=True):
        np.testing.assert_allclose((one.x1, one.y1, one.x2, one.y2), box, atol=0.3 if dtype == np.float16 else 1e-3)
        height, width = one.mask.shape
        np.testing.assert_allclose((one.left, one.top, one.left + width, one.top + height), box, atol=1)
        whole = whole_logits(prototypes, own, placed) > 0
        expected = whole[one.top : one.top + height, one.left : one.left + width]
        assert one.mask.dtype == np.bool_
        assert 0.05 < expected.mean() < 0.95
        assert differs_inside(one.mask, expected, 2) == 0


def test_nothing_is_found_in_nothing_and_no_number_is_a_mask() -> None:
    manifest = manifest_of("yolov8-seg", LABELS, preprocess=CORNER, task="segmentation")
    prototypes = np.full((1, COEFFICIENTS, *CELLS), np.inf, np.float32)
    empty = np.zeros((1, 7 + COEFFICIENTS, 60), np.float32)
    assert decode(manifest, (50, 50), a=empty, b=prototypes) == [Instances(())]
    empty[0, :5, 3] = (30, 30, 20, 20, 0.9)
    empty[0, 7:, 3] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(decode(manifest, (50, 50), a=empty, b=prototypes)[0].instances) == 1
        assert not decode(manifest, (50, 50), a=empty, b=prototypes * np.nan)[0].instances[0].mask.any()
        empty[0, 8, 3] = np.nan
        assert decode(manifest, (50, 50), a=empty, b=prototypes) == [Instances(())]


def test_a_big_original_costs_its_boxes_alone() -> None:
    size = (6000, 9000)
    random = np.random.default_rng(1)
    prototypes, weights = smooth(random, COEFFICIENTS, CELLS), random.normal(size=(1, COEFFICIENTS))
    rows = rows_of([(1000.0, 2000.0, 1400.0, 2300.0)], [0], weights, size, 4).transpose(0, 2, 1)
    manifest = manifest_of("yolov8-seg", LABELS, preprocess=LETTERBOX, task="segmentation")
    tracemalloc.start()
    start = time.perf_counter()
    found = decode(manifest, size, a=rows, b=prototypes[None])
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found[0].instances[0].mask.shape == (300, 400)
    assert peak < 8_000_000  # the whole picture would be 54 MB as bool, 216 MB as float32
    assert seconds < 1


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"a": (1, 12, 60)}, r"no output fits prototypes: found a float32 \[1, 12, 60\]"),
        ({"a": (1, 13, 60), "b": (1, 5, 16, 24)}, r"a float32 \[1, 13, 60\].*4 \+ 3 \+ 5 or 24 more.*3 labels"),
        ({"a": (1, 12, 60), "b": (2, 5, 16, 24)}, r"b float32 \[2, 5, 16, 24\].*\(1, coefficients, height, width\)"),
    ],
)
def test_what_does_not_fit_is_refused(shapes: dict[str, tuple[int, ...]], says: str) -> None:
    manifest = manifest_of("yolov8-seg", LABELS, preprocess=LETTERBOX, task="segmentation")
    with pytest.raises(ModelError, match=says):
        decode(manifest, (50, 50), **{name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


def test_a_mask_follows_an_exact_resize_too() -> None:
    """A prototype that is positive in its left half: half of the picture, at whatever scale."""
    prototypes = np.ones((1, 1, 8, 8), np.float32)
    prototypes[..., 4:] = -1
    rows = np.array([[[32, 32, 64, 64, 0.9, 1]]], np.float32).transpose(0, 2, 1)
    manifest = manifest_of(
        "yolov8-seg",
        ("thing",),
        preprocess=Preprocess(resize=Resize(mode="exact", size=(64, 64))),
        task="segmentation",
    )
    mask = decode(manifest, (300, 200), a=rows, b=prototypes)[0].instances[0].mask
    assert mask.shape == (300, 200)
    assert mask[:, :100].all()
    assert not mask[:, 100:].any()
