"""OpenCV, for what it decodes exactly as Pillow does, and faster.

Rules:
    * It decides nothing: no orientation, no conversion of 16 bits, no dropping of alpha. It is asked for
      the samples as they are stored, and `color` makes RGB of them.
    * It sees only files that were checked to the end before, so that it has nothing to print on stderr.
    * What it declines goes to the next decoder.
"""

from __future__ import annotations

import cv2
import numpy as np

from runtime.images.base import Encoded, Raster
from runtime.images.color import from_opencv

__all__ = ["with_opencv"]

MAX_EDGE = 1 << 20  # CV_IO_MAX_IMAGE_WIDTH and _HEIGHT, by default


def with_opencv(encoded: Encoded, data: bytes | None = None) -> Raster | None:
    """Return what OpenCV makes of it, or of *data* in its place; ``None`` if it declines."""
    if max(encoded.size) > MAX_EDGE:
        return None
    try:
        samples = cv2.imdecode(np.frombuffer(encoded.data if data is None else data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if samples is None or samples.shape[:2] != encoded.size:
        return None
    return Raster(from_opencv(samples, encoded.options, encoded.key))
