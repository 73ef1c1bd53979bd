"""Building the variants of a model: a table from precision to the function that builds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from controller.errors import ExportError
from controller.lifecycle.calibration.images import CALIBRATION_IMAGES, calibration_batches
from controller.lifecycle.gate import check_graph
from controller.lifecycle.graph import opset_of
from controller.lifecycle.quantize import quantize_int8
from controller.lifecycle.reference import FP32, Built
from runtime.datasets import Dataset
from runtime.errors import UsageError
from runtime.manifest import Variant
from runtime.session import Session
from runtime.terminal import progress

__all__ = ["BUILDERS", "Precision", "build_int8", "check_precisions", "variant_of"]

INT8 = "int8"
CALIBRATION_BATCH = 8  # images

Array = npt.NDArray[Any]


def build_int8(fp32: Built, calibration: Dataset | None, directory: Path) -> Path:
    """Write the INT8 variant of *fp32* into *directory* and put it through the gate, parity aside.

    Raises:
        UsageError: There is no calibration data.
        ExportError: The graph cannot be quantized, or did not pass.
    """
    if calibration is None:
        raise UsageError("precision int8 needs real images: give --calibration URI")
    tensor = fp32.session.image
    fixed = tensor.shape[0]
    size = fixed if isinstance(fixed, int) else CALIBRATION_BATCH
    path = directory / f"model.{INT8}.onnx"
    total = min(len(calibration), CALIBRATION_IMAGES)
    with progress(total, "calibrating", "images") as bar:

        def counted() -> Iterator[Array]:
            for batch in calibration_batches(calibration, fp32.preprocessor, size):
                bar.advance(len(batch))
                yield batch

        quantize_int8(fp32.path, path, counted())
    session = check_graph(path, fp32.custom_ops)
    if session.inputs != fp32.session.inputs:
        raise ExportError(f"{path.name} takes {session.inputs}; the fp32 variant takes {fp32.session.inputs}")
    return path


@dataclass(frozen=True, slots=True)
class Precision:
    """How a precision is built from the fp32 variant, and which execution providers it is meant for."""

    build: Callable[[Built, Dataset | None, Path], Path]
    providers: tuple[str, ...]


BUILDERS: Mapping[str, Precision] = {
    # Unsigned activations are what CPUs want; GPUs and NPUs want signed ones, in a variant of their own.
    INT8: Precision(build_int8, ("CPUExecutionProvider",)),
}


def check_precisions(wanted: tuple[str, ...]) -> None:
    """See that every precision in *wanted* can be built.

    Raises:
        UsageError: One cannot.
    """
    known = (FP32, *BUILDERS)
    if unknown := [precision for precision in wanted if precision not in known]:
        raise UsageError(f"precision {', '.join(unknown)} cannot be built; expected out of {', '.join(known)}")
    if FP32 not in wanted:
        raise UsageError(f"precision {', '.join(wanted)} needs {FP32} beside it: the others are judged by it")


def variant_of(path: Path, session: Session, precision: str, tolerance: float, metrics: Mapping[str, float]) -> Variant:
    """Return the manifest's entry for the ONNX file *path*, on which *session* is."""
    model = onnx.load(path, load_external_data=False)
    return Variant(
        **Variant.measure(path),
        id=precision,
        precision=precision,
        opset=opset_of(model),
        ir=model.ir_version,
        inputs=session.inputs,
        outputs=session.outputs,
        providers=BUILDERS[precision].providers if precision in BUILDERS else ("*",),
        tolerance=tolerance,
        metrics=dict(metrics),
    )
