"""The search for the first node that differs: a graph beside a damaged copy of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from controller.lifecycle.gate.divergence import find_divergence
from controller.lifecycle.gate.inner_values import GraphValues, relative_difference

LAYERS = 40
GIVEN = {"x": np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)}


def layer(number: int, source: str) -> tuple[list[onnx.NodeProto], onnx.TensorProto]:
    weight = np.random.default_rng(number).normal(0, 0.6, (6, 6)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", [source, f"w{number}"], [f"product{number}"], name=f"matmul{number}"),
        helper.make_node("Tanh", [f"product{number}"], [f"act{number}"], name=f"tanh{number}"),
    ]
    return nodes, numpy_helper.from_array(weight, f"w{number}")


def two_branches() -> onnx.ModelProto:
    """Two chains of layers from one input, one after the other in the file, and their sum."""
    nodes, weights = [], []
    for branch in (range(LAYERS // 2), range(LAYERS // 2, LAYERS)):
        source = "x"
        for number in branch:
            made, weight = layer(number, source)
            nodes += made
            weights.append(weight)
            source = f"act{number}"
    nodes.append(helper.make_node("Add", [f"act{LAYERS // 2 - 1}", f"act{LAYERS - 1}"], ["sum"], name="add"))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 6]) for name in ("x", "sum")]
    graph = helper.make_graph(nodes, "branches", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


class Counted(Mapping[str, np.ndarray]):
    """The values of a graph, how many were asked for, and perhaps only some of their names."""

    def __init__(self, model: onnx.ModelProto, names: set[str] | None = None) -> None:
        self._values = GraphValues(model, GIVEN)
        self._names = set(self._values) if names is None else names
        self.asked = 0

    def __getitem__(self, name: str) -> np.ndarray:
        self.asked += 1
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def with_damaged_weight(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    damaged = onnx.ModelProto()
    damaged.CopyFrom(model)
    (weight,) = [one for one in damaged.graph.initializer if one.name == name]
    array = numpy_helper.to_array(weight).copy()
    array[2, 3] += 0.5
    weight.CopyFrom(numpy_helper.from_array(array, name))
    return damaged


@pytest.mark.parametrize("number", [0, 13, LAYERS // 2 - 1, LAYERS // 2, 31, LAYERS - 1])
def test_damaged_weight_is_found_whichever_branch_it_lies_on(number: int) -> None:
    model = two_branches()
    theirs = Counted(model)
    damaged = with_damaged_weight(model, f"w{number}")
    found = find_divergence(damaged, GraphValues(damaged, GIVEN), theirs, ["sum"])
    assert found is not None
    assert (found.operator, found.node, found.value) == ("MatMul", f"matmul{number}", f"product{number}")
    assert found.inputs[1] == f"w{number}"
    assert found.before == 0
    assert found.after > 0.01
    assert theirs.asked < 16  # of 81
    text = str(found)
    assert text.startswith(f"the first node that differs is MatMul 'matmul{number}': it takes ")
    assert "agree within 0, and gives" in text


def test_replaced_operator_is_found() -> None:
    model = two_branches()
    other = onnx.ModelProto()
    other.CopyFrom(model)
    (node,) = [node for node in other.graph.node if node.name == "tanh27"]
    node.op_type = "Sigmoid"
    found = find_divergence(other, GraphValues(other, GIVEN), GraphValues(model, GIVEN), ["sum"])
    assert found is not None
    assert (found.operator, found.node) == ("Sigmoid", "tanh27")


def test_where_the_source_shows_some_values_only_the_nodes_between_are_told() -> None:
    model = two_branches()
    damaged = with_damaged_weight(model, "w9")
    shown = {f"act{number}" for number in range(0, LAYERS, 3)}  # act9 is among them, act8 is not
    found = find_divergence(damaged, GraphValues(damaged, GIVEN), Counted(model, shown), ["sum"])
    assert found is not None
    assert found.value == "act9"
    assert found.hidden == tuple(
        f"{operator} '{name}'"
        for operator, name in [
            ("MatMul", "matmul7"),
            ("Tanh", "tanh7"),
            ("MatMul", "matmul8"),
            ("Tanh", "tanh8"),
            ("MatMul", "matmul9"),
        ]
    )
    assert "or one of the 5 nodes before it" in str(found)


def test_graphs_that_agree_have_no_such_node() -> None:
    model = two_branches()
    assert find_divergence(model, GraphValues(model, GIVEN), GraphValues(model, GIVEN), ["sum"]) is None
    assert find_divergence(model, GraphValues(model, GIVEN), {}, ["sum"]) is None


def test_relative_difference_has_no_unit() -> None:
    small = np.array([1e-9, 2e-9])
    assert relative_difference(small * 1.5, small) == pytest.approx(0.5)
    assert relative_difference(small, small[:1]) == np.inf
    assert relative_difference(np.array([np.nan, np.inf, 1.0]), np.array([np.nan, np.inf, 1.0])) == 0
    assert relative_difference(np.array([np.nan]), np.array([1.0])) == np.inf
    assert relative_difference(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert relative_difference(np.zeros((0, 4)), np.zeros((0, 4))) == 0
