"""Features of a picture, for models that do not look at pixels: histograms of oriented gradients.

Rules:
    * The numbers are those of scikit-image's ``skimage.feature.hog`` on one channel, to 1e-5: gradients are
      differences of the two neighbours and 0 along the border, a pixel votes with its magnitude for the one bin
      that its angle lies in, a cell is the mean of its pixels' votes, and blocks of cells overlap.
    * Everything is computed in float64, so that pixels of whole numbers give angles that are exact at a bin's edge.
    * What is left of a picture beside its last whole cell does not count.

Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", 2005.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from runtime.manifest import Hog

__all__ = ["hog"]

EPSILON = 1e-5  # of the norms: scikit-image's
CLIPPED = 0.2  # of L2-Hys: Lowe's, as in the paper
HALF_TURN = 180.0  # degrees

Values = npt.NDArray[np.float64]


def _l1(blocks: Values) -> Values:
    normalized: Values = blocks / (np.abs(blocks).sum(axis=-1, keepdims=True) + EPSILON)
    return normalized


def _l2(blocks: Values) -> Values:
    normalized: Values = blocks / np.sqrt(np.square(blocks).sum(axis=-1, keepdims=True) + EPSILON**2)
    return normalized


# From blocks, (..., numbers of one block), to normalized ones.
NORMS: Mapping[str, Callable[[Values], Values]] = {
    "L1": _l1,
    "L1-sqrt": lambda blocks: np.sqrt(_l1(blocks)),
    "L2": _l2,
    "L2-Hys": lambda blocks: _l2(np.minimum(_l2(blocks), CLIPPED)),
}


def hog(plane: npt.NDArray[np.generic], spec: Hog) -> npt.NDArray[np.float32]:
    """Return the histograms of oriented gradients of *plane*.

    Args:
        plane: Real numbers, (H, W), one channel; not negative where ``transform_sqrt`` is asked for.
        spec: The descriptor's parameters.

    Returns:
        float32, (``spec.length(H, W)``,): by block row, block column, cell row, cell column and orientation.

    Raises:
        ValueError: The picture is too small for one block.
    """
    block_rows, block_columns = spec.blocks(*plane.shape)
    pixels = plane.astype(np.float64)
    if spec.transform_sqrt:
        pixels = np.sqrt(pixels)
    histograms = _histograms(pixels, spec)
    blocks = np.lib.stride_tricks.sliding_window_view(histograms, spec.cells_per_block, axis=(0, 1))
    flat = blocks.transpose(0, 1, 3, 4, 2).reshape(block_rows, block_columns, -1)
    return NORMS[spec.block_norm](flat).astype(np.float32).ravel()


def _histograms(pixels: Values, spec: Hog) -> Values:
    """Return the mean votes of every cell, (rows, columns, orientations)."""
    rows, columns = spec.cells(*pixels.shape)
    cell_height, cell_width = spec.pixels_per_cell
    down, right = np.zeros_like(pixels), np.zeros_like(pixels)
    down[1:-1] = pixels[2:] - pixels[:-2]
    right[:, 1:-1] = pixels[:, 2:] - pixels[:, :-2]
    down, right = (part[: rows * cell_height, : columns * cell_width] for part in (down, right))
    angles = np.rad2deg(np.arctan2(down, right)) % HALF_TURN
    bins = np.searchsorted(HALF_TURN / spec.orientations * np.arange(1, spec.orientations), angles, side="right")
    cells = np.arange(rows).repeat(cell_height)[:, None] * columns + np.arange(columns).repeat(cell_width)
    votes = np.bincount(
        (cells * spec.orientations + bins).ravel(),
        weights=np.hypot(right, down).ravel(),
        minlength=rows * columns * spec.orientations,
    )
    means: Values = votes.reshape(rows, columns, spec.orientations) / (cell_height * cell_width)
    return means
