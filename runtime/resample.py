"""Scaling pictures: of the scaled picture only the part that the model gets.

Rules:
    * Antialiased means Pillow's bits, exactly: a convolution over the rows, rounded to 8 bits, and one over the
      columns of that (libImaging/Resample.c). Rows that no kept row is made of are left out of the first pass,
      columns that are not kept out of the second; both passes are still given the sizes of the whole picture,
      hence the same coefficients (docs/adr/0003-resize-whole-then-crop.md).
    * Pillow 12.2 and later take the columns first where height shrinks much more than width (python-pillow
      #9524, #9549), and then the bits differ. Where that is conceivable, Pillow does the whole in one call.
    * Not antialiased means OpenCV's bits: two by two neighbours for bilinear, whatever the scale.
    * A picture that would have more than `MAX_PIXELS` pixels once scaled is refused before it is scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.errors import ImageError
from runtime.images import MAX_PIXELS
from runtime.manifest import Resize

__all__ = ["Window", "resample"]

Pixels = npt.NDArray[np.uint8]

ROWS_FIRST = 1.5  # rows that go a column that goes, up to which every Pillow convolves the rows first (13.0: 2.0)
MAX_BETWEEN = 50_000_000  # pixels that `_in_two_passes` may hold between them; Pillow's crop refuses 178,956,970


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of Pillow's; *support* is how far it reaches at scale 1, in pixels."""

    code: Image.Resampling
    support: float


NEAREST = Image.Resampling.NEAREST  # takes single pixels, in one pass
CONVOLUTIONS: Mapping[str, Filter] = {
    "bilinear": Filter(Image.Resampling.BILINEAR, 1.0),
    "bicubic": Filter(Image.Resampling.BICUBIC, 2.0),
    "lanczos": Filter(Image.Resampling.LANCZOS, 3.0),
}
PLAIN: Mapping[str, int] = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, picture: Pixels) -> Pixels:
        """Return that part of *picture* (H, W, 3), as a view."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


def resample(image: Pixels, resize: Resize, size: tuple[int, int], kept: Window) -> Pixels:
    """Scale *image*, and return what is kept of it.

    Args:
        image: uint8, (H, W, 3).
        resize: ``interpolation`` and ``antialias`` are used.
        size: (height, width) of the whole picture once scaled.
        kept: The part of the scaled picture to return.

    Returns:
        uint8, (kept.height, kept.width, 3).

    Raises:
        ImageError: ``too_large``: *size* has more pixels than the limit.
    """
    height, width = size
    if height * width > MAX_PIXELS:
        found = f"{image.shape[1]}x{image.shape[0]}"
        raise ImageError("too_large", f"{found} would be resized to {width}x{height} pixels; the limit is {MAX_PIXELS}")
    if (height, width) == image.shape[:2]:
        return kept.of(image)
    if not resize.antialias:
        return kept.of(
            np.asarray(cv2.resize(image, (width, height), interpolation=PLAIN[resize.interpolation]), np.uint8)
        )
    convolution = CONVOLUTIONS.get(resize.interpolation)
    if convolution is not None and _pays_off(image, size, kept):
        return _in_two_passes(image, convolution, size, kept)
    code = NEAREST if convolution is None else convolution.code
    return kept.of(np.asarray(Image.fromarray(image).resize((width, height), code)))


def _pays_off(image: Pixels, size: tuple[int, int], kept: Window) -> bool:
    """Return whether less than the whole is kept, and `_in_two_passes` gives Pillow's own bits."""
    (source_height, source_width), (height, width) = image.shape[:2], size
    return (
        (kept.height, kept.width) != size
        and width < source_width
        and source_height - height <= ROWS_FIRST * (source_width - width)
        and source_height * kept.width <= MAX_BETWEEN
    )


def _in_two_passes(image: Pixels, convolution: Filter, size: tuple[int, int], kept: Window) -> Pixels:
    """Return *kept* of what Pillow makes of *image* at *size*: the same bits for less work."""
    source_height, (height, width) = image.shape[0], size
    scale = source_height / height
    reach = convolution.support * max(scale, 1.0) + 1.0  # with a row to spare
    first = max(0, int((kept.top + 0.5) * scale - reach))
    last = min(source_height, int((kept.top + kept.height - 0.5) * scale + reach) + 1)
    rows = Image.fromarray(image[first:last]).resize((width, last - first), convolution.code)
    columns = rows.crop((kept.left, -first, kept.left + kept.width, source_height - first))  # black where left out
    scaled = columns.resize((kept.width, height), convolution.code)
    return np.asarray(scaled)[kept.top : kept.top + kept.height]
