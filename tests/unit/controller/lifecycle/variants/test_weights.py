"""Dynamic quantization: matrix products in INT8, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graph_runs import run_images
from onnx import numpy_helper

from controller.lifecycle.graph import precision_of
from controller.lifecycle.variants.weights import dynamic_int8

SOURCE = """
    <ir_version: 8, opset_import: ["" : 18]>
    mixed (float[N,3,8,8] images) => (float[N,4] scores) {
        patches = Conv<kernel_shape = [4,4], strides = [4,4]>(images, patch)
        flat = Flatten(patches)
        hidden = Gemm(flat, first, bias)
        active = Relu(hidden)
        scores = MatMul(active, second)
    }
"""


@pytest.fixture(scope="module")
def source() -> onnx.ModelProto:
    """A convolution that cuts patches, and two matrix products."""
    generator = np.random.default_rng(1)
    shapes = {"patch": (16, 3, 4, 4), "first": (64, 96), "bias": (96,), "second": (96, 4)}
    model = onnx.parser.parse_model(SOURCE)
    model.graph.initializer.extend(
        numpy_helper.from_array(generator.normal(0, 0.2, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    )
    return model


def test_matrix_products_become_integer_and_answers_stay(source: onnx.ModelProto) -> None:
    quantized = dynamic_int8(source)
    onnx.checker.check_model(quantized, full_check=True)
    operators = [node.op_type for node in quantized.graph.node]
    assert operators.count("MatMulInteger") == 2
    assert operators.count("Conv") == 1
    assert precision_of(quantized) == "int8"
    batch = np.random.default_rng(2).normal(0, 1, (5, 3, 8, 8)).astype(np.float32)
    expected = run_images(source, batch)
    assert np.abs(run_images(quantized, batch) - expected).max() < 0.05 * np.abs(expected).max()


def test_weights_have_a_scale_for_each_column(source: onnx.ModelProto) -> None:
    scales = [list(one.dims) for one in dynamic_int8(source).graph.initializer if one.name.endswith("_scale")]
    assert [96] in scales
    assert [4] in scales
