"""Channels that can be rescaled: tensors that share one scale a channel, between the convolutions around them.

Rules:
    * A stream is what convolutions give, what convolutions take, and what lies between as long as it scales channel by
      channel as its input does: ReLU, LeakyRelu, pooling, and additions, which tie a whole residual stream together.
    * A Clip from 0 to a limit scales so as long as no channel reaches beyond the limit that did not before.
    * Whatever else takes or gives a tensor, the graph's ends too, makes its stream no stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from controller.lifecycle.pixel_input import EMBEDDED_PREFIX
from controller.lifecycle.quantization.layers import Graph, attribute_of
from controller.lifecycle.subgraph import reads

__all__ = ["Stream", "streams"]

PASSING = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Tensors of the same channels.

    Attributes:
        tensors: Names.
        makers: Convolutions that give some of them.
        takers: Convolutions that take some of them.
        limits: By name of what a Clip gives: its limit.
        channels: How many there are.
    """

    tensors: tuple[str, ...]
    makers: tuple[onnx.NodeProto, ...]
    takers: tuple[onnx.NodeProto, ...]
    limits: Mapping[str, float]
    channels: int


class _Sets:
    """Disjoint sets of tensors."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def find(self, name: str) -> str:
        self._parents.setdefault(name, name)
        while self._parents[name] != name:
            name = self._parents[name]
        return name

    def join(self, *names: str) -> None:
        first, *rest = map(self.find, names)
        for other in rest:
            self._parents[other] = first

    def all(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self._parents:
            found.setdefault(self.find(name), []).append(name)
        return found


def streams(model: onnx.ModelProto) -> list[Stream]:
    """Return the streams of *model*, prepared, in the graph's order."""
    graph = Graph.of(model)
    sets, limits = _Sets(), {}
    spoiled = {value.name for value in (*model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        through = _passed(graph, node)
        if through:
            sets.join(*through)
            limit = _limit(graph, node) if node.op_type == "Clip" else None
            if limit is not None:
                limits[node.output[0]] = limit
        elif _is_scalable(graph, node):
            sets.find(node.input[0])
            sets.find(node.output[0])
        else:
            spoiled |= {*reads(node), *node.output}
    return list(_whole(graph, sets, spoiled, limits))


def _whole(graph: Graph, sets: _Sets, spoiled: set[str], limits: Mapping[str, float]) -> Iterator[Stream]:
    for tensors in sets.all().values():
        if spoiled.intersection(tensors):
            continue
        makers = [graph.producers[name] for name in tensors if graph.producers[name].op_type == "Conv"]
        takers = [node for name in tensors for node in graph.consumers.get(name, ()) if node.op_type == "Conv"]
        counts = {graph.constants[node.input[1]].dims[0] for node in makers}
        counts |= {graph.constants[node.input[1]].dims[1] * attribute_of(node, "group", 1) for node in takers}
        weights = [name for node in (*makers, *takers) for name in node.input[1:]]
        if len(counts) == 1 and makers and takers and all(len(graph.consumers[name]) == 1 for name in weights if name):
            yield Stream(
                tensors=tuple(tensors),
                makers=tuple(makers),
                takers=tuple(takers),
                limits={name: limits[name] for name in tensors if name in limits},
                channels=counts.pop(),
            )


def _is_scalable(graph: Graph, node: onnx.NodeProto) -> bool:
    constants = node.op_type == "Conv" and all(name in graph.constants for name in node.input[1:] if name)
    return constants and not node.name.startswith(EMBEDDED_PREFIX)


def _passed(graph: Graph, node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the tensors that *node* ties together; empty if it is none that does."""
    if node.op_type in PASSING and len(node.output) == 1:
        return node.input[0], node.output[0]
    if node.op_type == "Clip" and _limit(graph, node) is not None:
        return node.input[0], node.output[0]
    if node.op_type == "Add" and not set(node.input).intersection(graph.constants):
        return *node.input, node.output[0]
    return ()


def _limit(graph: Graph, node: onnx.NodeProto) -> float | None:
    """Return up to what a Clip from 0 goes; ``None`` if it is not from 0."""
    low, high = (*node.input[1:], "", "")[:2]
    if low not in graph.constants or np.any(numpy_helper.to_array(graph.constants[low]) != 0):
        return None
    if not high:
        return float("inf")
    return float(numpy_helper.to_array(graph.constants[high])) if high in graph.constants else None
