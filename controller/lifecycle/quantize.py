"""Static INT8 quantization: QDQ, activations unsigned, weights signed and per channel (U8S8).

Rules:
    * Ranges are the minima and maxima over real images. ONNX Runtime's min-max calibrator keeps two
      numbers a tensor and batch, so memory is bounded; its ``CalibMaxIntermediateOutputs`` would drop
      what was collected before, and is not used.
    * The nodes that embed the normalization stay as they are: they are exact.
    * Whether the result earns its place is for `controller.lifecycle.evaluate` to say.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from controller.errors import ExportError
from controller.lifecycle.graph import EMBEDDED_PREFIX, at_most_published_versions, load_graph, opset_of, with_opset

__all__ = ["quantize_int8"]

LEAST_OPSET = 13  # per-channel QuantizeLinear


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Hands batches to the calibrator, one at a time."""

    def __init__(self, name: str, batches: Iterator[npt.NDArray[Any]]) -> None:
        self._name, self._batches = name, batches

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's advice, which it gives to the root logger, to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _fold(model: onnx.ModelProto, target: Path) -> None:
    """Write *model* to *target* with constants folded and batch normalization fused into the convolutions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3  # errors; they arrive as exceptions anyway
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def quantize_int8(source: Path, target: Path, batches: Iterator[npt.NDArray[Any]]) -> None:
    """Write an INT8 variant of *source* to *target*.

    Args:
        source: An ONNX graph of one input.
        target: Where the variant goes.
        batches: What the graph takes, for calibration.

    Raises:
        ExportError: ONNX Runtime cannot quantize the graph.
        DatasetError: There are not enough images.
    """
    model = load_graph(source)
    if opset_of(model) < LEAST_OPSET:
        model = with_opset(model, LEAST_OPSET)
    with TemporaryDirectory(prefix="vedette-quantize-") as scratch, _quiet():
        prepared = Path(scratch) / "prepared.onnx"
        try:
            _fold(model, prepared)
            graph = load_graph(prepared).graph
            quantize_static(
                str(prepared),
                str(target),
                _Reader(graph.input[0].name, batches),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=[node.name for node in graph.node if node.name.startswith(EMBEDDED_PREFIX)],
            )
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AssertionError) as error:
            raise ExportError(f"{source.name} cannot be quantized: {' '.join(str(error).split())[:300]}") from error
    onnx.save(at_most_published_versions(load_graph(target)), target)
