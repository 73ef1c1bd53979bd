"""The first quantized convolution over cells of several pixels: the same sums, in half of the time.

ONNX Runtime's integer convolution is made for channels in multiples of four. One over the three of a picture gathers
every window byte by byte, which takes longer than its products. Channels last, ``(height, width, 3)`` *is*
``(height, width / 4, 12)``: cells of four pixels side by side. A convolution of stride 2 over pixels is one of stride 1
over such cells, with twice the channels: those of the two places that begin in a cell. Its weights are the same ones,
and zeros; what comes out is ``(height', width' / 2, 2 * channels)``, which is ``(height', width', channels)`` again.

Rules:
    * It is exact: each sum has the same integer products, and zeros. Only the layout in memory is used, nothing moves.
    * `MOST_PRODUCTS` bounds how many products with zeros are worth it (a convolution of 3x3 and stride 2 has 2.7 times
      as many, and takes 0.4 of the time).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from controller.lifecycle.graph import AI_ONNX, dimensions_of
from controller.lifecycle.quantization.calibration.tensors import CUTTING
from controller.lifecycle.quantization.layers import Graph
from controller.lifecycle.subgraph import ending_with

__all__ = ["Window", "in_cells"]

ALIGNED = 4  # channels: what the integer convolutions of ONNX Runtime want a multiple of
IMAGE_RANK = 4
MOST_PRODUCTS = 3.0  # times as many as before
TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
PREFIX = "vedette_cells"  # names of what is put in begin so

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a convolution goes along the rows of a picture, in pixels.

    Attributes:
        width: Of the picture.
        kernel: Of the weights.
        stride: From one place to the next.
        left: Zeros in front of each row.
        places: That there are in a row.
        channels: Of a pixel.
    """

    width: int
    kernel: int
    stride: int
    left: int
    places: int
    channels: int

    @property
    def cell(self) -> int:
        """Pixels in a cell: whole strides, whose channels are aligned."""
        return math.lcm(self.stride, ALIGNED // math.gcd(ALIGNED, self.channels))

    @property
    def places_in_cell(self) -> int:
        """Places that begin in a cell."""
        return self.cell // self.stride

    @property
    def first(self) -> int:
        """The cell that the places of a cell begin to read in, counted from that one."""
        return -self.left // self.cell

    @property
    def cells(self) -> int:
        """Cells that the places of one read."""
        return (self.cell - self.stride + self.kernel - 1 - self.left) // self.cell - self.first + 1

    @property
    def pads(self) -> tuple[int, int]:
        """Cells of zeros in front of a row, and behind it."""
        return -self.first, self.cells - 1 + self.first

    @property
    def is_worthwhile(self) -> bool:
        """Whether rows are whole cells, with as many places as strides, and products do not become too many."""
        fits = self.width % self.cell == 0 and self.places * self.stride == self.width
        is_aligned = self.channels % ALIGNED == 0
        return fits and not is_aligned and min(self.pads) >= 0 and self.products <= MOST_PRODUCTS

    @property
    def products(self) -> float:
        """How many times as many there are."""
        return self.cells * self.cell / self.kernel

    def weights(self, before: Array, zero: Array) -> Array:
        """Return weights over cells: (places_in_cell * outputs, cell * channels, height, cells).

        Args:
            before: (outputs, channels, height, kernel).
            zero: What stands for zero, in all of them or for each output: () or (outputs,).
        """
        outputs, channels, height, _ = before.shape
        after = np.empty((self.places_in_cell, outputs, self.cell, channels, height, self.cells), before.dtype)
        after[:] = zero.reshape(-1, 1, 1, 1, 1)
        for place in range(self.places_in_cell):
            for column in range(self.kernel):
                cell, pixel = divmod(self.stride * place + column - self.left, self.cell)
                after[place, :, pixel, :, :, cell - self.first] = before[:, :, :, column]
        return after.reshape(self.places_in_cell * outputs, self.cell * channels, height, self.cells)

    def for_each_place(self, before: Array) -> Array:
        """Return what *before*, (outputs,), has for each output: (places_in_cell * outputs,)."""
        return np.tile(before, self.places_in_cell)


def in_cells(quantized: onnx.ModelProto) -> onnx.ModelProto:
    """Return *quantized* with its first convolution over cells; itself if that is not one over pixels of 8 bits.

    The pixels must be of a fixed size, channels last, with nothing but a Transpose between them and the convolution.
    """
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    graph = Graph.of(model)
    conv = next((node for node in model.graph.node if node.op_type == "Conv" and node.domain in AI_ONNX), None)
    if conv is None or (found := _surroundings(graph, conv)) is None:
        return quantized
    window = _window(graph, found)
    if window is None or not window.is_worthwhile:
        return quantized
    _rewrite(graph, found, window)
    return ending_with(model, model.graph.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Surroundings:
    """A quantized convolution over pixels, and the nodes around it.

    Attributes:
        conv: The node.
        transpose: Brings the pixels, channels last, in front of it.
        pixels: Takes them to it as floats.
        constants: Take its weights to it, and its bias if it has one.
        rounding: Quantizes what it gives.
        attributes: Of it.
    """

    conv: onnx.NodeProto
    transpose: onnx.NodeProto
    pixels: onnx.NodeProto
    constants: tuple[onnx.NodeProto, ...]
    rounding: onnx.NodeProto
    attributes: Mapping[str, Any]


def _surroundings(graph: Graph, conv: onnx.NodeProto) -> _Surroundings | None:
    """Return what is around *conv*; ``None`` if it is not quantized, or not over pixels, or anything is shared."""
    taken = [_sole(graph, name, "DequantizeLinear") for name in conv.input]
    rounding = graph.only_consumer(conv.output[0])
    while rounding is not None and rounding.op_type in CUTTING:
        rounding = graph.only_consumer(rounding.output[0])
    if any(node is None for node in taken) or rounding is None or rounding.op_type != "QuantizeLinear":
        return None
    pixels, *constants = (node for node in taken if node is not None)
    transpose = _sole(graph, pixels.input[0], "Transpose")
    attributes = {one.name: helper.get_attribute_value(one) for one in conv.attribute}
    if (
        transpose is None
        or list(transpose.attribute[0].ints) != TO_NCHW
        or any(node.input[0] not in graph.constants for node in constants)
        or attributes.get("group", 1) != 1
        or set(attributes.get("dilations", ())) - {1}
        or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    ):
        return None
    return _Surroundings(
        conv=conv,
        transpose=transpose,
        pixels=pixels,
        constants=tuple(constants),
        rounding=rounding,
        attributes=attributes,
    )


def _sole(graph: Graph, name: str, operator: str) -> onnx.NodeProto | None:
    """Return the *operator* that makes *name*, if one other takes it."""
    node = graph.producers.get(name)
    return node if node is not None and node.op_type == operator and graph.only_consumer(name) is not None else None


def _window(graph: Graph, found: _Surroundings) -> Window | None:
    """Return how the convolution goes; ``None`` if the pixels have no fixed size."""
    name = found.transpose.input[0]
    while (node := graph.producers.get(name)) is not None and node.op_type == "Gather":  # of channels, to BGR
        name = node.input[0]
    shapes = {value.name: dimensions_of(value) for value in graph.model.graph.input}
    dims = graph.constants[found.constants[0].input[0]].dims
    if name not in shapes or len(shapes[name]) != IMAGE_RANK or len(dims) != IMAGE_RANK:
        return None
    width = shapes[name][2]
    if not isinstance(width, int):
        return None
    _, left, _, right = found.attributes.get("pads", [0] * 4)
    stride = found.attributes.get("strides", [1, 1])[1]
    return Window(
        width=width,
        kernel=dims[3],
        stride=stride,
        left=left,
        places=(width + left + right - dims[3]) // stride + 1,
        channels=dims[1],
    )


def _rewrite(graph: Graph, found: _Surroundings, window: Window) -> None:
    """Let the convolution go over cells, and what it gives be as before."""
    weight, *biases = found.constants
    outputs, _, height, _ = graph.constants[weight.input[0]].dims
    zero = numpy_helper.to_array(graph.constants[weight.input[2]]) if len(weight.input) > 2 else np.zeros(())
    _replace(graph, weight, 0, lambda one: window.weights(one, zero))
    for node in biases:
        _replace(graph, node, 0, window.for_each_place)
    for node in found.constants:  # a scale and a zero point of each channel, or of all
        for place in range(1, len(node.input)):
            _replace(graph, node, place, lambda one: window.for_each_place(one) if one.size > 1 else one)
    top, _, bottom, _ = found.attributes.get("pads", [0] * 4)
    left, right = window.pads
    changed = {
        "kernel_shape": [height, window.cells],
        "strides": [found.attributes.get("strides", [1, 1])[0], 1],
        "pads": [top, left, bottom, right],
    }
    found.conv.ClearField("attribute")
    found.conv.attribute.extend(helper.make_attribute(name, value) for name, value in changed.items())
    found.conv.name = f"{PREFIX}_{found.conv.name}"
    _reshaped(graph, found.transpose, [0, 0, window.width // window.cell, window.cell * window.channels])
    _restored(graph, found.rounding, [0, 0, window.places, outputs])


def _replace(graph: Graph, node: onnx.NodeProto, place: int, change: Callable[[Array], Array]) -> None:
    """Give *node* what *change* makes of the constant that it takes at *place*."""
    before = numpy_helper.to_array(graph.constants[node.input[place]])
    name = f"{PREFIX}_{node.input[place]}"
    graph.model.graph.initializer.append(numpy_helper.from_array(change(before), name))
    node.input[place] = name


def _reshaped(graph: Graph, transpose: onnx.NodeProto, shape: list[int]) -> None:
    """Let *transpose* take what it takes in another *shape*."""
    name = f"{PREFIX}_input"
    graph.model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}_shape"))
    node = helper.make_node("Reshape", [transpose.input[0], f"{name}_shape"], [name], name=f"{name}_reshape")
    transpose.input[0] = name
    graph.model.graph.node.insert(list(graph.model.graph.node).index(transpose), node)


def _restored(graph: Graph, rounding: onnx.NodeProto, shape: list[int]) -> None:
    """Bring what *rounding* gives, channels last, to *shape*, and its channels to the front again."""
    name, after = f"{PREFIX}_output", rounding.output[0]
    graph.model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}_shape"))
    rounding.output[0] = f"{name}_cells"
    nodes = [
        helper.make_node("Transpose", [f"{name}_cells"], [f"{name}_last"], name=f"{name}_to_last", perm=TO_NHWC),
        helper.make_node("Reshape", [f"{name}_last", f"{name}_shape"], [f"{name}_shaped"], name=f"{name}_reshape"),
        helper.make_node("Transpose", [f"{name}_shaped"], [after], name=f"{name}_to_first", perm=TO_NCHW),
    ]
    place = list(graph.model.graph.node).index(rounding) + 1
    for node in reversed(nodes):
        graph.model.graph.node.insert(place, node)
