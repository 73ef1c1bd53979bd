"""A graph that torch's exporter made, and of which one weight was damaged on the way: the error names the node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from controller.errors import ParityError
from controller.lifecycle.gate.checks import check_behaviour, check_graph
from controller.lifecycle.importers.source import SourceFacts
from controller.lifecycle.importers.torch_module import ModuleSource

pytestmark = pytest.mark.integration

SIZE = 16


class Net(nn.Module):
    """A convolution, a second one beside a shortcut, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        first = torch.relu(self.stem(pixels))
        return self.head((first + torch.relu(self.inner(first))).mean((2, 3)))


def test_values_of_torch_have_the_names_of_the_graph(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    facts = SourceFacts(framework="torch", source_sha256="0" * 64, routes=("dynamo",))
    source = ModuleSource(Net(), torch.zeros(2, 3, SIZE, SIZE), facts)
    graph, path = source.convert("dynamo"), tmp_path / "model.onnx"
    batches = [np.random.default_rng(n).normal(size=(n, 3, SIZE, SIZE)).astype(np.float32) for n in (1, 3)]
    onnx.save(graph, path)
    assert check_behaviour(check_graph(path), batches, source.run, path=path, values=source.values).parity < 1e-5

    node = [node for node in graph.graph.node if node.op_type == "Conv"][1]
    (weight,) = [one for one in graph.graph.initializer if one.name == node.input[1]]
    array = numpy_helper.to_array(weight).copy()
    array[3, 2, 1, 1] += 1
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(graph, path)
    session = check_graph(path)
    with pytest.raises(ParityError) as caught:
        check_behaviour(session, batches, source.run, path=path, values=source.values)
    assert f"; the first node that differs is Conv {node.name!r}: it takes {', '.join(node.input)}, which" in str(
        caught.value
    )
