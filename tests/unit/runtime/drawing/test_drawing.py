"""What is drawn is there, in its place and colour, and can be read on any picture of any size."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.drawing import DRAWERS, draw
from runtime.drawing.canvas import contrast, text_color
from runtime.drawing.skeleton import BONES, COCO_KEYPOINTS, bones
from runtime.manifest import Postprocess
from runtime.palette import color_of
from runtime.tasks import (
    Classification,
    ClassPixels,
    Detection,
    Detections,
    Embedding,
    Instance,
    Instances,
    Keypoint,
    LabelScore,
    Matte,
    Pose,
    Poses,
    Prediction,
    Segmentation,
)

GREY = np.full((400, 600, 3), 128, np.uint8)
ANY = Postprocess(kind="any")


def of_color(pixels: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Return where *pixels* have *color*."""
    return (pixels == color).all(axis=2)


def changed(before: np.ndarray, after: np.ndarray) -> tuple[slice, slice]:
    """Return the rectangle outside of which nothing differs."""
    rows, columns = np.nonzero((before != after).any(axis=2))
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def detection(label_id: int, box: tuple[float, float, float, float], label: str = "cat") -> Detection:
    return Detection(label_id, label, 0.5, *box)


def test_all_that_can_be_seen_can_be_drawn() -> None:
    assert set(DRAWERS) == set(get_args(Prediction)) - {Embedding}


def test_the_picture_itself_is_left_alone() -> None:
    before = GREY.copy()
    draw(GREY, Detections((detection(0, (10, 10, 100, 100)),)), ANY)
    np.testing.assert_array_equal(GREY, before)


def test_a_box_is_drawn_where_it_is_in_the_colour_of_its_class() -> None:
    for label_id in (0, 5, 40):
        drawn = draw(GREY, Detections((detection(label_id, (100, 150, 300, 350)),)), ANY)
        line = of_color(drawn, color_of(label_id))
        assert line[150, 250:300].all()
        assert line[350, 150:300].all()
        assert line[200:300, 100].all()
        assert line[200:300, 300].all()
        assert not (drawn[160:340, 110:290] != 128).any()
        rows, columns = changed(GREY, drawn)
        assert 100 < rows.start < 150  # the label lies on the upper edge
        assert (rows.stop, columns.start, columns.stop) == (353, 98, 303)


def test_the_surest_lies_on_top() -> None:
    sure, unsure = detection(0, (100, 100, 300, 300)), detection(1, (100, 100, 300, 300))
    drawn = draw(GREY, Detections((sure, unsure)), ANY)
    assert of_color(drawn, color_of(0))[200, 100]
    assert not of_color(drawn, color_of(1)).any()


@pytest.mark.parametrize("box", [(0, 0, 50, 50), (550, 0, 600, 400), (-40, -40, 9999, 9999), (590, 390, 600, 400)])
def test_a_label_stays_within_the_picture(box: tuple[float, float, float, float]) -> None:
    ground = draw(GREY, Detections((detection(3, box, "a label"),)), ANY)
    elsewhere = draw(GREY, Detections((detection(3, (100, 150, 500, 350), "a label"),)), ANY)
    outline = draw(GREY, Detections((detection(3, (100, 150, 500, 350), ""),)), ANY)
    text = of_color(elsewhere, (0, 0, 0)).sum() - of_color(outline, (0, 0, 0)).sum()
    assert of_color(ground, (0, 0, 0)).sum() >= text  # no letter is cut off


def test_text_has_the_contrast_that_the_guidelines_ask_on_every_colour() -> None:
    for color in [color_of(index) for index in range(35)] + [(0, 0, 0), (255, 255, 255), (119, 119, 119)]:
        assert contrast(color, text_color(color)) >= 4.5


def test_the_contrast_is_that_of_the_guidelines() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_text_is_the_same_on_every_picture(level: int) -> None:
    answer = Classification(1, "cat", 0.5, (LabelScore(1, "cat", 0.5),))
    drawn = draw(np.full_like(GREY, level), answer, ANY)
    text = drawn[:16, :50]
    np.testing.assert_array_equal(text, draw(GREY, answer, ANY)[:16, :50])
    assert np.count_nonzero(text.min(axis=2) > 200) > 30  # letters
    assert of_color(text, (0, 0, 0)).sum() > 300  # on their ground


def test_a_long_label_is_cut_within_the_picture() -> None:
    short, long = (draw(GREY, Classification(1, "", 0, (LabelScore(1, "W" * n, 0.5),)), ANY) for n in (30, 100_000))
    assert changed(GREY, short)[1].stop < 600
    rows, columns = changed(GREY, long)
    assert 560 < columns.stop <= 600
    assert rows == changed(GREY, short)[0]  # one line


def test_a_list_of_labels_ends_with_the_picture() -> None:
    answers = tuple(LabelScore(1, "cat", 0.5) for _ in range(5000))
    drawn = draw(GREY, Classification(1, "", 0, answers), ANY)
    assert drawn.shape == GREY.shape
    assert 380 < changed(GREY, drawn)[0].stop <= 400


def test_a_small_picture_is_enlarged_until_text_can_be_read() -> None:
    small = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    drawn = draw(small, Detections((detection(0, (8, 8, 24, 24), ""),)), ANY)
    assert drawn.shape == (320, 320, 3)
    np.testing.assert_array_equal(drawn[100:220:10, 100:220:10], small[10:22, 10:22])
    assert of_color(drawn, color_of(0))[160, 80]


@settings(max_examples=30)
@given(height=st.integers(1, 700), width=st.integers(1, 700), seed=st.integers(0, 99))
def test_no_size_and_no_box_is_too_odd(height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    picture = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
    boxes = random.uniform(-50, 750, (4, 4))
    mask = random.random((min(height, 9), min(width, 9))) > 0.5
    answers: list[Prediction] = [
        Detections(tuple(detection(index, tuple(box)) for index, box in enumerate(boxes))),
        Instances((Instance(1, "cat", 0.5, 0, 0, 9, 9, width - mask.shape[1], height - mask.shape[0], mask),)),
        Matte(picture[:, :, 0], 0.5),
        Poses((Pose(0.5, *boxes[0], tuple(Keypoint(x, y, 0.9) for x, y, _, _ in boxes)),)),
    ]
    for answer in answers:
        drawn = draw(picture, answer, Postprocess(kind="any", keypoints=COCO_KEYPOINTS[:4]))
        factor, rest = divmod(drawn.shape[0], height)
        assert rest == 0
        assert drawn.shape == (factor * height, factor * width, 3)
        assert drawn.dtype == np.uint8
        np.testing.assert_array_equal(
            draw(picture, answer, Postprocess(kind="any", keypoints=COCO_KEYPOINTS[:4])), drawn
        )


def test_an_instance_is_tinted_where_its_mask_is() -> None:
    mask = np.zeros((100, 100), bool)
    mask[20:80, 20:80] = True
    answer = Instances((Instance(4, "cat", 0.5, 200, 200, 300, 300, 200, 200, mask),))
    drawn = draw(GREY, answer, ANY)
    inside = drawn[230:270, 230:270].reshape(-1, 3)
    np.testing.assert_array_equal(
        inside, np.broadcast_to(np.rint(0.55 * 128 + 0.45 * np.array(color_of(4))), inside.shape)
    )
    assert (drawn[205:215, 205:215] == 128).all()
    assert of_color(drawn, color_of(4))[220, 230:270].all()


def test_the_background_of_a_class_mask_stays_as_it_is() -> None:
    mask = np.zeros(GREY.shape[:2], np.uint8)
    mask[100:200, 100:200] = 1
    mask[200:300, 200:300] = 2
    classes = (ClassPixels(0, "Background", 220_000), ClassPixels(1, "cat", 10_000), ClassPixels(2, "dog", 10_000))
    drawn = draw(GREY, Segmentation(mask, classes), ANY)
    assert (drawn[350:, 350:] == 128).all()
    assert (drawn[120:180, 120:180] != 128).any(axis=2).all()
    assert (drawn[220:280, 220:280] != 128).any(axis=2).all()
    without = draw(GREY, Segmentation(mask, classes), Postprocess(kind="semantic", none_label=2))
    assert (without[220:280, 220:280] == 128).all()


def test_a_matte_darkens_what_does_not_belong_to_it() -> None:
    matte = np.zeros(GREY.shape[:2], np.uint8)
    matte[200:, :300] = 255
    matte[200:, 300:] = 51
    drawn = draw(GREY, Matte(matte, 0.5), ANY)
    assert (drawn[200:, :300] == 128).all()
    assert (drawn[200:, 300:] == round(128 * (0.25 + 0.75 * 0.2))).all()
    assert (drawn[100:200] == 32).all()


def test_a_bone_joins_two_sure_keypoints() -> None:
    points = (Keypoint(200, 200, 0.9), Keypoint(400, 200, 0.9), Keypoint(400, 380, 0.1))
    names = ("left_shoulder", "left_elbow", "left_wrist")
    pose = Pose(0.5, 150, 150, 450, 395, points)
    drawn = draw(GREY, Poses((pose,)), Postprocess(kind="movenet", keypoints=names))
    assert of_color(drawn, color_of(0))[200, 220:380].all()
    assert (drawn[220:385, 390:410] == 128).all()  # the wrist is not sure
    strange = draw(GREY, Poses((pose,)), Postprocess(kind="movenet", keypoints=("tip", "root", "leaf")))
    assert (strange[200, 230:370] == 128).all()


def test_the_skeleton_is_that_of_coco() -> None:
    assert len(COCO_KEYPOINTS) == 17
    assert len(BONES) == len(set(BONES)) == 19
    assert {name for bone in BONES for name in bone} == set(COCO_KEYPOINTS)
    # COCO's own list, from 1: person_keypoints_val2017.json, categories[0].skeleton
    published = {
        (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9),
        (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
    }  # fmt: skip
    expected = {frozenset((one - 1, other - 1)) for one, other in published}
    assert {frozenset(bone) for bone in bones(COCO_KEYPOINTS)} == expected
    assert bones([name.replace("_", " ").title() for name in COCO_KEYPOINTS]) == bones(COCO_KEYPOINTS)
    assert bones(("tip", "root")) == []
