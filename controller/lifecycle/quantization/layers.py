"""What of a graph is quantized layer by layer: the nodes with weights, and how each is found in both graphs.

Rules:
    * A layer is a convolution or a matrix product with constant weights; it keeps its name when it is quantized.
    * A layer goes back to fp32 together with the activation that would have vanished into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from controller.lifecycle.pixel_input import EMBEDDED_PREFIX
from controller.lifecycle.quantization.calibration.tensors import CUTTING
from controller.lifecycle.subgraph import reads

__all__ = ["LAYERS", "Graph", "attribute_of", "channel_axis"]

LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def attribute_of(node: onnx.NodeProto, name: str, default: int) -> int:
    """Return the integer attribute *name* of *node*."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def channel_axis(node: onnx.NodeProto, rank: int) -> int:
    """Return which axis of the output of layer *node*, of *rank* dimensions, counts its channels."""
    return 1 if node.op_type.startswith("Conv") else rank - 1


@dataclass(frozen=True, slots=True)
class Graph:
    """The nodes of a prepared graph, and who takes what."""

    model: onnx.ModelProto
    producers: Mapping[str, onnx.NodeProto]
    consumers: Mapping[str, tuple[onnx.NodeProto, ...]]
    constants: Mapping[str, onnx.TensorProto]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Graph:
        """Return *model* with its nodes looked up."""
        consumers: dict[str, tuple[onnx.NodeProto, ...]] = {}
        for node in model.graph.node:
            for name in reads(node):
                consumers[name] = (*consumers.get(name, ()), node)
        return cls(
            model=model,
            producers={name: node for node in model.graph.node for name in node.output},
            consumers=consumers,
            constants={initializer.name: initializer for initializer in model.graph.initializer},
        )

    def layers(self) -> list[onnx.NodeProto]:
        """Return the nodes that have constant weights, in the graph's order."""
        return [
            node
            for node in self.model.graph.node
            if node.op_type in LAYERS and node.input[1] in self.constants and not node.name.startswith(EMBEDDED_PREFIX)
        ]

    def only_consumer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that alone takes the tensor *name*; ``None`` if there are several, or it is an output."""
        if any(value.name == name for value in self.model.graph.output):
            return None
        found = self.consumers.get(name, ())
        return found[0] if len(found) == 1 else None

    def with_activations(self, layers: Iterable[onnx.NodeProto]) -> frozenset[str]:
        """Return the names of *layers* and of the activations that follow them alone."""
        names = set()
        for layer in layers:
            names.add(layer.name)
            after = self.only_consumer(layer.output[0])
            if after is not None and after.op_type in CUTTING:
                names.add(after.name)
        return frozenset(names)

    def ends(self) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
        """Return the layers that no other comes before, and those that no other comes after."""
        layers = self.layers()
        names = {layer.name for layer in layers}
        later: set[str] = set()  # tensors that a layer leads to
        first = []
        for node in self.model.graph.node:
            if reads(node) & later:
                later |= set(node.output)
            elif node.name in names:
                first.append(node)
            if node.name in names:
                later |= set(node.output)
        earlier: set[str] = set()  # tensors that lead to a layer
        last = []
        for node in reversed(self.model.graph.node):
            if not earlier.intersection(node.output):
                if node.name not in names:
                    continue
                last.append(node)
            earlier |= reads(node)
        return first, last[::-1]
