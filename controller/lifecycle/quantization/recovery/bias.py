"""Bias correction: the mean error of each layer's outputs, taken off its bias channel by channel.

Source: M. Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019,
section 4.2 and its empirical form in appendix D: a quantized weight shifts the mean of an output, which no rounding
noise would; here the mean over images, each layer fed with the original's input.

Rules:
    * The function that the graph computes in fp32 changes; what it computes once quantized is nearer to the original.
    * A layer without a constant bias gets one; a MatMul's is that of the Add behind it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from controller.lifecycle.quantization.layers import Graph
from controller.lifecycle.quantization.recovery.twins import LayerError

__all__ = ["with_corrected_biases"]

BIAS = 2  # place of the bias among the inputs of Conv, ConvTranspose and Gemm


def with_corrected_biases(model: onnx.ModelProto, errors: Iterable[LayerError]) -> onnx.ModelProto:
    """Return *model* with the mean shifts in *errors* taken off its biases; layers that can have none stay."""
    corrected = onnx.ModelProto()
    corrected.CopyFrom(model)
    graph = Graph.of(corrected)
    layers = {node.name: node for node in graph.layers()}
    for error in errors:
        if error.node in layers and error.count:
            _correct(graph, layers[error.node], error.mean_shift)
    return corrected


def _correct(graph: Graph, layer: onnx.NodeProto, shift: npt.NDArray[np.float64]) -> None:
    node, place = (layer, BIAS) if layer.op_type != "MatMul" else _addition(graph, layer)
    if node is None:
        return
    if len(node.input) <= place:
        node.input.extend([""] * (place + 1 - len(node.input)))
    before = graph.constants.get(node.input[place])
    if before is None and node.input[place]:
        return  # computed, not constant
    values = np.zeros(len(shift), np.float32) if before is None else numpy_helper.to_array(before)
    if values.size != len(shift) or values.dtype != np.float32:
        return
    beta = next((attribute.f for attribute in node.attribute if attribute.name == "beta"), 1.0)
    if not beta:
        return
    name = f"{layer.name}/corrected_bias"
    fresh = (values - (shift / beta).reshape(values.shape)).astype(np.float32)
    graph.model.graph.initializer.append(numpy_helper.from_array(fresh, name))
    node.input[place] = name


def _addition(graph: Graph, product: onnx.NodeProto) -> tuple[onnx.NodeProto | None, int]:
    """Return the Add of a constant that alone takes what *product* gives, and the constant's place in it."""
    after = graph.only_consumer(product.output[0])
    if after is None or after.op_type != "Add":
        return None, 0
    place = 1 if after.input[0] == product.output[0] else 0
    return (after, place) if after.input[place] in graph.constants else (None, 0)
