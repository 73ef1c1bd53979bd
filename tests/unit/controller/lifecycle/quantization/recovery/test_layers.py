"""What each layer loses by itself, its bias corrected, its channels equalized."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from exact_int8 import exact_int8
from onnx import helper, numpy_helper

from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.layers import Graph
from controller.lifecycle.quantization.quantize import Scheme, prepare, quantize
from controller.lifecycle.quantization.recovery.bias import with_corrected_biases
from controller.lifecycle.quantization.recovery.equalize import equalized
from controller.lifecycle.quantization.recovery.streams import streams
from controller.lifecycle.quantization.recovery.twins import TWIN, layer_errors, with_twins
from controller.lifecycle.quantization.sqnr import MOST_DB, sqnr_db

LAYERS = ["first", "depthwise", "project", "widen", "last_conv", "linear"]


def answers(model: onnx.ModelProto, batch: np.ndarray, names: list[str] | None = None) -> list[np.ndarray]:
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    for name in names or []:
        asked.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(asked.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(names, {"x": batch})]


def plain(calibration: Calibration, **scheme: object) -> onnx.ModelProto:
    return quantize(calibration.model, calibration.ranges(), Scheme(**scheme))


@pytest.mark.parametrize(
    ("signal", "noise", "decibels"),
    [(100, 1, 20), (1, 1, 0), (5, 0, MOST_DB), (0, 1, 0), (1, 1e-30, MOST_DB), (1, float("nan"), 0)],
)
def test_signal_to_noise_in_decibels(signal: float, noise: float, decibels: float) -> None:
    assert sqnr_db(signal, noise) == pytest.approx(decibels)


def test_twins_have_the_originals_input_and_the_quantized_weights(uneven: Calibration) -> None:
    both, nodes = with_twins(uneven.model, plain(uneven))
    assert [node.name for node in nodes] == LAYERS
    batch = next(uneven.batches(4))
    outputs = [node.output[0] for node in nodes]
    originals = answers(uneven.model, batch, outputs)
    for name, expected, beside in zip(outputs, originals, answers(both, batch, outputs), strict=True):
        np.testing.assert_allclose(beside, expected, rtol=1e-5, atol=1e-5, err_msg=name)
    found = dict(zip(outputs, answers(both, batch, [f"{TWIN}{name}" for name in outputs]), strict=True))
    ranges = uneven.ranges().values
    weights = {i.name: numpy_helper.to_array(i) for i in uneven.model.graph.initializer}
    step = np.abs(weights["w3"]).max((1, 2, 3)) / 127
    rounded = np.round(weights["w3"] / step[:, None, None, None]) * step[:, None, None, None]
    low, high = ranges["r2"]
    scale = (high - low) / 255
    taken = np.clip(np.round(answers(uneven.model, batch, ["r2"])[0] / scale), 0, 255) * scale
    by_hand = np.einsum("ncyx,oc->noyx", taken, rounded[:, :, 0, 0]) + weights["b3"][:, None, None]
    np.testing.assert_allclose(found["c3"], by_hand, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(
    "scheme",
    [{}, {"per_channel": False}, {"activations": "int8", "symmetric": True, "explicit_pairs": True}],
    ids=["u8s8", "per tensor", "s8s8"],
)
def test_layer_errors_are_those_of_the_layer_alone(uneven: Calibration, scheme: dict[str, object]) -> None:
    errors = layer_errors(uneven, plain(uneven, **scheme), images=24)
    assert [error.node for error in errors] == LAYERS
    assert all(10 < error.sqnr < 60 for error in errors), [(e.node, e.sqnr) for e in errors]
    excluded = layer_errors(uneven, plain(uneven, **scheme, exclude=frozenset({"project"})), images=24)
    assert "project" not in {error.node for error in excluded}


def test_corrected_biases_leave_no_mean_error(uneven: Calibration) -> None:
    ranges = uneven.ranges()
    errors = layer_errors(uneven, quantize(uneven.model, ranges, Scheme()), images=24)
    corrected = with_corrected_biases(uneven.model, errors)
    after = layer_errors(uneven, quantize(corrected, ranges, Scheme()), images=24)
    for before, now in zip(errors, after, strict=True):
        shifted = np.abs(before.mean_shift).max()
        assert np.abs(now.mean_shift).max() < 0.1 * shifted + 1e-4, (before.node, shifted)
        assert now.sqnr > before.sqnr - 0.05
    graph = Graph.of(corrected)
    assert len(graph.producers["c2"].input) == 3, "a layer without a bias got one"


def test_bias_of_a_product_is_that_of_the_addition_behind_it() -> None:
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(6, 3)).astype(np.float32), np.zeros(3, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["f"], name="flatten"),
            helper.make_node("MatMul", ["f", "w"], ["m"], name="product"),
            helper.make_node("Add", ["b", "m"], ["y"], name="addition"),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 1, 2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    error = layer_error("product", np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
    batch = generator.normal(size=(2, 3, 1, 2)).astype(np.float32)
    before = answers(model, batch)[0]
    np.testing.assert_allclose(answers(with_corrected_biases(model, [error]), batch)[0], before - 2, rtol=1e-5)


def layer_error(node: str, shifts: np.ndarray) -> object:
    from controller.lifecycle.quantization.recovery.twins import LayerError

    error = LayerError(node)
    error.add(np.zeros_like(shifts), shifts, axis=1)
    return error


def test_streams_follow_additions_and_end_where_scale_matters(uneven: Calibration) -> None:
    found = {frozenset(stream.tensors): stream for stream in streams(uneven.model)}
    assert set(found) == {frozenset({"c1", "r1"}), frozenset({"c2", "r2"}), frozenset({"c3", "c4", "a"})}
    residual = found[frozenset({"c3", "c4", "a"})]
    assert {node.name for node in residual.makers} == {"project", "widen"}
    assert {node.name for node in residual.takers} == {"widen", "last_conv"}
    assert found[frozenset({"c2", "r2"})].limits == {"r2": 6.0}


@exact_int8
def test_equalized_network_computes_the_same_and_is_easier_to_quantize(uneven: Calibration) -> None:
    fresh = equalized(uneven, images=24)
    batch = np.concatenate(list(uneven.batches(8)))
    expected = answers(uneven.model, batch)[0]
    np.testing.assert_allclose(answers(fresh, batch)[0], expected, rtol=1e-4, atol=1e-4)
    calibration = uneven.of(fresh)

    def loss(model: onnx.ModelProto) -> float:
        return float(np.square(answers(model, batch)[0] - expected).sum())

    assert loss(plain(calibration)) < 0.5 * loss(plain(uneven))
    before = np.abs(answers(uneven.model, batch, ["r1"])[0]).max((0, 2, 3))
    alive = before > 0
    largest = np.abs(answers(fresh, batch, ["r1"])[0]).max((0, 2, 3))[alive]
    assert before[alive].max() / before[alive].min() > 5
    assert largest.max() / largest.min() < 1.01, "what a depthwise convolution takes bears any scale"


def test_ends_are_the_layers_before_and_behind_all_others(uneven: Calibration) -> None:
    first, last = Graph.of(uneven.model).ends()
    assert [node.name for node in first] == ["first"]
    assert [node.name for node in last] == ["linear"]


def test_layers_go_back_to_fp32_with_their_activations(uneven: Calibration) -> None:
    graph = Graph.of(uneven.model)
    layers = {node.name: node for node in graph.layers()}
    assert graph.with_activations([layers["first"], layers["project"]]) == {"first", "relu", "project"}
    assert prepare(uneven.model).graph.node
