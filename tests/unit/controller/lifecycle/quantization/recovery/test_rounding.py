"""Weights rounded one after the other: on the grid, and nearer to what they were in what they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.quantize import Scheme
from controller.lifecycle.quantization.recovery.moments import Window, layer_moments, windows_of
from controller.lifecycle.quantization.recovery.rounding import HIGHEST, round_in_turn, with_rounded_weights


def moments_of(inputs: np.ndarray) -> np.ndarray:
    """Return (groups, k, k) of *inputs* (groups, rows, k)."""
    return np.asarray(inputs.transpose(0, 2, 1) @ inputs / inputs.shape[1])


def plainly(weights: np.ndarray) -> np.ndarray:
    scale = np.abs(weights).max(-1, keepdims=True) / HIGHEST
    return np.asarray(np.rint(weights / scale) * scale)


def error(weights: np.ndarray, rounded: np.ndarray, moments: np.ndarray) -> float:
    """Return the mean square by which outputs differ."""
    off = rounded - weights
    return float(np.einsum("gok,gkl,gol->", off, moments, off))


@given(
    groups=st.integers(1, 3),
    outputs=st.integers(1, 5),
    count=st.integers(1, 90),
    rank=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_weights_stay_on_their_grids_and_no_further_off_than_inputs_show(
    groups: int, outputs: int, count: int, rank: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=(groups, outputs, count))
    inputs = generator.normal(size=(groups, 64, rank)) @ generator.normal(size=(groups, rank, count))  # they depend
    moments = moments_of(inputs)
    rounded = round_in_turn(weights, moments)
    scale = np.abs(weights).max(-1, keepdims=True) / HIGHEST
    np.testing.assert_allclose(rounded / scale, np.rint(rounded / scale), atol=1e-6)
    np.testing.assert_allclose(np.abs(rounded).max(-1, keepdims=True), HIGHEST * scale)  # the quantizer finds the grid
    assert error(weights, rounded, moments) <= 1.2 * error(weights, plainly(weights), moments) + 1e-9


def test_what_depends_on_one_another_makes_up() -> None:
    generator = np.random.default_rng(5)
    weights = generator.normal(size=(1, 8, 200))
    inputs = generator.normal(size=(1, 500, 20)) @ generator.normal(size=(1, 20, 200))
    moments = moments_of(inputs)
    assert error(weights, round_in_turn(weights, moments), moments) < 0.1 * error(weights, plainly(weights), moments)


def test_weights_that_nothing_moves_or_that_are_zero_are_rounded_plainly() -> None:
    weights = np.array([[[0.0, 0.0, 0.0], [1.0, 0.5, -0.26]]])
    rounded = round_in_turn(weights, np.zeros((1, 3, 3)))
    np.testing.assert_allclose(rounded[0, 0], 0)
    np.testing.assert_allclose(rounded, plainly(np.where(weights == 0, 1e-30, weights)), atol=1e-12)


@pytest.mark.parametrize(
    ("attributes", "groups"),
    [
        ({}, 1),
        ({"pads": [1, 2, 0, 1], "strides": [2, 1]}, 1),
        ({"dilations": [2, 1], "pads": [2, 1, 2, 1]}, 2),
        ({"pads": [1, 1, 1, 1], "group": 4}, 4),
    ],
)
def test_windows_times_weights_are_the_convolution(attributes: dict[str, Any], groups: int) -> None:
    generator = np.random.default_rng(2)
    values = generator.normal(size=(2, 4, 9, 8)).astype(np.float32)
    weight = generator.normal(size=(8, 4 // groups, 3, 3)).astype(np.float32)
    conv = helper.make_node("Conv", ["x", "w"], ["y"], **{**attributes, "group": groups})
    window = Window.of(conv, weight.shape)
    assert window is not None
    taken = windows_of(values, window)
    ours = np.einsum("pgk,gok->pgo", taken, weight.reshape(groups, 8 // groups, -1)).reshape(len(taken), 8)
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [conv],
        "g",
        [helper.make_tensor_value_info("x", kind, values.shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    expected = onnx.reference.ReferenceEvaluator(model).run(None, {"x": values})[0]
    np.testing.assert_allclose(
        ours, expected.transpose(0, 2, 3, 1).reshape(-1, 8), atol=1e-4
    )  # small: no place left out


def test_moments_of_layers_are_those_of_what_they_take(uneven: Calibration) -> None:
    found = layer_moments(uneven, ["first", "depthwise", "linear"], images=24)
    assert set(found) == {"first", "depthwise", "linear"}
    for moments in found.values():
        np.testing.assert_allclose(moments, moments.transpose(0, 2, 1))
        assert (np.linalg.eigvalsh(moments) > -1e-6 * np.abs(moments).max()).all()
    assert found["depthwise"].shape[0] > 1, "a group for each channel"


def test_a_graph_with_rounded_weights_changes_no_more_when_its_weights_are_quantized(uneven: Calibration) -> None:
    rounded = with_rounded_weights(uneven, Scheme(), images=24)
    weights = {i.name: numpy_helper.to_array(i) for i in rounded.graph.initializer}
    before = {i.name: numpy_helper.to_array(i) for i in uneven.model.graph.initializer}
    node = next(one for one in rounded.graph.node if one.name == "project")
    ours, theirs = (found[node.input[1]].reshape(len(found[node.input[1]]), -1) for found in (weights, before))
    assert not np.array_equal(ours, theirs)
    np.testing.assert_allclose(ours, plainly(ours), atol=1e-6 * np.abs(ours).max())


def test_a_network_with_rounded_weights_answers_nearer_to_what_it_did(uneven: Calibration) -> None:
    rounded = with_rounded_weights(uneven, Scheme(), images=24)
    plain = onnx.ModelProto()
    plain.CopyFrom(uneven.model)
    for before, after in zip(plain.graph.initializer, rounded.graph.initializer, strict=True):
        values = numpy_helper.to_array(before)
        if not np.array_equal(values, numpy_helper.to_array(after)):  # a layer's weight
            rows = values.reshape(len(values), -1) if values.ndim == 4 else values.T
            back = plainly(rows) if values.ndim == 4 else plainly(rows).T
            before.CopyFrom(numpy_helper.from_array(back.reshape(values.shape).astype(np.float32), before.name))
    batch = np.concatenate(list(uneven.batches(8)))
    expected, ours, theirs = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": batch})[
            0
        ]
        for m in (uneven.model, rounded, plain)
    )
    assert np.square(ours - expected).sum() < 0.5 * np.square(theirs - expected).sum()


@pytest.mark.parametrize("scheme", [Scheme(per_channel=False), Scheme(weights="uint8"), Scheme(reduce_range=True)])
def test_other_grids_are_the_quantizers_business(uneven: Calibration, scheme: Scheme) -> None:
    assert with_rounded_weights(uneven, scheme, images=24) is uneven.model
