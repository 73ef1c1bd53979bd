"""From fp32 to fp16: what GPUs compute fastest in, half the bytes, and the same inputs and outputs.

Rules:
    * What the graph takes and gives keeps its type: uint8 pixels in, float32 out.
    * Operators that overflow or lose their sum in 10 bits of mantissa and 5 of exponent stay in fp32
      (`FLOAT32_OPS`), and so does the embedded normalization.
    * Between two operators that stay in fp32 nothing is rounded.
    * Whether the result is right is for `controller.lifecycle.variants.verdict` to say.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import TensorProto

from controller.errors import ExportError
from controller.lifecycle.pixel_input import EMBEDDED_PREFIX

__all__ = ["FLOAT32_OPS", "halved"]

FLOAT32_OPS: tuple[str, ...] = (
    *("Softmax", "LogSoftmax", "Exp", "Pow", "Reciprocal"),  # 65,504 is the largest number
    *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization"),  # sums of squares
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
    *("MeanVarianceNormalization", "CumSum", "NonMaxSuppression", "TopK", "RoiAlign", "GridSample", "Range"),
)
"""Operators that stay in fp32, beside those that ONNX Runtime's converter never touches."""

MISTAKES = (AssertionError, ValueError, KeyError, IndexError, RuntimeError, TypeError)  # that the converter makes


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return *model*, which computes in fp32, in fp16.

    Raises:
        ExportError: It cannot be converted.
    """
    # not at the top: it brings half of onnxruntime.transformers
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    source = onnx.ModelProto()
    source.CopyFrom(model)  # the converter changes what it is given
    try:
        converted = convert_float_to_float16(
            source,
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *FLOAT32_OPS],
            node_block_list=[node.name for node in model.graph.node if node.name.startswith(EMBEDDED_PREFIX)],
        )
        OnnxModel.graph_topological_sort(converted.graph)
        converted.graph.ClearField("value_info")  # of the types that tensors had before
        halves = _without_round_trips(converted, {output for node in model.graph.node for output in node.output})
        onnx.checker.check_model(halves, full_check=True)
    except (*MISTAKES, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the graph cannot be converted to fp16: {' '.join(str(error).split())[:300]}") from error
    return halves


def _without_round_trips(model: onnx.ModelProto, own: Collection[str]) -> onnx.ModelProto:
    """Return *model* without the casts from fp32 to fp16 and back that the converter put in.

    Args:
        model: What it made.
        own: Outputs of the nodes that were there before it.
    """
    casts = {n.output[0]: n for n in model.graph.node if n.op_type == "Cast"}
    added = {name: node for name, node in casts.items() if name not in own or node.input[0] not in own}
    there = {name: node.input[0] for name, node in added.items() if _target(node) == TensorProto.FLOAT16}
    back = {name: node.input[0] for name, node in added.items() if _target(node) == TensorProto.FLOAT}
    back = {name: there[half] for name, half in back.items() if half in there}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = back.get(name, name)
    outputs = {value.name for value in model.graph.output}
    while unused := _unused(model, outputs, added):
        kept = [node for node in model.graph.node if node.output[0] not in unused]
        model.graph.ClearField("node")
        model.graph.node.extend(kept)
    return model


def _target(cast: onnx.NodeProto) -> int:
    return int(next(attribute.i for attribute in cast.attribute if attribute.name == "to"))


def _unused(model: onnx.ModelProto, outputs: Collection[str], added: Collection[str]) -> set[str]:
    used = {name for node in model.graph.node for name in node.input}
    return {n.output[0] for n in model.graph.node if n.output[0] in added and n.output[0] not in used | {*outputs}}
