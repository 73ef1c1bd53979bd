"""The normalization put into a graph, in front of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from controller.errors import ExportError
from controller.lifecycle import graph
from controller.lifecycle.pixel_input import embed_normalization
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
    embedded = embed_normalization(source, preprocess)
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
    embed_normalization(source, Preprocess(**IMAGENET))
    graph.at_most_published_versions(source)
    assert source.SerializeToString() == before


def test_input_that_is_called_images_already_keeps_its_name_inside(conv_graph: GraphMaker, tmp_path: Path) -> None:
    source = conv_graph()
    source.graph.input[0].name = "images"
    source.graph.node[0].input[0] = "images"
    embedded = embed_normalization(source, Preprocess(**IMAGENET))
    assert session(embedded, tmp_path / "m.onnx").inputs[0].name == "images_uint8"


def test_graph_that_takes_no_float_pictures_is_not_embedded(conv_graph: GraphMaker) -> None:
    with pytest.raises(ExportError, match=r"inputs are x \['N', 1, 8, 8\]; expected .* 3 channels, float32 or float16"):
        embed_normalization(conv_graph(channels=1), Preprocess(**IMAGENET))
    int32 = conv_graph()
    int32.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    with pytest.raises(ExportError, match="cannot be embedded"):
        embed_normalization(int32, Preprocess(**IMAGENET))


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
    embedded = embed_normalization(_identity(shape), preprocess)
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
    embedded = session(embed_normalization(source, Preprocess(**IMAGENET)), tmp_path / "m.onnx")
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
    embedded = embed_normalization(_identity(shape, TensorProto.FLOAT16), preprocess)
    onnx.checker.check_model(embedded, full_check=True)
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    found = session(embedded, tmp_path / "m.onnx").run(pixels)[0]
    expected = normalize(pixels[..., ::-1] if color == "BGR" else pixels, preprocess)
    expected = expected if layout == "NHWC" else expected.transpose(0, 3, 1, 2)
    assert found.dtype == np.float16
    steps = np.abs(found.astype(np.float32) - expected) / np.spacing(np.abs(expected).astype(np.float16))
    assert steps.max() <= 0.501  # the nearest number of half precision: nothing was rounded before


def _identity(shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    made = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
