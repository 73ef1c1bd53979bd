"""Half precision: what stays in fp32, and what may not be rounded on the way."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graph_runs import run_images

from controller.errors import ExportError
from controller.lifecycle.graph import precision_of
from controller.lifecycle.variants.halving import halved

SOURCE = """
    <ir_version: 8, opset_import: ["" : 18]>
    small (uint8[N,4] images) => (float[N,4] y)
    <float[4,4] w = {9,1,1,1, 1,9,1,1, 1,1,9,1, 1,1,1,9}> {
        [vedette_0] x = Cast<to: int = 1>(images)
        [product] p = MatMul(x, w)
        [power] q = Pow(p, p0)
        [total] s = ReduceSum<keepdims: int = 1>(q, axis)
        [share] y = Div(q, s)
    }
"""


@pytest.fixture(scope="module")
def source() -> onnx.ModelProto:
    """Squares numbers up to 3,000 and sums them up: more than half precision holds."""
    model = onnx.parser.parse_model(SOURCE)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2.0, np.float32), "p0"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    # torch's exporter notes the types of weights, too
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("p0", onnx.TensorProto.FLOAT, []))
    onnx.checker.check_model(model, full_check=True)
    return model


def test_what_overflows_stays_in_fp32_and_inputs_and_outputs_keep_their_types(source: onnx.ModelProto) -> None:
    half = halved(source)
    kinds = [value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)]
    assert kinds == [onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT]
    assert precision_of(half) == "fp16"
    batch = np.array([[255, 3, 7, 250], [0, 1, 2, 3]], np.uint8)
    np.testing.assert_allclose(run_images(half, batch), run_images(source, batch), atol=2e-3)


def test_between_operators_in_fp32_nothing_is_rounded(source: onnx.ModelProto) -> None:
    half = halved(source)
    producers = {node.output[0]: node for node in half.graph.node}
    total = next(node for node in half.graph.node if node.name == "total")
    assert producers[total.input[0]].name == "power"


def test_the_model_that_it_was_made_from_stays_as_it_is(source: onnx.ModelProto) -> None:
    before = source.SerializeToString(deterministic=True)
    halved(source)
    assert source.SerializeToString(deterministic=True) == before


def test_what_cannot_be_converted_is_one_error() -> None:
    with pytest.raises(ExportError, match="cannot be converted to fp16"):
        halved(
            onnx.parser.parse_model("""
            <ir_version: 8, opset_import: ["" : 18]> broken (float[N] x) => (float[N] y) { y = Relu(z) }
        """)
        )
