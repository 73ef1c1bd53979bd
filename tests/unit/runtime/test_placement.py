"""The geometry of preprocessing: its laws, and the sizes of the code that models were trained with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.manifest import Preprocess, Resize
from runtime.placement import Placement

lengths = st.integers(1, 5000)  # pixels
edges = st.integers(1, 700)
sizes = st.one_of(edges, st.tuples(edges, edges))
resizes = st.one_of(
    st.none(),
    st.builds(Resize, size=edges),
    st.builds(Resize, mode=st.just("exact"), size=sizes),
    st.builds(Resize, mode=st.just("letterbox"), size=sizes, anchor=st.sampled_from(["center", "top-left"])),
)
preprocesses = st.builds(Preprocess, resize=resizes, crop=st.one_of(st.none(), st.tuples(edges, edges)))
letterboxes = st.builds(
    Preprocess,
    resize=st.builds(Resize, mode=st.just("letterbox"), size=sizes, anchor=st.sampled_from(["center", "top-left"])),
)
shares = st.floats(0, 1)


@settings(max_examples=200)
@given(preprocess=preprocesses, height=lengths, width=lengths, x=shares, y=shares)
def test_a_point_of_the_picture_comes_back_from_the_input(
    preprocess: Preprocess, height: int, width: int, x: float, y: float
) -> None:
    placed = Placement.of(preprocess, height, width)
    point = np.array([[x * width, y * height]])
    np.testing.assert_allclose(placed.points_to_original(placed.points_to_input(point)), point, atol=1e-6)


@settings(max_examples=200)
@given(preprocess=preprocesses, height=lengths, width=lengths)
def test_the_pictures_corners_lie_where_its_pixels_do(preprocess: Preprocess, height: int, width: int) -> None:
    placed = Placement.of(preprocess, height, width)
    first, last = placed.points_to_input(np.array([[0.0, 0.0], [width, height]]))
    assert first.tolist() == [placed.left, placed.top]
    ends = np.array([placed.left + placed.resized_width, placed.top + placed.resized_height])
    off = np.abs(last - ends)
    letterbox = preprocess.resize is not None and preprocess.resize.mode == "letterbox"
    assert (off <= (1.0 if letterbox else 1e-6)).all()  # a letterbox's size is whole pixels, and one at least


@settings(max_examples=200)
@given(
    preprocess=preprocesses,
    height=lengths,
    width=lengths,
    boxes=st.lists(st.tuples(*[st.floats(-3000, 3000)] * 4), max_size=5),
)
def test_boxes_never_leave_the_picture(
    preprocess: Preprocess, height: int, width: int, boxes: list[tuple[float, float, float, float]]
) -> None:
    given_boxes = np.array(boxes, np.float32).reshape(-1, 4)
    found = Placement.of(preprocess, height, width).boxes_to_original(given_boxes)
    assert found.shape == given_boxes.shape
    assert (found >= 0).all()
    assert (found <= [width, height, width, height]).all()


@settings(max_examples=200)
@given(preprocess=preprocesses, height=lengths, width=lengths, corners=st.tuples(shares, shares, shares, shares))
def test_a_box_of_the_picture_comes_back(
    preprocess: Preprocess, height: int, width: int, corners: tuple[float, float, float, float]
) -> None:
    x1, x2 = sorted(np.array(corners[:2]) * width)
    y1, y2 = sorted(np.array(corners[2:]) * height)
    placed = Placement.of(preprocess, height, width)
    on_input = placed.points_to_input(np.array([[x1, y1], [x2, y2]])).reshape(1, 4)
    np.testing.assert_allclose(placed.boxes_to_original(on_input), [[x1, y1, x2, y2]], atol=1e-6)


@settings(max_examples=200)
@given(preprocess=letterboxes, height=lengths, width=lengths)
def test_a_letterbox_shows_the_whole_picture_as_large_as_fits(preprocess: Preprocess, height: int, width: int) -> None:
    placed = Placement.of(preprocess, height, width)
    box = np.broadcast_to(preprocess.resize.size if preprocess.resize else 0, 2).tolist()
    assert [placed.input_height, placed.input_width] == box
    assert placed.resized_height == box[0] or placed.resized_width == box[1]
    assert 0 <= placed.top <= box[0] - placed.resized_height
    assert 0 <= placed.left <= box[1] - placed.resized_width
    assert placed.scale_x == placed.scale_y
    if preprocess.resize is not None and preprocess.resize.anchor == "top-left":
        assert (placed.top, placed.left) == (0, 0)
    else:  # in the middle; what is odd lies below and to the right
        assert box[0] - placed.resized_height - 2 * placed.top in {0, 1}
        assert box[1] - placed.resized_width - 2 * placed.left in {0, 1}


def test_what_a_crop_cuts_off_is_added_again() -> None:
    placed = Placement.of(Preprocess(resize=Resize(size=256), crop=(224, 224)), 512, 1024)
    assert (placed.resized_height, placed.resized_width) == (256, 512)
    assert (placed.top, placed.left) == (-16, -144)
    assert placed.boxes_to_original(np.array([[0, 0, 224, 224]])).tolist() == [[288, 32, 736, 480]]
    outside = placed.points_to_original(np.array([[-144.0, -16.0], [368.0, 240.0]]))
    assert outside.tolist() == [[0, 0], [1024, 512]]


def test_a_crop_larger_than_the_picture_is_taken_off_again() -> None:
    placed = Placement.of(Preprocess(crop=(100, 100)), 60, 41)
    assert (placed.top, placed.left) == (20, 29)
    assert placed.boxes_to_original(np.array([[29, 20, 70, 80], [0, 0, 100, 100]])).tolist() == [[0, 0, 41, 60]] * 2


@pytest.mark.parametrize(
    ("height", "width", "resized", "corner", "scale"),
    [
        (480, 640, (480, 640), (80, 0), 1.0),
        (1080, 1920, (360, 640), (140, 0), 1 / 3),
        (427, 640, (427, 640), (106, 0), 1.0),  # 213 rows are left: 106 above, 107 below
        (333, 500, (426, 640), (107, 0), 1.28),  # 426.24 rows
        (1, 5000, (1, 640), (319, 0), 0.128),
        (5000, 3, (640, 1), (0, 319), 0.128),
    ],
)
def test_letterboxes_of_common_and_extreme_pictures(
    height: int, width: int, resized: tuple[int, int], corner: tuple[int, int], scale: float
) -> None:
    placed = Placement.of(Preprocess(resize=Resize(mode="letterbox", size=640)), height, width)
    assert (placed.resized_height, placed.resized_width) == resized
    assert (placed.top, placed.left) == corner
    assert (placed.scale_y, placed.scale_x) == pytest.approx((scale, scale))


@pytest.mark.parametrize(("height", "width"), [(1, 5000), (5000, 1), (2, 3000)])
def test_extreme_pictures_keep_a_pixel_at_least(height: int, width: int) -> None:
    for resize in (Resize(size=4), Resize(mode="exact", size=(3, 5)), Resize(mode="letterbox", size=8)):
        placed = Placement.of(Preprocess(resize=resize), height, width)
        assert min(placed.resized_height, placed.resized_width) >= 1
        middle = placed.points_to_input(np.array([[width / 2, height / 2]]))
        np.testing.assert_allclose(placed.points_to_original(middle), [[width / 2, height / 2]])


def test_without_resize_and_crop_nothing_moves() -> None:
    placed = Placement.of(Preprocess(), 30, 20)
    points = np.array([[[1.0, 2.0], [3.0, 4.0]], [[20.0, 30.0], [-1.0, 0.0]]])
    assert placed.points_to_original(points).tolist() == points.tolist()
    assert placed.boxes_to_original(np.zeros((0, 4))).shape == (0, 4)
