"""Small real data and graphs for the lifecycle's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Waiting threads of torch spin; beside other tests on the same cores that costs more than they bring."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 96 real digits of three classes, 8x8 pixels, as PNG."""
    root = tmp_path_factory.mktemp("digits")
    bunch = load_digits()
    for label in (0, 1, 2):
        folder = root / f"digit-{label}"
        folder.mkdir()
        for number, image in enumerate(bunch.images[bunch.target == label][:32]):
            Image.fromarray((image * 255 / 16).astype(np.uint8)).save(folder / f"{number:02}.png")
    return root


GraphMaker = Callable[..., onnx.ModelProto]


@pytest.fixture(scope="session")
def conv_graph() -> GraphMaker:
    """Make a small float classifier: convolution, ReLU, mean over the picture, linear."""

    def make(
        *, layout: str = "NCHW", channels: int = 3, opset: int = 18, ir: int = 8, last: str | None = None, size: int = 8
    ) -> onnx.ModelProto:
        generator = np.random.default_rng(7)

        def constant(name: str, *shape: int) -> onnx.TensorProto:
            return numpy_helper.from_array(generator.normal(0, 0.5, shape).astype(np.float32), name)

        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
            helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
            helper.make_node("Gemm", ["f", "g", "b"], ["scores" if last is None else "s"], name="gemm"),
        ]
        if last is not None:
            nodes.append(helper.make_node(last, ["s"], ["scores"], name="last"))
        shape = ["N", channels, size, size]
        if layout == "NHWC":
            nodes.insert(0, helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2], name="to_nchw"))
            shape = ["N", size, size, channels]
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("pixels" if layout == "NHWC" else "x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])],
            [constant("w", 8, channels, 3, 3), constant("g", 8, 4), constant("b", 4)],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)

    return make
