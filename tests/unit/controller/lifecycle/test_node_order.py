"""Nodes stand behind what they read from, what graphs inside them read included."""

from __future__ import annotations

import onnx

from controller.lifecycle.subgraph import in_order

SORTED = """
    <ir_version: 8, opset_import: ["" : 18]>
    branching (float[N] x, bool flag) => (float[N] y) {
        [first] a = Relu(x)
        [second] b = If(flag) <
            then_branch = left () => (float[N] l) { l = Neg(a) },
            else_branch = right () => (float[N] r) { r = Identity(a) }
        >
        [third] y = Abs(b)
    }
"""


def names(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node]


def test_what_is_in_order_stays_itself_and_what_is_not_is_put_in_order() -> None:
    model = onnx.parser.parse_model(SORTED)
    assert in_order(model) is model
    mixed = onnx.ModelProto()
    mixed.CopyFrom(model)
    mixed.graph.ClearField("node")
    mixed.graph.node.extend(model.graph.node[place] for place in (1, 2, 0))
    found = in_order(mixed)
    assert names(found) == names(model)
    assert names(mixed) == ["second", "third", "first"], "what was given stays as it is"
    onnx.checker.check_model(found, full_check=True)


def test_a_circle_is_left_to_the_checker() -> None:
    model = onnx.parser.parse_model(SORTED)
    model.graph.node[0].input[0] = "y"
    assert in_order(model) is model
