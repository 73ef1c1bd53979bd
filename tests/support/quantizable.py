"""A small network that is hard to quantize, and pictures for it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from runtime.datasets import ArrayDataset
from runtime.manifest import Preprocess, Tensor
from runtime.preprocess import Preprocessor

__all__ = ["pictures", "preprocessor", "uneven_network"]

SIDE, CHANNELS, CLASSES = 8, 8, 4


def uneven_network(*, batch: int | str = "N") -> onnx.ModelProto:
    """A classifier whose channels differ by a factor of hundreds.

    Convolution, ReLU, depthwise convolution, Clip at 6, convolution, addition to what came before, linear.
    """
    generator = np.random.default_rng(11)

    def normal(name: str, *shape: int, spread: np.ndarray | float = 1.0) -> onnx.TensorProto:
        values = generator.normal(0, 1, shape) * spread / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(values.astype(np.float32), name)

    uneven = np.geomspace(0.02, 4, CHANNELS).reshape(-1, 1, 1, 1)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1], group=CHANNELS, name="depthwise"),
        helper.make_node("Clip", ["c2", "zero", "six"], ["r2"], name="clip"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], name="project"),
        helper.make_node("Conv", ["c3", "w4"], ["c4"], name="widen"),
        helper.make_node("Add", ["c3", "c4"], ["a"], name="add"),
        helper.make_node("Conv", ["a", "w5", "b5"], ["c5"], name="last_conv"),
        helper.make_node("GlobalAveragePool", ["c5"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "g", "h"], ["scores"], name="linear"),
    ]
    graph = helper.make_graph(
        nodes,
        "uneven",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])],
        [
            normal("w1", CHANNELS, 3, 3, 3, spread=uneven),
            normal("b1", CHANNELS),
            normal("w2", CHANNELS, 1, 3, 3),
            normal("w3", CHANNELS, CHANNELS, 1, 1),
            normal("b3", CHANNELS),
            normal("w4", CHANNELS, CHANNELS, 1, 1),
            normal("w5", CHANNELS, CHANNELS, 1, 1),
            normal("b5", CHANNELS),
            normal("g", CHANNELS, CLASSES),
            normal("h", CLASSES),
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.float32(6), "six"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def pictures(count: int = 24) -> ArrayDataset:
    """Pictures of noise, each with a brightness of its own."""
    generator = np.random.default_rng(5)
    bright = generator.integers(60, 256, (count, 1, 1, 1))
    images = (generator.random((count, SIDE, SIDE, 3)) * bright).astype(np.uint8)
    return ArrayDataset(uri="n", images=images, labels=None, label_names=None, source_file="n", fingerprint=str(count))


def preprocessor(*, batch: int | str = "N") -> Preprocessor:
    """Brings one to the network's input."""
    tensor = Tensor(name="x", dtype="float32", shape=(batch, 3, SIDE, SIDE))
    return Preprocessor(Preprocess(scale=1 / 64, mean=(1.0,), std=(1.0,)), tensor)
