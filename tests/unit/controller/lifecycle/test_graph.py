from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from controller.errors import ExportError
from controller.lifecycle import graph
from runtime.manifest import Preprocess
from runtime.preprocess import normalize
from runtime.session import Session

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": 1 / 255}
GraphMaker = Callable[..., onnx.ModelProto]


def session(model: onnx.ModelProto, path: Path) -> Session:
    onnx.save(model, path)
    return Session(path)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(**IMAGENET),
        Preprocess(color="BGR", **IMAGENET),
        Preprocess(color="L", mean=(0.3,), std=(0.6,), scale=1 / 255),
        Preprocess(),
        Preprocess(color="BGR"),
        Preprocess(scale=1 / 127.5, mean=(1.0,)),
    ],
    ids=["imagenet", "imagenet-bgr", "gray", "raw", "raw-bgr", "symmetric"],
)
def test_embedded_normalization_gives_what_numpy_gives(
    conv_graph: GraphMaker, tmp_path: Path, layout: str, preprocess: Preprocess
) -> None:
    channels = 1 if preprocess.color == "L" else 3
    source = conv_graph(layout=layout, channels=channels)
    embedded = graph.embed_normalization(source, preprocess)
    onnx.checker.check_model(embedded, full_check=True)
    ours, theirs = session(embedded, tmp_path / "ours.onnx"), session(source, tmp_path / "theirs.onnx")
    assert ours.inputs[0].dtype == "uint8"
    assert ours.inputs[0].shape == ("N", 8, 8, channels)
    pixels = np.random.default_rng(1).integers(0, 256, (5, 8, 8, channels), dtype=np.uint8)
    expected = normalize(pixels[..., ::-1] if preprocess.color == "BGR" else pixels, preprocess)
    if layout == "NCHW":
        expected = expected.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(ours.run(pixels)[0], theirs.run(np.ascontiguousarray(expected))[0], rtol=1e-5, atol=1e-4)


def test_source_graph_is_left_as_it_was(conv_graph: GraphMaker) -> None:
    source = conv_graph(ir=13)
    before = source.SerializeToString()
    graph.embed_normalization(source, Preprocess(**IMAGENET))
    graph.at_most_published_versions(source)
    assert source.SerializeToString() == before


def test_input_that_is_called_images_already_keeps_its_name_inside(conv_graph: GraphMaker, tmp_path: Path) -> None:
    source = conv_graph()
    source.graph.input[0].name = "images"
    source.graph.node[0].input[0] = "images"
    embedded = graph.embed_normalization(source, Preprocess(**IMAGENET))
    assert session(embedded, tmp_path / "m.onnx").inputs[0].name == "images_uint8"


def test_graph_that_takes_no_float_pictures_is_not_embedded(conv_graph: GraphMaker) -> None:
    with pytest.raises(ExportError, match=r"inputs are x \['N', 1, 8, 8\]; expected .* 3 channels, float32 or float16"):
        graph.embed_normalization(conv_graph(channels=1), Preprocess(**IMAGENET))
    int32 = conv_graph()
    int32.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    with pytest.raises(ExportError, match="cannot be embedded"):
        graph.embed_normalization(int32, Preprocess(**IMAGENET))


@pytest.mark.parametrize(
    ("shape", "preprocess", "operators", "largest"),
    [
        (["N", 3, 4, 5], Preprocess(**IMAGENET), ["Transpose", "Cast", "BatchNormalization"], 3),
        (["N", 3, "h", "w"], Preprocess(**IMAGENET), ["Transpose", "Cast", "BatchNormalization"], 3),
        (["N", 3, 4, 5], Preprocess(scale=1 / 255), ["Transpose", "Cast", "Mul"], 1),
        (["N", 4, 5, 3], Preprocess(scale=1 / 255, mean=(0.5,), std=(0.5,)), ["Cast", "Mul", "Add"], 1),
        (["N", 4, 5, 3], Preprocess(**IMAGENET), ["Cast", "Mul", "Add"], 15),
        (["N", "h", "w", 3], Preprocess(**IMAGENET), ["Cast", "Mul", "Add"], 3),
    ],
)
def test_no_constant_is_multiplied_pixel_by_pixel_where_the_size_is_known(
    shape: list[int | str], preprocess: Preprocess, operators: list[str], largest: int, tmp_path: Path
) -> None:
    embedded = graph.embed_normalization(_identity(shape), preprocess)
    assert [node.op_type for node in embedded.graph.node if node.op_type != "Identity"] == operators
    assert max(int(np.prod(constant.dims)) for constant in embedded.graph.initializer) == largest
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    found = session(embedded, tmp_path / "m.onnx").run(pixels)[0]
    expected = normalize(pixels, preprocess)
    expected = expected if shape[-1] == 3 else expected.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def with_size_of_pictures(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give *model* the other input of RT-DETR: it comes out again."""
    sizes = helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ["N", 2])
    model.graph.input.insert(0, sizes)
    model.graph.output.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, ["N", 2]))
    model.graph.node.append(helper.make_node("Identity", ["orig_target_sizes"], ["sizes"]))
    return model


def test_inputs_that_the_runtime_fills_in_stay_beside_the_picture(conv_graph: GraphMaker, tmp_path: Path) -> None:
    source = with_size_of_pictures(conv_graph())
    found = graph.find_image_input(source)
    assert found is not None
    assert found.name == "x"
    embedded = session(graph.embed_normalization(source, Preprocess(**IMAGENET)), tmp_path / "m.onnx")
    assert [tensor.name for tensor in embedded.inputs] == ["orig_target_sizes", "images"]
    assert embedded.image.name == "images"
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    assert embedded.run(pixels)[1].tolist() == [[8, 8], [8, 8]]


def test_another_input_beside_the_picture_is_not_overlooked(conv_graph: GraphMaker) -> None:
    model = with_size_of_pictures(conv_graph())
    model.graph.input[0].name = "state"
    assert graph.find_image_input(model) is None


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_half_precision_pictures_are_normalized_in_single_precision(layout: str, color: str, tmp_path: Path) -> None:
    shape: list[int | str] = ["N", 3, 4, 5] if layout == "NCHW" else ["N", 4, 5, 3]
    preprocess = Preprocess(color=color, **IMAGENET)
    embedded = graph.embed_normalization(_identity(shape, TensorProto.FLOAT16), preprocess)
    onnx.checker.check_model(embedded, full_check=True)
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    found = session(embedded, tmp_path / "m.onnx").run(pixels)[0]
    expected = normalize(pixels[..., ::-1] if color == "BGR" else pixels, preprocess)
    expected = expected if layout == "NHWC" else expected.transpose(0, 3, 1, 2)
    assert found.dtype == np.float16
    steps = np.abs(found.astype(np.float32) - expected) / np.spacing(np.abs(expected).astype(np.float16))
    assert steps.max() <= 0.501  # the nearest number of half precision: nothing was rounded before


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
