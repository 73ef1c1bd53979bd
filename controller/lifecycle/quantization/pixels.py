"""Pixels of 8 bits straight into the first quantized convolution.

A normalization in front of a quantized convolution is undone at once: pixels become floats, are scaled, and are rounded
to 8 bits again. Here the pixel itself is the quantized activation, of scale 1 and zero point *z*, and the convolution
takes over what the normalization does: ``conv(f * x + o, W) + b = conv(x - z, W * f) + b + sum(W * (o + f * z))``. The
pixels are then exact, and four nodes as large as the picture are gone.

Rules:
    * One zero point serves all channels, while what a convolution pads with stands for ``-o / f`` of each: at the
      border, pixels that are not there differ by a few levels. `MOST_OFF` says how many may be.
    * It takes two steps around ONNX Runtime's quantizer, which knows floats only: `with_pixels` makes them, exact but
      for the border; `without_rounding` takes them out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from controller.lifecycle.graph import AI_ONNX
from controller.lifecycle.optimize.normalization import fold_normalization, pads
from controller.lifecycle.pixel_input import EMBEDDED_PREFIX
from controller.lifecycle.quantization.layers import Graph, attribute_of
from controller.lifecycle.subgraph import ending_with

__all__ = ["MOST_OFF", "Pixels", "with_pixels", "without_rounding"]

MOST_OFF = 16  # levels out of 256: of ImageNet's means, 10
HIGHEST = 255
PREFIX = f"{EMBEDDED_PREFIX}pixels"  # names of what is put in begin so
MOVING = ("Transpose", "Gather")  # operators that move pixels, and do not change them

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """A graph whose first convolution takes pixels less a zero point.

    Attributes:
        model: The graph, in fp32.
        convolution: Name of the node.
        taken: The tensor that the convolution takes: float32, pixel less zero point.
        source: The tensor that it is made of: the same pixels, uint8.
        zero_point: 0 to 255.
    """

    model: onnx.ModelProto
    convolution: str
    taken: str
    source: str
    zero_point: int

    @property
    def range(self) -> tuple[float, float]:
        """Of `taken`: the one whose scale is 1."""
        return float(-self.zero_point), float(HIGHEST - self.zero_point)


def with_pixels(model: onnx.ModelProto) -> Pixels | None:
    """Return *model*, prepared, with its normalization in its first convolution.

    Returns:
        ``None`` if it does not take pixels of 8 bits, if something else than a normalization is in front of its first
        convolution, or if the channels' offsets differ too much for one zero point at a padded border.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(fold_normalization(model, fewer_nodes=False))
    graph = Graph.of(folded)
    conv = next((node for node in folded.graph.node if node.op_type == "Conv" and node.domain in AI_ONNX), None)
    if conv is None or not _is_plain(graph, conv):
        return None
    entry = _entry(graph, conv)
    if entry is None:
        return None
    offset, moved, cast = entry
    weight = numpy_helper.to_array(graph.constants[conv.input[1]]).astype(np.float64)
    if len(offset) not in (1, weight.shape[1]):
        return None
    zero_point = int(np.clip(np.rint(-offset.mean()), 0, HIGHEST))
    left = np.broadcast_to(offset + zero_point, weight.shape[1])
    if pads(conv) and np.abs(left).max() > MOST_OFF:
        return None
    _shift_bias(graph, conv, (weight * left[None, :, None, None]).sum((1, 2, 3)))
    source = _in_order(graph, conv, cast.input[0])
    source = _put_in_front(folded, conv, source, moved, zero_point)
    whole = ending_with(folded, folded.graph.output)
    return Pixels(model=whole, convolution=conv.name, taken=conv.input[0], source=source, zero_point=zero_point)


def _is_plain(graph: Graph, conv: onnx.NodeProto) -> bool:
    own = all(name in graph.constants and graph.only_consumer(name) is not None for name in conv.input[1:] if name)
    return own and attribute_of(conv, "group", 1) == 1 and len(graph.constants[conv.input[1]].dims) == 4


def _entry(graph: Graph, conv: onnx.NodeProto) -> tuple[Doubles, list[onnx.NodeProto], onnx.NodeProto] | None:
    """Return what is added to the pixels (channels,), the nodes that move them as floats, and what made them floats.

    ``None`` if there is more in front of *conv*, or if something else takes part of it.
    """
    name, offset = conv.input[0], np.zeros(1)
    moved: list[onnx.NodeProto] = []
    while graph.only_consumer(name) is not None and (node := graph.producers.get(name)) is not None:
        values = _added(graph, node)
        if values is not None and not moved and not offset.any():
            offset, name = values, node.input[0]
        elif node.op_type == "Transpose":
            moved.append(node)
            name = node.input[0]
        elif node.op_type == "Cast" and _is_pixels(graph, node.input[0]):
            return offset, moved[::-1], node
        else:
            return None
    return None


def _added(graph: Graph, node: onnx.NodeProto) -> Doubles | None:
    """Return the numbers (1,) or (channels,) that *node* adds to tensors of (n, channels, height, width)."""
    if node.op_type != "Add" or node.input[1] not in graph.constants:
        return None
    constant = numpy_helper.to_array(graph.constants[node.input[1]]).astype(np.float64)
    is_by_channel = constant.size == 1 or (constant.ndim >= 3 and constant.shape[-3] == constant.size)
    return constant.reshape(-1) if is_by_channel else None


def _is_pixels(graph: Graph, name: str) -> bool:
    """Whether *name* is the graph's input of 8 bits, moved at most."""
    while (node := graph.producers.get(name)) is not None and node.op_type in MOVING:
        name = node.input[0]
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.model.graph.input}
    return kinds.get(name) == TensorProto.UINT8


def _in_order(graph: Graph, conv: onnx.NodeProto, name: str) -> str:
    """Return the pixels that *name* has the channels of in another order, which *conv*'s weights are brought to."""
    node = graph.producers.get(name)
    if node is None or node.op_type != "Gather" or node.input[1] not in graph.constants:
        return name
    order = numpy_helper.to_array(graph.constants[node.input[1]])
    channels = graph.constants[conv.input[1]].dims[1]
    if attribute_of(node, "axis", 0) != 1 or sorted(order.reshape(-1).tolist()) != list(range(channels)):
        return name
    weight = np.empty_like(before := numpy_helper.to_array(graph.constants[conv.input[1]]))
    weight[:, order.reshape(-1)] = before
    graph.constants[conv.input[1]].CopyFrom(numpy_helper.from_array(weight, conv.input[1]))
    return str(node.input[0])


def _shift_bias(graph: Graph, conv: onnx.NodeProto, shift: Doubles) -> None:
    before = numpy_helper.to_array(graph.constants[conv.input[2]]) if len(conv.input) > 2 and conv.input[2] else 0.0
    name = f"{PREFIX}_bias"
    graph.model.graph.initializer.append(numpy_helper.from_array((before + shift).astype(np.float32), name))
    conv.input[:] = [*conv.input[:2], name]


def _put_in_front(
    model: onnx.ModelProto, conv: onnx.NodeProto, source: str, moved: list[onnx.NodeProto], zero_point: int
) -> str:
    """Let *conv* take the pixels *source*, *moved*, less *zero_point*; return the tensor that this is taken off."""
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(moved):
        nodes.append(_copy(node, [source], f"{PREFIX}_{number}_transpose"))
        source = nodes[-1].output[0]
    constant = numpy_helper.from_array(np.array(zero_point, np.float32), f"{PREFIX}_zero_point")
    nodes.append(helper.make_node("Cast", [source], [f"{PREFIX}_floats"], name=f"{PREFIX}_cast", to=TensorProto.FLOAT))
    nodes.append(
        helper.make_node("Sub", [f"{PREFIX}_floats", constant.name], [f"{PREFIX}_output"], name=f"{PREFIX}_sub")
    )
    model.graph.initializer.append(constant)
    conv.input[0] = nodes[-1].output[0]
    place = list(model.graph.node).index(conv)
    for node in reversed(nodes):
        model.graph.node.insert(place, node)
    return source


def _copy(node: onnx.NodeProto, inputs: list[str], name: str) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    copied.name = name
    copied.input[:] = inputs
    copied.output[:] = [f"{name}_output"]
    return copied


def without_rounding(quantized: onnx.ModelProto, pixels: Pixels) -> onnx.ModelProto:
    """Return *quantized*, made of ``pixels.model``, with the pixels themselves where their quantization was.

    It stays as it is where what takes the pixels was not quantized with their scale and zero point.
    """
    graph = Graph.of(quantized)
    nodes = [node for node in graph.consumers.get(pixels.taken, ()) if node.op_type == "QuantizeLinear"]
    if not nodes or not all(_is_exact(graph.constants, node, pixels.zero_point) for node in nodes):
        return quantized
    straight = onnx.ModelProto()
    straight.CopyFrom(quantized)
    rounded = {node.output[0] for node in nodes}
    for node in straight.graph.node:
        node.input[:] = [pixels.source if name in rounded else name for name in node.input]
    return ending_with(straight, straight.graph.output)


def _is_exact(constants: Mapping[str, onnx.TensorProto], node: onnx.NodeProto, zero_point: int) -> bool:
    scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
    return scale.size == 1 and float(scale) == 1.0 and zero.dtype == np.uint8 and int(zero) == zero_point
