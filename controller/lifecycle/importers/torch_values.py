"""What is inside an exported program for a batch: the value of every node, by the name that it has in the graph.

The dynamo exporter names a value of the ONNX graph after the node of the program that it came from, so that the
two can be compared node by node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node

from controller.lifecycle.importers.source import Array

__all__ = ["values_inside"]


class _Recorder(Interpreter):
    """Runs a program and keeps what its nodes give, where that is a tensor."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, Array] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, torch.Tensor):
            self.found[n.name] = value.detach().numpy().copy()  # a later node may write into the same memory
        return value


def values_inside(program: ExportedProgram, batch: torch.Tensor, outputs: Sequence[str]) -> dict[str, Array]:
    """Return the value of every node of *program* for *batch*, and of its outputs by their names in the graph.

    Args:
        program: Takes one input.
        batch: For it.
        outputs: Names of the graph's outputs, in order.
    """
    recorder = _Recorder(program.graph_module)
    with torch.no_grad():
        given = recorder.run(*_arguments(program, batch))
    named = dict(zip(outputs, given, strict=True))
    return recorder.found | {name: value.detach().numpy() for name, value in named.items()}


def _arguments(program: ExportedProgram, batch: torch.Tensor) -> list[Any]:
    """Return what the flat graph takes: weights, buffers and constants, then *batch*."""
    lifted = {**program.constants, **program.state_dict}
    return [
        batch if spec.kind is InputKind.USER_INPUT else lifted[str(spec.target)]
        for spec in program.graph_signature.input_specs
    ]
