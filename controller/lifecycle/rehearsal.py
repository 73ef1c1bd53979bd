"""One run of a source on a few pictures, before anything is built: what recognition looks at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.errors import ExportError
from controller.lifecycle.feature_input import FeatureInput
from controller.lifecycle.gate.diagnosis import Evidence as Symptoms
from controller.lifecycle.gate.diagnosis import explained
from controller.lifecycle.graph import ImageInput, output_operator
from controller.lifecycle.heads import Evidence, Facts, Seen
from controller.lifecycle.importers import ImportedModel
from controller.lifecycle.variants.golden import golden_input
from runtime.errors import ModelError
from runtime.manifest import Preprocess
from runtime.preprocess import Preprocessor

__all__ = ["rehearse"]

# What can stand between the last operator and an output without changing what the numbers mean.
TRANSPARENT = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "QuantizeLinear", "DequantizeLinear", "Transpose")
PICTURES = 2  # of a graph that takes any number: one alone would not show which dimension counts them


def rehearse(
    imported: ImportedModel,
    found: ImageInput | FeatureInput,
    preprocess: Preprocess,
    pictures: Iterable[npt.NDArray[np.uint8]],
    facts: Facts,
) -> Evidence:
    """Run *pictures* through the source.

    Args:
        imported: The source.
        found: Its input of pictures, or of their features.
        preprocess: Complete: every picture ends with the same size.
        pictures: The first of these are used; if there are too few, they are used again.
        facts: What the source says of itself.

    Raises:
        ExportError: It does not run.
        UsageError: There is no usable picture.
    """
    batch = golden_input(found.tensor, Preprocessor(preprocess, found.tensor), pictures, PICTURES)
    count = len(batch)
    height, width = _size(batch, found, preprocess)
    try:
        outputs = imported.reference(batch)
    except (ModelError, ExportError) as error:
        ran = (1,) if count > 1 and not isinstance(found.batch, int) and _runs(imported, batch[:1]) else ()
        evidence = Symptoms(error=str(error), graph=imported.graph, ran=ran, failed=(count,))
        raise ExportError(explained(f"the source does not run a batch of {count}: {error}", evidence)) from None
    names = [value.name for value in imported.graph.graph.output]
    return Evidence(
        batch=count,
        height=height,
        width=width,
        outputs=tuple(_seen(imported, name, values) for name, values in zip(names, outputs, strict=True)),
        facts=facts,
        classes=len(facts.labels) if facts.labels is not None else None,
        producer=imported.framework,
    )


def _size(batch: npt.NDArray[Any], found: ImageInput | FeatureInput, preprocess: Preprocess) -> tuple[int, int]:
    """Return the (height, width) of the pictures in *batch*, or of those that its features are of."""
    if isinstance(found, FeatureInput):
        return preprocess.size or (0, 0)
    channels_first = found.layout == "NCHW" and not preprocess.embedded
    height, width = batch.shape[2:4] if channels_first else batch.shape[1:3]
    return height, width


def _runs(imported: ImportedModel, batch: npt.NDArray[Any]) -> bool:
    try:
        imported.reference(batch)
    except (ModelError, ExportError):
        return False
    return True


def _seen(imported: ImportedModel, name: str, values: npt.NDArray[Any]) -> Seen:
    return Seen(name=name, values=values, operator=output_operator(imported.graph, TRANSPARENT, name))
