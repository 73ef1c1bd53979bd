"""Cross-layer equalization: channels between two layers rescaled so that both layers' weights share the range.

Source: M. Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019,
section 4.1: s = sqrt(r1 * r2) / r2 per channel, weights and bias before divided by s, weights after multiplied by s.

Rules:
    * Only where that is exact: two layers with nothing, a ReLU, or a LeakyRelu between them, which scale as their
      input does. A Clip at 6 does not.
    * Only where nobody else takes what lies between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from controller.lifecycle.recovery.layers import Graph

__all__ = ["equalizable", "equalized"]

HOMOGENEOUS = ("Relu", "LeakyRelu")
ROUNDS = 20
ENOUGH = 1e-3  # largest change of a scale that is none
WIDEST = 1e4  # scales beyond would leave single precision nothing

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two convolutions; what lies between them scales as the first one's output."""

    first: onnx.NodeProto
    second: onnx.NodeProto


def equalizable(model: onnx.ModelProto) -> list[Pair]:
    """Return the pairs of convolutions in *model* that can be equalized exactly."""
    graph = Graph.of(model)
    convolutions = {node.name: node for node in graph.layers() if node.op_type == "Conv"}
    pairs = []
    for node in convolutions.values():
        after = graph.only_consumer(node.output[0])
        if after is not None and after.op_type in HOMOGENEOUS:
            after = graph.only_consumer(after.output[0])
        has_bias = len(node.input) > 2 and node.input[2]
        if after is None or after.name not in convolutions or (has_bias and node.input[2] not in graph.constants):
            continue
        shared = [name for c in (node, after) for name in c.input[1:] if len(graph.consumers.get(name, ())) > 1]
        if not shared:
            pairs.append(Pair(node, after))
    return pairs


def equalized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return *model* with its equalizable pairs equalized; it computes what *model* does."""
    pairs = equalizable(model)
    weights = {i.name: numpy_helper.to_array(i).copy() for i in model.graph.initializer}
    for _ in range(ROUNDS):
        changes = [_equalize(pair, weights) for pair in pairs]
        if max(changes, default=0.0) < ENOUGH:
            break
    changed = {name for pair in pairs for node in (pair.first, pair.second) for name in node.input[1:]}
    fresh = onnx.ModelProto()
    fresh.CopyFrom(model)
    for initializer in fresh.graph.initializer:
        if initializer.name in changed:
            initializer.CopyFrom(numpy_helper.from_array(weights[initializer.name], initializer.name))
    return fresh


def _equalize(pair: Pair, weights: dict[str, Floats]) -> float:
    """Equalize *pair* in *weights*; return how far the farthest scale was from 1."""
    before, after = weights[pair.first.input[1]], weights[pair.second.input[1]]
    channels = len(before)
    groups = next((attribute.i for attribute in pair.second.attribute if attribute.name == "group"), 1)
    taken = after.reshape(groups, len(after) // groups, *after.shape[1:])  # (groups, outputs, inputs, ...) of each
    ranges = np.abs(taken).max(axis=(1, *range(3, taken.ndim))).reshape(channels)
    own = np.abs(before).reshape(channels, -1).max(1)
    alive = (own > 0) & (ranges > 0)
    scale = np.ones(channels, np.float64)
    scale[alive] = np.clip(np.sqrt(own[alive].astype(np.float64) / ranges[alive]), 1 / WIDEST, WIDEST)
    before /= scale.reshape(-1, *[1] * (before.ndim - 1)).astype(np.float32)
    for name in pair.first.input[2:3]:
        if name:
            weights[name] /= scale.astype(np.float32)
    taken *= scale.reshape(groups, 1, -1, *[1] * (taken.ndim - 3)).astype(np.float32)
    return float(np.abs(scale - 1).max(initial=0.0))
