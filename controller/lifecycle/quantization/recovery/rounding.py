"""Weights rounded one after the other, each making up for what the ones before it were off by.

Source: E. Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers", ICLR
2023, after B. Hassibi and D. Stork's optimal brain surgeon: with ``H`` the moments of the inputs, the error of one
weight is spread over those that are not rounded yet, along its row of ``H^-1``, which keeps the output's error least.

Rules:
    * Weights are left on the grid that the quantizer finds: it divides by the largest of an output, so that one stays.
    * What many inputs move comes first. `DAMPING` keeps the inverse sound where inputs hardly move.
    * Only weights of 8 bits that have a scale for each output and 0 for zero; biases and all else stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.layers import Graph, attribute_of
from controller.lifecycle.quantization.quantize import Scheme, pixels_of
from controller.lifecycle.quantization.recovery.moments import layer_moments

__all__ = ["round_in_turn", "with_rounded_weights"]

HIGHEST = 127
DAMPING = 0.01  # of the mean of the moments' diagonal
BLOCK = 64  # weights of an output between two updates of all that follow

Doubles = npt.NDArray[np.float64]


def round_in_turn(weights: Doubles, moments: Doubles) -> Doubles:
    """Return *weights* on the grid of each output.

    Args:
        weights: (groups, outputs, k).
        moments: (groups, k, k): of what they are multiplied with.

    Raises:
        numpy.linalg.LinAlgError: The moments are none.
    """
    groups, _, count = weights.shape
    largest = np.abs(weights).max(axis=2, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0) / HIGHEST
    diagonal = np.einsum("gkk->gk", moments)
    order = np.argsort(-diagonal, axis=1)
    each = np.arange(groups)[:, None]
    damped = moments[each[:, :, None], order[:, :, None], order[:, None, :]]
    damped[:, np.arange(count), np.arange(count)] += DAMPING * np.maximum(diagonal.mean(1, keepdims=True), 1e-12)
    spread = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)  # upper: row j is what error j moves
    left = np.take_along_axis(weights, order[:, None, :], axis=2)
    pinned = np.abs(left).argmax(axis=2)
    signs = np.sign(np.take_along_axis(left, pinned[:, :, None], axis=2))[:, :, 0]
    rounded = np.zeros_like(left)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        errors = np.zeros((*left.shape[:2], stop - start))
        for column in range(start, stop):
            steps = np.clip(np.rint(left[:, :, column] / scale[:, :, 0]), -HIGHEST, HIGHEST)
            steps = np.where(pinned == column, signs * HIGHEST, steps)
            rounded[:, :, column] = steps * scale[:, :, 0]
            error = (left[:, :, column] - rounded[:, :, column]) / spread[:, None, column, column]
            left[:, :, column:stop] -= error[:, :, None] * spread[:, None, column, column:stop]
            errors[:, :, column - start] = error
        left[:, :, stop:] -= errors @ spread[:, start:stop, stop:]
    result = np.empty_like(rounded)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], rounded.shape), rounded, axis=2)
    return result


def with_rounded_weights(calibration: Calibration, scheme: Scheme, images: int) -> onnx.ModelProto:
    """Return the calibrated model with the weights of the layers that *scheme* quantizes on their grids.

    It is the model itself where the scheme's weights have other grids.

    Args:
        calibration: Of the model, prepared.
        scheme: How it is quantized.
        images: To look at, at most.

    Raises:
        ModelError: The model does not run.
        DatasetError: There are not enough usable images.
    """
    model = calibration.model
    if scheme.weights != "int8" or not scheme.per_channel or scheme.reduce_range:
        return model
    moments = layer_moments(calibration, _quantized(model, scheme), images)
    if not moments:
        return model
    fresh = onnx.ModelProto()
    fresh.CopyFrom(model)
    graph = Graph.of(fresh)
    for node in graph.layers():
        if node.name in moments and len(graph.consumers[node.input[1]]) == 1:
            tensor = graph.constants[node.input[1]]
            weight = numpy_helper.to_array(tensor)
            rows, back = _by_output(node, weight)
            groups = len(moments[node.name])
            rounded = round_in_turn(rows.reshape(groups, -1, rows.shape[1]), moments[node.name])
            values = back(rounded.reshape(rows.shape)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    return fresh


def _quantized(model: onnx.ModelProto, scheme: Scheme) -> Iterable[str]:
    """Return the names of the layers whose weights become integers as they are."""
    pixels = pixels_of(model, scheme)
    scaled = {pixels.convolution} if pixels else set()  # its weights take on the normalization first
    layers = (node for node in Graph.of(model).layers() if node.op_type in scheme.op_types)
    return [node.name for node in layers if node.name not in scheme.exclude | scaled]


def _by_output(node: onnx.NodeProto, weight: npt.NDArray[np.float32]) -> tuple[Doubles, Callable[[Doubles], Doubles]]:
    """Return *weight* of *node* as (outputs, k), and what brings such rows back to its shape."""
    if node.op_type == "Conv":
        return weight.reshape(len(weight), -1).astype(np.float64), lambda rows: rows.reshape(weight.shape)
    if attribute_of(node, "transB", 0):
        return weight.astype(np.float64), lambda rows: rows
    return weight.T.astype(np.float64), lambda rows: rows.T
