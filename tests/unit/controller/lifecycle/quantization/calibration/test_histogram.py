"""Histograms and the methods that find a range in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from controller.lifecycle.quantization.calibration.histogram import CHUNK, SIDE, Histogram
from controller.lifecycle.quantization.calibration.methods import METHODS


def histogram_of(values: np.ndarray) -> Histogram:
    histogram = Histogram(float(values.min()), float(values.max()))
    histogram.add(values)
    return histogram


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    step = (high - low) / 255
    return np.clip(np.round((values - low) / step), 0, 255) * step + low


NORMAL = np.random.default_rng(0).normal(0, 1, 400_000).astype(np.float32)
OUTLIERS = np.concatenate([NORMAL, np.float32([60.0, -50.0])])


@given(arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e6, 1e6, width=32)))
def test_every_value_is_counted_once_and_in_its_bin(values: np.ndarray) -> None:
    histogram = histogram_of(values)
    assert histogram.counts.sum() == values.size
    width = histogram.bound / SIDE
    filled = histogram.centres[histogram.counts > 0]
    nearest = np.abs(values[:, None].astype(np.float64) - filled[None]).min(1)
    assert nearest.max() <= width * 0.51 + 1e-6 * histogram.bound


def test_counts_do_not_depend_on_how_values_arrive() -> None:
    whole, parts = Histogram(-6.0, 6.0), Histogram(-6.0, 6.0)
    whole.add(NORMAL)
    for part in np.array_split(NORMAL, 7):
        parts.add(part)
    assert NORMAL.size > CHUNK
    assert np.array_equal(whole.counts, parts.counts)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("values", [NORMAL, np.maximum(NORMAL, 0), OUTLIERS, np.zeros(5, np.float32), -np.abs(NORMAL)])
def test_range_lies_within_what_was_seen(method: str, symmetric: bool, values: np.ndarray) -> None:
    low, high = METHODS[method](histogram_of(values), symmetric=symmetric)
    assert min(values.min(), 0) - 1e-6 <= low <= high <= max(values.max(), 0) + 1e-6


@pytest.mark.parametrize(
    ("method", "most"), [("entropy", 12), ("percentile", 12), ("percentile-99.9", 12), ("mse", 40)]
)
def test_two_outliers_do_not_take_the_range(method: str, most: float) -> None:
    low, high = METHODS[method](histogram_of(OUTLIERS), symmetric=False)
    assert -most < low < -2.5
    assert 2.5 < high < most


def test_percentile_leaves_out_its_share() -> None:
    low, high = METHODS["percentile-99.9"](histogram_of(NORMAL), symmetric=False)
    outside = np.mean((low > NORMAL) | (high < NORMAL))
    assert 0.0005 < outside < 0.0011


def test_mse_beats_every_other_method_by_its_own_measure() -> None:
    values = np.random.default_rng(1).laplace(0, 1, 200_000).astype(np.float32)
    histogram = histogram_of(values)
    errors = {
        method: float(np.mean((rounded(values, *find(histogram, symmetric=False)) - values) ** 2))
        for method, find in METHODS.items()
    }
    assert min(errors, key=lambda method: errors[method]) == "mse"
    assert errors["mse"] < 0.8 * errors["minmax"]


def test_entropy_cuts_a_long_tail_less_than_it_would_lose() -> None:
    low, high = METHODS["entropy"](histogram_of(np.abs(OUTLIERS)), symmetric=False)
    assert low >= 0
    assert high < 0.5 * 60
