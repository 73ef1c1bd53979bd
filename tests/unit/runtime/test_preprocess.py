"""From a picture to a model input: the reference's sizes, its pixels, and every layout a graph may have."""

from __future__ import annotations

import re
import time
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.errors import ImageError, ModelError
from runtime.manifest import Preprocess, Resize, Tensor
from runtime.preprocess import Preprocessor, find_layout, normalize, resize_and_crop

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": 1 / 255}
lengths = st.integers(1, 90)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tensor(*shape: int | str, dtype: str = "float32") -> Tensor:
    return Tensor(name="images", dtype=dtype, shape=shape)


def torchvision_like(image: np.ndarray, size: int, crop: int) -> np.ndarray:
    """Resize, then center_crop, as torchvision.transforms.functional 0.28 does it with a PIL image."""
    height, width = image.shape[:2]
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = size, int(size * long / short)
    new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
    if crop > new_width or crop > new_height:
        left, top = max((crop - new_width) // 2, 0), max((crop - new_height) // 2, 0)
        right, bottom = max((crop - new_width + 1) // 2, 0), max((crop - new_height + 1) // 2, 0)
        padded = Image.new("RGB", (new_width + left + right, new_height + top + bottom))
        padded.paste(resized, (left, top))
        resized = padded
    new_width, new_height = resized.size
    top, left = round((new_height - crop) / 2.0), round((new_width - crop) / 2.0)
    return np.asarray(resized.crop((left, top, left + crop, top + crop)))


@settings(max_examples=150)
@given(height=lengths, width=lengths, size=st.integers(1, 40), crop=st.integers(1, 60))
def test_resize_and_crop_are_torchvisions(height: int, width: int, size: int, crop: int) -> None:
    image = picture(height, width)
    found = resize_and_crop(image, Preprocess(resize=Resize(size=size), crop=(crop, crop)))
    assert np.array_equal(found, torchvision_like(image, size, crop))


@settings(max_examples=150)
@given(height=lengths, width=lengths, size=st.integers(1, 40))
def test_the_shortest_edge_gets_the_size_and_the_other_keeps_the_ratio(height: int, width: int, size: int) -> None:
    found = resize_and_crop(picture(height, width), Preprocess(resize=Resize(size=size), crop=None))
    assert min(found.shape[:2]) == size
    assert (found.shape[0] <= found.shape[1]) == (height <= width) or found.shape[0] == found.shape[1]
    assert max(found.shape[:2]) == int(size * max(height, width) / min(height, width))


@settings(max_examples=100)
@given(
    height=lengths,
    width=lengths,
    resize=st.one_of(
        st.none(),
        st.builds(
            Resize,
            mode=st.just("exact"),
            size=st.one_of(st.integers(1, 40), st.tuples(st.integers(1, 40), st.integers(1, 40))),
            interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
            antialias=st.booleans(),
        ),
    ),
    crop=st.one_of(st.none(), st.tuples(lengths, lengths)),
)
def test_the_size_is_the_crops_then_the_resizes_then_the_pictures(
    height: int, width: int, resize: Resize | None, crop: tuple[int, int] | None
) -> None:
    found = resize_and_crop(picture(height, width), Preprocess(resize=resize, crop=crop))
    expected = crop or ((height, width) if resize is None else np.broadcast_to(resize.size, 2).tolist())
    assert found.shape == (*expected, 3)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous


def test_a_crop_larger_than_the_picture_is_padded_with_black() -> None:
    found = resize_and_crop(np.full((2, 4, 3), 200, np.uint8), Preprocess(resize=None, crop=(5, 4)))
    assert found[:, :, 0].tolist() == [[0] * 4, [200] * 4, [200] * 4, [0] * 4, [0] * 4]
    found = resize_and_crop(np.full((4, 2, 3), 200, np.uint8), Preprocess(resize=None, crop=(2, 4)))
    assert found[:, :, 0].tolist() == [[0, 200, 200, 0]] * 2


def test_antialiasing_is_pillows_and_without_it_opencvs() -> None:
    image = picture(64, 96)
    exact = {"mode": "exact", "size": (16, 20)}
    assert np.array_equal(
        resize_and_crop(image, Preprocess(resize=Resize(**exact), crop=None)),
        np.asarray(Image.fromarray(image).resize((20, 16), Image.BILINEAR)),
    )
    assert np.array_equal(
        resize_and_crop(image, Preprocess(resize=Resize(**exact, antialias=False), crop=None)),
        cv2.resize(image, (20, 16), interpolation=cv2.INTER_LINEAR),
    )


def ultralytics_letterbox(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pad as Ultralytics 8's LetterBox does: auto and scaleFill off, centred."""
    ratio = min(size[0] / image.shape[0], size[1] / image.shape[1])
    unpadded = round(image.shape[1] * ratio), round(image.shape[0] * ratio)  # width, height
    margin_x, margin_y = (size[1] - unpadded[0]) / 2, (size[0] - unpadded[1]) / 2
    if image.shape[1::-1] != unpadded:
        image = cv2.resize(image, unpadded, interpolation=cv2.INTER_LINEAR)
    top, bottom = round(margin_y - 0.1), round(margin_y + 0.1)
    left, right = round(margin_x - 0.1), round(margin_x + 0.1)
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114))


def yolox_preproc(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pad as YOLOX 0.3's `preproc` does, without its change of layout and type."""
    padded = np.ones((*size, 3), dtype=np.uint8) * 114
    ratio = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = int(image.shape[0] * ratio), int(image.shape[1] * ratio)
    padded[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return padded


def letterbox(anchor: str, *size: int) -> Preprocess:
    return Preprocess(resize=Resize(mode="letterbox", size=size, antialias=False, anchor=anchor))


@settings(max_examples=200)
@given(height=st.integers(1, 200), width=st.integers(1, 200), size=st.tuples(lengths, lengths), seed=st.integers(0, 5))
def test_a_centred_letterbox_is_ultralytics(height: int, width: int, size: tuple[int, int], seed: int) -> None:
    ratio = min(size[0] / height, size[1] / width)
    assume(min(round(height * ratio), round(width * ratio)) >= 1)  # theirs fails otherwise
    image = picture(height, width, seed)
    assert np.array_equal(resize_and_crop(image, letterbox("center", *size)), ultralytics_letterbox(image, size))


@settings(max_examples=200)
@given(height=st.integers(1, 200), width=st.integers(1, 200), size=st.tuples(lengths, lengths))
def test_a_letterbox_at_the_top_left_is_yoloxs(height: int, width: int, size: tuple[int, int]) -> None:
    ratio = min(size[0] / height, size[1] / width)
    exact = np.array([height * ratio, width * ratio])
    assume((exact.astype(int) >= 1).all())  # theirs fails otherwise
    image = picture(height, width)
    ours, theirs = resize_and_crop(image, letterbox("top-left", *size)), yolox_preproc(image, size)
    if (np.rint(exact) == exact.astype(int)).all():
        assert np.array_equal(ours, theirs)
    else:  # they truncate the size where we, as Ultralytics, round it
        rows, columns = np.rint(exact).astype(int)
        assert (ours[rows:] == 114).all()
        assert (ours[:, columns:] == 114).all()
        assert np.array_equal(ours[:rows, :columns], cv2.resize(image, (columns, rows)))


def test_a_letterboxs_padding_is_the_manifests() -> None:
    resize = Resize(mode="letterbox", size=(6, 4), pad=7)
    found = resize_and_crop(np.full((2, 4, 3), 200, np.uint8), Preprocess(resize=resize))
    assert found[:, :, 1].tolist() == [[7] * 4] * 2 + [[200] * 4] * 2 + [[7] * 4] * 2


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (2, 700)])
@pytest.mark.parametrize("anchor", ["center", "top-left"])
@pytest.mark.parametrize("antialias", [True, False])
def test_a_letterbox_of_an_extreme_picture_keeps_a_line_of_it(
    shape: tuple[int, int], anchor: str, antialias: bool
) -> None:
    resize = Resize(mode="letterbox", size=64, anchor=anchor, antialias=antialias)
    found = resize_and_crop(np.full((*shape, 3), 200, np.uint8), Preprocess(resize=resize))
    assert found.shape == (64, 64, 3)
    assert (found == 200).sum() == 64 * 3


@settings(max_examples=300)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    size=st.integers(1, 90),
    crop=st.tuples(lengths, lengths),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    seed=st.integers(0, 3),
)
def test_what_the_crop_keeps_is_bit_for_bit_what_pillow_gives_for_the_whole(
    height: int, width: int, size: int, crop: tuple[int, int], interpolation: str, seed: int
) -> None:
    image = picture(height, width, seed)
    resize = Resize(size=size, interpolation=interpolation)
    whole = resize_and_crop(image, Preprocess(resize=resize))
    pillow = Image.fromarray(image).resize(whole.shape[1::-1], Image.Resampling[interpolation.upper()])
    assert np.array_equal(whole, np.asarray(pillow))
    cut = resize_and_crop(whole, Preprocess(crop=crop))
    assert np.array_equal(resize_and_crop(image, Preprocess(resize=resize, crop=crop)), cut)


@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (500, 375), (500, 333), (1200, 1600), (331, 500), (300, 300), (900, 400)]
)
def test_photographs_get_the_bits_of_the_whole_resize(height: int, width: int) -> None:
    image = picture(height, width)
    assert np.array_equal(
        resize_and_crop(image, Preprocess(resize=Resize(size=256), crop=(224, 224))), torchvision_like(image, 256, 224)
    )


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (3, 200_000)])
def test_a_picture_that_explodes_when_resized_is_too_large(shape: tuple[int, int]) -> None:
    start = time.perf_counter()
    with pytest.raises(
        ImageError, match=r"too_large: \d+x\d+ would be resized to \d+x\d+ pixels; the limit is"
    ) as caught:
        resize_and_crop(np.zeros((*shape, 3), np.uint8), Preprocess(resize=Resize(size=256), crop=(224, 224)))
    assert caught.value.reason == "too_large"
    assert time.perf_counter() - start < 0.5


def test_normalization_is_scale_then_mean_then_std() -> None:
    found = normalize(np.array([[[0, 51, 255]]], np.uint8), Preprocess(**IMAGENET))
    assert found.dtype == np.float32
    expected = [(0 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-6)


def prepared(preprocess: dict[str, Any], given_tensor: Tensor, image: np.ndarray | None = None) -> np.ndarray:
    return Preprocessor(Preprocess(**preprocess), given_tensor)(picture(30, 20) if image is None else image)


def test_the_layout_is_found_from_the_inputs_shape() -> None:
    nhwc = prepared({"crop": (8, 8), **IMAGENET}, tensor("N", 8, 8, 3))
    nchw = prepared({"crop": (8, 8), **IMAGENET}, tensor("N", 3, 8, 8))
    assert nhwc.shape == (8, 8, 3)
    assert nchw.shape == (3, 8, 8)
    assert nchw.flags.c_contiguous
    assert np.array_equal(nchw.transpose(1, 2, 0), nhwc)


@pytest.mark.parametrize("shape", [("N", 3), ("N", 5, 8, 8), ("N", 3, 8, 3), ("N", "C", "H", "W")])
def test_a_layout_that_is_not_clear_is_refused(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(ModelError, match=r"input 'images' has shape .*; expected \[N,3,H,W\] or \[N,H,W,3\]"):
        find_layout(tensor(*shape))


def test_the_manifest_may_say_the_layout_where_the_shape_does_not() -> None:
    assert prepared({"crop": (3, 3), "layout": "NCHW"}, tensor("N", 3, 3, 3)).shape == (3, 3, 3)
    image = picture(3, 3)
    found = prepared({"layout": "NCHW"}, tensor("N", 3, 3, 3), image)
    assert np.array_equal(found, image.transpose(2, 0, 1))


@settings(max_examples=40)
@given(height=lengths, width=lengths, seed=st.integers(0, 5))
def test_normalizing_here_or_in_the_graph_is_the_same(height: int, width: int, seed: int) -> None:
    given_steps = {"resize": Resize(size=12), "crop": (10, 10), **IMAGENET}
    image = picture(height, width, seed)
    here = prepared(given_steps, tensor("N", 10, 10, 3), image)
    embedded = prepared({**given_steps, "embedded": True}, tensor("N", 10, 10, 3, dtype="uint8"), image)
    assert embedded.dtype == np.uint8
    assert np.array_equal(normalize(embedded, Preprocess(**IMAGENET)), here)


@settings(max_examples=60)
@given(
    mean=st.tuples(*[st.floats(-200, 200)] * 3),
    std=st.tuples(*[st.floats(0.01, 200)] * 3),
    scale=st.sampled_from([1.0, 1 / 255, 2 / 255]),
    color=st.sampled_from(["RGB", "BGR"]),
    dtype=st.sampled_from(["float32", "float16", "float64", "int8", "uint8", "int32", "int64"]),
    layout=st.sampled_from(["NCHW", "NHWC"]),
)
def test_looking_values_up_is_computing_them(
    mean: tuple[float, ...], std: tuple[float, ...], scale: float, color: str, dtype: str, layout: str
) -> None:
    image = picture(9, 7)
    preprocess = Preprocess(color=color, mean=mean, std=std, scale=scale, layout=layout)
    given_tensor = tensor("N", 9, 7, 3, dtype=dtype) if layout == "NHWC" else tensor("N", 3, 9, 7, dtype=dtype)
    found = Preprocessor(preprocess, given_tensor)(image)
    expected = normalize(image[:, :, ::-1] if color == "BGR" else image, preprocess)
    if np.issubdtype(np.dtype(dtype), np.integer):
        bounds = np.iinfo(dtype)
        expected = np.rint(expected.astype(np.float64)).clip(bounds.min, bounds.max)
    with np.errstate(over="ignore"):
        expected = expected.astype(dtype)
    assert found.dtype == np.dtype(dtype)
    assert found.flags.c_contiguous
    assert np.array_equal(found, expected if layout == "NHWC" else expected.transpose(2, 0, 1))


def test_bgr_swaps_the_channels_and_an_embedded_graph_always_gets_rgb() -> None:
    image = picture(8, 8)
    assert np.array_equal(prepared({"color": "BGR"}, tensor("N", 8, 8, 3), image), image[:, :, ::-1])
    assert np.array_equal(
        prepared({"color": "BGR", "embedded": True}, tensor("N", 8, 8, 3, dtype="uint8"), image), image
    )


def test_gray_is_pillows_luma_with_one_channel() -> None:
    image = picture(8, 8)
    luma = np.asarray(Image.fromarray(image).convert("L"))
    gray = {"color": "L", "mean": (0.0,), "std": (1.0,)}
    assert np.array_equal(prepared(gray, tensor("N", 8, 8, 1), image)[:, :, 0], luma)
    assert np.array_equal(prepared(gray, tensor("N", 1, 8, 8), image)[0], luma)


def test_an_integer_input_is_rounded_and_saturated() -> None:
    image = np.array([[[0, 128, 255]]], np.uint8)
    found = prepared({"mean": (128.0,), "layout": "NHWC"}, tensor("N", 1, 1, 3, dtype="int8"), image)
    assert found.dtype == np.int8
    assert found[0, 0].tolist() == [-128, 0, 127]
    halves = prepared({"scale": 0.5, "mean": (0.0,), "layout": "NHWC"}, tensor("N", 1, 1, 3, dtype="int32"), image)
    assert halves[0, 0].tolist() == [0, 64, 128]
    wide = prepared({"scale": 2.0, "layout": "NHWC"}, tensor("N", 1, 1, 3, dtype="uint8"), image)
    assert wide[0, 0].tolist() == [0, 255, 255]


def test_half_precision_inputs_get_half_precision() -> None:
    assert prepared({}, tensor("N", 30, 20, 3, dtype="float16")).dtype == np.float16


@pytest.mark.parametrize("dtype", ["tensor(bfloat16)", "str", "bool", "object"])
def test_an_input_of_no_numeric_type_is_refused(dtype: str) -> None:
    with pytest.raises(ModelError, match=rf"has type {re.escape(dtype)}, which no picture can be brought to"):
        prepared({}, tensor("N", 30, 20, 3, dtype=dtype))


def test_another_size_than_the_graph_takes_says_both() -> None:
    with pytest.raises(ModelError, match=r"preprocessing gives \[3, 30, 20\], input 'images' takes \[3, 224, 224\]"):
        prepared({}, tensor("N", 3, 224, 224))
    with pytest.raises(ModelError, match=r"preprocessing gives \[30, 20, 1\], input 'images' takes \[30, 20, 3\]"):
        prepared({"color": "L", "embedded": True, "mean": (0.0,), "std": (1.0,)}, tensor("N", 30, 20, 3, dtype="uint8"))


def test_dynamic_sizes_take_any_picture() -> None:
    assert prepared({}, tensor("N", 3, "height", "width")).shape == (3, 30, 20)
