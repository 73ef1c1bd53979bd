"""Vision tasks: from a model's outputs to predictions, by one table of decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from runtime.errors import ModelError
from runtime.manifest import Manifest
from runtime.tasks.classification import Classification, LabelScore, decode_classification

__all__ = ["DECODERS", "Classification", "LabelScore", "Prediction", "decoder_for"]

Prediction = Classification
"""What a model says about one image; a union once there are more tasks."""

Decoder = Callable[[Sequence[npt.NDArray[Any]], Sequence[tuple[int, int]], Manifest], list[Prediction]]
"""(outputs, (height, width) of the upright originals, manifest) -> one prediction an image."""

DECODERS: Mapping[str, Decoder] = {"classification": decode_classification}


def decoder_for(manifest: Manifest) -> Decoder:
    """Return the decoder that *manifest* names.

    Raises:
        ModelError: This version of Vedette has none of that name.
    """
    kind = manifest.postprocess.kind
    if kind not in DECODERS:
        raise ModelError(f"{manifest.reference}: postprocess kind {kind!r} is not one of {', '.join(DECODERS)}")
    return DECODERS[kind]
