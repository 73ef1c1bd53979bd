"""Embedding: one image to a vector of length 1.

Rules:
    * The vectors are the output that the manifest names, or the first floating one of shape (N, D), up to trailing
      dimensions of 1.
    * A vector is divided by its Euclidean length, reckoned in float64; a vector of zeros stays one: there is no
      direction that it could point in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.manifest import Manifest
from runtime.tasks.base import Head, Outputs
from runtime.tasks.outputs import find_output
from runtime.tasks.results import Embedding

__all__ = ["HEADS", "cosine", "decode_embedding"]


def decode_embedding(outputs: Outputs, sizes: Sequence[tuple[int, int]], manifest: Manifest) -> list[Embedding]:
    """Return one `Embedding` an image.

    Args:
        outputs: Of the graph; the vectors are (N, D, 1...).
        sizes: (height, width) of the N images; only their number matters here.
        manifest: ``postprocess.outputs`` may name the output.

    Raises:
        ModelError: No output fits.
    """

    def fits(output: npt.NDArray[Any]) -> bool:
        shaped = output.ndim >= 2 and len(output) == len(sizes) and output.size == np.prod(output.shape[:2])
        return shaped and np.issubdtype(output.dtype, np.floating)

    _, raw = find_output(outputs, manifest, "embedding", fits, f"floating ({len(sizes)}, dimensions)")
    vectors = raw.reshape(raw.shape[:2]).astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    normalized = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return [Embedding(embedding=vector) for vector in normalized.astype(np.float32)]


def cosine(one: Embedding, other: Embedding) -> float:
    """Return the cosine similarity of two images, -1 to 1; 0 if one of them has no direction."""
    return float(np.clip(np.dot(one.embedding.astype(np.float64), other.embedding.astype(np.float64)), -1, 1))


HEADS: Mapping[str, Head] = {
    "embedding": Head(
        task="embedding",
        result=Embedding,
        decode=decode_embedding,
        what="embedding (N, dimensions)",
    ),
}
