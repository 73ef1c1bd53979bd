"""What is true of a picture, in a model's classes: by name, by index, by COCO's ids; what is not, is listed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from detection_heads import manifest_of
from listed_rows import Listed
from PIL import Image

from runtime.datasets import Objects, Row
from runtime.errors import DatasetError
from runtime.evaluation.label_map import COCO_IDS, LabelMap, by_name
from runtime.evaluation.truth import Truths

SIZE = (6, 8)
SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]


def objects_of(labels: Sequence[int], **more: Any) -> Objects:
    count = len(labels)
    found = Objects(
        boxes=np.tile([1.0, 1, 5, 5], (count, 1)),
        labels=np.array(labels, np.int64),
        crowd=np.zeros(count, np.bool_),
        areas=np.full(count, 16.0),
    )
    return replace(found, **more)


def row(**known: Any) -> Row:
    return Row(image=b"", label=known.pop("label", None), source_file="a.png", source_row=0, **known)


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "PNG")
    return buffer.getvalue()


def truths(data: Listed, labels: Sequence[str], **manifest: Any) -> Truths:
    return Truths.of(data, manifest_of("boxes", labels, **manifest))


def mapped(names: tuple[str, ...] | None, labels: Sequence[str], ids: Sequence[int]) -> list[int]:
    data = Listed((row(objects=objects_of(ids)),), names)
    return LabelMap.of(data, labels)(np.array(ids, np.int64)).tolist()


def test_names_decide_where_there_are_some() -> None:
    assert mapped(("Traffic_Light", "dog", "cat"), ("cat", "traffic light", "dog"), [0, 1, 2]) == [1, 2, 0]
    assert mapped(("crane", "dog"), ("crane", "dog", "crane"), [0, 1]) == [-1, 1]  # which crane?
    assert mapped(("crane", "crane"), ("crane", "crane"), [0, 1]) == [0, 1]  # the same list


def test_without_a_common_name_the_indices_are_the_same_if_they_can_be() -> None:
    assert mapped(("n01", "n02"), ("tench", "shark", "ray"), [0, 1]) == [0, 1]
    assert mapped(("n01", "n02"), ("tench",), [0, 1]) == [-1, -1]


def test_a_name_is_a_class_whatever_its_case_unless_two_have_it() -> None:
    found = by_name(("Traffic_Light", "yeti", "crane"), ("crane", "traffic light", "Crane", "CRANE"))
    assert found.tolist() == [1, -1, -1]


def test_without_the_picture_s_size_what_is_drawn_is_not_held_against_it() -> None:
    data = Listed((row(objects=objects_of([0], size=(800, 600), boxes=np.array([[4.0, 3, 1100, 800]]))),))
    assert len(truths(data, ("cat",)).read("objects", data.given[0], None)) == 1
    data = Listed((row(mask=png(np.ones((8, 6), np.uint8))),))
    assert segmenter(data).read("mask", data.given[0], None).shape == (8, 6)
    data = Listed((row(objects=objects_of([0], outlines=(SQUARE,))),))
    with pytest.raises(DatasetError, match="no size of the picture"):
        segmenter(data).read("mask", data.given[0], None)


def test_without_names_an_index_is_the_model_s() -> None:
    assert mapped(None, ("cat", "dog"), [0, 1, 2, -1]) == [0, 1, -1, -1]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([1, 3, 90], [0, 2, 79]), ([0, 3, 79], [0, 3, 79]), ([1, 3], [1, 3]), ([3, 12, 90], [2, -1, 79])],
)
def test_coco_s_own_ids_are_told_from_indices(ids: list[int], expected: list[int]) -> None:
    eighty = ("person", *(f"c{number}" for number in range(1, 79)), "toothbrush")
    assert mapped(None, eighty, ids) == expected


def test_coco_has_eighty_ids() -> None:
    assert (len(COCO_IDS), COCO_IDS[0], COCO_IDS[-1]) == (80, 1, 90)


def test_what_cannot_be_mapped_is_listed_from_the_whole_dataset() -> None:
    data = Listed((row(objects=objects_of([0, 1])), row(objects=objects_of([2]))), ("cat", "unicorn", "yeti", "unused"))
    with pytest.raises(DatasetError, match=r"listed: 2 of its classes are none .*: 'unicorn', 'yeti'; .* cat, dog"):
        truths(data, ("cat", "dog")).read("objects", data.given[0], SIZE)


def test_a_label_beyond_the_classes_is_an_error() -> None:
    data = Listed((row(label=7),))
    with pytest.raises(DatasetError, match=r"1 of its classes are none of the model's: 7; .* cat, dog"):
        truths(data, ("cat", "dog"), task="classification").read("label", data.given[0], SIZE)


@pytest.mark.parametrize("kind", ["label", "objects", "outlines", "keypoints", "mask", "matte"])
def test_a_row_that_says_nothing_is_an_error(kind: Any) -> None:
    data = Listed((row(),))
    with pytest.raises(DatasetError, match=r"listed has no (label|objects) in row 0 of a.png; docs/evaluation.md"):
        truths(data, ("cat",)).read(kind, data.given[0], SIZE)


def test_objects_lack_outlines_or_keypoints() -> None:
    data = Listed((row(objects=objects_of([0])),))
    for kind, what in (
        ("outlines", "outline of every object"),
        ("keypoints", "keypoints"),
        ("matte", "outline of every"),
    ):
        with pytest.raises(DatasetError, match=f"has no {what}"):
            truths(data, ("cat",)).read(kind, data.given[0], SIZE)  # type: ignore[arg-type]


def test_boxes_of_a_picture_that_was_turned_are_an_error() -> None:
    data = Listed((row(objects=objects_of([0], size=(8, 6))),))
    with pytest.raises(DatasetError, match="drawn on a picture of 6x8, upright it has 8x6"):
        truths(data, ("cat",)).read("objects", data.given[0], SIZE)


def test_corners_in_place_of_sizes_are_noticed() -> None:
    data = Listed((row(objects=objects_of([0], boxes=np.array([[4.0, 3, 11, 8]]))),))
    with pytest.raises(
        DatasetError, match=r"the box \[4.0, 3.0, 7.0, 5.0\] reaches beyond the picture of 8x6; .*corners"
    ):
        truths(data, ("cat",)).read("objects", data.given[0], SIZE)


def segmenter(data: Listed) -> Truths:
    return truths(data, ("background", "cat", "dog"), task="segmentation")


@pytest.mark.parametrize("palette", [False, True])
def test_a_mask_s_numbers_are_classes_and_255_is_kept(palette: bool) -> None:
    pixels = np.zeros(SIZE, np.uint8)
    pixels[0, :3] = (1, 2, 255)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(bytes(range(256)) * 3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = Listed((row(mask=buffer.getvalue()),))
    np.testing.assert_array_equal(segmenter(data).read("mask", data.given[0], SIZE), pixels)


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (png(np.full(SIZE, 7, np.uint8)), "has the classes 7; the model has 3, from 0"),
        (png(np.zeros((*SIZE, 3), np.uint8)), "is a picture in RGB; expected one number a pixel"),
        (png(np.zeros((8, 6), np.uint8)), "is 6x8; the upright picture is 8x6"),
        (b"nothing", "is no readable image"),
    ],
)
def test_a_mask_that_cannot_be_one_is_named(mask: bytes, problem: str) -> None:
    data = Listed((row(mask=mask),))
    with pytest.raises(DatasetError, match=problem):
        segmenter(data).read("mask", data.given[0], SIZE)


def test_outlines_are_painted_the_largest_first() -> None:
    outlines = ([[2, 2, 4, 2, 4, 4, 2, 4]], SQUARE)
    data = Listed((row(objects=objects_of([0, 1], outlines=outlines, areas=np.array([4.0, 16.0]))),), ("dog", "cat"))
    mask = segmenter(data).read("mask", data.given[0], SIZE)
    expected = np.zeros(SIZE, np.int64)
    expected[1:5, 1:5] = 1
    expected[2:4, 2:4] = 2
    np.testing.assert_array_equal(mask, expected)
    without = truths(data, ("cat", "dog"), task="segmentation").read("mask", data.given[0], SIZE)
    assert without[0, 0] == 255  # there is no class for the rest


@pytest.mark.parametrize(("given", "expected"), [([0, 1], [0, 255]), ([0, 128], [0, 128]), ([0, 255], [0, 255])])
def test_a_matte_of_zeros_and_ones_is_one_of_zeros_and_255(given: list[int], expected: list[int]) -> None:
    pixels = np.resize(np.array(given, np.uint8), SIZE)
    data = Listed((row(mask=png(pixels)),))
    matte = truths(data, (), task="segmentation").read("matte", data.given[0], SIZE)
    np.testing.assert_array_equal(matte, np.resize(expected, SIZE))


def test_outlines_make_a_matte() -> None:
    data = Listed((row(objects=objects_of([0], outlines=(SQUARE,))),))
    assert truths(data, (), task="segmentation").read("matte", data.given[0], SIZE).sum() == 16 * 255
