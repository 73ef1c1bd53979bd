"""COCO's outlines as pixels: polygons and run lengths, by pycocotools.

Rules:
    * An outline is a list of polygons (x, y, x, y, ...), or run lengths, compressed or as a list of counts.
    * Pixels are those of the upright original that the outline was drawn on.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import DatasetError

__all__ = ["mask_rle", "outline_mask", "outline_rle"]


def outline_rle(outline: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Return *outline* as compressed run lengths over an image of *size* (height, width).

    Raises:
        DatasetError: It is no outline.
    """
    from pycocotools import mask

    height, width = size
    try:
        if isinstance(outline, dict) and isinstance(outline["counts"], list):
            return dict(mask.frPyObjects(outline, height, width))
        if isinstance(outline, dict):
            return {"size": outline["size"], "counts": _bytes(outline["counts"])}
        return dict(mask.merge(mask.frPyObjects([list(map(float, part)) for part in outline], height, width)))
    except Exception as error:  # noqa: BLE001 - pycocotools raises whatever its C code meets, bare Exception too
        found = f"{str(outline)[:80]} ({error})"
        raise DatasetError(f"an outline is no list of polygons and no run lengths: {found}") from None


def _bytes(counts: str | bytes) -> bytes:
    return counts.encode() if isinstance(counts, str) else counts


def outline_mask(outline: Any, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return which pixels of an image of *size* (height, width) lie in *outline*, (height, width); raises the same."""
    from pycocotools import mask

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its __array__ is that of NumPy 1
        decoded = mask.decode(outline_rle(outline, size))
    if decoded.shape != size:
        raise DatasetError(f"an outline is of a picture of {decoded.shape} (height, width), not of {size}")
    return np.asarray(decoded, np.bool_)


def mask_rle(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return *mask*, (H, W), as compressed run lengths."""
    from pycocotools import mask as coder

    return dict(coder.encode(np.asfortranarray(mask, np.uint8)))
