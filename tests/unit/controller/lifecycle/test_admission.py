"""Who may come in: inputs, operators and outputs of strangers' graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from controller.lifecycle.admission import check_inputs, check_operators, numeric_outputs, with_three_channels
from controller.lifecycle.graph import find_image_input
from controller.lifecycle.importers import load_source
from runtime.errors import UsageError


def graph(
    inputs: dict[str, tuple[int, list[int | str] | None]], nodes: list[onnx.NodeProto] | None = None
) -> onnx.ModelProto:
    """A graph of those inputs, of which the first goes out as it came unless *nodes* say otherwise."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    nodes = nodes or [helper.make_node("Identity", [next(iter(inputs))], ["y"])]
    made = helper.make_graph(nodes, "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    domains = {node.domain for node in nodes} | {""}
    imports = [helper.make_opsetid(domain, 17 if not domain else 1) for domain in sorted(domains)]
    return helper.make_model(made, opset_imports=imports, ir_version=8)


PICTURE = (TensorProto.FLOAT, ["N", 3, 8, 8])
STATE = (TensorProto.FLOAT, [1, "C", "H", "W"])


def test_pictures_with_what_the_runtime_fills_in_may_come_in() -> None:
    check_inputs(graph({"images": PICTURE}), "m")
    check_inputs(graph({"features": (TensorProto.FLOAT, ["N", 64])}), "m")  # of a picture, if the preprocessing says so
    check_inputs(graph({"images": PICTURE, "orig_target_sizes": (TensorProto.INT64, ["N", 2])}), "m")


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (
            {"src": PICTURE, **{f"r{n}i": STATE for n in range(1, 5)}, "downsample_ratio": (TensorProto.FLOAT, [1])},
            r"m takes 6 inputs: src float \['N', 3, 8, 8\], r1i float \[1, 'C', 'H', 'W'\], .*ratio float.*recurrent",
        ),
        (
            {"left": PICTURE, "right": PICTURE},
            "right float .*Export a model that takes the picture alone.*Pairs of pictures",
        ),
        ({"tokens": (TensorProto.INT64, ["N", 64])}, r"its inputs are: tokens int64 \['N', 64\]"),
        ({"sound": (TensorProto.FLOAT, ["N", 2, 64])}, r"its inputs are: sound float \['N', 2, 64\]"),
        ({"text": (TensorProto.STRING, ["N", 3, 8, 8])}, r"its inputs are: text string"),
        ({"orig_target_sizes": (TensorProto.INT64, ["N", 2])}, "does not take pictures"),
    ],
)
def test_graph_of_other_inputs_is_refused_with_their_names(
    inputs: dict[str, tuple[int, list[int | str] | None]], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        check_inputs(graph(inputs), "m")


def test_operators_of_unknown_domains_are_named_also_inside_subgraphs(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Deep", [], ["d"], domain="com.example.deep")],
        "inner",
        [],
        [helper.make_tensor_value_info("d", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Twist", ["x"], ["t"], domain="com.example"),
        helper.make_node("Bend", ["t"], ["b"], domain="com.example"),
        helper.make_node("Gelu", ["b"], ["c"], domain="com.microsoft"),
        helper.make_node("If", ["flag"], ["y"], then_branch=inner, else_branch=inner),
    ]
    model = graph({"x": PICTURE}, nodes)
    with pytest.raises(UsageError) as refused:
        check_operators(model, "m")
    text = str(refused.value)
    assert "of domain 'com.example': Bend, Twist" in text
    assert "of domain 'com.example.deep': Deep" in text
    assert "--custom-ops PATH" in text
    assert "microsoft" not in text

    onnx.save(model, tmp_path / "twisted.onnx")
    with pytest.raises(UsageError, match="--custom-ops PATH"):
        load_source(str(tmp_path / "twisted.onnx"))


def test_functions_that_the_file_brings_are_known() -> None:
    model = graph({"x": PICTURE}, [helper.make_node("Twice", ["x"], ["y"], domain="local")])
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    check_operators(model, "m")


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        (["batch", "num_channels", "height", "width"], "NCHW"),
        (["n", "h", "w", "channels"], "NHWC"),
        (["n", "c", "h", "w"], None),
    ],
)
def test_dimension_that_is_called_channels_has_three(shape: list[int | str], layout: str | None) -> None:
    found = find_image_input(with_three_channels(graph({"pixel_values": (TensorProto.FLOAT, shape)})))
    assert (found and (found.layout, found.channels)) == (layout and (layout, 3))


def test_text_among_the_outputs_is_taken_off(tmp_path: Path) -> None:
    labels = helper.make_tensor("labels", TensorProto.STRING, [1], [b"cat"])
    nodes = [
        helper.make_node("Constant", [], ["label"], value=labels),
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["scores"]),
    ]
    model = graph({"x": PICTURE}, nodes)
    model.graph.ClearField("output")
    kinds = {"label": (TensorProto.STRING, [1]), "scores": (TensorProto.FLOAT, ["N", 3])}
    model.graph.output.extend(helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items())
    assert numeric_outputs(model) == [1]
    onnx.save(model, tmp_path / "m.onnx")
    imported = load_source(str(tmp_path / "m.onnx"))
    assert [value.name for value in imported.graph.graph.output] == ["scores"]
    assert [output.shape for output in imported.reference(np.zeros((2, 3, 8, 8), np.float32))] == [(2, 3)]
