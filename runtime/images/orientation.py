"""The EXIF orientation: found, and applied.

Rules:
    * Values other than 1 to 8 are no orientation: the picture is upright as it is.
    * Damaged metadata costs the orientation, not the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from runtime.images.base import Pixels

__all__ = ["orientation_of", "upright"]

TAG = 0x0112  # EXIF 2.3, table 4

TURNS: Mapping[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def orientation_of(image: Image.Image) -> int:
    """Return what *image* says in EXIF, or else in XMP, about its orientation; 1 if that is nothing usable."""
    try:
        value = Image.Image.getexif(image).get(TAG)  # a PNG's own `getexif` would decode the pixels first
    except Exception:  # noqa: BLE001 - metadata is as hostile as the rest
        return 1
    return value if isinstance(value, int) else 1


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return *pixels* (H, W, 3), turned as the EXIF *orientation* asks; contiguous."""
    return np.ascontiguousarray(TURNS.get(orientation, np.asarray)(pixels))
