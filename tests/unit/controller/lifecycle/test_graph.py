from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from controller.errors import ExportError
from controller.lifecycle import graph
from runtime.session import Session

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": 1 / 255}
GraphMaker = Callable[..., onnx.ModelProto]


def session(model: onnx.ModelProto, path: Path) -> Session:
    onnx.save(model, path)
    return Session(path)


@pytest.mark.parametrize(
    ("shape", "layout", "height", "width"),
    [
        (["N", 3, 20, 30], "NCHW", 20, 30),
        (["N", 20, 30, 3], "NHWC", 20, 30),
        ([10, 3, "h", "w"], "NCHW", "h", "w"),
        (["N", 1, 20, 30], "NCHW", 20, 30),
    ],
)
def test_layout_is_found_from_the_shape(
    shape: list[int | str], layout: str, height: int | str, width: int | str
) -> None:
    found = graph.find_image_input(_identity(shape))
    assert found is not None
    assert (found.layout, found.height, found.width) == (layout, height, width)


@pytest.mark.parametrize("shape", [["N", 3, 3, 3], ["N", 4, 8, 8], ["N", 3, 8], ["N", 3, 20, 1]])
def test_ambiguous_shape_is_no_picture(shape: list[int | str]) -> None:
    assert graph.find_image_input(_identity(shape)) is None


def _identity(shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    made = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_initializers_among_the_inputs_are_not_inputs(conv_graph: GraphMaker) -> None:
    model = conv_graph(ir=3)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 3, 3, 3]))
    assert [value.name for value in graph.real_inputs(model)] == ["x"]


def test_versions_come_down_to_what_is_published(conv_graph: GraphMaker, tmp_path: Path) -> None:
    newest = conv_graph(opset=24, ir=13)
    newest.opset_import.append(helper.make_opsetid("ai.onnx.preview", 1))
    lowered = graph.at_most_published_versions(newest)
    assert (graph.opset_of(lowered), lowered.ir_version) == (21, 10)
    assert [o.domain for o in lowered.opset_import] == [""]
    batch = np.random.default_rng(2).normal(size=(2, 3, 8, 8)).astype(np.float32)
    runs = [session(m, tmp_path / f"{n}.onnx").run(batch)[0] for n, m in enumerate((lowered, conv_graph()))]
    np.testing.assert_array_equal(*runs)
    older = graph.at_most_published_versions(conv_graph(opset=13, ir=7))
    assert (graph.opset_of(older), older.ir_version) == (13, 7)


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", b"\x08\x07"])
def test_file_that_is_no_model_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"broken\.onnx is no ONNX model"):
        graph.load_graph(path)


def test_output_operator_looks_through_what_only_reshapes(conv_graph: GraphMaker) -> None:
    model = conv_graph(last="Softmax")
    model.graph.node.append(helper.make_node("Identity", ["scores"], ["final"]))
    model.graph.output[0].name = "final"
    assert graph.output_operator(model, ("Identity",)) == "Softmax"
    assert graph.output_operator(model, ()) == "Identity"


def test_shapes_that_contradict_the_operators_are_left_out(conv_graph: GraphMaker) -> None:
    right = conv_graph()
    right.graph.value_info.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 8, 1, 1]))
    assert graph.without_wrong_shapes(right) == right
    wrong = conv_graph()
    wrong.graph.value_info.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 9, 1, 1]))
    assert graph.without_wrong_shapes(wrong) == conv_graph()
    lying = conv_graph()
    lying.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    assert graph.without_wrong_shapes(lying) == lying, "what is wrong beside that is for the gate to say"


@pytest.mark.parametrize(("kind", "precision"), [(TensorProto.FLOAT, "fp32"), (TensorProto.FLOAT16, "fp16")])
def test_precision_is_that_of_the_weights(conv_graph: GraphMaker, kind: int, precision: str) -> None:
    model = conv_graph()
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), weight.name))
    assert graph.precision_of(model) == precision
    model.graph.node.append(helper.make_node("DequantizeLinear", ["q", "s"], ["d"]))
    assert graph.precision_of(model) == "int8"


def padded(*operators: str, opset: int = 20) -> onnx.ModelProto:
    """Return a Pad with zeros in front of a MaxPool, *operators* in front of it."""
    steps = "".join(f"x{place + 1} = {operator}(x{place})\n" for place, operator in enumerate(operators))
    text = f"""<ir_version: 8, opset_import: ["": {opset}]> g (float[N,2,6,6] x0) => (float[N,2,4,4] y)
        <int64[8] pads = {{0,0,1,1,0,0,1,1}}> {{
        {steps} padded = Pad(x{len(operators)}, pads)
        y = MaxPool<kernel_shape = [2,2], strides = [2,2]>(padded)
    }}"""
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize("operators", [(), ("Neg",), ("Neg", "Identity")])
def test_padding_with_numbers_names_its_axes_before_a_pooling(operators: tuple[str, ...], tmp_path: Path) -> None:
    model = padded(*operators)
    apart = graph.with_paddings_apart(model)
    onnx.checker.check_model(apart, full_check=True)
    pad = next(node for node in apart.graph.node if node.op_type == "Pad")
    axes = next(tensor for tensor in apart.graph.initializer if tensor.name == pad.input[3])
    assert onnx.numpy_helper.to_array(axes).tolist() == [0, 1, 2, 3]
    assert model == padded(*operators)
    pixels = np.random.default_rng(1).normal(size=(2, 2, 6, 6)).astype(np.float32)
    ours, theirs = session(apart, tmp_path / "ours.onnx"), session(model, tmp_path / "theirs.onnx")
    np.testing.assert_array_equal(ours.run(pixels)[0], theirs.run(pixels)[0])


def test_padding_that_may_be_moved_stays() -> None:
    for model in (padded("Relu"), padded("Relu", "Transpose"), padded(opset=17)):
        assert graph.with_paddings_apart(model) == model
    convolved = padded()
    convolved.graph.node[-1].op_type = "LpPool"
    assert graph.with_paddings_apart(convolved) == convolved
