"""COCO's outlines as pixels: polygons and run lengths, by pycocotools.

Rules:
    * An outline is a list of polygons (x, y, x, y, ...), or run lengths, compressed or as a list of counts.
    * Pixels are those of the upright original that the outline was drawn on.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import DatasetError
from runtime.tasks import Instances

__all__ = ["canvas_of", "mask_rle", "outline_mask", "outline_rle"]


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


def canvas_of(outlines: Iterable[Any] | None, found: Instances) -> tuple[int, int]:
    """Return the size (height, width) to compare *outlines* and the masks *found* on, where the picture's is not known.

    It is that of the run lengths, if there are some; otherwise the least that holds everything: beyond it all is empty.

    Raises:
        DatasetError: Run lengths are of a smaller picture than an answer.
    """
    given = list(outlines or ())
    sizes = {(int(one["size"][0]), int(one["size"][1])) for one in given if isinstance(one, Mapping)}
    edges = [np.asarray(part, np.float64).reshape(-1, 2).max(axis=0) for one in given for part in _polygons(one)]
    edges += [np.array([one.left + one.mask.shape[1], one.top + one.mask.shape[0]]) for one in found.instances]
    width, height = (int(np.ceil(edge)) for edge in np.max(edges, axis=0)) if edges else (1, 1)
    if not sizes:
        return max(height, 1), max(width, 1)
    size = sizes.pop()
    if sizes or height > size[0] or width > size[1]:
        other = f"{sizes.pop()[::-1]}" if sizes else f"({width}, {height})"
        raise DatasetError(
            f"run lengths are of a picture of {size[::-1]} (width, height); another one reaches to {other}"
        )
    return size


def _polygons(outline: Any) -> Sequence[Any]:
    return () if isinstance(outline, Mapping) else outline
