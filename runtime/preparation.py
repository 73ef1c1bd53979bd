"""From a source to one model input, without a session: what every process that only decodes needs of a model.

Rules:
    * The same decoding and preprocessing wherever a row is inferred: `runtime.predictor` has its own from here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime import images
from runtime.hostmemory import HostMemory
from runtime.inputs import image_input
from runtime.manifest import Manifest, Tensor
from runtime.preprocess import Preprocessor

__all__ = ["Preparation"]


class Preparation:
    """Loads and prepares the pictures of one model.

    Attributes:
        reference: ``NAME@VERSION`` of the model.
        background: RGB that transparent pixels are composed on; models that have one in common can share a picture.
        memory: Where batches are put together.

    Args:
        manifest: Of the model.
        image: Its input of pictures.
        memory: Where batches are put together.

    Raises:
        ModelError: The input takes no pictures that can be prepared; see `Preprocessor`.
    """

    def __init__(self, manifest: Manifest, image: Tensor, memory: HostMemory | None = None) -> None:
        self.reference = manifest.reference
        self.background = manifest.preprocess.background
        self.memory = memory or HostMemory()
        self._preprocessor = Preprocessor(manifest.preprocess, image)
        self._options = images.DecodeOptions(background=manifest.preprocess.background)

    @classmethod
    def of(cls, manifest: Manifest, variant: str) -> Preparation:
        """Return that of the inputs that the manifest declares for *variant*.

        Raises:
            ModelError: As above.
            ModelNotFoundError: There is no such variant.
        """
        return cls(manifest, image_input(manifest.variant(variant).inputs))

    def load(
        self, source: bytes | Path | npt.NDArray[np.uint8], *, allow_truncated: bool = False, decoder: str = "cpu"
    ) -> images.Decoded:
        """Return the picture that *source* holds; see `runtime.predictor.Predictor.load`."""
        return images.read(source, replace(self._options, allow_truncated=allow_truncated, decoder=decoder))

    def prepare(
        self, image: npt.NDArray[np.uint8], out: npt.NDArray[np.generic] | None = None
    ) -> npt.NDArray[np.generic]:
        """Return the model input, without batch dimension, for *image* (H, W, 3) uint8 RGB; see `Preprocessor`."""
        return self._preprocessor(image, out)

    def empty_batch(self, rows: int, like: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return room for *rows* model inputs of the shape and type of *like*."""
        return self.memory.empty((rows, *like.shape), like.dtype)
