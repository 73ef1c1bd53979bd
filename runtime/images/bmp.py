"""BMP: whole rows, or nothing.

Rules:
    * Uncompressed pixels must all be in the file.
    * Run-length coded pixels must not end before their decoder is done: Pillow leaves the rest black.
"""

from __future__ import annotations

import io
import struct

from PIL.BmpImagePlugin import BmpImageFile

from runtime.errors import ImageError
from runtime.images.base import DecodeOptions, Encoded, Raster, read_header
from runtime.images.color import from_pillow
from runtime.images.opencv import with_opencv

__all__ = ["open_bmp", "with_opencv_if_plain", "with_pillow"]

PLAIN = frozenset({("BGR", 24), ("L", 8), ("P", 8)})  # Pillow's raw modes, bits a pixel
CORE_HEADER = 12  # bytes of the oldest header, whose fields lie elsewhere


class _Watched(io.BytesIO):
    """Bytes that remember whether more of them was asked for than there is."""

    exhausted = False

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.exhausted |= size is not None and len(found) < size
        return found


def open_bmp(data: bytes, options: DecodeOptions) -> Encoded:
    """Read the header of the BMP *data*.

    Raises:
        ImageError: It is too large, or pixels are missing.
    """
    image = read_header(BmpImageFile, data, options)
    codec, _, offset, arguments = image.tile[0]
    if codec == "raw" and isinstance(arguments, tuple):
        _, stride, _ = arguments
        if (missing := offset + stride * image.height - len(data)) > 0:
            raise ImageError("truncated", f"BMP: {missing} bytes of pixels are missing")
    return Encoded(data=data, image=image, options=options)


def with_opencv_if_plain(encoded: Encoded) -> Raster | None:
    """Return what OpenCV makes of an uncompressed picture of 8 or 24 bits; ``None`` if it is none."""
    codec, _, _, arguments = encoded.image.tile[0]
    if codec != "raw" or not isinstance(arguments, tuple):
        return None
    bits = struct.unpack_from("<H", encoded.data, 24 if encoded.data[14] == CORE_HEADER else 28)[0]
    return with_opencv(encoded) if (arguments[0], bits) in PLAIN else None


def with_pillow(encoded: Encoded) -> Raster:
    """Return what Pillow makes of it.

    Raises:
        ImageError: ``truncated``: the pixels end early.
        Exception: Whatever Pillow raises for broken data; see `base.explained`.
    """
    watched = _Watched(encoded.data)
    with BmpImageFile(watched) as image:
        pixels = from_pillow(image, encoded.options)
    if watched.exhausted:
        raise ImageError("truncated", "BMP: the run-length coded pixels end early")
    return Raster(pixels)
