"""Cross-layer equalization: channels between layers rescaled, so that each makes use of the range of its tensor.

Source: M. Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019,
section 4.1, with the trade of G. Xiao et al., "SmoothQuant", ICML 2023, equation 4, between activations, whose ranges
are measured here, and the weights that take them.

Rules:
    * The graph computes what it did, in fp32, too; behind a Clip as long as no value exceeds by a quarter what
      calibration saw in its channel: not far beyond where the quantized range ends anyway.
    * A convolution that takes each channel by itself, with a scale of its own for each, bears any scale: there the
      activations' channels become equal. Where a weight's range is shared by its input channels, the scale is the
      product of what either side would want, each to the power of its share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.calibration.tensors import calibrated_tensors
from controller.lifecycle.quantization.layers import attribute_of
from controller.lifecycle.quantization.recovery.streams import Stream, streams

__all__ = ["equalized"]

WIDEST = 256.0  # largest ratio of two channels' scales
HEADROOM = 1.25  # below a Clip's limit, for what other images reach beyond those of the calibration

Floats = npt.NDArray[np.float64]
Weights = dict[str, npt.NDArray[Any]]


def equalized(calibration: Calibration, images: int, share: float = 0.5) -> onnx.ModelProto:
    """Return the calibrated model with its streams equalized.

    Args:
        calibration: Of the model.
        share: Of the activations, 0 to 1, where weights want something else.
        images: To measure the channels' ranges on, at most.

    Raises:
        ModelError: The model does not run.
        DatasetError: There are not enough usable images.
    """
    found = streams(calibration.model)
    if not found:
        return calibration.model
    rounded = set(calibrated_tensors(calibration.model).measured)  # what a ReLU takes is not
    ranges = _channel_ranges(calibration, [n for stream in found for n in stream.tensors if n in rounded], images)
    weights = {i.name: numpy_helper.to_array(i).copy() for i in calibration.model.graph.initializer}
    for stream in found:
        _rescale(stream, _scales(stream, ranges, weights, share), weights)
    fresh = onnx.ModelProto()
    fresh.CopyFrom(calibration.model)
    changed = {name for s in found for node in (*s.makers, *s.takers) for name in node.input[1:]}
    for initializer in fresh.graph.initializer:
        if initializer.name in changed:
            initializer.CopyFrom(numpy_helper.from_array(weights[initializer.name], initializer.name))
    return fresh


def _channel_ranges(calibration: Calibration, names: list[str], images: int) -> dict[str, Floats]:
    """Return by tensor the largest magnitude in each channel."""
    taps = calibration.taps(calibration.model, names)
    found: dict[str, Floats] = {}
    for batch in calibration.batches(taps.pictures, limit=images):
        for name, values in taps.run(batch):
            largest = np.abs(values).max(axis=(0, *range(2, values.ndim))).astype(np.float64)
            found[name] = np.maximum(found[name], largest) if name in found else largest
    return found


def _scales(stream: Stream, ranges: Mapping[str, Floats], weights: Weights, share: float) -> Floats:
    """Return float64, (channels,): by what each channel is multiplied."""
    filled = np.zeros(stream.channels)  # share of its tensor's range that a channel fills
    for name in ranges.keys() & set(stream.tensors):
        filled = np.maximum(filled, ranges[name] / max(ranges[name].max(), np.finfo(np.float32).tiny))
    filled = np.maximum(filled, 1 / WIDEST)
    needed = np.zeros(stream.channels)  # the same of the weights that share a range with other channels
    for node in stream.takers:
        taken = _by_input(node, weights[node.input[1]])
        if taken.shape[2] > 1:
            largest = np.abs(taken).max(axis=(1, *range(3, taken.ndim))).reshape(-1).astype(np.float64)
            needed = np.maximum(needed, largest / max(largest.max(), np.finfo(np.float32).tiny))
    needed = np.maximum(needed, 1 / WIDEST) if needed.any() else 1 / filled
    scales = needed ** (1 - share) / filled**share
    for name, limit in stream.limits.items():
        if np.isfinite(limit):
            room = limit / np.maximum(HEADROOM * ranges[name], np.finfo(np.float32).tiny)
            scales = np.clip(scales * np.min(room / scales), 1.0, np.maximum(room, 1.0))
    return scales


def _by_input(node: onnx.NodeProto, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a view of a convolution's *weight* as (groups, outputs of each, inputs of each, ...)."""
    groups = attribute_of(node, "group", 1)
    return weight.reshape(groups, len(weight) // groups, *weight.shape[1:])


def _rescale(stream: Stream, scales: Floats, weights: Weights) -> None:
    for node in stream.makers:
        weight = weights[node.input[1]]
        weight *= scales.reshape(-1, *[1] * (weight.ndim - 1)).astype(weight.dtype)
        for name in node.input[2:3]:
            if name:
                weights[name] *= scales.astype(weight.dtype)
    for node in stream.takers:
        taken = _by_input(node, weights[node.input[1]])
        taken /= scales.reshape(len(taken), 1, -1, *[1] * (taken.ndim - 3)).astype(taken.dtype)
