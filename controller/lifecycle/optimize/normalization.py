"""A normalization folded into the convolution behind it, where that is exact.

``conv(factor * x + offset, W) + b`` equals ``conv(x, W * factor) + (b + sum(W * offset))`` if the convolution adds no
zeros at the border: those are zeros after the normalization, and would have to be ``-offset / factor`` before it.

Rules:
    * What multiplies goes into the weights always; what is added goes into the bias where nothing is padded. With
      padding, and an offset that is not zero, one addition is left in front: ``x + offset / factor``.
    * Unless asked otherwise, it is done only where nodes vanish: one addition in place of one batch normalization is as
      slow, and ONNX Runtime moves it to where it is slower (`controller.lifecycle.pixel_input`).
    * Constants are computed in double precision and rounded once. What comes out differs by float32's rounding, which
      a detector's sorted rows may show: it is done on request, not in an import.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from controller.lifecycle.graph import AI_ONNX
from controller.lifecycle.pixel_input import EMBEDDED_PREFIX

__all__ = ["fold_normalization", "pads"]

Doubles = npt.NDArray[np.float64]
Frame = Literal["NCHW", "NHWC"]
TO_NCHW = [0, 3, 1, 2]


@dataclass(frozen=True, slots=True)
class _Affine:
    """``factor * x + offset``; both (1,) or (channels,)."""

    factor: Doubles
    offset: Doubles

    def after(self, earlier: _Affine) -> _Affine:
        """Return what *earlier*, and then this, does."""
        return _Affine(self.factor * earlier.factor, self.factor * earlier.offset + self.offset)


@dataclass(slots=True, kw_only=True)
class _Chain:
    """What stands directly in front of a convolution.

    Attributes:
        affine: All of it as one.
        nodes: Those that make it up, the last first.
        frame: Where the channels are before it.
    """

    affine: _Affine
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    frame: Frame = "NCHW"


class _Graph:
    """A graph's constants, and who makes and reads what."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.tensors = {one.name: one for one in graph.initializer}
        constants = [node for node in graph.node if node.op_type == "Constant"]
        self.tensors |= {node.output[0]: one.t for node in constants for one in node.attribute if one.name == "value"}
        self.producers = {name: node for node in graph.node for name in node.output}
        self.readers = Counter(_read(graph))

    def constant(self, name: str) -> npt.NDArray[np.float32] | None:
        """Return the float32 constant *name*; ``None`` if it is none."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
            return None
        return np.asarray(numpy_helper.to_array(tensor))

    def sole_producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes *name*, if one other reads it and nobody else."""
        node = self.producers.get(name)
        return node if node is not None and self.readers[name] == 1 and node.domain in AI_ONNX else None


def _read(graph: onnx.GraphProto) -> list[str]:
    """Return every name that *graph*, or a graph inside it, reads or gives, as often as it does."""
    names = [name for node in graph.node for name in node.input] + [one.name for one in graph.output]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                names += _read(inner)
    return names


def fold_normalization(model: onnx.ModelProto, *, fewer_nodes: bool = True) -> onnx.ModelProto:
    """Return *model* with what is in front of its first convolution folded into it; *model* itself if nothing is.

    Args:
        model: A graph.
        fewer_nodes: Only where nodes vanish; otherwise also where one addition takes the place of one node.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = _Graph(folded.graph)
    for node in folded.graph.node:
        if node.op_type == "Conv" and node.domain in AI_ONNX:
            return folded if _fold_into(graph, node, least=2 if fewer_nodes else 1) else model
    return model


def _fold_into(graph: _Graph, conv: onnx.NodeProto, least: int) -> bool:
    """Fold into *conv* what stands in front of it; return whether anything was.

    Args:
        graph: Is changed.
        conv: Of it.
        least: Nodes that an addition may take the place of.
    """
    weight = graph.constant(conv.input[1])
    bias = graph.constant(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else np.zeros(1, np.float32)
    if weight is None or bias is None or weight.ndim != 4:
        return False
    chain = _chain_before(graph, conv.input[0])
    channels = weight.shape[1] * _group_count(conv)
    factor, offset = (np.broadcast_to(one, channels) for one in (chain.affine.factor, chain.affine.offset))
    whole = not offset.any() or not pads(conv)
    if len(chain.nodes) < (1 if whole else least) or not (whole or factor.all()):
        return False
    by_output = _per_output(weight, _group_count(conv))
    wide = weight.astype(np.float64)
    _set_input(graph, conv, 1, wide * by_output(factor), "weight")
    if whole and offset.any():
        _set_input(graph, conv, 2, bias.astype(np.float64) + (wide * by_output(offset)).sum(axis=(1, 2, 3)), "bias")
    _drop(graph, chain.nodes)
    if not whole:
        _shift(graph, conv, offset / factor)
    return True


def _group_count(conv: onnx.NodeProto) -> int:
    return next((int(one.i) for one in conv.attribute if one.name == "group"), 1)


def pads(conv: onnx.NodeProto) -> bool:
    """Whether zeros are added at the border."""
    found = {one.name: helper.get_attribute_value(one) for one in conv.attribute}
    mode = found.get("auto_pad", b"NOTSET").decode()
    return mode.startswith("SAME") or (mode == "NOTSET" and any(found.get("pads", ())))


def _per_output(weight: npt.NDArray[Any], groups: int) -> Any:
    """Return what spreads numbers (channels,) over *weight*: to (outputs, channels of a group, 1, 1)."""
    outputs, inputs = weight.shape[:2]
    places = (np.arange(outputs) // (outputs // groups))[:, None] * inputs + np.arange(inputs)
    return lambda values: values[places][:, :, None, None]


def _chain_before(graph: _Graph, name: str) -> _Chain:
    """Return what makes *name* by multiplying and adding constants."""
    chain = _Chain(affine=_Affine(np.ones(1), np.zeros(1)))
    while (node := graph.sole_producer(name)) is not None:
        if node.op_type == "Transpose" and chain.frame == "NCHW":
            if list(next((one.ints for one in node.attribute if one.name == "perm"), ())) != TO_NCHW:
                break
            chain.frame, name = "NHWC", node.input[0]
            continue
        found = _affine(graph, node, chain.frame)
        if found is None:
            break
        name, affine = found
        chain.affine = chain.affine.after(affine)
        chain.nodes.append(node)
    return chain


def _affine(graph: _Graph, node: onnx.NodeProto, frame: Frame) -> tuple[str, _Affine] | None:
    """Return what *node* reads and does, if it multiplies and adds constants of the channels."""
    if node.op_type == "BatchNormalization":
        return _batch_norm(graph, node) if frame == "NCHW" and len(node.output) == 1 else None
    if node.op_type not in _OPERATORS:
        return None
    for place in (0, 1):
        constant = graph.constant(node.input[place])
        if constant is not None:
            values = _by_channel(constant, frame, ours=node.name.startswith(EMBEDDED_PREFIX))
            affine = None if values is None else _OPERATORS[node.op_type](values, place)
            return None if affine is None else (node.input[1 - place], affine)
    return None


def _one(values: Doubles, sign: float = 1.0) -> Doubles:
    return np.full_like(values, sign)


_OPERATORS: Mapping[str, Any] = {
    "Add": lambda values, _: _Affine(_one(values), values),
    "Sub": lambda values, place: _Affine(_one(values), -values) if place else _Affine(_one(values, -1.0), values),
    "Mul": lambda values, _: _Affine(values, np.zeros_like(values)),
    "Div": lambda values, place: _Affine(1 / values, np.zeros_like(values)) if place and values.all() else None,
}
"""By operator: what it does with constants of the channels at a place among its inputs."""


def _by_channel(constant: npt.NDArray[np.float32], frame: Frame, *, ours: bool) -> Doubles | None:
    """Return the numbers (1,) or (channels,) of *constant*; ``None`` if they differ within a channel.

    Args:
        constant: As an operand beside a tensor of four dimensions.
        frame: Of that tensor.
        ours: Whether it may be as long as a row of pixels, which repeats the channels.
    """
    if constant.ndim > 4:
        return None
    shaped = constant.astype(np.float64).reshape((1,) * (4 - constant.ndim) + constant.shape)
    last = shaped.transpose(0, 2, 3, 1) if frame == "NCHW" else shaped
    rows = last.reshape(-1, last.shape[-1])
    if not len(rows) or (len(rows) > 1 and not (ours and (rows == rows[0]).all())):
        return None
    return np.asarray(rows[0])


def _batch_norm(graph: _Graph, node: onnx.NodeProto) -> tuple[str, _Affine] | None:
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    constants = [graph.constant(name) for name in node.input[1:5]]
    if attributes.get("training_mode", 0) or any(one is None for one in constants):
        return None
    scale, shift, mean, variance = (np.asarray(one, np.float64) for one in constants)
    factor = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    return node.input[0], _Affine(factor, shift - mean * factor)


def _set_input(graph: _Graph, conv: onnx.NodeProto, place: int, values: Doubles, what: str) -> None:
    """Give *conv* new constants at *place*, and forget the old ones if nobody else reads them."""
    name = _unused_name(graph, f"{conv.name or conv.output[0]}_folded_{what}")
    graph.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    if len(conv.input) > place:
        _forget(graph, conv.input[place])
        conv.input[place] = name
    else:
        conv.input.append(name)
    graph.readers[name] += 1


def _unused_name(graph: _Graph, wanted: str) -> str:
    taken = {*graph.readers, *graph.producers, *graph.tensors}
    return next(name for name in (wanted, *(f"{wanted}_{n}" for n in range(len(taken) + 1))) if name not in taken)


def _forget(graph: _Graph, name: str) -> None:
    """Note that one less reads *name*; remove it if it is a constant that nobody reads any more."""
    graph.readers[name] -= 1
    if graph.readers[name] > 0 or name not in graph.tensors:
        return
    if name in graph.producers:
        graph.graph.node.remove(graph.producers[name])
        return
    listed: Sequence[Any] = (graph.graph.initializer, graph.graph.input)
    for field_ in listed:
        for one in [one for one in field_ if one.name == name]:
            field_.remove(one)


def _drop(graph: _Graph, nodes: Sequence[onnx.NodeProto]) -> None:
    """Take *nodes*, each read by one other only, out of the graph."""
    for node in nodes:
        data = next(name for name in node.input if name not in graph.tensors)
        reader = next(one for one in graph.graph.node if node.output[0] in one.input)
        reader.input[list(reader.input).index(node.output[0])] = data
        for name in [name for name in node.input if name != data]:
            _forget(graph, name)
        graph.graph.node.remove(node)


def _shift(graph: _Graph, conv: onnx.NodeProto, offset: Doubles) -> None:
    """Put an addition of *offset* (channels,) directly in front of *conv*."""
    values = offset[:1] if (offset == offset[0]).all() else offset.reshape(-1, 1, 1)
    constant = _unused_name(graph, f"{EMBEDDED_PREFIX}offset")
    result = _unused_name(graph, f"{EMBEDDED_PREFIX}offset_output")
    graph.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), constant))
    add = helper.make_node("Add", [conv.input[0], constant], [result], name=f"{EMBEDDED_PREFIX}offset_add")
    conv.input[0] = result
    graph.graph.node.insert(list(graph.graph.node).index(conv), add)
