"""Surgery on ONNX graphs: what a graph takes and gives, its versions.

Rules:
    * Functions return a new model; the one that they are given stays as it is.
    * Published graphs have opset 21 and IR 10 at most: what ONNX Runtime 1.18 and later load.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx.version_converter
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types
from onnx import TensorProto, helper, numpy_helper

from controller.errors import ExportError
from controller.lifecycle.subgraph import in_order
from runtime.inputs import AUXILIARY, image_axes
from runtime.manifest import Tensor

__all__ = [
    "AI_ONNX",
    "MAX_IR",
    "MAX_OPSET",
    "ImageInput",
    "at_most_published_versions",
    "dimensions_of",
    "find_image_input",
    "load_graph",
    "opset_of",
    "output_operator",
    "precision_of",
    "real_inputs",
    "with_opset",
    "with_paddings_apart",
    "without_wrong_shapes",
]

MAX_OPSET = 21
MAX_IR = 10
AI_ONNX = ("", "ai.onnx")
QUANTIZED = ("QLinear", "QuantizeLinear", "DequantizeLinear", "DynamicQuantize")  # operators begin so

Dimension = int | str
PAD_HAS_AXES = 18  # opset from which Pad takes the axes that it pads
NOT_NEGATIVE = ("Relu", "Sigmoid")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """The input of a graph that takes pictures; a string is a dynamic dimension."""

    name: str
    dtype: str  # NumPy's name
    layout: Literal["NCHW", "NHWC"]
    batch: Dimension
    height: Dimension
    width: Dimension
    channels: int

    @property
    def tensor(self) -> Tensor:
        """The input as the manifest would say it."""
        size = (self.height, self.width)
        rest = (self.channels, *size) if self.layout == "NCHW" else (*size, self.channels)
        return Tensor(name=self.name, dtype=self.dtype, shape=(self.batch, *rest))


def load_graph(path: Path) -> onnx.ModelProto:
    """Read the ONNX file at *path*, external data included, its nodes in order.

    Raises:
        ExportError: It is absent or no ONNX model, or its external data is.
    """
    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        raise ExportError(f"{error.filename or path} does not exist") from None
    except onnx.checker.ValidationError as error:
        if absent := _absent_data(path):
            raise ExportError(
                f"{path} keeps its weights in {', '.join(absent)}, and there is no such file beside it: copy it "
                "there, under that name, or export the model as one file (torch: external_data=False)"
            ) from None
        raise ExportError(f"{path} is no ONNX model: {' '.join(str(error).split())}") from None
    except (DecodeError, ValueError) as error:
        raise ExportError(f"{path} is no ONNX model: {' '.join(str(error).split())}") from None
    if not model.graph.node or not model.ir_version:
        raise ExportError(f"{path} is no ONNX model: it has no nodes")
    return in_order(model)


def _absent_data(path: Path) -> list[str]:
    """Return the files of weights that the graph in *path* names and that are not there."""
    graph = onnx.load(path, load_external_data=False).graph
    named = {entry.value for one in graph.initializer for entry in one.external_data if entry.key == "location"}
    return sorted(name for name in named if not (path.parent / name).exists())


def real_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return what the graph must be given: its inputs without those that an initializer fills."""
    filled = {initializer.name for initializer in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in filled]


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that *model* uses."""
    return max((o.version for o in model.opset_import if o.domain in AI_ONNX), default=0)


def dimensions_of(value: onnx.ValueInfoProto) -> list[Dimension]:
    """Return the shape of a graph's input or output."""
    return [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or "?"
        for d in value.type.tensor_type.shape.dim
    ]


def find_image_input(model: onnx.ModelProto) -> ImageInput | None:
    """Return the input of *model* that takes pictures; ``None`` if it has another shape, or is not the only one.

    A picture's input has four dimensions and 1 or 3 channels, at the second place (NCHW) or at the last (NHWC).
    Beside it there may be those inputs that the runtime fills in by their names (`runtime.inputs.AUXILIARY`).
    """
    inputs = [value for value in real_inputs(model) if value.name not in AUXILIARY]
    if len(inputs) != 1:
        return None
    shape = dimensions_of(inputs[0])
    axes = image_axes(shape)
    if axes is None:
        return None
    batch, *rest = shape
    channels, height, width = rest if axes == "NCHW" else (rest[2], rest[0], rest[1])
    return ImageInput(
        name=inputs[0].name,
        dtype=str(helper.tensor_dtype_to_np_dtype(inputs[0].type.tensor_type.elem_type)),
        layout=axes,
        batch=batch,
        height=height,
        width=width,
        channels=int(channels),
    )


def with_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return *model* with standard operators of version *opset*.

    Raises:
        ExportError: ONNX's converter knows no way there.
    """
    if opset_of(model) == opset:
        return model
    try:
        return onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"opset {opset_of(model)} cannot be converted to {opset}: {' '.join(str(error).split())[:300]}; "
            f"export the model again with opset {opset}"
        ) from None


def at_most_published_versions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return *model* with opset and IR brought down to what is published, if they are above, and no unused domains.

    Raises:
        ExportError: ONNX's converter knows no way there.
    """
    lowered = onnx.ModelProto()
    lowered.CopyFrom(with_opset(model, MAX_OPSET) if opset_of(model) > MAX_OPSET else model)
    lowered.ir_version = min(model.ir_version, MAX_IR)
    used = _domains(lowered.graph.node) | {domain for f in lowered.functions for domain in _domains(f.node)}
    kept = [o for o in lowered.opset_import if o.domain in {*AI_ONNX, *used}]  # ORT's optimizer lists all it knows
    lowered.ClearField("opset_import")
    lowered.opset_import.extend(kept)
    return lowered


def without_wrong_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return *model* without the shapes that it notes for its inner tensors, if they contradict its operators.

    They are notes of the exporter's (``value_info``), which nothing that runs a graph needs.
    """
    if _infers(model):
        return model
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    bare.graph.ClearField("value_info")
    return bare if _infers(bare) else model


def with_paddings_apart(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return *model* such that no ONNX Runtime moves a padding with numbers into the pooling that follows.

    ONNX Runtime 1.22 makes a Pad with zeros in front of a MaxPool the MaxPool's own padding, which never is the largest
    in its window, as a zero is among negative numbers. It leaves a Pad alone that names its axes (its
    ``pad_fusion.cc``), so those that it would move get the axes that they have anyway. In graphs below opset 18, whose
    Pad takes none, all stays as it is.
    """
    if opset_of(model) < PAD_HAS_AXES:
        return model
    apart = onnx.ModelProto()
    apart.CopyFrom(model)
    graph = apart.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    for pad in [node for node in graph.node if node.op_type == "Pad" and len(node.input) in (2, 3)]:
        if pad.input[1] in constants and _reaches_pooling(apart, pad) and not _not_negative(apart, pad):
            rank = numpy_helper.to_array(constants[pad.input[1]]).size // 2
            axes = f"{pad.output[0]}_axes"
            graph.initializer.append(numpy_helper.from_array(np.arange(rank), axes))
            pad.input.extend([*([""] if len(pad.input) == 2 else []), axes])
    return apart


def _reaches_pooling(model: onnx.ModelProto, pad: onnx.NodeProto) -> bool:
    """Whether a MaxPool takes what *pad* gives, transposed or not."""
    reached = set(pad.output)
    for node in model.graph.node:  # sorted: what makes comes before what takes
        if reached.intersection(node.input):
            if node.op_type == "MaxPool":
                return True
            if node.op_type == "Transpose":
                reached.update(node.output)
    return False


def _not_negative(model: onnx.ModelProto, pad: onnx.NodeProto) -> bool:
    """Whether zeros are nothing in the window of a pooling behind *pad*."""
    return output_operator(model, ("Transpose",), pad.input[0]) in NOT_NEGATIVE


def _infers(model: onnx.ModelProto) -> bool:
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return False
    return True


def _domains(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return the operator domains of *nodes* and of the graphs inside them."""
    found = set()
    for node in nodes:
        found.add(node.domain)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                found |= _domains(graph.node)
    return found


def output_operator(model: onnx.ModelProto, through: Sequence[str], output: str | None = None) -> str:
    """Return the operator that makes *output*, looking back *through* operators that only reshape it.

    Args:
        model: A graph.
        through: Operators to look through.
        output: A value of the graph; its first output if ``None``.
    """
    producers = {made: node for node in model.graph.node for made in node.output}
    node = producers.get(output or model.graph.output[0].name)
    while node is not None and node.op_type in through and node.input[0] in producers:
        node = producers[node.input[0]]
    return node.op_type if node is not None else ""


def precision_of(model: onnx.ModelProto) -> str:
    """Return in what numbers *model* mostly computes: ``int8`` if it is quantized, ``fp16`` if half, else ``fp32``."""
    if any(node.op_type.startswith(QUANTIZED) or node.op_type.endswith("Integer") for node in model.graph.node):
        return "int8"
    sizes = dict.fromkeys((TensorProto.FLOAT, TensorProto.FLOAT16), 0)
    for initializer in model.graph.initializer:
        if initializer.data_type in sizes:
            sizes[initializer.data_type] += math.prod(initializer.dims)
    return "fp16" if sizes[TensorProto.FLOAT16] > sizes[TensorProto.FLOAT] else "fp32"
