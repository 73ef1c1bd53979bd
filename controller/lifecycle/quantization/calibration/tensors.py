"""Which tensors of a graph are calibrated, and which take the range of another.

Rules:
    * Only activations in float32 that an operator that can be quantized takes or gives.
    * What only a ReLU or a Clip takes has the range of what that gives: all else is cut off right after.
    * What a Reshape or the like gives has the range of what it takes: the values are the same.
    * The nodes that embed the normalization are not quantized; what the first of the others takes is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from controller.lifecycle.pixel_input import EMBEDDED_PREFIX

__all__ = ["QUANTIZABLE_OPS", "Tensors", "calibrated_tensors", "float_tensors"]

QUANTIZABLE_OPS: frozenset[str] = frozenset({*QDQRegistry, *QLinearOpsRegistry})
"""What ONNX Runtime quantizes when nothing is said."""

CUTTING = ("Relu", "Clip")
MOVING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """What to measure.

    Attributes:
        measured: Names, in the graph's order.
        same: By name of a tensor that is not measured: the measured one that has its range.
    """

    measured: tuple[str, ...]
    same: Mapping[str, str]


def float_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the names of all tensors of *model* in float32 that are computed or fed."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    constants = {initializer.name for initializer in model.graph.initializer}
    return {
        value.name
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in constants
    }


def calibrated_tensors(model: onnx.ModelProto) -> Tensors:
    """Return which activations of *model* are measured, so that whatever can be quantized may be."""
    floats = float_tensors(model)
    nodes = [node for node in model.graph.node if not node.name.startswith(EMBEDDED_PREFIX)]
    quantizable = [node for node in nodes if node.op_type in QUANTIZABLE_OPS]
    wanted = dict.fromkeys(
        name for node in quantizable for name in (*node.input, *node.output) if name and name in floats
    )
    uses = Counter(name for node in nodes for name in node.input)
    uses.update(value.name for value in model.graph.output)
    same: dict[str, str] = {}
    for node in quantizable:
        if node.op_type in CUTTING and uses[node.input[0]] == 1:
            same[node.input[0]] = node.output[0]
    for node in quantizable:
        if node.op_type in MOVING and node.output[0] not in same:
            same[node.output[0]] = node.input[0]
    followed = {name: _end(same, name) for name in wanted if name in same}
    measured = dict.fromkeys(_end(same, name) for name in wanted)
    return Tensors(measured=tuple(name for name in measured if name in floats), same=followed)


def _end(same: Mapping[str, str], name: str) -> str:
    while name in same:
        name = same[name]
    return name
