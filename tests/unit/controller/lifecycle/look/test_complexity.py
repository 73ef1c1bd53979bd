from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from controller.lifecycle.export import export_by_dynamo
from controller.lifecycle.look.complexity import measure_complexity


class Mixed(nn.Module):
    """Convolutions of all kinds and a matrix product, on pictures of 8x8."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.transposed = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4 * 64, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, 5)."""
        features = self.transposed(self.grouped(self.plain(images)).relu())
        return self.head(features.flatten(1))


def counted_by_hooks(model: nn.Module) -> int:
    """Return the MACs that torch's own layers do for one picture, by their definition: one a weight and position."""
    total = 0

    def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        positions = {nn.Conv2d: output[0, 0].numel, nn.ConvTranspose2d: inputs[0][0, 0].numel, nn.Linear: lambda: 1}
        total += layer.weight.numel() * positions[type(layer)]()

    for layer in model.modules():
        if hasattr(layer, "weight"):
            layer.register_forward_hook(hook)
    model(torch.zeros(1, 3, 8, 8))
    return total


def test_macs_and_parameters_are_those_of_the_layers() -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    graph, _ = export_by_dynamo(model, torch.zeros(2, 3, 8, 8), ["scores"])
    found = measure_complexity(graph)
    assert found.macs == counted_by_hooks(model)
    assert found.parameters == sum(one.numel() for one in model.parameters())
    assert found.unknown is None


def test_quantizing_adds_no_parameters() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["weights"]),
            helper.make_node("MatMul", ["x", "weights"], ["y"]),
        ],
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [
            helper.make_tensor("w", TensorProto.INT8, [4, 2], [1] * 8),
            helper.make_tensor("scale", TensorProto.FLOAT, [2], [0.5, 0.25]),
            helper.make_tensor("zero", TensorProto.INT8, [2], [0, 0]),
        ],
    )
    found = measure_complexity(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    assert (found.parameters, found.macs) == (8, 8)


def test_a_size_that_is_not_known_gives_no_number_and_names_the_node() -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "tokens", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "tokens", 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 2], [1.0] * 8)],
    )
    found = measure_complexity(helper.make_model(graph))
    assert found.macs is None
    assert found.parameters == 8
    assert "MatMul node 'product'" in (found.unknown or "")


def test_mobilenet_v2_is_as_large_as_its_paper_says(test_data: Callable[[str], Path]) -> None:
    found = measure_complexity(onnx.load(test_data("models/mobilenet_v2.onnx")))
    assert found.parameters == 3_487_816  # 3,504,872 in torchvision, before batch normalization was folded
    assert found.macs is not None
    assert found.macs / 1e6 == pytest.approx(300.8, abs=0.1)  # Sandler et al., 2018, table 4: 300 million
