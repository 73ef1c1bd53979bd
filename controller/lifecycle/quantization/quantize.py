"""Static INT8 quantization by ONNX Runtime's QDQ quantizer: what a scheme is, and a graph quantized by one.

Rules:
    * Everything begins with `prepare`: batch normalization folded into the convolutions, constants folded, every node
      named. Ranges are measured on that very graph, since they are found by the names of its tensors.
    * `quantize` is pure: the same graph, ranges and scheme give the same graph.
    * The nodes that embed the normalization are not quantized. Where the first convolution can take the pixels
      themselves, they are gone (`controller.lifecycle.quantization.pixels`).
    * Whether the result earns its place is for `controller.lifecycle.variants.verdict` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer

from controller.errors import ExportError
from controller.lifecycle.graph import at_most_published_versions, load_graph, opset_of, with_opset
from controller.lifecycle.pixel_input import EMBEDDED_PREFIX
from controller.lifecycle.quantization.calibration.ranges import Range, Ranges
from controller.lifecycle.quantization.calibration.tensors import QUANTIZABLE_OPS
from controller.lifecycle.quantization.pixels import Pixels, with_pixels, without_rounding
from controller.lifecycle.quiet import quiet

__all__ = ["COMPUTE_OPS", "QUANTIZABLE_OPS", "Scheme", "pixels_of", "prepare", "quantize"]

LEAST_OPSET = 13  # per-channel QuantizeLinear
COMPUTE_OPS: frozenset[str] = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Relu", "Clip"})
"""What takes nearly all of the time, and the activations that vanish into a convolution's quantized output."""

Integer = Literal["uint8", "int8", "uint16"]
TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8, "uint16": QuantType.QUInt16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How a graph is quantized. The defaults are U8S8, what CPUs with VNNI or dotprod are fast with.

    Attributes:
        activations: Type of the activations; 16 bits are for Qualcomm's NPUs, which take them beside weights of 8.
        weights: Type of the weights.
        per_channel: One scale for each output channel of a weight; one for the whole otherwise.
        symmetric: Zero stands for zero in activations, too.
        reduce_range: Weights of 7 bits, so that pairs of products do not saturate on CPUs without VNNI.
        op_types: Operators that are quantized.
        exclude: Names of nodes that stay in fp32.
        float_outputs: Operators whose outputs stay in fp32.
        explicit_pairs: A QuantizeLinear and a DequantizeLinear for every consumer and on every weight, as TensorRT
            wants them; otherwise pairs are shared, and weights are stored as integers.
        qnn: Qualcomm's rules on top: fixed ranges of sigmoid and tanh, no range below 1e-4, and all operators.
    """

    activations: Integer = "uint8"
    weights: Integer = "int8"
    per_channel: bool = True
    symmetric: bool = False
    reduce_range: bool = False
    op_types: frozenset[str] = QUANTIZABLE_OPS
    exclude: frozenset[str] = frozenset()
    float_outputs: frozenset[str] = frozenset()
    explicit_pairs: bool = False
    qnn: bool = False

    @property
    def takes_pixels(self) -> bool:
        """Whether a pixel of 8 bits can itself be the activation that a convolution takes."""
        return self.activations == "uint8" and not self.symmetric and not self.qnn and "Conv" in self.op_types


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return *model* as it is calibrated and quantized.

    Batch normalization is fused into the convolutions, constants are folded, and every node has a name of its own.

    Raises:
        ExportError: ONNX Runtime cannot load it.
    """
    if opset_of(model) < LEAST_OPSET:
        model = with_opset(model, LEAST_OPSET)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3  # errors; they arrive as exceptions anyway
    with TemporaryDirectory(prefix="vedette-quantize-") as scratch:
        target = Path(scratch) / "prepared.onnx"
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ExportError(f"the graph cannot be folded: {' '.join(str(error).split())[:300]}") from error
        folded = at_most_published_versions(load_graph(target))
    taken: set[str] = set()
    for number, node in enumerate(folded.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}_n{number}"
        taken.add(node.name)
    return folded


def quantize(model: onnx.ModelProto, ranges: Ranges, scheme: Scheme) -> onnx.ModelProto:
    """Return *model* quantized by *scheme*.

    Args:
        model: Of `prepare`.
        ranges: Of its activations.
        scheme: How.

    Raises:
        ExportError: ONNX Runtime cannot quantize the graph.
    """
    pixels = pixels_of(model, scheme)
    values = dict(ranges.values)
    if pixels is not None:
        model, values[pixels.taken] = pixels.model, pixels.range
    exclude = scheme.exclude | {node.name for node in model.graph.node if node.name.startswith(EMBEDDED_PREFIX)}
    op_types, extra = _options(model, scheme, exclude)
    with quiet():
        try:
            quantizer = QDQQuantizer(
                save_and_reload_model_with_shape_infer(model),
                scheme.per_channel,
                scheme.reduce_range,
                TYPES[scheme.weights],
                TYPES[scheme.activations],
                TensorsData(CalibrationMethod.MinMax, _single_precision(values)),
                [],
                sorted(exclude),
                op_types,
                extra,
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AssertionError) as error:
            raise ExportError(f"the graph cannot be quantized: {' '.join(str(error).split())[:300]}") from error
    quantized = at_most_published_versions(quantizer.model.model)
    return quantized if pixels is None else without_rounding(quantized, pixels)


def pixels_of(model: onnx.ModelProto, scheme: Scheme) -> Pixels | None:
    """Return *model* with its normalization in its first convolution; ``None`` if *scheme* leaves it in front."""
    pixels = with_pixels(model) if scheme.takes_pixels else None
    return None if pixels is None or pixels.convolution in scheme.exclude else pixels


def _single_precision(ranges: Mapping[str, Range]) -> dict[str, tuple[np.float32, np.float32]]:
    return {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}


def _options(model: onnx.ModelProto, scheme: Scheme, exclude: frozenset[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the operator types to quantize, and what the quantizer calls its extra options."""
    op_types = sorted(scheme.op_types)
    extra = {
        "ActivationSymmetric": scheme.symmetric,
        "OpTypesToExcludeOutputQuantization": sorted(scheme.float_outputs),
        "DedicatedQDQPair": scheme.explicit_pairs,
        "AddQDQPairToWeight": scheme.explicit_pairs,
    }
    if scheme.qnn:
        # Here, since it loads onnxruntime.tools, which loads torch wherever that is installed.
        from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

        config = get_qnn_qdq_config(
            model,
            None,
            activation_type=TYPES[scheme.activations],
            weight_type=TYPES[scheme.weights],
            per_channel=scheme.per_channel,
            activation_symmetric=scheme.symmetric,
            nodes_to_exclude=sorted(exclude),
        )
        op_types, extra = sorted(config.op_types_to_quantize), extra | config.extra_options
    return op_types, extra
