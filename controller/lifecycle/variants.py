"""Building the variants of a model: a table from precision to the function that builds it.

Rules:
    * The model as it came, mostly in fp32, is the reference: every other variant is made from its file, and judged
      beside it. A source in fp16 or int8 is published as what it is, and nothing is made from it.
    * A graph of uint8 pixels that normalizes itself is what is wanted; where the normalization cannot
      be put into the graph, the manifest says ``embedded: false`` and the predictor normalizes.
    * What was embedded is compared with NumPy's normalization, and what comes after it with the source, fed with the
      very same numbers: a detector that sorts its rows inside the graph would answer two inputs that differ by
      the last bit in two orders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from controller.errors import ExportError
from controller.lifecycle.calibrate import CALIBRATION_IMAGES, calibration_batches
from controller.lifecycle.gate import check_behaviour, check_graph, gate_batches
from controller.lifecycle.golden import SYNTHETIC_SIZE
from controller.lifecycle.graph import (
    ImageInput,
    embed_normalization,
    embedded_part,
    find_image_input,
    opset_of,
    precision_of,
)
from controller.lifecycle.importers import ImportedModel
from controller.lifecycle.quantize import quantize_int8
from runtime.datasets import Dataset
from runtime.errors import UsageError
from runtime.manifest import CustomOps, Preprocess, Variant
from runtime.preprocess import Preprocessor, normalize
from runtime.session import Session
from runtime.terminal import progress

__all__ = [
    "BUILDERS",
    "FP32",
    "Built",
    "Precision",
    "build_int8",
    "build_reference",
    "can_embed",
    "check_precisions",
    "variant_of",
]

FP32, INT8 = "fp32", "int8"
CALIBRATION_BATCH = 8  # images
ROUNDING: Mapping[str, float] = {"float32": 1e-5, "float16": 2e-3}
"""By type of the input: what the embedded normalization may differ from NumPy's in float32, relative to the largest."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The variant that the model came as, and what it takes.

    Attributes:
        precision: In which it computes: ``fp32``, ``fp16`` or ``int8``; also its id.
        path: Of the file.
        session: On it.
        preprocess: As the manifest will say it.
        parity: Largest absolute difference from the source.
        custom_ops: Libraries of operators that it needs.
    """

    precision: str
    path: Path
    session: Session
    preprocess: Preprocess
    parity: float
    custom_ops: tuple[CustomOps, ...] = ()

    @property
    def preprocessor(self) -> Preprocessor:
        """Brings a picture to the graph's input."""
        return Preprocessor(self.preprocess, self.session.image)

    @property
    def has_fixed_batch(self) -> bool:
        """Whether the graph takes one number of pictures only."""
        return isinstance(self.session.image.shape[0], int)


def build_reference(imported: ImportedModel, preprocess: Preprocess, directory: Path) -> Built:
    """Write *imported* as the reference variant into *directory* and put it through the gate.

    Args:
        imported: The model as it came.
        preprocess: Complete; ``embedded`` if the graph as it came takes uint8 pixels and normalizes itself.
        directory: Where to.

    Raises:
        ExportError: It did not pass.
    """
    precision = precision_of(imported.graph)
    path = directory / f"model.{precision}.onnx"
    found = find_image_input(imported.graph)
    embeds = not preprocess.embedded and can_embed(found, preprocess)
    graph = embed_normalization(imported.graph, preprocess) if embeds else imported.graph
    onnx.save(graph, path)
    session = check_graph(path, imported.custom_ops)
    ours = preprocess.model_copy(update={"embedded": True, "layout": None}) if embeds else preprocess
    batches = [_noise(Preprocessor(ours, session.image), count) for count in gate_batches(session.image)]
    normalizes = (
        _checked_normalization(graph, preprocess, found, path.with_suffix(".part")) if embeds and found else None
    )

    def reference(batch: Array) -> list[Array]:
        return list(imported.reference(batch if normalizes is None else normalizes(batch)))

    parity = check_behaviour(session, batches, reference)
    return Built(
        precision=precision,
        path=path,
        session=session,
        preprocess=ours,
        parity=parity,
        custom_ops=imported.custom_ops,
    )


def can_embed(found: ImageInput | None, preprocess: Preprocess) -> bool:
    """Whether the normalization can be put in front of a graph whose input of pictures is *found*."""
    channels = 1 if preprocess.color == "L" else 3
    return found is not None and found.dtype in ROUNDING and found.channels == channels


def _noise(preprocessor: Preprocessor, count: int) -> Array:
    """Return *count* inputs made from random pictures: any error in any pixel's way shows."""
    generator = np.random.default_rng(count)
    shape = (SYNTHETIC_SIZE, SYNTHETIC_SIZE, 3)
    return np.stack([preprocessor(generator.integers(0, 256, shape, dtype=np.uint8)) for _ in range(count)])


def _checked_normalization(
    graph: onnx.ModelProto, preprocess: Preprocess, found: ImageInput, scratch: Path
) -> Callable[[Array], Array]:
    """Return what runs the normalization inside *graph* alone, and compares it with NumPy's.

    Args:
        graph: Takes uint8 NHWC in RGB.
        preprocess: What it embeds.
        found: The source's input, which the normalization feeds.
        scratch: A file to write and delete.
    """
    onnx.save(embedded_part(graph, found), scratch)
    session = Session(scratch)
    scratch.unlink()

    def normalized(batch: Array) -> Array:
        ours: Array = session.run(batch)[0]
        ordered = batch[..., ::-1] if preprocess.color == "BGR" else batch
        pixels = normalize(ordered, preprocess)
        expected = pixels.transpose(0, 3, 1, 2) if found.layout == "NCHW" else pixels
        difference = float(np.max(np.abs(ours.astype(np.float64) - expected), initial=0.0))
        limit = ROUNDING[found.dtype] * max(1.0, float(np.abs(expected).max()))
        if not difference <= limit:
            raise ExportError(
                f"the embedded normalization differs from NumPy's by {difference:.3g}; at most {limit:.3g} is expected"
            )
        return ours

    return normalized


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
