"""INT8 without calibration: activations are measured anew with every picture, which pays for matrix products."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from controller.errors import ExportError
from controller.lifecycle.graph import load_graph
from controller.lifecycle.quantization.quantize import prepare
from controller.lifecycle.quiet import quiet

__all__ = ["classical_operator", "dynamic_int8", "mostly_matrix_products"]

PRODUCTS = ("MatMul", "Gemm")
CONVOLUTIONS = ("Conv", "ConvTranspose")
CLASSICAL = "ai.onnx.ml"


def mostly_matrix_products(model: onnx.ModelProto) -> bool:
    """Whether most of what *model* computes with weights are matrix products, as in a transformer.

    Both most of the operators and most of the weights: a classical network's few last layers can have most of its
    weights, and take little of its time.
    """
    weighted = _weighted(model)
    products = [size for operator, size in weighted if operator in PRODUCTS]
    convolutions = [size for operator, size in weighted if operator in CONVOLUTIONS]
    return len(products) > len(convolutions) and sum(products) > sum(convolutions)


def classical_operator(model: onnx.ModelProto) -> str:
    """Return the operator of ai.onnx.ml (trees, support vectors, ...) that alone has weights in *model*; or nothing.

    ONNX Runtime quantizes none of them.
    """
    operators = [node.op_type for node in model.graph.node if node.domain == CLASSICAL]
    return operators[0] if operators and not _weighted(model) else ""


def _weighted(model: onnx.ModelProto) -> list[tuple[str, int]]:
    """Return (operator, number of weights) of the products and convolutions in *model*."""
    sizes = {one.name: math.prod(one.dims) for one in model.graph.initializer}
    return [(node.op_type, sizes[node.input[1]]) for node in model.graph.node if _weight(node) in sizes]


def _weight(node: onnx.NodeProto) -> str:
    return node.input[1] if node.op_type in (*PRODUCTS, *CONVOLUTIONS) else ""


def dynamic_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return *model* with matrix products in INT8, one scale for each column of a weight.

    Raises:
        ExportError: ONNX Runtime cannot quantize it.
    """
    with TemporaryDirectory(prefix="vedette-dynamic-") as scratch, quiet():
        target = Path(scratch) / "dynamic.onnx"
        try:
            quantize_dynamic(
                prepare(model),
                str(target),
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AssertionError) as error:
            raise ExportError(f"the graph cannot be quantized: {' '.join(str(error).split())[:300]}") from error
        return load_graph(target)
