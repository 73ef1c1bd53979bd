"""The variant that a model came as: written, gated, and compared with its source.

Rules:
    * The model as it came, mostly in fp32, is the reference: every other variant is made from its file, and judged
      beside it (`controller.lifecycle.variants.kinds`). A source in fp16 or int8 is published as what it is, and
      nothing is made from it.
    * A graph of uint8 pixels that normalizes itself is what is wanted; where the normalization cannot
      be put into the graph, the manifest says ``embedded: false`` and the predictor normalizes.
    * What was embedded is compared with NumPy's normalization, and what comes after it with the source, fed with the
      very same numbers: a detector that sorts its rows inside the graph would answer two inputs that differ by
      the last bit in two orders.
    * The graph is optimized before it goes through the gate (`controller.lifecycle.optimize.portable`). Where what
      comes of that does not pass, the graph goes as it was, so that a diagnosis is of what the source gave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from controller.errors import ExportError
from controller.lifecycle.gate.checks import check_behaviour, check_graph, gate_batches
from controller.lifecycle.gate.oldest import OldestRuntime
from controller.lifecycle.graph import ImageInput, find_image_input, precision_of, with_paddings_apart
from controller.lifecycle.importers import ImportedModel
from controller.lifecycle.optimize.portable import Optimized, optimize_graph
from controller.lifecycle.pixel_input import embed_normalization, embedded_part
from controller.lifecycle.variants.golden import SYNTHETIC_SIZE
from runtime.errors import VedetteError
from runtime.manifest import CustomOps, Preprocess
from runtime.preprocess import Preprocessor, normalize
from runtime.session import Session

__all__ = ["FP32", "Built", "build_reference", "can_embed"]

FP32 = "fp32"
PATCHES = 8  # of colour, along each edge of a random picture
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
        notes: What the gate has to say of it.
    """

    precision: str
    path: Path
    session: Session
    preprocess: Preprocess
    parity: float
    custom_ops: tuple[CustomOps, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def preprocessor(self) -> Preprocessor:
        """Brings a picture to the graph's input."""
        return Preprocessor(self.preprocess, self.session.image)

    @property
    def has_fixed_batch(self) -> bool:
        """Whether the graph takes one number of pictures only."""
        return isinstance(self.session.image.shape[0], int)


def build_reference(
    imported: ImportedModel,
    preprocess: Preprocess,
    directory: Path,
    oldest: OldestRuntime | None = None,
    *,
    optimize: bool = True,
) -> Built:
    """Write *imported* as the reference variant into *directory* and put it through the gate.

    Args:
        imported: The model as it came.
        preprocess: Complete; ``embedded`` if the graph as it came takes uint8 pixels and normalizes itself.
        directory: Where to.
        oldest: The oldest ONNX Runtime that must run it, if it is at hand.
        optimize: Make the graph smaller first, where that changes no answer.

    Raises:
        ExportError: It did not pass.
    """
    found = find_image_input(imported.graph)
    embeds = not preprocess.embedded and can_embed(found, preprocess)
    apart = with_paddings_apart(imported.graph)
    graph = embed_normalization(apart, preprocess) if embeds else apart
    ours = preprocess.model_copy(update={"embedded": True, "layout": None}) if embeds else preprocess
    path = directory / f"model.{precision_of(imported.graph)}.onnx"
    normalizes = (
        _checked_normalization(graph, preprocess, found, path.with_suffix(".part")) if embeds and found else None
    )
    optimized = _optimized(graph, ours, imported.custom_ops) if optimize else None
    if optimized is not None and optimized.model is not graph:
        try:
            built = _gated(imported, optimized.model, ours, normalizes, path, oldest)
            return replace(built, notes=(*built.notes, *optimized.notes))
        except ExportError as error:
            left_out: tuple[str, ...] = (f"the optimized graph was left out: {error}",)
    else:
        left_out = optimized.notes if optimized is not None else ()
    built = _gated(imported, graph, ours, normalizes, path, oldest)
    return replace(built, notes=(*built.notes, *left_out))


def _optimized(graph: onnx.ModelProto, preprocess: Preprocess, custom_ops: Sequence[CustomOps]) -> Optimized | None:
    """Return *graph* optimized; ``None`` if it does not even run: the gate says why."""
    try:
        return optimize_graph(graph, lambda session: _batches(session, preprocess), custom_ops)
    except VedetteError:
        return None


def _batches(session: Session, preprocess: Preprocess) -> list[Array]:
    preprocessor = Preprocessor(preprocess, session.image)
    return [_noise(preprocessor, count) for count in gate_batches(session.image)]


def _gated(
    imported: ImportedModel,
    graph: onnx.ModelProto,
    preprocess: Preprocess,
    normalizes: Callable[[Array], Array] | None,
    path: Path,
    oldest: OldestRuntime | None,
) -> Built:
    """Write *graph*, which *imported* became, to *path*, and put it through the gate.

    Args:
        imported: The model as it came.
        graph: What is to be published.
        preprocess: As the manifest will say it.
        normalizes: What brings a batch to what *imported* takes; ``None``: it takes what *graph* takes.
        path: Where to.
        oldest: The oldest ONNX Runtime that must run it, if it is at hand.

    Raises:
        ExportError: It did not pass.
    """
    onnx.save(graph, path)
    session = check_graph(path, imported.custom_ops, oldest)

    def taken(batch: Array) -> Array:
        return batch if normalizes is None else normalizes(batch)

    inner = imported.values
    behaviour = check_behaviour(
        session,
        _batches(session, preprocess),
        lambda batch: imported.reference(taken(batch)),
        path=path,
        custom_ops=imported.custom_ops,
        values=None if inner is None else lambda batch: inner(taken(batch)),
        compares_labels=imported.compares_labels,
        oldest=oldest,
    )
    return Built(
        precision=precision_of(imported.graph),
        path=path,
        session=session,
        preprocess=preprocess,
        parity=behaviour.parity,
        custom_ops=imported.custom_ops,
        notes=behaviour.notes,
    )


def can_embed(found: ImageInput | None, preprocess: Preprocess) -> bool:
    """Whether the normalization can be put in front of a graph whose input of pictures is *found*."""
    channels = 1 if preprocess.color == "L" else 3
    return found is not None and found.dtype in ROUNDING and found.channels == channels


def _noise(preprocessor: Preprocessor, count: int) -> Array:
    """Return *count* inputs made from random pictures: any error in any pixel's way shows.

    They are patches of colour under noise: noise alone is the same grey in every picture once it is made smaller.
    """
    generator = np.random.default_rng(count)
    return np.stack([preprocessor(_random_picture(generator)) for _ in range(count)])


def _random_picture(generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    patches = generator.integers(0, 256, (PATCHES, PATCHES, 3))
    edge = SYNTHETIC_SIZE // PATCHES
    noise = generator.integers(0, 256, (SYNTHETIC_SIZE, SYNTHETIC_SIZE, 3))
    mixed: npt.NDArray[np.uint8] = ((patches.repeat(edge, 0).repeat(edge, 1) + noise) // 2).astype(np.uint8)
    return mixed


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
