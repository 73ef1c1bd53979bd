"""The search for the first node that differs where graph and source share no names, nor the order of axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from controller.lifecycle.gate.divergence import Divergence, share_names
from controller.lifecycle.gate.inner_values import GraphValues
from controller.lifecycle.gate.matching import find_unnamed_divergence
from runtime.errors import ModelError

LAYERS = 6
GENERATOR = np.random.default_rng(1)
GIVEN = {"x": GENERATOR.normal(size=(1, 3, 5, 5)).astype(np.float32)}
WEIGHTS = [GENERATOR.normal(0, 0.5, (4, 4 if n else 3, 1, 1)).astype(np.float32) for n in range(LAYERS)]
SHIFTS = [GENERATOR.uniform(0.5, 1.5, (1, 4, 1, 1)).astype(np.float32) for _ in range(LAYERS)]  # no channel is dead


def network() -> onnx.ModelProto:
    """Convolutions of one pixel, each with a shift and Relu behind it, and the mean of each channel; NCHW."""
    nodes, source = [], "x"
    for n in range(LAYERS):
        nodes += [
            helper.make_node("Conv", [source, f"w{n}"], [f"c{n}"], name=f"conv{n}"),
            helper.make_node("Add", [f"c{n}", f"s{n}"], [f"a{n}"], name=f"add{n}"),
            helper.make_node("Relu", [f"a{n}"], [f"r{n}"], name=f"relu{n}"),
        ]
        source = f"r{n}"
    nodes.append(helper.make_node("ReduceMean", [source], ["out"], name="mean", axes=[2, 3], keepdims=0))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 5, 5])]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 4])]
    named = [(f"w{n}", WEIGHTS[n]) for n in range(LAYERS)] + [(f"s{n}", SHIFTS[n]) for n in range(LAYERS)]
    weights = [numpy_helper.from_array(array, name) for name, array in named]
    graph = helper.make_graph(nodes, "network", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def shown(kinds: str = "car") -> dict[str, np.ndarray]:
    """What a source of the same numbers shows: NHWC, of each layer the *kinds* of values, by names of its own."""
    ours = GraphValues(network(), GIVEN)
    inner = {f"{n}: {kind}": ours[f"{kind}{n}"].transpose(0, 2, 3, 1) for n in range(LAYERS) for kind in kinds}
    return {**inner, "out": ours["out"]}


def broken(change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    model = network()
    change(model)
    return model


def with_weight(name: str, by: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (weight,) = [one for one in model.graph.initializer if one.name == name]
        array = numpy_helper.to_array(weight).copy()
        array.flat[1] += by
        weight.CopyFrom(numpy_helper.from_array(array, name))

    return change


def with_operator(name: str, operator: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (node,) = [node for node in model.graph.node if node.name == name]
        node.op_type = operator

    return change


def found_in(model: onnx.ModelProto, theirs: dict[str, np.ndarray]) -> Divergence:
    found = find_unnamed_divergence(model, GraphValues(model, GIVEN), theirs, ["out"])
    assert found is not None
    return found


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("by", [0.05, 5.0])
def test_damaged_weight_is_found_in_another_order_of_axes(layer: int, by: float) -> None:
    found = found_in(broken(with_weight(f"w{layer}", by)), shown())
    assert (found.node, found.hidden, found.counterpart) == (f"conv{layer}", (), f"{layer}: c")
    assert found.before < 1e-6
    assert found.after > 1e-3


def test_replaced_operator_is_found() -> None:
    found = found_in(broken(with_operator("relu3", "Sigmoid")), shown())
    assert (found.operator, found.node, found.agreeing) == ("Sigmoid", "relu3", ("a3",))
    assert "it takes a3, which agree within" in str(found)
    assert "and gives 'r3', the source's '3: r', which is off by" in str(found)


def test_where_the_source_shows_some_values_only_the_nodes_between_are_told() -> None:
    """Relu leaves what comes out of Relu as it is: the source's value could be meant before it, too."""
    found = found_in(broken(with_weight("w2", 1.0)), shown("r"))
    assert (found.node, found.agreeing) == ("relu2", ("r1",))
    assert found.hidden == ("Conv 'conv2'", "Add 'add2'")
    assert "or one of the 2 nodes before it (Conv 'conv2', Add 'add2'): the last to agree are r1, within" in str(found)


def test_two_damaged_layers_are_told_apart_by_what_lies_between_them() -> None:
    def both(model: onnx.ModelProto) -> None:
        with_weight("w1", 0.3)(model)
        with_weight("w4", 0.3)(model)

    assert found_in(broken(both), shown()).node == "conv1"


def test_last_node_is_found_by_the_output_alone() -> None:
    found = found_in(broken(with_operator("mean", "ReduceMax")), shown())
    assert (found.operator, found.node, found.agreeing) == ("ReduceMax", "mean", (f"r{LAYERS - 1}",))


def test_source_that_shows_nothing_of_the_kind_is_said_to() -> None:
    model = broken(with_weight("w2", 1.0))
    theirs = {"0: other": np.linspace(0, 1, 100).reshape(1, 5, 5, 4), "out": GraphValues(network(), GIVEN)["out"]}
    with pytest.raises(ModelError, match="none is one of the 3 that the source shows"):
        find_unnamed_divergence(model, GraphValues(model, GIVEN), theirs, ["out"])


def test_graph_that_agrees_has_no_such_node() -> None:
    model = network()
    assert find_unnamed_divergence(model, GraphValues(model, GIVEN), shown(), ["out"]) is None


def test_names_are_shared_by_values_inside_the_graph_alone() -> None:
    ours = GraphValues(network(), GIVEN)
    assert share_names(ours, {"c1": GIVEN["x"], "out": GIVEN["x"]}, ["out"])
    assert not share_names(ours, {"0: c": GIVEN["x"], "out": GIVEN["x"]}, ["out"])


def test_value_can_be_put_in_place_of_one_of_several_that_a_node_makes() -> None:
    nodes = [
        helper.make_node("Split", ["x", "sizes"], ["low", "high"], axis=1),
        helper.make_node("Sub", ["low", "high"], ["out"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 4), ("out", 2))
    ]
    sizes = numpy_helper.from_array(np.array([2, 2]), "sizes")
    graph = helper.make_graph(nodes, "split", values[:1], values[1:], [sizes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    values_of: Any = GraphValues(model, {"x": np.array([[1, 2, 3, 4]], np.float32)})
    found = values_of.several(["high", "out"], {"low": np.array([[10, 20]], np.float32)})
    np.testing.assert_array_equal(found["high"], [[3, 4]])
    np.testing.assert_array_equal(found["out"], [[7, 16]])
