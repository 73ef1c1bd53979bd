"""Histograms of oriented gradients are scikit-image's, and a manifest cannot ask for what cannot be computed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hog_cases import CASES, REFERENCE, pictures
from pydantic import ValidationError

from runtime.errors import ModelError
from runtime.features import hog
from runtime.manifest import Hog, Preprocess, Resize, Tensor
from runtime.preprocess import Preprocessor

GRAY: dict[str, Any] = {"color": "L", "resize": Resize(mode="exact", size=(16, 16)), "mean": (0.0,), "std": (1.0,)}
SPEC = Hog(orientations=4, pixels_per_cell=(5, 5), cells_per_block=(2, 2))


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_of_scikit_image(name: str) -> None:
    picture, parameters = CASES[name]
    plane, spec = pictures()[picture], Hog(**parameters)
    expected = np.array(json.loads(REFERENCE.read_text())[name])
    found = hog(plane, spec)
    assert found.dtype == np.float32
    assert found.shape == (spec.length(*plane.shape),) == expected.shape
    assert np.abs(found - expected).max() <= 1e-5


def test_a_picture_that_is_too_small_is_refused_with_the_least_size() -> None:
    with pytest.raises(ValueError, match=r"16x12 pixels are too few .* expected 24x24 at least"):
        hog(np.zeros((16, 12)), Hog())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"color": "RGB"}, "color 'L'"),
        ({"resize": None}, "one size"),
        ({"resize": Resize(size=16)}, "one size"),
        ({"layout": "NCHW"}, "no layout"),
        ({"embedded": True}, "not embedded"),
        ({"features": Hog()}, "too few"),
        ({"features": Hog(pixels_per_cell=(4, 4), transform_sqrt=True), "mean": (1.0,)}, "negative"),
        ({"features": Hog(pixels_per_cell=(4, 4), transform_sqrt=True), "scale": -1.0}, "negative"),
    ],
)
def test_features_that_cannot_be_computed_are_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Preprocess(**{**GRAY, "features": SPEC, **change})


def test_a_preprocess_with_features_is_read_back_from_its_json() -> None:
    preprocess = Preprocess(**GRAY, features=SPEC)
    assert Preprocess.model_validate_json(preprocess.model_dump_json()) == preprocess


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_a_picture_becomes_the_features_of_its_normalized_gray(dtype: str) -> None:
    image = np.random.default_rng(1).integers(0, 256, (16, 16), dtype=np.uint8)
    preprocess = Preprocess(**{**GRAY, "mean": (0.25,), "std": (0.5,), "scale": 1 / 255}, features=SPEC)
    tensor = Tensor(name="features", dtype=dtype, shape=("N", SPEC.length(16, 16)))
    found = Preprocessor(preprocess, tensor)(np.repeat(image[:, :, None], 3, axis=2))
    normalized = (image.astype(np.float32) * np.float32(1 / 255) - np.float32(0.25)) / np.float32(0.5)
    assert found.dtype == np.dtype(dtype)
    assert np.array_equal(found, hog(normalized, SPEC).astype(dtype))


@pytest.mark.parametrize(
    ("dtype", "shape", "why"),
    [
        ("float32", ("N", 1, 16, 16), "does not take features"),
        ("int8", ("N", 64), "does not take features"),
        ("float32", ("N", 324), "takes"),
    ],
)
def test_an_input_that_takes_no_such_features_is_refused(dtype: str, shape: tuple[int | str, ...], why: str) -> None:
    tensor = Tensor(name="x", dtype=dtype, shape=shape)
    with pytest.raises(ModelError, match=why):
        Preprocessor(Preprocess(**GRAY, features=SPEC), tensor)(np.zeros((16, 16, 3), np.uint8))
