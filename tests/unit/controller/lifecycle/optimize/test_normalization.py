"""A normalization in front of a convolution is folded into it, exactly, or left where it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from controller.lifecycle.optimize.normalization import fold_normalization
from controller.lifecycle.pixel_input import embed_normalization
from runtime.manifest import Preprocess

CHANNELS = 3
PIXELS = np.random.default_rng(1).uniform(0, 255, (2, CHANNELS, 9, 9)).astype(np.float32)
OPERATORS = ("Add", "Sub", "Mul", "Div", "BatchNormalization")


def constants_of(operator: str, alike: bool, generator: np.random.Generator) -> list[np.ndarray]:
    if operator == "BatchNormalization":
        return [generator.uniform(0.5, 2, CHANNELS) for _ in range(4)]
    shape = (1,) if alike else (CHANNELS, 1, 1)
    return [generator.uniform(0.5, 2, shape)]


def graph_of(operators: list[tuple[str, bool, bool]], *, groups: int = 1, bias: bool = True, **conv: Any) -> Any:
    """Make a graph of *operators* (name, all channels alike, constant first) and a convolution."""
    generator = np.random.default_rng(7)
    nodes, weights, current = [], [], "x"
    for number, (operator, alike, first) in enumerate(operators):
        names = []
        for place, value in enumerate(constants_of(operator, alike, generator)):
            names.append(f"c{number}_{place}")
            weights.append(numpy_helper.from_array(value.astype(np.float32), names[-1]))
        inputs = [*names, current] if first and operator != "BatchNormalization" else [current, *names]
        current = f"t{number}"
        nodes.append(helper.make_node(operator, inputs, [current], name=f"n{number}"))
    outputs = 2 * CHANNELS
    weights.append(
        numpy_helper.from_array(generator.normal(0, 0.3, (outputs, CHANNELS // groups, 3, 3)).astype(np.float32), "w")
    )
    inputs = [current, "w"]
    if bias:
        weights.append(numpy_helper.from_array(generator.normal(0, 1, outputs).astype(np.float32), "b"))
        inputs.append("b")
    nodes.append(helper.make_node("Conv", inputs, ["y"], name="conv", group=groups, **conv))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CHANNELS, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", outputs, None, None])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answer(model: onnx.ModelProto, pixels: np.ndarray = PIXELS) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: pixels})[0])


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(np.abs(theirs).max()))


def operators_of(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@given(
    operators=st.lists(st.tuples(st.sampled_from(OPERATORS), st.booleans(), st.booleans()), max_size=4),
    padding=st.sampled_from([{}, {"pads": [0, 0, 0, 0]}, {"pads": [1, 1, 1, 1]}, {"pads": [0, 0, 1, 0]},
                             {"auto_pad": "VALID"}, {"auto_pad": "SAME_UPPER"}]),
    groups=st.sampled_from([1, CHANNELS]),
    bias=st.booleans(),
)  # fmt: skip
def test_whatever_stands_in_front_the_answer_stays(
    operators: list[tuple[str, bool, bool]], padding: dict[str, Any], groups: int, bias: bool
) -> None:
    model = graph_of(operators, groups=groups, bias=bias, **padding)
    before = model.SerializeToString()
    folded = fold_normalization(model)
    assert model.SerializeToString() == before
    assert len(folded.graph.node) <= len(model.graph.node)
    assert_same(answer(folded), answer(model))


@pytest.mark.parametrize("padding", [{}, {"auto_pad": "VALID"}])
@pytest.mark.parametrize("operators", [["Sub", "Mul"], ["Sub", "Div"], ["Mul", "Add"], ["BatchNormalization"], ["Add"]])
def test_without_padding_all_of_it_goes_into_weights_and_bias(operators: list[str], padding: dict[str, str]) -> None:
    model = graph_of([(name, False, False) for name in operators], **padding)
    folded = fold_normalization(model)
    assert operators_of(folded) == ["Conv"]
    assert {one.name for one in folded.graph.initializer} == {"conv_folded_weight", "conv_folded_bias"}
    assert_same(answer(folded), answer(model))


def test_with_padding_an_addition_stays_since_the_border_is_zero_after_the_normalization() -> None:
    model = graph_of([("Sub", False, False), ("Div", False, False)], pads=[1, 1, 1, 1])
    folded = fold_normalization(model)
    assert operators_of(folded) == ["Add", "Conv"]
    assert_same(answer(folded), answer(model))


def test_with_padding_a_pure_scale_goes_all_the_same() -> None:
    model = graph_of([("Mul", False, False), ("Div", True, False)], pads=[1, 1, 1, 1])
    folded = fold_normalization(model)
    assert operators_of(folded) == ["Conv"]
    assert_same(answer(folded), answer(model))


@pytest.mark.parametrize("operator", ["BatchNormalization", "Sub"])
def test_one_node_is_not_exchanged_for_another(operator: str) -> None:
    model = graph_of([(operator, False, False)], pads=[1, 1, 1, 1])
    assert fold_normalization(model) is model


def test_what_another_node_reads_too_stays() -> None:
    model = graph_of([("Sub", False, False), ("Mul", False, False)])
    model.graph.output.append(helper.make_tensor_value_info("t1", TensorProto.FLOAT, ["N", CHANNELS, None, None]))
    assert fold_normalization(model) is model


def test_a_constant_that_another_node_reads_is_kept() -> None:
    model = graph_of([("Mul", False, False)])
    model.graph.node.append(helper.make_node("Identity", ["c0_0"], ["z"], name="other"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [CHANNELS, 1, 1]))
    folded = fold_normalization(model)
    assert operators_of(folded) == ["Conv", "Identity"]
    assert_same(answer(folded), answer(model))


def test_constants_that_differ_between_pixels_stay() -> None:
    model = graph_of([("Mul", True, False)])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.linspace(1, 2, 9, dtype=np.float32), "c0_0"))
    assert fold_normalization(model) is model


def test_constants_written_as_nodes_are_folded_and_go() -> None:
    model = graph_of([("Mul", False, False)])
    scale = model.graph.initializer[0]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c0_0"], value=scale))
    model.graph.initializer.remove(scale)
    folded = fold_normalization(model)
    assert operators_of(folded) == ["Conv"]
    assert_same(answer(folded), answer(model))


@pytest.mark.parametrize("std", [(0.2, 0.3, 0.4), (0.25,)])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_what_an_import_embeds_is_folded(conv_graph: Any, layout: str, std: tuple[float, ...]) -> None:
    source = conv_graph(layout=layout)
    conv = next(node for node in source.graph.node if node.op_type == "Conv")
    conv.ClearField("attribute")  # no padding
    mean = tuple(0.5 for _ in std)
    model = embed_normalization(source, Preprocess(mean=mean, std=std, scale=1 / 255))
    folded = fold_normalization(model)
    assert operators_of(folded)[:3] in (["Transpose", "Cast", "Conv"], ["Cast", "Transpose", "Conv"])
    pixels = np.random.default_rng(2).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    assert_same(answer(folded, pixels), answer(model, pixels))
