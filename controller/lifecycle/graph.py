"""Surgery on ONNX graphs: what a graph takes and gives, the normalization put into it, its versions.

Rules:
    * Functions return a new model; the one that they are given stays as it is.
    * Normalization is ``(pixel * scale - mean) / std`` per channel, here as ``pixel * factor + offset``
      with both constants computed in double precision and applied in single precision.
    * Published graphs have opset 21 and IR 10 at most: what ONNX Runtime 1.18 and later load.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.version_converter
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types
from onnx import TensorProto, helper, numpy_helper

from controller.errors import ExportError
from controller.lifecycle.subgraph import in_order
from runtime.inputs import AUXILIARY, image_axes
from runtime.manifest import Preprocess, Tensor

__all__ = [
    "AI_ONNX",
    "EMBEDDED_PREFIX",
    "MAX_IR",
    "MAX_OPSET",
    "ImageInput",
    "at_most_published_versions",
    "dimensions_of",
    "embed_normalization",
    "embedded_part",
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
EMBEDDED_PREFIX = "vedette_"  # names of the nodes that are put in begin so
INPUT_NAME = "images"
AI_ONNX = ("", "ai.onnx")
QUANTIZED = ("QLinear", "QuantizeLinear", "DequantizeLinear", "DynamicQuantize")  # operators begin so

Dimension = int | str
FLOATS: Mapping[str, int] = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
"""By NumPy's name: types of pixels that a normalization can be put in front of."""
PAD_HAS_AXES = 18  # opset from which Pad takes the axes that it pads
NOT_NEGATIVE = ("Relu", "Sigmoid")
BATCH_EPSILON = 1e-5  # of BatchNormalization; cuDNN 7 takes no less


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


def embed_normalization(model: onnx.ModelProto, preprocess: Preprocess) -> onnx.ModelProto:
    """Put the normalization in front of a graph of float pixels: it then takes uint8 NHWC in RGB (or gray).

    Args:
        model: Takes float32 or float16, (n, channels, height, width) or (n, height, width, channels), normalized
            as *preprocess* says and in its colour order; perhaps inputs of `runtime.inputs.AUXILIARY`, too.
        preprocess: ``color``, ``mean``, ``std`` and ``scale`` are used.

    Returns:
        A graph that takes uint8 (n, height, width, channels), and the other inputs as before. It computes in
        float32, and rounds to float16 at the end where *model* takes that.

    Raises:
        ExportError: *model* is no such graph.
    """
    found = find_image_input(model)
    channels = 1 if preprocess.color == "L" else 3
    if found is None or found.dtype not in FLOATS or found.channels != channels:
        inputs = ", ".join(f"{v.name} {dimensions_of(v)}" for v in real_inputs(model)) or "none"
        raise ExportError(
            f"the normalization cannot be embedded: inputs are {inputs}; expected one input of pictures "
            f"with {channels} channels, {' or '.join(FLOATS)}"
        )
    embedded = onnx.ModelProto()
    embedded.CopyFrom(model)
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)} | {found.name}
    name = INPUT_NAME if INPUT_NAME not in taken else f"{INPUT_NAME}_uint8"
    nodes, constants = _normalization(name, found, preprocess)
    embedded.graph.ClearField("node")
    embedded.graph.node.extend([*nodes, *model.graph.node])
    embedded.graph.initializer.extend(constants)
    shape = [found.batch, found.height, found.width, found.channels]
    pixels = helper.make_tensor_value_info(name, TensorProto.UINT8, shape)
    embedded.graph.ClearField("input")
    embedded.graph.input.extend(pixels if value.name == found.name else value for value in model.graph.input)
    return embedded


def _normalization(
    name: str, found: ImageInput, preprocess: Preprocess
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes, and their constants, from the uint8 NHWC input *name* to the input that was *found*."""
    steps = []
    if preprocess.color == "BGR":
        steps.append(_Step("Gather", {"axis": 3}, (np.array([2, 1, 0], np.int64),)))
    if found.layout == "NCHW":
        steps.append(_Step("Transpose", {"perm": [0, 3, 1, 2]}))  # as uint8: a quarter of the bytes to move
    steps.append(_Step("Cast", {"to": TensorProto.FLOAT}))
    steps += _scaling(found, preprocess)
    if found.dtype != "float32":
        steps.append(_Step("Cast", {"to": FLOATS[found.dtype]}))
    nodes, constants, current = [], [], name
    for number, step in enumerate(steps):
        label = f"{EMBEDDED_PREFIX}{number}_{step.operator.lower()}"
        named = [numpy_helper.from_array(array, f"{label}_{place}") for place, array in enumerate(step.constants)]
        constants += named
        inputs = [current, *(constant.name for constant in named)]
        current = found.name if number == len(steps) - 1 else f"{label}_output"
        nodes.append(helper.make_node(step.operator, inputs, [current], name=label, **step.attributes))
    return nodes, constants


@dataclass(frozen=True, slots=True)
class _Step:
    """An operator that takes what the step before it gives, and *constants*."""

    operator: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[np.ndarray, ...] = ()


def _scaling(found: ImageInput, preprocess: Preprocess) -> list[_Step]:
    """Return the steps that make ``pixel * factor + offset`` of float pixels, per channel.

    ONNX Runtime moves a Transpose behind a Mul and an Add where that rids it of one (before quantized
    convolutions), and takes 20 times as long to multiply rows of three numbers as planes: 1.7 of 5 ms of
    MobileNetV2 in int8. So what differs between channels is a BatchNormalization, which stays in its place,
    or, channels last, constants as long as a row of pixels.
    """
    std = np.broadcast_to(np.asarray(preprocess.std, np.float64), found.channels)
    factor = preprocess.scale / std
    offset = -np.asarray(preprocess.mean, np.float64) / std
    alike = len({*factor}) == 1 and len({*offset}) == 1
    if found.layout == "NCHW" and not alike:
        mean, variance = np.zeros(found.channels, np.float32), np.full(found.channels, 1 - BATCH_EPSILON, np.float32)
        constants = (factor.astype(np.float32), offset.astype(np.float32), mean, variance)
        return [_Step("BatchNormalization", {"epsilon": BATCH_EPSILON}, constants)]
    if alike:
        factor, offset = factor[:1], offset[:1]
    elif isinstance(found.width, int):
        factor, offset = np.tile(factor, (found.width, 1)), np.tile(offset, (found.width, 1))
    steps = []
    if (factor != 1).any():
        steps.append(_Step("Mul", constants=(factor.astype(np.float32),)))
    if (offset != 0).any():
        steps.append(_Step("Add", constants=(offset.astype(np.float32),)))
    return steps


def embedded_part(model: onnx.ModelProto, found: ImageInput) -> onnx.ModelProto:
    """Return the normalization that `embed_normalization` put into *model*, alone.

    Args:
        model: What it returned.
        found: The input that the graph had before; it is the output here.
    """
    nodes = [node for node in model.graph.node if node.name.startswith(EMBEDDED_PREFIX)]
    used = {name for node in nodes for name in node.input}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(found.dtype))
    graph = helper.make_graph(
        nodes,
        "normalization",
        [value for value in model.graph.input if value.name in used],
        [helper.make_tensor_value_info(found.name, kind, None)],
        [initializer for initializer in model.graph.initializer if initializer.name in used],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


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
