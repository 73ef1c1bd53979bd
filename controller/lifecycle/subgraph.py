"""A part of a graph: the nodes that some of its inner tensors are made of."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

__all__ = ["ending_with", "reads"]


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the names of all values that *node* takes, those that only the graphs inside it use included."""
    taken = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                taken |= reads(inner)
    return taken


def ending_with(model: onnx.ModelProto, outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """Return the part of *model* that makes *outputs*, with these as its outputs; it takes what *model* takes.

    Args:
        model: A graph, sorted.
        outputs: Inner tensors of it.
    """
    needed = {value.name for value in outputs}
    kept: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= reads(node)
    graph = onnx.GraphProto(
        name=model.graph.name,
        input=model.graph.input,
        output=outputs,
        node=reversed(kept),
        initializer=[initializer for initializer in model.graph.initializer if initializer.name in needed],
    )
    return onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, graph=graph, functions=model.functions
    )
