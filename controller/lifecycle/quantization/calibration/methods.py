"""From a histogram to a range: a table of methods.

Rules:
    * A method is pure, and its range lies within the lowest and the highest value that were seen.
    * ``Distribution`` is not among them: it gave 25 % where every other gave 97 % on digits.

Sources:
    * entropy: S. Migacz, "8-bit inference with TensorRT", GTC 2017, slides 22-38: the threshold whose
      quantized histogram has the least Kullback-Leibler divergence from the clipped one.
    * percentile: H. Wu et al., "Integer quantization for deep learning inference", arXiv:2004.09602, section 3.2.
    * mse: the same question, answered by the expected squared error of clipping and rounding (R. Banner et al.,
      "Post-training 4-bit quantization", NeurIPS 2019), summed over the histogram instead of a fitted distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from controller.lifecycle.quantization.calibration.histogram import SIDE, Histogram
from controller.lifecycle.quantization.calibration.ranges import Range

__all__ = ["METHODS", "Method", "entropy", "minmax", "mse", "percentile"]

Floats = npt.NDArray[np.float64]

LEVELS = 256  # of 8 bits
ENTROPY_BINS = 2048  # of magnitudes, as TensorRT has them
SMOOTH = 1e-4  # stands for no count, as in MXNet's and ONNX Runtime's
ENTROPY_STEP = 16  # bins from one threshold that is tried to the next
SHRINKS = np.geomspace(1.0, 0.1, 48)  # of the range that are tried by `mse`
SWEEPS = 2


class Method(Protocol):
    """How a range is found."""

    def __call__(self, histogram: Histogram, *, symmetric: bool) -> Range:
        """Return the range for *histogram*; *symmetric*: zero stands for zero (`quantize.Scheme.symmetric`)."""


def minmax(histogram: Histogram, *, symmetric: bool) -> Range:  # noqa: ARG001 - of the table's kind
    """Return the lowest and the highest value."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram, *, symmetric: bool, share: float) -> Range:  # noqa: ARG001 - of the table's kind
    """Return what *share* (of 100) of the values lie between, as many left out at either end that has values."""
    total = int(histogram.counts.sum())
    sides = (histogram.low < 0) + (histogram.high > 0)
    if not total or not sides:
        return histogram.low, histogram.high
    cut = total * (1 - share / 100) / sides
    summed = np.cumsum(histogram.counts)
    width = histogram.bound / SIDE
    first = int(np.searchsorted(summed, cut, side="right"))
    last = int(np.searchsorted(summed, total - cut, side="left"))
    low = (first - SIDE) * width if histogram.low < 0 else histogram.low
    high = (last + 1 - SIDE) * width if histogram.high > 0 else histogram.high
    return max(histogram.low, low), min(histogram.high, high)


def entropy(histogram: Histogram, *, symmetric: bool) -> Range:
    """Return the range within the threshold that loses the least information."""
    folded = histogram.magnitudes().reshape(ENTROPY_BINS, -1).sum(1).astype(np.float64)
    folded[0] = folded[1]  # exact zeros, of a ReLU or of padding, are exact in any range: they would outweigh the rest
    two_sided = histogram.low < 0 < histogram.high
    levels = LEVELS // 2 if two_sided or symmetric else LEVELS
    tried = range(levels, ENTROPY_BINS + 1, ENTROPY_STEP)
    divergences = [_divergence(folded, kept, levels) for kept in tried]
    threshold = tried[int(np.argmin(divergences))] * histogram.bound / ENTROPY_BINS
    return max(histogram.low, -threshold), min(histogram.high, threshold)


def _divergence(magnitudes: Floats, kept: int, levels: int) -> float:
    """Return the Kullback-Leibler divergence of the first *kept* bins from themselves in *levels* levels."""
    clipped = magnitudes[:kept].copy()
    clipped[-1] += magnitudes[kept:].sum()
    edges = np.arange(levels) * kept // levels
    filled = (clipped > 0).astype(np.float64)
    share = np.add.reduceat(magnitudes[:kept], edges) / np.maximum(np.add.reduceat(filled, edges), 1)
    spread = np.repeat(share, np.diff(np.append(edges, kept))) * filled
    filled_bins = clipped > 0
    spread[filled_bins & (spread == 0)] = SMOOTH  # the outliers' bin, if nothing else is in it
    reference, quantized = clipped[filled_bins] / clipped.sum(), spread[filled_bins] / spread.sum()
    return float(np.sum(reference * np.log(reference / quantized)))


def mse(histogram: Histogram, *, symmetric: bool) -> Range:
    """Return the range with the least expected squared error: first both ends shrunk alike, then each by itself."""
    filled = histogram.counts > 0
    values, weights = histogram.centres[filled], histogram.counts[filled].astype(np.float64)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if low == high:
        return histogram.low, histogram.high

    def error(candidate: Range) -> float:
        return _squared_error(values, weights, candidate, symmetric=symmetric)

    best = min(((low * shrink, high * shrink) for shrink in SHRINKS), key=error)
    if not symmetric:
        for _ in range(SWEEPS):
            best = min(((low * shrink, best[1]) for shrink in (best[0] / low if low else 1.0, *SHRINKS)), key=error)
            best = min(((best[0], high * shrink) for shrink in (best[1] / high if high else 1.0, *SHRINKS)), key=error)
    return float(best[0]), float(best[1])


def _squared_error(values: Floats, weights: Floats, within: Range, *, symmetric: bool) -> float:
    low, high = within
    if symmetric:
        high = max(-low, high)
        low = -high
    step = (high - low) / (LEVELS - 2 if symmetric else LEVELS - 1)
    zero = np.round(-low / step)
    levels = np.clip(np.round(values / step) + zero, 0, np.round((high - low) / step))
    return float(weights @ np.square((levels - zero) * step - values))


METHODS: Mapping[str, Method] = {
    "minmax": minmax,
    "mse": mse,
    "percentile": partial(percentile, share=99.99),
    "entropy": entropy,
    "percentile-99.9": partial(percentile, share=99.9),
    "percentile-99.999": partial(percentile, share=99.999),
}
"""By name, what is mostly best first; each but ``minmax`` needs histograms."""
