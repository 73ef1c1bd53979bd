"""The nodes of a graph: what they read, in which order they stand, and those that some inner tensors are made of."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

import onnx

__all__ = ["ending_with", "in_order", "reads"]


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the names of all values that *node* takes, those that only the graphs inside it use included."""
    taken = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                taken |= reads(inner)
    return taken


def in_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return *model* with every node behind those that it reads from, as ONNX demands; itself where it is so.

    ONNX Runtime loads nodes in any order, and its converter to fp16 writes them so.
    """
    nodes = list(model.graph.node)
    maker = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    before = {place: {maker[name] for name in reads(node) & maker.keys()} for place, node in enumerate(nodes)}
    if all(place > max(earlier, default=-1) for place, earlier in before.items()):
        return model
    try:
        order = list(TopologicalSorter(before).static_order())
    except CycleError:
        return model  # the checker says so
    ordered = onnx.ModelProto()
    ordered.CopyFrom(model)
    ordered.graph.ClearField("node")
    ordered.graph.node.extend(nodes[place] for place in order)
    return ordered


def ending_with(
    model: onnx.ModelProto, outputs: Sequence[onnx.ValueInfoProto], taking: Sequence[onnx.ValueInfoProto] = ()
) -> onnx.ModelProto:
    """Return the part of *model* that makes *outputs*, with these as its outputs; it takes what *model* takes.

    Args:
        model: A graph, sorted.
        outputs: Inner tensors of it.
        taking: Inner tensors of it that the part takes, too, and does not make.
    """
    taken = {value.name for value in taking}
    needed = {value.name for value in outputs}
    kept: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if (needed - taken).intersection(node.output):
            kept.append(_without(node, taken))
            needed |= reads(node)
    graph = onnx.GraphProto(
        name=model.graph.name,
        input=[*model.graph.input, *taking],
        output=outputs,
        node=reversed(kept),
        initializer=[initializer for initializer in model.graph.initializer if initializer.name in needed],
    )
    return onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, graph=graph, functions=model.functions
    )


def _without(node: onnx.NodeProto, taken: set[str]) -> onnx.NodeProto:
    """Return *node*, giving other names to those of its outputs that are *taken*."""
    if not taken.intersection(node.output):
        return node
    other = onnx.NodeProto()
    other.CopyFrom(node)
    other.output[:] = [f"{name}__made" if name in taken else name for name in node.output]
    return other
