"""What is in a graph: inputs, outputs, versions, operators, size, and what the file says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import onnx
from onnx import TensorProto

from controller.lifecycle.graph import load_graph, opset_of, real_inputs
from controller.lifecycle.look.complexity import Complexity, measure_complexity
from controller.lifecycle.look.target import Target
from runtime.manifest import Tensor
from runtime.terminal import table

__all__ = ["Inspection", "inspect"]

NUMPY_NAMES = {"float": "float32", "double": "float64"}
LONGEST = 100  # characters shown of a metadata value


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What is in one graph.

    Attributes:
        target: Which graph.
        inputs: What it must be given.
        outputs: What it gives.
        opsets: Version by domain; the standard operators' domain is ``ai.onnx``.
        ir: Version of the file format.
        producer: What wrote the file, with its version.
        operators: Nodes by operator, subgraphs included, the most frequent first.
        size: Of the file, bytes.
        complexity: Parameters and MACs.
        metadata: Of the file.
    """

    target: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opsets: dict[str, int]
    ir: int
    producer: str
    operators: dict[str, int]
    size: int
    complexity: Complexity
    metadata: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        tensors = {name: [one.model_dump() for one in getattr(self, name)] for name in ("inputs", "outputs")}
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in {*tensors, "complexity"}}
        return {**plain, **tensors, **asdict(self.complexity)}

    def as_text(self) -> str:
        """Return it for people."""
        facts = {
            "file": f"{self.size / 1e6:.2f} MB, {_versions(self.opsets)}, IR {self.ir}"
            f"{', by ' * bool(self.producer)}{self.producer}",
            "inputs": ", ".join(map(str, self.inputs)),
            "outputs": ", ".join(map(str, self.outputs)),
            "parameters": f"{self.complexity.parameters:,}",
            "MACs": self.complexity.unknown or f"{(self.complexity.macs or 0) / 1e6:,.1f} million for one picture",
            **{f"metadata {key}": _shortened(value) for key, value in self.metadata.items()},
        }
        width = max(map(len, facts))
        lines = [f"{what:{width}} {fact}" for what, fact in facts.items()]
        return "\n".join([self.target, *lines, "", table(("operator", "nodes"), self.operators.items())])


def inspect(target: Target) -> Inspection:
    """Return what is in the graph of *target*.

    Raises:
        ExportError: The file is no ONNX model.
    """
    model = load_graph(target.path)
    return Inspection(
        target=str(target),
        inputs=tuple(map(_tensor, real_inputs(model))),
        outputs=tuple(map(_tensor, model.graph.output)),
        opsets={one.domain or "ai.onnx": one.version for one in model.opset_import} or {"ai.onnx": opset_of(model)},
        ir=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        operators=dict(Counter(_operators(model.graph)).most_common()),
        size=target.path.stat().st_size,
        complexity=measure_complexity(model),
        metadata={one.key: one.value for one in model.metadata_props},
    )


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type).lower() if tensor.elem_type else value.type.WhichOneof("value")
    sizes = [one.dim_value or one.dim_param or "?" for one in tensor.shape.dim]
    return Tensor(name=value.name, dtype=NUMPY_NAMES.get(kind, kind), shape=tuple(sizes))


def _operators(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield f"{node.domain}.{node.op_type}" if node.domain not in {"", "ai.onnx"} else node.op_type
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _operators(inner)


def _versions(opsets: dict[str, int]) -> str:
    return ", ".join(f"opset {version}" + f" of {domain}" * (domain != "ai.onnx") for domain, version in opsets.items())


def _shortened(value: str) -> str:
    line = " ".join(value.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}... ({len(value)} characters)"
