"""How large a graph is: parameters, and the multiply-accumulate operations (MACs) of one picture.

Rules:
    * A MAC is one multiplication and one addition of a convolution or a matrix product; everything else (activations,
      normalization, pooling, quantizing) is left out, as in the literature. FLOPs are twice that.
    * The dynamic batch is one picture. Where another size is not known, there is no number: the first node whose
      shapes are missing is named instead.
    * A parameter is an element of a weight, whatever its type; shapes, indices, scales and zero points are none.

Formulas: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", 2016, appendix
A.1, without the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import onnx
from onnx import TensorProto

from controller.lifecycle.graph import real_inputs

__all__ = ["Complexity", "measure_complexity"]

Shape: TypeAlias = Sequence[int]

INDICES = (TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING)  # types of shapes and indices, not of weights
QUANTIZING = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


@dataclass(frozen=True, slots=True)
class _Rule:
    """How the MACs of an operator follow from shapes.

    Attributes:
        operands: Places among the node's inputs of the shapes that `count` takes after the output's.
        count: The number, of (output, *operands).
    """

    operands: tuple[int, ...]
    count: Callable[..., int]


def _convolution(output: Shape, weight: Shape) -> int:
    return prod(output) * prod(weight[1:])  # weight: (outputs, inputs / groups, *kernel)


def _transposed(_: Shape, images: Shape, weight: Shape) -> int:
    return prod(images) * prod(weight[1:])  # weight: (inputs, outputs / groups, *kernel)


def _product(output: Shape, left: Shape) -> int:
    return prod(output) * left[-1]


def _gemm(output: Shape, left: Shape) -> int:
    return prod(left) * output[-1]  # whichever of the two is transposed


RULES: Mapping[str, _Rule] = {
    "Conv": _Rule((1,), _convolution),
    "ConvInteger": _Rule((1,), _convolution),
    "QLinearConv": _Rule((3,), _convolution),
    "ConvTranspose": _Rule((0, 1), _transposed),
    "Gemm": _Rule((0,), _gemm),
    "MatMul": _Rule((0,), _product),
    "MatMulInteger": _Rule((0,), _product),
    "QLinearMatMul": _Rule((0,), _product),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Complexity:
    """How large a graph is.

    Attributes:
        parameters: Elements of weights.
        macs: Multiply-accumulate operations of one picture; ``None``: not known.
        unknown: Why `macs` is not known.
    """

    parameters: int
    macs: int | None
    unknown: str | None = None


def measure_complexity(model: onnx.ModelProto) -> Complexity:
    """Return how large *model* is, for one picture."""
    parameters = _parameters(model.graph)
    shapes = _shapes(_for_one_picture(model))
    total = 0
    for node in model.graph.node:
        rule = RULES.get(node.op_type)
        if rule is None:
            continue
        known = [shapes.get(name) for name in (node.output[0], *(node.input[place] for place in rule.operands))]
        if any(shape is None for shape in known):
            reason = f"the shapes at {node.op_type} node {node.name or node.output[0]!r} are not known for one picture"
            return Complexity(parameters=parameters, macs=None, unknown=reason)
        total += rule.count(*known)
    return Complexity(parameters=parameters, macs=total)


def _parameters(graph: onnx.GraphProto) -> int:
    scales = {name for node in graph.node if node.op_type in QUANTIZING for name in node.input[1:]}
    constants = [attribute.t for node in graph.node if node.op_type == "Constant" for attribute in node.attribute]
    weights = [one for one in graph.initializer if one.name not in scales] + [one for one in constants if one.dims]
    return sum(prod(one.dims) for one in weights if one.data_type not in INDICES)


def _for_one_picture(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return *model* with the first dimension of its inputs 1 where it is dynamic, and no claims about the rest."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in real_inputs(fixed):
        dimensions = value.type.tensor_type.shape.dim
        if dimensions and not dimensions[0].dim_value:
            dimensions[0].dim_value = 1
    fixed.graph.ClearField("value_info")
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    return fixed


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes by tensor, as far as inference finds all their dimensions."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {one.name: tuple(one.dims) for one in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        dimensions = tensor.shape.dim
        if tensor.HasField("shape") and all(one.HasField("dim_value") for one in dimensions):
            found[value.name] = tuple(one.dim_value for one in dimensions)
    return found
