"""What the parts of this package say to each other: options, an opened file, pixels.

Rules:
    * Whatever a codec raises becomes an `ImageError` here, by one table.
    * A header is read by Pillow, and its size checked, before anything is decoded.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile

from runtime.errors import ImageError, ImageReason

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "DecodeOptions",
    "Decoded",
    "Encoded",
    "Pixels",
    "Raster",
    "Reader",
    "check_size",
    "explained",
    "read_header",
]

Pixels = npt.NDArray[np.uint8]
Reader = TypeVar("Reader", bound=ImageFile)

MAX_PIXELS = 100_000_000
MAX_BYTES = 1 << 30  # of a file

UNSUPPORTED = re.compile("cannot handle|unsupported|not supported|unknown pixel mode", re.IGNORECASE)
TOO_LARGE = re.compile("too large|too much memory|decompression bomb", re.IGNORECASE)
ANY = re.compile("")

# What an exception of a codec means: the first row that fits. Hostile bytes make them raise anything.
REASONS: Sequence[tuple[type[Exception], re.Pattern[str], ImageReason]] = (
    (Exception, UNSUPPORTED, "unsupported"),
    (Exception, TOO_LARGE, "too_large"),
    (Image.DecompressionBombError, ANY, "too_large"),
    (MemoryError, ANY, "too_large"),
    (NotImplementedError, ANY, "unsupported"),
    (KeyError, ANY, "unsupported"),
    (Exception, ANY, "truncated"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """How pictures are read.

    Attributes:
        max_pixels: Largest width times height that is decoded.
        background: RGB grey levels that transparent pixels are composed on.
        allow_truncated: Take what is there of a JPEG or a PNG that ends early or is damaged.
        decoder: Key of `runtime.images.ACCELERATED`, which is asked first; ``cpu``: none of them.
    """

    max_pixels: int = MAX_PIXELS
    background: tuple[int, int, int] = (255, 255, 255)
    allow_truncated: bool = False
    decoder: str = "cpu"


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A picture, and how it was read.

    Attributes:
        pixels: uint8, (H, W, 3), RGB, upright, contiguous.
        decoder: What decoded it: ``simplejpeg``, ``opencv``, ``pillow``, ``nvimagecodec``, or ``pixels`` for what was
            an array.
        truncated: It ended early, or was damaged; what was missing is filled.
    """

    pixels: Pixels
    decoder: str
    truncated: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """A file whose header was read and accepted; its pixels are to be decoded, once.

    Attributes:
        data: The file, perhaps rewritten by its format's module so that every decoder reads it alike.
        image: Pillow's reading of the header of *data*; not loaded.
        options: How it is to be decoded.
        orientation: EXIF orientation that is still to be applied; anything but 2 to 8 is upright.
        key: Sample values, one a channel and in the depth of the samples, of the transparent colour.
        rows: How many rows *data* has of a picture that ends early; ``None``: all.
    """

    data: bytes
    image: ImageFile
    options: DecodeOptions
    orientation: int = 1
    key: tuple[int, ...] | None = None
    rows: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, as stored: before the orientation is applied."""
        return self.image.height, self.image.width


@dataclass(frozen=True, slots=True, eq=False)
class Raster:
    """What a decoder made of an `Encoded`.

    Attributes:
        pixels: uint8, (H, W, 3), RGB, as stored: the orientation is not applied.
        truncated: Something was missing, and was filled.
    """

    pixels: Pixels
    truncated: bool = False


def explained(error: Exception) -> ImageError:
    """Return what a codec's *error* means."""
    text = " ".join(str(error).split()) or type(error).__name__
    reason = next(reason for kind, said, reason in REASONS if isinstance(error, kind) and said.search(text))
    return ImageError(reason, text)


def check_size(width: int, height: int, options: DecodeOptions) -> None:
    """Raise unless a picture of *width* times *height* pixels may be decoded.

    Raises:
        ImageError: ``too_large``, above the limit; ``truncated``, no pixel at all.
    """
    if width * height > options.max_pixels:
        raise ImageError("too_large", f"{width}x{height} pixels; the limit is {options.max_pixels}")
    if width < 1 or height < 1:
        raise ImageError("truncated", f"the header says {width}x{height} pixels")


def read_header(reader: type[Reader], data: bytes, options: DecodeOptions) -> Reader:
    """Return Pillow's image of *data*, not loaded, its size checked.

    Args:
        reader: Pillow's class for the format. Not `Image.open`: that has a limit on pixels of its
            own, which is global, smaller than ours, and only a warning.
        data: The file.
        options: With the limit.

    Raises:
        ImageError: The size is not acceptable.
        Exception: Whatever Pillow raises for a broken header; see `explained`.
    """
    image = reader(io.BytesIO(data))
    check_size(image.width, image.height, options)
    return image
