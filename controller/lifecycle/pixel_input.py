"""The normalization put into a graph, in front of it: it then takes pixels as they are.

Rules:
    * Normalization is ``(pixel * scale - mean) / std`` per channel, here as ``pixel * factor + offset``
      with both constants computed in double precision and applied in single precision.
    * The nodes that are put in have names that begin with `EMBEDDED_PREFIX`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from controller.errors import ExportError
from controller.lifecycle.graph import ImageInput, dimensions_of, find_image_input, real_inputs
from runtime.manifest import Preprocess

__all__ = ["EMBEDDED_PREFIX", "embed_normalization", "embedded_part"]

EMBEDDED_PREFIX = "vedette_"
INPUT_NAME = "images"
FLOATS: Mapping[str, int] = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
"""By NumPy's name: types of pixels that a normalization can be put in front of."""
BATCH_EPSILON = 1e-5  # of BatchNormalization; cuDNN 7 takes no less


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
    if found.layout == "NCHW":
        steps.append(_Step("Transpose", {"perm": [0, 3, 1, 2]}))  # as uint8: a quarter of the bytes to move
    if preprocess.color == "BGR":  # of planes: of single numbers it would take ten times as long
        axis = 1 if found.layout == "NCHW" else 3
        steps.append(_Step("Gather", {"axis": axis}, (np.array([2, 1, 0], np.int64),)))
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
