"""Pixels of 8 bits straight into the first quantized convolution, and that convolution over cells of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from exact_int8 import exact_int8
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from controller.lifecycle.pixel_input import embed_normalization
from controller.lifecycle.quantization.calibration.ranges import Ranges
from controller.lifecycle.quantization.cells import Window, in_cells
from controller.lifecycle.quantization.pixels import MOST_OFF, with_pixels
from controller.lifecycle.quantization.quantize import Scheme, prepare, quantize
from runtime.manifest import Preprocess

SIDE, OUTPUTS = 24, 6
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": 1 / 255}
PIXELS = np.random.default_rng(3).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)


def preprocess(**settings: Any) -> Preprocess:
    return Preprocess(**{"size": SIDE, **IMAGENET, **settings})


def network(
    settings: Preprocess,
    *,
    kernel: int = 3,
    stride: int = 2,
    pad: int = 1,
    act: str | None = "Relu",
    last: bool = False,
) -> onnx.ModelProto:
    """Return a prepared graph: the normalization of *settings*, a convolution, perhaps an activation, a mean.

    With *last*, the graph takes its channels last and brings them to the front itself, as those of Keras do.
    """
    generator = np.random.default_rng(11)
    channels = 1 if settings.color == "L" else 3
    constants = {
        "w": generator.normal(0, 0.2, (OUTPUTS, channels, kernel, kernel)),
        "b": generator.normal(0, 0.2, OUTPUTS),
        "low": np.array(0),
        "high": np.array(3),
    }
    nodes = [helper.make_node("Transpose", ["x"], ["x_first"], perm=[0, 3, 1, 2])] if last else []
    taken = "x_first" if last else "x"
    pads = {"pads": [pad] * 4, "strides": [stride] * 2, "kernel_shape": [kernel] * 2}
    nodes.append(helper.make_node("Conv", [taken, "w", "b"], ["c"], name="conv", **pads))
    if act:
        nodes.append(helper.make_node(act, ["c", "low", "high"] if act == "Clip" else ["c"], ["a"], name="act"))
    nodes.append(helper.make_node("GlobalAveragePool", ["a" if act else "c"], ["y"], name="mean"))
    shape = ["N", SIDE, SIDE, channels] if last else ["N", channels, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", OUTPUTS, 1, 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return prepare(embed_normalization(model, settings))


def run(model: onnx.ModelProto, pixels: np.ndarray, *tensors: str) -> list[np.ndarray]:
    """Return the inner *tensors* of *model*, or its outputs."""
    onnx.checker.check_model(model, full_check=True)
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    asked.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(asked.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(list(tensors) or None, {session.get_inputs()[0].name: pixels})]


def quantized(model: onnx.ModelProto, pixels: np.ndarray = PIXELS, **scheme: Any) -> onnx.ModelProto:
    """Return *model* quantized with the ranges that *pixels* have in it."""
    names = [name for node in model.graph.node for name in node.output if not name.startswith("vedette_")]
    names += [value.name for value in model.graph.output if value.name not in names]
    found = dict(zip(names, run(model, pixels, *[n for n in names if n != "y"], "y"), strict=False))
    values = {name: (float(one.min()), float(one.max())) for name, one in found.items() if one.dtype == np.float32}
    return quantize(model, Ranges(method="minmax", images=len(pixels), values=values), Scheme(**scheme))


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, {}),
        ({}, {"last": True}),
        ({}, {"pad": 0}),
        ({"color": "BGR", "mean": (104.0, 117.0, 123.0), "std": (1.0,), "scale": 1.0}, {}),
        ({"color": "L", "mean": (0.1307,), "std": (0.3081,)}, {}),
        ({"mean": (0.0,), "std": (1.0,)}, {}),
        ({"mean": (0.0,), "std": (1.0,), "scale": 1.0}, {}),
    ],
    ids=["ImageNet", "channels last", "unpadded", "caffe", "gray", "from 0 to 1", "raw"],
)
def test_a_convolution_that_takes_pixels_is_the_one_behind_the_normalization(
    settings: dict[str, Any], shape: dict[str, Any]
) -> None:
    model = network(preprocess(**settings), act=None, **shape)
    found = with_pixels(model)
    assert found is not None
    pixels = PIXELS[..., :1] if settings.get("color") == "L" else PIXELS
    (expected,), (ours, taken) = run(model, pixels, "c"), run(found.model, pixels, "c", found.taken)
    border = slice(1 if shape.get("pad", 1) else 0, None)
    np.testing.assert_allclose(ours[:, :, border, border], expected[:, :, border, border], atol=2e-4)
    assert taken.min() >= found.range[0]
    assert taken.max() <= found.range[1]
    assert found.range[1] - found.range[0] == 255
    if found.zero_point == 0:  # then zeros at the border are the same zeros
        np.testing.assert_allclose(ours, expected, atol=2e-4)


@exact_int8
def test_quantized_the_pixels_are_taken_as_they_are() -> None:
    model = network(preprocess())
    straight = quantized(model)
    assert not {"Cast", "BatchNormalization", "Sub", "Mul"} & set(operators(straight))
    first = next(node for node in straight.graph.node if node.op_type == "Conv")
    producers = {name: node for node in straight.graph.node for name in node.output}
    taken = producers[first.input[0]]
    assert taken.op_type == "DequantizeLinear"
    assert producers[taken.input[0]].op_type == "Transpose"
    rounded = quantized(model, exclude=frozenset({"conv", "act"}))  # in fp32, behind its normalization
    assert "BatchNormalization" in operators(rounded)
    (fp32,), (ours,) = run(model, PIXELS, "y"), run(straight, PIXELS, "y")
    np.testing.assert_allclose(ours, fp32, atol=0.02 * float(np.abs(fp32).max()))


@pytest.mark.parametrize(
    "scheme", [{"activations": "int8", "symmetric": True}, {"activations": "uint16", "qnn": True}], ids=["s8", "qnn"]
)
def test_other_types_keep_the_normalization(scheme: dict[str, Any]) -> None:
    assert "BatchNormalization" in operators(quantized(network(preprocess()), **scheme))


def test_means_too_far_apart_for_one_zero_point_keep_the_normalization() -> None:
    apart = (2 * MOST_OFF + 2) / 255
    far = preprocess(mean=(0.2, 0.2 + apart, 0.2))
    assert with_pixels(network(far)) is None
    assert with_pixels(network(far, pad=0)) is not None  # nothing is padded: exact


@exact_int8
def test_the_order_of_the_channels_goes_into_the_weights() -> None:
    settings = preprocess(color="BGR", mean=(104.0, 117.0, 123.0), std=(1.0,), scale=1.0)
    straight = quantized(network(settings))
    assert "Gather" not in operators(straight)
    assert in_cells(straight) is not straight
    (fp32,), (ours,) = run(network(settings), PIXELS, "y"), run(straight, PIXELS, "y")
    np.testing.assert_allclose(ours, fp32, atol=0.02 * float(np.abs(fp32).max()))


def test_what_takes_no_pixels_is_left_alone() -> None:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")],
    )
    assert with_pixels(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])) is None


@pytest.mark.parametrize("act", ["Relu", "Clip", None])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [(3, 2, 1), (7, 2, 3), (5, 2, 2), (4, 4, 0), (4, 2, 1), (6, 6, 0)]
)
@exact_int8
def test_over_cells_every_number_is_the_same(act: str | None, kernel: int, stride: int, pad: int) -> None:
    model = quantized(network(preprocess(), kernel=kernel, stride=stride, pad=pad, act=act))
    cells = in_cells(model)
    assert cells is not model
    assert any(node.name.startswith("vedette_cells") for node in cells.graph.node if node.op_type == "Conv")
    rounding = next(node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear")
    for expected, ours in zip(run(model, PIXELS, rounding, "y"), run(cells, PIXELS, rounding, "y"), strict=True):
        np.testing.assert_array_equal(ours, expected)


@exact_int8
def test_over_cells_with_weights_of_one_scale() -> None:
    model = quantized(network(preprocess()), per_channel=False)
    cells = in_cells(model)
    assert cells is not model
    np.testing.assert_array_equal(run(cells, PIXELS)[0], run(model, PIXELS)[0])


@pytest.mark.parametrize("per_channel", [True, False])
def test_over_cells_with_weights_whose_zero_is_another_number(per_channel: bool) -> None:
    model = quantized(network(preprocess()), weights="uint8", per_channel=per_channel)
    cells = in_cells(model)
    assert cells is not model
    rounding = next(node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear")
    for expected, ours in zip(run(model, PIXELS, rounding, "y"), run(cells, PIXELS, rounding, "y"), strict=True):
        np.testing.assert_array_equal(ours, expected)
    np.testing.assert_allclose(run(cells, PIXELS, "y")[0], run(network(preprocess()), PIXELS, "y")[0], atol=0.2)


@pytest.mark.parametrize(
    "shape", [{"stride": 1}, {"kernel": 5, "pad": 1}, {"stride": 3}], ids=["dense", "uneven rows", "odd stride"]
)
def test_where_cells_do_not_pay_the_graph_stays(shape: dict[str, Any]) -> None:
    model = quantized(network(preprocess(), **shape))
    assert in_cells(model) is model


def test_a_graph_in_fp32_stays() -> None:
    model = network(preprocess())
    assert in_cells(model) is model


@given(
    kernel=st.integers(1, 9),
    stride=st.sampled_from([1, 2, 4, 8]),
    left=st.integers(0, 4),
    channels=st.sampled_from([1, 2, 3, 5]),
    cells=st.integers(1, 4),
)
def test_the_sums_over_cells_are_those_over_pixels(
    kernel: int, stride: int, left: int, channels: int, cells: int
) -> None:
    generator = np.random.default_rng(kernel + 10 * stride + 100 * left)
    width = 8 * cells
    places = width // stride
    window = Window(width=width, kernel=kernel, stride=stride, left=left, places=places, channels=channels)
    weights = generator.integers(-9, 10, (2, channels, 1, kernel))
    row = generator.integers(0, 9, (width, channels))
    right = stride * (places - 1) + kernel - left - width
    padded = np.pad(row, ((left, max(0, right)), (0, 0)))
    expected = [[(padded[stride * p :][:kernel].T * weights[o, :, 0]).sum() for o in range(2)] for p in range(places)]
    if left >= kernel or min(window.pads) < 0 or width % window.cell:
        return
    before, behind = window.pads
    wide = np.pad(row.reshape(-1, window.cell * channels), ((before, behind), (0, 0)))
    over = window.weights(weights, np.zeros(()))[:, :, 0]  # outputs of all places, channels of a cell, cells
    found = [[(wide[c:][: window.cells].T * one).sum() for one in over] for c in range(width // window.cell)]
    np.testing.assert_array_equal(np.reshape(found, (places, 2)), expected)
