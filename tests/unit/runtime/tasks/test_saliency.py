"""Mattes: in the picture that was given, soft at their edges, and never stretched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from detection_heads import manifest_of
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ModelError
from runtime.manifest import Manifest, Preprocess, Resize
from runtime.placement import Placement
from runtime.tasks import Matte
from runtime.tasks.saliency import decode_saliency

PICTURE = (4, 6)
AS_IT_IS = Preprocess()
SHAPES = [(1, 1, *PICTURE), (1, *PICTURE, 1), (1, *PICTURE)]
rng = np.random.default_rng(0)


def of(preprocess: Preprocess = AS_IT_IS, **postprocess: Any) -> Manifest:
    return manifest_of("saliency", preprocess=preprocess, task="segmentation", **postprocess)


def decode(manifest: Manifest, output: np.ndarray, *sizes: tuple[int, int]) -> list[Matte]:
    return decode_saliency({"out": output}, sizes or (PICTURE,) * len(output), manifest)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_shares_become_grey_levels(shape: tuple[int, ...], dtype: type) -> None:
    shares = rng.random(PICTURE).astype(dtype)
    (found,) = decode(of(), shares.reshape(shape))
    assert found.mask.dtype == np.uint8
    np.testing.assert_array_equal(found.mask, np.rint(shares.astype(np.float32) * 255))
    assert found.coverage == pytest.approx(found.mask.mean() / 255)


def test_logits_go_through_a_sigmoid() -> None:
    logits = rng.standard_normal((1, 1, *PICTURE)).astype(np.float32) * 4
    (found,) = decode(of(activation="sigmoid"), logits)
    np.testing.assert_allclose(found.mask, 255 / (1 + np.exp(-logits[0, 0])), atol=0.51)


@pytest.mark.parametrize(("dtype", "least", "greatest"), [(np.uint8, 0, 255), (np.int8, -128, 127)])
def test_quantized_mattes_are_shares_of_their_range(dtype: type, least: int, greatest: int) -> None:
    values = np.full((1, *PICTURE), least, dtype)
    values[0, 0] = greatest
    for activation in ("none", "sigmoid"):
        (found,) = decode(of(activation=activation), values)
        assert set(found.mask[1:].ravel()) == {0}
        assert set(found.mask[0].ravel()) == {254}  # 255/256 of it


def test_a_faint_matte_stays_faint_and_what_leaves_the_range_is_clipped() -> None:
    (found,) = decode(of(), np.full((1, *PICTURE), 0.2, np.float32))
    assert set(found.mask.ravel()) == {51}
    (found,) = decode(of(), np.array([[-3.0, 0.5, 7.0]], np.float32).reshape(1, 1, 3), (1, 3))
    assert found.mask.tolist() == [[0, 128, 255]]


PREPROCESSES = st.sampled_from(
    [
        Preprocess(resize=Resize(mode="exact", size=(16, 24))),
        Preprocess(resize=Resize(mode="letterbox", size=(16, 24))),
        Preprocess(resize=Resize(mode="letterbox", size=(16, 24), anchor="top-left")),
        Preprocess(resize=Resize(mode="shortest-edge", size=20), crop=(16, 16)),
        Preprocess(crop=(16, 24)),
    ]
)


@given(
    size=st.tuples(st.integers(16, 60), st.integers(16, 60)), preprocess=PREPROCESSES, stride=st.sampled_from([1, 2])
)
def test_a_slope_across_the_input_is_the_same_slope_across_the_picture(
    size: tuple[int, int], preprocess: Preprocess, stride: int
) -> None:
    placed = Placement.of(preprocess, *size)
    cells = placed.input_height // stride, placed.input_width // stride
    middles = (np.arange(cells[1]) + 0.5) / cells[1]
    (found,) = decode(of(preprocess), np.broadcast_to(middles, (1, *cells)).astype(np.float32), size)
    assert found.mask.shape == size
    x = (np.arange(size[1]) + 0.5) * placed.resized_width / size[1] + placed.left
    y = (np.arange(size[0]) + 0.5) * placed.resized_height / size[0] + placed.top
    seen = ((y >= 0) & (y < placed.input_height))[:, None] & ((x >= 0) & (x < placed.input_width))
    assert not found.mask[~seen].any()  # what a crop cut away
    # A cell at the picture's edge has no neighbour to slope to: within 1.5 of one there it may be flat.
    tolerance = 255 * 1.5 / cells[1] + 1
    expected = np.broadcast_to(255 * x / placed.input_width, size)
    np.testing.assert_allclose(found.mask[seen], expected[seen], atol=tolerance)


def test_the_filling_of_a_letterbox_does_not_bleed_into_the_picture() -> None:
    letterbox = Preprocess(resize=Resize(mode="letterbox", size=(16, 16)))
    matte = np.zeros((1, 16, 16), np.float32)
    matte[0, 4:12] = 1  # where a picture twice as wide as high lies
    (found,) = decode(of(letterbox), matte, (40, 80))
    assert set(found.mask.ravel()) == {255}


@pytest.mark.parametrize(
    ("shape", "text"),
    [((1, 2, *PICTURE), r"no output fits matte: found out float32 \[1, 2, 4, 6\]"), ((2, *PICTURE), r"\[2, 4, 6\]")],
)
def test_an_output_that_does_not_fit_is_refused(shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        decode(of(), np.zeros(shape, np.float32), PICTURE)


def test_a_softmax_of_one_channel_is_refused() -> None:
    with pytest.raises(ModelError, match="activation 'softmax' of one channel; expected sigmoid or none"):
        decode(of(activation="softmax"), np.zeros((1, *PICTURE), np.float32))


def test_of_several_mattes_the_first_counts_unless_another_is_named() -> None:
    outputs = {"fine": np.ones((1, 1, *PICTURE), np.float32), "coarse": np.zeros((1, 1, *PICTURE), np.float32)}
    assert decode_saliency(outputs, [PICTURE], of())[0].coverage == 1
    assert decode_saliency(outputs, [PICTURE], of(outputs={"matte": "coarse"}))[0].coverage == 0
