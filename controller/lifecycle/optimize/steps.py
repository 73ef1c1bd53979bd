"""The steps that make a graph smaller wherever it will run: a table.

Rules:
    * A step returns a new model; the one that it is given stays as it is.
    * What a file says of itself stays: versions, metadata, producer, names and shapes of inputs and outputs, and
      with them the dynamic batch. Operators of others' domains are neither made nor removed.
    * Whether what a step gives is kept is for `controller.lifecycle.optimize.portable` to decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import onnx

from controller.errors import ExportError
from controller.lifecycle.graph import AI_ONNX
from controller.lifecycle.optimize.normalization import fold_normalization
from controller.lifecycle.quiet import quiet

__all__ = ["FOLDING", "STEPS", "Step", "count_nodes", "foreign_operators", "with_facts_of"]

Step = Callable[[onnx.ModelProto], onnx.ModelProto]
STANDARD = (*AI_ONNX, "ai.onnx.ml")
INITIALIZERS_ARE_NO_INPUTS = 4  # IR version from which a graph need not list its weights among its inputs


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _onnxscript(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants and shapes, inline functions, drop what nothing uses."""
    import onnxscript.optimizer

    with quiet():
        optimized: onnx.ModelProto = onnxscript.optimizer.optimize(_copy(model))
    return optimized


def _onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fuse batch normalizations and paddings into convolutions, and merge subgraphs that are alike."""
    import onnxslim

    with quiet():
        slimmed: onnx.ModelProto = onnxslim.slim(_copy(model))
    return slimmed


STEPS: Mapping[str, Step] = {
    "onnxscript": _onnxscript,
    "onnxslim": _onnxslim,
}
"""What every import takes, in this order."""

FOLDING: Mapping[str, Step] = {"normalization": fold_normalization}
"""What is taken besides where it is asked for: whether it is faster depends on the graph (benchmarks/optimize.py)."""


def with_facts_of(source: onnx.ModelProto, optimized: onnx.ModelProto) -> onnx.ModelProto:
    """Return *optimized* with everything that *source* says of itself, and no notes on shapes but the source's.

    Raises:
        ExportError: It is of another opset.
    """
    versions = {one.domain if one.domain not in AI_ONNX else "": one.version for one in source.opset_import}
    changed = [
        o
        for o in optimized.opset_import
        if versions.get(o.domain if o.domain not in AI_ONNX else "", o.version) != o.version
    ]
    if changed:
        raise ExportError(
            f"it changed the opset to {', '.join(f'{one.domain} {one.version}'.strip() for one in changed)}"
        )
    result = _copy(source)
    result.graph.CopyFrom(optimized.graph)
    result.ClearField("functions")
    result.functions.extend(optimized.functions)
    result.ClearField("opset_import")
    result.opset_import.extend(optimized.opset_import)
    graph = result.graph
    for name in ("name", "doc_string"):
        graph.ClearField(name)
        if source.graph.HasField(name):
            setattr(graph, name, getattr(source.graph, name))
    _restore(graph, source)
    return result


def _restore(graph: onnx.GraphProto, source: onnx.ModelProto) -> None:
    """Give *graph* the inputs, outputs and notes on shapes of *source*."""
    weights = {one.name: one for one in graph.initializer}
    filled = {one.name for one in source.graph.initializer}
    inputs = [one for one in source.graph.input if one.name not in filled or one.name in weights]
    if source.ir_version < INITIALIZERS_ARE_NO_INPUTS:
        listed = {one.name for one in inputs}
        inputs += [
            onnx.helper.make_tensor_value_info(one.name, one.data_type, one.dims)
            for one in graph.initializer
            if one.name not in listed
        ]
    made = {name for node in graph.node for name in node.output}
    notes = [one for one in source.graph.value_info if one.name in made]
    for field, values in (("input", inputs), ("output", source.graph.output), ("value_info", notes)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def count_nodes(model: onnx.ModelProto) -> int:
    """Return the number of nodes, those of inner graphs and of functions included."""
    return sum(1 for _ in _nodes(model.graph)) + sum(len(function.node) for function in model.functions)


def foreign_operators(model: onnx.ModelProto) -> Counter[tuple[str, str]]:
    """Return how often *model* uses each (domain, operator) that neither ONNX nor the model itself defines."""
    own = {(function.domain, function.name) for function in model.functions}
    used = [node for function in model.functions for node in function.node]
    everywhere = ((node.domain, node.op_type) for node in (*_nodes(model.graph), *used))
    return Counter(one for one in everywhere if one[0] not in STANDARD and one not in own)
